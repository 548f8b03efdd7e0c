"""The DNS server is killed at random: under updates and reloads, and as a secondary while zones come in.

After each restart every zone loads: with every update that was acknowledged; as a whole that its primary has had.
`MAILSTACK_CRASH_ROUNDS` (10) and `MAILSTACK_CRASH_SEED` make it longer, or another one.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from pathlib import Path

import dns.message
import dns.name
import dns.opcode
import dns.query
import dns.rcode
import dns.rdatatype
import dns.update
import dns.xfr
import dns.zone
import pytest

from tests.interop.dns_servers import configure, ours
from tests.ports import free_port, free_ports

ROUNDS = int(os.environ.get("MAILSTACK_CRASH_ROUNDS", "10"))
SEED = int(os.environ.get("MAILSTACK_CRASH_SEED", "4"))
pytestmark = pytest.mark.timeout(120 + 10 * ROUNDS)
BAD = ("Traceback", "damaged", "cannot be used", "does not fit", "fatal", "loading failed")


def fetched(port: int, name: str) -> dns.zone.Zone:
    zone = dns.zone.Zone(name, relativize=True)
    dns.query.inbound_xfr("127.0.0.1", zone, dns.message.make_query(name, "AXFR"), port=port, timeout=30)
    return zone


def texts(zone: dns.zone.Zone) -> dict[str, str]:
    """The TXT records by name."""
    found = {}
    for name, rdataset in zone.iterate_rdatasets(dns.rdatatype.TXT):
        found[name.to_text()] = b"".join(rdataset[0].strings).decode()
    return found


def sent(update: dns.update.UpdateMessage, port: int) -> None:
    """Put an update to a server without waiting for what it says."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(update.to_wire(), ("127.0.0.1", port))


def sound(root: Path) -> None:
    log = (root / "ours.log").read_text()
    assert not [word for word in BAD if word in log], log[-4000:]


def edited(path: Path, serial: int) -> None:
    """Another zone file in the place of the one that is there, as an editor saves it."""
    new = path.with_name("new")
    lines = [f"a{serial - number} TXT {serial - number}\n" for number in range(50)]
    new.write_text(f"$TTL 60\n@ SOA ns h {serial} 60 60 600 60\n@ NS ns\nns A 192.0.2.1\n" + "".join(lines))
    new.rename(path)


def test_updates_and_reloads(tmp_path: Path) -> None:
    """What was acknowledged is there, and the zones load."""
    chance = random.Random(SEED)
    port = free_port()
    root = configure(
        tmp_path,
        port,
        "recursion no; allow-transfer { any; }; ixfr-from-differences yes;",
        """
        zone "rich.test" { type master; file "zones/rich.zone"; allow-update { 127.0.0.1; }; };
        zone "file.test" { type master; file "zones/file.zone"; };
        """,
    )
    file, serial = root / "zones" / "file.zone", 100
    edited(file, serial)
    acknowledged: set[str] = set()
    for number in range(ROUNDS):
        with ours(root, port) as process:
            assert acknowledged <= texts(fetched(port, "rich.test")).keys()
            zone = fetched(port, "file.test")
            assert texts(zone) == {f"a{one}": str(one) for one in range(serial - 49, serial + 1)}
            end, reloads = chance.randrange(40), {chance.randrange(40) for _ in range(3)}
            for count in range(60):
                update = dns.update.UpdateMessage("rich.test")
                update.add(f"u{number}-{count}", 60, "TXT", "x" * chance.randrange(1, 200))
                if count in reloads:
                    serial += 1
                    edited(file, serial)
                    process.send_signal(signal.SIGHUP)
                if count == end:
                    sent(update, port)
                    time.sleep(chance.random() / 50)
                    process.send_signal(signal.SIGKILL)
                    break
                assert dns.query.udp(update, "127.0.0.1", port=port, timeout=30).rcode() == dns.rcode.NOERROR
                acknowledged.add(f"u{number}-{count}")
    assert len(acknowledged) > ROUNDS
    sound(root)


WINDOW = 40
"""Records that the zone of the test has of those that have come."""


def grow(port: int, number: int) -> None:
    """The next version of the primary's zone: one record more, one less, and a number that says which."""
    update = dns.update.UpdateMessage("rich.test")
    update.replace("n", 60, "TXT", str(number))
    update.add(f"r{number}", 60, "TXT", "x" * (number % 90 + 1))
    if number > WINDOW:
        update.delete(f"r{number - WINDOW}")
    assert dns.query.tcp(update, "127.0.0.1", port=port, timeout=30).rcode() == dns.rcode.NOERROR


def version(port: int) -> int:
    """Which version of the zone a server has; all of it has to be of that one."""
    found = texts(fetched(port, "rich.test"))
    number = int(found["n"])
    held = {name for name in found if name[0] == "r" and name[1:].isdecimal()}
    assert held == {f"r{one}" for one in range(max(1, number - WINDOW + 1), number + 1)}
    return number


def notify(port: int) -> None:
    """Say that the zone has changed."""
    message = dns.message.make_query("rich.test", "SOA", use_edns=False)
    message.set_opcode(dns.opcode.NOTIFY)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(message.to_wire(), ("127.0.0.1", port))


def test_transfers(tmp_path: Path) -> None:
    """A secondary that is killed while its zone comes in has a version of it that its primary has had."""
    chance = random.Random(SEED)
    one, two = free_ports(2)
    transfers = "recursion no; allow-transfer { any; };"
    zone = 'zone "rich.test" { type master; file "zones/rich.zone"; allow-update { 127.0.0.1; }; };'
    first = configure(tmp_path / "one", one, transfers, zone)
    with open(first / "zones" / "rich.zone", "a") as file:
        file.write("$GENERATE 1-1000 filler$ A 192.0.2.1\n")
    zone = f'zone "rich.test" {{ type slave; file "rich.copy"; masters {{ 127.0.0.1 port {one}; }}; }};'
    second = configure(tmp_path / "two", two, transfers, zone)
    number, kept = 1, False
    with ours(first, one):
        grow(one, number)
        for turn in range(ROUNDS):
            if turn % 4 == 3:  # all of it again
                for path in second.glob("rich.copy*"):
                    path.unlink()
                kept = False
            with ours(second, two) as process:
                if kept:
                    assert 1 <= version(two) <= number, "served at once, from the file"
                for _ in range(chance.randrange(2, 12)):
                    number += 1
                    grow(one, number)
                    notify(two)
                    time.sleep(chance.random() / 20)
                kept = (second / "rich.copy").exists()
                process.send_signal(signal.SIGKILL)
                process.wait(30)
    with ours(second, two):
        if kept:
            assert 1 <= version(two) <= number
    sound(first)
    sound(second)
