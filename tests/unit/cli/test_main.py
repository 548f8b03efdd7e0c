"""Options before and after the command, the envelope, exit statuses, errors."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mailstack import __version__
from mailstack.cli.main import COMMANDS
from mailstack.runtime.errors import NoDocker, NotReady, PortTaken, ServiceDied
from tests.unit.cli.support import FakeProject, Shell


def test_help_lists_every_command_and_each_says_the_same_of_itself(shell: Shell) -> None:
    ran = shell("--help")
    assert ran.status == 0
    for name, (module, line) in COMMANDS.items():
        assert f"  {name} " in ran.out
        assert line in ran.out
        importlib.import_module(f"mailstack.cli.{module}")
        own = shell(name, "--help")
        assert own.status == 0
        assert "--project" in own.out


def test_version(shell: Shell) -> None:
    ran = shell("--version")
    assert (ran.status, ran.out) == (0, f"mailstack {__version__}\n")
    assert shell("--version", "-o", "json").json["data"] == {"version": __version__}


def test_as_a_module() -> None:
    """`python -m mailstack` is the command, for those whose PATH lacks the script."""
    command = [sys.executable, "-m", "mailstack"]
    shown = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert shown.stdout == f"mailstack {__version__}\n"
    assert (
        subprocess.run([*command, "nonsense"], capture_output=True, timeout=60, check=False).returncode == 2
    )


@pytest.mark.parametrize(
    "args",
    [
        ["-f", "other.yaml", "-p", "named", "--runtime", "process", "-o", "json", "up"],
        ["up", "-f", "other.yaml", "-p", "named", "--runtime", "process", "-o", "json"],
        ["-f", "no.yaml", "-p", "no", "-o", "text", "up", "-f", "other.yaml", "-p", "named", "--runtime=process", "-ojson"],
        ["--file=other.yaml", "up", "--project=named", "--output=json", "--runtime", "process"],
    ],
)  # fmt: skip
def test_global_options_stand_before_or_after_the_command(
    args: list[str], shell: Shell, project: FakeProject, folder: Path
) -> None:
    (folder / "other.yaml").write_text((folder / "mailstack.yaml").read_text())
    ran = shell(*args)
    assert ran.status == 0, ran.err
    assert project.calls[0] == "open other.yaml named process"
    assert ran.json["data"]["project"] == "named"


def test_global_options_after_a_group_and_its_command(shell: Shell, project: FakeProject) -> None:
    for args in (["queue", "-o", "json", "ls"], ["queue", "ls", "-o", "json"], ["-o", "json", "queue", "ls"]):
        assert shell(*args).json["command"] == "queue ls"


def test_environment_gives_defaults(
    shell: Shell, project: FakeProject, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "elsewhere.yaml").write_text("")
    monkeypatch.setenv("MAILSTACK_FILE", "elsewhere.yaml")
    monkeypatch.setenv("MAILSTACK_PROJECT", "fromenv")
    monkeypatch.setenv("MAILSTACK_RUNTIME", "docker")
    shell("plan")
    assert project.calls == ["open elsewhere.yaml fromenv docker"]
    project.calls.clear()
    shell("plan", "-p", "given", "--runtime", "process")
    assert project.calls == ["open elsewhere.yaml given process"]


def test_the_spec_is_found_in_a_parent_folder(
    shell: Shell, project: FakeProject, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = folder / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert shell("plan").status == 0
    assert project.calls == ["open mailstack.yaml None auto"]


def test_a_name_alone_finds_a_project_from_any_folder(shell: Shell, project: FakeProject) -> None:
    shell("status", "-p", "other")
    assert project.calls == ["open None other auto"]


@pytest.mark.parametrize(
    ("args", "command", "message"),
    [
        (["upp"], "mailstack", "No such command 'upp'. Did you mean 'up'?"),
        (["up", "--wait"], "up", "No such option"),
        (["up", "--timeout", "soon"], "up", "'soon' is not a duration"),
        (["--runtime", "podman", "up"], "mailstack", "podman"),
        (["send", "--subject", "x"], "send", "Missing option '--to'"),
        (["mail", "wait"], "mail wait", "Missing argument"),
        (["mail", "wait", "alice", "--subject", "("], "mail wait", "not a regular expression"),
        (["mail", "wait", "alice", "--after", "x"], "mail wait", "not a cursor"),
        (["mail", "rm", "alice"], "mail rm", "give UIDs, or --all"),
        (["mail", "rm", "alice", "one"], "mail rm", "'one' is not a UID"),
        (["mail", "show", "alice", "0"], "mail show", "'0' is not a UID"),
        (["send", "--to", "alice", "--file", "no.eml"], "send", "no.eml: No such file"),
        (["send", "--to", "alice", "--file", "x", "--body", "y"], "send", "takes no --subject, --body"),
        (["logs", "web"], "logs", "'web' is not one of dns, mailbox, mta"),
        (["down", "--all", "-p", "x"], "down", "exclude one another"),
        (["queue"], "queue", "Missing command."),
        ([], "mailstack", "Missing command."),
    ],
)
def test_wrong_usage_is_exit_2_in_text_and_in_json(
    args: list[str], command: str, message: str, shell: Shell, project: FakeProject
) -> None:
    text = shell(*args)
    assert text.status == 2
    assert text.out == ""
    assert message in text.err or "Usage:" in text.err
    assert "Traceback" not in text.err
    for told in (shell("-o", "json", *args), shell(*args, "-o", "json")):
        assert told.status == 2
        assert told.json["command"] == command
        assert message in told.json["error"]["message"]
        assert told.json["error"]["code"] == "usage"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (PortTaken("port 25 belongs to exim4 (pid 7)", hint="stop it"), 4, "port-taken"),
        (NoDocker("no daemon answers", hint="start it"), 4, "no-docker"),
        (NotReady("mta does not answer", hint="see the logs"), 3, "not-ready"),
        (ServiceDied("dns ended", service="dns", tail=("fatal: x",), hint="h"), 3, "service-died"),
        (RuntimeError("surprise"), 1, "internal"),
    ],
)
def test_failures_have_status_message_and_hint(
    error: Exception, status: int, code: str, shell: Shell, project: FakeProject
) -> None:
    project.error = error
    text = shell("up")
    assert text.status == status
    assert text.out == ""
    assert f"{error}" in text.err
    assert getattr(error, "hint", "traceback") in text.err
    assert "Traceback" not in text.err
    assert "Traceback" in shell("up", "-v").err
    told = shell("up", "-o", "json").json
    assert (told["status"], told["error"]["code"]) == ("error", code)


def test_an_interrupt_is_exit_130(
    shell: Shell, project: FakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(project, "plan", interrupted)
    assert (shell("plan").status, shell("plan").err) == (130, "interrupted\n")
    assert shell("plan", "-o", "json").json["error"]["code"] == "interrupted"


def test_quiet_says_nothing_of_what_was_done(shell: Shell, project: FakeProject) -> None:
    loud = shell("up")
    assert "demo is ready" in loud.out
    assert "warning: something to know" in loud.err
    for args in (["up", "-q"], ["-q", "up"], ["down", "-q"]):
        ran = shell(*args)
        assert (ran.status, ran.out, ran.err) == (0, "", "")


def test_warnings_are_in_the_envelope(shell: Shell, project: FakeProject) -> None:
    assert shell("up", "-o", "json").json["warnings"] == ["something to know"]


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    script = "import sys; from mailstack.cli.main import main; sys.exit(main(['schema']))"
    done = subprocess.run(
        ["/bin/sh", "-c", f'"{sys.executable}" -c "{script}" | true; exit 0'],
        capture_output=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.stderr == b""


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    script = "import sys; from mailstack.cli.main import main; sys.exit(main(['schema']))"
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, cwd=tmp_path, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"error: standard output: No space left on device\n")


def test_a_closed_standard_output_is_no_error(tmp_path: Path) -> None:
    script = "import sys; from mailstack.cli.main import main; sys.exit(main(['schema']))"
    done = subprocess.run(
        ["/bin/sh", "-c", f'"{sys.executable}" -c "{script}" >&-'],
        capture_output=True,
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_start_up_imports_nothing_heavy() -> None:
    """`mailstack status` must not pay for what only `up` needs."""
    script = (
        "import sys, json, mailstack.cli.main, mailstack.cli.status, mailstack.cli.mail, mailstack.cli.up\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert not loaded & {
        "rich",
        "pydantic",
        "jinja2",
        "docker",
        "yaml",
        "dns",
        "cryptography",
        "email",
        "asyncio",
    }
