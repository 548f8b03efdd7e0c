"""`mailstack down`: stop and remove."""

from __future__ import annotations

from typing import Annotated

import typer

from mailstack.cli.options import Command, Invocation
from mailstack.cli.output import Console, Result
from mailstack.cli.progress import follow
from mailstack.cli.projects import running, wish

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(cls=Command)
def down(
    ctx: typer.Context,
    volumes: Annotated[
        bool, typer.Option("--volumes", help="Remove the mail, the queue and all state too.")
    ] = False,
    all_projects: Annotated[bool, typer.Option("--all", help="All projects of this user.")] = False,
) -> Result:
    """Stop and remove the stack. Without --volumes, mail and queue stay for the next up."""
    invocation: Invocation = ctx.obj
    console = invocation.console
    if all_projects:
        if invocation.options.project is not None:
            raise typer.BadParameter("--all and --project exclude one another", param_hint="'--all'")
        from mailstack.runtime.api import list_projects, open_project

        projects = [
            open_project(None, summary.project, runtime=wish(invocation.options))
            for summary in list_projects()
        ]
    else:
        projects = [running(invocation.options)]
    removed: dict[str, tuple[str, ...]] = {}
    for project in projects:
        with console.progress(f"stopping {project.name}") as progress:
            removed[project.name] = project.down(follow(console, progress), volumes=volumes).removed

    def text(console: Console) -> None:
        for name, things in removed.items():
            console.print(f"{name}: {'removed' if things else 'nothing to remove'}")
            for thing in things:
                console.print(f"  {thing}")
        if not removed:
            console.print("there is no project")

    data: dict[str, object] = {
        "projects": [{"project": name, "removed": list(things)} for name, things in removed.items()]
    }
    if not all_projects:
        data["project"] = projects[0].name
        data["removed"] = list(removed[projects[0].name])
    return Result(data, text, notice=True)
