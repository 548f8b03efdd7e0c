"""Work that may block for long (commands, locks, other users' files), away from the event loop.

Each piece of work has a thread of its own: such work is rare, some of it takes minutes, and the
scheduler bounds how much of it is under way. The threads do not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from mailstack.storage.queue import Message, Queue, Spool

T = TypeVar("T")
PIECE = 256 * 1024
"""Octets of content read at once."""


async def in_thread(work: Callable[[], T]) -> T:
    """The result of `work`; raises what it raises. When the waiting task is cancelled the work goes on."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def body() -> None:
        result: T | None = None
        failed: BaseException | None = None
        try:
            result = work()
        except BaseException as error:
            failed = error
        try:
            loop.call_soon_threadsafe(settle, result, failed)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more

    threading.Thread(target=body, name="delivery", daemon=True).start()
    return await done


def pieces(queue: Queue, message: Message) -> Iterator[bytes]:
    """A message's content as it lies in the queue, in pieces. Raises `OSError`."""
    if message.content is not None:
        yield message.content
        return
    try:
        fd = queue.open_content(message)
    except FileNotFoundError:
        fd = queue.open_content(message)  # it has been moved to active/ just now
    with os.fdopen(fd, "rb", 0) as file:
        left = message.envelope.size
        while left > 0 and (part := file.read(min(left, PIECE))):
            left -= len(part)
            yield part


def content(queue: Queue, message: Message) -> Iterator[bytes]:
    """A message's content with LF line ends, in pieces. Raises `OSError`."""
    held = b""
    for part in pieces(queue, message):
        part = held + part
        held = b"\r" if part.endswith(b"\r") else b""
        yield (part[:-1] if held else part).replace(b"\r\n", b"\n")
    if held:
        yield held


async def copy(queue: Queue, message: Message, spool: Spool) -> None:
    """Add a message's content to another one that is being written. Raises `OSError`."""
    for part in pieces(queue, message):
        spool.append((part,))
        await asyncio.sleep(0)  # others have their turn
