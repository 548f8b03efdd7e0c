"""`mailstack doctor`: what is wrong with this machine or the stack, and how to fix it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import typer

from mailstack.cli.exits import Exit, Failure
from mailstack.cli.options import Command, Invocation, Options
from mailstack.cli.output import Console, Result
from mailstack.cli.projects import running

if TYPE_CHECKING:
    from mailstack.runtime.api import Project

app = typer.Typer(add_completion=False, rich_markup_mode=None)

STACK_CHECKS = frozenset({"project", "spec", "certificate", "dns", "mailbox", "mta"})
"""Findings about the stack; the others are about the machine."""


@app.command(cls=Command)
def doctor(ctx: typer.Context) -> Result:
    """Check the machine and, where there is one, the stack; change nothing.

    Exit status 4 when the machine lacks something, 3 when the stack is not healthy.
    """
    from mailstack.cli import findings
    from mailstack.runtime.api import doctor_checks
    from mailstack.runtime.state import state_home

    invocation: Invocation = ctx.obj
    with invocation.console.progress("checking"):
        project = _project(invocation.options)
        checks = [*findings.machine(state_home(os.environ)), *doctor_checks(project)]
        if project is not None:
            checks += findings.stack(project)
        checks += findings.native_tools()
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
        status = Exit.NOT_READY if all(check.name in STACK_CHECKS for check in failed) else Exit.MISSING
        failure = Failure("unwell", f"not well: {names}", exit=status)
    return Result(data, text, failure=failure)


def _project(options: Options) -> Project | None:
    """The project that is meant, if any is: a machine can be looked at without one."""
    try:
        return running(options)
    except Failure as failure:
        if options.file is None and options.project is None and failure.exit == Exit.USAGE:
            return None
        raise
