"""What an error of the system is told as."""

from __future__ import annotations

import errno
import os

import pytest

from mailstack.cli.errors import failure_of
from mailstack.cli.exits import Exit


@pytest.mark.parametrize(
    ("number", "path", "code", "exit_status", "hint"),
    [
        (errno.ENOSPC, None, "disk-full", Exit.MISSING, "XDG_STATE_HOME"),
        (errno.EDQUOT, "/srv/x", "disk-full", Exit.MISSING, "make room"),
        (errno.EACCES, "/srv/x", "permission", Exit.MISSING, ""),
        (errno.EISDIR, "/srv/x", "os", Exit.FAILED, ""),
    ],
)
def test_an_error_of_the_system_says_what_and_what_to_do(
    number: int, path: str | None, code: str, exit_status: Exit, hint: str
) -> None:
    error = OSError(number, os.strerror(number), path) if path else OSError(number, os.strerror(number))
    failure = failure_of(error)
    assert (failure.code, failure.exit) == (code, exit_status)
    assert os.strerror(number) in failure.message
    assert path is None or path in failure.message
    assert hint in (failure.hint or "")
