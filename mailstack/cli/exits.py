"""Exit statuses, and the one error that carries one to the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum


class Exit(IntEnum):
    """What a finished `mailstack` tells its caller."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    """Wrong usage, or a spec that is not valid."""
    NOT_READY = 3
    """Not in time, or not healthy."""
    MISSING = 4
    """Something on the machine is missing: no Docker daemon, no privilege, a port that is taken."""
    INTERRUPTED = 130
    """Ctrl-C (128 + SIGINT)."""
    CLOSED = 141
    """The reader of our output went away (128 + SIGPIPE)."""


class Failure(Exception):  # noqa: N818  (a command fails; it need not be an error of ours)
    """A command that cannot do what it was asked: what is wrong, and what to do about it.

    `code` is for programs (`spec-invalid`, `not-ready`), `message` and `hint` are for people. `details` are
    lines that come before the message (one problem each). `data` is what is known all the same, and becomes
    the envelope's `data`.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        hint: str = "",
        exit: int = Exit.FAILED,  # noqa: A002  (the field's name)
        details: Sequence[str] = (),
        data: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.exit = exit
        self.details = tuple(details)
        self.data = dict(data or {})


class Terminated(BaseException):
    """A signal asked us to end: unwinds like Ctrl-C, so that every `finally` runs."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"signal {signum}")
        self.signum = signum

    @property
    def status(self) -> int:
        """128 + the signal's number, as a shell reports it."""
        return 128 + self.signum


class PipeClosed(Exception):  # noqa: N818  (no error: the reader has had enough)
    """Standard output takes no more: its reader went away (`logs | head -1`), or the disk is full."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error
