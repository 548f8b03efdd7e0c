"""`primaries`, `server`, and what `options` and `zone` say of transfers, NOTIFY and forwarded updates."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any, Final

from mailstack.config.named import grammar
from mailstack.config.named.acl import AclTable, key_name, parse_network
from mailstack.config.named.model import TsigKey, Zone
from mailstack.config.named.peers import Peer, Remote, Source, Traffic, Transfers
from mailstack.config.named.resolving import query_source
from mailstack.config.named.syntax import Block, Statement, Word
from mailstack.config.named.values import (
    BOOLEANS,
    TRUE,
    boolean,
    choice,
    integer,
    one_block,
    one_text,
    one_word,
    to_number,
)

DEPTH_LIMIT: Final = 10
"""Lists of primaries within lists."""
INCOMING: Final = frozenset(
    (
        "allow-notify",
        "allow-update-forwarding",
        "masters",
        "max-refresh-time",
        "max-retry-time",
        "max-transfer-idle-in",
        "max-transfer-time-in",
        "min-refresh-time",
        "min-retry-time",
        "multi-master",
        "primaries",
        "request-ixfr",
        "transfer-source",
        "transfer-source-v6",
        "try-tcp-refresh",
    )
)
"""What a secondary zone may have, and a primary one not."""
_OUTGOING: Final = frozenset(
    (
        "also-notify",
        "ixfr-from-differences",
        "max-ixfr-ratio",
        "max-journal-size",
        "max-records",
        "notify",
        "notify-delay",
        "notify-source",
        "notify-source-v6",
        "notify-to-soa",
        "provide-ixfr",
        "transfer-format",
    )
)
SETTINGS: Final = (INCOMING | _OUTGOING) - {"masters", "primaries"}
"""Those of the options that hold for zones that say nothing themselves."""
ZONE_SETTINGS: Final = (INCOMING | _OUTGOING) - {"provide-ixfr", "transfer-format"}
_SECONDS: Final = {
    "max-refresh-time": ("max_refresh", 1),
    "max-retry-time": ("max_retry", 1),
    "min-refresh-time": ("min_refresh", 1),
    "min-retry-time": ("min_retry", 1),
    "max-transfer-idle-in": ("max_idle_in", 60),
    "max-transfer-time-in": ("max_time_in", 60),
}
_RATES: Final = (
    "notify-rate",
    "startup-notify-rate",
    "serial-query-rate",
    "transfers-in",
    "transfers-per-ns",
)
_FORMATS: Final = ("one-answer", "many-answers")
_SIZES: Final = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class Remotes:
    """The servers that named.conf knows."""

    def __init__(
        self,
        statements: Iterable[Statement],
        acls: AclTable,
        keys: Mapping[str, TsigKey],
        warnings: list[str],
    ) -> None:
        self._acls = acls
        self._keys = keys
        self._warnings = warnings
        self.port = 53
        """The options' `port`."""
        self._lists: dict[str, Statement] = {}
        self._servers: list[Statement] = []
        for statement in statements:
            if statement.keyword in ("primaries", "masters"):
                match statement.items[1:]:
                    case (Word(text=name), *_):
                        pass
                    case _:
                        raise statement.error(f"'{statement.keyword}' takes a name and a {{ list }}")
                if name in self._lists:
                    raise statement.error(f"{statement.keyword} '{name}' is already defined")
                self._lists[name] = statement
            elif statement.keyword == "server":
                self._servers.append(statement)

    def check(self) -> None:
        """Every list, used or not. Raises `ConfigError`."""
        for statement in self._lists.values():
            self.servers(statement, named=True)

    # ---- lists of servers

    def servers(self, statement: Statement, *, named: bool = False, depth: int = 0) -> tuple[Remote, ...]:
        """`KEYWORD [ NAME ] [ port N ] { ADDRESS [ port N ] [ key K ]; LIST; … }`, each server once."""
        if depth > DEPTH_LIMIT:
            raise statement.error(f"'{statement.keyword}' contains itself")
        items = list(statement.items[2 if named else 1 :])
        port = self.port
        match items:
            case [Word(text="port"), Word() as number, *rest]:
                port, items = to_number(statement, number, 0, 65535), rest
        match items:
            case [Block() as block]:
                pass
            case _:
                raise statement.error(f"'{statement.keyword}' takes [ port NUMBER ] {{ servers; }}")
        found: list[Remote] = []
        for entry in block.statements:
            found += [one for one in self._entry(entry, port, depth) if one not in found]
        return tuple(found)

    def _entry(self, entry: Statement, port: int, depth: int) -> tuple[Remote, ...]:
        match entry.items:
            case (Word(text=name),) if name in self._lists:
                return self.servers(self._lists[name], named=True, depth=depth + 1)
            case (Word(text=host), *rest):
                pass
            case _:
                raise entry.error("a server is ADDRESS [ port NUMBER ] [ key NAME ]")
        key: str | None = None
        while rest:
            match rest:
                case [Word(text="port"), Word() as number, *rest]:
                    port = to_number(entry, number, 0, 65535)
                case [Word(text="key"), Word(text=text), *rest]:
                    key = self._key(entry, text)
                case [Word(text="tls"), *_]:
                    raise entry.error("DNS over TLS is not supported (engine: bind has it)")
                case _:
                    raise entry.error("a server is ADDRESS [ port NUMBER ] [ key NAME ]")
        try:
            return (Remote(str(ipaddress.ip_address(host)), port, key),)
        except ValueError:
            raise entry.error(f"'{host}' is neither an address nor a list of primaries") from None

    def _key(self, statement: Statement, text: str) -> str:
        name = key_name(text)
        if name not in self._keys:
            raise statement.error(f"undefined key '{text}'")
        return name

    # ---- server statements

    def peers(self) -> tuple[Peer, ...]:
        """The `server` statements. Raises `ConfigError`."""
        found: dict[str, Peer] = {}
        for statement in self._servers:
            peer = self._peer(statement)
            if str(peer.network) in found:
                raise statement.error(f"server '{peer.network}' is already defined")
            found[str(peer.network)] = peer
        return tuple(found.values())

    def _peer(self, statement: Statement) -> Peer:
        match statement.items[1:]:
            case (Word(text=text), Block() as body) if (network := parse_network(text)) is not None:
                pass
            case _:
                raise statement.error("server takes an address or a network, and a { block }")
        values: dict[str, Any] = {}
        for one in body.statements:
            match one.keyword:
                case "keys":
                    values["key"] = self._keys_of(one)
                case "provide-ixfr" | "request-ixfr" as word:
                    values[word.replace("-", "_")] = boolean(one)
                case "transfer-format":
                    values["transfer_format"] = choice(one, _FORMATS)
                case "transfer-source" | "transfer-source-v6" | "notify-source" | "notify-source-v6" as word:
                    if word.endswith("-v6") != (network.version == 6):
                        raise one.error(f"'{word}' is for servers of the other address family")
                    values[word.removesuffix("-v6").replace("-", "_")] = _source(one)
                case "transfers":
                    values["transfers"] = integer(one, low=1)
                case "bogus" | "edns" | "tcp-only" | "send-cookie" as word:
                    values[word.replace("-", "_")] = boolean(one)
                case "edns-udp-size":
                    values["edns_udp_size"] = min(max(integer(one), 512), 4096)
                case "query-source" | "query-source-v6" as word:
                    if word.endswith("-v6") != (network.version == 6):
                        raise one.error(f"'{word}' is for servers of the other address family")
                    values["query_source"] = query_source(one)
                case word if word in grammar.SERVER_IGNORED:
                    self._warnings.append(
                        f"{one.path}:{one.line}: '{word}' has no effect: {grammar.SERVER_IGNORED[word]}"
                    )
                case word if word in grammar.SERVER_REFUSED:
                    reason = grammar.SERVER_REFUSED[word]
                    raise one.error(f"'{word}' is not supported: {reason} (engine: bind has it)")
                case word:
                    raise one.error(f"unknown option '{word}'")
        return Peer(network=network, **values)

    def _keys_of(self, statement: Statement) -> str:
        match statement.items[1:]:
            case (Word(text=text),):
                return self._key(statement, text)
            case (Block(statements=(Statement(items=(Word(text=text),)),)),):
                return self._key(statement, text)
        raise statement.error("'keys' takes one key")

    # ---- zones

    def of_zone(
        self, kind: str, one: Mapping[str, Statement], general: Mapping[str, Statement], statement: Statement
    ) -> Transfers:
        """What holds for a zone: its own statements `one`, else the options' `general`."""
        values: dict[str, Any] = {}
        if kind not in ("primary", "secondary"):
            return Transfers()
        secondary = kind == "secondary"
        if secondary:
            lists = [one[word] for word in ("primaries", "masters") if word in one]
            if len(lists) != 1:
                raise statement.error(
                    "a secondary zone needs one list of 'primaries'"
                    if not lists
                    else "'primaries' and 'masters' are the same: one of them is enough"
                )
            values["primaries"] = self.servers(lists[0])
            if not values["primaries"]:
                raise lists[0].error("the list of primaries is empty")
        elif wrong := INCOMING & one.keys():
            word = sorted(wrong)[0]
            raise one[word].error(f"option '{word}' is for secondary zones")
        for word in SETTINGS:
            if word not in INCOMING or secondary:
                found = one.get(word, general.get(word))
                if found is not None:
                    self._setting(word, found, values, secondary=secondary)
        return Transfers(**values)

    def _setting(self, word: str, found: Statement, values: dict[str, Any], *, secondary: bool) -> None:
        field = word.replace("-", "_")
        match word:
            case "also-notify":
                values[field] = self.servers(found)
            case "allow-notify" | "allow-update-forwarding":
                values[field] = self._acls.read(found, one_block(found))
            case "notify":
                values[field] = _notify(found)
            case "notify-delay":
                values[field] = integer(found)
            case "notify-source" | "notify-source-v6" | "transfer-source" | "transfer-source-v6":
                values[field] = _source(found)
            case "notify-to-soa" | "provide-ixfr" | "request-ixfr" | "multi-master" | "try-tcp-refresh":
                values[field] = boolean(found)
            case "ixfr-from-differences":
                text = choice(found, ("primary", "master", "secondary", "slave", *BOOLEANS))
                wanted = ("secondary", "slave") if secondary else ("primary", "master")
                values[field] = text in TRUE or text in wanted
            case "transfer-format":
                values[field] = choice(found, _FORMATS)
            case "max-ixfr-ratio":
                values[field] = _percent(found)
            case "max-journal-size":
                values[field] = _size(found)
            case "max-records":
                values[field] = integer(found)
            case _:
                name, unit = _SECONDS[word]
                values[name] = integer(found, low=1) * unit


def check_file(zone: Zone, others: Iterable[Zone], statement: Statement) -> None:
    """A file that is written belongs to one zone. Raises `ConfigError`."""
    for other in others:
        if zone.file and other.file == zone.file and (_is_written(zone) or _is_written(other)):
            where = f"{other.path}:{other.line}"
            raise statement.error(f"writeable file '{zone.file}': already in use: {where}")


def _is_written(zone: Zone) -> bool:
    return zone.kind == "secondary" or not zone.allow_update.is_none or zone.dnssec is not None


def traffic(one: Mapping[str, Statement]) -> Traffic:
    """What the options say of all transfers together."""
    return Traffic(**{word.replace("-", "_"): integer(one[word], low=1) for word in _RATES if word in one})


def _notify(statement: Statement) -> str:
    text = choice(statement, ("explicit", "master-only", "primary-only", *BOOLEANS))
    if text in BOOLEANS:
        return "yes" if text in TRUE else "no"
    return "explicit" if text == "explicit" else "primary-only"


def _source(statement: Statement) -> Source:
    """`( ADDRESS | * ) [ port ( NUMBER | * ) ]`."""
    match statement.items[1:]:
        case (Word(text=host),):
            port = 0
        case (Word(text=host), Word(text="port"), Word() as number):
            port = 0 if number.text == "*" else to_number(statement, number, 0, 65535)
        case _:
            raise statement.error(f"'{statement.keyword}' takes an address or * [ port NUMBER ]")
    if host == "*":
        return ("", port)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if address is None or (address.version == 6) != statement.keyword.endswith("-v6"):
        version = "IPv6" if statement.keyword.endswith("-v6") else "IPv4"
        raise statement.error(f"'{statement.keyword}' takes an {version} address, not '{host}'")
    return (str(address), port)


def _percent(statement: Statement) -> int | None:
    text = one_text(statement)
    if text == "unlimited":
        return None
    if not text.endswith("%") or not text[:-1].isdecimal() or text == "0%":
        raise statement.error(f"'{statement.keyword}' takes a percentage or 'unlimited', not '{text}'")
    return int(text[:-1])


def _size(statement: Statement) -> int | None:
    word = one_word(statement)
    text = word.text.lower()
    if text == "default":
        return None
    if text == "unlimited":
        return 1 << 62
    digits, unit = (text[:-1], _SIZES[text[-1]]) if text[-1:] in _SIZES else (text, 1)
    if not (digits.isascii() and digits.isdecimal()):
        raise statement.error(f"'{statement.keyword}' takes octets, 'default' or 'unlimited', not '{text}'")
    return int(digits) * unit
