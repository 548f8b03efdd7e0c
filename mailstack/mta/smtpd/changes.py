"""What access tables want to be done to a message (access(5): FILTER, HOLD, PREPEND, REDIRECT…)."""

from __future__ import annotations


class Changes:
    """The changes of one message; the last REDIRECT counts."""

    __slots__ = ("bcc", "discard", "filter", "hold", "prepended", "redirect")

    def __init__(self) -> None:
        self.hold = False
        self.discard = False
        self.filter = ""
        """`transport:nexthop`."""
        self.redirect = ""
        self.bcc: list[str] = []
        self.prepended = b""
        """Header lines with their CRLFs, to stand above our own Received: header."""

    def note(self, action: str, argument: str) -> None:
        """Remember an action by its lower-case name; one that only speaks changes nothing."""
        match action:
            case "hold":
                self.hold = True
            case "discard":
                self.discard = True
            case "filter":
                self.filter = argument
            case "redirect":
                self.redirect = argument
            case "bcc":
                self.bcc.append(argument)
            case "prepend":
                self.prepended += argument.encode("utf-8", "surrogateescape") + b"\r\n"
            case "info" | "warn":
                pass
            case _:
                raise AssertionError(f"unknown action {action}")
