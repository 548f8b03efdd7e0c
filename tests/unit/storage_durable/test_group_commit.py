"""Group commit: everybody gets his own outcome, and a failure leaves nothing behind."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from mailstack.storage import rounds
from mailstack.storage.durable import LARGE, GroupCommit, Publication, publish_now
from mailstack.storage.flush import PAUSE, FilesystemFlush, names_follow, write_out


def publication(folder: Path, name: str, data: bytes, **more: object) -> Publication:
    return Publication(f"{folder}/tmp-{name}", f"{folder}/new/{name}", (data,), **more)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "new").mkdir()
    return tmp_path


def test_many_at_once(folder: Path) -> None:
    async def main() -> None:
        commit = GroupCommit()
        items = [publication(folder, str(n), b"%d" % n * (LARGE if n == 7 else 1)) for n in range(200)]
        await asyncio.gather(*(commit.publish(item) for item in items))
        commit.close()
        with pytest.raises(RuntimeError):
            await commit.publish(items[0])

    asyncio.run(main())
    assert sorted(os.listdir(folder / "new")) == sorted(map(str, range(200)))
    assert (folder / "new" / "199").read_bytes() == b"199"
    assert (folder / "new" / "7").stat().st_size == LARGE
    assert os.listdir(folder) == ["new"]


def test_one_failure_is_one_callers(folder: Path) -> None:
    async def main() -> list[object]:
        commit = GroupCommit()
        (folder / "tmp-taken").write_bytes(b"somebody else's")
        missing = Publication(f"{folder}/tmp-m", f"{folder}/nowhere/m", (b"x",))
        items = [publication(folder, "a", b"a"), publication(folder, "taken", b"b"), missing]
        results = await asyncio.gather(*(commit.publish(item) for item in items), return_exceptions=True)
        commit.close()
        return list(results)

    first, second, third = asyncio.run(main())
    assert first is None
    assert isinstance(second, FileExistsError)
    assert isinstance(third, FileNotFoundError)
    assert (folder / "tmp-taken").read_bytes() == b"somebody else's"
    assert not (folder / "tmp-m").exists()
    assert os.listdir(folder / "new") == ["a"]


def test_a_full_disk_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def main() -> None:
        commit = GroupCommit()
        with pytest.raises(OSError, match="No space left"):
            await commit.publish(publication(folder, "a", b"a"))
        commit.close()

    monkeypatch.setattr(os, "fsync", full)
    asyncio.run(main())
    assert os.listdir(folder) == ["new"]
    assert os.listdir(folder / "new") == []


def test_append_mode_and_time(folder: Path) -> None:
    (folder / "tmp-a").write_bytes(b"begun, ")
    publish_now(publication(folder, "a", b"done", append=True, mtime=1_700_000_000.0))
    publish_now(publication(folder, "b", b"", mode=0o640))
    assert (folder / "new" / "a").read_bytes() == b"begun, done"
    assert (folder / "new" / "a").stat().st_mtime == 1_700_000_000.0
    assert (folder / "new" / "b").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("works", [True, False])
def test_a_round_is_flushed_together_where_that_works(
    folder: Path, monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:
    """One flush of the filesystem stands for many; when it fails, every file is flushed by itself."""
    flushed: list[int] = []
    synced: list[int] = []
    fsync = os.fsync

    def together(self: FilesystemFlush, fd: int) -> bool:
        flushed.append(fd)
        return works

    def single(fd: int) -> None:
        synced.append(fd)
        fsync(fd)

    monkeypatch.setattr(rounds, "write_out", lambda fds: None)
    monkeypatch.setattr(FilesystemFlush, "flush", together)
    monkeypatch.setattr(os, "fsync", single)

    async def main() -> None:
        commit = GroupCommit()
        await asyncio.gather(*(commit.publish(publication(folder, str(n), b"x")) for n in range(20)))
        commit.close()

    asyncio.run(main())
    assert len(os.listdir(folder / "new")) == 20
    assert flushed
    assert len(synced) == (1 if works else 21)  # the last round has only the directory's renames


def test_a_round_with_a_journal_needs_one_flush(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contents are written out, then come the names, then one flush for all; each failure has its file."""
    steps: list[str] = []
    rename = os.rename
    refused = {"2"}
    broken = False

    def written(fds: Sequence[int]) -> dict[int, OSError]:
        steps.append(f"write {len(fds)}")
        return {fds[1]: OSError(errno.EIO, "Input/output error")}

    def named(source: str, target: str) -> None:
        if os.path.basename(target) in refused:
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, target)
        steps.append(os.path.basename(target))

    def flushed(fd: int) -> None:
        steps.append("flush")
        if broken:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(rounds, "names_follow", lambda device: True)
    monkeypatch.setattr(rounds, "write_out", written)
    monkeypatch.setattr(os, "rename", named)
    monkeypatch.setattr(os, "fsync", flushed)

    async def main(first: int) -> list[object]:
        commit = GroupCommit()
        items = [publication(folder, str(n), b"x") for n in range(first, first + 5)]
        results = await asyncio.gather(*(commit.publish(item) for item in items), return_exceptions=True)
        commit.close()
        return [result.errno if isinstance(result, OSError) else result for result in results]

    assert asyncio.run(main(0)) == [None, errno.EIO, errno.ENOSPC, None, None]
    assert steps == ["write 5", "0", "3", "4", "flush"]
    assert sorted(os.listdir(folder / "new")) == ["0", "3", "4"]
    broken = True
    assert asyncio.run(main(10)) == [errno.EIO] * 5
    assert sorted(os.listdir(folder / "new")) == ["0", "3", "4"]
    assert os.listdir(folder) == ["new"]


def test_write_out_says_which_file_has_failed(tmp_path: Path) -> None:
    good = os.open(tmp_path / "good", os.O_CREAT | os.O_WRONLY)
    read_end, write_end = os.pipe()
    try:
        os.write(good, b"x" * 10_000)
        assert write_out([good]) == {}
        assert {fd: error.errno for fd, error in (write_out([good, write_end]) or {}).items()} == {
            write_end: errno.ESPIPE
        }
    finally:
        for fd in (good, read_end, write_end):
            os.close(fd)


def test_flushing_a_filesystem_is_left_alone_when_it_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    calls: list[int] = []

    def slow(fd: int) -> int:
        calls.append(fd)
        now[0] += 0.5
        return 0

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    flush = FilesystemFlush(slow)
    assert flush.flush(3)
    assert not flush.flush(3)
    now[0] += PAUSE
    assert flush.flush(3)
    assert calls == [3, 3]
    assert not FilesystemFlush(lambda fd: -1).flush(3)


def test_early_files_need_one_flush_and_vanish_when_it_fails(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> list[object]:
        commit = GroupCommit()
        items = [publication(folder, str(n), b"x", early=True) for n in range(5)]
        (folder / "tmp-4").write_bytes(b"somebody else's")
        results = await asyncio.gather(*(commit.publish(item) for item in items), return_exceptions=True)
        commit.close()
        return list(results)

    *good, taken = asyncio.run(main())
    assert good == [None] * 4
    assert isinstance(taken, FileExistsError)
    assert sorted(os.listdir(folder / "new")) == ["0", "1", "2", "3"]

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(FilesystemFlush, "flush", lambda self, fd: False)
    monkeypatch.setattr(os, "fsync", broken)
    (folder / "tmp-4").unlink()
    for name in os.listdir(folder / "new"):
        (folder / "new" / name).unlink()
    assert all(isinstance(result, OSError) for result in asyncio.run(main()))
    assert os.listdir(folder / "new") == []


def test_a_lone_file_is_announced_before_its_flush(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    flush = os.fsync

    def noted(fd: int) -> None:
        events.append("flush")
        flush(fd)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(rounds, "names_follow", lambda device: True)

    def early(name: str) -> Publication:
        return publication(folder, name, b"x", early=True, written=lambda: events.append(name))

    async def main() -> None:
        commit = GroupCommit()
        await commit.publish(early("one"))
        assert events[:2] == ["one", "flush"]
        events.clear()
        await asyncio.gather(*(commit.publish(early(str(n))) for n in range(3)))
        await asyncio.gather(*(commit.publish(early(str(n))) for n in range(3, 6)))
        assert not set("345") & set(events)  # in a crowd nobody has the time
        commit.close()

    asyncio.run(main())


@pytest.mark.parametrize("size", [1, LARGE + 1])
@pytest.mark.parametrize("ordered", [True, False])
def test_a_gate(folder: Path, size: int, ordered: bool) -> None:
    """A file with a gate has its name behind it, or is gone."""
    device = folder.stat().st_dev if ordered else 0

    async def main() -> None:
        commit = GroupCommit()
        opened = asyncio.Event()

        async def shut() -> None:
            raise PermissionError("no")

        item = publication(folder, "in", b"x" * size, ordered=device, gate=opened.wait)
        waiting = asyncio.create_task(commit.publish(item))
        with pytest.raises(PermissionError):
            await commit.publish(publication(folder, "out", b"x" * size, ordered=device, gate=shut))
        assert os.listdir(folder / "new") == []
        opened.set()
        await waiting
        commit.close()

    asyncio.run(main())
    assert os.listdir(folder / "new") == ["in"]
    assert os.listdir(folder) == ["new"]


@pytest.mark.parametrize(
    ("kind", "options", "follows"),
    [
        ("ext4", "rw\nbarrier\ndata=ordered\n", True),
        ("ext3", "rw\ndata=journal\n", True),
        ("ext4", "rw\nbarrier\ndata_err=abort\n", False),  # made without a journal
        ("ext4", None, False),  # who knows
        ("xfs", None, True),
        ("overlay", None, False),
    ],
)
def test_where_a_name_goes_with_its_file(
    tmp_path: Path, kind: str, options: str | None, follows: bool
) -> None:
    device = os.makedev(254, 3)
    for folder in ("proc/self", "proc/fs/ext4/vda3", "sys/dev/block"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "sys/dev/block/254:3").symlink_to("../../devices/virtio0/block/vda/vda3")
    if options is not None:
        (tmp_path / "proc/fs/ext4/vda3/options").write_text(options)
    (tmp_path / "proc/self/mountinfo").write_text(
        f"20 1 254:1 / / rw - tmpfs x rw\n21 20 254:3 / /var rw shared:1 - {kind} /dev/root rw\n"
    )
    assert names_follow.__wrapped__(device, str(tmp_path)) is follows
    assert not names_follow.__wrapped__(os.makedev(1, 1), str(tmp_path))
    assert not names_follow.__wrapped__(device, str(tmp_path / "missing"))
