"""YAML text to plain values, with the place of every key and value kept.

Scalars follow YAML 1.2's core schema, so `off`, `no` and `2024-01-01` are text and `0o17` is a number. A file
is held to limits that no honest spec comes near: its size, its depth, and the number of values after
aliases are expanded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import yaml

MAX_OCTETS = 1 << 20
MAX_DEPTH = 40
MAX_VALUES = 50_000

Value: TypeAlias = "bool | int | float | str | list[Value] | dict[str, Value] | None"
Path: TypeAlias = "tuple[str | int, ...]"

_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_TRUE = frozenset(("true", "True", "TRUE"))
_FALSE = frozenset(("false", "False", "FALSE"))
_INTEGER = re.compile(r"[-+]?[0-9]{1,40}\Z")
_OCTAL = re.compile(r"0o[0-7]{1,40}\Z")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]{1,40}\Z")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z|[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z"
)
_UNWELCOME = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_STRING_TAG = "tag:yaml.org,2002:str"
_CORE_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("str", "null", "bool", "int", "float", "map", "seq")
)


class YamlError(Exception):
    """The text is not YAML that can be read; line and column count from one."""

    def __init__(self, line: int, column: int, message: str) -> None:
        self.line = line
        self.column = column
        self.message = message
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Mark:
    """Where something stands, from one, and what was written there (scalars only)."""

    line: int
    column: int
    raw: str | None = None


@dataclass(slots=True)
class Document:
    """A file's value and the marks of its parts, by path. `faults` leave the rest readable."""

    value: Value = None
    keys: dict[Path, Mark] = field(default_factory=dict)
    values: dict[Path, Mark] = field(default_factory=dict)
    faults: list[tuple[Path, Mark, str]] = field(default_factory=list)

    def mark(self, path: Path, *, key: bool = False) -> Mark:
        """The nearest mark at or above `path`."""
        for length in range(len(path), -1, -1):
            first, second = (self.keys, self.values) if key else (self.values, self.keys)
            found = first.get(path[:length]) or second.get(path[:length])
            if found is not None:
                return found
        return Mark(1, 1)


@dataclass(slots=True)
class _Node:
    line: int
    column: int
    scalar: str | None = None
    resolve: bool = False
    items: list[_Node] | None = None
    pairs: list[tuple[_Node, _Node]] | None = None
    open: bool = False
    """Still being read: an alias to it would be a loop."""


def parse(text: str) -> Document:
    """Read one document. Raises `YamlError`."""
    if len(text) > MAX_OCTETS:
        raise YamlError(1, 1, "the file is larger than 1 MiB; a spec is a page or two")
    found = _UNWELCOME.search(text)
    if found is not None:
        line = text.count("\n", 0, found.start()) + 1
        column = found.start() - (text.rfind("\n", 0, found.start()) + 1) + 1
        raise YamlError(
            line, column, f"the character U+{ord(found[0]):04X} cannot stand in a YAML file; remove it"
        )
    try:
        root = _compose(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise YamlError(line, column, _explain(error, text, line)) from None
    except (yaml.YAMLError, ValueError) as error:
        raise YamlError(1, 1, f"not readable as YAML: {str(error).splitlines()[0]}") from None
    document = Document()
    if root is not None:
        _Builder(document).build(root, (), 0)
    return document


def _explain(error: yaml.MarkedYAMLError, text: str, line: int) -> str:
    lines = text.splitlines()
    written = lines[line - 1] if line <= len(lines) else ""
    what = f"not readable as YAML: {error.problem or error.context or 'syntax error'}"
    if "\t" in written[: len(written) - len(written.lstrip())]:
        return f"{what}; indent with spaces, not tabs"
    if error.problem and "mapping values" in error.problem:
        return f"{what}; put text that holds ': ' in quotes"
    return f"{what}; check the indentation, quotes and brackets here"


def _events(text: str) -> Iterator[yaml.Event]:
    loader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return iter(yaml.parse(text, Loader=loader))


def _compose(text: str) -> _Node | None:
    """The document as nodes; aliases share the node of their anchor. Not recursive: depth is counted."""
    root: _Node | None = None
    stack: list[tuple[_Node, list[_Node]]] = []
    anchors: dict[str, _Node] = {}
    documents = 0
    for event in _events(text):
        mark = event.start_mark
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise YamlError(line, column, "a second document begins here; a spec is one document")
            continue
        if isinstance(event, yaml.AliasEvent):
            known = anchors.get(event.anchor or "")
            if known is None:
                raise YamlError(
                    line, column, f"the alias *{event.anchor} has no anchor &{event.anchor} before it"
                )
            if known.open:
                raise YamlError(line, column, f"the alias *{event.anchor} stands inside what it stands for")
            node = _Node(line, column, known.scalar, known.resolve, known.items, known.pairs)
        elif isinstance(event, yaml.ScalarEvent):
            _check_tag(event, line, column)
            plain = event.implicit[0] and event.tag is None and not event.style
            node = _Node(
                line, column, event.value, resolve=plain or event.tag not in (None, "!", _STRING_TAG)
            )
        elif isinstance(event, yaml.CollectionStartEvent):
            _check_tag(event, line, column)
            if len(stack) >= MAX_DEPTH:
                raise YamlError(line, column, f"nested more than {MAX_DEPTH} deep; no part of a spec is")
            is_map = isinstance(event, yaml.MappingStartEvent)
            node = _Node(line, column, items=None if is_map else [], pairs=[] if is_map else None, open=True)
        elif isinstance(event, yaml.CollectionEndEvent):
            closed, children = stack.pop()
            closed.open = False
            if closed.pairs is not None:
                closed.pairs.extend(zip(children[::2], children[1::2], strict=True))
            elif closed.items is not None:
                closed.items.extend(children)
            continue
        else:
            continue
        anchor = getattr(event, "anchor", None)
        if anchor is not None and not isinstance(event, yaml.AliasEvent):
            anchors[anchor] = node
        if stack:
            stack[-1][1].append(node)
        else:
            root = node
        if node.open:
            stack.append((node, []))
    return root


def _check_tag(event: yaml.ScalarEvent | yaml.CollectionStartEvent, line: int, column: int) -> None:
    if event.tag not in (None, "!") and event.tag not in _CORE_TAGS:
        raise YamlError(line, column, f"the tag {event.tag!r} means nothing here; leave it out")


class _Builder:
    """Turns nodes into values and writes down the marks."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.count = 0

    def build(self, node: _Node, path: Path, depth: int) -> None:
        """Fill the document from its root."""
        self.document.value = self._value(node, path, depth)

    def _value(self, node: _Node, path: Path, depth: int) -> Value:
        self.count += 1
        if self.count > MAX_VALUES or depth > MAX_DEPTH:
            raise YamlError(
                node.line, node.column, f"aliases expand to more than {MAX_VALUES} values; write less"
            )
        self.document.values[path] = Mark(node.line, node.column, node.scalar)
        if node.scalar is not None:
            return resolve(node.scalar) if node.resolve else node.scalar
        if node.items is not None:
            return [self._value(item, (*path, index), depth + 1) for index, item in enumerate(node.items)]
        return self._mapping(node.pairs or [], path, depth)

    def _mapping(self, pairs: list[tuple[_Node, _Node]], path: Path, depth: int) -> dict[str, Value]:
        result: dict[str, Value] = {}
        for key, value in pairs:
            mark = Mark(key.line, key.column, key.scalar)
            if key.scalar is None:
                self.document.faults.append((path, mark, "a key must be a word, not a list or mapping"))
                continue
            if key.scalar == "<<" and key.resolve:
                self.document.faults.append(
                    (path, mark, "merge keys (<<) are not used here; write the keys out")
                )
                continue
            place = (*path, key.scalar)
            if key.scalar in result:
                first = self.document.keys[place]
                self.document.faults.append(
                    (place, mark, f"given twice, first in line {first.line}; keep one of them")
                )
                continue
            self.document.keys[place] = mark
            result[key.scalar] = self._value(value, place, depth + 1)
        return result


def resolve(text: str) -> Value:
    """A plain scalar's value under the core schema (YAML 1.2.2 §10.3.2)."""
    if text in _NULL:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    if _INTEGER.match(text):
        return int(text)
    if _OCTAL.match(text):
        return int(text[2:], 8)
    if _HEXADECIMAL.match(text):
        return int(text[2:], 16)
    if _FLOAT.match(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text
