"""Durations of options: `10s`, `5m`, `1.5h`, `500ms`, or a bare number of seconds."""

from __future__ import annotations

import re

import typer

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d|w|)\Z")
_SECONDS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def seconds(text: str, option: str) -> float:
    """The duration in seconds. Raises typer's usage error, which names `option`."""
    match = _DURATION.match(text.strip())
    if match is None:
        raise typer.BadParameter(
            f"'{text}' is not a duration such as 10s, 5m or 1h", param_hint=f"'{option}'"
        )
    return float(match[1]) * _SECONDS[match[2]]
