"""Message files of every size are read whole, small ones with one call."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from mailstack.storage.maildir.message import MAP_FROM, open_message


@pytest.mark.parametrize("size", [0, 1, (1 << 16) - 1, 1 << 16, (1 << 16) + 1, MAP_FROM - 1, MAP_FROM])
def test_a_message_is_read_whole(tmp_path: Path, size: int) -> None:
    path = tmp_path / "message"
    content = (b"0123456789abcde\n" * (size // 16 + 1))[:size]
    path.write_bytes(content)
    data = open_message(str(path))
    assert isinstance(data, mmap.mmap) == (size >= MAP_FROM)
    assert data[:] == content
    if isinstance(data, mmap.mmap):
        data.close()
