"""LMTP (RFC 2033): mail from the MTA into the users' Maildirs, one reply per recipient."""

from mailstack.mailbox.lmtp.session import LmtpService, LmtpSession, LmtpSettings

__all__ = ["LmtpService", "LmtpSession", "LmtpSettings"]
