"""POP3 (RFC 1939): the INBOX as a drop of messages, one session at a time."""

from mailstack.mailbox.pop3.service import Pop3Service, Pop3Settings
from mailstack.mailbox.pop3.session import Pop3Session

__all__ = ["Pop3Service", "Pop3Session", "Pop3Settings"]
