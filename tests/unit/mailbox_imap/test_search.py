"""Long searches: large messages in pieces, word of how far they are."""

from __future__ import annotations

import asyncio
import base64
import mmap
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mailstack.mailbox.imap.search_query import PROGRESS, Progress
from mailstack.mailbox.imap.search_text import contains
from mailstack.wire.mime.text import fold_case

BIG = 8 << 20


def mapped(path: Path, content: bytes) -> mmap.mmap:
    path.write_bytes(content)
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def holds(data: bytes | mmap.mmap, text: str, *, header: bool = False) -> bool:
    return any(contains(data, fold_case(text), with_header=header))


@pytest.mark.parametrize("encoding", ["8bit", "base64", "quoted-printable"])
def test_large_messages_are_searched_in_pieces(tmp_path: Path, encoding: str) -> None:
    text = ("Grüße aus Köln " + "x" * 60 + "\n").encode() * (BIG // 80) + "das Ende, Übersee\n".encode()
    if encoding == "base64":
        text = base64.encodebytes(text)
    elif encoding == "quoted-printable":
        text = text.replace(b"=", b"=3D").replace("ü".encode(), b"=C3=BC").replace(b"x\n", b"x=\n\n")
    header = (
        f"Subject: large\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: {encoding}\n\n"
    )
    data = mapped(tmp_path / "large", header.encode() + text)
    tracemalloc.start()
    try:
        assert holds(data, "ENDE, übersee")
        assert not holds(data, "nirgends")
        assert holds(data, "subject: LARGE", header=True)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_every_place_across_two_pieces_is_found(tmp_path: Path) -> None:
    words = b"".join(b"%07d " % number for number in range(1 << 18))
    for name, body, encoding in (("a", words, "8bit"), ("b", base64.encodebytes(words), "base64")):
        header = b"Content-Transfer-Encoding: %b\n\n" % encoding.encode()
        data = mapped(tmp_path / name, header + body)
        for at in range((1 << 15) - 9, (1 << 15) + 9):
            assert holds(data, f"{at:07} {at + 1:07} {at + 2:07}")


@pytest.mark.parametrize(
    ("message", "text", "header", "found"),
    [
        (b"Content-Type: text/plain; charset=utf-7\n\n+AGEAYgBj-", "abc", False, True),
        (b"Content-Type: text/plain; charset=iso-8859-1\n\ncaf\xe9", "cafe", False, True),
        (b"Content-Transfer-Encoding: quoted-printable\n\nwo=\nrd =C3=A9tude", "word e", False, True),
        (b"Subject: =?utf-8?q?sp?= =?utf-8?b?bGl0?=\n\n", "split", True, True),
        (b"Subject: one\n\ttwo\n\n", "one two", True, True),
        (b"Subject: x\n\nbody", "subject", False, False),
        (b"Content-Type: image/png\n\nplain", "plain", False, False),
        (b"Content-Type: text/plain; charset=koi8-r\n\n\xf0\xd2\xc9", "при", False, True),
    ],
)
def test_nothing_is_overlooked(message: bytes, text: str, header: bool, found: bool) -> None:
    assert holds(message, text, header=header) is found


def test_the_client_hears_how_far_a_long_copy_is(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr("mailstack.mailbox.imap.search_query.PROGRESS", 0.0)

    async def check() -> None:
        done: list[bool] = []
        proceed = asyncio.Event()

        async def flush() -> None:
            done.append(True)
            if len(done) == 2:
                proceed.set()

        async def work() -> str:
            await proceed.wait()
            return "copied"

        session: Any = SimpleNamespace(
            service=SimpleNamespace(clock=SimpleNamespace(monotonic=lambda: 0.0)),
            line=lines.append,
            flush=flush,
        )
        assert await Progress(session, "A1").during(work(), done, 50) == "copied"

    asyncio.run(check())
    assert lines[:2] == [f'* OK [INPROGRESS ("A1" {done} 50)] Hang in there...' for done in (0, 1)]


def test_a_copy_goes_on_when_its_client_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailstack.mailbox.imap.search_query.PROGRESS", 0.0)
    ended: list[str] = []

    async def check() -> None:
        proceed = asyncio.Event()

        async def flush() -> None:
            asyncio.get_running_loop().call_soon(proceed.set)
            raise ConnectionResetError

        async def work() -> None:
            await proceed.wait()
            ended.append("copied")

        session: Any = SimpleNamespace(
            service=SimpleNamespace(clock=SimpleNamespace(monotonic=lambda: 0.0)),
            line=lambda text: None,
            flush=flush,
        )
        with pytest.raises(ConnectionResetError):
            await Progress(session, "A1").during(work(), [], 50)

    asyncio.run(check())
    assert ended == ["copied"]


def test_the_client_hears_how_far_a_long_search_is() -> None:
    lines: list[str] = []
    now = [100.0]

    async def flush() -> None:
        lines.append("sent")

    async def check() -> None:
        session: Any = SimpleNamespace(
            service=SimpleNamespace(clock=SimpleNamespace(monotonic=lambda: now[0])),
            line=lines.append,
            flush=flush,
        )
        progress = Progress(session, "A1")
        progress._turn = 0.0
        await progress.turn(1, 50)
        assert lines == []
        now[0] += PROGRESS
        progress._turn = 0.0
        await progress.turn(20, 50)
        progress._turn = 0.0
        await progress.turn(21, 50)

    asyncio.run(check())
    assert lines == ['* OK [INPROGRESS ("A1" 20 50)] Hang in there...', "sent"]
