"""What the process engine and the docker engine have in common: one protocol, and the values they exchange.

`up` (in `launch`) knows only this. An engine never reads the spec's file and never decides what has to change
(`plan` does); it says where a stack can live, what is there, and carries out steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Protocol

from mailstack.runtime.model import ExecResult, LogLine, RuntimeKind, ServiceKey, Step
from mailstack.runtime.plan import Found, Wanted
from mailstack.runtime.tree import TreeFile

if TYPE_CHECKING:
    from mailstack.runtime.state import Record
    from mailstack.spec import Stack

StepCallback = Callable[[Step], None]


@dataclass(frozen=True, slots=True)
class Ground:
    """Where a stack lives: its network and its ports."""

    network: IPv4Network
    addresses: Mapping[str, str]
    """Service -> address in the network; also `gateway`. Empty when services have no address of their own."""
    own: tuple[str, ...]
    """Protocols served at the service's own address on the standard port."""
    bind: str
    host: str
    """Where a client on this machine reaches the published ports."""
    ports: Mapping[str, int]
    """Protocol -> published port, for everything the spec turns on."""
    notes: tuple[str, ...] = ()
    """What the user should know."""


@dataclass(frozen=True, slots=True)
class Paths:
    """Where the servers see their files."""

    config_root: PurePosixPath
    queue: PurePosixPath
    mail: PurePosixPath
    run: PurePosixPath
    tls: PurePosixPath
    dns: PurePosixPath
    """Where the name server keeps what changes while it runs: journals, keys, serials."""
    uid: int
    gid: int
    """Whom the services run as."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything that carrying out a plan needs."""

    steps: tuple[Step, ...]
    files: Mapping[str, TreeFile]
    """The rendered tree and `tls/…`: path relative to the configuration root -> file."""
    wanted: Wanted
    ground: Ground


@dataclass(frozen=True, slots=True)
class Live:
    """A service as the operating system or the daemon sees it."""

    running: bool
    detail: str = ""
    """Why it does not run, in words."""
    pid: int | None = None
    container: str | None = None
    started_at: float | None = None
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class Swept:
    """What was removed, as words for the user."""

    removed: tuple[str, ...] = field(default=())


class Engine(Protocol):
    """One way to run the three services of one project."""

    kind: RuntimeKind

    def warm_up(self, record: Record) -> None:
        """Begin what takes time and will be needed for `apply`, beside the caller. `undo` ends it again."""
        ...

    def provide(self, *, build: bool, dry: bool) -> Step | None:
        """Have what the services run from (the image); made anew with `build`.

        Returns the step that this was, or would be with `dry`; None when it is there. Raises `NoImage`.
        """
        ...

    def settle(self, stack: Stack, record: Record) -> Ground:
        """Choose network and ports, keeping what `record` remembers. Changes nothing.

        Raises `PortTaken`, `NoPrivilege`, `MachineLacks`.
        """
        ...

    def begin(self, record: Record, ground: Ground) -> None:
        """Start, beside the caller, to make what a stack that is not there at all needs in any case.

        `undo` takes it back. After this, `find` still says what there was before.
        """
        ...

    def paths(self, record: Record) -> Paths:
        """Where the servers will see their files."""
        ...

    def names(self, ground: Ground) -> tuple[str, ...]:
        """Names and addresses beside those of the spec by which clients reach it: for certificates."""
        ...

    def wanted(self, stack: Stack, ground: Ground, digests: Mapping[str, str]) -> Wanted:
        """What the plan compares with; after `provide` and `settle`. `digests`: of `Launch.files`."""
        ...

    def find(self, record: Record) -> Found:
        """What is there now."""
        ...

    def apply(self, launch: Launch, on_step: StepCallback) -> None:
        """Carry out the steps. After a failure here or later, `undo` must be called."""
        ...

    def check(self) -> None:
        """Raise `ServiceDied` when a service that `apply` started has ended. Cheap: called often."""
        ...

    def undo(self) -> None:
        """Put back what `apply` changed, as far as that can be done. Raises nothing."""
        ...

    def commit(self) -> None:
        """The new state holds: drop what was kept for `undo`."""
        ...

    def live(self, record: Record) -> Mapping[ServiceKey, Live]:
        """Each service that is there."""
        ...

    def stop(self, record: Record, *, volumes: bool) -> Swept:
        """End and remove everything but data; with `volumes` the data outside the state folder too."""
        ...

    def logs(
        self, services: Sequence[str], *, follow: bool, since: float | None, record: Record
    ) -> Iterator[LogLine]:
        """Lines, oldest first. `since`: seconds since the epoch."""
        ...

    def exec(self, service: ServiceKey, module: str, arguments: Sequence[str], record: Record) -> ExecResult:
        """Run `python -m module …` where a service runs. Raises `RuntimeFailure` when that fails."""
        ...

    def close(self) -> None:
        """Let go of connections. The stack goes on."""
        ...
