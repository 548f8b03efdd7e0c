"""The queue on disk: what goes in comes out, transitions, crossing off, deferral, damage."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from mailstack.storage.durable import GroupCommit
from mailstack.storage.queue import DamagedFile, Envelope, Message, Queue, Reason, Recipient
from mailstack.storage.spare import LIMIT

CONTENT = b"Subject: hello\r\n\r\nBody.\r\n"
ENVELOPE = Envelope(
    "zs@dgtlinux.com",
    (
        Recipient("a@x.test"),
        Recipient("b@x.test", original="list@x.test", notify="FAILURE,DELAY", orcpt="rfc822;list@x.test"),
        Recipient("cé@x.test"),
    ),
    1_700_000_000.25,
    client_name="client.test",
    client_address="192.0.2.1",
    helo_name="helo\\name\nX nasty",
    protocol="ESMTPSA",
    sasl_method="PLAIN",
    sasl_username="zs@dgtlinux.com",
    body="8bitmime",
    smtputf8=True,
    ret="HDRS",
    envid="QQ314159",
    attributes={"rewrite_context": "local"},
)


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    queue = Queue(str(tmp_path / "queue"))
    queue.create()
    return queue


def put(queue: Queue, envelope: Envelope = ENVELOPE, *parts: bytes) -> str:
    commit = GroupCommit()
    try:
        return asyncio.run(queue.enqueue(envelope, parts or (CONTENT,), commit))
    finally:
        commit.close()


def queues(queue: Queue, queue_id: str) -> list[str]:
    return [
        name
        for name in ("tmp", "maildrop", "incoming", "active", "deferred", "hold", "corrupt")
        if os.path.exists(queue.path(name, queue_id))
    ]


def test_what_goes_in_comes_out(queue: Queue) -> None:
    queue_id = put(queue, ENVELOPE, CONTENT[:5], CONTENT[5:])
    assert queues(queue, queue_id) == ["incoming"]
    message = queue.read("incoming", queue_id)
    assert message.envelope == replace(ENVELOPE, queue_id=queue_id, size=len(CONTENT))
    assert message.content == CONTENT
    assert list(message.pending) == [0, 1, 2]
    assert (message.attempts, message.reasons) == (0, {})
    assert queue.read_content(message, 7) == CONTENT[:7]
    assert queue.find(queue_id) == "incoming"


@pytest.mark.parametrize("size", [0, 1, 64 * 1024 - 300, 64 * 1024, 1_000_000])
def test_spooled_content_of_any_size(queue: Queue, size: int) -> None:
    content = (b"x" * 78 + b"\r\n") * (size // 80 + 1)
    content = content[:size]

    async def spool() -> str:
        spool = queue.spool(1_700_000_000.0)
        for start in range(0, size, 100_000):
            spool.append((content[start : start + 100_000],))
        commit = GroupCommit()
        try:
            return await spool.commit(ENVELOPE, commit)
        finally:
            commit.close()

    queue_id = asyncio.run(spool())
    message = queue.read("incoming", queue_id)
    assert message.envelope.size == size
    assert queue.read_content(message) == content
    assert queue.read_content(message, 10) == content[:10]
    fd = queue.open_content(message)
    with os.fdopen(fd, "rb") as file:
        assert file.read(size) == content
    assert os.listdir(f"{queue.directory}/tmp") == []


def test_an_aborted_spool_leaves_nothing(queue: Queue) -> None:
    spool = queue.spool(1_700_000_000.0)
    spool.append((CONTENT,))
    spool.abort()
    spool.abort()
    assert os.listdir(f"{queue.directory}/tmp") == []
    queue.spool(1_700_000_000.0)
    assert queue.clear_temporary() == 1
    assert os.listdir(f"{queue.directory}/tmp") == []


def test_recipients_are_crossed_off_in_place(queue: Queue) -> None:
    queue_id = put(queue)
    message = queue.read("incoming", queue_id)
    before = os.stat(queue.path("incoming", queue_id)).st_size
    queue.mark_done(message, [1])
    assert list(message.pending) == [0, 2]
    again = queue.read("incoming", queue_id)
    assert list(again.pending) == [0, 2]
    assert again.envelope == message.envelope
    queue.mark_done(again, [0, 2])
    assert queue.read("incoming", queue_id).pending == {}
    assert os.stat(queue.path("incoming", queue_id)).st_size == before


def test_deferral_keeps_reasons_attempts_and_time(queue: Queue) -> None:
    queue_id = put(queue)
    message = queue.read("incoming", queue_id)
    queue.mark_done(message, [0])
    reasons = {0: Reason(5.0, "4.0.0", "done anyway"), 1: Reason(10.0, "4.4.1", "connect to\nx: refused\\")}
    queue.defer(message, reasons, 1_700_000_300.0)
    assert queues(queue, queue_id) == ["deferred"]
    assert list(queue.scan("deferred")) == [(queue_id, 1_700_000_300.0)]
    again = queue.read("deferred", queue_id)
    assert (again.attempts, again.mtime) == (1, 1_700_000_300.0)
    assert again.reasons == {1: reasons[1]}
    queue.move(queue_id, "deferred", "active")
    again.queue = "active"
    queue.defer(again, {2: Reason(20.0, "4.2.2", "full")}, 1_700_000_900.0)
    third = queue.read("deferred", queue_id)
    assert third.attempts == 2
    assert third.reasons == {1: reasons[1], 2: Reason(20.0, "4.2.2", "full")}
    assert third.content == CONTENT


def test_a_torn_status_is_only_lost_information(queue: Queue) -> None:
    queue_id = put(queue)
    message = queue.read("incoming", queue_id)
    queue.defer(message, {0: Reason(10.0, "4.4.1", "x" * 100)}, 1_700_000_300.0)
    path = queue.path("deferred", queue_id)
    os.truncate(path, os.stat(path).st_size - 20)
    again = queue.read("deferred", queue_id)
    assert (again.attempts, again.reasons) == (0, {})
    assert len(again.pending) == 3


def damage_truncate(data: bytes) -> bytes:
    return data[:-1]


def damage_header(data: bytes) -> bytes:
    return b"\0" * 41 + data[41:]


def damage_numbers(data: bytes) -> bytes:
    return data[:5] + b"x" * 10 + data[15:]


def damage_envelope(data: bytes) -> bytes:
    return data.replace(b"R a@x", b"R z@x")


@pytest.mark.parametrize("damage", [damage_truncate, damage_header, damage_numbers, damage_envelope])
@pytest.mark.parametrize("size", [100, 200_000])
def test_damage_is_noticed(queue: Queue, damage: object, size: int) -> None:
    assert callable(damage)
    queue_id = put(queue, ENVELOPE, b"x" * size)
    path = Path(queue.path("incoming", queue_id))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedFile):
        queue.read("incoming", queue_id)
    queue.move(queue_id, "incoming", "corrupt")
    assert queues(queue, queue_id) == ["corrupt"]


def test_transitions_of_a_missing_message_say_so(queue: Queue) -> None:
    for target in ("active", "deferred"):
        with pytest.raises(FileNotFoundError):
            queue.move("0000000", "incoming", target)
    queue.remove("incoming", "0000000")
    with pytest.raises(FileNotFoundError):
        queue.read("incoming", "0000000")
    assert queue.find("0000000") is None


def test_ids_never_repeat_and_spread(tmp_path: Path) -> None:
    queue = Queue(str(tmp_path))
    ids = [queue.new_id(1_700_000_000.0) for _ in range(1000)]
    ids += [queue.new_id(1_700_000_001.0) for _ in range(1000)]
    assert len(set(ids)) == 2000
    assert all(len(queue_id) >= 13 and set(queue_id) <= set("0123456789ABCDEF") for queue_id in ids)
    long_id = Queue(str(tmp_path), long_ids=True).new_id(1_700_000_000.0)
    assert len(long_id) >= 12
    assert not set(long_id) & set("aeiouAEIOU")


def test_hash_depth(tmp_path: Path) -> None:
    queue = Queue(str(tmp_path), hash_depth=2)
    queue.create()
    queue_id = put(queue)
    message: Message = queue.read("incoming", queue_id)
    queue.defer(message, {}, 1.0)
    assert (tmp_path / "deferred" / queue_id[0] / queue_id[1] / queue_id).exists()
    assert [entry.queue_id for entry in queue.scan("deferred")] == [queue_id]


def test_an_empty_file_is_a_message_that_is_being_removed(queue: Queue) -> None:
    queue_id = put(queue, ENVELOPE, b"x")
    path = Path(queue.path("incoming", queue_id))
    path.write_bytes(b"")
    with pytest.raises(FileNotFoundError):
        queue.read("incoming", queue_id)
    assert not path.exists()


def test_files_are_used_again_without_their_old_content(queue: Queue) -> None:
    first = put(queue, ENVELOPE, b"a long secret " * 100)
    inode = os.stat(queue.path("incoming", first)).st_ino
    queue.remove("incoming", first)
    assert queue.find(first) is None
    (spare,) = (Path(queue.directory) / "spare").iterdir()
    assert spare.stat().st_size == 0
    second = put(Queue(queue.directory), ENVELOPE, b"short")
    message = queue.read("incoming", second)
    assert message.content == b"short"
    assert os.stat(queue.path("incoming", second)).st_ino == inode
    queue.remove("incoming", second)
    queue.clear_temporary()
    assert not list((Path(queue.directory) / "spare").iterdir())


def test_only_so_many_files_are_kept(queue: Queue) -> None:
    for queue_id in [put(queue, ENVELOPE, b"x") for _ in range(LIMIT + 3)]:
        queue.remove("incoming", queue_id)
    assert len(list((Path(queue.directory) / "spare").iterdir())) == LIMIT
    assert not list(queue.names("incoming"))


def test_long_ids_tell_the_time_as_postfix_writes_it(tmp_path: Path) -> None:
    digits = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"
    queue_id = Queue(str(tmp_path), long_ids=True).new_id(1_795_373_000.123456)
    stamp, process = queue_id.rsplit("z", 1)
    numbers = [
        sum(digits.index(one) * 52**n for n, one in enumerate(reversed(part)))
        for part in (stamp[:6], stamp[6:])
    ]
    assert numbers[0] == 1_795_373_000 and abs(numbers[1] - 123456) <= 1
    assert sum(digits.index(one) * 51**n for n, one in enumerate(reversed(process))) == os.getpid()
