"""What a statement of named.conf has for a value: a word, a string, a number, a duration, a choice.

All raise `ConfigError` with the statement's file and line.
"""

from __future__ import annotations

import re
from typing import Final

from mailstack.config.named.syntax import Block, Statement, Word

_TTL = re.compile(r"(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?\Z", re.IGNORECASE)
_UNITS: Final = (604_800, 86_400, 3_600, 60, 1)
TRUE: Final = ("yes", "true", "1")
FALSE: Final = ("no", "false", "0")
BOOLEANS: Final = TRUE + FALSE


def shown(statement: Statement) -> str:
    first = statement.items[0]
    return first.text if isinstance(first, Word) else "{"


def one_block(statement: Statement) -> Block:
    match statement.items[1:]:
        case (Block() as block,):
            return block
        case (Word(text="port" | "transport"), *_) if statement.keyword == "allow-transfer":
            raise statement.error("allow-transfer by port or transport is not supported")
    raise statement.error(f"'{statement.keyword}' takes a {{ block }}")


def one_word(statement: Statement) -> Word:
    items = statement.items
    if len(items) != 2 or not isinstance(items[1], Word):
        raise statement.error(f"'{statement.keyword}' takes one value")
    return items[1]


def one_text(statement: Statement) -> str:
    return one_word(statement).text


def string(statement: Statement) -> str:
    word = one_word(statement)
    if not word.quoted or not word.text:
        raise statement.error(f"'{statement.keyword}' takes a string in quotes")
    return word.text


def boolean(statement: Statement) -> bool:
    return choice(statement, BOOLEANS) in TRUE


def choice(statement: Statement, choices: tuple[str, ...]) -> str:
    word = one_word(statement)
    text = word.text.lower()
    if text not in choices or word.quoted:
        raise statement.error(f"'{statement.keyword}' takes one of {', '.join(choices)}, not '{text}'")
    return text


def integer(statement: Statement, *, low: int = 0, high: int = 0xFFFFFFFF) -> int:
    return to_number(statement, one_word(statement), low, high)


def to_number(statement: Statement, word: Word, low: int, high: int) -> int:
    if not (word.text.isascii() and word.text.isdecimal()) or not low <= int(word.text) <= high:
        raise statement.error(f"'{word.text}' is not a number from {low} to {high}")
    return int(word.text)


def duration(statement: Statement) -> int:
    """Seconds of `3600`, `1h30m` or `PT1H`."""
    text = one_text(statement)
    if text.isascii() and text.isdecimal() and len(text) < 11:
        return int(text)
    plain = text[1:].upper().replace("T", "") if text[:1] in ("P", "p") else text
    match = _TTL.match(plain)
    if not plain or match is None:
        raise statement.error(f"'{text}' is not a duration")
    return sum(int(value or 0) * unit for value, unit in zip(match.groups(), _UNITS, strict=True))
