"""Read named.conf: statements into the typed model. Raises `ConfigError` with file and line.

Syntax and values are as strict as `named-checkconf`: what is accepted here is accepted there.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, cast

from mailstack.config.named import grammar
from mailstack.config.named.acl import ANY, LOCAL, NONE, Acl, AclTable
from mailstack.config.named.answers import answering, zone_statistics
from mailstack.config.named.channels import Logging, read_logging
from mailstack.config.named.keys import read_keys, read_session_key
from mailstack.config.named.model import (
    CheckNames,
    DnssecPolicy,
    ListenOn,
    NamedConf,
    Options,
    Server,
    SessionKey,
    Zone,
)
from mailstack.config.named.peers import Traffic
from mailstack.config.named.policy import Policies
from mailstack.config.named.resolving import resolving
from mailstack.config.named.syntax import Block, Statement, Word, parse
from mailstack.config.named.transfers import SETTINGS, Remotes, check_file, traffic
from mailstack.config.named.updates import UpdateRule, granted, is_local, local_only, read_update_policy
from mailstack.config.named.values import (
    BOOLEANS,
    FALSE,
    boolean,
    choice,
    integer,
    one_block,
    one_text,
    shown,
    string,
    to_number,
)

_REPEATED: Final = frozenset(
    ("listen-on", "listen-on-v6", "disable-empty-zone", "cookie-secret", "check-names")
)


def load(path: Path) -> NamedConf:
    """The configuration in `path` (named.conf itself). Raises `ConfigError`."""
    return _Reader(path).read()


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.warnings: list[str] = []
        self.statements = parse(path)
        self.keys = read_keys(item for item in self.statements if item.keyword == "key")
        self.acls = AclTable((item for item in self.statements if item.keyword == "acl"), self.keys)
        self.policies = Policies(item for item in self.statements if item.keyword == "dnssec-policy")
        self.remotes = Remotes(self.statements, self.acls, self.keys, self.warnings)
        self.traffic = Traffic()
        self._logging: Logging | None = None
        self.general: dict[str, Statement] = {}
        """Options that are for zones that say nothing themselves."""
        self.session_key: SessionKey = read_session_key({}, "")
        self.local_updates = False
        """A zone has `update-policy local`."""
        self.names_checked: dict[str, CheckNames] = {}
        """`check-names` of the options, by type of zone."""

    def read(self) -> NamedConf:
        for name, (statement, _) in self.acls.names.items():
            self.acls.named(name, statement, statement.line)
        options = None
        zones: dict[str, Zone] = {}
        for statement in self.statements:
            if statement.keyword == "options":
                if options is not None:
                    raise statement.error("'options' redefined")
                options = self._options(one_block(statement).statements)
        options = options or self._options(())
        self.remotes.check()
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
                check_file(zone, zones.values(), statement)
                zones[zone.name] = zone
            elif keyword not in grammar.TOP_WORKS:
                self._other(statement, grammar.TOP_IGNORED, grammar.TOP_REFUSED)
        peers = self.remotes.peers()
        return NamedConf(
            self.path,
            options,
            tuple(zones.values()),
            tuple(self.warnings),
            tuple(self.keys.values()),
            peers,
            self.traffic,
            self.logging(options.directory),
            self.session_key if self.local_updates else None,
        )

    def logging(self, directory: str) -> Logging:
        """What is logged where; file names are relative to `directory`."""
        if self._logging is None:
            given = [item for item in self.statements if item.keyword == "logging"]
            if len(given) > 1:
                raise given[1].error("'logging' redefined")
            self._logging = read_logging(given[0], directory, self.warnings) if given else Logging()
        return self._logging

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
            raise statement.error(f"unknown option '{shown(statement)}'")

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
            values["directory"] = os.path.join(base, string(one["directory"]))
        for keyword in ("recursion", "querylog", "minimal-any", "answer-cookie", "require-server-cookie"):
            if keyword in one:
                values[keyword.replace("-", "_")] = boolean(one[keyword])
        if "auth-nxdomain" in one:
            values["auth_nxdomain"] = boolean(one["auth-nxdomain"])
        if "empty-zones-enable" in one:
            values["empty_zones"] = boolean(one["empty-zones-enable"])
        values["disabled_empty_zones"] = frozenset(
            _zone_name(one_text(statement), statement) for statement in found.get("disable-empty-zone", ())
        )
        for keyword, low, high in (("edns-udp-size", 512, 4096), ("max-udp-size", 512, 4096)):
            if keyword in one:
                # named clamps the two instead of refusing them.
                values[keyword.replace("-", "_")] = min(max(integer(one[keyword]), low), high)
        if "nocookie-udp-size" in one:
            values["nocookie_udp_size"] = min(max(integer(one["nocookie-udp-size"]), 128), 4096)
        if "tcp-clients" in one:
            values["tcp_clients"] = integer(one["tcp-clients"], low=1)
        if "tcp-listen-queue" in one:
            depth = integer(one["tcp-listen-queue"])
            values["tcp_listen_queue"] = max(depth, 10) if depth else 0  # as named has it
        for keyword, most in _TCP_TIMES.items():
            if keyword in one:
                # In tenths of a second; named clamps as well.
                values[keyword.replace("-", "_")] = min(max(integer(one[keyword]), 1), most) / 10
        values["resolving"] = resolving(one)
        for statement in found.get("check-names", ()):
            self._names_checked(statement)
        self.session_key = read_session_key(one, values["directory"])
        values.update(answering(found, self.acls, values["directory"]))
        values.setdefault("querylog", bool(self.logging(values["directory"]).categories.get("queries")))
        self._access(one, values)
        self._check_fixed(one)
        self.general = {
            name: one[name]
            for name in ("allow-update", "dnssec-policy", "key-directory", "zone-statistics", *SETTINGS)
            if name in one
        }
        self.traffic = traffic(one)
        if "forwarders" in one:
            values["forwarders"] = _servers(one["forwarders"])
        if "forward" in one:
            values["forward_only"] = choice(one["forward"], ("first", "only")) == "only"
        port = integer(one["port"], high=65535) if "port" in one else 53
        self.remotes.port = values["port"] = port
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
        if "masterfile-format" in one and choice(one["masterfile-format"], ("text", "raw")) == "raw":
            raise one["masterfile-format"].error("zone files in raw format are not supported")
        if "cookie-algorithm" in one and choice(one["cookie-algorithm"], ("aes", "siphash24")) == "aes":
            raise one["cookie-algorithm"].error("cookie-algorithm aes is not supported: siphash24 is")
        if "dnssec-validation" in one:
            statement = one["dnssec-validation"]
            if choice(statement, ("auto", *BOOLEANS)) not in FALSE:
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
                        own = to_number(statement, number, 0, 65535)
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
        return self.acls.read(statement, one_block(statement))

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
        written = choice(one["type"], (*grammar.ZONE_TYPES, *grammar.ZONE_TYPES_REFUSED))
        if written in grammar.ZONE_TYPES_REFUSED:
            raise one["type"].error(f"zone '{text}': type {written} is not supported (engine: bind has it)")
        kind: Literal["primary", "secondary", "hint", "forward"] = grammar.ZONE_TYPES[written]  # type: ignore[assignment]
        allowed = {
            "primary": _PRIMARY,
            "secondary": _SECONDARY,
            "hint": ("type", "file"),
            "forward": ("type", "forward", "forwarders"),
        }
        for keyword, item in one.items():
            if keyword not in allowed[kind]:
                raise item.error(
                    f"zone '{text}': option '{keyword}' is not allowed in a zone of type {written}"
                )
        if kind in ("primary", "hint") and "file" not in one:
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
        only = choice(one["forward"], ("first", "only")) == "only" if "forward" in one else None
        rules: tuple[UpdateRule, ...] = ()
        if "update-policy" in one:
            rules = read_update_policy(one["update-policy"], name, self.session_key.name)
        return Zone(
            name=name,
            kind=kind,
            file=os.path.join(options.directory, string(one["file"])) if "file" in one else "",
            allow_query=self._acl(one["allow-query"]) if "allow-query" in one else None,
            allow_query_on=self._acl(one["allow-query-on"]) if "allow-query-on" in one else None,
            statistics=self._counted(one),
            allow_transfer=self._acl(one["allow-transfer"]) if "allow-transfer" in one else None,
            forwarders=forwarders,
            forward_only=only,
            allow_update=self._update(one, rules) if kind == "primary" else NONE,
            update_policy=rules,
            dnssec=self._policy(one, kind),
            key_directory=self._key_directory(one, options),
            check_names=self._check_names(one, kind),
            journal=os.path.join(options.directory, string(one["journal"])) if "journal" in one else "",
            transfers=self.remotes.of_zone(kind, one, self.general, statement),
            path=statement.path,
            line=statement.line,
        )

    def _counted(self, one: Mapping[str, Statement]) -> bool:
        given = one.get("zone-statistics", self.general.get("zone-statistics"))
        return given is not None and zone_statistics(given)

    def _update(self, one: Mapping[str, Statement], rules: tuple[UpdateRule, ...]) -> Acl:
        if "update-policy" in one:
            if "allow-update" in one:
                raise one["update-policy"].error("one of 'allow-update' and 'update-policy' is enough")
            if is_local(one["update-policy"]):
                self.local_updates = True
                return local_only(self.session_key.name)
            return granted(rules, self.keys)
        given = one.get("allow-update", self.general.get("allow-update"))
        return NONE if given is None else self._acl(given)

    def _check_names(self, one: Mapping[str, Statement], kind: str) -> CheckNames:
        if "check-names" not in one:
            return self.names_checked.get(kind, "fail")
        wanted = choice(one["check-names"], _CHECK_NAMES)
        if kind == "secondary" and wanted == "fail":
            raise one["check-names"].error(
                "a secondary zone is taken as its primary server has it: warn or ignore"
            )
        return cast(CheckNames, wanted)

    def _names_checked(self, statement: Statement) -> None:
        """`check-names TYPE fail|warn|ignore` of the options."""
        match statement.items[1:]:
            case (Word(text=kind), Word(text="fail" | "warn" | "ignore" as wanted)) if kind in _CHECKED:
                where = _CHECKED[kind]
            case _:
                raise statement.error(
                    f"'check-names' takes one of {', '.join(_CHECKED)}, and one of {', '.join(_CHECK_NAMES)}"
                )
        if where in self.names_checked:
            raise statement.error(f"'check-names {kind}' redefined")
        if wanted == "fail" and where != "primary":
            raise statement.error(
                f"check-names {kind} fail is not supported: what others serve is taken as it is"
            )
        self.names_checked[where] = wanted

    def _policy(self, one: Mapping[str, Statement], kind: str) -> DnssecPolicy | None:
        wanted = one.get("dnssec-policy", self.general.get("dnssec-policy"))
        if wanted is None or kind != "primary":
            return None
        if "inline-signing" in one and not boolean(one["inline-signing"]):
            raise one["inline-signing"].error(
                "inline-signing no is not supported: a zone is signed as it is served, not in its file"
            )
        return self.policies.named(wanted)

    def _key_directory(self, one: Mapping[str, Statement], options: Options) -> str:
        given = one.get("key-directory", self.general.get("key-directory"))
        return os.path.join(options.directory, string(given)) if given is not None else options.directory


_ACLS: Final = frozenset(
    ("allow-query", "allow-query-cache", "allow-recursion", "allow-transfer", "blackhole")
)
_TCP_TIMES: Final = {
    "tcp-initial-timeout": 1200,
    "tcp-idle-timeout": 1200,
    "tcp-keepalive-timeout": 65_535,
    "tcp-advertised-timeout": 65_535,
}
_CHECK_NAMES: Final = ("fail", "warn", "ignore")
_CHECKED: Final = {
    "primary": "primary",
    "master": "primary",
    "secondary": "secondary",
    "slave": "secondary",
    "response": "response",
}
_PRIMARY: Final = grammar.ZONE_WORKS
_SECONDARY: Final = grammar.ZONE_WORKS - {
    "allow-update",
    "update-policy",
    "dnssec-policy",
    "inline-signing",
    "key-directory",
}


def _servers(statement: Statement) -> tuple[Server, ...]:
    """`[ port N ] { address [ port N ]; … }`."""
    items = statement.items[1:]
    port = 53
    if len(items) == 3 and isinstance(items[0], Word) and items[0].text == "port":
        if isinstance(items[1], Word):
            port = to_number(statement, items[1], 0, 65535)
        items = items[2:]
    if len(items) != 1 or not isinstance(items[0], Block):
        raise statement.error(f"'{statement.keyword}' takes [ port NUMBER ] {{ addresses; }}")
    servers: list[Server] = []
    for entry in items[0].statements:
        match entry.items:
            case (Word(text=host),):
                own = port
            case (Word(text=host), Word(text="port"), Word() as number):
                own = to_number(entry, number, 0, 65535)
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
