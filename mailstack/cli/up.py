"""`mailstack up`: bring the stack to the spec."""

from __future__ import annotations

from typing import Annotated

import typer

from mailstack.cli.durations import seconds
from mailstack.cli.options import Command, Invocation
from mailstack.cli.output import Console, Result
from mailstack.cli.progress import follow
from mailstack.cli.projects import with_spec
from mailstack.cli.views import plan_data, services_table, status_data

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(cls=Command)
def up(
    ctx: typer.Context,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Do not wait until the services answer.")
    ] = False,
    timeout: Annotated[
        str,
        typer.Option(
            "--timeout", metavar="DURATION", show_default=False, help="How long to wait. [default: 60s]"
        ),
    ] = "60s",
    build: Annotated[bool, typer.Option("--build", help="Build the container image anew first.")] = False,
) -> Result:
    """Bring the stack to the spec: change only what changed, return when every service answers.

    Running it again is safe and does nothing when nothing changed. Exit status 3 when a service is not ready
    in time, 4 when the machine lacks something; a stack that this command began is removed again then.
    """
    invocation: Invocation = ctx.obj
    console = invocation.console
    limit = seconds(timeout, "--timeout")
    project = with_spec(invocation.options)
    with console.progress(f"starting {project.name}") as progress:
        done = project.up(follow(console, progress), build=build, timeout=limit, wait=not no_wait)
    for warning in done.warnings:
        console.warn(warning)
    if build and done.plan.runtime == "process":
        console.warn("--build built nothing: the process runtime has no image")
    status = done.status

    def text(console: Console) -> None:
        verb = (
            "is unchanged" if not done.plan.steps else "is ready" if status.ready else f"is {status.health}"
        )
        console.print(
            f"{project.name} {verb}: {done.plan.runtime} runtime ({done.plan.reason}), {done.seconds:.2f} s"
        )
        services_table(console, status.services)
        if status.endpoints is not None and status.endpoints.users:
            console.print(f"at {status.endpoints.host}, first user {status.endpoints.user}")
            console.print("next: mailstack env, mailstack send --to ADDRESS, mailstack mail wait ADDRESS")

    data = {
        **status_data(status),
        **plan_data(done.plan),
        "seconds": round(done.seconds, 3),
        "phases": {name: round(value, 3) for name, value in done.phases.items()},
    }
    return Result(data, text, notice=True)
