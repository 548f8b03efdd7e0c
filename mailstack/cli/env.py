"""`mailstack env`: where everything is, for a shell, a .env file, a program or a CI job."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Annotated

import typer

from mailstack.cli.options import Command, Invocation, one_of
from mailstack.cli.output import Result
from mailstack.cli.projects import running

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(cls=Command)
def env(
    ctx: typer.Context,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="shell|dotenv|json|github",
            callback=one_of("shell", "dotenv", "json", "github"),
            show_default=False,
            help="Form of the lines. [default: shell]",
        ),
    ] = "shell",
) -> Result:
    """Print where everything is, as MAILSTACK_… variables.

    For a shell: eval "$(mailstack env)"; for GitHub Actions: mailstack env --format github >> "$GITHUB_ENV".
    """
    invocation: Invocation = ctx.obj
    variables = running(invocation.options).env()
    return Result({"env": variables}, FORMATS[form](variables))


def shell_lines(variables: Mapping[str, str]) -> str:
    """`export NAME='value'` lines that any POSIX shell reads back unchanged."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())


_BARE = re.compile(r"[A-Za-z0-9_./:@%+,-]*\Z")


def dotenv_lines(variables: Mapping[str, str]) -> str:
    """`NAME=value` lines: bare where every reader agrees, else in single quotes, which all take literally.

    A value that holds a single quote stands in double quotes, with backslash, `"` and `$` escaped.
    """
    return "\n".join(f"{name}={_dotenv_value(value)}" for name, value in variables.items())


def _dotenv_value(value: str) -> str:
    if _BARE.match(value):
        return value
    if "'" not in value:
        return f"'{value}'"
    return '"' + re.sub(r'([\\"$])', r"\\\1", value) + '"'


def github_lines(variables: Mapping[str, str]) -> str:
    """`NAME=value` lines as the file `$GITHUB_ENV` takes them: literal to the end of the line."""
    return "\n".join(f"{name}={value}" for name, value in variables.items())


def json_lines(variables: Mapping[str, str]) -> str:
    """One object."""
    return json.dumps(dict(variables), indent=2, ensure_ascii=False)


FORMATS: Mapping[str, Callable[[Mapping[str, str]], str]] = {
    "shell": shell_lines,
    "dotenv": dotenv_lines,
    "json": json_lines,
    "github": github_lines,
}
