"""Run a coroutine on the fastest event loop there is: uvloop, else asyncio's own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
SWITCH_INTERVAL = 0.0005
"""Seconds that a thread waits for the interpreter before it asks for it.

The writers of `storage.durable` give the interpreter up at every system call and want it back a moment later;
with the default of 5 ms a busy event loop makes each of these calls that slow (a single busy session then gets
a third of the durable writes per second).
"""


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end on a new event loop and return its result.

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
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)
