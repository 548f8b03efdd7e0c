"""SMTP and LMTP engines for both ends, without I/O.

`ServerConnection` and `ClientConnection` are the engines, `events` what the server's engine reports, `Reply`
what both ends exchange. RFC 5321, 2033 (LMTP), 1870 (SIZE), 6152 (8BITMIME), 6531 (SMTPUTF8), 2920
(PIPELINING), 2034 (enhanced codes), 3207 (STARTTLS), 4954 (AUTH), 1985 (ETRN).
"""

from mailstack.wire.smtp.address import AddressError, parse_path, quote, split_address, valid_hostname
from mailstack.wire.smtp.client import ClientConnection, RemoteError, Response
from mailstack.wire.smtp.events import NEED_DATA, Closed
from mailstack.wire.smtp.reply import Reply, parse_reply
from mailstack.wire.smtp.server import Limits, LocalError, ServerConnection
from mailstack.wire.smtp.states import ClientState, Mode, State

__all__ = [
    "NEED_DATA",
    "AddressError",
    "ClientConnection",
    "ClientState",
    "Closed",
    "Limits",
    "LocalError",
    "Mode",
    "RemoteError",
    "Reply",
    "Response",
    "ServerConnection",
    "State",
    "parse_path",
    "parse_reply",
    "quote",
    "split_address",
    "valid_hostname",
]
