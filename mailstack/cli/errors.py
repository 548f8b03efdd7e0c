"""What other rooms raise, as what a user is told: one place for the mapping."""

from __future__ import annotations

import errno
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, TypeGuard

from mailstack.cli.exits import Exit, Failure
from mailstack.client.errors import ClientError
from mailstack.runtime.errors import RuntimeFailure, ServiceDied

if TYPE_CHECKING:
    from mailstack.spec.problems import SpecErrors


def failure_of(error: BaseException) -> Failure:
    """The failure to report for any exception; what nobody foresaw is an internal error, its type named."""
    if is_spec_error(error):
        return spec_failure(error)
    match error:
        case Failure():
            return error
        case ServiceDied():
            return Failure(
                error.code,
                error.message,
                hint=error.hint,
                exit=error.status,
                details=error.tail,
                data={"service": error.service, "log": list(error.tail)},
            )
        case RuntimeFailure():
            return Failure(error.code, error.message, hint=error.hint, exit=error.status)
        case ClientError():
            return Failure(
                error.code,
                str(error),
                hint=error.hint,
                exit=Exit.NOT_READY if error.unreachable else Exit.FAILED,
            )
        case TimeoutError():
            return Failure("timeout", str(error) or "it took too long", exit=Exit.NOT_READY)
        case OSError():
            return _os_failure(error)
        case _:
            return Failure(
                "internal",
                f"{type(error).__name__}: {error}",
                hint="this is a fault of mailstack; with -v it prints the traceback",
            )


def is_spec_error(error: BaseException) -> TypeGuard[SpecErrors]:
    """Whether it is `SpecErrors`, found out without loading pydantic where the spec has not been read."""
    module = sys.modules.get("mailstack.spec.problems")
    return module is not None and isinstance(error, module.SpecErrors)


def spec_failure(error: SpecErrors) -> Failure:
    """Every problem of a spec on a line of its own."""
    count = len(error.problems)
    problems = [replace(problem, path=shown_path(problem.path)) for problem in error.problems]
    where = problems[0].path if problems else "the spec"
    return Failure(
        "spec-invalid",
        f"{where} has {count} problem{'s' if count != 1 else ''}",
        exit=Exit.USAGE,
        details=[str(problem) for problem in problems],
        data={
            "problems": [
                {
                    "path": problem.path,
                    "line": problem.line,
                    "column": problem.column,
                    "field": problem.field,
                    "message": problem.message,
                }
                for problem in problems
            ]
        },
    )


def shown_path(path: str) -> str:
    """A path as a user here would write it: relative when it lies below the current folder."""
    return path.removeprefix(os.getcwd().rstrip("/") + "/")


def _os_failure(error: OSError) -> Failure:
    text = error.strerror or str(error)
    message = f"{error.filename}: {text}" if error.filename else text
    if error.errno in (errno.EACCES, errno.EPERM):
        return Failure("permission", message, exit=Exit.MISSING)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        # A failed write names no file, so the hint says which folder fills up.
        hint = "make room (df -h), or set XDG_STATE_HOME to a folder on another disk: stacks lie there"
        return Failure("disk-full", message, hint=hint, exit=Exit.MISSING)
    return Failure("os", message)
