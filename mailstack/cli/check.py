"""`mailstack check`: every problem of the spec, and what the real parsers say of the rendered tree."""

from __future__ import annotations

from typing import Annotated

import typer

from mailstack.cli.errors import shown_path
from mailstack.cli.exits import Exit, Failure
from mailstack.cli.options import Command, Invocation
from mailstack.cli.output import Result
from mailstack.cli.projects import spec_path

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(cls=Command)
def check(
    ctx: typer.Context,
    native: Annotated[
        bool,
        typer.Option(
            "--native",
            help="Also ask the installed postfix, dovecot and bind tools about the rendered files.",
        ),
    ] = False,
) -> Result:
    """Report every problem of the spec, each as file:line:column with what to write instead.

    Exit status 2 when there are problems.
    """
    invocation: Invocation = ctx.obj
    console = invocation.console
    from mailstack.spec import load

    path = spec_path(invocation.options)
    from mailstack.runtime.site import gather_facts

    stack = load(path)
    facts = gather_facts(stack, None)
    users = len(list(stack.users()))
    data: dict[str, object] = {
        "spec": str(path.absolute()),
        "project": invocation.options.project or stack.project,
        "domains": list(stack.domains),
        "users": users,
        "problems": [],
    }
    summary = f"{shown_path(str(path))}: ok ({_count(len(stack.domains), 'domain')}, {_count(users, 'user')})"
    if not native:
        return Result(data, summary)

    from mailstack.cli.native import check_natively

    reports = check_natively(stack, facts)
    data["native"] = [
        {
            "tool": report.tool,
            "status": report.status,
            "command": report.command,
            "output": list(report.output),
        }
        for report in reports
    ]
    lines = [summary]
    details: list[str] = []
    for report in reports:
        if report.status == "missing":
            console.warn(f"{report.tool} is not installed: {report.fix}")
            continue
        lines.append(f"{report.tool}: {report.status}")
        target = details if report.status == "refused" else lines
        target.extend(f"{report.tool}: {line}" for line in report.output)
    refused = [report.tool for report in reports if report.status == "refused"]
    failure = None
    if refused:
        failure = Failure(
            "native-refused",
            f"{', '.join(refused)} did not accept the rendered files",
            hint="the spec is valid: the fault is mailstack's, or in a file or parameter that the spec names",
            exit=Exit.FAILED,
            details=details,
        )
    return Result(data, "\n".join(lines), failure=failure)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
