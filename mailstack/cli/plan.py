"""`mailstack plan`: what `up` would do."""

from __future__ import annotations

from typing import Annotated

import typer

from mailstack.cli.options import Command, Invocation
from mailstack.cli.output import Console, Result
from mailstack.cli.projects import with_spec
from mailstack.cli.views import plan_data

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(cls=Command)
def plan(
    ctx: typer.Context,
    build: Annotated[bool, typer.Option("--build", help="As if the image were built anew.")] = False,
) -> Result:
    """Show what up would do, step by step; do nothing."""
    invocation: Invocation = ctx.obj
    project = with_spec(invocation.options)
    found = project.plan(build=build)

    def text(console: Console) -> None:
        console.print(f"{project.name}: {found.runtime} runtime ({found.reason})")
        for step in found.steps:
            console.print(f"  {step}")
        if not found.steps:
            console.print("  nothing to do")

    return Result({"project": project.name, **plan_data(found)}, text)
