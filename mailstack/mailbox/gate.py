"""So many at once, the others in turn: `process_limit` of a service whose clients can wait (LMTP)."""

from __future__ import annotations

import asyncio
from collections import deque


class Gate:
    """Counts who is inside; whoever leaves gives his place to the one that has waited longest."""

    def __init__(self) -> None:
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def is_full(self, most: int) -> bool:
        """Whether the next one has to wait; `most` 0: never."""
        return 0 < most <= self._inside

    async def enter(self, most: int) -> None:
        """Return when there is a place, which `leave` has to give back."""
        if not self.is_full(most):
            self._inside += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.leave()  # the place had been given already
            raise

    def leave(self) -> None:
        """Give one's place to the next, or back."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._inside -= 1
