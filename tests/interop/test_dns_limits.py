"""rate-limit and rrset-order beside the real named: what comes back of many questions at once, and in which order.

How many answers an account pays for depends on when a second begins, so what is compared holds at any time:
at least the rate and at most what the seconds of the burst could earn are answered in full, and of the others
every `slip`-th is a truncated one.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dns.flags
import dns.message
import dns.query
import pytest

from tests.interop.dns_servers import bind, configure, ours
from tests.interop.dns_upstream import Reply, Upstream, reply
from tests.ports import free_port

pytestmark = pytest.mark.real

OPTIONS = """recursion no; minimal-responses no;
  rate-limit { responses-per-second 5; nxdomains-per-second 3; errors-per-second 2; nodata-per-second 4;
               window 3600; slip 2; exempt-clients { 127.0.1.0/24; }; };"""
COUNT = 80
Servers = dict[str, tuple[int, Path]]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    root = tmp_path_factory.mktemp("limits")
    mine, theirs = free_port(), free_port()
    with (
        ours(configure(root / "ours", mine, OPTIONS), mine),
        bind(configure(root / "bind", theirs, OPTIONS), theirs),
    ):
        loaded(theirs)
        yield {"ours": (mine, root / "ours" / "ours.log"), "named": (theirs, root / "bind" / "bind.log")}


def loaded(port: int) -> None:
    """Wait until the zones are there: named answers before."""
    deadline = time.monotonic() + 30
    query = dns.message.make_query("www.other.test", "A")
    while not dns.query.tcp(query, "127.0.0.1", port=port, source="127.0.1.1", timeout=30).answer:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def burst(port: int, source: str, name: str, kind: str, patience: float) -> tuple[int, int, float]:
    """Answers in full, truncated ones, and the seconds that it took."""
    wires = [dns.message.make_query(name, kind, id=number + 1).to_wire() for number in range(COUNT)]
    full = cut = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind((source, 0))
        sock.connect(("127.0.0.1", port))
        begun = time.monotonic()
        for wire in wires:
            sock.send(wire)
        while full + cut < COUNT:
            # Half of what is held back comes truncated, unless it is an error; then nothing more comes.
            sock.settimeout(0.1 if full and 2 * cut >= COUNT - full - 1 else patience)
            try:
                response = dns.message.from_wire(sock.recv(65536))
            except TimeoutError:
                break
            if response.flags & dns.flags.TC:
                cut += 1
            else:
                full += 1
        return full, cut, time.monotonic() - begun


@pytest.mark.parametrize("whose", ["ours", "named"])
@pytest.mark.parametrize(
    ("source", "name", "kind", "rate", "slips", "logged"),
    [
        ("127.0.0.1", "mail.rich.test", "A", 5, True, "limit responses to 127.0.0.0/24 for mail.rich.test IN A  ("),
        ("127.0.0.2", "nothere.rich.test", "A", 3, True, "limit NXDOMAIN responses to 127.0.0.0/24 for rich.test  ("),
        ("127.0.0.3", "mail.rich.test", "CAA", 4, True, "limit NODATA responses to 127.0.0.0/24 for mail.rich.test IN  ("),
        ("127.0.0.4", "elsewhere.example", "A", 2, False, "limit REFUSED error responses to 127.0.0.0/24"),
        ("127.0.2.9", "x.sub.rich.test", "A", 5, True, "limit referral responses to 127.0.2.0/24 for sub.rich.test IN  ("),
        ("127.0.1.9", "mail.rich.test", "A", COUNT, False, ""),
    ],
)  # fmt: skip
def test_what_comes_of_many_questions(
    servers: Servers, whose: str, source: str, name: str, kind: str, rate: int, slips: bool, logged: str
) -> None:
    port, log = servers[whose]
    full, cut, seconds = burst(port, source, name, kind, 30 if slips or rate == COUNT else 0.5)
    assert rate <= full <= min(COUNT, rate * (int(seconds) + 2))
    limited = COUNT - full
    assert abs(cut - limited / 2) <= 1 if slips else cut == 0
    if logged:
        assert logged in log.read_text()
        said = f"rate limit slip {logged.removeprefix('limit ').replace('responses', 'response')}"
        assert not slips or said in log.read_text()


@pytest.mark.parametrize(
    ("options", "most", "least"),
    [
        ("recursion no;", 6, 4),
        ('recursion no; rrset-order { type MX name "rich.test" order cyclic; };', 3, 3),
        ('recursion no; rrset-order { type A name "rich.test" order cyclic; };', 1, 1),
    ],
)
def test_order_of_records(tmp_path: Path, options: str, most: int, least: int) -> None:
    """A set of three records, sixty times: six orders at random, three in turn, or one."""
    mine, theirs = free_port(), free_port()
    with (
        ours(configure(tmp_path / "ours", mine, options), mine),
        bind(configure(tmp_path / "bind", theirs, options), theirs),
    ):
        loaded(theirs)
        for port in (mine, theirs):
            seen = set()
            for _ in range(60):
                query = dns.message.make_query("rich.test", "MX", use_edns=0)
                answer = dns.query.tcp(query, "127.0.0.1", port=port, timeout=30).answer
                seen.add(" ".join(str(rdata) for rdata in answer[0]))
            assert least <= len(seen) <= most, (port, seen)


@pytest.fixture(scope="module")
def few_connections(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = free_port()
    root = configure(
        tmp_path_factory.mktemp("tcp"), port, "recursion no; tcp-clients 20; tcp-listen-queue 200;"
    )
    with ours(root, port):
        yield port


@pytest.mark.parametrize("said", [b"", b"\0", b"\0\x20", b"\xff\xff" + bytes(40)])
def test_connections_that_ask_nothing_keep_nobody_out(few_connections: int, said: bytes) -> None:
    """Three times as many as `tcp-clients` lets, each with a part of a message."""
    port = few_connections
    held = [socket.create_connection(("127.0.0.1", port), 30) for _ in range(60)]
    try:
        for sock in held:
            with contextlib.suppress(OSError):  # those who made room for others
                sock.sendall(said)
        query = dns.message.make_query("rich.test", "MX")
        for _ in range(10):
            assert dns.query.tcp(query, "127.0.0.1", port=port, timeout=30).answer
    finally:
        for sock in held:
            sock.close()


def test_a_client_that_reads_late_gets_all_its_answers(few_connections: int) -> None:
    """Several MiB of answers to questions that all came at once; others are answered meanwhile."""
    port, count = few_connections, 10_000
    query = dns.message.make_query("big.rich.test", "TXT").to_wire()
    wires = b"".join(len(query).to_bytes(2, "big") + n.to_bytes(2, "big") + query[2:] for n in range(count))
    with socket.create_connection(("127.0.0.1", port), 30) as sock, sock.makefile("rb") as file:
        writer = threading.Thread(target=sock.sendall, args=(wires,))
        writer.start()
        for _ in range(10):
            other = dns.message.make_query("mail.rich.test", "A")
            assert dns.query.tcp(other, "127.0.0.1", port=port, timeout=30).answer
        found = []
        for _ in range(count):
            data = file.read(int.from_bytes(file.read(2), "big"))
            assert len(data) > 600
            found.append(int.from_bytes(data[:2], "big"))
        writer.join()
    assert found == list(range(count))


def test_auth_nxdomain(tmp_path: Path) -> None:
    """A forwarder's NXDOMAIN as if it were ours, the first time and out of the cache; other answers as they are."""

    def script(query: dns.message.Message, _tcp: bool) -> Reply:
        if query.question[0].name.to_text() == "there.u.test.":
            return reply(query, ["there.u.test. 300 A 192.0.2.1"])
        return reply(query, authority=["u.test. 300 SOA ns.u.test. h.u.test. 1 2 3 4 300"], rcode=3)

    said = []
    with Upstream(script, free_port()) as upstream:
        options = f"recursion yes; dnssec-validation no; forward only; forwarders {{ 127.0.0.1 port {upstream.port}; }};"
        for name, server in (("ours", ours), ("bind", bind)):
            port = free_port()
            with server(configure(tmp_path / name, port, f"{options} auth-nxdomain yes;"), port):
                found = []
                for owner in ("there.u.test", "none.u.test", "none.u.test"):
                    query = dns.message.make_query(owner, "A")
                    answer = dns.query.tcp(query, "127.0.0.1", port=port, timeout=30)
                    found.append((answer.rcode(), bool(answer.flags & dns.flags.AA)))
                said.append(found)
    assert said[0] == said[1] == [(0, False), (3, True), (3, True)]
