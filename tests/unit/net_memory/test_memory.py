"""Memory after bursts of connections."""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from pathlib import Path

import pytest

from mailstack.net import memory
from mailstack.net.listen import Server, bind_tcp
from mailstack.net.stream import Stream
from mailstack.net.tasks import TaskSet


def test_the_heap_is_trimmed_after_a_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    trims: list[int] = []
    monkeypatch.setattr(memory, "EVERY", 3)
    monkeypatch.setattr(memory, "PAUSE", 0.0)
    monkeypatch.setattr(memory, "trim", lambda: trims.append(1))

    async def handler(stream: Stream) -> None:
        await stream.read(10)

    async def run() -> None:
        sock = bind_tcp("127.0.0.1", 0)
        server = Server(sock, handler, TaskSet(lambda name, error: None), name="test")
        await server.start()
        for count, expected in ((2, 0), (1, 1), (2, 1), (1, 2)):
            for _ in range(count):
                reader, writer = await asyncio.open_connection(*sock.getsockname())
                writer.write_eof()
                await reader.read()
                writer.close()
            await asyncio.sleep(0)
            assert len(trims) == expected
        server.stop()

    asyncio.run(run())


def test_trimming_works_where_the_c_library_can() -> None:
    assert memory.trim() in (True, False)
    if sys.platform == "linux" and os.confstr("CS_GNU_LIBC_VERSION"):
        blocks = [ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(200)]
        before = _resident()
        blocks.clear()
        memory.trim()
        assert _resident() < before


def _resident() -> int:
    """Pages of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1])
