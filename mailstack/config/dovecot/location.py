"""mail_location, and a user's own `mail` field.

`maildir:PATH[:OPTION=VALUE…]`:

| option | |
|---|---|
| `LAYOUT=maildir++`, `LAYOUT=fs` | folders as `.A.B`, or as `A/B`; the separator in names is `.` in both |
| `INBOX=PATH` | a Maildir elsewhere is the INBOX |
| `INDEX=…` | taken: our index is only a cache, and lies beside the messages |

`mbox:PATH[:INBOX=FILE][:INDEX=PATH]`: the INBOX is FILE (else PATH/inbox), and can be read. What we keep of
it lies in the INDEX path, else in `PATH/.mailstack`. Other mbox files are not shown.

Everything else is refused: it would put the messages, or what other programs look for, elsewhere.
"""

from __future__ import annotations

import re

from mailstack.config.dovecot.model import MailLocation

REASONS = {
    "sdbox": "only Dovecot reads dbox",
    "mdbox": "only Dovecot reads dbox",
    "dbox": "only Dovecot reads dbox",
    "imapc": "mail lies here, not on another server",
    "pop3c": "mail lies here, not on another server",
}


def parse_location(text: str) -> MailLocation:
    """A location with its variables still in it. Raises `ValueError`, which says what is wrong."""
    kind, colon, rest = text.partition(":")
    if kind in REASONS:
        raise ValueError(f"{kind} is not supported: {REASONS[kind]}")
    if kind == "mbox" and rest:
        return _mbox(rest)
    if kind != "maildir" or not colon or not rest:
        raise ValueError(f"only maildir:PATH and mbox:PATH are supported, not {text!r}")
    path, *options = rest.split(":")
    fs, inbox = False, ""
    for option in options:
        name, equals, value = option.partition("=")
        match name.upper():
            case "LAYOUT" if value.lower() in ("fs", "maildir++"):
                fs = value.lower() == "fs"
            case "INBOX" if value:
                inbox = _checked(value)
            case "INDEX" | "INDEXPVT" if equals:
                pass
            case _:
                raise ValueError(f"unsupported option {option}")
    return MailLocation(_checked(path), fs, inbox)


def _mbox(rest: str) -> MailLocation:
    path, *options = rest.split(":")
    path = _checked(path)
    inbox, copy = f"{path}/inbox", f"{path}/.mailstack"
    for option in options:
        name, _, value = option.partition("=")
        match name.upper():
            case "INBOX" if value:
                inbox = _checked(value)
            case "INDEX" if value and value.upper() != "MEMORY":
                copy = _checked(value)
            case "LAYOUT" if value.lower() == "fs":
                pass
            case _:
                raise ValueError(f"unsupported option {option}")
    return MailLocation(copy, mbox=inbox)


_WHOLE = re.compile(r"/|~/|~\Z|%[LU]*h|%\{home\}")
"""What a path begins with."""


def _checked(path: str) -> str:
    if _WHOLE.match(path) is None:
        raise ValueError("the path must begin with / or ~/")
    return path.rstrip("/") or "/"
