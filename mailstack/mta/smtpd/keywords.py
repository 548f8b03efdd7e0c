"""What main.cf makes of the protocol's words: EHLO keywords that are hidden, commands that are changed,
ignored or not borne (smtpd_discard_ehlo_keyword_address_maps, smtpd_command_filter, smtpd_noop_commands,
smtpd_forbidden_commands).

Raises `ConfigError` for tables that would have to be waited for in the midst of a command.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import DomainList, OpenTable, Table
from mailstack.mta.lookup import SlowTable
from mailstack.storage.tables import TableError

if TYPE_CHECKING:
    from mailstack.wire.smtp import ServerConnection

KEYWORDS = frozenset(
    ("pipelining", "size", "vrfy", "etrn", "starttls", "auth", "enhancedstatuscodes", "8bitmime", "smtputf8",
     "dsn", "chunking", "verp", "xclient", "xforward", "silent-discard")
)  # fmt: skip
"""What may be hidden; `silent-discard` hides nothing, and keeps Postfix from logging that something is."""
_HEADER_LIKE = re.compile(r"[!-9;-~]+:")


def keywords(words: Iterable[str]) -> frozenset[str]:
    """EHLO keywords as they are compared."""
    return frozenset(word.lower() for word in words)


class KeywordMaps:
    """smtpd_discard_ehlo_keyword_address_maps."""

    __slots__ = ("_tables",)

    def __init__(self, tables: Sequence[Table]) -> None:
        self._tables = tables

    @classmethod
    def load(cls, conf: MainCf, open_table: OpenTable) -> Self | None:
        """None where there are none. Raises `TableError`."""
        names = conf.list("smtpd_discard_ehlo_keyword_address_maps")
        return cls([open_table(name) for name in names]) if names else None

    def find(self, address: str) -> frozenset[str] | None:
        """What a client is not told of; None: no table knows it. Raises what a table raises."""
        for table in self._tables:
            value = table.lookup(address)
            if value is not None:
                return keywords(value.replace(",", " ").split())
        return None


@dataclass(frozen=True, slots=True)
class Oddities:
    """Commands that are not what they seem."""

    ignored: frozenset[str]
    """smtpd_noop_commands, in upper case."""
    foreign: Callable[[str], bool] | None
    """smtpd_forbidden_commands: whether a line that is no command ends the session; None: as by default."""
    filter: Table | None
    """smtpd_command_filter."""

    @classmethod
    def load(cls, conf: MainCf, open_table: OpenTable) -> Self | None:
        """None where main.cf has nothing of this. Raises `ConfigError`, `TableError`."""
        ignored = conf.list("smtpd_noop_commands")
        for word in ignored:
            if ":" in word or "/" in word or "!" in word:
                raise conf.error("smtpd_noop_commands", f"{word}: commands by their names only")
        name = conf.str("smtpd_command_filter").strip()
        table = open_table(name) if name else None
        if isinstance(table, SlowTable):
            raise conf.error("smtpd_command_filter", f"{name}: a command waits for no server")
        foreign = None
        if conf.is_set("smtpd_forbidden_commands"):
            foreign = _forbidden(DomainList(conf.list("smtpd_forbidden_commands"), _ready(conf, open_table)))
        if not ignored and foreign is None and table is None:
            return None
        return cls(frozenset(word.upper() for word in ignored), foreign, table)

    def apply(self, engine: ServerConnection, tell: Callable[[str], None]) -> None:
        """Have a connection do so; `tell` takes what is to be logged of the client."""
        engine.ignore(self.ignored)
        if self.foreign is not None:
            engine.foreign = self.foreign
        table = self.filter
        if table is None:
            return

        def rewrite(line: str) -> str:
            line = line.lstrip(" \t")
            found = table.lookup(line)
            if found is None:
                return line
            tell(f'replacing client command "{line}" with "{found}"')
            return found

        engine.rewrite = rewrite


def _ready(conf: MainCf, open_table: OpenTable) -> OpenTable:
    """`open_table` that refuses what would have to be waited for."""

    def opened(name: str) -> Table:
        table = open_table(name)
        if isinstance(table, SlowTable):
            raise conf.error("smtpd_forbidden_commands", f"{name}: a command waits for no server")
        return table

    return opened


def _forbidden(words: DomainList) -> Callable[[str], bool]:
    def foreign(line: str) -> bool:
        if _HEADER_LIKE.match(line):
            return True
        try:
            return words.match(line.split(None, 1)[0].lower())
        except (OSError, TableError):
            return False  # as in Postfix: not worth a session

    return foreign
