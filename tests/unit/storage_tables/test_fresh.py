"""All tables of a process know the same version of a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mailstack.mta.address_maps import AddressMaps
from mailstack.storage.tables import look_again, open_table
from mailstack.storage.tables.fresh import files


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the time; files of other tests are forgotten."""
    monkeypatch.setattr(files, "_seen", {})
    clock = [1000.0]
    monkeypatch.setattr("mailstack.storage.tables.fresh.time.monotonic", lambda: clock[0])

    def at(time: float) -> None:
        clock[0] = 1000.0 + time

    return at


@pytest.mark.parametrize("kind", ["hash", "texthash"])
def test_who_sees_a_change_tells_the_others(tmp_path: Path, now: Callable[[float], None], kind: str) -> None:
    path = tmp_path / "table"
    path.write_text("a@x.test one\n")
    early, late = (open_table(f"{kind}:{path}") for _ in range(2))
    maps = AddressMaps([f"{kind}:{path}"], open_table)
    assert early.lookup("a@x.test") == "one"
    now(0.5)
    assert (late.lookup("a@x.test"), maps.find("b@x.test")) == ("one", None)
    path.write_text("a@x.test two\nb@x.test new\n")
    now(0.9)
    assert late.lookup("a@x.test") == "one"  # nobody has looked
    now(1.2)
    assert early.lookup("a@x.test") == "two"
    assert late.lookup("a@x.test") == "two"
    found = maps.find("b@x.test")
    assert found is not None
    assert found.value == "new"


def test_looking_again(tmp_path: Path, now: Callable[[float], None]) -> None:
    path = tmp_path / "table"
    path.write_text("a one\n")
    table = open_table(f"texthash:{path}")
    assert table.lookup("a") == "one"
    assert not look_again()
    now(5)
    assert not files.changed_lately()
    path.write_text("a another\n")
    assert look_again()
    assert files.changed_lately()  # whoever is told of mail that was taken now has to look, too
    assert not look_again()
    assert table.lookup("a") == "another"
    path.unlink()
    assert look_again()
    with pytest.raises(FileNotFoundError):
        table.lookup("a")
    now(10)
    assert not files.changed_lately()


def test_a_change_that_keeps_size_and_time_is_seen(tmp_path: Path, now: Callable[[float], None]) -> None:
    """As an archive leaves it that is unpacked twice in one second."""
    path = tmp_path / "table"
    path.write_text("a one\n")
    os.utime(path, (1000, 1000))
    table = open_table(f"texthash:{path}")
    assert table.lookup("a") == "one"
    before = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == before:  # the clock of files is coarse
        path.write_text("a two\n")
        os.utime(path, (1000, 1000))
    now(2)
    assert table.lookup("a") == "two"
