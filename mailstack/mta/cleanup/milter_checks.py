"""milter_header_checks: the headers that milters add or change, before the tables of header_checks(5).

Logs `ID: milter-header-ACTION: header TEXT from NAME[ADDRESS]; from=<…> …: REASON`. PREPEND is not done, with
Postfix's warning.
"""

from __future__ import annotations

from typing import Self

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import OpenTable
from mailstack.mta.cleanup.check_rules import Checks, Rules, open_tables
from mailstack.mta.cleanup.checks import Inspector, Origin, _Match
from mailstack.net.log import Log

_LOGGED = 60


class MilterChecks:
    """The tables, and what an inspector needs beside them."""

    __slots__ = ("checks", "rules")

    def __init__(self, checks: Checks, rules: Rules) -> None:
        self.checks = checks
        self.rules = rules

    @classmethod
    def load(cls, conf: MainCf, open_table: OpenTable) -> Self | None:
        """None where there are none. Raises `ConfigError` and `TableError`."""
        names = conf.list("milter_header_checks")
        if not names:
            return None
        rules = Rules("milter_header_checks", open_tables(conf, "milter_header_checks", names, open_table))
        return cls(Checks(conf, open_table, tables=False), rules)


class MilterInspector(Inspector):
    """What one message's new headers are put before."""

    __slots__ = ("_rules",)

    def __init__(self, checks: MilterChecks, queue_id: str, origin: Origin, log: Log) -> None:
        super().__init__(checks.checks, queue_id, origin, log)
        self._rules = checks.rules

    def check(self, header: bytes) -> bytes:
        """What a header (CRLF at its end) becomes; nothing where it is to be left out.

        Raises what a table raises.
        """
        if not self._on:
            return header
        return self._act(self._rules, "header", header[:-2].replace(b"\r\n", b"\n"))

    def _say(self, word: str, match: _Match, text: str) -> None:
        shown = match.text[:_LOGGED].replace("\n", "?").encode("utf-8", "replace").decode()
        line = f"{self._queue_id}: milter-header-{word}: header {shown} {self._origin.words()}"
        self._log.info(f"{line}: {text}" if text else line)

    def _text(self, word: str, match: _Match) -> bytes:
        if word == "PREPEND":
            self._say("prepend", match, match.argument)
            self._warn("the milter_header/body_checks prepend action is not implemented")
            return b""
        return super()._text(word, match)
