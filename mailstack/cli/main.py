"""The entry point `mailstack`: finds the command, runs it, tells what it returns or raises.

A command's module is imported when the command is used; `--help` lists all from the table below. A command
returns a `Result`, or raises; nothing but this module prints an error or decides an exit status.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from mailstack import __version__
from mailstack.cli.errors import failure_of
from mailstack.cli.exits import Exit, Failure, PipeClosed, Terminated
from mailstack.cli.options import Invocation, command_name, declare, keep_text, one_of
from mailstack.cli.output import Result

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("init", "Write a commented mailstack.yaml to start from."),
    "check": ("check", "Report every problem of the spec."),
    "schema": ("schema", "Print the JSON schema of the spec."),
    "render": ("render", "Write the native configuration files, or show what changed."),
    "plan": ("plan", "Show what up would do, step by step; do nothing."),
    "up": ("up", "Bring the stack to the spec and wait until it is usable."),
    "down": ("down", "Stop and remove the stack."),
    "status": ("status", "Show services, health, ports, queue and mailboxes."),
    "logs": ("logs", "Show what the services log."),
    "env": ("env", "Print where everything is, as environment variables."),
    "run": ("run", "Run a command with a throwaway stack."),
    "send": ("send", "Send a message over submission, with TLS and AUTH."),
    "mail": ("mail", "Look into mailboxes, wait for mail, import, export, verify."),
    "queue": ("queue", "Look into the mail queue, and change it."),
    "dns": ("dns", "Show the domain's records, or ask the running DNS server."),
    "doctor": ("doctor", "Check the machine and the stack, and say how to fix what is wrong."),
    "image": ("image", "Build the container image."),
}
"""Command → its module in this room and its line in `--help`."""

USAGE_ERROR: type = typer.BadParameter.__mro__[1]
"""The class of all usage errors; typer exports only its subclass."""
CLICK_ERROR: type = typer.BadParameter.__mro__[2]


class Root(TyperGroup):
    """The top-level group: imports a command's module when the command is named."""

    def get_params(self, ctx: Any) -> list[Any]:
        return keep_text(super().get_params(ctx))

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        declare(self.params)
        module = import_module(f"mailstack.cli.{COMMANDS[cmd_name][0]}")
        command = get_command(module.app)
        command.name = cmd_name
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            near = get_close_matches(name, COMMANDS, n=1)
            suggestion = f" Did you mean '{near[0]}'?" if near else ""
            ctx.fail(f"No such command '{name}'.{suggestion}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


app = typer.Typer(
    cls=Root,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(ctx: typer.Context, wanted: bool) -> None:
    if wanted:
        console = ctx.find_object(Invocation).console  # type: ignore[union-attr]
        if console.json:
            console.emit({"version": __version__})
        else:
            console.print(f"mailstack {__version__}")
        raise typer.Exit


@app.callback(no_args_is_help=True)
def root(
    ctx: typer.Context,
    file: Annotated[
        str | None,
        typer.Option(
            "--file",
            "-f",
            envvar="MAILSTACK_FILE",
            show_envvar=False,
            metavar="FILE",
            help="The spec. [MAILSTACK_FILE; else mailstack.yaml here or in a parent folder]",
        ),
    ] = None,
    project: Annotated[
        str | None,
        typer.Option(
            "--project",
            "-p",
            envvar="MAILSTACK_PROJECT",
            show_envvar=False,
            metavar="NAME",
            help="The project's name. [MAILSTACK_PROJECT; else the spec's]",
        ),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            "--runtime",
            envvar="MAILSTACK_RUNTIME",
            show_envvar=False,
            metavar="auto|docker|process",
            callback=one_of("auto", "docker", "process"),
            help="Where the services run. [MAILSTACK_RUNTIME; else auto]",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="text|json", callback=one_of("text", "json"), help="Form of the output."
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Results and errors only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Every step; tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Mail domains that start from one file: a real MTA, IMAP, POP3 and DNS."""
    ctx.find_object(Invocation).take(  # type: ignore[union-attr]
        {
            "file": file,
            "project": project,
            "runtime": runtime,
            "output": output,
            "quiet": quiet,
            "verbose": verbose,
        }
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: the program's own); return the exit status."""
    args = list(sys.argv[1:] if argv is None else argv)
    # Importing makes many objects and no garbage: the collector need not look through them dozens of times.
    gc.set_threshold(50_000)
    invocation = Invocation()
    invocation.console.json = _wants_json(args)
    before = {signum: signal.signal(signum, _terminate) for signum in (signal.SIGTERM, signal.SIGHUP)}
    try:
        status = _run(args, invocation)
        invocation.console.flush()
        return status
    except PipeClosed as closed:
        # Nobody reads any more: what the interpreter flushes at its end must go nowhere, quietly.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(closed.error, BrokenPipeError):
            return Exit.CLOSED
        invocation.console.complain(f"error: standard output: {closed.error.strerror}")
        return Exit.FAILED
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _run(args: list[str], invocation: Invocation) -> int:
    console = invocation.console
    try:
        outcome = get_command(app).main(args, prog_name="mailstack", standalone_mode=False, obj=invocation)
        if isinstance(outcome, Result):
            return console.finish(outcome)
        if outcome == Exit.INTERRUPTED:
            raise KeyboardInterrupt
        return int(outcome or 0)
    except (KeyboardInterrupt, typer.Abort):
        return _ended(invocation, "interrupted", Exit.INTERRUPTED)
    except Terminated as error:
        return _ended(invocation, f"ended by {signal.Signals(error.signum).name}", error.status)
    except PipeClosed:
        raise
    except CLICK_ERROR as error:  # type: ignore[misc]
        # What was wrong may have kept the options behind it from being seen.
        console.json = console.json or _wants_json(args)
        return _usage(error, invocation)
    except Exception as error:
        failure = failure_of(error)
        if invocation.options.verbose:
            import traceback

            console.complain(traceback.format_exc().rstrip())
        return console.fail(failure)


def _ended(invocation: Invocation, words: str, status: int) -> int:
    """Somebody wanted us to stop, which is no error of anything."""
    console = invocation.console
    if console.json:
        return console.fail(Failure("interrupted", words, exit=status))
    console.complain(words)
    return status


def _usage(error: Any, invocation: Invocation) -> int:
    """A usage error: in text with the usage line, as typer words it; in JSON as any other error."""
    console = invocation.console
    ctx = getattr(error, "ctx", None)
    path = command_name(ctx) if ctx is not None else "mailstack"
    console.command = path
    if type(error).__name__ == "NoArgsIsHelpError":
        if not console.json:
            console.complain(error.format_message())
            return Exit.USAGE
        message = "Missing command."
    else:
        message = error.format_message()
    program = "mailstack" if path == "mailstack" else f"mailstack {path}"
    failure = Failure("usage", message, hint=f"see '{program} --help'", exit=Exit.USAGE)
    if ctx is not None and not console.json:
        console.complain(ctx.get_usage())
    return console.fail(failure)


def _wants_json(args: Sequence[str]) -> bool:
    """Whether a command line asks for JSON, seen without parsing it: for errors of the parsing itself."""
    wanted = False
    for index, arg in enumerate(args):
        if arg == "--":
            break
        if arg in ("-o", "--output"):
            wanted = args[index + 1 : index + 2] == ["json"]
        elif arg.startswith(("--output=", "-o")):
            wanted = arg.removeprefix("--output=").removeprefix("-o") == "json"
    return wanted


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise Terminated(signum)
