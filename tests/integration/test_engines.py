"""Debian's named in the place of our name server: `dns: {engine: bind}`."""

from __future__ import annotations

import os
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from mailstack.client import dns
from mailstack.client.errors import ClientError
from mailstack.runtime.api import Project
from mailstack.runtime.errors import MachineLacks, RuntimeFailure
from tests.integration.conftest import Projects
from tests.integration.test_dns import asked, endpoints
from tests.integration.test_life import deliver, subjects, until

SPEC = """\
domains:
  alpha.test:
    users: {{anna: {{password: secret}}}}
    records: ["www IN A 192.0.2.{octet}"]
  beta.test:
    users: {{bela: {{password: secret}}}}
dns: {{engine: {engine}, dnssec: {signed}}}
"""
PATIENCE = 60


@pytest.fixture
def projects(tmp_path: Path) -> Projects:
    return Projects(tmp_path, "process")


def text(engine: str = "bind", octet: int = 1, *, signed: bool = False) -> str:
    return SPEC.format(engine=engine, octet=octet, signed=str(signed).lower())


def named(project: Project) -> list[int]:
    """Process ids of the project's named."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"/named") and str(project.state_dir).encode() in b" ".join(words):
            found.append(int(folder.name))
    return found


def until_answered(project: Project, address: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            answer = dns.ask(endpoints(project), dns.question("www.alpha.test", "A"), timeout=1)
            if [record.data for record in answer.answers] == [address]:
                return
        except ClientError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(
    shutil.which("named", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None,
    reason="needs named (bind9)",
)
def test_the_life_of_a_stack_with_named(projects: Projects) -> None:
    open_ = partial(projects.open, "bind")
    project = open_(text())
    try:
        project.up()
        (first,) = named(project)
        assert asked(project, "www.alpha.test", "A") == ("NOERROR", ["192.0.2.1"])
        assert asked(project, "beta.test", "MX") == ("NOERROR", ["10 mail.beta.test."])
        # The MTA finds its way by it.
        where = project.endpoints()
        deliver(where, "by named")
        until(lambda: subjects(where) == ["by named"], PATIENCE)
        open_(text(octet=2)).up()
        assert asked(project, "www.alpha.test", "A") == ("NOERROR", ["192.0.2.2"])
        assert named(project) == [first]  # it has read its zones again
        os.kill(first, signal.SIGKILL)
        until_answered(project, "192.0.2.2")
        # Signed, changed while it is away, and changed while it runs.
        open_(text(octet=2, signed=True)).up()
        assert asked(project, "alpha.test", "DNSKEY")[0] == "NOERROR"
        project.down()
        assert named(project) == []
        project = open_(text(octet=3, signed=True))
        project.up()
        assert asked(project, "www.alpha.test", "A") == ("NOERROR", ["192.0.2.3"])
        assert project.rendered().keys() == project.render().files.keys()
        with pytest.raises(RuntimeFailure, match="the name server is bind"):
            project.update_secret()
        with pytest.raises(RuntimeFailure, match="the name server is bind"):
            project.dns_statistics()
        open_(text("python", 4)).up()
        assert named(project) == []
        assert asked(project, "www.alpha.test", "A") == ("NOERROR", ["192.0.2.4"])
    finally:
        project.down(volumes=True)
    assert named(project) == []


def test_what_is_missing_is_named(projects: Projects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    project = projects.open("missing", text())
    with pytest.raises(MachineLacks, match="this machine has no named") as caught:
        project.up()
    assert "apt-get install bind9" in str(caught.value.hint)
    project.down(volumes=True)
