"""master.cf as postconf(1) prints it: whole lines (-M), their fields (-F), their `-o` settings (-P)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mailstack.config.errors import ConfigError
from mailstack.config.postfix.lines import logical_lines, read_text, words

COLUMNS = (0, 11, 17, 25, 33, 41, 49, 57)
"""Where the fields of a master.cf line go."""
FIELDS = ("service", "type", "private", "unprivileged", "chroot", "wakeup", "process_limit", "command")
WIDTH, INDENT = 80, "    "
Entry = list[str]
"""The words of a line: eight fields, then arguments; `-o name=value` is two of them."""


def read_services(path: Path, *, missing_ok: bool = False) -> list[Entry]:
    """master.cf's lines. Raises `ConfigError`."""
    if missing_ok and not path.exists():
        return []
    entries: dict[tuple[str, str], Entry] = {}
    for line, logical in logical_lines(read_text(path), path):
        entry = words(logical, " \t\r\n")
        if len(entry) < len(FIELDS):
            raise ConfigError(path, line, f"missing {FIELDS[len(entry)]!r} field: {logical.strip()[:60]!r}")
        entries[entry[0], entry[1]] = entry[:8] + _arguments(entry[8:])
    return list(entries.values())


def _arguments(arguments: Sequence[str]) -> list[str]:
    found: list[str] = []
    options = True
    for word in arguments:
        word = _braced(word) if found and found[-1] == "-o" else word
        if options and word.startswith("-o") and len(word) > 2:
            found += ["-o", word[2:]]
            continue
        options = options and (word.startswith("-") or (bool(found) and found[-1] == "-o"))
        found.append(word)
    return found


def _braced(word: str) -> str:
    """`{ name = value }` as `{name=value}`."""
    if not (word.startswith("{") and word.endswith("}")):
        return word
    name, equals, value = word[1:-1].partition("=")
    return f"{{{name.strip()}{equals}{value.strip()}}}"


def overrides(entry: Entry) -> list[tuple[str, str]]:
    """The `-o name=value` of a line."""
    found = []
    for index in range(8, len(entry) - 1):
        if entry[index] == "-o":
            word = entry[index + 1]
            name, _, value = (word[1:-1] if word.startswith("{") else word).partition("=")
            found.append((name.strip(), value.strip()))
    return found


def fold(parts: Sequence[str], folded: bool) -> str:
    """Words with one space between; `folded`: lines shorter than `WIDTH`, later ones indented."""
    if not folded:
        return " ".join(parts)
    text = ""
    length = 0
    for part in parts:
        if length and length + len(part) >= WIDTH:
            text += "\n" + INDENT
            length = len(INDENT)
        elif length:
            text += " "
            length += 1
        text += part
        length += len(part)
    return text


def parts(entry: Entry, flags: set[str], expand: Callable[[str], str] | None) -> Iterable[tuple[str, str]]:
    """(name to match, text to print) of what a line of master.cf has to show."""
    if "M" in flags:
        yield "", _line(entry, folded="f" in flags)
        return
    if "F" in flags:
        values = [*entry[:7], " ".join(entry[7:])]
        pairs = list(zip(FIELDS, values, strict=True))
    else:
        pairs = sorted(dict(overrides(entry)).items())
        if expand is not None:
            pairs = [(name, expand(name)) for name, _ in pairs]
        pairs = [(name, " ".join(value.split())) for name, value in pairs]
    for name, value in pairs:
        label = f"{entry[0]}/{entry[1]}/{name}"
        if "H" in flags:
            yield name, label
        else:
            yield name, value if "h" in flags else f"{label} = {value}".rstrip(" ")


def _line(entry: Entry, *, folded: bool) -> str:
    text = ""
    for column, word in zip(COLUMNS, entry[:8], strict=True):
        if text:
            text = (text + " ").ljust(column)
        text += word
    if not folded:
        return " ".join([text, *entry[8:]])
    length = len(text)
    options = True
    index = 8
    while index < len(entry):
        part, wrap = entry[index], False
        if options and part == "-o" and index + 1 < len(entry):
            index += 1
            part, wrap = f"-o {entry[index]}", True
        elif options and not part.startswith("-"):
            options = False
        if wrap or length + 1 + len(part) >= WIDTH:
            text += "\n" + INDENT + part
            length = len(INDENT) + len(part)
        else:
            text += " " + part
            length += 1 + len(part)
        if part.startswith("-o ") and options:
            length = WIDTH
        index += 1
    return text
