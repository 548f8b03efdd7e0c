"""Other programs that are run to their end."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from mailstack.runtime.errors import RuntimeFailure

TIMEOUT = 60
"""Seconds."""


def run(name: str, command: Sequence[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[bytes]:
    """Run a command with nothing to read, whatever its status. `name`: what a message calls it.

    Raises `RuntimeFailure` when it cannot be run or does not end.
    """
    try:
        return subprocess.run(  # noqa: S603 our own interpreter and modules, and Postfix's commands
            command,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeFailure(f"{name} could not be run: {error}") from error
