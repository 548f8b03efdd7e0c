"""Who exists: recipients that no table knows are refused at RCPT TO, not bounced later.

The tables are those of the recipient's address class (LOCAL_RECIPIENT_README, ADDRESS_CLASS_README); an empty
list of tables means that every recipient of the class is taken.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import AddressMaps, OpenTable
from mailstack.mta.rewrite import AddressClass, Rewriter
from mailstack.mta.smtpd.verdicts import fitting_dsn
from mailstack.storage.tables import look_again
from mailstack.wire.smtp.address import split_address

_DSN = re.compile(r"([45]\.\d{1,3}\.\d{1,3})\s+")


@dataclass(frozen=True, slots=True)
class Unlisted:
    """Why an address does not exist: reply code, enhanced code, Postfix's words."""

    code: int
    enhanced: str
    text: str
    in_tables: bool = False
    """No table has it; otherwise its route says so."""

    @property
    def sender_enhanced(self) -> str:
        """The enhanced code where it is a sender's address."""
        return "5.1.0" if self.in_tables else fitting_dsn(self.enhanced, "Sender address")


class Recipients:
    """The recipient tables of one configuration."""

    def __init__(self, conf: MainCf, rewriter: Rewriter, aliases: AddressMaps, open_table: OpenTable) -> None:
        self._rewriter = rewriter
        canonical = [
            AddressMaps(conf.list(name), open_table, delimiters=rewriter.delimiters, is_local=rewriter.is_own)
            for name in ("recipient_canonical_maps", "canonical_maps")
            if conf.list(name)
        ]
        self._rewritten = [maps for maps in (*canonical, aliases) if maps]
        """Tables that make another address of one: what they name exists."""
        table_name = conf.bool("show_user_unknown_table_name")
        self._always = frozenset(
            name.lower().partition("@")[0]
            for name in ("postmaster", conf.str("empty_address_recipient"), conf.str("double_bounce_sender"))
        )
        """Local names that mail systems must have (RFC 5321 §4.5.1) or that we use ourselves."""
        self._maps: dict[AddressClass, AddressMaps] = {}
        self._unknown: dict[AddressClass, Unlisted] = {}
        for kind, maps, code, words in _CLASSES:
            if maps:
                self._maps[kind] = AddressMaps(
                    conf.list(maps),
                    open_table,
                    delimiters=rewriter.delimiters,
                    is_local=rewriter.is_local,
                )
            text = f"User unknown in {words} table" if table_name else "User unknown"
            self._unknown[kind] = Unlisted(conf.int(code), "5.1.1", text, kind is not AddressClass.ALIAS)

    def unlisted(self, address: str, sender: str | None = None) -> Unlisted | None:
        """Why nobody can get mail at a completed address; None: somebody may. Raises what a table raises.

        `sender` (completed) is whom the mail is from, for routes that depend on it. Nobody is refused by a
        table that has changed in the meantime.
        """
        why = self._unlisted(address, sender)
        return self._unlisted(address, sender) if why is not None and look_again() else why

    def _unlisted(self, address: str, sender: str | None) -> Unlisted | None:
        resolution = self._rewriter.resolve(address, sender)
        kind = resolution.address_class
        for rewritten in self._rewritten:
            if rewritten.find(resolution.recipient) is not None:
                return None
        if resolution.transport == "error" and resolution.nexthop != self._rewriter.no_alias:
            given = _DSN.match(resolution.nexthop)
            if given is not None:
                return Unlisted(550, f"5{given[1][1:]}", resolution.nexthop[given.end() :])
            return Unlisted(550, "5.1.1", resolution.nexthop, in_tables=True)
        if kind is AddressClass.ALIAS:
            return self._unknown[kind]
        maps = self._maps.get(kind)
        if kind is AddressClass.LOCAL and split_address(resolution.recipient)[0].lower() in self._always:
            return None
        if not maps or maps.find(resolution.recipient) is not None:
            return None
        return self._unknown[kind]


_CLASSES = (
    (
        AddressClass.LOCAL,
        "local_recipient_maps",
        "unknown_local_recipient_reject_code",
        "local recipient",
    ),
    (
        AddressClass.VIRTUAL,
        "virtual_mailbox_maps",
        "unknown_virtual_mailbox_reject_code",
        "virtual mailbox",
    ),
    (
        AddressClass.RELAY,
        "relay_recipient_maps",
        "unknown_relay_recipient_reject_code",
        "relay recipient",
    ),
    (
        AddressClass.ALIAS,
        "",
        "unknown_virtual_alias_reject_code",
        "virtual alias",
    ),
)
