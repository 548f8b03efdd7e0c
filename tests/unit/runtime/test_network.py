"""Networks that clash with nothing, and the supervisor's small footprint."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import IPv4Network
from itertools import islice
from pathlib import Path

import pytest

from mailstack.runtime import network
from mailstack.runtime.errors import MachineLacks

ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
"""


def test_loopback_networks_keep_out_of_the_way() -> None:
    some = list(islice(network.loopback_candidates("project"), 70000))
    assert len(set(some)) == 254 * 256
    assert all(found.subnet_of(network.LOOPBACK) and not str(found).startswith("127.0.") for found in some)
    assert (
        next(network.loopback_candidates("project")) == some[0] != next(network.loopback_candidates("other"))
    )


def test_docker_network_clashes_with_no_route(tmp_path: Path) -> None:
    table = tmp_path / "route"
    table.write_text(ROUTES)
    routes = network.host_routes(table)
    assert routes == [IPv4Network("172.17.0.0/16")]
    taken = [*routes, network.DOCKER_POOLS[0], network.DOCKER_POOLS[1]]
    assert network.first_free(network.docker_candidates("p"), taken).subnet_of(network.DOCKER_POOLS[2])
    with pytest.raises(MachineLacks, match="no free network"):
        network.first_free(network.docker_candidates("p"), [IPv4Network("0.0.0.0/0")])


def test_places() -> None:
    assert network.Addresses(IPv4Network("127.9.9.0/24")).as_text() == {
        "gateway": "127.9.9.1", "dns": "127.9.9.2", "mta": "127.9.9.3", "mailbox": "127.9.9.4",
    }  # fmt: skip


def test_supervisor_loads_nothing_of_ours_and_nothing_heavy() -> None:
    code = (
        "import sys, mailstack.runtime.supervisor\n"
        "heavy = {'pydantic', 'docker', 'jinja2', 'yaml', 'asyncio', 'ssl', 'subprocess', 'cryptography'}\n"
        "ours = {name for name in sys.modules if name.startswith('mailstack')}\n"
        "print(sorted(heavy & set(sys.modules)), sorted(ours))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        "[]",
        "['mailstack',",
        "'mailstack.runtime',",
        "'mailstack.runtime.supervisor']",
    ]
