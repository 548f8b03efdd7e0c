"""Zones between servers: ours and named, each as primary and as secondary of the other, and of a liar."""

from __future__ import annotations

import re
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.query
import dns.rcode
import dns.rrset
import dns.tsig
import dns.tsigkeyring
import pytest

from tests.interop.dns_servers import bind, configure, ours
from tests.ports import free_port, free_ports

pytestmark = pytest.mark.real

SECRET = "c2VjcmV0IG9mIHRoZSB0ZXN0cw=="
KEY = f'key k {{ algorithm hmac-sha256; secret "{SECRET}"; }};\n'
TSIG = ["-y", f"hmac-sha256:k:{SECRET}"]
Server = Callable[[Path, int], AbstractContextManager["subprocess.Popen[bytes]"]]
SERVERS: dict[str, Server] = {"ours": ours, "bind": bind}
PAIRS = [("ours", "bind"), ("bind", "ours"), ("ours", "ours")]


def eventually(holds: Callable[[], bool], what: Callable[[], str] = lambda: "") -> None:
    """Wait until something is so, half a minute at the most."""
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


def dig(port: int, *arguments: str) -> str:
    command = ["dig", "@127.0.0.1", "-p", str(port), "+norec", "+time=10", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout


def serial(port: int, zone: str = "rich.test") -> int:
    said = dig(port, "+short", zone, "SOA").split()
    return int(said[2]) if len(said) == 7 else -1


def content(port: int, zone: str = "rich.test", kind: str = "AXFR") -> list[str]:
    """The records of a transfer, in no order unless it is incremental."""
    said = dig(port, "+nocmd", "+nostats", "+nocomments", *TSIG, zone, kind)
    lines = [re.sub(r"\s+", " ", line).lower() for line in said.splitlines() if line and line[0] != ";"]
    lines = [line for line in lines if " tsig " not in line]
    return lines if kind != "AXFR" else sorted(lines)


def _wait_for_serial(port: int, wanted: int, root: Path) -> None:
    eventually(lambda: serial(port) == wanted, lambda: log(root))


def nsupdate(port: int, script: str, *options: str) -> str:
    text = f"server 127.0.0.1 {port}\nzone rich.test\n{script}\nsend\n"
    done = subprocess.run(
        ["nsupdate", *options], input=text, capture_output=True, text=True, timeout=30, check=False
    )
    return done.stdout + done.stderr


def log(root: Path) -> str:
    return "".join(path.read_text() for path in root.rglob("*.log"))


def primary(root: Path, port: int, secondary: int, extra: str = "") -> None:
    configure(
        root,
        port,
        "recursion no; notify-delay 1;",
        f"""{KEY}
        zone "rich.test" {{
          type master; file "zones/rich.zone"; allow-update {{ 127.0.0.1; }}; allow-transfer {{ key k; }};
          notify explicit; also-notify {{ 127.0.0.1 port {secondary} key k; }}; {extra}
        }};""",
    )


def secondary(root: Path, port: int, of: int, extra: str = "", options: str = "") -> None:
    configure(
        root,
        port,
        f"recursion no; {options}",
        f"""{KEY}
        zone "rich.test" {{
          type slave; file "rich.copy"; masterfile-format text; masters {{ 127.0.0.1 port {of} key k; }};
          allow-transfer {{ any; }}; notify no; {extra}
        }};""",
    )


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_zone_on_its_way(tmp_path: Path, first: str, second: str) -> None:
    """Fetched, told of changes, fetched in steps, changed through the secondary, and there without a primary."""
    one, two = free_ports(2)
    primary(tmp_path / "one", one, two)
    secondary(tmp_path / "two", two, one, "allow-update-forwarding { any; };")
    with SERVERS[first](tmp_path / "one", one), SERVERS[second](tmp_path / "two", two):
        begun = serial(one)
        eventually(lambda: serial(two) == begun, lambda: log(tmp_path / "two"))
        assert content(two) == content(one)
        assert (
            nsupdate(one, "add new.rich.test 60 A 192.0.2.9\ndel many.rich.test MX\nadd x.rich.test 1 TXT a")
            == ""
        )
        eventually(lambda: serial(two) == begun + 1, lambda: log(tmp_path))
        assert content(two) == content(one)
        assert re.search(rf"IXFR started.*serial {begun} -> {begun + 1}", log(tmp_path / "one"))
        assert nsupdate(two, "add forwarded.rich.test 60 A 192.0.2.10", *TSIG) == ""
        assert "192.0.2.10" in dig(one, "forwarded.rich.test")
        eventually(lambda: serial(two) == begun + 2, lambda: log(tmp_path))
        whole = content(one)
        assert content(two) == whole
        # The steps go on from the secondary: what it was told is what it tells.
        steps = content(two, kind=f"IXFR={begun}")
        assert steps == content(one, kind=f"IXFR={begun}")
        assert [line.split()[6] for line in steps if " soa " in line] == [
            str(begun + number) for number in (2, 0, 1, 1, 2, 2)
        ]
    with SERVERS[second](tmp_path / "two", two):
        eventually(lambda: serial(two) == begun + 2, lambda: log(tmp_path))
        assert content(two) == whole
        (left,) = re.findall(r"; EXPIRE: (\d+)", dig(two, "+expire", "rich.test", "SOA"))
        assert 604_000 < int(left) <= 604_800, "what is left, not what the SOA says"
        assert second != "ours" or int(left) < 604_800


@pytest.mark.parametrize("nsec3", ["", "nsec3param iterations 0 optout no salt-length 0;"])
def test_a_zone_that_its_primary_signs(tmp_path: Path, nsec3: str) -> None:
    """named signs, and signs anew with each update: what we have of it is what it has."""
    one, two = free_ports(2)
    primary(tmp_path / "one", one, two, "dnssec-policy p; inline-signing yes;")
    conf = tmp_path / "one" / "named.conf"
    policy = f"dnssec-policy p {{ keys {{ csk lifetime unlimited algorithm 13; }}; {nsec3} }};\n"
    conf.write_text(policy + conf.read_text())
    secondary(tmp_path / "two", two, one)
    with bind(tmp_path / "one", one), ours(tmp_path / "two", two) as server:
        eventually(lambda: "RRSIG" in dig(one, "+dnssec", "rich.test", "SOA"))
        assert nsupdate(one, "add new.rich.test 60 A 192.0.2.9\ndel many.rich.test MX") == ""
        eventually(lambda: "192.0.2.9" in dig(two, "new.rich.test"), lambda: log(tmp_path))
        eventually(lambda: content(two) == content(one), lambda: log(tmp_path))
        assert any(" nsec3 " in line for line in content(two)) == bool(nsec3)
        denied = dig(two, "+dnssec", "nowhere.rich.test")
        assert "NXDOMAIN" in denied and "RRSIG" in denied
        assert re.search("IXFR started", log(tmp_path / "one"))
        assert "IXFR failed" not in log(tmp_path / "two")
        server.send_signal(signal.SIGKILL)
        server.wait(30)
    with ours(tmp_path / "two", two):
        assert dig(two, "+dnssec", "nowhere.rich.test").count("RRSIG") == denied.count("RRSIG")


def test_a_file_that_has_been_edited(tmp_path: Path) -> None:
    """`ixfr-from-differences`: a reload is a step like any other; we tell it as named does."""
    told = []
    for name, server in SERVERS.items():
        port = free_port()
        zone = f"""{KEY}zone "rich.test" {{
          type master; file "zones/rich.zone"; allow-transfer {{ key k; }}; ixfr-from-differences yes;
        }};"""
        configure(tmp_path / name, port, "recursion no;", zone)
        path = tmp_path / name / "zones" / "rich.zone"
        with server(tmp_path / name, port) as process:
            begun = serial(port)
            text = path.read_text().replace(str(begun), str(begun + 5))
            assert "192.0.2.1\n" in text
            path.write_text(text.replace("192.0.2.1\n", "192.0.2.111\n", 1) + "edited TXT yes\n")
            process.send_signal(signal.SIGHUP)
            _wait_for_serial(port, begun + 5, tmp_path)
            steps = content(port, kind=f"IXFR={begun}")
        told.append(steps)
    assert sorted(told[0]) == sorted(told[1])
    assert 6 <= len(told[0]) < 20
    places = [[index for index, line in enumerate(steps) if " soa " in line] for steps in told]
    assert places[0] == places[1]


@pytest.mark.parametrize("name", list(SERVERS))
def test_how_transfers_go_out(tmp_path: Path, name: str) -> None:
    port = free_port()
    conf = primary
    conf(tmp_path, port, free_port(), "max-ixfr-ratio 1%;")
    path = tmp_path / "named.conf"
    text = path.read_text()
    with SERVERS[name](tmp_path, port) as process:
        begun = serial(port)
        assert nsupdate(port, "add new.rich.test 60 A 192.0.2.9") == ""
        assert len(content(port, kind=f"IXFR={begun}")) > 100, "a step that is larger than the ratio"
        assert len(content(port, kind=f"IXFR={begun + 1}")) == 1, "the client has it"
        assert len(content(port, kind="IXFR=7")) > 100, "a serial that is not in the journal"
        assert "status: NOTAUTH" in dig(port, *TSIG, "nowhere.test", "AXFR") or "Transfer failed" in dig(
            port, *TSIG, "nowhere.test", "AXFR"
        )
        assert "messages 1," in dig(port, *TSIG, "rich.test", "AXFR")
        path.write_text(
            text.replace("max-ixfr-ratio 1%;", "") + "server 127.0.0.0/8 { transfer-format one-answer; };\n"
        )
        process.send_signal(signal.SIGHUP)
        eventually(lambda: "messages 1," not in dig(port, *TSIG, "rich.test", "AXFR"), lambda: log(tmp_path))
        assert len(content(port, kind=f"IXFR={begun}")) == 5
        path.write_text(text.replace("max-ixfr-ratio 1%;", "") + "server 127.0.0.1 { provide-ixfr no; };\n")
        process.send_signal(signal.SIGHUP)
        eventually(lambda: "messages 1," in dig(port, *TSIG, "rich.test", "AXFR"), lambda: log(tmp_path))
        assert len(content(port, kind=f"IXFR={begun}")) > 100


def test_connections_end_with_their_transfers(tmp_path: Path) -> None:
    port = free_port()
    zone = 'zone "rich.test" { type master; file "zones/rich.zone"; allow-transfer { any; }; };'
    configure(tmp_path, port, "recursion no; tcp-clients 10;", zone)
    with ours(tmp_path, port):
        assert {len(content(port)) for _ in range(25)} == {len(content(port))}


def test_what_a_secondary_says_to_strangers(tmp_path: Path) -> None:
    """NOTIFY and updates, by who sends them: as named answers them."""
    said = []
    keyring = dns.tsigkeyring.from_text({"k": ("hmac-sha256", SECRET)})
    for name, server in SERVERS.items():
        port, nobody = free_ports(2)
        root = tmp_path / name
        secondary(root, port, nobody)
        conf = root / "named.conf"
        conf.write_text(
            conf.read_text()
            + f"""
            zone "keyed.test" {{ type slave; masters {{ 127.0.0.9 port {nobody}; }}; allow-notify {{ key k; }}; }};
            zone "other.test" {{ type master; file "zones/other.zone"; }};
            """
        )
        answers: list[object] = []
        with server(root, port):
            for zone in ("rich.test", "keyed.test", "other.test", "nowhere.test"):
                for kind in ("SOA", "A"):
                    for signed in (False, True):
                        query = dns.message.make_query(zone, kind)
                        query.set_opcode(dns.opcode.NOTIFY)
                        query.flags = dns.opcode.to_flags(dns.opcode.NOTIFY) | dns.flags.AA
                        if signed:
                            query.use_tsig(keyring, keyname="k")
                        answer = dns.query.udp(query, "127.0.0.1", port=port, timeout=30)
                        answers.append((zone, kind, signed, answer.rcode(), answer.flags & dns.flags.AA))
            answers.append(nsupdate(port, "add x.rich.test 1 A 192.0.2.1"))
            questions = ["rich.test", "SOA"], ["below.rich.test", "A"], ["rich.test", "AXFR"]
            answers += [
                re.findall(r"status: (\w+)|(Transfer failed)", dig(port, *question)) for question in questions
            ]
            answers.append(re.findall(r"flags: ([a-z ]+);", dig(port, "rich.test", "SOA")))
        said.append(answers)
    assert said[0] == said[1]
    assert ("rich.test", "SOA", False, dns.rcode.NOERROR, dns.flags.AA) in said[0]
    assert ("keyed.test", "SOA", False, dns.rcode.REFUSED, 0) in said[0]


def test_a_zone_that_nobody_vouches_for(tmp_path: Path) -> None:
    """It expires, is not answered from any more, and comes again with its primary."""
    one, two = free_ports(2)
    primary(tmp_path / "one", one, two)
    zone = tmp_path / "one" / "zones" / "rich.zone"
    zone.write_text(zone.read_text().replace("1D 1H 1W 3H", "1 1 2 1"))
    secondary(tmp_path / "two", two, one, "min-refresh-time 1; min-retry-time 1;")
    with ours(tmp_path / "two", two) as process:
        with ours(tmp_path / "one", one):
            process.send_signal(signal.SIGHUP)  # looks at once
            eventually(lambda: "status: NOERROR" in dig(two, "mail.rich.test"), lambda: log(tmp_path))
        eventually(lambda: "status: SERVFAIL" in dig(two, "mail.rich.test"), lambda: log(tmp_path))
        assert "expired" in log(tmp_path / "two")
    with ours(tmp_path / "two", two) as process:
        assert "status: SERVFAIL" in dig(two, "mail.rich.test"), "the copy is as old as that"
        with ours(tmp_path / "one", one):
            process.send_signal(signal.SIGHUP)
            eventually(lambda: "status: NOERROR" in dig(two, "mail.rich.test"), lambda: log(tmp_path))
            assert content(two) == content(one)


SOA = "lie.test. 60 IN SOA ns.lie.test. h.lie.test. {} 300 300 86400 60"
GOOD = [SOA.format(2), "lie.test. 60 IN NS ns.lie.test.", "ns.lie.test. 60 IN A 192.0.2.1", SOA.format(2)]
LIES: dict[str, list[list[str]]] = {
    "nothing": [[]],
    "no SOA first": [GOOD[1:]],
    "no end": [GOOD[:3]],
    "another SOA at the end": [[*GOOD[:3], SOA.format(3)]],
    "no NS": [[GOOD[0], GOOD[2], GOOD[3]]],
    "another zone's record": [[*GOOD[:3], "www.other.test. 60 IN A 192.0.2.2", GOOD[3]]],
    "behind the end": [[*GOOD, GOOD[1]]],
    "a SOA below": [[*GOOD[:3], SOA.format(2).replace("lie.test.", "x.lie.test.", 1), GOOD[3]]],
    "steps from another serial": [[SOA.format(3), SOA.format(2), SOA.format(3), SOA.format(3)]],
    "a record goes that is not there": [
        [SOA.format(3), SOA.format(1), "x.lie.test. 60 IN A 192.0.2.7", SOA.format(3), SOA.format(3)]
    ],
    "steps with a gap": [
        [SOA.format(9), SOA.format(1), SOA.format(2), SOA.format(5), SOA.format(9), SOA.format(9)]
    ],
    "broken off": [GOOD[:2], ["CLOSE"]],
    "octets": [["GARBAGE"]],
}


def _rrset(text: str) -> dns.rrset.RRset:
    owner, ttl, _, kind, data = text.split(" ", 4)
    return dns.rrset.from_text(owner, int(ttl), "IN", kind, data)


class Liar:
    """A primary that has whatever is asked for, and sends what a test wants."""

    def __init__(self, port: int) -> None:
        self.serial = 1
        self.script: list[list[str]] = [[SOA.format(1), *GOOD[1:3], SOA.format(1)]]
        self.asked: list[str] = []
        self.clients: set[str] = set()
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._tcp = socket.create_server(("127.0.0.1", port))
        self._udp.bind(("127.0.0.1", port))
        self._threads = [
            threading.Thread(target=one, daemon=True) for one in (self._datagrams, self._connections)
        ]
        for thread in self._threads:
            thread.start()

    def _answer(self, query: dns.message.Message, records: list[str]) -> bytes:
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.AA
        answer.answer = [_rrset(one) for one in records]
        return answer.to_wire(max_size=65535)

    def _datagrams(self) -> None:
        try:
            while True:
                data, peer = self._udp.recvfrom(4096)
                if not data:
                    return  # closed
                self.clients.add(peer[0])
                query = dns.message.from_wire(data)
                self._udp.sendto(self._answer(query, [SOA.format(self.serial)]), peer)
        except OSError:
            return

    def _connections(self) -> None:
        try:
            while True:
                client, peer = self._tcp.accept()
                self.clients.add(peer[0])
                with client:
                    size = int.from_bytes(client.recv(2, socket.MSG_WAITALL), "big")
                    query = dns.message.from_wire(client.recv(size, socket.MSG_WAITALL))
                    self.asked.append(query.question[0].rdtype.name)
                    for message in self.script:
                        if message == ["CLOSE"]:
                            client.sendall(b"\x40\x00half a message")
                        elif message == ["GARBAGE"]:
                            client.sendall(
                                b"\0\x14" + query.to_wire()[:2] + b"\x84\0\0\0\0\x01\0\0\0\0" + b"\xff" * 8
                            )
                        else:
                            wire = self._answer(query, message)
                            client.sendall(struct.pack("!H", len(wire)) + wire)
        except OSError:
            return

    def close(self) -> None:
        for sock in (self._udp, self._tcp):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            sock.close()
        for thread in self._threads:
            thread.join(30)


@contextmanager
def lying(port: int) -> Iterator[Liar]:
    liar = Liar(port)
    try:
        yield liar
    finally:
        liar.close()


def test_a_primary_that_lies(tmp_path: Path) -> None:
    """Whatever it sends, the zone that came before stays in service, and on disk."""
    port, false = free_ports(2)
    zone = f"""zone "lie.test" {{
      type slave; file "lie.copy"; masters {{ 127.0.0.1 port {false}; }}; max-transfer-idle-in 1; notify no;
      transfer-source 127.0.0.8;
    }};"""
    root = configure(tmp_path, port, "recursion no;", zone)
    with lying(false) as liar, ours(root, port) as server:
        eventually(lambda: serial(port, "lie.test") == 1, lambda: log(root))
        eventually((root / "lie.copy").exists)
        held = (root / "lie.copy").read_text()
        for what, script in LIES.items():
            liar.serial, liar.script, liar.asked = 2, script, []
            if script[0] and "9 300" in script[0][0]:
                liar.serial = 9
            elif script[0] and "3 300" in script[0][0]:
                liar.serial = 3
            before = log(root).count("refresh: failure")
            notify = dns.message.make_query("lie.test", "SOA", use_edns=False)
            notify.set_opcode(dns.opcode.NOTIFY)
            assert dns.query.udp(notify, "127.0.0.1", port=port, timeout=30).rcode() == 0
            eventually(lambda: log(root).count("refresh: failure") > before, lambda: f"{what}\n{log(root)}")  # noqa: B023
            assert serial(port, "lie.test") == 1, what
            assert liar.asked == ["IXFR", "AXFR"], what
            assert (root / "lie.copy").read_text() == held, what
        liar.serial, liar.script = 2, [[one] for one in GOOD]
        assert dns.query.udp(notify, "127.0.0.1", port=port, timeout=30).rcode() == 0
        eventually(lambda: serial(port, "lie.test") == 2, lambda: log(root))
        assert liar.clients == {"127.0.0.8"}
        # And when it is said that there is nothing to be asked for in steps.
        conf = root / "named.conf"
        conf.write_text(conf.read_text() + "server 127.0.0.1 { request-ixfr no; };\n")
        liar.serial, liar.script, liar.asked = 3, [[SOA.format(3), *GOOD[1:3], SOA.format(3)]], []
        server.send_signal(signal.SIGHUP)
        eventually(lambda: serial(port, "lie.test") == 3, lambda: log(root))
        assert liar.asked == ["AXFR"]
    assert "Traceback" not in log(root)


def test_many_messages_signed(tmp_path: Path) -> None:
    """A zone of many messages, and one that has more records than it may."""
    one, two, three = free_ports(3)
    primary(tmp_path / "one", one, two)
    zone = tmp_path / "one" / "zones" / "rich.zone"
    zone.write_text(zone.read_text() + "$GENERATE 1-6000 g$ A 192.0.2.1\n")
    secondary(tmp_path / "two", two, one)
    secondary(tmp_path / "three", three, one, "max-records 6000;")
    with ours(tmp_path / "one", one), ours(tmp_path / "two", two), ours(tmp_path / "three", three):
        eventually(lambda: serial(two) == serial(one), lambda: log(tmp_path / "two"))
        assert content(two) == content(one)
        eventually(lambda: "too many records" in log(tmp_path / "three"))
        for kind in ("SOA", "NS", "A", "DS", "ANY"):
            for name in ("rich.test", "below.rich.test"):
                assert "status: SERVFAIL" in dig(three, "+dnssec", name, kind)
        assert "Traceback" not in log(tmp_path / "three")


TOLD = {
    "notify yes;": {2, 3, 9},
    "notify yes; notify-to-soa yes;": {2, 3, 4, 9},
    "notify explicit;": {9},
    "notify primary-only;": {2, 3, 9},
}


@pytest.fixture
def ears() -> Iterator[tuple[int, dict[int, socket.socket]]]:
    """A port, and who listens on it, by the last number of the address."""
    port = free_port()
    with ExitStack() as stack:
        sockets = {
            number: stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            for number in (2, 3, 4, 9)
        }
        for number, sock in sockets.items():
            sock.bind((f"127.0.0.{number}", port))
            sock.settimeout(0)
        yield port, sockets


@pytest.mark.parametrize("name", list(SERVERS))
def test_who_is_told(tmp_path: Path, name: str, ears: tuple[int, dict[int, socket.socket]]) -> None:
    """The zone's name servers but its primary one and ourselves, and `also-notify`; with the right key."""
    port, sockets = ears
    zone = "$TTL 60\n@ SOA ns4 h 5 60 60 600 60\n"
    zone += "".join(f"@ NS ns{number}\nns{number} A 127.0.0.{number}\n" for number in (1, 2, 3, 4))
    keyring = dns.tsigkeyring.from_text({"k": ("hmac-sha256", SECRET)})
    for turn, (how, expected) in enumerate(TOLD.items()):
        text = f"""{KEY} server 127.0.0.2 {{ keys k; notify-source 127.0.0.7; }};
        zone "told.test" {{ type master; file "zones/told.zone"; {how} also-notify {{ 127.0.0.9 key k; }}; }};"""
        root = configure(tmp_path / str(turn), port, f"recursion no; port {port};", text)
        conf = root / "named.conf"
        conf.write_text(conf.read_text().replace("notify no;", "", 1))
        (root / "zones" / "told.zone").write_text(zone)
        told: dict[int, tuple[str, str | None]] = {}
        with SERVERS[name](root, port):
            deadline = time.monotonic() + 30
            while told.keys() < expected:
                assert time.monotonic() < deadline, (how, told, log(root))
                time.sleep(0.05)
                for number, sock in sockets.items():
                    for data, peer in _waiting(sock):
                        message = dns.message.from_wire(data, keyring=keyring)
                        assert message.opcode() == dns.opcode.NOTIFY
                        assert message.flags & dns.flags.AA
                        assert [str(rrset) for rrset in message.answer] == [
                            "told.test. 0 IN SOA ns4.told.test. h.told.test. 5 60 60 600 60"
                        ]
                        told[number] = (peer[0], str(message.keyname) if message.keyname else None)
        assert told.keys() == expected, how
        assert told[9] == ("127.0.0.1", "k.")
        if 2 in expected:
            assert told[2] == ("127.0.0.7", "k.")
            assert told[3] == ("127.0.0.1", None)
        for sock in sockets.values():
            list(_waiting(sock))


def _waiting(sock: socket.socket) -> Iterator[tuple[bytes, tuple[str, int]]]:
    try:
        while True:
            yield sock.recvfrom(4096)
    except BlockingIOError:
        return
