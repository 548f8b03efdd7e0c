"""The one place where background tasks are made.

A task that nobody awaits loses its exception and may be collected while it runs; `TaskSet` keeps a
reference, reports what a task died of, and ends them all in an orderly way.

There are two kinds. `start` makes an ordinary task of the event loop. `drive` makes a `Driven`: a coroutine
that runs at once, and again inside the very call that brings what it waits for (a stream's
`data_received`), with no turn of the event loop in between. A session that answers seven commands is woken
seven times, so that is where a server of short answers spends its time.
"""

from __future__ import annotations

import asyncio
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")
OnError = Callable[[str, BaseException], None]
"""Called with the task's name and what it raised."""


class Driven(asyncio.Future[Any]):
    """A coroutine that is run by what wakes it; done, as a future, when the coroutine is over.

    It may wait for futures, tasks and `asyncio.sleep` as a task may, and for `park`. Of those that give way
    with `asyncio.sleep(0)` one goes on in each round of the event loop (`Turns`). What needs the current task
    (`asyncio.timeout`) goes through `apart`.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], name: str) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self._coroutine = coroutine
        self._name = name
        self._parked = False
        self._running = False
        self._awaits: asyncio.Future[Any] | None = None
        self._step(None)

    def get_name(self) -> str:
        return self._name

    def resume(self, error: BaseException | None = None) -> None:
        """Go on behind `park`, where `error` is raised if there is one; nothing happens elsewhere."""
        if self._parked:
            self._parked = False
            self._step(error)

    def cancel(self, msg: Any | None = None) -> bool:
        """Raise `CancelledError` at the place where it waits, as soon as the event loop has a turn.

        What it waits for is cancelled first, and may take its time, as with a task.
        """
        if self.done():
            return False
        self.get_loop().call_soon(self._cancelled)
        return True

    def _cancelled(self) -> None:
        if self.done() or self._running:
            return
        self._parked = False
        if self._awaits is not None and self._awaits.cancel():
            return  # `_ready` is called when it is over, and the coroutine is told by what it awaits
        self._step(asyncio.CancelledError())

    def _ready(self, awaited: asyncio.Future[Any]) -> None:
        # The call may have been on its way when a cancellation came first.
        if awaited is self._awaits:
            self._step(None)

    def _continue(self) -> None:
        if not self.done() and not self._parked and self._awaits is None:
            self._step(None)

    def _step(self, error: BaseException | None) -> None:
        """Run to the next place where it has to wait."""
        global _current
        outer, _current = _current, self
        self._awaits = None
        self._running = True
        try:
            awaited = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
        except StopIteration as stop:
            self.set_result(stop.value)
        except asyncio.CancelledError:
            super().cancel()
        except (KeyboardInterrupt, SystemExit):
            super().cancel()
            raise
        except BaseException as fault:
            self.set_exception(fault)
        else:
            if awaited is not None:
                awaited._asyncio_future_blocking = (
                    False  # as a task does: the future looks whether it was awaited
                )
                awaited.add_done_callback(self._ready)
                self._awaits = awaited
            elif not self._parked:  # asyncio.sleep(0): it has much to do
                _turns.append(self._continue)
        finally:
            self._running = False
            _current = outer


_current: Driven | None = None


def current() -> Driven | None:
    """What is being driven just now; None in a task and in a callback."""
    return _current


@types.coroutine
def _suspend() -> Generator[None, None, None]:
    yield


async def park(driven: Driven) -> None:
    """Wait until somebody calls `resume` on `driven`, which must be the caller itself."""
    driven._parked = True
    await _suspend()


async def apart(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that needs a task to run in; in a task, that is the one that it runs in."""
    if _current is None:
        return await coroutine
    return await asyncio.get_running_loop().create_task(coroutine)


class Turns:
    """Turns for those who have much to do: one of them goes on in each round of the event loop.

    Between two of them whatever is short gets done, so it waits for one piece of long work and not for a
    piece of each.
    """

    __slots__ = ("_loop", "_scheduled", "_waiting")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[Callable[[], None]] = deque()
        self._scheduled = False

    async def take(self) -> None:
        """Wait for a turn."""
        waiter = asyncio.get_running_loop().create_future()
        self.append(lambda: None if waiter.done() else waiter.set_result(None))
        await waiter

    def append(self, work: Callable[[], None]) -> None:
        """Have `work` done when it is its turn, on this event loop; what waits on another is forgotten."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._waiting.clear()
            self._scheduled = False
        self._waiting.append(work)
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._next)

    def _next(self) -> None:
        work = self._waiting.popleft()
        self._scheduled = bool(self._waiting)
        if self._scheduled:
            asyncio.get_running_loop().call_soon(self._next)
        work()


_turns = Turns()
"""Of everything driven in this process; it has one event loop at a time."""


class TaskSet:
    """Background tasks of one owner: started here, counted here, ended here."""

    def __init__(self, on_error: OnError) -> None:
        self._tasks: set[asyncio.Future[Any]] = set()
        self._on_error = on_error

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run `coroutine` in the background; an exception goes to `on_error`, never to nowhere."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def drive(self, coroutine: Coroutine[Any, Any, Any], name: str) -> None:
        """The same as a `Driven`, whose first steps are taken before this returns."""
        driven = Driven(coroutine, name)
        if driven.done():
            self._done(driven)
        else:
            self._tasks.add(driven)
            driven.add_done_callback(self._done)

    def _done(self, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            assert isinstance(task, (asyncio.Task, Driven))
            self._on_error(task.get_name(), error)

    async def drain(self, seconds: float) -> int:
        """Wait up to `seconds` for the tasks to end by themselves, then cancel the rest; return how many."""
        if self._tasks and seconds > 0:
            await asyncio.wait(self._tasks, timeout=seconds)
        mine = (asyncio.current_task(), _current)
        left = [task for task in self._tasks if task not in mine]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=1.0)
        return len(left)
