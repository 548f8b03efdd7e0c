"""The saslauthd protocol on a unix socket: how Cyrus SASL (`pwcheck_method: saslauthd`) asks.

One connection is one question. The client's address is not part of it.
"""

from __future__ import annotations

from mailstack.mailbox.auth.authenticator import Authenticator
from mailstack.mailbox.auth.outcome import Client, Refused
from mailstack.net.log import Log
from mailstack.net.stream import Stream
from mailstack.wire.sasl import Credentials
from mailstack.wire.saslauthd import SaslauthdError, decode_request, encode_reply

TIMEOUT = 30.0


async def serve_saslauthd(stream: Stream, authenticator: Authenticator, log: Log) -> None:
    """Read one request, answer it."""
    received = b""
    try:
        while (request := decode_request(received)) is None:
            data = await stream.read(TIMEOUT)
            if not data:
                return
            received += data
    except SaslauthdError as error:
        log.warning(f"auth: saslauthd client: {error}")
        stream.write(encode_reply(False, "malformed request"))
        return
    except (OSError, TimeoutError):
        return
    if not request.login or not request.password:
        stream.write(encode_reply(False))
        return
    outcome = await authenticator.check(
        Credentials("", request.user, request.password), Client(request.service or "saslauthd")
    )
    stream.write(encode_reply(not isinstance(outcome, Refused)))
