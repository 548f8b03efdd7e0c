"""The values that the rest of the program gets from the runtime.

Standard library only, so that it imports fast; everything is frozen. Ports are host ports (where a client on
this machine connects), addresses are IPv4 literals as strings, times are seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

RuntimeKind = Literal["process", "docker"]
RuntimeWish = Literal["auto", "process", "docker"]
ServiceKey = Literal["dns", "mailbox", "mta"]
QueueOperation = Literal["hold", "release", "rm"]
Health = Literal["ready", "starting", "failing", "stopped"]

SERVICES: tuple[ServiceKey, ...] = ("dns", "mailbox", "mta")
"""The three services, in the order in which they are shown and started."""

PORT_NAMES: tuple[str, ...] = (
    "smtp", "submission", "submissions", "lmtp", "imap", "imaps", "pop3", "pop3s", "dns",
)  # fmt: skip
"""Every protocol that can be published, in the order of `mailstack env`."""

STANDARD_PORTS: Mapping[str, int] = {
    "smtp": 25, "submission": 587, "submissions": 465, "lmtp": 24, "imap": 143, "imaps": 993,
    "pop3": 110, "pop3s": 995, "dns": 53,
}  # fmt: skip
"""What holds inside the stack's own network."""

OWNER: Mapping[str, ServiceKey] = {
    "smtp": "mta", "submission": "mta", "submissions": "mta", "lmtp": "mailbox", "imap": "mailbox",
    "imaps": "mailbox", "pop3": "mailbox", "pop3s": "mailbox", "dns": "dns",
}  # fmt: skip
"""Which service listens for a protocol."""

TLS_FROM_START = frozenset({"submissions", "imaps", "pop3s"})
"""Protocols whose connections begin with the TLS handshake (RFC 8314)."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that `up` does: `restart mta: postfix/main.cf changed`."""

    action: str
    """create, write, build, start, restart, recreate, reload, stop, remove."""
    target: str
    reason: str

    def __str__(self) -> str:
        return f"{self.action} {self.target}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What `up` would do, in order; no steps when everything is as the spec says."""

    runtime: RuntimeKind
    reason: str
    """Why this runtime, as a sentence."""
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """One event of `up` or `down`, for a progress display.

    `stage` is `choose` (the runtime, `text` says why), `step` (a plan step begins), `ready` (`service`
    answers), `waiting` (for `service`), `note` (something the user should know), `build` (a line of the image
    build), `undo` (a half-made stack is being removed).
    """

    stage: Literal["choose", "step", "ready", "waiting", "note", "build", "undo"]
    text: str
    service: ServiceKey | None = None
    elapsed: float = 0.0
    """Seconds since the command began."""


ProgressCallback = Callable[[Progress], None]


def no_progress(event: Progress) -> None:
    """A callback for those who do not look."""


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """One service as it is now."""

    service: ServiceKey
    health: Health
    detail: str
    """Why it is not ready, in words; empty when it is."""
    address: str
    """Its address in the stack's own network; empty where it has none."""
    ports: Mapping[str, int]
    """Protocol -> published port, only what this service offers."""
    pid: int | None = None
    container: str | None = None
    """Container name in the docker runtime."""
    started_at: float | None = None
    """Seconds since the epoch."""
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a running stack is reached and as whom: what a client needs."""

    project: str
    domain: str
    """The primary domain."""
    hostname: str
    """The primary domain's mail host: the name to verify in its certificate."""
    host: str
    """Where the published ports are."""
    ports: Mapping[str, int]
    """Protocol (`PORT_NAMES`) -> port at `host`; a protocol that the spec turns off is absent."""
    ca_file: str | None
    """PEM file to verify the certificate against; None: TLS is off, or the system's own authorities apply."""
    tls: bool
    users: Mapping[str, str]
    """user@domain -> password, in the spec's order; the first is the one that `send` uses."""
    addresses: Mapping[ServiceKey, str]
    """Service -> its address in the stack's own network."""
    network: str
    """The stack's own network, as CIDR; empty when the services have no address of their own."""

    @property
    def user(self) -> str:
        """The first user's address."""
        return next(iter(self.users), "")

    @property
    def password(self) -> str:
        """The first user's password."""
        return next(iter(self.users.values()), "")


@dataclass(frozen=True, slots=True)
class StackStatus:
    """A project as it is now."""

    project: str
    runtime: RuntimeKind | None
    """None when the project has never been up (or has been removed)."""
    health: Health
    """The worst of the services'; `stopped` when none runs."""
    services: tuple[ServiceStatus, ...]
    endpoints: Endpoints | None
    state_dir: str
    spec_path: str | None
    env: Mapping[str, str]
    """The variables of `mailstack env`; empty when nothing is known."""

    @property
    def ready(self) -> bool:
        return self.health == "ready"


@dataclass(frozen=True, slots=True)
class UpResult:
    """What `up` did."""

    plan: Plan
    """With no steps when nothing had to be done."""
    status: StackStatus
    seconds: float
    phases: Mapping[str, float]
    """Seconds per phase: load, certificates, render, plan, apply, ready."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DownResult:
    """What `down` removed, as words (`container mailstack-x-mta`, `network …`, `state /…`)."""

    removed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a service's log."""

    service: str
    """dns, mailbox, mta or supervisor."""
    time: float | None
    """Seconds since the epoch, None when the line does not say."""
    text: str
    """Without its line end."""


@dataclass(frozen=True, slots=True)
class ProjectSummary:
    """One project of this user, for lists."""

    project: str
    runtime: RuntimeKind | None
    state_dir: str
    spec_path: str | None
    running: bool


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """A container image that was built or found."""

    tag: str
    image_id: str
    base: str
    python: str
    """The version inside, such as `3.11.2`."""
    event_loop: Literal["uvloop", "asyncio"]
    built: bool
    """False: it was there already."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """One finding of `doctor`."""

    name: str
    level: Literal["pass", "warn", "fail"]
    text: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class ExecResult:
    """What a command inside a service's surroundings gave."""

    status: int
    stdout: bytes
    stderr: bytes = field(default=b"", repr=False)
