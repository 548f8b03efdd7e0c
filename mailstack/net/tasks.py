"""The one place where background tasks are made.

A task that nobody awaits loses its exception and may be collected while it runs; `TaskSet` keeps a
reference, reports what a task died of, and ends them all in an orderly way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

OnError = Callable[[str, BaseException], None]
"""Called with the task's name and what it raised."""


class TaskSet:
    """Background tasks of one owner: started here, counted here, ended here."""

    def __init__(self, on_error: OnError) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._on_error = on_error

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run `coroutine` in the background; an exception goes to `on_error`, never to nowhere."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._on_error(task.get_name(), error)

    async def drain(self, seconds: float) -> int:
        """Wait up to `seconds` for the tasks to end by themselves, then cancel the rest; return how many."""
        if self._tasks and seconds > 0:
            await asyncio.wait(self._tasks, timeout=seconds)
        left = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=1.0)
        return len(left)
