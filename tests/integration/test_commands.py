"""sendmail and its like as the programs beside the MTA find them: in its container, and in the process runtime."""

from __future__ import annotations

import json
import subprocess
import sys

from mailstack.mta.command import COMMANDS
from mailstack.runtime.api import Project
from tests.integration.conftest import Projects, docker_api
from tests.integration.test_life import subjects, until

APPLICATION = """
import subprocess, sys
message = b"To: zs@alpha.test\\nSubject: from an application\\n\\nhello\\n.\\nthere\\n"
done = subprocess.run({sendmail} + ["-t", "-i"], input=message, env={{}})
sys.exit(done.returncode)
"""
"""What PHP's mail() does: a pipe into sendmail -t -i, with nothing in the environment to rely on."""


def python(project: Project, code: str) -> tuple[int, str]:
    """Run a program where the MTA runs, as the account that the MTA runs as: exit status and what it said."""
    if project.wish != "docker":
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
        )
        return done.returncode, done.stdout + done.stderr
    api = docker_api()
    job = api.exec_create(f"mailstack-{project.name}-mta", ["python3", "-c", code])["Id"]
    said = api.exec_start(job).decode()
    return api.exec_inspect(job)["ExitCode"], said


def command(project: Project, name: str) -> list[str]:
    if project.wish == "docker":
        return [f"/usr/sbin/{name}"]
    config = project.state_dir / "rendered" / "postfix"
    module, *words = ["sendmail", "-bp"] if name == "mailq" else [name]
    start = f"import sys; from mailstack.mta import {module}; sys.exit({module}.main(sys.argv[1:]))"
    # With nothing in the environment the program has to be told where mailstack is.
    return [
        sys.executable,
        "-c",
        f"import sys; sys.path[:0] = {sys.path!r}; {start}",
        "--config",
        str(config),
        *words,
    ]


def run(project: Project, name: str, *words: str) -> tuple[int, str]:
    code = f"import subprocess, sys; sys.exit(subprocess.run({[*command(project, name), *words]!r}, env={{}}).returncode)"
    return python(project, code)


def test_an_application_sends_mail_by_the_command(projects: Projects) -> None:
    project = projects.open()
    project.up()
    where = project.endpoints()
    status, said = python(project, APPLICATION.format(sendmail=repr(command(project, "sendmail"))))
    assert (status, said) == (0, "")
    until(lambda: subjects(where) == ["from an application"])


def test_every_command_is_there(projects: Projects) -> None:
    project = projects.open()
    project.up()
    for name, words, wanted in (
        ("mailq", [], "Mail queue is empty\n"),
        ("sendmail", ["-bp"], "Mail queue is empty\n"),
        ("postqueue", ["-p"], "Mail queue is empty\n"),
        ("postqueue", ["-j"], ""),
        ("sendmail", ["-q"], ""),
        ("postconf", ["-h", "mydomain"], "alpha.test\n"),
        ("postsuper", ["-d", "NOSUCH0"], None),
    ):
        status, said = run(project, name, *words)
        assert status == 0, (name, said)
        assert wanted is None or said == wanted, name
    if project.wish == "docker":
        code = f"import os, json; print(json.dumps([os.access('/usr/sbin/' + name, os.X_OK) for name in {COMMANDS}]))"
        assert all(json.loads(python(project, code)[1]))
        assert (
            python(project, "import os; print(os.readlink('/usr/lib/sendmail'))")[1] == "/usr/sbin/sendmail\n"
        )
