"""Large zone files, read on the side while the old zones answer.

A thread does it: the interpreter gives the event loop its turn every few milliseconds. Only files that
nothing but their owner changes are read ahead. Those of zones that change while they serve (dynamic updates,
signing, a journal of differences) have to be read in one go with what has become of them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import Any, TypeVar

from mailstack.config.errors import ConfigError
from mailstack.config.named import NamedConf
from mailstack.config.named import Zone as ZoneConf
from mailstack.dns.zone import Zone
from mailstack.dns.zonefile import load_zone

T = TypeVar("T")
LARGE = 256 * 1024
"""Octets of a file that takes longer than a few datagrams may wait (some 10 ms)."""

Read = tuple[Zone, list[str]] | ConfigError
"""What `load_zone` has returned or raised."""


def read(conf: ZoneConf) -> tuple[Zone, list[str]]:
    """The zone that a file has, and what is odd about it. Raises `ConfigError`."""
    return load_zone(conf.name, conf.file, check_names=conf.check_names)


async def read_ahead(conf: NamedConf) -> dict[str, Read]:
    """What the large files of a configuration say, by the zones' names."""
    found: dict[str, Read] = {}
    for zone in conf.zones:
        if is_large(zone):
            try:
                found[zone.name] = await aside(partial(read, zone))
            except ConfigError as error:
                found[zone.name] = error
    return found


def is_large(conf: ZoneConf) -> bool:
    """Whether a zone's file is worth being read ahead, and may be."""
    changes = conf.dnssec is not None or conf.transfers.ixfr_from_differences
    if conf.kind != "primary" or changes or not conf.allow_update.is_none:
        return False
    try:
        return os.stat(conf.file).st_size >= LARGE
    except OSError:
        return False  # told when it is read


async def aside(action: Callable[[], T]) -> T:
    """What `action` returns or raises, in a thread that a process which ends does not wait for."""
    running = asyncio.get_running_loop()
    done: asyncio.Future[T] = running.create_future()

    def tell(settle: Callable[[Any], None], outcome: object) -> None:
        if not done.cancelled():
            settle(outcome)

    def work() -> None:
        settle: Callable[[Any], None] = done.set_result
        outcome: object
        try:
            outcome = action()
        except Exception as error:
            settle, outcome = done.set_exception, error
        with suppress(RuntimeError):  # the loop has been closed
            running.call_soon_threadsafe(tell, settle, outcome)

    Thread(target=work, name="zone files", daemon=True).start()
    return await done
