"""The containers' settings, and their hand-readable twin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mailstack.runtime import containers as setup
from mailstack.runtime.model import PORT_NAMES, SERVICES, STANDARD_PORTS, ServiceKey
from mailstack.runtime.state import Deployed

TWIN = Path(__file__).parents[3] / "compose" / "compose.yaml"


@pytest.fixture(scope="module")
def twin() -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load(TWIN.read_text())
    return data


@pytest.mark.parametrize("service", SERVICES)
def test_twin_says_the_same(twin: dict[str, Any], service: ServiceKey) -> None:
    said = twin["services"][service]
    assert said["user"] == f"{setup.UID}:{setup.GID}"
    assert said["read_only"] is True
    assert said["tmpfs"] == [f"{path}:{options}" for path, options in setup.TMPFS.items()]
    assert (said["cap_drop"], said["security_opt"]) == (["ALL"], list(setup.SECURITY))
    assert said["sysctls"] == setup.SYSCTLS
    assert said["restart"] == setup.RESTART
    assert said["stop_grace_period"] == f"{setup.STOP_SECONDS}s"
    assert said["init"] == setup.INIT[service]
    assert (said["mem_limit"], said["pids_limit"]) == (setup.MEMORY[service], setup.PIDS[service])
    assert said["entrypoint"] + said["command"] == ["python3", *setup.command(service)]
    assert said["volumes"] == [
        f"{mount.volume}:{mount.target}:{mount.mode}" for mount in setup.mounts(service, maildir=False)
    ]
    assert said["container_name"] == setup.container_name("${MAILSTACK_PROJECT}", service)
    place = {"dns": 2, "mta": 3, "mailbox": 4}[service]
    assert said["networks"]["stack"]["ipv4_address"].endswith(f".{place}")
    assert ("dns" in said) == (service != "dns")
    offered = setup.published(service, STANDARD_PORTS)
    inside = [(int(port.rpartition(":")[2].split("/")[0]), port.rpartition("/")[2]) for port in said["ports"]]
    assert sorted(inside) == sorted((port, kind) for port, kind, _ in offered)
    assert all(port.startswith("127.0.0.1:${MAILSTACK_") for port in said["ports"])


def test_twin_has_the_same_volumes_and_network(twin: dict[str, Any]) -> None:
    project = "${MAILSTACK_PROJECT}"
    assert {entry["name"] for entry in twin["volumes"].values()} == {
        setup.volume_name(project, name) for name in setup.VOLUMES
    }
    assert {name for name, entry in twin["volumes"].items() if entry.get("external")} == setup.KEPT_VOLUMES
    assert twin["networks"]["stack"]["name"] == setup.network_name(project)


def test_every_protocol_is_published_once() -> None:
    found = [
        port
        for service in SERVICES
        for port, kind, _ in setup.published(service, STANDARD_PORTS)
        if kind == "tcp"
    ]
    assert sorted(found) == sorted(STANDARD_PORTS[name] for name in PORT_NAMES)


def test_hash_ignores_what_a_reload_takes_in_and_nothing_else() -> None:
    files = {"postfix/main.cf": "1", "postfix/aliases": "1"}
    first = setup.config_hash("mta", Deployed({"image": "i"}, files))
    assert setup.config_hash("mta", Deployed({"image": "i"}, files | {"postfix/aliases": "2"})) == first
    assert setup.config_hash("mta", Deployed({"image": "i"}, files | {"postfix/main.cf": "2"})) != first
    assert setup.config_hash("mta", Deployed({"image": "j"}, files)) != first
