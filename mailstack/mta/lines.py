"""Lines of the mail log in Postfix's exact form, so that pflogsumm and fail2ban read them."""

from __future__ import annotations

import re
from collections.abc import Callable

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.deliver.request import Bounced, Deferred, Result, Sent
from mailstack.wire.smtp import quote

_MESSAGE_ID = re.compile(rb"(?:\A|\n)message-id:[ \t\r\n]*([^\r\n]*)", re.IGNORECASE)


def message_id(head: bytes) -> str:
    """The Message-ID: of content that begins with `head`, as cleanup(8) logs it; `<>` where it has none."""
    found = _MESSAGE_ID.search(head.partition(b"\r\n\r\n")[0])
    return found[1].decode("utf-8", "replace").strip() if found is not None else "<>"


def seconds(value: float, digits: int = 2) -> str:
    """A delay as Postfix prints it: two significant digits, at most `digits` of them after the point."""
    if value < 0:
        value = 0.0
    if value >= 9.95:
        return str(round(value))
    text = f"{value:.{min(1 if value >= 0.995 else 2, digits)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


Show = Callable[[str], str]
"""How an address stands in a line."""


def show_addresses(conf: MainCf) -> Show:
    """info_log_address_format: quoted as in SMTP (`external`), or as it is."""
    return quote if conf.str("info_log_address_format") == "external" else str


def delivery(
    queue_id: str,
    result: Result,
    stages: tuple[float, float, float, float],
    digits: int = 2,
    show: Show = quote,
    status: str = "",
) -> str:
    """`ID: to=<…>, relay=…, delay=…, delays=…, dsn=…, status=… (…)`.

    `stages`: seconds before the queue manager, in it, for the connection, and for the transmission. `status`
    stands in place of the outcome's own word.
    """
    target, outcome = result.target, result.outcome
    match outcome:
        case Sent():
            word = "sent"
        case Deferred():
            word = "deferred"
        case Bounced():
            word = "bounced"
    before = f"{queue_id}: to=<{show(target.address)}>, "
    if target.original and target.original != target.address:
        before += f"orig_to=<{show(target.original)}>, "
    uses = f"conn_use={result.uses}, " if result.uses > 1 else ""
    delays = "/".join([seconds(stage, digits) for stage in stages])
    return (
        f"{before}relay={result.relay}, {uses}delay={seconds(sum(stages), digits)}, delays={delays}, "
        f"dsn={outcome.dsn}, status={status or word} ({outcome.text})"
    )
