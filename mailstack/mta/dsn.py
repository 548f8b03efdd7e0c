"""What RET, ENVID, NOTIFY and ORCPT (RFC 3461) become of while a message is rewritten and forwarded.

As Postfix does it (RFC 3461 §5.2.7.2 (b)): what virtual aliases or aliases(5) put in place of an address gets
its parameters without SUCCESS, and the sender a report that the address was expanded. A mailing list, an
alias with an owner, is a delivery of its own: reported as delivered, and the members' reports go to the
owner.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mailstack.storage.queue import Envelope, Recipient
from mailstack.wire.smtp import quote
from mailstack.wire.smtp.command import RcptParameters

REPLACED = "dsn_expanded"
"""Envelope attribute: recipients with NOTIFY=SUCCESS that virtual aliases have replaced, a line each: the
address, a tab, its ORCPT (`type;address`)."""


def without_success(notify: str) -> str:
    """What is left to ask for once success has been reported."""
    if not notify:
        return ""
    return ",".join(word for word in notify.split(",") if word != "SUCCESS") or "NEVER"


def original_recipient(orcpt: str, given: str) -> str:
    """ORCPT, or what it is when the client gave none: the address as it was given (RFC 3461 §4.2)."""
    return orcpt or f"{'rfc822' if given.isascii() else 'utf-8'};{quote(given)}"


def replaced(address: str, given: str, asked: RcptParameters) -> str:
    """A line of `REPLACED`."""
    return f"{address}\t{original_recipient(asked.orcpt, given)}"


def forwarded(
    envelope: Envelope, address: str, recipients: tuple[Recipient, ...], *, owned: bool
) -> tuple[Recipient, ...]:
    """The recipients that `address`, one of the envelope's, is forwarded to, with what they inherit."""
    for recipient in envelope.recipients:
        if (recipient.notify or recipient.orcpt) and recipient.address == address:
            notify = without_success(recipient.notify)
            orcpt = "" if owned else recipient.orcpt
            return tuple(replace(one, notify=notify, orcpt=orcpt) for one in recipients)
    return recipients


def forwarded_attributes(attributes: Mapping[str, str]) -> dict[str, str]:
    """The attributes that go with a forwarded message: not what was to be told of the first one."""
    return {name: value for name, value in attributes.items() if name != REPLACED}
