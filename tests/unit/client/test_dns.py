"""Questions and answers, against a server of a few lines."""

from __future__ import annotations

import socket
import threading

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from mailstack.client import dns as client
from mailstack.client.endpoints import Endpoints
from mailstack.client.errors import ClientError


def where(port: int) -> Endpoints:
    return Endpoints(
        domain="x.test", hostname="mail.x.test", host="127.0.0.1", ports={"dns": port}, ca_file=None, tls=False,
        users={},
    )  # fmt: skip


def answer(query: dns.message.Message, *, truncated: bool) -> bytes:
    response = dns.message.make_response(query)
    response.flags |= dns.flags.AA
    if truncated:
        response.flags |= dns.flags.TC
    elif query.question[0].name.to_text() == "x.test.":
        response.answer.append(dns.rrset.from_text("x.test.", 60, "IN", "MX", "10 mail.x.test."))
    else:
        response.set_rcode(dns.rcode.NXDOMAIN)
    return response.to_wire()


def test_an_answer_that_is_truncated_is_asked_for_again_over_tcp() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        tcp.settimeout(10)
        udp.settimeout(10)
        udp.bind(tcp.getsockname())

        def serve() -> None:
            data, peer = udp.recvfrom(4096)
            udp.sendto(answer(dns.message.from_wire(data), truncated=True), peer)
            connection, _ = tcp.accept()
            with connection, connection.makefile("rb") as reader:
                size = int.from_bytes(reader.read(2))
                reply = answer(dns.message.from_wire(reader.read(size)), truncated=False)
                connection.sendall(len(reply).to_bytes(2) + reply)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        found = client.ask(where(tcp.getsockname()[1]), client.question("x.test", "mx"))
        thread.join(10)
    assert found.rcode == "NOERROR"
    assert "AA" in found.flags
    assert found.answers == (client.Record("x.test.", 60, "MX", "10 mail.x.test."),)
    assert (found.name, found.type) == ("x.test.", "MX")


def test_a_datagram_may_be_lost_on_the_way() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(10)
        udp.bind(("127.0.0.1", 0))

        def serve() -> None:
            udp.recvfrom(4096)
            data, peer = udp.recvfrom(4096)
            udp.sendto(answer(dns.message.from_wire(data), truncated=False), peer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        found = client.ask(where(udp.getsockname()[1]), client.question("x.test", "mx"), timeout=6)
        thread.join(10)
    assert found.answers == (client.Record("x.test.", 60, "MX", "10 mail.x.test."),)


def test_silence_is_unreachable() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        with pytest.raises(ClientError, match=r"no answer within 0\.05 s") as caught:
            client.ask(where(udp.getsockname()[1]), client.question("x.test", "A"), timeout=0.05)
    assert caught.value.unreachable


@pytest.mark.parametrize(
    ("name", "kind", "asked"),
    [
        ("x.test", "MX", ("x.test.", "MX")),
        ("127.77.3.4", "PTR", ("4.3.77.127.in-addr.arpa.", "PTR")),
        ("::1", "ptr", ("1." + "0." * 31 + "ip6.arpa.", "PTR")),
        ("4.3.77.127.in-addr.arpa", "PTR", ("4.3.77.127.in-addr.arpa.", "PTR")),
    ],
)
def test_questions(name: str, kind: str, asked: tuple[str, str]) -> None:
    entry = client.question(name, kind).question[0]
    assert (entry.name.to_text(), dns.rdatatype.to_text(entry.rdtype)) == asked


@pytest.mark.parametrize(("name", "kind"), [("x.test", "MXX"), ("x..test", "A"), ("a" * 64 + ".test", "A")])
def test_impossible_questions(name: str, kind: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        client.question(name, kind)


def test_name_and_type_in_either_order() -> None:
    assert client.in_order("x.test", "MX") == ("x.test", "MX")
    assert client.in_order("mx", "x.test") == ("x.test", "mx")
    assert client.in_order("mx", "a") == ("mx", "a")
