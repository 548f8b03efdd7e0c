"""The process's sockets: opened from the configuration, changed on reload, closed at the end.

A reload opens what is new before it closes what is gone, so that a failure leaves everything as it was.
"""

from __future__ import annotations

import grp
import os
import pwd
import socket
import ssl
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

from mailstack.config.dovecot import DovecotConfig, InetListener, Saslauthd, UnixListener
from mailstack.net.listen import Handler, Server, bind_tcp, bind_unix, has_ipv6
from mailstack.net.log import Log
from mailstack.net.proxied import BehindProxy
from mailstack.net.stream import Stream
from mailstack.net.tasks import TaskSet
from mailstack.wire.proxy import ProxyError

Listener = InetListener | UnixListener | Saslauthd
REFUSALS: Mapping[str, bytes] = {
    "imap": b"* BYE Too many connections, try again later.\r\n",
    "pop3": b"-ERR [SYS/TEMP] Too many connections, try again later.\r\n",
    "lmtp": b"421 4.3.2 Too many connections, try again later.\r\n",
}
_NO_SESSIONS = ("auth", "saslauthd", "doveadm", "quota-status")
"""Their clients are not waited for at the end."""
RESERVED_FILES = 64
HANDSHAKE_TIMEOUT = 30.0


class Listeners:
    """All listening sockets. `handlers` by service: imap, pop3, lmtp, auth, saslauthd, doveadm."""

    def __init__(
        self, handlers: Mapping[str, Handler], tasks: TaskSet, auth_tasks: TaskSet, log: Log
    ) -> None:
        self._handlers = handlers
        self._tasks = tasks
        self._auth_tasks = auth_tasks
        self._log = log
        self._servers: dict[Listener, Server] = {}
        self._tls: ssl.SSLContext | None = None
        self._config: DovecotConfig | None = None

    async def apply(self, config: DovecotConfig, tls: ssl.SSLContext | None) -> None:
        """Have exactly the configuration's listeners open. Raises `OSError`; nothing is changed then."""
        wanted = self._wanted(config)
        opened: dict[Listener, socket.socket] = {}
        try:
            for listener in wanted:
                if listener not in self._servers:
                    opened[listener] = _bind(listener)
        except (OSError, LookupError):
            for sock in opened.values():
                sock.close()
            raise
        for listener in [listener for listener in self._servers if listener not in wanted]:
            self._close(listener)
        self._tls, self._config = tls, config
        limit = _session_limit()
        for listener, sock in opened.items():
            service = _service(listener)
            proxied = _behind(listener)
            server = Server(
                sock,
                self._behind_proxy(service, ssl=_implicit(listener)) if proxied else self._handlers[service],
                self._auth_tasks if service in _NO_SESSIONS else self._tasks,
                name=service,
                tls=tls if _implicit(listener) and not proxied else None,
                tls_first=proxied,
                begins=BehindProxy,
                limit=limit,
                refusal=REFUSALS.get(service, b""),
            )
            self._servers[listener] = server
        for listener, server in self._servers.items():
            if listener in opened:
                await server.start()
            elif tls is not None and _implicit(listener) and not _behind(listener):
                server.replace_tls(tls)

    def stop(self) -> None:
        """Accept no more and take the socket files away; sessions go on."""
        for listener in list(self._servers):
            self._close(listener)

    def streams(self, service: str) -> list[Stream]:
        """The connections of one service."""
        return [
            stream
            for server in self._servers.values()
            if server.name == service
            for stream in server.sessions
        ]

    def _behind_proxy(self, service: str, *, ssl: bool) -> Handler:
        """A handler that learns first for whom the proxy stands (haproxy_trusted_networks)."""

        async def handler(stream: Stream) -> None:
            assert isinstance(stream, BehindProxy)
            assert self._config is not None
            proxy = stream.peer[0]
            networks = [ip_network(text, strict=False) for text in self._config.haproxy_trusted_networks]
            if not any(ip_address(proxy) in network for network in networks):
                self._log.warning(f"{service}-login: haproxy: Client not trusted (rip={proxy})")
                return
            try:
                await stream.identify(self._config.haproxy_timeout)
                await stream.begin(self._tls if ssl else None, HANDSHAKE_TIMEOUT)
            except TimeoutError:
                self._log.warning(f"{service}-login: haproxy: Client timed out (rip={proxy})")
            except (ProxyError, OSError) as error:
                self._log.warning(f"{service}-login: haproxy: {error} (rip={proxy})")
            else:
                await self._handlers[service](stream)

        return handler

    def _close(self, listener: Listener) -> None:
        self._servers.pop(listener).stop()
        if not isinstance(listener, InetListener):
            Path(listener.path).unlink(missing_ok=True)

    def _wanted(self, config: DovecotConfig) -> dict[Listener, None]:
        wanted: dict[Listener, None] = {}
        ipv6 = None
        for listener in config.inet_listeners:
            if listener.address.strip("[]") == "::":
                ipv6 = has_ipv6() if ipv6 is None else ipv6
                if not ipv6:
                    continue  # `listen = *, ::` is the default, also where there is no IPv6
            wanted[replace(listener, address=listener.address.strip("[]"))] = None
        wanted.update(dict.fromkeys(config.unix_listeners))
        if config.saslauthd is not None:
            wanted[config.saslauthd] = None
        return wanted


def _implicit(listener: Listener) -> bool:
    return isinstance(listener, InetListener) and listener.ssl


def _behind(listener: Listener) -> bool:
    return isinstance(listener, InetListener) and listener.haproxy


def _service(listener: Listener) -> str:
    return "saslauthd" if isinstance(listener, Saslauthd) else listener.service


def _bind(listener: Listener) -> socket.socket:
    if isinstance(listener, InetListener):
        return bind_tcp(listener.address, listener.port)
    sock = bind_unix(listener.path, listener.mode)
    if isinstance(listener, UnixListener) and (listener.user or listener.group) and os.geteuid() == 0:
        uid = pwd.getpwnam(listener.user).pw_uid if listener.user else -1
        gid = grp.getgrnam(listener.group).gr_gid if listener.group else -1
        os.chown(listener.path, uid, gid)
    return sock


def _session_limit() -> int:
    """How many sessions fit into the process's file descriptors; the soft limit is raised to the hard one."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):
            pass
    if soft == resource.RLIM_INFINITY:
        return 1_000_000
    return max(16, soft - RESERVED_FILES)
