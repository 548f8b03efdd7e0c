"""What is kept of messages: found again, never believed when damaged, never in the way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailstack.storage.maildir import cache as module
from mailstack.storage.maildir.cache import FILE, Kind, MessageCache

UIDS = range(1, 1001)


def opened(path: Path, uids: object = UIDS, validity: int = 7) -> MessageCache:
    return MessageCache.load(str(path), validity, uids)  # type: ignore[arg-type]


def filled(path: Path, count: int = 20) -> MessageCache:
    cache = opened(path)
    for uid in range(1, count + 1):
        cache.add(Kind.ENVELOPE, uid, b"(envelope %d)" % uid)
        cache.add(Kind.HEADER_TEXT, uid, b"subject: number %d\nfrom: sender\n" % uid)
    cache.flush()
    return cache


def test_what_was_kept_is_found_now_and_later(tmp_path: Path) -> None:
    for cache in (filled(tmp_path), opened(tmp_path)):
        assert cache.get(Kind.ENVELOPE, 1) == b"(envelope 1)"
        assert cache.get(Kind.ENVELOPE, 20) == b"(envelope 20)"
        assert cache.get(Kind.HEADER_TEXT, 3) == b"subject: number 3\nfrom: sender\n"
        assert cache.get(Kind.ENVELOPE, 21) is None and cache.get(Kind.BODY, 1) is None
        assert cache.has(Kind.ENVELOPE, 7) and not cache.has(Kind.BODY, 7)
        assert not cache.problem


def test_two_who_write_at_once_lose_nothing_of_their_own(tmp_path: Path) -> None:
    one, two = opened(tmp_path), opened(tmp_path)
    one.add(Kind.BODY, 1, b"one")
    two.add(Kind.BODY, 2, b"two")
    one.flush()
    two.flush()
    assert (one.get(Kind.BODY, 1), two.get(Kind.BODY, 2)) == (b"one", b"two")
    both = opened(tmp_path)
    assert (both.get(Kind.BODY, 1), both.get(Kind.BODY, 2)) == (b"one", b"two")


def test_texts_are_found_wherever_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, 500)
    for window in (64, 1000, 1 << 17):
        monkeypatch.setattr(module, "WINDOW", window)
        cache = opened(tmp_path)
        rare = [(77, b"subject: number 77\nfrom: sender\n")]
        assert list(cache.holding(Kind.HEADER_TEXT, range(1, 600), b"number 77")) == rare
        assert [uid for uid, _ in cache.holding(Kind.HEADER_TEXT, UIDS, b"sender")] == list(range(1, 501))
        assert [uid for uid, _ in cache.holding(Kind.HEADER_TEXT, (9, 5, 5000), b"number")] == [9, 5]
        assert list(cache.holding(Kind.ENVELOPE, UIDS, b"sender")) == []


@pytest.mark.parametrize("cut", [0, 5, 11, 12, 20, 40, 300, -1])
def test_a_file_that_is_cut_off_is_repaired(tmp_path: Path, cut: int) -> None:
    filled(tmp_path)
    data = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(data[:cut])
    cache = opened(tmp_path)
    kept = [uid for uid in range(1, 21) if cache.get(Kind.ENVELOPE, uid) == b"(envelope %d)" % uid]
    assert all(cache.get(Kind.ENVELOPE, uid) is None for uid in range(1, 21) if uid not in kept)
    cache.add(Kind.ENVELOPE, 20, b"again")
    cache.flush()
    after = opened(tmp_path)
    assert not after.problem
    assert after.get(Kind.ENVELOPE, 20) == b"again"
    assert [uid for uid in kept if after.get(Kind.ENVELOPE, uid) is None] == []


@pytest.mark.parametrize("place", [0, 3, 9, 14, 20, 30, 200])
def test_an_octet_that_is_wrong_is_never_believed(tmp_path: Path, place: int) -> None:
    filled(tmp_path)
    data = bytearray((tmp_path / FILE).read_bytes())
    data[place] ^= 0x55
    (tmp_path / FILE).write_bytes(data)
    cache = opened(tmp_path)
    for uid in range(1, 21):
        assert cache.get(Kind.ENVELOPE, uid) in (None, b"(envelope %d)" % uid)
    # Another UIDVALIDITY is no damage; a wrong UID or kind may be one that nobody asks for.
    assert cache.problem or place in (9, 14, 20, 30)


def test_another_uidvalidity_begins_anew(tmp_path: Path) -> None:
    filled(tmp_path)
    cache = opened(tmp_path, validity=8)
    assert cache.get(Kind.ENVELOPE, 1) is None and not cache.problem
    assert (tmp_path / FILE).stat().st_size < 20


def test_messages_that_are_gone_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path)
    before = (tmp_path / FILE).stat().st_size
    monkeypatch.setattr(module, "GARBAGE_MIN", 100)
    cache = opened(tmp_path, {3, 5})
    assert (tmp_path / FILE).stat().st_size < before / 5
    assert cache.get(Kind.ENVELOPE, 3) == b"(envelope 3)" and cache.get(Kind.ENVELOPE, 4) is None
    cache.add(Kind.ENVELOPE, 9, b"new")
    cache.flush()
    assert opened(tmp_path).get(Kind.ENVELOPE, 9) == b"new"


def test_a_file_cut_off_under_our_hands_is_only_a_miss(tmp_path: Path) -> None:
    cache = filled(tmp_path, 5000)
    os.truncate(tmp_path / FILE, 12)
    assert cache.get(Kind.ENVELOPE, 5000) is None
    assert "cut off" in cache.problem
    cache.add(Kind.ENVELOPE, 1, b"x")
    cache.flush()
    assert list(cache.holding(Kind.ENVELOPE, UIDS, b"x")) == []


def test_no_room_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = filled(tmp_path)

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    cache.add(Kind.BODY, 1, b"x")
    cache.flush()
    assert cache.get(Kind.BODY, 1) is None
    assert "No space left" in cache.problem


def test_a_folder_that_cannot_be_written_is_read_without(tmp_path: Path) -> None:
    cache = opened(tmp_path / "none")
    cache.add(Kind.BODY, 1, b"x")
    cache.flush()
    cache.close()
    assert cache.get(Kind.BODY, 1) is None and cache.problem
