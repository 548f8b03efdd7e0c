"""Each format of `mailstack env` is read back unchanged by what it is for."""

from __future__ import annotations

import json
import shlex
import subprocess

import pytest

from tests.unit.cli.support import ENV, FakeProject, Shell

GOLDEN = {
    "shell": """\
export MAILSTACK_PROJECT=demo
export MAILSTACK_HOST=127.0.0.1
export MAILSTACK_SMTP_PORT=1025
export MAILSTACK_PASSWORD='o'"'"'th "er$'
""",
    "dotenv": """\
MAILSTACK_PROJECT=demo
MAILSTACK_HOST=127.0.0.1
MAILSTACK_SMTP_PORT=1025
MAILSTACK_PASSWORD="o'th \\"er\\$"
""",
    "github": """\
MAILSTACK_PROJECT=demo
MAILSTACK_HOST=127.0.0.1
MAILSTACK_SMTP_PORT=1025
MAILSTACK_PASSWORD=o'th "er$
""",
}


@pytest.mark.parametrize("form", GOLDEN)
def test_formats(form: str, shell: Shell, project: FakeProject) -> None:
    assert shell("env", "--format", form).out == GOLDEN[form]


def test_shell_is_the_default_and_a_shell_reads_it_back(shell: Shell, project: FakeProject) -> None:
    ran = shell("env")
    assert ran.out == GOLDEN["shell"]
    script = ran.out + " ".join(f'printf "%s\\0" "${name}";' for name in ENV)
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == list(ENV.values())
    assert [shlex.split(line)[1] for line in ran.out.splitlines()] == [f"{k}={v}" for k, v in ENV.items()]


def test_json(shell: Shell, project: FakeProject) -> None:
    assert json.loads(shell("env", "--format", "json").out) == ENV
    assert shell("env", "-o", "json").json["data"] == {"env": ENV}
