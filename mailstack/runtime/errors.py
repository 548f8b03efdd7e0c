"""What can go wrong while launching, as classes that know their exit status.

The command line prints `str(error)`, then `error.hint` (what to do about it), and exits with
`error.status`; JSON output carries `error.code`. Problems of the spec itself are not here: `mailstack.spec`
has them (exit 2).
"""

from __future__ import annotations

from typing import ClassVar


class RuntimeFailure(Exception):  # noqa: N818 named for what the user is told
    """Something failed that no other class names; exit status 1."""

    status: ClassVar[int] = 1
    code: ClassVar[str] = "failed"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageProblem(RuntimeFailure):
    """What was asked for does not fit (an unset password variable, a project that is not there); exit 2."""

    status = 2
    code = "usage"


class NoSuchProject(UsageProblem):
    """No state folder has that name and no spec was given."""

    code = "no-such-project"


class NotUp(NoSuchProject):
    """The project does not run, and what was asked for needs that; exit 3, as for one that is not healthy."""

    status = 3
    code = "not-running"


class NotReady(RuntimeFailure):
    """A service does not answer its protocol in time; exit status 3."""

    status = 3
    code = "not-ready"


class ServiceDied(NotReady):
    """A service ended while it was being waited for. `tail` has its last log lines."""

    code = "service-died"

    def __init__(self, message: str, *, service: str, tail: tuple[str, ...] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.service = service
        self.tail = tail


class MachineLacks(RuntimeFailure):
    """Something on this machine is missing; exit status 4."""

    status = 4
    code = "machine"


class PortTaken(MachineLacks):
    """A port that was asked for belongs to somebody else, who is named."""

    code = "port-taken"


class NoPrivilege(MachineLacks):
    """A port below 1024 was asked for and this user may not have it."""

    code = "no-privilege"


class NoDocker(MachineLacks):
    """No Docker daemon answers, or not one that can be used from here."""

    code = "no-docker"


class NoImage(MachineLacks):
    """The container image is not there and cannot be made without being told how."""

    code = "no-image"


class Locked(RuntimeFailure):
    """Another command is working on the project and did not finish in time."""

    code = "locked"
