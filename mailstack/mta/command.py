"""What the commands (sendmail, postconf, newaliases…) have in common: whose configuration, and how they end.

`--config DIR` comes first; without it the environment's MAIL_CONFIG names the folder, as in Postfix. The
image's commands are small programs that call `run`; see compose/finish.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

EX_USAGE, EX_TEMPFAIL = 64, 75

COMMANDS = (
    "mailq",
    "newaliases",
    "postalias",
    "postcat",
    "postconf",
    "postmap",
    "postqueue",
    "postsuper",
    "sendmail",
)
"""What stands in PATH of the image."""


class Fatal(Exception):  # noqa: N818
    """The command cannot do it: `str()` says why, `status` is its exit status."""

    def __init__(self, message: str, status: int = EX_TEMPFAIL) -> None:
        super().__init__(message)
        self.status = status


def take_config(arguments: Sequence[str]) -> tuple[Path, list[str]]:
    """The configuration's folder, and the arguments that are left. Raises `Fatal` when nothing names it."""
    directory = os.environ.get("MAIL_CONFIG", "")
    rest = list(arguments)
    if rest[:1] == ["--config"] and len(rest) > 1:
        directory = rest[1]
        del rest[:2]
    elif rest and rest[0].startswith("--config="):
        directory = rest.pop(0).removeprefix("--config=")
    if not directory:
        raise Fatal("no configuration: say --config DIR, or set MAIL_CONFIG", EX_USAGE)
    return Path(directory).absolute(), rest


def warn(name: str, text: str) -> None:
    sys.stderr.write(f"{name}: warning: {text}\n")


def fail(name: str, error: Fatal) -> int:
    """Say why a command ends; return its exit status."""
    sys.stderr.write(f"{name}: fatal: {error}\n")
    return error.status


def run(name: str, default: str) -> NoReturn:
    """The image's command `name`: works with MAIL_CONFIG, or else the configuration in `default`."""
    import importlib

    config = os.environ.get("MAIL_CONFIG") or default
    arguments = ["--config", config, *sys.argv[1:]]
    if name == "mailq":
        name = "sendmail"
        arguments.insert(2, "-bp")
    module = importlib.import_module(f"mailstack.mta.{name}")
    sys.exit(module.main(arguments))
