"""The whole story in processes: init, up, send, wait, ask, look, run, down; as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


class Terminal:
    """A folder, a state folder, and `mailstack` in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "XDG_STATE_HOME": str(folder / "state"),
            "MAILSTACK_RUNTIME": "process",
        }
        for name in ("MAILSTACK_FILE", "MAILSTACK_PROJECT"):
            self.environment.pop(name, None)

    def start(self, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "mailstack", *args],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *args: str, status: int = 0) -> str:
        """Standard output; the exit status must be `status`."""
        child = self.start(*args)
        out, err = child.communicate(timeout=90)
        assert child.returncode == status, f"{args}: {child.returncode}\n{out}{err}"
        assert "Traceback" not in err
        return out

    def json(self, *args: str, status: int = 0) -> Any:
        """The envelope."""
        return json.loads(self.run(*args, "-o", "json", status=status))

    def data(self, *args: str) -> Any:
        envelope = self.json(*args)
        assert envelope["status"] == "ok"
        return envelope["data"]

    def processes(self) -> list[str]:
        """Command lines of everything that runs for this state folder."""
        needle = str(self.folder).encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    line = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if needle in line:
                    found.append(line.replace(b"\0", b" ").decode())
        return found


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A fresh spec whose stack is up, with two users."""
    found = Terminal(tmp_path_factory.mktemp("story"))
    found.run("init", ".", "--domain", "story.test", "--user", "zs", "--user", "anna")
    up = found.data("up", "--timeout", "30s")
    try:
        assert up["health"] == "ready"
        assert up["changed"]
        yield found
    finally:
        found.run("down", "--volumes")
        assert found.processes() == []
        assert not list((found.folder / "state").glob("*/*"))


def test_up_again_changes_nothing(terminal: Terminal) -> None:
    before = terminal.data("status")
    again = terminal.data("up")
    assert not again["changed"]
    assert terminal.data("plan")["steps"] == []
    assert not terminal.data("render", "--diff")["changed"]
    after = terminal.data("status")
    assert [s["pid"] for s in after["services"]] == [s["pid"] for s in before["services"]]


def test_status_and_env_agree(terminal: Terminal) -> None:
    status = terminal.data("status")
    assert [service["health"] for service in status["services"]] == ["ready"] * 3
    assert status["queue"]["total"] == 0
    assert set(status["mailboxes"]) == {"zs@story.test", "anna@story.test"}
    variables = json.loads(terminal.run("env", "--format", "json"))
    assert variables == status["env"] == terminal.data("env")["env"]
    assert variables["MAILSTACK_USER"] == "zs@story.test"
    assert variables["MAILSTACK_IMAP_PORT"] == str(status["ports"]["imap"])
    assert Path(variables["MAILSTACK_CA_FILE"]).exists()
    shell = subprocess.run(
        ["sh", "-c", f'{terminal.run("env")}\nprintf %s "$MAILSTACK_PASSWORD"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shell.stdout == variables["MAILSTACK_PASSWORD"]
    assert "ready" in terminal.run("status")


def test_a_message_from_send_to_wait(terminal: Terminal) -> None:
    cursor = terminal.data("mail", "ls", "anna")["cursor"]
    (terminal.folder / "note.txt").write_text("attached\n")
    sent = terminal.data(
        "send", "--to", "anna@story.test", "--subject", "Grüße 1", "--body", "one", "--attach", "note.txt"
    )
    assert sent["from"] == "zs@story.test"
    assert sent["reply"].startswith("250 2.0.0 Ok: queued as ")
    assert sent["tls"].startswith("TLSv1")
    terminal.run("send", "--to", "anna@story.test", "--subject", "Grüße 2", "--body", "two")

    found = terminal.data("mail", "wait", "anna@story.test", "--after", cursor, "--subject", "^grüße 1$")
    assert found["text"] == "one\n"
    assert found["from"] == "zs@story.test"
    assert found["attachments"] == [{"name": "note.txt", "type": "text/plain", "size": 9}]
    assert found["messageId"] == sent["messageId"]
    following = terminal.data(
        "mail", "wait", "anna", "--after", found["cursor"], "--from", "zs@", "--timeout", "10s"
    )
    assert following["subject"] == "Grüße 2"
    nothing = terminal.json(
        "mail", "wait", "anna", "--after", following["cursor"], "--timeout", "0.3s", status=3
    )
    assert nothing["error"]["code"] == "no-message"
    assert nothing["data"]["cursor"] == following["cursor"]

    listing = terminal.data("mail", "ls", "anna@story.test")
    assert [m["subject"] for m in listing["messages"][-2:]] == ["Grüße 1", "Grüße 2"]
    assert "Subject: Grüße 2" in terminal.run("mail", "show", "anna")
    raw = terminal.run("mail", "show", "anna", str(found["uid"]), "--raw")
    assert "Received: " in raw
    assert terminal.data("status")["mailboxes"]["anna@story.test"]["messages"] == listing["count"]
    removed = terminal.data("mail", "rm", "anna", str(found["uid"]))
    assert removed["removed"] == [found["uid"]]
    assert terminal.data("mail", "ls", "anna")["count"] == listing["count"] - 1


def test_wait_is_told_by_the_server_when_a_message_comes(terminal: Terminal) -> None:
    waiting = terminal.start("mail", "wait", "zs", "--after", "now", "--timeout", "20s", "-o", "json")
    time.sleep(0.8)  # long enough to be idle; the outcome is the same when it is not
    terminal.run("send", "--to", "zs@story.test", "--subject", "wake up")
    began = time.monotonic()
    out, err = waiting.communicate(timeout=30)
    assert waiting.returncode == 0, err
    assert json.loads(out)["data"]["subject"] == "wake up"
    assert time.monotonic() - began < 5


def test_wait_for_nothing(terminal: Terminal) -> None:
    assert (
        terminal.json("mail", "wait", "zs", "--subject", "never", "--none", "--timeout", "0.3s")["status"]
        == "ok"
    )
    terminal.run("send", "--to", "zs@story.test", "--subject", "unwanted")
    told = terminal.json(
        "mail", "wait", "zs", "--subject", "^unwanted$", "--none", "--timeout", "10s", status=3
    )
    assert told["error"]["code"] == "unwanted-message"
    assert told["data"]["subject"] == "unwanted"


def test_refusals(terminal: Terminal) -> None:
    told = terminal.json("send", "--to", "nobody@story.test", status=1)
    assert told["error"]["code"] == "refused"
    assert "550 5.1.1" in told["error"]["message"]
    assert terminal.json("mail", "ls", "nobody", status=2)["error"]["code"] == "no-such-user"
    assert terminal.json("mail", "ls", "zs", "--mailbox", "Nowhere", status=1)["error"]["code"] == "refused"


def test_a_message_that_cannot_go_out_waits_in_the_queue(terminal: Terminal) -> None:
    assert terminal.run("queue", "ls") == "Mail queue is empty\n"
    (terminal.folder / "m.eml").write_text("Subject: far\n\nx\n")
    sent = terminal.data("send", "--to", "someone@nowhere.example", "--file", "m.eml")
    assert sent["subject"] == "far"
    for _ in range(50):
        messages = terminal.data("queue", "ls")["messages"]
        if not messages or messages[0]["queue_name"] == "deferred":
            break
        time.sleep(0.1)
    # The stack's own DNS refuses names that are not its own: that is for later, or for good.
    if messages:
        assert messages[0]["queue_id"] == sent["queueId"]
        assert messages[0]["sender"] == "zs@story.test"
        assert messages[0]["recipients"][0]["address"] == "someone@nowhere.example"
        queue_id = sent["queueId"]
        shown = terminal.data("queue", "show", queue_id)
        assert shown["message"]["queue_id"] == queue_id
        assert "\nSubject: far\n" in shown["content"]
        assert terminal.data("queue", "hold", queue_id)["count"] == 1
        assert terminal.data("queue", "ls")["counts"] == {"total": 1, "hold": 1}
        assert terminal.json("queue", "hold", queue_id, status=1)["error"]["code"] == "no-such-message"
        assert terminal.data("queue", "release", "--all")["count"] == 1
        terminal.run("queue", "flush")
        terminal.run("queue", "flush", "--domain", "nowhere.example")
        assert terminal.data("queue", "rm", queue_id)["messages"] == [queue_id]
        assert terminal.run("queue", "ls") == "Mail queue is empty\n"
    else:
        assert terminal.data("mail", "wait", "zs", "--from", "MAILER-DAEMON")["subject"]


def test_dns(terminal: Terminal) -> None:
    for args in (("story.test", "MX"), ("MX", "story.test")):
        found = terminal.data("dns", "query", *args)
        assert [record["data"] for record in found["answers"]] == ["10 mail.story.test."]
        assert "AA" in found["flags"]
    address = terminal.data("dns", "query", "mail.story.test")["answers"][0]["data"]
    assert terminal.run("dns", "query", address, "PTR").rstrip().endswith("mail.story.test.")
    assert terminal.json("dns", "query", "nope.story.test", status=1)["error"]["code"] == "dns-nxdomain"
    assert terminal.data("dns", "query", "--tcp", "story.test", "TXT")["answers"]
    counts = terminal.data("dns", "stats")
    assert counts["rcodes"]["NXDOMAIN"] >= 1
    assert counts["queries"]["TXT"] >= 1
    types = {record["type"] for record in terminal.data("dns", "records")["records"]}
    assert {"MX", "TXT", "SRV"} <= types


def test_logs(terminal: Terminal) -> None:
    terminal.run("send", "--to", "anna@story.test", "--subject", "logged")
    terminal.run("mail", "wait", "anna", "--subject", "^logged$")
    assert "queued as" in terminal.run("send", "--to", "anna@story.test")
    assert "status=sent" in terminal.run("logs", "mta")
    lines = terminal.data("logs", "--since", "5m")["lines"]
    assert {line["service"] for line in lines} >= {"mta", "mailbox"}
    assert all(line["service"] == "dns" for line in terminal.data("logs", "dns")["lines"])
    following = terminal.start("logs", "-f", "-o", "json")
    assert following.stdout is not None
    assert json.loads(following.stdout.readline())["command"] == "logs"
    following.send_signal(signal.SIGINT)
    _, err = following.communicate(timeout=10)
    assert (following.returncode, err) == (130, "")


def test_doctor(terminal: Terminal) -> None:
    checks = {check["name"]: check["level"] for check in terminal.data("doctor")["checks"]}
    for name in ("dns", "mailbox", "mta", "certificate", "spec", "python"):
        assert checks[name] == "pass"


def test_a_project_is_found_by_its_name_from_anywhere(terminal: Terminal, tmp_path: Path) -> None:
    name = terminal.data("status")["project"]
    elsewhere = Terminal(tmp_path)
    elsewhere.environment["XDG_STATE_HOME"] = terminal.environment["XDG_STATE_HOME"]
    assert elsewhere.data("status", "-p", name)["ready"]
    assert elsewhere.data("env", "-p", name)["env"]["MAILSTACK_PROJECT"] == name
    told = elsewhere.json("status", status=2)
    assert told["error"]["code"] == "no-project"
    assert name in told["error"]["hint"]
    for command in (
        ["status"],
        ["env"],
        ["send", "--to", "x"],
        ["mail", "ls", "x"],
        ["queue", "ls"],
        ["logs"],
    ):
        told = elsewhere.json(*command, "-p", "unheard-of", status=3)
        assert told["error"]["code"] == "not-running"


def test_run(terminal: Terminal) -> None:
    script = (
        'set -e; M="$0 -m mailstack"; $M send --to "$MAILSTACK_USER" --subject in-run -q; '
        '$M mail wait "$MAILSTACK_USER" --subject in-run >&2; echo "$MAILSTACK_PROJECT"; exit 9'
    )
    out = terminal.run("run", "--", "sh", "-c", script, sys.executable, status=9)
    project = out.strip()
    assert "-run-" in project
    assert not (terminal.folder / "state" / "mailstack" / project).exists()
    assert not [line for line in terminal.processes() if project in line]


def test_run_that_is_ended_leaves_nothing_behind(terminal: Terminal) -> None:
    running = terminal.start("run", "--", "sh", "-c", "echo $MAILSTACK_PROJECT; exec sleep 60")
    assert running.stdout is not None
    project = running.stdout.readline().strip()
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=30)
    assert running.returncode == 128 + signal.SIGTERM
    assert not (terminal.folder / "state" / "mailstack" / project).exists()
    assert not [line for line in terminal.processes() if project in line]


def test_run_may_keep_its_stack_until_down_all(terminal: Terminal, tmp_path: Path) -> None:
    other = Terminal(tmp_path)
    other.run("init")
    project = other.run("run", "--keep", "--", "sh", "-c", "echo $MAILSTACK_PROJECT").strip()
    assert other.data("status", "-p", project)["ready"]
    down = other.data("down", "--all", "--volumes")
    assert [one["project"] for one in down["projects"]] == [project]
    assert not other.processes()
    assert terminal.data("status")["ready"]


def test_a_stack_outlives_its_spec(terminal: Terminal) -> None:
    """Whoever spoils the file can still look at what runs, and take it down."""
    spec = terminal.folder / "mailstack.yaml"
    good = spec.read_text()
    spec.write_text(good + "spoiled: [\n")
    try:
        assert terminal.data("status")["ready"]
        assert terminal.json("up", status=2)["error"]["code"] == "spec-invalid"
    finally:
        spec.write_text(good)
    assert terminal.data("status")["ready"]


def test_nothing_is_written_beside_the_spec(terminal: Terminal) -> None:
    ours = {"mailstack.yaml", "mailstack.schema.json", ".gitignore", "state", "note.txt", "m.eml"}
    assert {path.name for path in terminal.folder.iterdir()} <= ours
