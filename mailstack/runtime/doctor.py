"""Read-only findings about this machine and a project: what works, what does not, and the fix."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from mailstack.runtime import daemon, image, native, ports
from mailstack.runtime.errors import RuntimeFailure
from mailstack.runtime.model import Check
from mailstack.runtime.state import list_states, state_home

if TYPE_CHECKING:
    from mailstack.runtime.api import Project


def checks(project: Project | None, environ: Mapping[str, str]) -> list[Check]:
    """Every finding, in the order of a start: interpreter, folder, ports, servers, Docker, the project."""
    found = [_python(), _event_loop(), _state(environ), _standard_ports(), *_engines(environ)]
    found += _docker(environ)
    if project is not None:
        found += _project(project)
    return found


def _python() -> Check:
    return Check("python", "pass", f"Python {sys.version.split()[0]} at {sys.executable}")


def _event_loop() -> Check:
    from importlib.util import find_spec

    if find_spec("uvloop") is not None:
        return Check("event-loop", "pass", "uvloop is installed")
    return Check(
        "event-loop",
        "warn",
        "uvloop is missing: the services use asyncio's slower loop",
        "pip install uvloop",
    )


def _state(environ: Mapping[str, str]) -> Check:
    home = state_home(environ)
    nearest = home
    while not nearest.exists():
        nearest = nearest.parent
    if not os.access(nearest, os.W_OK | os.X_OK):
        return Check(
            "state", "fail", f"{nearest} cannot be written", "set XDG_STATE_HOME to a folder that can"
        )
    mode = home.stat().st_mode & 0o077 if home.exists() else 0
    if mode & 0o022:
        return Check("state", "warn", f"others may write to {home}", f"chmod 700 {home}")
    names = [state.project for state in list_states(home)]
    return Check("state", "pass", f"state is kept in {home}" + (f" ({', '.join(names)})" if names else ""))


def _standard_ports() -> Check:
    if ports.standard_ports_allowed():
        return Check(
            "standard-ports", "pass", "ports below 1024 may be bound: each stack gets addresses of its own"
        )
    return Check(
        "standard-ports",
        "warn",
        "ports below 1024 may not be bound: process stacks are reached at their published ports only",
        "sudo sysctl net.ipv4.ip_unprivileged_port_start=24",
    )


def _engines(environ: Mapping[str, str]) -> Iterator[Check]:
    """Which servers of others can stand in the place of ours; none is needed where no spec asks for it."""
    for engine, program in native.PROGRAM.items():
        path = native.find(engine, environ)
        if path is not None and engine == "postfix" and os.geteuid() != 0:
            yield Check(f"engine-{engine}", "pass", f"there is {path}, but engine: postfix needs root")
        elif path is not None:
            yield Check(f"engine-{engine}", "pass", f"engine: {engine} would run {path}")
        else:
            text = f"no {program}: engine: {engine} cannot be used (Debian: {native.PACKAGE[engine]})"
            yield Check(f"engine-{engine}", "pass", text)


def _docker(environ: Mapping[str, str]) -> Iterator[Check]:
    try:
        found = daemon.connect(environ)
    except RuntimeFailure as error:
        yield Check("docker", "warn", error.message, error.hint)
        return
    with found:
        yield from _daemon(found, environ)


def _daemon(found: daemon.Daemon, environ: Mapping[str, str]) -> Iterator[Check]:
    where = f" on {found.remote}" if found.remote else ""
    yield Check("docker", "pass", f"a Docker daemon answers at {found.where}{where}")
    if not found.limits:
        yield Check(
            "docker-limits",
            "warn",
            "the daemon cannot limit memory: containers run without a limit",
            "rootless Docker needs the memory controller delegated (systemd, cgroup v2)",
        )
    try:
        tag = image.tag()
        if image.present(found.api):
            yield Check("image", "pass", f"the image {tag} is there")
            return
        why = image.why_not_available(environ)
    except RuntimeFailure as error:
        yield Check("image", "warn", error.message, error.hint)
        return
    if why:
        yield Check("image", "warn", why, "mailstack image build --base IMAGE")
    else:
        yield Check(
            "image", "pass", f"the image {tag} will be built by the first `mailstack --runtime docker up`"
        )


def _project(project: Project) -> Iterator[Check]:
    try:
        status = project.status()
    except RuntimeFailure as error:
        yield Check("project", "fail", error.message, error.hint)
        return
    if status.runtime is None:
        yield Check("project", "pass", f"{project.name} is not up")
        return
    for service in status.services:
        level = "pass" if service.health == "ready" else "fail"
        text = f"{service.service} is {service.health}" + (f": {service.detail}" if service.detail else "")
        fix = "" if level == "pass" else f"mailstack logs {service.service}; mailstack up"
        yield Check(service.service, "pass" if level == "pass" else "fail", text, fix)
