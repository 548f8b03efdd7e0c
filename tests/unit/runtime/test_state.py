"""The state folder: its lock, its two files, its short path."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mailstack.runtime.errors import Locked, MachineLacks, RuntimeFailure, UsageProblem
from mailstack.runtime.state import Deployed, Record, Secrets, StateDir, list_states, state_home


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    return StateDir(tmp_path / "mailstack", "one")


def test_home_follows_xdg() -> None:
    assert state_home({"XDG_STATE_HOME": "/x", "HOME": "/h"}) == Path("/x/mailstack")
    assert state_home({"XDG_STATE_HOME": "relative", "HOME": "/h"}) == Path("/h/.local/state/mailstack")
    assert state_home({"HOME": "/h"}) == Path("/h/.local/state/mailstack")


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", ".hidden", "x" * 64])
def test_names_that_would_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageProblem):
        StateDir(tmp_path, name)


def test_record_and_secrets_read_back(state: StateDir) -> None:
    record = Record(
        "one", spec="/a/mailstack.yaml", runtime="docker", ports={"smtp": 2525}, own=("smtp",),
        users=("a@b.test",), serials={"b.test": (7, "d")}, services={"dns": Deployed({"image": "i"}, {"f": "1"})},
    )  # fmt: skip
    secrets = Secrets("00", {"a@b.test": "pw"}, {"z@b.test": "1", "a@b.test": "pw"})
    with state.lock(1):
        state.make()
        state.save(record)
        state.save_secrets(secrets)
    assert state.load() == record
    assert state.load_secrets() == secrets
    assert list(state.load_secrets().users) == ["z@b.test", "a@b.test"]
    assert [found.project for found in list_states(state.home)] == ["one"]
    assert state.path.stat().st_mode & 0o777 == 0o700
    assert (state.path / "secrets.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema": 0}', '{"schema": 1, "project": "one", "own": 5}']
)
def test_damaged_record_is_named(state: StateDir, text: str) -> None:
    state.make()
    (state.path / "state.json").write_text(text)
    with pytest.raises(RuntimeFailure, match=r"state\.json cannot be used"):
        state.load()
    assert state.load_quietly() is None


def test_lock_keeps_a_second_process_out_and_leaves_nothing(state: StateDir) -> None:
    code = (
        "import sys; from pathlib import Path; from mailstack.runtime.state import StateDir\n"
        "with StateDir(Path(sys.argv[1]), 'one').lock(5): print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(state.home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(Locked, match="another mailstack command"), state.lock(0.05):
            pass
        other.communicate("\n")
    with state.lock(1):
        assert state.path.is_dir()
    assert not state.home.exists()


def test_holder_that_removes_the_folder_does_not_let_two_in(state: StateDir) -> None:
    with state.lock(1):
        state.make()
        state.save(Record("one"))
        state.remove()
        # somebody else makes it anew: our lock is on a folder that is gone, theirs on the new one
        with StateDir(state.home, "one").lock(1):
            assert state.path.is_dir()


def test_home_that_cannot_be_made_is_named() -> None:
    state = StateDir(Path("/proc/nowhere/mailstack"), "one")
    with pytest.raises(MachineLacks, match=r"/proc/nowhere.*No such file"), state.lock(1):
        pass


def test_long_folder_gets_a_short_path_for_sockets(tmp_path: Path) -> None:
    state = StateDir(tmp_path / ("x" * 80) / "mailstack", "one")
    state.make()
    assert StateDir(Path("/short"), "one").socket_base(Record("one")) == ""
    base = state.socket_base(Record("one"), str(tmp_path))
    assert os.path.realpath(base) == str(state.path)
    record = Record("one", socket_base=base)
    assert state.socket_base(record, str(tmp_path)) == base
    state.save(record)
    state.remove()
    assert not os.path.lexists(base)
    assert not os.path.lexists(os.path.dirname(base))
