"""LMTP (RFC 2033): mail from the MTA into the users' Maildirs, one reply per recipient."""

from mailstack.mailbox.lmtp.service import LmtpService, LmtpSettings
from mailstack.mailbox.lmtp.session import LmtpSession

__all__ = ["LmtpService", "LmtpSession", "LmtpSettings"]
