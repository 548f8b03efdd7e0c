"""mail_location, and a user's own `mail` field: `maildir:PATH[:OPTION=VALUE…]`.

| option | |
|---|---|
| `LAYOUT=maildir++`, `LAYOUT=fs` | folders as `.A.B`, or as `A/B`; the separator in names is `.` in both |
| `INBOX=PATH` | a Maildir elsewhere is the INBOX |
| `INDEX=…` | taken: our index is only a cache, and lies beside the messages |

Everything else is refused: it would put the messages, or what other programs look for, elsewhere.
"""

from __future__ import annotations

from mailstack.config.dovecot.model import MailLocation

REASONS = {
    "mbox": "have Postfix deliver to a Maildir (home_mailbox = Maildir/), or by LMTP",
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
    if kind != "maildir" or not colon or not rest:
        raise ValueError(f"only maildir:PATH is supported, not {text!r}")
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


def _checked(path: str) -> str:
    if not path.startswith(("/", "~/", "%h")) and path != "~":
        raise ValueError("the path must begin with / or ~/")
    return path.rstrip("/") or "/"
