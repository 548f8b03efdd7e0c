"""A thread for file work that may block, behind an event loop.

It is started when it is first needed and does one job after the other, so that jobs of one owner never
overtake each other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")
Job = Callable[[], None]


class Background:
    """One thread. Make it after the last fork; `close()` ends it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def run(self, loop: asyncio.AbstractEventLoop, work: Callable[[], T], then: Callable[[T], None]) -> None:
        """Do `work`, which must not raise, on the thread and hand its result to `then` on the loop."""

        def job() -> None:
            result = work()
            try:
                loop.call_soon_threadsafe(then, result)
            except RuntimeError:
                pass  # the loop is closed: nobody waits any more

        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        self._jobs.put(job)

    async def do(self, work: Callable[[], T]) -> T:
        """The result of `work`, which must not raise, done on the thread."""
        from asyncio import get_running_loop  # tools that only look at a queue need not load it

        loop = get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def then(result: T) -> None:
            if not done.done():
                done.set_result(result)

        self.run(loop, work, then)
        return await done

    def close(self) -> None:
        """Finish what was given and end (blocks until then)."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
