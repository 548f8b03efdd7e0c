"""What is checked of a message under one configuration: the tables of header_checks and its kin, limits.

`Checks.load` gives None where main.cf asks for nothing of this. Standards: header_checks(5).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Self

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import OpenTable, Table
from mailstack.mta.lookup import SlowTable
from mailstack.wire.mime.scan import Piece


class Rules:
    """The tables of one parameter."""

    __slots__ = ("name", "tables")

    def __init__(self, name: str, tables: Sequence[Table]) -> None:
        self.name = name
        self.tables = tables

    def find(self, text: str) -> str | None:
        for table in self.tables:
            value = table.lookup(text)
            if value is not None:
                return value
        return None


def open_tables(conf: MainCf, parameter: str, words: Sequence[str], open_table: OpenTable) -> list[Table]:
    """The tables of a parameter. Raises `ConfigError` for those that have to be waited for, `TableError`.

    Content is looked at line by line as it comes: at each of them a session would have to wait.
    """
    opened = [open_table(word) for word in words]
    for word, table in zip(words, opened, strict=True):
        if isinstance(table, SlowTable):
            raise conf.error(parameter, f"{word}: content is not checked by a server")
    return opened


class Checks:
    """What is checked under one configuration."""

    __slots__ = (
        "bad_characters",
        "body",
        "body_limit",
        "boundary_limit",
        "by_piece",
        "domain",
        "eight_body",
        "eight_headers",
        "header_limit",
        "line_limit",
        "nesting_limit",
        "stripped_characters",
        "understand",
    )

    def __init__(self, conf: MainCf, open_table: OpenTable, *, tables: bool) -> None:
        def rules(name: str, words: list[str]) -> Rules | None:
            opened = open_tables(conf, name, words, open_table) if tables else []
            return Rules(name, opened) if opened else None

        names = conf.list("header_checks")
        self.by_piece = {
            Piece.PRIMARY: rules("header_checks", names),
            Piece.MULTIPART: rules("mime_header_checks", conf.list("mime_header_checks")),
            Piece.NESTED: rules("nested_header_checks", conf.list("nested_header_checks")),
        }
        self.body = rules("body_checks", conf.list("body_checks"))
        self.body_limit = conf.size("body_checks_size_limit")
        self.understand = not conf.bool("disable_mime_input_processing")
        strict = conf.bool("strict_8bitmime")
        self.eight_headers = self.understand and (strict or conf.bool("strict_7bit_headers"))
        self.eight_body = self.understand and (strict or conf.bool("strict_8bitmime_body"))
        self.domain = self.understand and conf.bool("strict_mime_encoding_domain")
        self.line_limit = conf.int("line_length_limit")
        """Octets; a longer line is looked at in parts of that length, as in Postfix."""
        self.header_limit = conf.size("header_size_limit")
        self.nesting_limit = conf.int("mime_nesting_limit")
        self.boundary_limit = conf.int("mime_boundary_length_limit")
        self.bad_characters = _characters(conf, "message_reject_characters")
        self.stripped_characters = _characters(conf, "message_strip_characters")

    def __bool__(self) -> bool:
        return bool(
            any(self.by_piece.values())
            or self.body
            or self.eight_headers
            or self.eight_body
            or self.domain
            or self.bad_characters
            or self.stripped_characters
        )

    @classmethod
    def load(cls, conf: MainCf, open_table: OpenTable, *, tables: bool = True) -> Self | None:
        """None where nothing is checked; without `tables` those are left out (no_header_body_checks).

        Raises `ConfigError` and `TableError`.
        """
        found = cls(conf, open_table, tables=tables)
        return found if found else None


def _characters(conf: MainCf, name: str) -> bytes:
    r"""The octets that a parameter names, C escapes (`\0`, `\177`, `\r`) understood. Raises `ConfigError`."""
    text = conf.str(name).strip()
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]

    def octet(found: re.Match[str]) -> str:
        if found[1]:
            return chr(int(found[1], 8) & 255)
        return _ESCAPES.get(found[2], found[2])

    if text.endswith("\\") and not text.endswith("\\\\"):
        raise conf.error(name, f"a backslash at the end: {text}")
    return _ESCAPE.sub(octet, text).encode("latin-1", "replace")


_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|(.))", re.DOTALL)
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
