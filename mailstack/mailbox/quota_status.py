"""Whether there is room for a message, told to Postfix before it is accepted (`service quota-status`).

    -> request=smtpd_access_policy
    -> recipient=zs@mail.test
    -> size=20000
    ->
    <- action=554 5.2.2 Quota exceeded (mailbox for user is full)
    <-

For `check_policy_service` in smtpd_recipient_restrictions. `plugin { quota_status_success
quota_status_nouser quota_status_overquota }` are the actions; what cannot be found out is DUNNO, and the
delivery tells. Many requests may come on one connection; a client that breaks the protocol is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mailstack.mailbox.auth.rows import Unavailable
from mailstack.mailbox.lmtp.session import split_detail
from mailstack.mailbox.quota import OverQuotaError
from mailstack.net.stream import Stream
from mailstack.storage.maildir import tree
from mailstack.storage.maildir.quota import Usage

if TYPE_CHECKING:
    from mailstack.mailbox.service import MailboxService

TIMEOUT = 1000.0
"""Seconds: smtpd_policy_service_max_ttl."""
REQUEST_LIMIT = 1 << 16
DUNNO = "DUNNO"


async def serve_quota_status(stream: Stream, service: MailboxService) -> None:
    """Answer requests until the client goes."""
    buffer = b""
    try:
        while data := await stream.read(TIMEOUT):
            buffer = (buffer + data).replace(b"\r\n", b"\n")
            while buffer[:1] == b"\n" or b"\n\n" in buffer:
                request, _, buffer = (b"\n" + buffer).partition(b"\n\n")
                stream.write(f"action={await _action(_attributes(request), service)}\n\n".encode())
            if len(buffer) > REQUEST_LIMIT:
                return
            await stream.drain(TIMEOUT)
    except (OSError, TimeoutError):
        pass


def _attributes(request: bytes) -> Mapping[str, str]:
    lines = request.decode("utf-8", "replace").split("\n")
    return {name: value for name, equals, value in (line.partition("=") for line in lines) if equals}


async def _action(request: Mapping[str, str], service: MailboxService) -> str:
    state = request.get("protocol_state", "RCPT")
    address = request.get("recipient", "").removeprefix("<").removesuffix(">")
    if not address or state != "RCPT":
        if state != "RCPT":
            service.log.warning(f"quota-status: unexpected state {state[:20]!r}: for recipients only")
        return DUNNO
    plugin = service.config.plugin
    name, _ = split_detail(address, service.config.recipient_delimiter)
    size = request.get("size", "")
    try:
        user = service.lookup(name)
        if user is None:
            return plugin.get("quota_status_nouser") or "REJECT Unknown user"
        root = user.mail_root
        if service.quotas.active and not tree.mbox_of(root):
            octets = min(int(size), 1 << 62) if size.isascii() and size.isdecimal() and len(size) < 20 else 0
            room = await service.quotas.admit(user, tree.main_of(root), Usage(octets, 1), grace=True)
            room.close()
    except OverQuotaError as error:
        return plugin.get("quota_status_overquota") or f"554 5.2.2 {error}"
    except (OSError, Unavailable) as error:
        service.log.error(f"quota-status: {address}: {error}")
        return DUNNO
    return plugin.get("quota_status_success") or "OK"
