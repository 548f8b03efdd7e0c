"""A stack of two domains, once per runtime, and what a real client needs to talk to it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.stack import Stack

SPEC = """\
domains:
  dgtlinux.com:
    hostname: mail.dgtlinux.com
    users:
      zs: {password: secret}
      support: {password: "hunter 2"}
    aliases:
      postmaster: [zs]
      team: [zs, support]
    records:
      - "www IN A 192.0.2.80"
  other.test:
    catch_all: anna
    users:
      anna: {password: anna-secret}
      bert: {password: bert-secret}
mta:
  postfix:
    smtpd_banner: Welcome to my $myhostname ESMTP!
"""


def docker_missing() -> str | None:
    """None, or why no container can be started here."""
    try:
        result = subprocess.run(["docker", "version"], capture_output=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "a Docker client"
    if result.returncode != 0:
        return "a Docker daemon"
    if "MAILSTACK_TEST_BASE" not in os.environ:
        return "a base image (MAILSTACK_TEST_BASE)"
    return None


@pytest.fixture(scope="module", params=["process", pytest.param("docker", marks=pytest.mark.docker)])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack of `SPEC`, up for the tests of one module, in each runtime."""
    runtime = str(request.param)
    if runtime == "docker":
        missing = docker_missing()
        if missing:
            pytest.skip(f"needs {missing}")
    module = request.module.__name__.rpartition(".")[2].replace("_", "-")
    root = tmp_path_factory.mktemp("stack")
    with pytest.MonkeyPatch.context() as environment:
        if runtime == "docker":
            environment.setenv("MAILSTACK_BASE_IMAGE", os.environ["MAILSTACK_TEST_BASE"])
        candidate = Stack(root, SPEC, runtime=runtime, project=f"{module}-{os.getpid()}")
        if runtime == "docker":
            candidate.cli("image", "build", "--base", os.environ["MAILSTACK_TEST_BASE"], check=True)
        with candidate as up:
            yield up


def need(tool: str) -> str:
    """The path of a real client; skips the test, naming it, where it is missing."""
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"needs {tool}")
    return found


def sh(*words: str | Path, stdin: str | None = None, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a client; the caller looks at the exit status."""
    return subprocess.run(
        [str(word) for word in words],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
