"""main.cf: values by name, typed by the parameter table.

`MainCf.load(DIR)` reads `DIR/main.cf`, and refuses (`ConfigError` with file and line) what Postfix refuses: a
line without `=`, a reference to itself, a value that is not of its parameter's type or outside its bounds. A
name that no daemon of ours knows is no error: it is in `warnings`, one line each, for the log at start.

A `MainCf` never changes; `with_overrides` makes the view of one master.cf service (`-o name=value`).
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

from mailstack.config.errors import ConfigError
from mailstack.config.postfix.expand import ExpansionError, expand, references
from mailstack.config.postfix.lines import logical_lines, read_text, words
from mailstack.postfix_parameters import INSTALLATION, Kind, Parameter, parameter, parse_time

# The types, for the methods below that have their names.
_Str: TypeAlias = str
_Bool: TypeAlias = bool
_Int: TypeAlias = int
_List: TypeAlias = list[str]


class Origin(NamedTuple):
    """Where a value was written."""

    path: Path
    line: int


class MainCf:
    """The parameters as one service sees them."""

    __slots__ = ("_expanded", "_origins", "_raw", "_transports", "path", "warnings")

    def __init__(
        self,
        path: Path,
        raw: Mapping[str, str],
        origins: Mapping[str, Origin],
        *,
        transports: frozenset[str] = frozenset(),
        warnings: tuple[str, ...] = (),
    ) -> None:
        self.path = path
        self.warnings = warnings
        self._raw = dict(raw)
        self._origins = dict(origins)
        self._transports = transports
        self._expanded: dict[str, str] = {}

    @classmethod
    def load(
        cls, directory: Path | str, *, transports: Iterable[str] = (), overrides: Iterable[str] = ()
    ) -> MainCf:
        """Read `directory/main.cf`. `transports` are master.cf's services, for their own parameters;
        `overrides` the values of its `-o`, which may use parameters that nobody else does.

        Raises `ConfigError`.
        """
        path = Path(directory) / "main.cf"
        return cls.parse(read_text(path), path, transports=transports, overrides=overrides)

    @classmethod
    def parse(
        cls, text: str, path: Path, *, transports: Iterable[str] = (), overrides: Iterable[str] = ()
    ) -> MainCf:
        """The same for text that is at hand; `path` is for messages. Raises `ConfigError`."""
        raw: dict[str, str] = {}
        origins: dict[str, Origin] = {}
        warnings: list[str] = []
        for line, logical in logical_lines(text, path):
            name, equals, value = logical.partition("=")
            name = name.strip()
            if not equals:
                raise ConfigError(path, line, f"missing '=' after attribute name: {logical.strip()[:60]!r}")
            if not name:
                raise ConfigError(path, line, f"missing attribute name: {logical.strip()[:60]!r}")
            if len(name.split()) > 1:
                raise ConfigError(path, line, f"white space in the parameter name {name!r}")
            if name in raw:
                warnings.append(f"{path}, line {line}: overriding earlier entry: {name}={raw[name]}")
            raw[name] = value.strip()
            origins[name] = Origin(path, line)
        conf = cls(path, raw, origins, transports=frozenset(transports))
        conf.check()
        conf.warnings = tuple(warnings + conf._unused(overrides))
        return conf

    def with_overrides(self, overrides: Mapping[str, str], origin: Origin | None = None) -> MainCf:
        """The view of a service that has `-o name=value` in master.cf. Raises `ConfigError`."""
        if not overrides:
            return self
        where = origin or Origin(self.path, 0)
        conf = MainCf(
            self.path,
            self._raw | dict(overrides),
            self._origins | dict.fromkeys(overrides, where),
            transports=self._transports,
            warnings=self.warnings,
        )
        conf.check()
        return conf

    # ---- what is known of them

    def is_set(self, name: str) -> bool:
        """Whether main.cf or an override names it (rather than the table's default)."""
        return name in self._raw

    def knows(self, name: str) -> bool:
        """Whether the parameter table has it, or it is one of a transport of master.cf."""
        return parameter(name, self._transports) is not None

    def origin(self, name: str) -> Origin:
        """Where it was written; line 0 of main.cf for a default."""
        return self._origins.get(name, Origin(self.path, 0))

    def error(self, name: str, message: str) -> ConfigError:
        """A `ConfigError` at the place where `name` was set."""
        path, line = self.origin(name)
        return ConfigError(path, line, f"{name}: {message}")

    # ---- checks

    def check(self) -> None:
        """Expand and type-check everything that was written. Raises `ConfigError`."""
        for name in self._raw:
            value = self.str(name)
            known = parameter(name, self._transports)
            problem = known.problem(value) if known is not None else None
            if problem is not None:
                raise self.error(name, problem)

    def _typed(self, name: str, kind: Kind) -> str:
        known = self._known(name)
        assert known.kind is kind, f"{name} is a {known.kind.value} parameter"
        value = self.str(name)
        if name not in self._raw or "$" in self._raw[name]:
            problem = known.problem(value)
            if problem is not None:
                raise self.error(name, problem)
        return value

    def _known(self, name: str) -> Parameter:
        known = parameter(name, self._transports)
        assert known is not None, f"{name} is not in the parameter table"
        return known

    def _lookup(self, name: str) -> str | None:
        raw = self._raw.get(name)
        if raw is not None:
            return raw
        match name:
            case "myhostname":
                host = socket.gethostname()
                return host if "." in host else f"{host}.{self._raw.get('mydomain', 'localdomain')}"
            case "mydomain":
                return self.str("myhostname").partition(".")[2] or "localdomain"
            case "mynetworks":
                from mailstack.config.postfix.interfaces import default_networks  # seldom left to the machine

                style = self.str("mynetworks_style")
                return default_networks(style, self.list("inet_interfaces"), self.list("inet_protocols"))
            case "config_directory":
                return str(self.path.parent.absolute())
        known = parameter(name, self._transports)
        return None if known is None else known.default

    def _unused(self, overrides: Iterable[str]) -> list[str]:
        """One warning for each name that nobody acts on, in the file's order."""
        used: set[str] = set()
        for value in (*self._raw.values(), *overrides):
            used |= references(value)
        used.update(words(self._raw.get("smtpd_restriction_classes", "")))
        warnings = []
        for name, (path, line) in self._origins.items():
            known = parameter(name, self._transports)
            if (known is not None and known.honoured) or name in used or name in INSTALLATION:
                continue
            from mailstack.postfix_refusals import REFUSED  # seldom needed

            reason = REFUSED.get(name, "")
            if self._as_it_is(name, reason):
                continue
            text = (
                f"{name} is not honoured: {reason}"
                if reason
                else f"unused parameter: {name}={self._raw[name]}"
            )
            warnings.append(f"{path}, line {line}: {text}")
        return warnings

    def _as_it_is(self, name: _Str, reason: _Str) -> _Bool:
        """Whether a value that nobody acts on asks for what is done anyway, or for nothing."""
        value = self._raw[name]
        match name:
            case "biff":
                return value == "no"
            case "debug_peer_level":
                return not self._raw.get("debug_peer_list")
            case _:
                return value in ("yes", "no") and reason.partition(":")[0] == f"always {value}"

    # ---- values

    def str(self, name: _Str) -> _Str:
        """The expanded value; empty when it has none. Raises `ConfigError` when it cannot be expanded."""
        value = self._expanded.get(name)
        if value is None:
            try:
                value = expand(self._lookup(name) or "", self._lookup, (name,))
            except ExpansionError as error:
                raise self.error(name, str(error)) from None
            self._expanded[name] = value
        return value

    def raw(self, name: _Str) -> _Str:
        """The value as it was written: for templates with `$names` that are no parameters."""
        return self._lookup(name) or ""

    def bool(self, name: _Str) -> _Bool:
        return self._typed(name, Kind.BOOL) == "yes"

    def int(self, name: _Str) -> _Int:
        return int(self._typed(name, Kind.INT))

    def size(self, name: _Str) -> _Int:
        """Octets; 0 means no limit where the table's lower bound is 0."""
        return int(self._typed(name, Kind.SIZE))

    def time(self, name: _Str) -> float:
        """Seconds."""
        seconds = parse_time(self._typed(name, Kind.TIME), self._known(name).unit)
        assert seconds is not None  # `check` has parsed it
        return seconds

    def list(self, name: _Str) -> _List:
        """The words of a list; `{ … }` groups are one word, with their braces."""
        return words(self.str(name))
