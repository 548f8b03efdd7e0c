"""nis: tables, asked through ypmatch(1) of the yp tools. `query` blocks: it belongs into a thread."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from mailstack.net.tables.channel import ServiceError

DOMAIN_NAME = Path("/proc/sys/kernel/domainname")
TIMEOUT = 30.0
"""Seconds for an answer."""


def in_a_domain(name: Path = DOMAIN_NAME) -> bool:
    """Whether this machine is in a NIS domain: without one, no map can have anything (domainname(1))."""
    try:
        return name.read_text("utf-8", "replace").strip() not in ("", "(none)")
    except OSError:
        return False


class Nowhere:
    """A map of a machine that is in no NIS domain, as the default of alias_maps names one: it is empty."""

    def __init__(self, name: str) -> None:
        self.name = name

    def lookup(self, key: str) -> str | None:
        return None


class Nis:
    """One map. Raises `ValueError` where the tools are not installed or the name is none."""

    def __init__(self, name: str) -> None:
        command = shutil.which("ypmatch")
        if command is None:
            raise ValueError("the yp tools (ypmatch) are not installed")
        if not name or name.startswith("-"):
            raise ValueError(f"{name!r} is no name of a map")
        self._command = command
        self._name = name

    def query(self, key: str) -> str | None:
        """The value of a key. Raises `ServiceError`."""
        if not key or "\0" in key:
            return None
        words = [self._command, "--", key.lower(), self._name]
        try:
            result = subprocess.run(  # noqa: S603 - no shell, and `--` ends the options
                words, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=TIMEOUT
            )
        except subprocess.TimeoutExpired:
            raise ServiceError(f"nis:{self._name}: Connection timed out") from None
        except OSError as error:
            raise ServiceError(f"nis:{self._name}: {error.strerror or error}") from None
        if result.returncode == 0:
            return result.stdout.decode("utf-8", "surrogateescape").rstrip("\n")
        reason = result.stderr.decode("utf-8", "replace").strip()
        if "No such key" in reason:
            return None
        raise ServiceError(f"nis:{self._name}: {reason or f'ypmatch: exit status {result.returncode}'}")
