"""What master.cf's columns mean to our few processes, and what they cannot mean (master(5) of Postfix 3.7).

`maxproc` of the smtpd lines is the number of workers, `max_use` and `max_idle` are their lives; the `wakeup`
of pickup is its timer. The rest of the columns is for processes that are not there: `warnings` names what was
asked for in vain.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mailstack.config.postfix import MainCf, MasterService
from mailstack.net.listen import has_ipv6

SINGLE = ("pickup", "qmgr")
"""Daemons of which there is always one."""


@dataclass(frozen=True, slots=True)
class Workers:
    """How many smtpd workers there are and when one ends by itself.

    `max_use`: connections; 0: any number. `max_idle`: seconds without a session, after which a worker ends
    until a client comes; 0: never. Both hold only where they are set: a worker serves many clients at once
    and is cheap to keep, so Postfix's defaults (100 connections, 100 s) would only cost.
    """

    count: int
    max_use: int
    max_idle: float

    @classmethod
    def read(cls, conf: MainCf, services: Sequence[MasterService]) -> Workers:
        """Where lines differ, the largest number of processes and the shortest life count for all.

        There is at most one process for each processor. A master.cf made for Postfix may say 100, for there
        each serves one client. Ours serve any number; more of them only take the processors from each other,
        and all that are idle are woken by each client that comes.

        Raises `ConfigError`.
        """
        counts, uses, idles = [0], [0], [0.0]
        processors = os.cpu_count() or 1
        most = min(processors, conf.int("default_process_limit"))
        for service in smtpd_lines(services):
            view = conf.with_overrides(service.overrides, service.origin)
            counts.append(min(service.maxproc or processors, most))
            uses.append(view.int("max_use") if view.is_set("max_use") else 0)
            idles.append(view.time("max_idle") if view.is_set("max_idle") else 0.0)
        return cls(max(counts), min(filter(None, uses), default=0), min(filter(None, idles), default=0.0))


def smtpd_lines(services: Sequence[MasterService]) -> list[MasterService]:
    """The lines that our workers serve."""
    return [one for one in services if one.type == "inet" and one.command == "smtpd"]


def warnings(services: Sequence[MasterService]) -> Iterator[str]:
    """What master.cf asks for in vain, a line each for the log."""
    chrooted = []
    for one in services:
        if one.repeated:
            yield f'duplicate master.cf entry for service "{one.name}" ({_path(one)}) -- using the last entry'
        place = f"{one.origin.path}, line {one.origin.line}: {one.name}/{one.type}"
        ours = one.type == "inet" and one.command == "smtpd"
        if one.command in ("smtpd", *SINGLE) and one.chroot:
            chrooted.append(one.name)
        if (one.type in ("inet", "pass") and not ours) or one.command == "spawn":
            yield f"{place}: {one.command} is not served here: nothing listens"
        if one.verbose:
            yield f"{place}: -v means nothing: {one.command} has no more to say"
        if ours and one.wakeup:
            yield f"{place}: the wake-up time means nothing: smtpd waits for clients"
        if one.command in SINGLE and one.maxproc not in (None, 1):
            yield f"{place}: the process limit means nothing: there is one {one.command}"
    if chrooted:
        yield f"{services[0].origin.path}: chroot means nothing here: {', '.join(chrooted)}"


def _path(service: MasterService) -> str:
    """Where clients find a service, as Postfix's master(8) has it in its log."""
    if service.type == "inet":
        host, colon, port = service.name.rpartition(":")
        return f"[{host.strip('[]')}]:{port}" if colon else port
    return f"{'private' if service.private else 'public'}/{service.name}"


def listen_addresses(conf: MainCf) -> list[str]:
    """inet_interfaces and inet_protocols, as addresses or host names to bind. Raises `ConfigError`."""
    protocols = conf.list("inet_protocols")
    four = "all" in protocols or "ipv4" in protocols
    six = ("all" in protocols or "ipv6" in protocols) and has_ipv6()
    found: list[str] = []
    for word in conf.list("inet_interfaces"):
        match word:
            case "all":
                found += ["0.0.0.0"] * four + ["::"] * six
            case "loopback-only":
                found += ["127.0.0.1"] * four + ["::1"] * six
            case _:
                found.append(word.strip("[]"))
    if not found:
        raise conf.error("inet_interfaces", "no address to listen on")
    return list(dict.fromkeys(found))


def resolve_host(host: str) -> list[str]:
    """The addresses of a host in master.cf or inet_interfaces. Raises `OSError` naming it."""
    try:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise OSError(error.errno, f"host not found: {host}") from None
    return list(dict.fromkeys(str(info[4][0]) for info in infos))
