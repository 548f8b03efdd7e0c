"""What only containers have: hardening, drift by label, an image, a daemon that may be missing."""

from __future__ import annotations

import io
import os
import tarfile

import pytest

from mailstack.runtime import image
from mailstack.runtime.errors import NoDocker, NoImage, ServiceDied
from tests.integration.conftest import SPEC, Projects, docker_api, everything_of

pytestmark = pytest.mark.docker


def test_containers_are_hardened_and_drift_is_found(docker_projects: Projects) -> None:
    project = docker_projects.open()
    project.up()
    api = docker_api()
    for service in ("dns", "mailbox", "mta"):
        found = api.inspect_container(f"mailstack-{project.name}-{service}")
        host = found["HostConfig"]
        assert found["Config"]["User"] == "10001:10001"
        assert host["ReadonlyRootfs"] is True
        assert host["CapDrop"] == ["ALL"]
        assert not host["CapAdd"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["RestartPolicy"]["Name"] == "unless-stopped"
        assert not host["Privileged"]
        assert found["Config"]["Labels"]["mailstack.project"] == project.name
    resolver = api.inspect_container(f"mailstack-{project.name}-mta")["HostConfig"]["Dns"]
    assert resolver == [project.endpoints().addresses["dns"]]

    # a container that somebody removed, and one that somebody stopped
    api.remove_container(f"mailstack-{project.name}-dns", force=True)
    api.stop(f"mailstack-{project.name}-mta", timeout=10)
    steps = docker_projects.open().up().plan.steps
    assert [str(step) for step in steps[1:]] == ["create dns: not there yet", "start mta: it was not running"]
    assert project.status().ready

    # somebody else's container in our network does not keep it alive
    other = api.create_container(image.tag(), ["-c", "pass"], entrypoint=["python3"])["Id"]
    try:
        api.connect_container_to_network(other, f"mailstack-{project.name}")
        project.down(volumes=True)
    finally:
        api.remove_container(other, force=True)
    assert everything_of(project) == []


def test_failing_service_is_reported_and_undone(
    docker_projects: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mailstack.runtime import containers

    monkeypatch.setattr(containers, "command", lambda service: ["-c", "raise SystemExit('no luck today')"])
    project = docker_projects.open()
    with pytest.raises(ServiceDied, match="no luck today"):
        project.up()
    assert everything_of(project) == []


def test_failing_update_brings_the_old_containers_back(
    docker_projects: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mailstack.runtime import containers

    project = docker_projects.open()
    project.up()
    real = containers.command
    with monkeypatch.context() as patch:
        patch.setattr(
            containers, "command", lambda service: ["-c", "exit(1)"] if service == "mta" else real(service)
        )
        with pytest.raises(ServiceDied):
            docker_projects.open(text=SPEC + "mta: {message_size_limit: 1MiB}\n").up()
    assert docker_projects.open().plan().steps == ()
    assert docker_projects.open().up().status.ready


def test_another_subnet_makes_the_network_anew_and_keeps_the_volumes(docker_projects: Projects) -> None:
    project = docker_projects.open()
    project.up()
    moved = docker_projects.open(text=SPEC + "network: {subnet: 10.213.77.0/24}\n")
    steps = moved.up().plan.steps
    assert {step.target for step in steps if step.action == "recreate"} == {"dns", "mailbox", "mta"}
    assert not any(step.target.startswith("volume") for step in steps)
    assert project.endpoints().addresses["dns"] == "10.213.77.2"
    assert project.status().ready


def test_no_daemon_says_what_to_do(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from pathlib import Path

    from mailstack.runtime.api import open_project

    assert isinstance(tmp_path, Path)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    spec = tmp_path / "mailstack.yaml"
    spec.write_text(SPEC)
    project = open_project(spec, "none", runtime="docker")
    with pytest.raises(NoDocker) as caught:
        project.up()
    assert caught.value.status == 4
    assert "--runtime process" in caught.value.hint
    assert not project.state_dir.exists()


def test_base_without_python_is_refused() -> None:
    api = docker_api()
    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("nothing"), io.BytesIO(b""))
    name = f"mailstack-test-empty:{os.getpid()}"
    api.import_image_from_data(empty.getvalue(), repository=name.split(":")[0], tag=name.split(":")[1])
    try:
        with pytest.raises(NoImage, match="has no Python that runs"):
            image.look_into(api, name)
        with pytest.raises(NoImage, match="neither here nor can it be pulled"):
            image.build("mailstack-test-missing:none", lambda _: None, os.environ)
    finally:
        api.remove_image(name, force=True)
    assert not api.containers(all=True, filters={"label": f"{image.LABEL}=probe"})
