"""Commands: how they are started, what they get, and what their end means."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mailstack.mta.deliver.command import Command, export, judge, run, run_apart, split_command
from mailstack.mta.deliver.request import Bounced, Deferred, Sent
from mailstack.storage.identity import Identity

OURS = Identity(os.geteuid(), os.getegid())


def command(text: str, *, limit: float = 20, identity: Identity = OURS, directory: str = "/") -> Command:
    environment = {"PATH": "/usr/bin:/bin", "SENDER": "a@x.test"}
    return Command(
        split_command(text), text, "local: fatal: execvp", environment, limit, identity, (), directory
    )


@pytest.mark.parametrize(
    ("text", "argv"),
    [
        ("/bin/prog -a one", ["/bin/prog", "-a", "one"]),
        ("/bin/prog $USER", ["sh", "-c", "/bin/prog $USER"]),
        ("a | b", ["sh", "-c", "a | b"]),
        ("exec prog", ["sh", "-c", "exec prog"]),
        ("X=1 prog", ["sh", "-c", "X=1 prog"]),
        ("", ["sh", "-c", ""]),
    ],
)
def test_a_shell_only_where_one_is_needed(text: str, argv: list[str]) -> None:
    assert split_command(text) == argv
    assert split_command(text, "/bin/smrsh -c") == ["/bin/smrsh", "-c", text]


@pytest.mark.parametrize(
    ("status", "output", "expected"),
    [
        (0, "4.0.0 fine", Sent("delivered")),
        (1, "", Bounced('Command died with status 1: "prog"', "5.3.0")),
        (1, "no ", Bounced('Command died with status 1: "prog". Command output: no ', "5.3.0")),
        (75, "", Deferred("temporary failure", "4.3.0")),
        (67, "who? ", Bounced("user unknown. Command output: who? ", "5.1.1")),
        (71, "", Deferred("system resource problem", "4.3.0")),
        (78, "", Bounced("local configuration error", "5.3.5")),
        (75, "5.7.1 never ", Bounced("never ", "5.7.1")),
        (1, "4.2.1 later", Deferred("later", "4.2.1")),
        (-9, "4.2.1 cut", Deferred('Command died with signal 9: "prog". Command output: 4.2.1 cut', "4.3.0")),
        (None, "", Bounced('Command time limit exceeded: "prog"', "5.3.0")),
    ],
)
def test_what_an_end_means(status: int | None, output: str, expected: Sent | Bounced | Deferred) -> None:
    assert judge(status, output, "prog") == (expected, output)


def test_input_environment_folder_and_output(tmp_path: Path) -> None:
    parts = [b"x" * 200_000, b"", b"y" * 200_000]
    outcome, output = run(command("cat > got; pwd; echo $SENDER$HOME >&2", directory=str(tmp_path)), parts)
    assert outcome == Sent("delivered")
    assert output == f"{tmp_path} a@x.test "
    assert (tmp_path / "got").read_bytes() == b"".join(parts)
    outcome, output = run(command("yes | head -c 100000"), [b"never read" * 100_000])
    assert outcome == Sent("delivered")
    assert output == "y " * 2048


def test_commands_that_cannot_be_started() -> None:
    assert run(command("/no/such/program"), [])[0] == Deferred(
        "temporary failure. Command output: local: fatal: execvp /no/such/program: No such file or directory ",
        "4.3.0",
    )
    outcome = run(command("no-such-program"), [])[0]
    assert isinstance(outcome, Bounced)
    assert outcome.text.startswith('Command died with status 127: "no-such-program". Command output: sh: ')


def test_a_command_that_takes_too_long_dies_with_its_children(tmp_path: Path) -> None:
    text = f"sleep 60 & echo $! > {tmp_path}/child; wait"
    number = ""
    for limit in (0.3, 3, 15):  # a busy machine needs its time to start the child
        outcome, _ = run(command(text, limit=limit), [b"x"])
        assert outcome == Bounced(f'Command time limit exceeded: "{text}"', "5.3.0")
        number = (tmp_path / "child").read_text() if (tmp_path / "child").exists() else ""
        if number.endswith("\n"):
            break
    child = int(number)
    end = time.monotonic() + 20
    while _runs(child):  # it has been sent the signal, and dies when its turn comes
        assert time.monotonic() < end
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_cancelled_delivery_kills_its_command(tmp_path: Path) -> None:
    async def main() -> None:
        os.mkfifo(tmp_path / "started")
        text = f"echo $$ > {tmp_path}/started; exec sleep 60"
        task = asyncio.create_task(run_apart(command(text), []))
        pid = int(await asyncio.to_thread((tmp_path / "started").read_text))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(ProcessLookupError):
            while True:  # killed, and reaped by the thread that has waited for it
                os.kill(pid, 0)
                await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_delivery_cancelled_while_its_command_is_started_kills_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = subprocess.Popen
    running, cancelled = threading.Event(), threading.Event()

    def popen(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        process = made(*args, **options)
        running.set()
        cancelled.wait(20)
        return process

    async def main() -> None:
        monkeypatch.setattr(subprocess, "Popen", popen)
        task = asyncio.create_task(run_apart(command(f"sleep 60; touch {tmp_path}/survived"), []))
        assert await asyncio.to_thread(running.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        cancelled.set()
        [thread] = [thread for thread in threading.enumerate() if thread.name == "delivery"]
        await asyncio.to_thread(thread.join, 20)
        assert not thread.is_alive(), "the command goes on"

    asyncio.run(main())


def test_without_root_nobody_elses_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    outcome, _ = run(command("true", identity=Identity(1001, 1001)), [])
    assert isinstance(outcome, Deferred)
    assert outcome.dsn == "4.3.5"
    assert "without being root" in outcome.text


def test_the_environment_that_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("MAIL_CONFIG", raising=False)
    assert export(["TZ", "MAIL_CONFIG", "A=b=c"]) == {"TZ": "UTC", "A": "b=c"}
