"""Commands about a stack, against one that only pretends to run."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from mailstack.cli.run import throwaway_name
from mailstack.runtime.errors import NotReady
from mailstack.runtime.model import LogLine
from tests.unit.cli.support import ENV, FakeProject, Shell, envelope


def test_plan(shell: Shell, project: FakeProject) -> None:
    ran = shell("plan")
    assert ran.out == "demo: process runtime (no Docker daemon answers)\n  start dns: it does not run\n"
    data = shell("plan", "-o", "json").json["data"]
    assert data["steps"] == [{"action": "start", "target": "dns", "reason": "it does not run"}]


def test_up_and_down(shell: Shell, project: FakeProject) -> None:
    told = shell("up", "--timeout", "2m", "--no-wait", "--build", "-o", "json").json
    data = told["data"]
    assert any("no image" in warning for warning in told["warnings"])
    assert project.calls[-1] == "up build=True timeout=120.0 wait=False"
    assert data["env"] == ENV
    assert data["health"] == "ready"
    assert data["services"][0]["service"] == "dns"
    assert "secret" not in str({key: value for key, value in data.items() if key != "env"})
    down = shell("down", "--volumes", "-o", "json").json["data"]
    assert project.calls[-1] == "down volumes=True"
    assert down["removed"] == ["process dns"]


@pytest.mark.parametrize(
    ("health", "status", "code"),
    [("stopped", 3, "not-running"), ("starting", 3, "not-ready"), ("failing", 3, "not-ready")],
)
def test_status_of_an_unhealthy_stack(
    health: str, status: int, code: str, shell: Shell, project: FakeProject
) -> None:
    project.health = health
    ran = shell("status", "-o", "json")
    assert ran.status == status
    assert ran.json["error"]["code"] == code
    assert ran.json["data"]["health"] == health
    text = shell("status")
    assert text.status == status
    assert f"demo: {health}" in text.out


def test_logs(shell: Shell, project: FakeProject) -> None:
    project.lines = [LogLine("mta", 1.5, "one"), LogLine("dns", None, "two\x1b")]
    assert shell("logs").out == "mta        | one\ndns        | two\x1b\n"
    assert shell("logs", "mta", "--since", "5m").out.startswith("mta | one\n")
    assert project.calls[-1] == "logs ['mta'] follow=False since=300.0"
    assert shell("logs", "-o", "json").json["data"]["lines"][0] == {
        "service": "mta",
        "time": 1.5,
        "text": "one",
    }
    streamed = shell("logs", "-f", "-o", "json").out.splitlines()
    assert [envelope(line)["data"]["text"] for line in streamed] == ["one", "two\x1b"]


def test_queue(shell: Shell, project: FakeProject) -> None:
    assert shell("queue", "ls").out == "Mail queue is empty\n"
    project.messages = [
        {
            "queue_name": "deferred",
            "queue_id": "4A1",
            "arrival_time": 1700000000,
            "message_size": 321,
            "sender": "",
            "recipients": [
                {"address": "a@x.test", "delay_reason": "no route"},
                {"address": "b@x.test", "delay_reason": "no"},
            ],
        }
    ]
    lines = shell("queue", "ls").out.splitlines()
    assert len(lines) == 3
    assert "4A1" in lines[1]
    assert "MAILER-DAEMON" in lines[1]
    assert lines[1].endswith("a@x.test   no route")
    assert lines[2].strip() == "b@x.test   no"
    data = shell("queue", "ls", "-o", "json").json["data"]
    assert data["messages"] == project.messages
    assert data["counts"] == {"total": 1, "deferred": 1}
    shown = shell("queue", "show", "4A1").out.splitlines()
    assert shown[1].startswith("4A1")
    assert shown[-3:] == ["Subject: 4A1", "", "body\ufffd"]
    data = shell("queue", "show", "4A1", "-o", "json").json["data"]
    assert (data["message"], data["content"]) == (project.messages[0], "Subject: 4A1\n\nbody\ufffd\n")


def entry(queue_id: str, queue_name: str) -> dict[str, object]:
    return {
        "queue_name": queue_name,
        "queue_id": queue_id,
        "arrival_time": 1700000000,
        "message_size": 1,
        "sender": "a@x.test",
        "recipients": [{"address": "b@x.test"}],
    }


@pytest.mark.parametrize(
    ("args", "status", "calls", "said"),
    [
        (["flush"], 0, ["flush [] domain="], "deferred mail is being tried"),
        (["flush", "4A1"], 0, ["flush ['4A1'] domain="], "deferred mail is being tried"),
        (["flush", "--domain", "x.test"], 0, ["flush [] domain=x.test"], "deferred mail is being tried"),
        (["flush", "4A1", "--domain", "x.test"], 2, [], "not both"),
        (["flush", "9"], 1, [], "not in the queue: 9"),
        (["hold", "4A1"], 0, ["hold ['4A1']"], "1 message placed on hold"),
        (["hold", "4A1", "4A2", "9"], 1, ["hold ['4A1']"], "not in the queue, or on hold already: 4A2, 9"),
        (["hold", "--all"], 0, ["hold []"], "2 messages placed on hold"),
        (["release", "4A2"], 0, ["release ['4A2']"], "1 message released from hold"),
        (["release", "4A1"], 1, [], "not on hold: 4A1"),
        (["rm", "4A2", "4A1", "4A2"], 0, ["rm ['4A2', '4A1']"], "2 messages removed"),
        (["rm", "--all"], 0, ["rm []"], "2 messages removed"),
        (["rm"], 2, [], "--all"),
        (["rm", "4A1", "--all"], 2, [], "--all"),
        (["show", "9"], 1, [], "not in the queue: 9"),
    ],
)
def test_changing_the_queue(
    args: list[str], status: int, calls: list[str], said: str, shell: Shell, project: FakeProject
) -> None:
    project.messages = [entry("4A1", "deferred"), entry("4A2", "hold")]
    ran = shell("queue", *args)
    assert (ran.status, [call for call in project.calls if not call.startswith("open ")]) == (status, calls)
    assert said in ran.out + ran.err
    json = shell("queue", *args, "-o", "json").json
    assert json["status"] == ("error" if status else "ok")
    if status == 1:
        assert json["error"]["code"] == "no-such-message"


def test_a_mailbox_of_nobody(shell: Shell, project: FakeProject) -> None:
    ran = shell("mail", "ls", "carol", "-o", "json")
    assert (ran.status, ran.json["error"]["code"]) == (2, "no-such-user")
    assert "alice@mail.test" in ran.json["error"]["hint"]


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143)],
)
def test_run_passes_the_exit_status_on_and_always_takes_the_stack_down(
    script: str, status: int, shell: Shell, project: FakeProject
) -> None:
    ran = shell("run", "--", "sh", "-c", script)
    assert ran.status == status
    assert project.name.startswith("demo-run-")
    assert project.calls[-1] == "down volumes=True"


def test_run_sets_the_variables_and_leaves_options_to_the_command(
    shell: Shell, project: FakeProject, folder: Path
) -> None:
    script = (
        "import os,sys; open('seen','w').write(os.environ['MAILSTACK_PASSWORD'] + ' '.join(sys.argv[1:]))"
    )
    for separator in (["--"], []):
        ran = shell("run", *separator, sys.executable, "-c", script, "-o", "json", "--keep")
        assert ran.status == 0, ran.err
        assert (folder / "seen").read_text() == ENV["MAILSTACK_PASSWORD"] + "-o json --keep"
        assert project.calls[-1] == "down volumes=True"


def test_run_in_json_mode_keeps_standard_output_to_itself(project: FakeProject, shell: Shell) -> None:
    project.name = "demo"
    ran = shell("-o", "json", "run", "--keep", "--", "sh", "-c", "echo noise; exit 3")
    assert ran.status == 3
    assert "down" not in " ".join(project.calls)
    assert ran.json["data"]["exitStatus"] == 3
    assert ran.json["error"]["code"] == "command-failed"


def test_run_takes_the_stack_down_when_up_fails_or_the_command_is_not_there(
    shell: Shell, project: FakeProject
) -> None:
    assert shell("run", "--", "no-such-command").status == 127
    assert shell("run", "--", "/etc/passwd").status == 126
    assert project.calls == []
    project.error = NotReady("mta does not answer")
    assert shell("run", "--", "true").status == 3
    assert project.calls[-1] == "down volumes=True"


def test_run_passes_signals_on(shell: Shell, project: FakeProject, folder: Path) -> None:
    """The command sends us SIGTERM; it comes back to it, and the stack goes down after its end."""
    script = f"trap 'echo got > got; exit 5' TERM; kill -TERM {os.getpid()}; while :; do sleep 0.02; done"
    assert shell("run", "--", "sh", "-c", script).status == 5
    assert (folder / "got").exists()
    assert project.calls[-1] == "down volumes=True"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_throwaway_names_are_project_names() -> None:
    names = {throwaway_name(base) for base in ("a", "a" * 40, "a" * 26 + "-b") for _ in range(3)}
    assert len(names) == 9
    for name in names:
        assert len(name) <= 40
        assert "--" not in name
