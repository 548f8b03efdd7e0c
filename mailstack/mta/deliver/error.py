"""error(8), retry(8) and discard(8): the nexthop is the answer.

`error:5.1.6 text` bounces, `retry:4.7.1 text` defers, `discard:text` throws away; without an enhanced status
code at its front a text gets `5.0.0`, `4.0.0` or `2.0.0`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mailstack.mta.deliver.request import Bounced, Deferred, Outcome, Request, Result, Sent

_CODED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})\s+(.*)\Z", re.DOTALL)


class ErrorAgent:
    """All three; `daemon` says which."""

    def __init__(self, daemon: str) -> None:
        self.daemon = daemon

    async def deliver(self, request: Request) -> Sequence[Result]:
        found = _CODED.match(request.nexthop)
        code, text = (found[1], found[2]) if found else ("", request.nexthop)
        return request.all(self._outcome(code, text))

    def _outcome(self, code: str, text: str) -> Outcome:
        match self.daemon:
            case "error":
                return Bounced(text, code if code.startswith("5") else "5.0.0")
            case "retry":
                return Deferred(text, code if code.startswith("4") else "4.0.0")
            case _:
                return Sent(text, code if code.startswith("2") else "2.0.0")

    async def close(self) -> None:
        """There is nothing to let go of."""


class Unavailable:
    """Stands for a transport that master.cf does not have, or whose daemon we do not have."""

    daemon = "error"

    async def deliver(self, request: Request) -> Sequence[Result]:
        return request.all(Deferred("mail transport unavailable", "4.3.0"))

    async def close(self) -> None:
        """There is nothing to let go of."""
