"""`service … { inet_listener … unix_listener … }`: which sockets the process opens.

Listeners imap/imaps and pop3/pop3s exist on their standard ports unless the file says otherwise (port = 0
switches one off). unix_listener sockets are opened where the file names them, and only there.
`process_limit` in `service imap`, `service pop3` and `service lmtp` is a limit of sessions.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from mailstack.config.dovecot import values
from mailstack.config.dovecot.model import InetListener, UnixListener
from mailstack.config.dovecot.syntax import Origin, Section

_SERVICE = {"imap-login": "imap", "pop3-login": "pop3", "lmtp": "lmtp", "auth": "auth", "doveadm": "doveadm"}
_LIMITED = ("imap", "pop3", "lmtp")
_QUOTA_STATUS = "quota-status -p postfix"
_STANDARD = {
    "imap": (("imap", 143, False), ("imaps", 993, True)),
    "pop3": (("pop3", 110, False), ("pop3s", 995, True)),
}
_INET_KEYS = {"name", "address", "port", "ssl", "reuse_port"}
"""One process listens: nobody can tell what reuse_port is."""
_NOT_CLIENT = ("login", "auth-login", "tokenlogin")

Sockets = tuple[tuple[InetListener, ...], tuple[UnixListener, ...], dict[str, int], list[str]]


def read_listeners(
    root: Section,
    listen_at: Origin,
    listen: tuple[str, ...],
    base_dir: Path,
    protocols: Iterable[str],
    *,
    tls: bool,
) -> Sockets:
    """All sockets of the wanted services, limits of sessions, and warnings. Without `tls`, implicit-TLS
    listeners are left out.

    Raises `ConfigError`.
    """
    for address in listen:
        _check_address(address, listen_at)
    wanted = {*protocols, "auth", "doveadm", "quota-status"}
    inet: list[InetListener] = []
    unix: list[UnixListener] = []
    warnings: list[str] = []
    limits: dict[str, int] = {}
    named: dict[str, set[str]] = {service: set() for service in wanted}
    for section in root.all("service"):
        service = _SERVICE.get(section.name)
        known = ("process_limit", "client_limit") if section.name in _LIMITED else ()
        executable = section.get("executable")
        if section.name == "quota-status" and executable and executable.content().endswith(_QUOTA_STATUS):
            # However many clients: one process serves them all.
            service, known = "quota-status", ("executable", "client_limit")
        warnings += [
            f"{setting.origin}: service {section.name} {{ {setting.key} has no effect"
            for setting in section.settings.values()
            if setting.key not in known
        ]
        if section.name in _LIMITED and (limit := section.get("process_limit")) is not None:
            each = section.get("client_limit")
            limits[section.name] = values.number(limit, 1) * (values.number(each, 1) if each else 1)
        if service is None:
            warnings += [
                f"{part.origin}: service {section.name} {{ {part.type} {part.name} has no effect"
                for part in section.sections
                if part.settings
            ]
            continue
        for part in section.sections:
            if part.type == "inet_listener" and service != "doveadm":  # which needs no password here
                sockets = _inet(service, part, listen, warnings, tls=tls)
                if service in wanted:
                    named[service].add(part.name)
                    inet += sockets
            elif part.type == "unix_listener":
                paths = _unix(service, part, base_dir, warnings)
                if service in wanted:
                    unix += paths
            else:
                warnings.append(f"{part.origin}: service {section.name} {{ {part.type} has no effect")
    for service in sorted(wanted & set(_STANDARD)):
        for name, port, ssl in _STANDARD[service]:
            if name not in named[service] and (tls or not ssl):
                inet += [InetListener(service, name, address, port, ssl) for address in listen]
    return tuple(inet), tuple(unix), limits, warnings


def _inet(
    service: str, section: Section, listen: tuple[str, ...], warnings: list[str], *, tls: bool
) -> list[InetListener]:
    standard = {name: (port, ssl) for name, port, ssl in _STANDARD.get(service, ())}
    port, ssl = standard.get(section.name, (0, False))
    addresses: tuple[str, ...] = ()
    haproxy = False
    for setting in section.settings.values():
        if setting.key == "port":
            port = values.port(setting)
        elif setting.key == "ssl":
            ssl = values.boolean(setting)
        elif setting.key == "address":
            addresses = values.words(setting)
            for address in addresses:
                _check_address(address, setting.origin)
        elif setting.key == "haproxy":
            haproxy = values.boolean(setting)
        elif setting.key not in _INET_KEYS:
            raise setting.origin.error(f"Unknown setting: inet_listener {{ {setting.key}")
    if not port:
        return []
    if ssl and not tls:
        warnings.append(f"{section.origin}: inet_listener {section.name} is off because ssl = no")
        return []
    where = addresses or listen
    return [InetListener(service, section.name, address, port, ssl, haproxy) for address in where]


def _unix(service: str, section: Section, base_dir: Path, warnings: list[str]) -> list[UnixListener]:
    path = Path(os.path.join(base_dir, section.name))
    if service not in ("auth", "lmtp", "doveadm", "quota-status"):
        warnings.append(f"{section.origin}: unix_listener {section.name} has no effect in this service")
        return []
    if service == "auth" and (path.name.endswith(("-userdb", "-master")) or path.name in _NOT_CLIENT):
        # Dovecot tells by the name that this socket speaks to its own processes, which we do not have.
        if section.settings:
            warnings.append(
                f"{section.origin}: unix_listener {section.name}: no such clients here; not opened"
            )
        return []
    mode = 0o666 if service == "lmtp" else 0o600
    owner = {"user": "", "group": ""}
    for setting in section.settings.values():
        if setting.key == "mode":
            mode = values.mode(setting)
        elif setting.key in owner:
            owner[setting.key] = setting.content()
        elif setting.key != "path":
            raise setting.origin.error(f"Unknown setting: unix_listener {{ {setting.key}")
    if not mode:
        return []  # mode = 0 is Dovecot's way to switch a socket off
    return [UnixListener(service, path, mode, owner["user"], owner["group"])]


def _check_address(address: str, origin: Origin) -> None:
    """`*`, `::`, or an address literal; names are not looked up at start."""
    if address in ("*", "::", "[::]"):
        return
    import socket

    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, address.strip("[]"))
        except (OSError, ValueError):
            continue
        return
    raise origin.error(f"Invalid address {address}")
