"""mbox files: what is written, under which locks, and that a failure leaves nothing."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from mailstack.storage.identity import Identity, acting_as
from mailstack.storage.mbox import Locking, MailboxError, append, quoted

NOW = 1_700_000_000.0
QUICK = Locking(attempts=3, delay=1.0, stale=500.0)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([b"Subject: x\r\n\r\nFrom me\r\nto From\r\n"], b"Subject: x\n\n>From me\nto From\n\n"),
        ([b"a\r", b"\nFro", b"m b\n", b"From c"], b"a\n>From b\n>From c\n\n"),
        ([b"From the start\n>From quoted\n"], b">From the start\n>From quoted\n\n"),
        ([b"a\rb\n"], b"a\rb\n\n"),
        ([], b"\n"),
    ],
)
def test_quoting(parts: list[bytes], expected: bytes) -> None:
    assert b"".join(quoted(parts)) == expected


def test_messages_follow_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    box = tmp_path / "box"
    append(str(box), [b"one\r\n"], "a@x.test", NOW, QUICK)
    append(str(box), [b"two"], "", NOW, QUICK)
    assert box.read_bytes() == (
        b"From a@x.test  Tue Nov 14 22:13:20 2023\none\n\nFrom MAILER-DAEMON  Tue Nov 14 22:13:20 2023\ntwo\n\n"
    )
    assert box.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["box"]


def test_a_limit_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    box = tmp_path / "box"
    append(str(box), [b"one\n"], "a@x.test", NOW, QUICK)
    before = box.read_bytes()
    with pytest.raises(MailboxError, match="error writing message: File too large") as caught:
        append(str(box), [b"two\n", b"x" * 200], "a@x.test", NOW, QUICK, limit=200)
    assert caught.value.dsn == "5.2.2"
    assert box.read_bytes() == before


def test_a_dotlock_is_waited_for_and_a_stale_one_is_broken(tmp_path: Path) -> None:
    box, lock = tmp_path / "box", tmp_path / "box.lock"
    lock.touch()
    waits: list[float] = []
    with pytest.raises(MailboxError, match=r"unable to create lock file .*/box\.lock: File exists") as caught:
        append(str(box), [b"x\n"], "", NOW, QUICK, sleep=waits.append)
    assert (caught.value.dsn, waits, lock.exists()) == ("4.2.0", [1.0, 1.0], True)
    append(str(box), [b"x\n"], "", NOW, QUICK, sleep=lambda _: lock.unlink())
    lock.touch()
    append(str(box), [b"x\n"], "", NOW, Locking(attempts=2, stale=-1.0), sleep=waits.append)
    assert box.read_bytes().count(b"From ") == 2
    assert not lock.exists()


def test_a_kernel_lock_is_waited_for(tmp_path: Path) -> None:
    box = tmp_path / "box"
    append(str(box), [b"x\n"], "", NOW, QUICK)
    locking = Locking(("flock",), attempts=2)
    with box.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(MailboxError, match="unable to lock for exclusive access"):
            append(str(box), [b"y\n"], "", NOW, locking, sleep=lambda _: None)
        append(str(box), [b"y\n"], "", NOW, locking, sleep=lambda _: fcntl.flock(other, fcntl.LOCK_UN))
    assert box.read_bytes().count(b"From ") == 2


def test_a_file_that_is_replaced_meanwhile_gets_nothing(tmp_path: Path) -> None:
    box, lock = tmp_path / "box", tmp_path / "box.lock"
    append(str(box), [b"x\n"], "", NOW, QUICK)
    lock.touch()

    def replace(_: float) -> None:
        lock.unlink()
        (tmp_path / "other").touch()
        (tmp_path / "other").rename(box)

    with pytest.raises(MailboxError, match="has been replaced"):
        append(str(box), [b"y\n"], "", NOW, QUICK, sleep=replace)
    assert box.read_bytes() == b""


def _link(box: Path) -> None:
    (box.parent / "elsewhere").touch()
    box.symlink_to(box.parent / "elsewhere")


def _hard_link(box: Path) -> None:
    box.touch()
    os.link(box, box.parent / "second")


def _executable(box: Path) -> None:
    box.touch()
    box.chmod(0o755)


@pytest.mark.parametrize(
    ("make", "dsn", "text"),
    [
        (_link, "5.2.0", "symbolic link"),
        (_hard_link, "5.2.0", "file has 2 hard links"),
        (os.mkfifo, "5.2.0", "not a regular file"),
        (Path.mkdir, "4.2.0", "Is a directory"),
        (lambda box: box.parent.joinpath("box.lock").mkdir(), "4.2.0", "unable to create lock file"),
    ],
)
def test_what_is_no_mailbox(tmp_path: Path, make: Callable[[Path], None], dsn: str, text: str) -> None:
    make(tmp_path / "box")
    with pytest.raises(MailboxError, match=text) as caught:
        append(str(tmp_path / "box"), [b"x\n"], "", NOW, QUICK, sleep=lambda _: None)
    assert caught.value.dsn == dsn
    assert all(path.is_dir() or path.stat().st_size == 0 for path in tmp_path.iterdir())


def test_only_an_aliass_file_may_not_be_executable(tmp_path: Path) -> None:
    box = tmp_path / "box"
    _executable(box)
    with pytest.raises(MailboxError, match="file is executable"):
        append(str(box), [b"x\n"], "", NOW, QUICK, any_file=True)
    append(str(box), [b"x\n"], "", NOW, QUICK)
    assert box.stat().st_size


def test_somebody_elses_mailbox_and_a_device(tmp_path: Path) -> None:
    box = tmp_path / "box"
    box.touch()
    with pytest.raises(MailboxError, match="is not owned by recipient"):
        append(str(box), [b"x\n"], "", NOW, QUICK, must_own=os.geteuid() + 1)
    append("/dev/null", [b"x\n"], "", NOW, QUICK, any_file=True)
    with pytest.raises(MailboxError, match="not a regular file"):
        append("/dev/null", [b"x\n"], "", NOW, QUICK)


def test_files_in_another_users_name() -> None:
    """Root makes files as somebody else; anybody else is refused."""
    other = Identity(65534, 65534)
    with TemporaryDirectory() as name:
        folder = Path(name)
        if os.geteuid() != 0:
            with pytest.raises(PermissionError), acting_as(other):
                raise AssertionError("never here")
            return
        with pytest.raises(PermissionError), acting_as(other):
            (folder / "refused").touch()
        os.chown(folder, 65534, 65534)
        with acting_as(other):
            append(f"{folder}/box", [b"x\n"], "", NOW, QUICK)
        (folder / "ours").touch()
        assert {path.name: path.stat().st_uid for path in folder.iterdir()} == {"box": 65534, "ours": 0}
