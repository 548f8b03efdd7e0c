"""The kinds of notification, each with its texts as bounce(5) has them built in.

A postmaster's copy has the recipients' paragraphs only, and comes from `double_bounce_sender`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Template:
    """One kind. `text` names parameters as `$name`, and times as `$delay_warning_time_hours` (also
    `_seconds`, `_minutes`, `_days`, `_weeks`, and of `maximal_queue_lifetime`), until it is expanded."""

    subject: str
    postmaster_subject: str
    text: str
    original: str
    """What the part with the original is called; ` Headers` is added where it is only those."""
    sender_log: str
    postmaster_log: str
    charset: str = "us-ascii"
    author: str = ""
    """The From: header; `""`: the usual one."""
    origin: str = ""
    """The file that it is from."""
    warnings: tuple[str, ...] = ()
    """What the log says each time that the text is used."""


_OPENING = """\
This is the mail system at host $myhostname.

"""
_CLOSING = """\

                   The mail system
"""
_ASSISTANCE = """\

For further assistance, please send mail to postmaster.

If you do so, please include this problem report. You can
delete your own text from the attached returned message.
"""

FAILURE = Template(
    "Undelivered Mail Returned to Sender",
    "Postmaster Copy: Undelivered Mail",
    _OPENING
    + """\
I'm sorry to have to inform you that your message could not
be delivered to one or more recipients. It's attached below.
"""
    + _ASSISTANCE
    + _CLOSING,
    "Undelivered Message",
    "sender non-delivery notification",
    "postmaster non-delivery notification",
)
DELAY = Template(
    "Delayed Mail (still being retried)",
    "Postmaster Warning: Delayed Mail",
    _OPENING
    + """\
####################################################################
# THIS IS A WARNING ONLY.  YOU DO NOT NEED TO RESEND YOUR MESSAGE. #
####################################################################

Your message could not be delivered for more than $delay_warning_time_hours hour(s).
It will be retried until it is $maximal_queue_lifetime_days day(s) old.
"""
    + _ASSISTANCE
    + _CLOSING,
    "Undelivered Message",
    "sender delay notification",
    "postmaster delay notification",
)
SUCCESS = Template(
    "Successful Mail Delivery Report",
    "",
    _OPENING
    + """\
Your message was successfully delivered to the destination(s)
listed below. If the message was delivered to mailbox you will
receive no further notifications. Otherwise you may still receive
notifications of mail delivery errors from other systems.
"""
    + _CLOSING,
    "Message",
    "sender delivery status notification",
    "",
)
VERIFY = Template(
    "Mail Delivery Status Report",
    "",
    _OPENING
    + """\
Enclosed is the mail delivery report that you requested.
"""
    + _CLOSING,
    "Message",
    "sender delivery status notification",
    "",
)
BUILT_IN = {"failure": FAILURE, "delay": DELAY, "success": SUCCESS, "verify": VERIFY}
