"""The hint to ext4's allocator: given where it can be, and never in the way where it cannot."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

import pytest

from mailstack.storage.maildir.delivery import make_folder
from mailstack.storage.placement import spread

GET_FLAGS = 0x80086601
TOP_OF_TREE = 0x00020000


def is_spread(folder: Path) -> bool:
    fd = os.open(folder, os.O_RDONLY)
    try:
        return bool(struct.unpack("i", fcntl.ioctl(fd, GET_FLAGS, b"\0" * 4))[0] & TOP_OF_TREE)
    finally:
        os.close(fd)


def test_folders_of_accounts_are_spread_and_those_in_a_maildir_are_not(tmp_path: Path) -> None:
    (tmp_path / "probe").mkdir()
    can = spread(tmp_path / "probe")  # ext4 can, others need not
    make_folder(str(tmp_path / "mail.test" / "zs"))
    make_folder(str(tmp_path / "mail.test" / "zs" / ".Sent"))
    assert (tmp_path / "mail.test" / "zs" / "new").is_dir()
    if can:
        assert is_spread(tmp_path / "mail.test")
        assert not is_spread(tmp_path / "mail.test" / "zs")


def test_a_folder_that_is_the_root_or_has_none_above_it_comes_to_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mkdir(path: str, mode: int) -> None:
        raise PermissionError(path)

    with monkeypatch.context() as context:
        context.setattr(os, "mkdir", mkdir)
        with pytest.raises(PermissionError):
            make_folder("")
    monkeypatch.chdir(tmp_path)
    make_folder("here/box")
    assert (tmp_path / "here" / "box" / "new").is_dir()


def test_where_it_cannot_be_asked_for_nothing_happens(tmp_path: Path) -> None:
    assert not spread(tmp_path / "missing")
    assert not spread("/proc/self")
