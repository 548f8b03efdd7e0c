"""The example of an application's own tests, run as its developers would run them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from mailstack.runtime.api import list_projects
from tests.golden.trees import REPOSITORY


def test_an_application_tests_its_mail(tmp_path: Path) -> None:
    folder = shutil.copytree(REPOSITORY / "examples" / "pytest", tmp_path / "signup")
    scripts = tmp_path / "bin"
    scripts.mkdir()
    command = scripts / "mailstack"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={REPOSITORY} exec {sys.executable} -m mailstack "$@"\n')
    command.chmod(0o755)
    environ = {
        **os.environ,
        "PATH": f"{scripts}:{os.environ['PATH']}",
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "MAILSTACK_RUNTIME": "process",
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests"],
        env=environ,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
    assert list_projects(environ) == []
