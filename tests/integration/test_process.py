"""What only processes have: addresses in 127.0.0.0/8, a state folder that may be deep, a supervisor."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mailstack.runtime import control, ports, probes
from mailstack.runtime.api import open_project
from mailstack.runtime.errors import MachineLacks, NoPrivilege, PortTaken
from mailstack.runtime.model import OWNER, STANDARD_PORTS
from mailstack.runtime.supervisor import process_start
from tests.integration.conftest import SPEC, Projects, everything_of, short_paths


def test_every_service_has_an_address_with_standard_ports(process_projects: Projects) -> None:
    if not ports.standard_ports_allowed():
        pytest.skip("needs the right to bind ports below 1024")
    project = process_projects.open()
    project.up()
    where = project.endpoints()
    targets = [
        probes.Target(name, where.addresses[OWNER[name]], port) for name, port in STANDARD_PORTS.items()
    ]
    assert where.ca_file is not None
    expected = probes.Expected("alpha.test", "mail.alpha.test", probes.tls_context(where.ca_file))
    assert probes.ask_all(targets, expected, 5.0) == {}


def test_subnet_of_the_spec(process_projects: Projects) -> None:
    project = process_projects.open(text=SPEC + "network: {subnet: 127.213.77.64/26}\n")
    project.up()
    if ports.standard_ports_allowed():
        assert project.endpoints().addresses["dns"] == "127.213.77.66"
    with pytest.raises(MachineLacks, match=r"no part of 127\.0\.0\.0/8"):
        process_projects.open("two", SPEC + "network: {subnet: 10.213.77.0/24}\n").up()


def test_deep_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 100)
    monkeypatch.setenv("XDG_STATE_HOME", str(deep))
    spec = tmp_path / "mailstack.yaml"
    name = f"t{os.getpid()}-deep"
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        spec.write_text(SPEC + f"network: {{publish: {{imap: {port}}}}}\n")
        project = open_project(spec, name, runtime="process")
        with pytest.raises(PortTaken):
            project.up()
        assert everything_of(project) == []
    spec.write_text(SPEC)
    project = open_project(spec, name, runtime="process")
    try:
        assert project.up().status.ready
        assert project.queue() == []
        assert len(short_paths(project)) == 1
    finally:
        project.down(volumes=True)
    assert everything_of(project) == []


def test_killed_supervisor_takes_its_services_along_and_up_repairs_it(process_projects: Projects) -> None:
    project = process_projects.open()
    project.up()
    left = control.leftovers(project.state_dir / "run")
    os.kill(left["supervisor"][0], signal.SIGKILL)
    result = process_projects.open().up()
    assert {step.action for step in result.plan.steps} == {"write", "start"}
    assert not any(process_start(pid) == ticks for pid, ticks in left.values())


def test_wrong_configuration_fails_at_once(process_projects: Projects, tmp_path: Path) -> None:
    """A certificate that is none, from the spec: nothing is started, nothing is left."""
    from mailstack.runtime.errors import UsageProblem

    (tmp_path / "one").mkdir()
    for name in ("cert", "key"):
        (tmp_path / "one" / f"{name}.pem").write_text("none")
    project = process_projects.open(text=SPEC + "tls: {mode: files, cert: cert.pem, key: key.pem}\n")
    with pytest.raises(UsageProblem, match="are not a certificate and its key"):
        project.up()
    assert everything_of(project) == []


def test_two_commands_at_once_make_one_stack(process_projects: Projects) -> None:
    first, second = process_projects.open(), process_projects.open(text=None)
    results: list[int] = []
    threads = [
        threading.Thread(target=lambda p=project: results.append(len(p.up().plan.steps)))
        for project in (first, second)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [0, 4]


def test_bind_address_may_change_under_fixed_ports(process_projects: Projects) -> None:
    first = process_projects.open()
    first.up()
    ports_now = dict(first.endpoints().ports)
    listed = ", ".join(f"{name}: {port}" for name, port in ports_now.items())
    fixed = SPEC + f"network: {{bind: 0.0.0.0, publish: {{{listed}}}}}\n"
    changed = process_projects.open(text=fixed)
    changed.up()
    assert changed.status().ready
    assert (changed.endpoints().host, changed.endpoints().ports) == ("127.0.0.1", ports_now)


@pytest.mark.parametrize("depth", [1, 100])
def test_terminated_command_leaves_nothing(
    process_projects: Projects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, depth: int
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / ("d" * depth)))
    project = process_projects.open()
    code = (
        "import sys, time; from pathlib import Path; from mailstack.runtime.api import open_project\n"
        "from mailstack.runtime import probes\n"
        "def wait_ready(*_, check, **__):\n"
        "    print('waiting', flush=True); time.sleep(60)\n"
        "probes.wait_ready = wait_ready\n"
        "open_project(Path(sys.argv[1]), sys.argv[2], runtime='process').up()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(project.spec_path), project.name], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "waiting\n"
        assert everything_of(project) != []
        child.terminate()
        assert child.wait(20) == 143
    assert everything_of(project) == []


def test_without_the_right_to_low_ports(process_projects: Projects, monkeypatch: pytest.MonkeyPatch) -> None:
    real = ports.bind_error

    def refuse(address: str, port: int, *, udp: bool = False) -> int:
        return errno.EACCES if port < 1024 else real(address, port, udp=udp)

    monkeypatch.setattr(ports, "bind_error", refuse)
    project = process_projects.open()
    assert project.up().status.ready
    where = project.endpoints()
    assert (where.addresses, where.network) == ({}, "")
    zone = project.rendered()["bind/zones/alpha.test.zone"].decode()
    assert f" {where.ports['submission']} mail.alpha.test." in zone
    with pytest.raises(NoPrivilege, match="port 25"):
        process_projects.open("two", SPEC + "network: {publish: {smtp: 25}}\n").up()
