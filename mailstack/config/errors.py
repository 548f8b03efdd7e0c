"""The one error that every configuration reader raises."""

from __future__ import annotations

from pathlib import Path

EX_CONFIG = 78
"""Exit status of a server whose configuration is wrong (sysexits.h)."""


class ConfigError(Exception):
    """A configuration file that cannot be used: says which file, which line, and what is wrong.

    `str(error)` is the single line that a server prints before it exits with `EX_CONFIG`. `line` counts from
    one; zero means that the file as a whole is meant (it is missing, say).
    """

    def __init__(self, path: Path | str, line: int, message: str) -> None:
        self.path = Path(path)
        self.line = line
        self.message = message
        where = f"{path}:{line}" if line else f"{path}"
        super().__init__(f"{where}: {message}")
