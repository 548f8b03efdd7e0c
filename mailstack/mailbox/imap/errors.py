"""How a handler ends a command, or the connection, other than with OK."""

from __future__ import annotations

UNKNOWN_CTE = "NO [UNKNOWN-CTE] Unknown Content-Transfer-Encoding."
DAMAGED = "NO [PARSE] Invalid data in MIME part."


class CommandError(Exception):
    """The command is answered with this, behind its tag: `NO [CODE] text` or `BAD text`."""

    def __init__(self, reply: str) -> None:
        super().__init__(reply)
        self.reply = reply


class Disconnect(Exception):  # noqa: N818 - not an error of ours
    """The connection ends with `* BYE <text>`."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text
