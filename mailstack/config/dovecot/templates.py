"""Log lines as dovecot.conf has them: `%u`, `%{session}` and text, checked once and ready to be filled in.

Modifiers (`%Lu`, `%5u`) are not known in them. Raises `ConfigError` for variables that do not exist.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mailstack.config.dovecot.syntax import Setting

_VARIABLE = re.compile(r"%(?:\{([^}]*)\}|(.)|$)", re.DOTALL)
_WHO: Mapping[str, str] = {
    "u": "user",
    "n": "username",
    "d": "domain",
    "s": "service",
    "r": "rip",
    "l": "lip",
    "p": "pid",
}
LOGIN: Mapping[str, str] = {
    **_WHO,
    "m": "mech",
    "a": "lport",
    "b": "rport",
    "c": "secured",
    "k": "ssl_security",
    "e": "mail_pid",
}
"""Letters of login_log_format_elements; `session` has none."""
PREFIX: Mapping[str, str] = {**_WHO, "i": "uid"}
FETCHED = ("fetch_hdr_count", "fetch_hdr_bytes", "fetch_body_count", "fetch_body_bytes")
LOGOUT: Mapping[str, str] = {
    "i": "input",
    "o": "output",
    **{name: name for name in ("deleted", "expunged", "trashed", "appended", *FETCHED)},
}
"""What imap_logout_format knows; the long names stand for themselves."""


@dataclass(frozen=True, slots=True)
class Template:
    """`text` for `str.format_map`, with the variables in it by their long names."""

    text: str
    names: frozenset[str]

    def fill(self, values: Mapping[str, object]) -> str:
        """The text with the values of all `names` in it."""
        return self.text.format_map(values)


@dataclass(frozen=True, slots=True)
class LogFormats:
    """login_log_format with its elements, mail_log_prefix, imap_logout_format."""

    login: str
    elements: tuple[Template, ...]
    prefix: Template
    logout: Template


def template(setting: Setting, letters: Mapping[str, str], text: str | None = None) -> Template:
    """A setting's value (or a part of it, `text`)."""
    return _read(setting, letters, setting.content() if text is None else text)


def elements(setting: Setting) -> tuple[Template, ...]:
    """login_log_format_elements: words, each left out of a line where its variables are empty."""
    return tuple(_read(setting, LOGIN, word) for word in setting.content().split())


def login_format(setting: Setting) -> str:
    """login_log_format with `{text}` for `%$`, what has happened, and `{elements}` for `%s`."""
    return _read(setting, {"$": "text", "s": "elements"}, setting.content()).text


def _read(setting: Setting, letters: Mapping[str, str], text: str) -> Template:
    names = set()
    parts = []
    end = 0
    for found in _VARIABLE.finditer(text):
        parts.append(_literal(text[end : found.start()]))
        end = found.end()
        if found[2] == "%":
            parts.append("%")
            continue
        long = found[1] if found[1] is not None else letters.get(found[2] or "")
        if long is None or (long not in letters.values() and not (long == "session" and "u" in letters)):
            raise setting.origin.error(f"{setting.key}: unsupported variable {found[0]}")
        names.add(long)
        parts.append(f"{{{long}}}")
    parts.append(_literal(text[end:]))
    return Template("".join(parts), frozenset(names))


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
