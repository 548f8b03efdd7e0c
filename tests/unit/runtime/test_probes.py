"""What counts as ready, port by port."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mailstack.runtime import probes, tls
from mailstack.runtime.probes import Expected, ProbeError, Target

PLAIN = Expected("a.test", "mail.a.test", None)


@contextmanager
def server(speak: Callable[[socket.socket], None]) -> Iterator[int]:
    """Accepts one connection and lets `speak` have it; yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    speak(connection)
                except OSError:
                    pass

        thread = threading.Thread(target=run)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def says(*lines: bytes) -> Callable[[socket.socket], None]:
    def speak(connection: socket.socket) -> None:
        for line in lines:
            connection.sendall(line)
            connection.recv(512)

    return speak


@pytest.mark.parametrize(
    ("protocol", "lines"),
    [
        ("smtp", [b"220-hello\r\n220 there\r\n", b"250-x\r\n250 SIZE\r\n", b"221 bye\r\n"]),
        ("lmtp", [b"220 there\r\n", b"250 x\r\n"]),
        ("imap", [b"* OK [CAPABILITY IMAP4rev1] ready\r\n", b"* BYE\r\n"]),
        ("pop3", [b"+OK\r\n"]),
    ],
)
def test_ready(protocol: str, lines: list[bytes]) -> None:
    with server(says(*lines)) as port:
        probes.probe(Target(protocol, "127.0.0.1", port), PLAIN, 5)


@pytest.mark.parametrize(
    ("protocol", "lines", "said"),
    [
        ("smtp", [b"421 too busy\r\n"], "421 too busy"),
        ("smtp", [b"220 hello\r\n", b"502 what\r\n"], "502 what"),
        ("submission", [b"220 hel"], "closed the connection"),
        ("imap", [b"* BYE no\r\n"], "BYE no"),
        ("imap", [b"x" * 70000], "talks without end"),
        ("pop3", [b"-ERR\r\n"], "-ERR"),
        ("imaps", [b"* OK plain text\r\n"], "TLS is off"),
    ],
)
def test_not_ready(protocol: str, lines: list[bytes], said: str) -> None:
    def speak(connection: socket.socket) -> None:
        for line in lines[:-1]:
            connection.sendall(line)
            connection.recv(512)
        connection.sendall(lines[-1])

    with server(speak) as port, pytest.raises(ProbeError, match=said):
        probes.probe(Target(protocol, "127.0.0.1", port), PLAIN, 5)


def test_silence_has_an_end() -> None:
    def listen(connection: socket.socket) -> None:
        connection.recv(1)

    with server(listen) as port, pytest.raises(TimeoutError):
        probes.probe(Target("smtp", "127.0.0.1", port), PLAIN, 0.1)


@pytest.mark.parametrize("name", ["mail.a.test", "mail.b.test"])
def test_certificate_must_be_ours_and_carry_the_name(tmp_path: Path, name: str) -> None:
    tls.ensure(tmp_path, "p", ["mail.a.test"], time.time())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")

    def speak(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            says(b"* OK\r\n")(secured)

    expected = Expected("a.test", name, probes.tls_context(str(tmp_path / "ca.pem")))
    with server(speak) as port:
        if name == "mail.a.test":
            probes.probe(Target("imaps", "127.0.0.1", port), expected, 5)
        else:
            with pytest.raises(ssl.SSLCertVerificationError):
                probes.probe(Target("imaps", "127.0.0.1", port), expected, 5)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "too short"),
        (struct.pack(">6H", 8, 0x8400, 1, 1, 0, 0), "not an answer"),
        (struct.pack(">6H", 7, 0x0400, 1, 1, 0, 0), "not an answer"),
        (struct.pack(">6H", 7, 0x8000, 1, 1, 0, 0), "no authoritative SOA"),
        (struct.pack(">6H", 7, 0x8405, 1, 0, 0, 0), "rcode 5"),
        (struct.pack(">6H", 7, 0x8400, 1, 0, 1, 0), "no authoritative SOA"),
        (struct.pack(">6H", 7, 0x8400, 1, 1, 0, 0), ""),
    ],
)
def test_dns_answers(answer: bytes, said: str) -> None:
    if said:
        with pytest.raises(ProbeError, match=said):
            probes.check_soa(answer, 7)
    else:
        probes.check_soa(answer, 7)


def test_dns_question_is_one_that_dnspython_reads() -> None:
    import dns.message

    question = dns.message.from_wire(probes.soa_query("xn--bcher-kva.test", 4711))
    assert question.id == 4711
    assert str(question.question[0]) == "xn--bcher-kva.test. IN SOA"


def soa_answer(query: bytes, serial: int) -> bytes:
    import dns.flags
    import dns.message
    import dns.rrset

    asked = dns.message.from_wire(query)
    answer = dns.message.make_response(asked)
    answer.flags |= dns.flags.AA
    name = asked.question[0].name
    data = f"dns.{name} postmaster.{name} {serial} 1 2 3 4"
    answer.answer.append(dns.rrset.from_text(name, 60, "IN", "SOA", data))
    return answer.to_wire()


def test_a_serial_is_read_from_what_dnspython_writes() -> None:
    whole = soa_answer(probes.soa_query("a.test", 9), 2024112203)
    assert probes.serial_of(whole, 9) == 2024112203
    for end in range(len(whole) - 16):
        with pytest.raises(ProbeError):
            probes.serial_of(whole[:end], 9)


def test_serials_of_those_that_answer() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def serve() -> None:
            for serial in (1, 2, 3):
                query, client = server.recvfrom(512)
                if serial == 2:
                    server.sendto(query[:2] + b"\x84\x05" + query[4:], client)  # REFUSED
                else:
                    server.sendto(soa_answer(query, serial), client)

        thread = threading.Thread(target=serve)
        thread.start()
        found = probes.serials("127.0.0.1", server.getsockname()[1], ["a.test", "b.test", "c.test"], 30)
        thread.join()
    assert found == {"a.test": 1, "c.test": 3}
    assert probes.serials("127.0.0.1", server_gone(), ["a.test"], 30) == {}


def server_gone() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_everything_is_asked_at_once() -> None:
    with server(says(b"+OK\r\n")) as port:
        good, bad = Target("pop3", "127.0.0.1", port), Target("imap", "127.0.0.1", 1)
        assert probes.ask_all([good, bad], PLAIN, 5) == {bad: "nobody listens"}
