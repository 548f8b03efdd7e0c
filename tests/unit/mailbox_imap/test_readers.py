"""Readers beside a command that reads many messages for the first time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from mailstack.mailbox.imap.readers import BLOCK, MANY, readers_for
from mailstack.storage.maildir.cache import Kind, MessageCache
from tests.mailbox import running

COUNT = BLOCK * 9 + 5


COMMANDS = (
    b"c FETCH 1:* (ENVELOPE BODYSTRUCTURE)\r\n"
    b"d SORT (SUBJECT) UTF-8 ALL\r\n"
    b"e THREAD REFERENCES UTF-8 ALL\r\n"
    b"f SEARCH HEADER SUBJECT 77\r\n"
)


@pytest.fixture(autouse=True)
def processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})


def _read(uid: int, patient: bool) -> Iterable[tuple[Kind, bytes]]:
    if uid % 50 == 0:
        raise FileNotFoundError(uid)
    return [(Kind.ENVELOPE, b"%d" % uid), (Kind.BODY, b"b" * uid)]


def test_all_is_read_by_somebody(tmp_path: Path) -> None:
    async def main() -> None:
        cache = MessageCache.load(str(tmp_path), 1, range(COUNT + 1))
        found = readers_for(cache, range(1, COUNT + 1), _read)
        assert found is not None
        assert readers_for(cache, range(1, COUNT + 1), _read) is None  # one command at a time
        for count in range(COUNT):
            await found.reach(count)
            uid = count + 1
            if not cache.has(Kind.BODY, uid):
                continue  # it is the command's own part, or cannot be read
            assert (cache.get(Kind.ENVELOPE, uid), cache.get(Kind.BODY, uid)) == (b"%d" % uid, b"b" * uid)
        found.close()
        cache.close()

    asyncio.run(main())


def test_all_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        cache = MessageCache.load(str(tmp_path), 1, range(COUNT + 1))
        told: list[int] = []

        async def turn(done: int, total: int) -> None:
            told.append(done)

        found = readers_for(cache, range(1, COUNT + 1), _read)
        assert found is not None
        await found.read_all(turn)
        found.close()
        known = {uid for uid in range(1, COUNT + 1) if cache.get(Kind.ENVELOPE, uid) == b"%d" % uid}
        assert known == {uid for uid in range(1, COUNT + 1) if uid % 50}
        assert told == sorted(told)
        cache.close()

    asyncio.run(main())


def test_a_reader_that_dies_is_not_waited_for(tmp_path: Path) -> None:
    command = os.getpid()

    def deadly(uid: int, patient: bool) -> Iterable[tuple[Kind, bytes]]:
        if os.getpid() != command:
            os._exit(1)
        return _read(uid, patient)

    async def main() -> None:
        cache = MessageCache.load(str(tmp_path), 1, range(COUNT + 1))
        found = readers_for(cache, range(1, COUNT + 1), deadly)
        assert found is not None
        async with asyncio.timeout(30):
            for count in range(COUNT):
                await found.reach(count)
        found.close()
        cache.close()

    asyncio.run(main())


def test_none_where_there_can_be_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> int:
        raise BlockingIOError("no more processes")

    cache = MessageCache.load(str(tmp_path), 1, range(COUNT + 1))
    monkeypatch.setattr(os, "fork", refused)
    assert readers_for(cache, range(1, COUNT + 1), _read) is None
    monkeypatch.undo()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    assert readers_for(cache, range(1, COUNT + 1), _read) is None
    cache.close()


def test_what_readers_find_is_what_the_session_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same answers with them, without them, and from the cache."""
    root = tmp_path / "mail/mail.test/zs"
    (root / "cur").mkdir(parents=True)
    for number in range(MANY + 1):
        text = f"Subject: {number}\nContent-Type: text/x-{number}\n\n" + "line\n" * (number % 7)
        (root / f"cur/{number}.M1.other:2,S").write_text(text)
    started: list[object] = []
    fork = os.fork

    def counted() -> int:
        started.append(None)
        return fork()

    async def ask() -> bytes:
        async with running(tmp_path) as mailbox:
            stream = await mailbox.connect("imap")
            stream.write(b"a LOGIN zs secret\r\nb SELECT INBOX\r\n" + COMMANDS)
            answer = b""
            while b"f OK" not in answer:
                answer += await stream.read(30)
            stream.close()
        return answer[answer.index(b"* 1 FETCH") :]

    monkeypatch.setattr(os, "fork", counted)
    with_readers = asyncio.run(ask())
    assert len(started) == 6  # two for each command but the last
    assert asyncio.run(ask()) == with_readers
    (root / "mailstack.cache").unlink()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    assert asyncio.run(ask()) == with_readers
    assert len(started) == 6


def test_others_have_their_turn_after_each_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where this process reads everything by itself."""

    async def main() -> None:
        cache = MessageCache.load(str(tmp_path), 1, range(COUNT + 1))
        monkeypatch.setattr("mailstack.mailbox.imap.readers.READERS_MAX", 0)
        found = readers_for(cache, range(1, COUNT + 1), _read)
        assert found is not None
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async def no_turn(done: int, total: int) -> None:
            pass

        task = asyncio.create_task(others())
        await found.read_all(no_turn)
        task.cancel()
        assert turns >= 9
        found.close()
        cache.close()

    asyncio.run(main())
