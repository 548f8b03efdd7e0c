"""What `up` has to do: a pure comparison of what is wanted with what is there.

The same inputs give the same steps; nothing is looked up here. A service's inputs are its *shape*
(everything outside the files: command, listeners, image, limits) and its files with their digests. A change
of shape makes it anew, a change of a file that it reads again on SIGHUP reloads it, and any other change
restarts it.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from mailstack.runtime.model import SERVICES, RuntimeKind, ServiceKey, Step
from mailstack.runtime.state import Deployed

FILES_OF: Mapping[ServiceKey, tuple[str, ...]] = {
    "dns": ("bind/*",),
    "mailbox": ("dovecot/*", "tls/*"),
    "mta": ("postfix/*", "sasl/*", "tls/*"),
}
"""Which files of the tree (and `tls/`) a service reads."""

RELOADED: Mapping[ServiceKey, tuple[str, ...]] = {
    "dns": ("bind/*",),
    "mailbox": ("dovecot/users",),
    "mta": tuple(f"postfix/{name}" for name in ("aliases", "virtual", "vmailbox", "relocated", "transport")),
}
"""Which of them take effect by SIGHUP; the others are read at the start only."""

Condition = Literal["running", "stopped", "missing"]


@dataclass(frozen=True, slots=True)
class FoundService:
    """A service as it is."""

    condition: Condition
    deployed: Deployed | None = None
    """What it was started from; None when that is not known."""


MISSING = FoundService("missing")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the spec asks for."""

    kind: RuntimeKind
    services: Mapping[ServiceKey, Deployed]
    frame: tuple[str, ...] = ()
    """Networks and volumes, as `network NAME` and `volume NAME`, in order of creation."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is there."""

    services: Mapping[ServiceKey, FoundService] = field(default_factory=dict)
    frame: frozenset[str] = frozenset()
    unfit: Mapping[str, str] = field(default_factory=dict)
    """Members of the frame that have to be made anew -> why (a network with another subnet)."""
    strays: tuple[str, ...] = ()
    """Containers of the project that have no place in it: left by an update that was cut off."""

    @property
    def empty(self) -> bool:
        return not self.services and not self.frame and not self.strays


def make_plan(wanted: Wanted, found: Found) -> tuple[Step, ...]:
    """The steps from `found` to `wanted`, in order; none when there is nothing to do."""
    steps: list[Step] = []
    steps += [Step("remove", stray, "left over") for stray in found.strays]
    again = [item for item in wanted.frame if item in found.unfit]
    # what hangs on a network or volume that is made anew has to be made anew with it
    lost = set(SERVICES) if again else set()
    for item in again:
        steps.append(Step("remove", item, found.unfit[item]))
    for item in wanted.frame:
        if item in found.unfit:
            steps.append(Step("create", item, found.unfit[item]))
        elif item not in found.frame:
            steps.append(Step("create", item, "not there yet"))
    changed = _changed_files(wanted, found)
    if changed:
        first = not any(service.deployed for service in found.services.values())
        steps.append(Step("write", "configuration", "first time" if first else _list(changed)))
    for service in SERVICES:
        have = found.services.get(service, MISSING)
        step = _service_step(wanted.kind, service, wanted.services[service], have)
        if service in lost and have.condition != "missing":
            step = Step("recreate", service, f"{again[0]} is made anew")
        if step is not None:
            steps.append(step)
    return tuple(steps)


def files_of(service: ServiceKey, digests: Mapping[str, str]) -> dict[str, str]:
    """The part of a tree's digests that one service reads."""
    return {path: digest for path, digest in sorted(digests.items()) if matches(path, FILES_OF[service])}


def _service_step(kind: RuntimeKind, service: ServiceKey, want: Deployed, have: FoundService) -> Step | None:
    if have.condition == "missing":
        return Step("create" if kind == "docker" else "start", service, "not there yet")
    # a container's labels cannot be changed: it is made anew where a process is started again
    again = "recreate" if kind == "docker" else "restart"
    if have.deployed is None:
        return Step(again, service, "it is not known what it runs with")
    shape = _difference(want.shape, have.deployed.shape)
    if shape:
        return Step(again, service, f"{_list(shape)} changed")
    files = _difference(want.files, have.deployed.files)
    lasting = [path for path in files if not matches(path, RELOADED[service])]
    if lasting:
        return Step(again, service, f"{_list(lasting)} changed")
    if have.condition == "stopped":
        return Step("start", service, "it was not running")
    return Step("reload", service, f"{_list(files)} changed") if files else None


def _changed_files(wanted: Wanted, found: Found) -> list[str]:
    changed: set[str] = set()
    for service, want in wanted.services.items():
        deployed = found.services.get(service, MISSING).deployed
        changed.update(_difference(want.files, deployed.files if deployed is not None else {}))
    return sorted(changed)


def _difference(want: Mapping[str, str], have: Mapping[str, str]) -> list[str]:
    return sorted(path for path in {*want, *have} if want.get(path) != have.get(path))


def matches(path: str, patterns: Iterable[str]) -> bool:
    """`path` fits one of the shell patterns (`*` also matches `/`)."""
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _list(names: list[str]) -> str:
    if len(names) <= 3:
        return " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]
    return f"{', '.join(names[:2])} and {len(names) - 2} more"
