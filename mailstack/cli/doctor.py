"""`mailstack doctor`: what is wrong with this machine or the stack, and how to fix it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from mailstack.cli.exits import Exit, Failure
from mailstack.cli.options import Command, Invocation, Options
from mailstack.cli.output import Console, Result
from mailstack.cli.projects import running

if TYPE_CHECKING:
    from mailstack.runtime.api import Project
    from mailstack.runtime.model import Check

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(cls=Command)
def doctor(ctx: typer.Context) -> Result:
    """Check the machine and, where there is one, the stack; change nothing.

    Exit status 4 when the machine lacks something, 3 when the stack is not healthy.
    """
    from mailstack.runtime.api import doctor_checks

    invocation: Invocation = ctx.obj
    with invocation.console.progress("checking"):
        project = _project(invocation.options)
        checks = [*doctor_checks(project), *_spec_checks(project), *native_tools()]
    failed = [check for check in checks if check.level == "fail"]

    def text(console: Console) -> None:
        console.table(("", "CHECK", "FINDING"), [(check.level, check.name, check.text) for check in checks])
        fixes = [check for check in checks if check.fix and check.level != "pass"]
        if fixes:
            console.print()
        for check in fixes:
            console.print(f"{check.name}: {check.fix}")

    data = {
        "project": project.name if project is not None else None,
        "checks": [
            {"name": check.name, "level": check.level, "text": check.text, "fix": check.fix or None}
            for check in checks
        ],
        "counts": {
            level: sum(check.level == level for check in checks) for level in ("pass", "warn", "fail")
        },
    }
    failure = None
    if failed:
        names = ", ".join(check.name for check in failed)
        status = Exit.NOT_READY if all(_of_stack(check) for check in failed) else Exit.MISSING
        failure = Failure("unwell", f"not well: {names}", exit=status)
    return Result(data, text, failure=failure)


STACK_CHECKS = frozenset({"spec", "services", "service", "certificate", "stack"})
"""Findings about the stack; the others are about the machine."""


def _of_stack(check: Check) -> bool:
    return check.name.split()[0] in STACK_CHECKS


def _project(options: Options) -> Project | None:
    """The project that is meant, if any is: a machine can be looked at without one."""
    try:
        return running(options)
    except Failure as failure:
        if options.file is None and options.project is None and failure.exit == Exit.USAGE:
            return None
        raise


def _spec_checks(project: Project | None) -> Iterator[Check]:
    """Whether the spec can be used."""
    if project is None or project.spec_path is None:
        return
    from mailstack.runtime.model import Check
    from mailstack.spec import SpecErrors, load

    try:
        load(project.spec_path)
    except SpecErrors as error:
        count = len(error.problems)
        text = f"{project.spec_path} has {count} problem{'s' if count != 1 else ''}"
        yield Check("spec", "fail", text, "see 'mailstack check'")
    except OSError as error:
        yield Check("spec", "fail", f"{project.spec_path}: {error.strerror}", "name another with -f")
    else:
        yield Check("spec", "pass", f"{project.spec_path} is valid")


def native_tools() -> Iterator[Check]:
    """Which real parsers `check --native` would find."""
    from mailstack.cli.native import TOOLS, find
    from mailstack.runtime.model import Check

    for name, package in {tool.name.split()[0]: tool.package for tool in TOOLS}.items():
        path = find(name)
        if path is None:
            fix = f"only for 'check --native': on Debian, apt-get install {package}"
            yield Check(f"tool {name}", "warn", "not installed", fix)
        else:
            yield Check(f"tool {name}", "pass", path)
