"""Access tables: `check_client_access` and its kin, with the actions of access(5).

Known: OK, DUNNO, REJECT, DEFER, each with an optional text, and a reply code with a text. Any other action is
answered 451, as a configuration error.
"""

from __future__ import annotations

import re

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import Table
from mailstack.mta.smtpd.verdicts import PERMIT, SUBJECT, Check, Client, Phase, Rejection, Verdict, rejection
from mailstack.wire.smtp.address import split_address
from mailstack.wire.smtp.reply import Reply

_PHASE = {
    "client": Phase.CLIENT,
    "helo": Phase.HELO,
    "sender": Phase.SENDER,
    "recipient": Phase.RECIPIENT,
}
WORDS = frozenset(f"check_{what}_access" for what in _PHASE)
_DSN = re.compile(r"([45]\.\d{1,3}\.\d{1,3})\s*")


class AccessTables:
    """Makes checks out of tables."""

    def __init__(self, conf: MainCf) -> None:
        self._reject_code = conf.int("access_map_reject_code")
        self._defer_code = conf.int("access_map_defer_code")

    def check(self, word: str, table: Table) -> Check:
        """The check that `word` (one of `WORDS`) makes with this table."""
        what = word.removeprefix("check_").removesuffix("_access")
        label, _ = SUBJECT[_PHASE[what]]

        def check(client: Client) -> Verdict:
            subject, keys = _keys(what, client)
            for key in keys:
                action = table.lookup(key)
                if action is not None:
                    return self._action(action, subject, label)
            return None

        return check

    def _action(self, action: str, subject: str, label: str) -> Verdict:
        """An access(5) action. Those that change the message are not known and count as an error of ours."""
        head, _, rest = action.strip().partition(" ")
        rest = rest.strip()
        match head.upper():
            case "OK" | "PERMIT":
                return PERMIT
            case "DUNNO":
                return None
            case "REJECT":
                code = self._reject_code
                return rejection(code, "5.7.1", f"<{subject}>: {label} rejected: {rest or 'Access denied'}")
            case "DEFER":
                code = self._defer_code
                return rejection(code, "4.7.1", f"<{subject}>: {label} rejected: {rest or 'Access denied'}")
            case digits if digits.isdecimal() and len(digits) == 3 and digits[0] in "45":
                found = _DSN.match(rest)
                enhanced = found[1] if found else "5.7.1"
                text = rest[found.end() :] if found else rest
                return rejection(
                    int(digits), enhanced, f"<{subject}>: {label} rejected: {text or 'Access denied'}"
                )
            case digits if digits.isdecimal():
                return PERMIT
        return Rejection(Reply(451, "4.3.5", "Server configuration error"))


def _keys(what: str, client: Client) -> tuple[str, list[str]]:
    if what == "client":
        subject = f"{client.client_name}[{client.client_address}]"
        keys = [] if client.client_name == "unknown" else _parents(client.client_name.lower())
        return subject, keys + _address_parents(client.client_address)
    if what == "helo":
        return client.helo, _parents(client.helo.lower())
    address = (client.sender if what == "sender" else client.recipient) or ""
    if not address:
        return "", ["<>"]
    lower = address.lower()
    local, domain = split_address(lower)
    return address, [lower, *_parents(domain), f"{local}@"]


def _parents(domain: str) -> list[str]:
    """The domain and every domain above it (smtpd_access_maps match subdomains)."""
    labels = domain.split(".")
    return [".".join(labels[i:]) for i in range(len(labels))]


def _address_parents(address: str) -> list[str]:
    """`192.0.2.1`, `192.0.2`, `192.0`, `192`; an IPv6 address by its colons."""
    separator = ":" if ":" in address else "."
    parts = address.split(separator)
    return [separator.join(parts[:i]) for i in range(len(parts), 0, -1)]
