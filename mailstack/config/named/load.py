"""Read named.conf: statements into the typed model. Raises `ConfigError` with file and line.

Syntax and values are as strict as `named-checkconf`: what is accepted here is accepted there.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from mailstack.config.named import grammar
from mailstack.config.named.acl import ANY, LOCAL, Acl, AclTable
from mailstack.config.named.model import ListenOn, NamedConf, Options, Server, Zone
from mailstack.config.named.syntax import Block, Statement, Word, parse

_TTL = re.compile(r"(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?\Z", re.IGNORECASE)
_UNITS: Final = (604_800, 86_400, 3_600, 60, 1)
_REPEATED: Final = frozenset(("listen-on", "listen-on-v6", "disable-empty-zone"))


def load(path: Path) -> NamedConf:
    """The configuration in `path` (named.conf itself). Raises `ConfigError`."""
    return _Reader(path).read()


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.warnings: list[str] = []
        self.statements = parse(path)
        self.acls = AclTable(item for item in self.statements if item.keyword == "acl")

    def read(self) -> NamedConf:
        for name, (statement, _) in self.acls.names.items():
            self.acls.named(name, statement, statement.line)
        options = None
        zones: dict[str, Zone] = {}
        for statement in self.statements:
            if statement.keyword == "options":
                if options is not None:
                    raise statement.error("'options' redefined")
                options = self._options(_block(statement).statements)
        options = options or self._options(())
        for statement in self.statements:
            keyword = statement.keyword
            if keyword == "zone":
                zone = self._zone(statement, options)
                if zone.name in zones:
                    first = zones[zone.name]
                    where = f"{first.path}:{first.line}"
                    raise statement.error(
                        f"zone '{zone.name or '.'}': already exists, previous definition: {where}"
                    )
                zones[zone.name] = zone
            elif keyword not in grammar.TOP_WORKS:
                self._other(statement, grammar.TOP_IGNORED, grammar.TOP_REFUSED)
        return NamedConf(self.path, options, tuple(zones.values()), tuple(self.warnings))

    # ---- statements without effect, refused and unknown

    def _other(self, statement: Statement, ignored: Mapping[str, str], refused: Mapping[str, str]) -> None:
        keyword = statement.keyword
        if keyword in ignored:
            self.warnings.append(
                f"{statement.path}:{statement.line}: '{keyword}' has no effect: {ignored[keyword]}"
            )
        elif keyword in refused:
            raise statement.error(f"'{keyword}' is not supported: {refused[keyword]} (engine: bind has it)")
        else:
            raise statement.error(f"unknown option '{_shown(statement)}'")

    def _by_name(
        self,
        block: tuple[Statement, ...],
        works: frozenset[str],
        ignored: Mapping[str, str],
        refused: Mapping[str, str],
    ) -> dict[str, list[Statement]]:
        """The statements that work, by keyword; the others are dealt with here."""
        found: dict[str, list[Statement]] = {}
        seen: set[str] = set()
        for statement in block:
            keyword = statement.keyword
            if keyword in seen and keyword not in _REPEATED and keyword in works:
                raise statement.error(f"'{keyword}' redefined")
            seen.add(keyword)
            if keyword in works:
                found.setdefault(keyword, []).append(statement)
            else:
                self._other(statement, ignored, refused)
        return found

    # ---- options

    def _options(self, block: tuple[Statement, ...]) -> Options:
        found = self._by_name(block, grammar.OPTIONS_WORK, grammar.OPTIONS_IGNORED, grammar.OPTIONS_REFUSED)
        one = {keyword: statements[0] for keyword, statements in found.items()}
        values: dict[str, Any] = {}
        base = os.path.abspath(self.path.parent)
        values["directory"] = base
        if "directory" in one:
            values["directory"] = os.path.join(base, _string(one["directory"]))
        for keyword in ("recursion", "querylog", "minimal-any"):
            if keyword in one:
                values[keyword.replace("-", "_")] = _boolean(one[keyword])
        if "empty-zones-enable" in one:
            values["empty_zones"] = _boolean(one["empty-zones-enable"])
        values["disabled_empty_zones"] = frozenset(
            _zone_name(_text(statement), statement) for statement in found.get("disable-empty-zone", ())
        )
        for keyword, low, high in (("edns-udp-size", 512, 4096), ("max-udp-size", 512, 4096)):
            if keyword in one:
                # named clamps the two instead of refusing them.
                values[keyword.replace("-", "_")] = min(max(_integer(one[keyword]), low), high)
        if "tcp-clients" in one:
            values["tcp_clients"] = _integer(one["tcp-clients"], low=1)
        for keyword in ("tcp-initial-timeout", "tcp-idle-timeout"):
            if keyword in one:
                # In tenths of a second; named clamps as well.
                values[keyword.replace("-", "_")] = min(max(_integer(one[keyword]), 1), 1200) / 10
        for keyword in ("max-cache-ttl", "max-ncache-ttl"):
            if keyword in one:
                values[keyword.replace("-", "_")] = _duration(one[keyword])
        if "minimal-responses" in one:
            values["minimal_responses"] = _minimal(one["minimal-responses"])
        for keyword in ("version", "hostname", "server-id"):
            if keyword in one:
                values[keyword.replace("-", "_")] = _said(one[keyword])
        self._access(one, values)
        self._check_fixed(one)
        if "forwarders" in one:
            values["forwarders"] = _servers(one["forwarders"])
        if "forward" in one:
            values["forward_only"] = _choice(one["forward"], ("first", "only")) == "only"
        port = _integer(one["port"], high=65535) if "port" in one else 53
        values["listen_on"] = self._listeners(found, port)
        return Options(**values)

    def _access(self, one: Mapping[str, Statement], values: dict[str, Any]) -> None:
        """The access lists; recursion follows allow-query-cache and allow-query when it is not given."""
        acls = {keyword: self._acl(one[keyword]) for keyword in one if keyword in _ACLS}
        for keyword in ("allow-query", "allow-transfer", "blackhole"):
            if keyword in acls:
                values[keyword.replace("-", "_")] = acls[keyword]
        for keyword in ("allow-recursion", "allow-query-cache", "allow-query"):
            if keyword in acls:
                values["allow_recursion"] = acls[keyword]
                break
        else:
            values["allow_recursion"] = LOCAL
        if acls.get("allow-query-cache", values["allow_recursion"]) != values["allow_recursion"]:
            # Both hold in BIND. Their intersection cannot be written as one list, so the two must agree.
            raise one["allow-query-cache"].error(
                "allow-query-cache other than allow-recursion is not supported"
            )

    def _check_fixed(self, one: Mapping[str, Statement]) -> None:
        """Statements of which only some values work."""
        if "allow-update" in one and not self._acl(one["allow-update"]).is_none:
            raise one["allow-update"].error(
                "dynamic update is not supported: write allow-update { none; } (engine: bind has it)"
            )
        if "masterfile-format" in one and _choice(one["masterfile-format"], ("text", "raw")) == "raw":
            raise one["masterfile-format"].error("zone files in raw format are not supported")
        if "auth-nxdomain" in one and _boolean(one["auth-nxdomain"]):
            raise one["auth-nxdomain"].error("auth-nxdomain yes is not supported")
        if "notify" in one:
            notify = one["notify"]
            if _choice(notify, ("explicit", "master-only", "primary-only", *_BOOLEANS)) not in _FALSE:
                self.warnings.append(
                    f"{notify.path}:{notify.line}: 'notify' has no effect: NOTIFY is not sent"
                )
        if "dnssec-validation" in one:
            statement = one["dnssec-validation"]
            if _choice(statement, ("auto", *_BOOLEANS)) not in _FALSE:
                self.warnings.append(
                    f"{statement.path}:{statement.line}: 'dnssec-validation' has no effect: "
                    "answers are not validated"
                )

    def _listeners(self, found: Mapping[str, list[Statement]], port: int) -> tuple[ListenOn, ...]:
        listeners: list[ListenOn] = []
        for keyword, ipv6 in (("listen-on", False), ("listen-on-v6", True)):
            if keyword not in found:
                listeners.append(ListenOn(port, ANY, ipv6, self.path, 0))
            for statement in found.get(keyword, ()):
                own, acl = port, None
                match statement.items[1:]:
                    case (Block() as block,):
                        acl = self.acls.read(statement, block)
                    case (Word(text="port"), Word() as number, Block() as block):
                        own = _number(statement, number, 0, 65535)
                        acl = self.acls.read(statement, block)
                    case (*_, Word(text="tls" | "http"), Word(), Block()):
                        raise statement.error(
                            "DNS over TLS and HTTPS are not supported (engine: bind has it)"
                        )
                    case _:
                        raise statement.error(f"{keyword} takes [ port NUMBER ] {{ addresses; }}")
                listeners.append(ListenOn(own, acl, ipv6, statement.path, statement.line))
        return tuple(listeners)

    def _acl(self, statement: Statement) -> Acl:
        return self.acls.read(statement, _block(statement))

    # ---- zones

    def _zone(self, statement: Statement, options: Options) -> Zone:
        match statement.items[1:]:
            case (Word(text=text), Block() as block):
                pass
            case (Word(text=text), Word(text=rdclass), Block() as block):
                if rdclass.lower() != "in":
                    raise statement.error(f"zone '{text}': class {rdclass} is not supported")
            case _:
                raise statement.error("zone takes a name, an optional class and a { block }")
        name = _zone_name(text, statement)
        found = self._by_name(
            block.statements, grammar.ZONE_WORKS, grammar.ZONE_IGNORED, grammar.ZONE_REFUSED
        )
        one = {keyword: statements[0] for keyword, statements in found.items()}
        if "type" not in one:
            raise statement.error(f"zone '{text}': type not present")
        written = _choice(one["type"], (*grammar.ZONE_TYPES, *grammar.ZONE_TYPES_REFUSED))
        if written in grammar.ZONE_TYPES_REFUSED:
            raise one["type"].error(f"zone '{text}': type {written} is not supported (engine: bind has it)")
        kind: Literal["primary", "hint", "forward"] = grammar.ZONE_TYPES[written]  # type: ignore[assignment]
        allowed = {
            "primary": _PRIMARY,
            "hint": ("type", "file"),
            "forward": ("type", "forward", "forwarders"),
        }
        for keyword, item in one.items():
            if keyword not in allowed[kind]:
                raise item.error(
                    f"zone '{text}': option '{keyword}' is not allowed in a zone of type {written}"
                )
        if kind != "forward" and "file" not in one:
            raise statement.error(f"zone '{text}': missing 'file' entry")
        if kind == "hint" and name:
            raise statement.error(f"zone '{text}': a hint zone is for the root")
        self._check_fixed(one)
        if kind == "hint":
            self.warnings.append(
                f"{statement.path}:{statement.line}: zone '.' of type hint has no effect: "
                "names that are not ours are forwarded, not resolved"
            )
        forwarders = _servers(one["forwarders"]) if "forwarders" in one else None
        only = _choice(one["forward"], ("first", "only")) == "only" if "forward" in one else None
        return Zone(
            name=name,
            kind=kind,
            file=os.path.join(options.directory, _string(one["file"])) if "file" in one else "",
            allow_query=self._acl(one["allow-query"]) if "allow-query" in one else None,
            allow_transfer=self._acl(one["allow-transfer"]) if "allow-transfer" in one else None,
            forwarders=forwarders,
            forward_only=only,
            path=statement.path,
            line=statement.line,
        )


_ACLS: Final = frozenset(
    ("allow-query", "allow-query-cache", "allow-recursion", "allow-transfer", "blackhole")
)
_PRIMARY: Final = grammar.ZONE_WORKS
_TRUE: Final = ("yes", "true", "1")
_FALSE: Final = ("no", "false", "0")
_BOOLEANS: Final = _TRUE + _FALSE


def _shown(statement: Statement) -> str:
    first = statement.items[0]
    return first.text if isinstance(first, Word) else "{"


def _block(statement: Statement) -> Block:
    match statement.items[1:]:
        case (Block() as block,):
            return block
        case (Word(text="port" | "transport"), *_) if statement.keyword == "allow-transfer":
            raise statement.error("allow-transfer by port or transport is not supported")
    raise statement.error(f"'{statement.keyword}' takes a {{ block }}")


def _word(statement: Statement) -> Word:
    items = statement.items
    if len(items) != 2 or not isinstance(items[1], Word):
        raise statement.error(f"'{statement.keyword}' takes one value")
    return items[1]


def _text(statement: Statement) -> str:
    return _word(statement).text


def _string(statement: Statement) -> str:
    word = _word(statement)
    if not word.quoted or not word.text:
        raise statement.error(f"'{statement.keyword}' takes a string in quotes")
    return word.text


def _boolean(statement: Statement) -> bool:
    return _choice(statement, _BOOLEANS) in _TRUE


def _choice(statement: Statement, choices: tuple[str, ...]) -> str:
    word = _word(statement)
    text = word.text.lower()
    if text not in choices or word.quoted:
        raise statement.error(f"'{statement.keyword}' takes one of {', '.join(choices)}, not '{text}'")
    return text


def _integer(statement: Statement, *, low: int = 0, high: int = 0xFFFFFFFF) -> int:
    return _number(statement, _word(statement), low, high)


def _number(statement: Statement, word: Word, low: int, high: int) -> int:
    if not (word.text.isascii() and word.text.isdecimal()) or not low <= int(word.text) <= high:
        raise statement.error(f"'{word.text}' is not a number from {low} to {high}")
    return int(word.text)


def _duration(statement: Statement) -> int:
    """Seconds of `3600`, `1h30m` or `PT1H`."""
    text = _text(statement)
    if text.isascii() and text.isdecimal() and len(text) < 11:
        return int(text)
    plain = text[1:].upper().replace("T", "") if text[:1] in ("P", "p") else text
    match = _TTL.match(plain)
    if not plain or match is None:
        raise statement.error(f"'{text}' is not a duration")
    return sum(int(value or 0) * unit for value, unit in zip(match.groups(), _UNITS, strict=True))


def _minimal(statement: Statement) -> str:
    text = _choice(statement, ("no-auth", "no-auth-recursive", *_BOOLEANS))
    return "yes" if text in _TRUE else "no" if text in _FALSE else text


def _said(statement: Statement) -> str | None:
    word = _word(statement)
    if word.quoted:
        return word.text
    choices = {"version": ("none",), "hostname": ("none",), "server-id": ("none", "hostname")}
    return None if _choice(statement, choices[statement.keyword]) == "none" else ""


def _servers(statement: Statement) -> tuple[Server, ...]:
    """`[ port N ] { address [ port N ]; … }`."""
    items = statement.items[1:]
    port = 53
    if len(items) == 3 and isinstance(items[0], Word) and items[0].text == "port":
        if isinstance(items[1], Word):
            port = _number(statement, items[1], 0, 65535)
        items = items[2:]
    if len(items) != 1 or not isinstance(items[0], Block):
        raise statement.error(f"'{statement.keyword}' takes [ port NUMBER ] {{ addresses; }}")
    servers: list[Server] = []
    for entry in items[0].statements:
        match entry.items:
            case (Word(text=host),):
                own = port
            case (Word(text=host), Word(text="port"), Word() as number):
                own = _number(entry, number, 0, 65535)
            case _:
                raise entry.error("a forwarder is ADDRESS [ port NUMBER ]")
        try:
            servers.append((str(ipaddress.ip_address(host)), own))
        except ValueError:
            raise entry.error(f"'{host}' is not an address") from None
    return tuple(servers)


def _zone_name(text: str, statement: Statement) -> str:
    name = text.lower()
    if name == ".":
        return ""
    name = name[:-1] if name.endswith(".") else name
    labels = name.split(".")
    if len(name) > 253 or not all(0 < len(label) < 64 for label in labels):
        raise statement.error(f"'{text}' is not a domain name")
    return name
