"""What `mailstack doctor` finds, and what it makes of it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mailstack.cli import findings
from mailstack.runtime import api
from mailstack.runtime.model import Check
from mailstack.runtime.tls import ensure
from mailstack.spec import loads
from tests.unit.cli.support import FakeProject, Shell

DAY = 86400.0


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Check]:
    """The runtime's part of the findings."""
    found = [Check("python", "pass", "3.11")]
    monkeypatch.setattr(api, "doctor_checks", lambda project: found)
    return found


def test_all_well_without_a_project(shell: Shell, checks: list[Check]) -> None:
    ran = shell("doctor", "-o", "json")
    data = ran.json["data"]
    assert ran.status == 0
    assert data["project"] is None
    assert data["counts"]["fail"] == 0
    assert {"disk", "clock", "python", "postconf"} <= {check["name"] for check in data["checks"]}


@pytest.mark.parametrize(
    ("check", "status"),
    [
        (Check("docker-limits", "warn", "no limits", "delegate"), 0),
        (Check("mta", "fail", "mta is failing", "mailstack logs mta"), 3),
        (Check("state", "fail", "cannot be written", "set XDG_STATE_HOME"), 4),
    ],
)
def test_findings_decide_the_exit_status(
    check: Check, status: int, shell: Shell, checks: list[Check]
) -> None:
    checks.append(check)
    ran = shell("doctor")
    assert ran.status == status
    assert f"{check.name}: {check.fix}" in ran.out
    assert (check.name in ran.err) == (status != 0)


def test_a_spec_with_problems(
    shell: Shell, folder: Path, project: FakeProject, checks: list[Check], monkeypatch: pytest.MonkeyPatch
) -> None:
    project.spec_path = folder / "mailstack.yaml"
    monkeypatch.setattr(project, "state_dir", folder, raising=False)
    assert shell("doctor").status == 0
    project.spec_path.write_text("domain: x\n")
    ran = shell("doctor")
    assert ran.status == 3
    assert "see 'mailstack check'" in ran.out


def test_certificates(tmp_path: Path) -> None:
    now = time.time()
    path = tmp_path / "cert.pem"
    assert list(findings.certificate(path, now)) == []
    ensure(tmp_path, "x", ["mail.x.test"], now)
    levels = [next(iter(findings.certificate(path, now + days * DAY))).level for days in (-10, 1, 393, 500)]
    assert levels == ["fail", "pass", "warn", "fail"]
    path.write_bytes(b"nonsense")
    assert next(iter(findings.certificate(path, now))).level == "fail"


def test_a_subnet_that_is_in_use(tmp_path: Path) -> None:
    routes = tmp_path / "route"
    routes.write_text(
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "br0\t00051CAC\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    )

    def found(subnet: str, *, running: bool = False) -> list[Check]:
        spec = loads(f"domains: {{x.test: {{users: {{a: }}}}}}\nnetwork: {{subnet: {subnet}}}\n")
        return list(findings.subnet(spec, routes, running=running))

    assert found("auto") == []
    assert found("172.28.5.0/24", running=True) == []
    assert found("172.28.6.0/24")[0].level == "pass"
    clash = found("172.28.5.128/25")[0]
    assert (clash.level, clash.text) == ("fail", "172.28.5.128/25 overlaps 172.28.5.0/24 of br0")


def test_disk_and_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert findings.clock(0).level == "fail"
    assert findings.clock(1_800_000_000).level == "pass"
    real = os.statvfs(tmp_path)
    values = list(real)
    values[4] = 1  # f_bavail
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(values))
    assert findings.disk(tmp_path / "not" / "yet").level == "fail"
