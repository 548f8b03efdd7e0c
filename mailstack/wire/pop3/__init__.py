"""POP3 (RFC 1939) as a sans-I/O server engine, and message text on its way out."""

from mailstack.wire.pop3.events import (
    NEED_DATA,
    Auth,
    AuthResponse,
    Closed,
    Command,
    Event,
    Refused,
)
from mailstack.wire.pop3.server import LocalError, ServerConnection
from mailstack.wire.pop3.states import State
from mailstack.wire.pop3.text import Stuffer, Top

__all__ = [
    "NEED_DATA",
    "Auth",
    "AuthResponse",
    "Closed",
    "Command",
    "Event",
    "LocalError",
    "Refused",
    "ServerConnection",
    "State",
    "Stuffer",
    "Top",
]
