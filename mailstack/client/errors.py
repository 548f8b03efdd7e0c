"""What a server said or did not say."""

from __future__ import annotations


class ClientError(Exception):
    """A request to a service that did not work out.

    `code` is for programs; `hint` says what to do. `unreachable` means that no service answered at all, as
    opposed to one that said no.
    """

    def __init__(self, code: str, message: str, *, hint: str = "", unreachable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint
        self.unreachable = unreachable
