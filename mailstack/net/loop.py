"""Run a coroutine on the fastest event loop there is: uvloop, else asyncio's own."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

from mailstack.net.log import Log

T = TypeVar("T")
SWITCH_INTERVAL = 0.0005
"""Seconds that a thread waits for the interpreter before it asks for it.

A thread that returns from a system call (the flusher of `storage.durable`) wants the interpreter back; with
the default of 5 ms a busy event loop makes every such call that slow.
"""
GC_THRESHOLD = (10_000, 20, 50)
"""Objects before the collector looks for cycles: a session makes hundreds a message, and none in cycles."""


def run(main: Coroutine[Any, Any, T], log: Log | None = None) -> T:
    """Run `main` to its end on a new event loop and return its result. Lines of `log` are gathered meanwhile.

    uvloop is used where it is installed. A process must call this after its last fork: an event loop does
    not survive one.
    """
    try:
        import uvloop
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.set_threshold(*GC_THRESHOLD)
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main if log is None else _gathering(main, log))


async def _gathering(main: Coroutine[Any, Any, T], log: Log) -> T:
    log.on_loop(asyncio.get_running_loop())
    try:
        return await main
    finally:
        log.on_loop(None)
