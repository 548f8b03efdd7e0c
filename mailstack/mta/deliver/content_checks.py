"""smtp_header_checks, smtp_mime_header_checks, smtp_nested_header_checks, smtp_body_checks, and LMTP's.

They see a message while it is sent, so that each host's copy can be another; what they can do is change it
(PREPEND, REPLACE, STRIP, IGNORE) or speak in the log (INFO, WARN): `ID: replace: header TEXT: NEW`. Other
actions are warned of and do nothing. Standards: header_checks(5), smtp(8).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from mailstack.mta.address_maps import OpenTable, Table
from mailstack.mta.cleanup.checks import Checks, Inspector, Origin
from mailstack.mta.deliver.names import Names
from mailstack.mta.lookup import SlowTable
from mailstack.net.log import Log
from mailstack.wire.mime.scan import Piece

_SHOWN = 60
"""Characters of the matched text in a log line."""
_KNOWN = frozenset(("DUNNO", "IGNORE", "INFO", "OK", "PREPEND", "REPLACE", "STRIP", "WARN"))
_NOWHERE = Origin("", "", "")


class _Rules:
    """The tables of one parameter; what they find is an action that is known here, or nothing."""

    __slots__ = ("_log", "_tables", "name")

    def __init__(self, name: str, tables: Sequence[Table], log: Log) -> None:
        self.name = name
        self._tables = tables
        self._log = log

    def find(self, text: str) -> str | None:
        for table in self._tables:
            value = table.lookup(text)
            if value is not None:
                if value.partition(" ")[0].upper() in _KNOWN:
                    return value
                self._log.warning(f"unsupported command in {self.name} map: {value}")
                return None
        return None


class OutgoingChecks(Checks):
    """What one client looks for in what it sends."""

    __slots__ = ("log",)

    def __init__(self, names: Names, open_table: OpenTable, log: Log) -> None:
        def rules(what: str) -> _Rules | None:
            opened = names.tables(what, open_table)
            for table in opened:
                if isinstance(table, SlowTable):
                    raise names.error(what, f"{table.name}: content is not checked by a server")
            return _Rules(names.full(what), opened, log) if opened else None

        conf = names.conf
        header, mime, nested = (
            rules("header_checks"),
            rules("mime_header_checks"),
            rules("nested_header_checks"),
        )
        # Each list is for its own headers only: nothing is inherited from smtp_header_checks.
        self.by_piece = {Piece.PRIMARY: header, Piece.MULTIPART: mime, Piece.NESTED: nested}  # type: ignore[dict-item]
        self.body = rules("body_checks")  # type: ignore[assignment]
        self.body_limit = conf.size("body_checks_size_limit")
        self.eight_headers = self.eight_body = self.domain = False
        self.line_limit = conf.int("line_length_limit")
        self.header_limit = conf.size("header_size_limit")
        self.nesting_limit = conf.int("mime_nesting_limit")
        self.boundary_limit = conf.int("mime_boundary_length_limit")
        self.understand = True
        self.bad_characters = self.stripped_characters = b""
        self.log = log

    def changes(self, queue_id: str) -> Callable[[Iterable[bytes]], Iterator[bytes]]:
        """What makes of the parts of a message what is sent."""

        def change(parts: Iterable[bytes]) -> Iterator[bytes]:
            inspector = _Inspector(self, queue_id, _NOWHERE, self.log)
            for part in parts:
                yield inspector.body(part)
            yield inspector.finish()

        return change


class _Inspector(Inspector):
    """Speaks as smtp(8) does."""

    __slots__ = ()

    def _say(self, word: str, match: object, text: str) -> None:
        shown = match.text[:_SHOWN].replace("\n", "?")  # type: ignore[attr-defined]
        line = f"{self._queue_id}: {word}: {match.context} {shown}"  # type: ignore[attr-defined]
        self._log.info(f"{line}: {text}" if text else line)
