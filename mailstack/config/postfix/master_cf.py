"""master.cf: one `MasterService` per line (master(5) of Postfix 3.7).

    # service type  private unpriv  chroot  wakeup  maxproc command + args
    127.0.0.1:2525 inet n   -       n       -       2       smtpd
        -o smtpd_tls_security_level=may -o { smtpd_banner = $myhostname hello }

What cannot be read raises `ConfigError` with file and line.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from mailstack.config.errors import ConfigError
from mailstack.config.postfix.expand import references
from mailstack.config.postfix.lines import logical_lines, read_text, words
from mailstack.config.postfix.main_cf import Origin

TYPES = ("inet", "unix", "unix-dgram", "fifo", "pass")
WITHOUT_ARGUMENTS = frozenset(
    ("smtpd", "smtp", "lmtp", "local", "virtual", "error", "discard", "pickup", "qmgr")
)
"""Daemons of ours that know no options but `-o` and `-v`."""
KNOWN_PORTS = MappingProxyType({"lmtp": 24, "smtp": 25, "smtps": 465, "submissions": 465, "submission": 587})
"""Service names that need no /etc/services (known_tcp_ports)."""

_WAKEUP = re.compile(r"(\d{1,9})(\??)\Z")
_NOWHERE = Origin(Path("master.cf"), 0)
_EMPTY: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class MasterService:
    """One line of master.cf.

    `wakeup` is in seconds, 0 for never (`wakeup_if_used`: the `?` suffix). `maxproc` is None for `-`
    (default_process_limit) and 0 for no limit. `private`, `unprivileged` and `chroot` are what the line says,
    with `-` resolved to y, y and n. `overrides` has a service_name where one of them asks for it.
    """

    name: str
    type: str
    private: bool
    unprivileged: bool
    chroot: bool
    wakeup: int
    wakeup_if_used: bool
    maxproc: int | None
    command: str
    arguments: tuple[str, ...]
    overrides: Mapping[str, str] = field(default_factory=lambda: _EMPTY, hash=False)
    verbose: bool = False
    origin: Origin = _NOWHERE
    repeated: bool = False
    """Whether an earlier line has the same name and type; this one counts."""

    def endpoint(self) -> tuple[str, int]:
        """`(host or "", port)` of an inet service. Raises `ConfigError` for a service name nobody knows."""
        host, _, port = self.name.rpartition(":")
        return host.strip("[]"), port_number(port, self.origin)

    def key(self) -> tuple[str, str]:
        """What must be unique in master.cf."""
        return self.name, self.type


def port_number(text: str, origin: Origin) -> int:
    """A port, by number or by service name. Raises `ConfigError` at `origin`."""
    if text.isascii() and text.isdecimal():
        if not 0 < int(text) < 65536:
            raise ConfigError(origin.path, origin.line, f"bad port number {text!r}")
        return int(text)
    if text in KNOWN_PORTS:
        return KNOWN_PORTS[text]
    try:
        return socket.getservbyname(text, "tcp")
    except (OSError, UnicodeError):
        raise ConfigError(origin.path, origin.line, f"unknown service: {text!r}") from None


def read_master(directory: Path | str) -> tuple[MasterService, ...]:
    """Every service of `directory/master.cf`, in its order; a later line of the same name and type wins.

    Raises `ConfigError`.
    """
    path = Path(directory) / "master.cf"
    return parse_master(read_text(path), path)


def enabled(services: Iterable[MasterService], words: Sequence[str]) -> tuple[MasterService, ...]:
    """The services that master_service_disable leaves: its words are `name.type` or `type`, with `!` for an
    exception; the first that matches a service decides."""
    found = []
    for service in services:
        names = (f"{service.name}.{service.type}", f"{service.name}/{service.type}", service.type)
        word = next((word for word in words if word.lstrip("!") in names), "!")
        if word.startswith("!"):
            found.append(service)
    return tuple(found)


def parse_master(text: str, path: Path) -> tuple[MasterService, ...]:
    """The same for text that is at hand; `path` is for messages. Raises `ConfigError`."""
    services: dict[tuple[str, str], MasterService] = {}
    for line, logical in logical_lines(text, path):
        service = _service(logical, Origin(path, line))
        services[service.key()] = replace(service, repeated=service.key() in services)
    return tuple(services.values())


def _service(logical: str, origin: Origin) -> MasterService:
    fields = words(logical, " \t\r\n")
    if len(fields) < 8:
        names = ("service", "type", "private", "unprivileged", "chroot", "wakeup", "maxproc", "command")
        raise _bad(origin, f"missing {names[len(fields)]!r} field: {logical.strip()[:60]!r}")
    name, kind, private, unprivileged, chroot, wakeup, maxproc, command, *arguments = fields
    if kind not in TYPES:
        raise _bad(origin, f"bad transport type {kind!r}; expected one of {', '.join(TYPES)}")
    seconds, lazy = _wakeup(wakeup, origin)
    overrides, verbose, rest = _arguments(arguments, origin)
    if any("service_name" in references(value) for value in overrides.values()):
        overrides.setdefault("service_name", name)
    service = MasterService(
        name=name,
        type=kind,
        private=_flag(private, "private", True, origin),
        unprivileged=_flag(unprivileged, "unprivileged", True, origin),
        chroot=_flag(chroot, "chroot", False, origin),
        wakeup=seconds,
        wakeup_if_used=lazy,
        maxproc=_maxproc(maxproc, origin),
        command=command,
        arguments=rest,
        overrides=MappingProxyType(overrides),
        verbose=verbose,
        origin=origin,
    )
    if kind == "inet":
        service.endpoint()
        if service.private:
            raise _bad(origin, "an inet service cannot be private")
    if rest and command in WITHOUT_ARGUMENTS:
        raise _bad(origin, f"unexpected command-line argument: {rest[0]}")
    return service


def _bad(origin: Origin, message: str) -> ConfigError:
    return ConfigError(origin.path, origin.line, message)


def _flag(text: str, name: str, default: bool, origin: Origin) -> bool:
    if text not in ("y", "n", "-"):
        raise _bad(origin, f"field {name!r} must be y, n or -, not {text!r}")
    return default if text == "-" else text == "y"


def _wakeup(text: str, origin: Origin) -> tuple[int, bool]:
    if text == "-":
        return 0, False
    found = _WAKEUP.match(text)
    if found is None:
        raise _bad(origin, f"bad wakeup time {text!r}")
    return int(found[1]), bool(found[2])


def _maxproc(text: str, origin: Origin) -> int | None:
    if text == "-":
        return None
    if not (text.isascii() and text.isdecimal()):
        raise _bad(origin, f"bad process limit {text!r}")
    return int(text)


def _arguments(arguments: list[str], origin: Origin) -> tuple[dict[str, str], bool, tuple[str, ...]]:
    """Split off `-o` and `-v` (every daemon has them); return overrides, verbosity and the rest."""
    overrides: dict[str, str] = {}
    verbose = False
    rest: list[str] = []
    pending = [_unbrace(word, origin) for word in arguments]
    while pending:
        word = pending.pop(0)
        if word.startswith("-o"):
            setting = word[2:] or (pending.pop(0) if pending else "")
            name, equals, value = setting.partition("=")
            if not equals or not name.strip() or len(name.split()) > 1:
                raise _bad(origin, f"-o needs name=value, not {setting!r}")
            overrides[name.strip()] = value.strip()
        elif word and word.strip("v") == "-":
            verbose = verbose or "v" in word
        else:
            rest.append(word)
    return overrides, verbose, tuple(rest)


def _unbrace(word: str, origin: Origin) -> str:
    """`{ name = value }` without its braces and the white space inside them."""
    if not word.startswith("{"):
        return word
    if not word.endswith("}"):
        raise _bad(origin, f"missing '}}' in {word[:60]!r}")
    return word[1:-1].strip()
