"""Finished messages leave the disk, some at once and on a thread.

An unlink waits while the filesystem writes its journal, and the thread that removes and the event loop take
the interpreter from each other: so messages gather for a moment first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from mailstack.net.log import Log
from mailstack.net.tasks import TaskSet
from mailstack.storage.background import Background
from mailstack.storage.queue import Message, Queue

RETRY = 5.0
"""Seconds until a removal that has failed is tried again. Until then the message counts as active, so that it
is not found and delivered once more."""
REMOVE_EVERY = 0.01
"""Seconds in which finished messages gather before they are removed together."""


class Removal:
    """Removes messages and tells when each is gone: `then(queue id)`. Logs `ID: removed`."""

    def __init__(self, queue: Queue, log: Log, tasks: TaskSet, then: Callable[[str], None]) -> None:
        self._queue = queue
        self._log = log
        self._tasks = tasks
        self._then = then
        self._finished: list[Message] = []
        self._busy = False
        self._background = Background("remove")

    def add(self, message: Message) -> None:
        """Every recipient of a message is done."""
        self._finished.append(message)
        if not self._busy:
            self._busy = True
            self._tasks.start(self._work(), "remove")

    async def _work(self) -> None:
        try:
            while self._finished:
                await asyncio.sleep(REMOVE_EVERY)
                batch, self._finished = self._finished, []
                errors = await self._background.do(partial(self._remove, batch))
                for message, error in zip(batch, errors, strict=True):
                    if error is None:
                        self._log.info(f"{message.queue_id}: removed")
                        self._then(message.queue_id)
                    else:
                        self._log.warning(f"{message.queue_id}: remove: {error.strerror or error}")
                        asyncio.get_running_loop().call_later(RETRY, self.add, message)
        finally:
            self._busy = False

    def _remove(self, messages: Sequence[Message]) -> list[OSError | None]:
        """What went wrong with each."""
        errors: list[OSError | None] = []
        for message in messages:
            try:
                self._queue.remove(message.queue, message.queue_id)
            except OSError as error:
                errors.append(error)
            else:
                errors.append(None)
        return errors
