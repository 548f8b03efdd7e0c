"""Typed values of dovecot.conf: yes/no, numbers, times, sizes, lists, and `%` variables.

Every function takes the `Setting` (for the error's file and line) and raises `ConfigError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from mailstack.config.dovecot.syntax import Setting

_UNITS = {
    "s": 1.0,
    "sec": 1.0,
    "secs": 1.0,
    "second": 1.0,
    "seconds": 1.0,
    "m": 60.0,
    "min": 60.0,
    "mins": 60.0,
    "minute": 60.0,
    "minutes": 60.0,
    "h": 3600.0,
    "hour": 3600.0,
    "hours": 3600.0,
    "d": 86400.0,
    "day": 86400.0,
    "days": 86400.0,
    "w": 604800.0,
    "week": 604800.0,
    "weeks": 604800.0,
    "msecs": 0.001,
    "ms": 0.001,
}
_SIZES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_NUMBER = re.compile(r"([0-9]{1,18})[ \t]*([A-Za-z]*)")
_VARIABLE = re.compile(r"%(?:\{([^}]*)\}|(?:(-?\d+)\.)?(0?\d+)?([LUX]*)(.)|$)", re.DOTALL)
_LONG = {"user": "u", "username": "n", "domain": "d", "home": "h", "service": "s"}


def boolean(setting: Setting) -> bool:
    """`yes`/`no`; also `y` and `1`, as Dovecot takes them."""
    text = setting.content().lower()
    if text in ("yes", "y", "1"):
        return True
    if text == "no":
        return False
    raise setting.origin.error(f"Invalid boolean value: {setting.text} (use yes or no)")


def number(setting: Setting, low: int = 0, high: int = (1 << 32) - 1) -> int:
    """A whole number between `low` and `high`."""
    text = setting.content()
    if text.isascii() and text.isdecimal() and len(text) < 19 and low <= int(text) <= high:
        return int(text)
    raise setting.origin.error(f"Invalid number {text}: {setting.key} takes {low} to {high}")


def port(setting: Setting) -> int:
    """A port number; 0 switches the listener off."""
    text = setting.content()
    if text.isascii() and text.isdecimal() and len(text) < 6 and int(text) < 65536:
        return int(text)
    raise setting.origin.error(f"Invalid port number {text}")


def seconds(setting: Setting) -> float:
    """A time: `2 secs`, `2m`, `1 hours`; a bare number needs a unit unless it is 0."""
    match = _NUMBER.fullmatch(setting.content())
    if match is not None and (match[1] == "0" or match[2].lower() in _UNITS):
        return int(match[1]) * _UNITS.get(match[2].lower(), 0.0)
    raise setting.origin.error(f"Invalid time interval: {setting.text} (write for instance 30 secs)")


def size(setting: Setting) -> int:
    """Octets: `64 k`, `1M`, `512`, `10 MiB`."""
    match = _NUMBER.fullmatch(setting.content())
    if match is not None:
        unit = match[2].lower()
        unit = unit[:1] if unit[1:] in ("b", "ib") else unit
        if unit in _SIZES:
            return int(match[1]) * _SIZES[unit]
    raise setting.origin.error(f"Invalid size: {setting.text}")


def mode(setting: Setting) -> int:
    """A file mode in octal, `0666`; `0`: no socket."""
    text = setting.content()
    if re.fullmatch("0|[0-7]{3,4}", text):
        return int(text, 8)
    raise setting.origin.error(f"Invalid mode: {text}")


def choice(setting: Setting, *choices: str) -> str:
    """One of a few words."""
    text = setting.content()
    if text in choices:
        return text
    raise setting.origin.error(f"Invalid value: {text} ({setting.key} is one of {', '.join(choices)})")


def words(setting: Setting) -> tuple[str, ...]:
    """Words separated by spaces or commas."""
    return tuple(setting.content().replace(",", " ").split())


def same(one: str, other: str) -> bool:
    """Whether two values say the same: `1 hours` and `60 mins`, `10 M` and `10240k`."""
    if one == other or one.lower() == other.lower() in ("yes", "no"):
        return True
    left, right = _NUMBER.fullmatch(one), _NUMBER.fullmatch(other)
    if left is None or right is None:
        return False
    if not int(left[1]) and not int(right[1]):
        return True
    for units in (_UNITS, _SIZES):
        first, second = units.get(left[2].lower()), units.get(right[2].lower())
        if first is not None and second is not None:
            return int(left[1]) * first == int(right[1]) * second
    return False


def template(setting: Setting, allowed: str) -> str:
    """A value with `%` variables, checked: only the one-letter variables in `allowed` occur."""
    text = setting.content()
    for match in _VARIABLE.finditer(text):
        letter = _letter(match)
        if letter is None or letter not in allowed + "%":
            raise setting.origin.error(f"{setting.key}: unsupported variable {match[0]}")
    return text


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace `%u`, `%Ld`, `%1n`, `%{user}`… A checked template never fails; a missing value is empty."""
    if "%" not in text:
        return text
    return _VARIABLE.sub(_replacer(variables), text)


def user_variables(user: str, home: str = "", service: str = "") -> dict[str, str]:
    """%u %n %d %h %s of a user name."""
    name, _, domain = user.partition("@")
    return {"u": user, "n": name, "d": domain, "h": home, "s": service}


def _letter(match: re.Match[str]) -> str | None:
    return _LONG.get(match[1]) if match[1] is not None else match[5]


def _replacer(variables: Mapping[str, str]) -> Callable[[re.Match[str]], str]:
    def replace(match: re.Match[str]) -> str:
        letter = _letter(match)
        if letter == "%":
            return "%"
        value = variables.get(letter or "", "")
        _, offset, width, modifiers, _ = match.groups()
        for modifier in modifiers or "":
            if modifier == "X":
                value = f"{int(value or 0):x}"
            else:
                value = value.lower() if modifier == "L" else value.upper()
        if offset:
            value = value[int(offset) :]
        if width and width[0] == "0":
            return value.rjust(int(width), "0")
        return value[: int(width)] if width else value

    return replace
