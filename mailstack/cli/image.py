"""`mailstack image`: the container image."""

from __future__ import annotations

from typing import Annotated

import typer

from mailstack.cli.options import Command, Group, Invocation
from mailstack.cli.output import Console, Result
from mailstack.cli.progress import follow

app = typer.Typer(cls=Group, add_completion=False, rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def group() -> None:
    """Build the container image."""


@app.command("build", cls=Command)
def build(
    ctx: typer.Context,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="IMAGE",
            show_default=False,
            help="An image with Python 3.11 or newer. [default: python:3.11-slim]",
        ),
    ] = None,
) -> Result:
    """Build the image that all three services run from, without network inside the build."""
    from mailstack.runtime.api import image_build

    invocation: Invocation = ctx.obj
    console = invocation.console
    with console.progress("building the image") as progress:
        info = image_build(base, follow(console, progress))
    for note in info.notes:
        console.warn(note)

    def text(console: Console) -> None:
        verb = "built" if info.built else "is there already"
        python = f"Python {info.python}, " if info.python else ""
        console.print(f"{info.tag} {verb} on {info.base} ({python}{info.event_loop})")

    data = {
        "tag": info.tag,
        "id": info.image_id,
        "base": info.base,
        "python": info.python,
        "eventLoop": info.event_loop,
        "built": info.built,
    }
    return Result(data, text, notice=True)
