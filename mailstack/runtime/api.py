"""The one door of this room: what the command line calls.

`open_project` finds a project (by spec or by name) and returns a `Project`; every method may raise
`errors.RuntimeFailure` (with its exit status and a hint), and those that need the spec also raise
`mailstack.spec.SpecErrors`. Heavy imports (spec, render, cryptography, docker) happen inside the methods that
need them, so that `mailstack status` starts fast.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mailstack.runtime.model import (
    Check,
    DownResult,
    Endpoints,
    ImageInfo,
    LogLine,
    Plan,
    ProgressCallback,
    ProjectSummary,
    RuntimeWish,
    ServiceKey,
    StackStatus,
    UpResult,
    no_progress,
)

if TYPE_CHECKING:
    from mailstack.render import Tree
    from mailstack.spec import Stack


class Project:
    """One project, whether it runs or not. Make it with `open_project`.

    name: the project's name. spec_path: absolute path of its spec, or None when only the name is known and
    no `up` has left a spec's path behind.
    """

    name: str
    spec_path: Path | None
    wish: RuntimeWish
    state_dir: Path

    @property
    def stack(self) -> Stack:
        """The checked spec, loaded once. Raises `SpecErrors`, `UsageProblem` (there is no spec)."""

    def plan(self, *, build: bool = False) -> Plan:
        """What `up` would do; changes nothing on disk, in the daemon or among the processes."""

    def up(
        self,
        progress: ProgressCallback = no_progress,
        *,
        build: bool = False,
        timeout: float = 60.0,
        wait: bool = True,
    ) -> UpResult:
        """Bring the stack to the spec. With `wait`, returns when every service answers its own protocol.

        Raises `NotReady` after `timeout` seconds, `PortTaken`, `NoPrivilege`, `NoDocker`, `NoImage`,
        `ServiceDied`. A stack that this call began is removed again when it raises.
        """

    def down(self, progress: ProgressCallback = no_progress, *, volumes: bool = False) -> DownResult:
        """Stop and remove; with `volumes` the mail, the queue and the state folder too. Nothing there: no error."""

    def status(self, *, probe_timeout: float = 2.0) -> StackStatus:
        """Services, health (each asked now, over its own protocol), addresses, ports. Needs no spec."""

    def endpoints(self) -> Endpoints:
        """Where the stack is reached. Raises `NoSuchProject` when it has never been up. Needs no spec."""

    def env(self) -> dict[str, str]:
        """The `MAILSTACK_…` variables of `mailstack env`, in their documented order. Raises as `endpoints`."""

    def logs(
        self, services: Sequence[str] = (), *, follow: bool = False, since: float | None = None
    ) -> Iterator[LogLine]:
        """Log lines, oldest first; with `follow` without end. `since`: seconds before now."""

    def queue(self) -> list[dict[str, Any]]:
        """The queue as `postqueue -j` prints it: one mapping per message."""

    def rendered(self) -> dict[str, bytes]:
        """The tree that the running stack has, relative path -> content; empty when it has never been up."""

    def render(self) -> Tree:
        """The tree that `up` would write now, with the addresses and ports that this project has."""


def open_project(
    spec_path: Path | None = None,
    project: str | None = None,
    *,
    runtime: RuntimeWish = "auto",
    environ: Mapping[str, str] = os.environ,
) -> Project:
    """Find a project. `spec_path`: its file; `project`: its name (wins over the spec's own).

    With a name alone, the state folder of that name tells where the spec is. Raises `NoSuchProject` when
    neither is given.
    """


def render_host(stack: Stack) -> Tree:
    """The tree for an administrator's own machine: standard ports on all interfaces (`mailstack render`)."""


def list_projects(environ: Mapping[str, str] = os.environ) -> list[ProjectSummary]:
    """Every project of this user that has a state folder, by name."""


def image_build(base: str | None = None, progress: ProgressCallback = no_progress) -> ImageInfo:
    """Build the container image on `base` (default `python:3.11-slim`). Raises `NoDocker`, `NoImage`."""


def doctor_checks(project: Project | None = None, environ: Mapping[str, str] = os.environ) -> list[Check]:
    """Read-only findings about this machine and, when given, the project."""
