"""`mailstack run -- CMD…`: a throwaway stack for the time of one command."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from mailstack.cli.durations import seconds
from mailstack.cli.exits import Failure
from mailstack.cli.options import Command, Invocation
from mailstack.cli.output import Console, Result
from mailstack.cli.progress import follow
from mailstack.cli.projects import spec_path, wish

if TYPE_CHECKING:
    from mailstack.runtime.api import Project

app = typer.Typer(add_completion=False, rich_markup_mode=None)

NAME_LIMIT = 40
"""Letters of a project's name at the most."""
FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@app.command(cls=Command, context_settings={"allow_interspersed_args": False})
def run(
    ctx: typer.Context,
    command: Annotated[list[str], typer.Argument(metavar="-- CMD [ARG]...", help="What to run.")],
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running afterwards.")] = False,
    timeout: Annotated[
        str,
        typer.Option(
            "--timeout",
            metavar="DURATION",
            show_default=False,
            help="How long to wait for the stack. [default: 60s]",
        ),
    ] = "60s",
) -> Result:
    """Run a command with a throwaway stack: up, the command with the variables of env, down whatever happens.

    The stack has a name, ports and mail of its own, so that any number can run side by side. The exit status
    is the command's (128 + N when signal N ended it, 127 when it is not there). In JSON mode the command's
    standard output goes to standard error.
    """
    from mailstack.runtime.api import open_project

    invocation: Invocation = ctx.obj
    console = invocation.console
    limit = seconds(timeout, "--timeout")
    if shutil.which(command[0]) is None:
        if os.path.exists(command[0]) and os.sep in command[0]:
            raise Failure("no-command", f"{command[0]}: it cannot be executed", exit=126)
        raise Failure("no-command", f"{command[0]}: there is no such command", exit=127)
    spec = spec_path(invocation.options)
    base = invocation.options.project or open_project(spec, None, runtime=wish(invocation.options)).name
    project = open_project(spec, throwaway_name(base), runtime=wish(invocation.options))
    started = time.monotonic()
    try:
        with console.progress(f"starting {project.name}") as progress:
            done = project.up(follow(console, progress), timeout=limit)
        for warning in done.warnings:
            console.warn(warning)
        ready = time.monotonic() - started
        status = _execute(command, done.status.env, to_stderr=console.json)
    finally:
        if not keep:
            _remove(project, console)
    if keep:
        console.say(f"{project.name} is kept; remove it with: mailstack -p {project.name} down --volumes")
    data = {
        "project": project.name,
        "kept": keep,
        "exitStatus": status,
        "readySeconds": round(ready, 3),
        "seconds": round(time.monotonic() - started, 3),
    }
    if console.json:
        failure = (
            Failure("command-failed", f"{command[0]} ended with {status}", exit=status) if status else None
        )
        return Result(data, failure=failure)
    return Result(data, streamed=True, exit=status)


def throwaway_name(base: str) -> str:
    """A project name that nobody else has, recognisable by `base`."""
    suffix = f"-run-{secrets.token_hex(4)}"
    return base[: NAME_LIMIT - len(suffix)].rstrip("-") + suffix


def _execute(command: Sequence[str], variables: Mapping[str, str], *, to_stderr: bool) -> int:
    """Run the command to its end; signals that end us go to it, and its exit status is a shell's."""
    with _signals_to_child() as started:
        try:
            child = subprocess.Popen(  # noqa: S603  (running the user's command is the purpose)
                list(command), env={**os.environ, **variables}, stdout=2 if to_stderr else None
            )
        except OSError as error:
            raise Failure("no-command", f"{command[0]}: {error.strerror}", exit=126) from None
        started(child)
        status = child.wait()
    return 128 - status if status < 0 else status


@contextmanager
def _signals_to_child() -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    """Pass on what would end us. Yields a function that takes the child once it has been started.

    A Ctrl-C on our terminal goes to the whole foreground group, so the child has it already.
    """
    children: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def forward(signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and _in_foreground():
            return
        if not children:
            early.append(signum)
        for child in children:
            child.send_signal(signum)

    def started(child: subprocess.Popen[bytes]) -> None:
        children.append(child)
        for signum in early:
            child.send_signal(signum)

    before = {signum: signal.signal(signum, forward) for signum in (signal.SIGINT, *FORWARDED)}
    try:
        yield started
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _in_foreground() -> bool:
    """Whether the terminal sends its Ctrl-C to our process group."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _remove(project: Project, console: Console) -> None:
    """Take the stack down, and let no second Ctrl-C leave half of it behind."""
    ignored = (signal.SIGINT, *FORWARDED)
    before = {signum: signal.signal(signum, signal.SIG_IGN) for signum in ignored}
    try:
        with console.progress(f"removing {project.name}") as progress:
            project.down(follow(console, progress), volumes=True)
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
