"""`mailstack logs`: what the services log."""

from __future__ import annotations

from typing import Annotated

import typer

from mailstack.cli.durations import seconds
from mailstack.cli.exits import Exit
from mailstack.cli.options import Command, Invocation
from mailstack.cli.output import Result
from mailstack.cli.projects import running
from mailstack.runtime.model import SERVICES, LogLine

app = typer.Typer(add_completion=False, rich_markup_mode=None)

KNOWN = (*SERVICES, "supervisor")


@app.command(cls=Command)
def logs(
    ctx: typer.Context,
    services: Annotated[
        list[str] | None, typer.Argument(metavar="[SERVICE]...", help=f"Of {', '.join(KNOWN)}; default: all.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    since: Annotated[
        str | None, typer.Option("--since", metavar="DURATION", help="Only the last 30s, 5m, 1h, …")
    ] = None,
) -> Result:
    """Show what the services log, oldest first. In JSON, -f prints one object per line of log."""
    invocation: Invocation = ctx.obj
    console = invocation.console
    wanted = services or []
    for name in wanted:
        if name not in KNOWN:
            raise typer.BadParameter(f"'{name}' is not one of {', '.join(KNOWN)}", param_hint="'SERVICE'")
    window = None if since is None else seconds(since, "--since")
    project = running(invocation.options)
    lines = project.logs(wanted, follow=follow, since=window)
    if console.json and not follow:
        return Result({"project": project.name, "lines": [_line_data(line) for line in lines]})
    width = max(map(len, wanted or KNOWN))
    try:
        for line in lines:
            if console.json:
                console.emit(_line_data(line))
            else:
                console.print(f"{line.service:<{width}} | {line.text}")
                if follow:
                    console.flush()
    except KeyboardInterrupt:
        if not follow:
            raise
        return Result({}, streamed=True, exit=Exit.INTERRUPTED)
    return Result({}, streamed=True)


def _line_data(line: LogLine) -> dict[str, object]:
    return {"service": line.service, "time": line.time, "text": line.text}
