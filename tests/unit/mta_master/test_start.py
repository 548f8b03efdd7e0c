"""What the master makes of a check of the configuration that comes to no answer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mailstack.config.errors import EX_CONFIG
from tests.ports import free_port

MASTER = """
import os, signal, sys
from pathlib import Path
from mailstack.config.errors import ConfigError
from mailstack.mta import check, master

def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def wrong(*_):
    raise ConfigError("main.cf", 2, "no good")

check.check = {check}
sys.exit(master.run_master(Path(sys.argv[1])))
"""


@pytest.mark.parametrize(
    ("check", "status", "line"),
    [
        # Not EX_CONFIG: whoever watches over the master starts it again.
        ("killed", 1, "fatal: the process that checks the configuration was killed by signal 9"),
        ("wrong", EX_CONFIG, "fatal: main.cf:2: no good"),
    ],
)
def test_only_a_wrong_configuration_is_final(tmp_path: Path, check: str, status: int, line: str) -> None:
    (tmp_path / "main.cf").write_text(f"myhostname = mail.example.test\nqueue_directory = {tmp_path}/queue\n")
    (tmp_path / "master.cf").write_text(f"127.0.0.1:{free_port()} inet n - n - 1 smtpd\n")
    command = [sys.executable, "-c", MASTER.format(check=check), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, line in done.stderr) == (status, True), done.stderr
