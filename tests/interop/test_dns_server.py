"""The server as a process: dig and sockets against it, reload, wrong configurations, limits, its end."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.resolver
import dns.zone
import pytest

from tests.interop.conftest import need, sh
from tests.interop.dns_servers import WORLD, configure, ours
from tests.ports import free_port


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    root, chosen = tmp_path_factory.mktemp("dns"), free_port()
    options = "recursion no; allow-transfer { 127.0.0.1; }; tcp-clients 20; tcp-idle-timeout 10;"
    with ours(configure(root, chosen, options), chosen):
        yield chosen


def dig(port: int, *words: str) -> str:
    answer = sh(need("dig"), "@127.0.0.1", "-p", str(port), "+time=2", "+tries=1", *words)
    assert answer.returncode == 0, answer.stdout
    assert "WARNING: Message parser" not in answer.stdout
    return answer.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("MX rich.test +short", ["10 mail.rich.test.", "20 mx.other.test.", "30 alias.rich.test."]),
        ("-x 192.0.2.4 +short", ["mail.rich.test."]),
        ("-x 192.0.2.200 +short", ["host-200.rich.test."]),
        ("SRV _imaps._tcp.rich.test +short", ["0 1 993 mail.rich.test.", "5 1 993 alias.rich.test."]),
        ("TXT rich.test +short", ['"v=spf1 mx -all"']),
        ("AAAA chain1.rich.test +short +tcp",
         ["chain2.rich.test.", "chain3.rich.test.", "mail.rich.test.", "2001:db8::4"]),
        ("CAA rich.test +short +noedns", ['0 issue "ca.test"']),
        ("A x.wild.rich.test +short +nocookie +bufsize=512", ["192.0.2.7"]),
        ("A mail.rich.test +short +ednsopt=65001:abcd +nsid +subnet=192.0.2.0/24 +padding=128", ["192.0.2.4"]),
    ],
)  # fmt: skip
def test_dig(port: int, words: str, expected: list[str]) -> None:
    assert sorted(dig(port, *words.split()).split("\n")[:-1]) == sorted(expected)


def test_dig_any_and_truncation(port: int) -> None:
    whole = dig(port, "ANY", "rich.test", "+notcp", "+bufsize=4096")
    for kind in ("SOA", "NS", "MX", "A", "TXT", "CAA"):
        assert f"\tIN\t{kind}\t" in whole
    cut = dig(port, "TXT", "big.rich.test", "+bufsize=512", "+ignore")
    assert " tc" in cut.split(";; flags:")[1].split(";")[0]
    by_tcp = dig(port, "TXT", "big.rich.test", "+bufsize=512")
    assert "(TCP)" in by_tcp
    assert by_tcp.count("\tIN\tTXT\t") == 3


def test_transfer_is_the_zone(port: int) -> None:
    messages = dns.query.xfr("127.0.0.1", "rich.test", port=port, relativize=False, lifetime=10)
    zone = dns.zone.from_xfr(messages, relativize=False)
    root = Path(__file__).parent.parent / "unit" / "dns" / "zones" / "rich.zone"
    assert zone == dns.zone.from_file(str(root), origin="rich.test", relativize=False)


def framed(*names: str) -> bytes:
    wires = [dns.message.make_query(name, "A", id=index + 1).to_wire() for index, name in enumerate(names)]
    return b"".join(struct.pack("!H", len(wire)) + wire for wire in wires)


def receive(sock: socket.socket, count: int) -> list[dns.message.Message]:
    data = b""
    found: list[dns.message.Message] = []
    while len(found) < count:
        more = sock.recv(65536)
        if not more:
            break
        data += more
        while len(data) >= 2 and len(data) >= 2 + int.from_bytes(data[:2], "big"):
            size = int.from_bytes(data[:2], "big")
            found.append(dns.message.from_wire(data[2 : 2 + size]))
            data = data[2 + size :]
    return found


def test_tcp_pipelining_whole_in_pieces_and_half_closed(port: int) -> None:
    names = [f"h{number}.rich.test" for number in range(1, 31)]
    data = framed(*names)
    for pieces in ([data], [data[i : i + 1] for i in range(len(data))], [data[:50], data[50:]]):
        with socket.create_connection(("127.0.0.1", port), 5) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                sock.sendall(piece)
            sock.shutdown(socket.SHUT_WR)
            answers = receive(sock, 30)
            assert sorted(answer.id for answer in answers) == list(range(1, 31))
            assert sock.recv(1) == b""


def test_tcp_idle_connections_end_and_make_room_for_others(port: int) -> None:
    idle = [socket.create_connection(("127.0.0.1", port), 5) for _ in range(30)]
    try:
        for sock in idle:
            sock.settimeout(30)
        deadline = time.monotonic() + 30
        while len(select.select(idle, [], [], 0.05)[0]) < 10:  # they have made room
            assert time.monotonic() < deadline
        ended = 0
        for sock in idle:
            try:
                sock.sendall(framed("rich.test"))
                ended += not receive(sock, 1)
            except OSError:
                ended += 1
        assert 10 <= ended <= 12  # one or two of an earlier test may still be closing
        # tcp-idle-timeout is a second here: those that got an answer are closed, too.
        for sock in idle:
            try:
                assert sock.recv(1) == b""
            except OSError:
                pass
    finally:
        for sock in idle:
            sock.close()
    assert dig(port, "MX", "rich.test", "+short", "+tcp")


def test_noise_over_tcp_and_udp_does_not_hurt(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for size in (0, 1, 11, 12, 100, 4095, 4097, 60000):
            udp.sendto(b"\x17" * size, ("127.0.0.1", port))
    for data in (b"\0\0", b"\xff\xff" + b"\0" * 65535, b"\0\1x" * 50, b"\0"):
        with socket.create_connection(("127.0.0.1", port), 5) as tcp:
            tcp.sendall(data)
    assert dig(port, "MX", "rich.test", "+short")


def lines_of(root: Path) -> str:
    return (root / "ours.log").read_text()


def wait_for(root: Path, text: str, count: int = 1) -> None:
    deadline = time.monotonic() + 10
    while lines_of(root).count(text) < count:
        assert time.monotonic() < deadline, lines_of(root)
        time.sleep(0.01)


def address_of(name: str, port: int) -> list[str]:
    response = dns.query.udp(dns.message.make_query(name, "A"), "127.0.0.1", port=port, timeout=3)
    return [rdata.to_text() for rrset in response.answer for rdata in rrset]


def test_reload_takes_what_is_right_and_keeps_what_was(tmp_path: Path) -> None:
    first, second = free_port(), free_port()
    root = configure(tmp_path, first)
    zone = root / "zones" / "other.zone"
    good = zone.read_text()
    with ours(root, first) as process:
        zone.write_text(good.replace("203.0.113.2", "203.0.113.99"))
        process.send_signal(signal.SIGHUP)
        wait_for(root, "reloading configuration succeeded")
        assert address_of("www.other.test", first) == ["203.0.113.99"]
        # A zone file that is wrong: this zone stays, the others go on.
        zone.write_text(good + "broken A 1.2.3\n")
        process.send_signal(signal.SIGHUP)
        wait_for(root, "reloading configuration succeeded", 2)
        assert f"zone other.test/IN: loading failed: {zone}:{good.count(chr(10)) + 1}: " in lines_of(root)
        assert address_of("www.other.test", first) == ["203.0.113.99"]
        assert address_of("mail.rich.test", first) == ["192.0.2.4"]
        # A named.conf that is wrong: everything stays.
        conf = (root / "named.conf").read_text()
        (root / "named.conf").write_text(conf + "nonsense;\n")
        process.send_signal(signal.SIGHUP)
        wait_for(root, "reloading configuration failed")
        assert "unknown option 'nonsense'" in lines_of(root)
        assert address_of("www.other.test", first) == ["203.0.113.99"]
        # Another port.
        zone.write_text(good)
        (root / "named.conf").write_text(conf.replace(f"port {first}", f"port {second}"))
        process.send_signal(signal.SIGHUP)
        wait_for(root, "reloading configuration succeeded", 3)
        assert address_of("www.other.test", second) == ["203.0.113.2"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_faults_come_and_go_with_a_reload(tmp_path: Path) -> None:
    port = free_port()
    root = configure(tmp_path, port)
    query = dns.message.make_query("www.other.test", "A")

    def rcode(*, tcp: bool = False) -> str:
        ask = dns.query.tcp if tcp else dns.query.udp
        return dns.rcode.to_text(ask(query, "127.0.0.1", port=port, timeout=5).rcode())

    with ours(root, port) as process:
        assert rcode() == "NOERROR"
        (root / "faults.conf").write_text('fault "www.other.test" { answer delay 300; };\n')
        process.send_signal(signal.SIGHUP)
        wait_for(root, "reloading configuration succeeded")
        for tcp in (False, True):
            begun = time.monotonic()
            assert rcode(tcp=tcp) == "NOERROR"
            assert time.monotonic() - begun >= 0.3
        (root / "faults.conf").write_text('fault "www.other.test" { answer servfail; };\n')
        process.send_signal(signal.SIGHUP)
        wait_for(root, "reloading configuration succeeded", 2)
        assert rcode() == rcode(tcp=True) == "SERVFAIL"
        (root / "faults.conf").write_text("fault;\n")
        process.send_signal(signal.SIGHUP)
        wait_for(root, f"reloading the faults failed: {root}/faults.conf:1: ")
        assert rcode() == "SERVFAIL"
        assert "WRONG ON PURPOSE: servfail" in lines_of(root)
        (root / "faults.conf").unlink()
        process.send_signal(signal.SIGHUP)
        wait_for(root, "reloading configuration succeeded", 4)
        assert rcode() == "NOERROR"


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (
            lambda root: (root / "named.conf").write_text("options {\n nope;\n};"),
            "named.conf:2: unknown option",
        ),
        (lambda root: (root / "zones" / "rich.zone").write_text("x\n"), "zones/rich.zone:1: "),
        (lambda root: (root / "zones" / "rich.zone").unlink(), "zones/rich.zone: No such file"),
        (lambda root: (root / "named.conf").unlink(), "named.conf: No such file"),
        (
            lambda root: (root / "named.conf").write_text(
                'options {\n listen-on port 5399 { 192.0.2.77; };\n listen-on-v6 { none; };\n directory "/";\n};'
            ),
            "named.conf:2: bind 192.0.2.77 port 5399",
        ),
    ],
)
def test_wrong_configuration_is_one_line_and_78(tmp_path: Path, spoil: object, where: str) -> None:
    assert callable(spoil)
    root = configure(tmp_path, free_port())
    spoil(root)
    command = [sys.executable, "-m", "mailstack.dns", "--config", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 78
    (line,) = done.stderr.splitlines()[-1:]
    assert f"fatal: {root}/{where}" in line


def test_wrong_arguments_are_2() -> None:
    done = subprocess.run([sys.executable, "-m", "mailstack.dns", "--nope"], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"usage:" in done.stderr


def test_several_addresses_and_ports(tmp_path: Path) -> None:
    first, second = free_port(), free_port()
    root = configure(tmp_path, first)
    conf = (root / "named.conf").read_text()
    more = f"listen-on port {second} {{ 127.0.0.1; 127.53.53.53; }};"
    (root / "named.conf").write_text(conf.replace("listen-on-v6", more + "\n  listen-on-v6"))
    with ours(root, first):
        query = dns.message.make_query("mail.rich.test", "A")
        for address, port in (("127.0.0.1", first), ("127.0.0.1", second), ("127.53.53.53", second)):
            assert dns.query.udp(query, address, port=port, timeout=3).answer
            assert dns.query.tcp(query, address, port=port, timeout=3).answer


def test_idle_memory_and_start(tmp_path: Path) -> None:
    port = free_port()
    root = configure(tmp_path, port, zones=WORLD)
    with ours(root, port) as process:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        started = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        pss = next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    assert pss < 40 * 1024  # kB; 22 MB here, with room for another interpreter
    assert started < 1.5  # seconds of a processor, however busy the machine is; 0.2 here


def test_named_checkconf_accepts_what_the_tests_serve(tmp_path: Path) -> None:
    checker = shutil.which("named-checkconf") or pytest.skip("needs named-checkconf")
    done = sh(checker, "-z", configure(tmp_path, 5300) / "named.conf")
    assert done.returncode == 0, done.stdout
