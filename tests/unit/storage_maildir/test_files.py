"""The files beside the messages: uidlist, keywords, subscriptions, names."""

from __future__ import annotations

import errno
import os
import time
from array import array
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.storage.durable import publish_now
from mailstack.storage.maildir import names, prepare_delivery, subscriptions, tree, uidlist
from mailstack.storage.maildir.delivery import make_folder
from mailstack.storage.maildir.folder import Folder
from mailstack.storage.maildir.keywords import Keywords
from mailstack.storage.maildir.listing import read_listing

BASES = st.text("abc.,=SW0123", min_size=1, max_size=20)


@given(st.dictionaries(st.integers(1, 1000), BASES), st.integers(1, 2000))
def test_uidlist_comes_back(rows: dict[int, str], next_uid: int) -> None:
    data = uidlist.header(7, next_uid, "ab" * 16)
    data += b"".join(uidlist.record(uid, rows[uid], "W12 S10" if uid % 2 else "") for uid in sorted(rows))
    found = uidlist.parse(data)
    assert found is not None
    assert (found.uid_validity, found.guid, found.problem) == (7, "ab" * 16, "")
    assert found.uids == array("I", sorted(rows))
    assert found.bases == [rows[uid] for uid in sorted(rows)]
    assert found.next_uid == max([next_uid, *(uid + 1 for uid in rows)])
    assert all(found.extensions[uid] == "W12 S10" for uid in rows if uid % 2)


@given(st.integers(0, 400))
def test_a_uidlist_cut_off_anywhere_never_gives_a_uid_twice(cut: int) -> None:
    rows = {uid: f"{uid}.host" for uid in range(95, 115)}
    whole = uidlist.header(7, 95, "ab" * 16) + b"".join(uidlist.record(*row) for row in rows.items())
    found = uidlist.parse(whole[:cut])
    if found is not None:
        assert all(rows[uid] == base for uid, base in zip(found.uids, found.bases, strict=True))
        assert found.next_uid > max(found.uids, default=0)


@given(st.binary(max_size=200))
def test_any_uidlist_is_read_or_refused(data: bytes) -> None:
    uidlist.parse(data)
    uidlist.parse(b"3 V7 N3 G00\n" + data)


@pytest.mark.parametrize(
    ("data", "uids", "next_uid"),
    [
        (b"1 1700000000 5\n2 a\n4 b:2,S\n", [2, 4], 5),
        (b"3 V1 N2\n1 :a\n9 :b\n5 :c\n10 :d\n", [1, 9], 11),
        (b"3 V1 N2 G00\nx\n8 :d\n", [], 9),
    ],
)
def test_other_uidlists(data: bytes, uids: list[int], next_uid: int) -> None:
    found = uidlist.parse(data)
    assert found is not None
    assert (list(found.uids), found.next_uid) == (uids, next_uid)


def test_uid_validity_only_rises(tmp_path: Path) -> None:
    values = [uidlist.next_uid_validity(str(tmp_path), now) for now in (1000.0, 1000.0, 999.0, 5000.0)]
    assert values == [1000, 1001, 1002, 5000]
    assert (tmp_path / "dovecot-uidvalidity").read_text() == f"{5000:08x}"
    assert (tmp_path / f"dovecot-uidvalidity.{5000:08x}").exists()


def test_a_lock_of_another_program_is_respected(tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    Path(path + ".lock").touch()
    with pytest.raises(uidlist.LockBusyError):
        uidlist.Lock(path)
    os.utime(path + ".lock", (1, 1))
    with uidlist.Lock(path) as lock:
        lock.replace(b"new")
    assert Path(path).read_bytes() == b"new"
    assert not Path(path + ".lock").exists()


def test_keywords(tmp_path: Path) -> None:
    (tmp_path / "dovecot-keywords").write_text("0 $Forwarded\n2 third\n")
    keywords = Keywords(str(tmp_path))
    keywords.load()
    assert keywords.add(["THIRD", "new"])
    assert (tmp_path / "dovecot-keywords").read_text() == "0 $Forwarded\n1 new\n2 third\n"
    bits = (keywords.bit("NEW") or 0) | (keywords.bit("third") or 0)
    assert names.suffix_of(bits | names.SEEN) == ":2,Sbc"
    assert keywords.of(names.flags_of(":2,Sbc")) == ["new", "third"]
    assert not keywords.add([f"k{number}" for number in range(24)])
    assert keywords.add([f"k{number}" for number in range(23)])
    assert keywords.full


def test_subscriptions(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert subscriptions.read(root) == []
    assert subscriptions.change(root, "a.b", subscribed=True)
    assert subscriptions.change(root, "Entwürfe", subscribed=True)
    assert not subscriptions.change(root, "a.b", subscribed=True)
    assert (tmp_path / "subscriptions").read_bytes() == "V\t2\n\na\tb\nEntwürfe\n".encode()
    assert subscriptions.change(root, "a.b", subscribed=False)
    assert subscriptions.read(root) == ["Entwürfe"]
    (tmp_path / "subscriptions").write_text("Sent\nEntw&APw-rfe\nbad&\n")
    assert subscriptions.read(root) == ["Sent", "Entwürfe"]


@given(st.integers(0, (1 << 32) - 1))
def test_flags_come_back(flags: int) -> None:
    assert names.flags_of(names.suffix_of(flags)) == flags


@pytest.mark.parametrize(
    ("name", "size", "virtual"),
    [("1.a,S=5,W=7:2,S", 5, 7), ("1.a:2,", None, None), ("1.a,S=x,W=", None, None), ("1.a,W=7,S=5", 5, 7)],
)
def test_sizes_in_names(name: str, size: int | None, virtual: int | None) -> None:
    assert (names.size_in_name(name, "S"), names.size_in_name(name, "W")) == (size, virtual)


@given(st.lists(st.sampled_from([b"a", b"\r", b"\n", b"\r\n"]), max_size=12))
def test_messages_are_stored_with_lf_whatever_the_pieces(pieces: list[bytes]) -> None:
    from mailstack.storage.maildir.delivery import local_form
    from mailstack.wire.mime.lines import wire_size

    whole = b"".join(pieces).replace(b"\r\n", b"\n")
    parts, size, virtual = local_form(pieces)
    assert (b"".join(parts), size, virtual) == (whole, len(whole), wire_size(whole))


def test_delivery(tmp_path: Path) -> None:
    root = str(tmp_path / "mail.test" / "zs")
    publish_now(prepare_delivery(root, [b"a\r", b"\nb\r\n"], 1_700_000_000.5, "mx/1:2"))
    (name,) = os.listdir(f"{root}/new")
    assert name.startswith("1700000000.M500000P")
    assert name.endswith(".mx\\0571\\0722,S=4,W=6")
    assert Path(f"{root}/new/{name}").read_bytes() == b"a\nb\n"


@pytest.mark.parametrize("name", ["", ".a", "a.", "a..b", "a/b", "a\nb", "x" * 300])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(tree.MailboxNameError):
        tree.path_of("/r", name)


def test_folders(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert tree.create(root, "INBOX")
    assert tree.create(root, "Entwürfe.x")
    assert tree.create(root, "Entwürfe.y")
    assert not tree.create(root, "Entwürfe.x")
    assert (tmp_path / ".Entw&APw-rfe.x" / "maildirfolder").exists()
    (tmp_path / ".no-mailbox").mkdir()
    assert tree.names(root) == ["INBOX", "Entwürfe.x", "Entwürfe.y"]
    tree.rename(root, "Entwürfe", "B")
    assert tree.names(root) == ["INBOX", "B.x", "B.y"]
    tree.purge(tree.delete(root, "B.x", "unique"))
    assert tree.names(root) == ["INBOX", "B.y"]
    assert not [name for name in os.listdir(root) if name.startswith("..")]
    with pytest.raises(FileNotFoundError):
        tree.rename(root, "nothing", "x")


def test_a_change_in_the_same_tick_of_the_clock_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(str(tmp_path))
    folder = Folder(str(tmp_path))
    before = os.stat(tmp_path / "new").st_mtime_ns
    monkeypatch.setattr(time, "time_ns", lambda: before + 1_000_000)
    folder.load(lambda: 1)
    (tmp_path / "new" / "1.dropped").write_bytes(b"Subject: x\n\n")
    os.utime(tmp_path / "new", ns=(before, before))  # what a coarse clock would have written
    assert folder.is_stale()


def test_a_folder_at_rest_is_not_read_again(tmp_path: Path) -> None:
    make_folder(str(tmp_path))
    for name in ("new", "cur"):
        os.utime(tmp_path / name, (1_700_000_000, 1_700_000_000))
    folder = Folder(str(tmp_path))
    folder.load(lambda: 1)
    assert not folder.is_stale()


def test_a_lock_of_ours_whose_process_is_gone_is_taken_over_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "dovecot-uidlist")
    child = os.fork()
    if not child:
        uidlist.Lock(path)
        os._exit(0)  # as when it is killed: the file stays
    os.waitpid(child, 0)
    assert Path(path + ".lock").exists()
    with uidlist.Lock(path):
        with pytest.raises(uidlist.LockBusyError):
            uidlist.Lock(path)
        assert Path(path + ".lock").exists()
    assert not Path(path + ".lock").exists()


class Disk:
    """Whether a folder's uidlist can be written: `error` is why not, 0 when it can."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error = 0
        lock = uidlist.Lock

        def locked(path: str) -> uidlist.Lock:
            if self.error:
                raise OSError(self.error, os.strerror(self.error), path)
            return lock(path)

        monkeypatch.setattr(uidlist, "Lock", locked)


def put(path: Path, *names: str) -> None:
    for part in ("cur", "new", "tmp"):
        (path / part).mkdir(parents=True, exist_ok=True)
    for name in names:
        (path / "cur" / name).write_text("Subject: x\n\n")


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS])
def test_a_mailbox_whose_numbers_cannot_be_written_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """The numbers are in memory, and written down once that is possible."""
    put(tmp_path, "1.M1.x:2,", "2.M1.x:2,")
    disk = Disk(monkeypatch)
    disk.error = error
    folder = Folder(str(tmp_path), lambda: 1_700_000_000.0)
    folder.load(lambda: 1_700_000_000)
    assert list(folder.uids) == [1, 2]
    assert folder.problems == [f"{tmp_path}/{uidlist.FILE}: not written: {os.strerror(error)}"]
    put(tmp_path, "3.M1.x:2,")
    folder.apply(read_listing(str(tmp_path)))
    assert list(folder.uids) == [1, 2, 3]
    put(tmp_path, "4.M1.x:2,")
    with pytest.raises(OSError, match=os.strerror(error)):
        folder.added("4.M1.x:2,", False)
    disk.error = 0
    assert folder.added("4.M1.x:2,", False) == 4
    again = Folder(str(tmp_path))
    again.load(lambda: 5)
    assert (again.uid_validity, list(again.uids)) == (1_700_000_000, [1, 2, 3, 4])


def test_new_messages_wait_until_their_numbers_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "1.M1.x:2,")
    folder = Folder(str(tmp_path))
    folder.load(lambda: 5)
    disk = Disk(monkeypatch)
    disk.error = errno.ENOSPC
    put(tmp_path, "2.M1.x:2,")
    for _ in range(3):
        assert folder.apply(read_listing(str(tmp_path))).left_out
        assert (list(folder.uids), folder.next_uid) == ([1], 2)
    assert len(folder.problems) == 1, "it is said once"
    disk.error = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        folder.apply(read_listing(str(tmp_path)))
    disk.error = 0
    assert not folder.apply(read_listing(str(tmp_path))).left_out
    assert list(folder.uids) == [1, 2]
