"""Replies that do not depend on anything, in Postfix's words."""

from __future__ import annotations

from mailstack.wire.smtp.reply import Reply

OK = Reply(250, "2.0.0", "Ok")
SENDER_OK = Reply(250, "2.1.0", "Ok")
RECIPIENT_OK = Reply(250, "2.1.5", "Ok")
GO_AHEAD = Reply(354, "", "End data with <CR><LF>.<CR><LF>")
BYE = Reply(221, "2.0.0", "Bye")
READY_FOR_TLS = Reply(220, "2.0.0", "Ready to start TLS")
NO_TLS_NOW = Reply(454, "4.7.0", "TLS not available due to local problem")
TLS_ACTIVE = Reply(554, "5.5.1", "Error: TLS already active")
TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "Error: too many recipients")
NOT_AUTHORISED = Reply(550, "5.7.0", "Error: insufficient authorization")
PIPELINING = Reply(554, "5.5.0", "Error: SMTP protocol synchronization")
AUTHENTICATED = Reply(235, "2.7.0", "Authentication successful")
VRFY_DISABLED = Reply(502, "5.5.1", "VRFY command is disabled")
ETRN_STARTED = Reply(250, "", "Queuing started")
ETRN_FAILED = Reply(458, "", "Unable to queue messages")
