"""A large zone that the server signs with a child process: whole, through updates, and when it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import dns.message
import dns.query
import dns.rdatatype
import pytest

from tests.interop.dns_servers import configure, ours
from tests.ports import free_port

pytestmark = pytest.mark.real

HEAD = "$TTL 3600\n@ IN SOA ns hostmaster 1 3600 600 86400 300\n@ NS ns\nns A 192.0.2.1\nsub NS ns.sub\n"
HEAD += "ns.sub A 192.0.2.2\nmx MX 10 host1\n*.wild A 192.0.2.3\nText TXT hello\n"
POLICIES = {
    "NSEC": 'dnssec-policy "one" { keys { csk lifetime unlimited algorithm ecdsa256; }; };',
    "NSEC3": 'dnssec-policy "one" { nsec3param iterations 1 optout no salt-length 4; };',
}
PATIENCE = 60
"""Seconds."""


def world(root: Path, port: int, policy: str, count: int) -> None:
    """A configuration with large.test, which has `count` hosts and some other names."""
    hosts = "".join(f"host{number} A 10.0.{number >> 8}.{number & 255}\n" for number in range(count))
    options = "recursion no; allow-transfer { any; }; allow-update { any; };"
    zone = f'zone "large.test" {{ type primary; file "{root}/large.zone"; dnssec-policy one; }};\n'
    configure(root, port, options, POLICIES[policy] + zone)
    (root / "large.zone").write_text(HEAD + hosts)


def until(found: Callable[[], object]) -> None:
    """Wait for something that is to come."""
    end = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < end
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """The processes that a process has begun, dead ones included."""
    with suppress(OSError):
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def gone(pid: int) -> bool:
    """Whether a process has ended, be it that nobody has asked after it."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "ZX"
    return True


def verify(port: int, path: Path) -> None:
    """The whole zone, by transfer, as dnssec-verify sees it."""
    dig = ["dig", "@127.0.0.1", "-p", str(port), "+nocmd", "+nostats", "+nocomments", "large.test", "AXFR"]
    records = subprocess.run(dig, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
    path.write_text("\n".join(records[:-1]) + "\n")
    command = ["dnssec-verify", "-z", "-o", "large.test", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def signatures(port: int, name: str) -> int:
    """How many there are over the address of a name, or over the proof that it has none."""
    query = dns.message.make_query(f"{name}.large.test", "A", want_dnssec=True)
    found = dns.query.udp(query, "127.0.0.1", port=port, timeout=30)
    return sum(rrset.rdtype == dns.rdatatype.RRSIG for rrset in [*found.answer, *found.authority])


@pytest.mark.parametrize("policy", POLICIES)
def test_signed_and_updated(tmp_path: Path, policy: str) -> None:
    port = free_port()
    world(tmp_path, port, policy, 2100)
    log = tmp_path / "ours.log"
    with ours(tmp_path, port) as process:
        assert signatures(port, "host7") == 1
        assert signatures(port, "host7x") >= 2
        until(lambda: log.read_bytes().count(b"large.test/IN: all signatures made") == 1)
        until(lambda: not children(process.pid))
        assert signatures(port, "host9") == 1
        assert signatures(port, "host9x") >= 2
        verify(port, tmp_path / "first")
        change = f"server 127.0.0.1 {port}\nupdate add new.large.test 60 A 192.0.2.9\n"
        change += "update delete host9.large.test\nsend\n"
        subprocess.run(["nsupdate"], input=change, text=True, check=True, timeout=60)
        assert signatures(port, "new") == 1
        assert signatures(port, "host9") >= 2
        until(lambda: log.read_bytes().count(b"large.test/IN: all signatures made") == 2)
        verify(port, tmp_path / "second")
        process.send_signal(signal.SIGHUP)
        until(lambda: log.read_bytes().count(b"large.test/IN: all signatures made") == 3)
        until(lambda: not children(process.pid))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_child_ends_with_the_server(tmp_path: Path, number: signal.Signals) -> None:
    port = free_port()
    world(tmp_path, port, "NSEC", 30_000)
    log = tmp_path / "ours.log"
    for _ in range(5):
        log.unlink(missing_ok=True)
        with ours(tmp_path, port) as process:
            until(lambda: children(process.pid) or b"all signatures made" in log.read_bytes())
            begun = children(process.pid)
            if not begun:
                continue  # it was quicker than we
            process.send_signal(number)
            process.wait(PATIENCE)
            assert process.returncode == (0 if number == signal.SIGTERM else -number)
            for child in begun:
                until(partial(gone, child))
        with ours(tmp_path, port):  # nobody has the port
            assert signatures(port, "host7") == 1
        return
    pytest.fail("no child was seen")


def test_small_zones_have_no_child(tmp_path: Path) -> None:
    port = free_port()
    world(tmp_path, port, "NSEC", 100)
    with ours(tmp_path, port) as process:
        assert signatures(port, "host7") == 1
        assert not children(process.pid)
        assert os.path.exists(f"/proc/{process.pid}")
