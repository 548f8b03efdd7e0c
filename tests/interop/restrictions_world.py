"""The world in which restrictions are compared: a DNS of our own, a policy server, and clients with addresses."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

CLIENT, FORGED, NAMELESS, SILENT = "127.0.0.9", "127.0.0.10", "127.0.0.11", "127.0.0.12"
"""A client with a name; one whose name is another's; one without; one whose name servers fail."""
RECORDS = """\
9.0.0.127.in-addr.arpa PTR client.test
10.0.0.127.in-addr.arpa PTR forged.test
client.test A 127.0.0.9
client.test MX 10 mx.client.test
client.test NS ns.good.test
mx.client.test A 127.0.0.50
forged.test A 127.0.0.99
good.test MX 10 mx.good.test
good.test NS ns.good.test
mx.good.test A 127.0.0.60
ns.good.test A 127.0.0.61
sub.good.test A 127.0.0.62
helo.test A 127.0.0.63
null.test MX 0 .
b.test A 127.0.0.64
far.test A 127.0.0.65
9.0.0.127.bl.test A 127.0.0.3
9.0.0.127.bl.test TXT "listed, for tests"
client.test.bl.test A 127.0.0.2
forged.test.bl.test A 127.0.0.2
good.test.bl.test A 127.0.0.4
helo.test.bl.test A 127.0.0.5
far.test.bl.test A 127.0.0.6
9.0.0.127.wl.test A 127.0.1.2
client.test.wl.test A 127.0.1.2
backup.test MX 10 mx.good.test
backup.test MX 20 own.test
primary.test MX 10 own.test
own.test A 127.0.0.1
"""
FAILING = (dns.name.from_text("fail.test"), dns.name.from_text("12.0.0.127.in-addr.arpa"))


def answer(query: dns.message.Message) -> dns.message.Message:
    """What the records say; names below `fail.test` fail."""
    response = dns.message.make_response(query)
    response.flags |= dns.flags.RA | dns.flags.AA
    question = query.question[0]
    if any(question.name.is_subdomain(name) for name in FAILING):
        response.set_rcode(dns.rcode.SERVFAIL)
        return response
    exists = False
    for line in RECORDS.splitlines():
        owner, kind, data = line.split(" ", 2)
        name = dns.name.from_text(owner)
        if name == question.name and dns.rdatatype.from_text(kind) == question.rdtype:
            rrset = response.find_rrset(response.answer, name, question.rdclass, question.rdtype, create=True)
            for rdata in dns.rrset.from_text(owner + ".", 60, "IN", kind, _absolute(kind, data)):
                rrset.add(rdata, 60)
        exists = exists or name.is_subdomain(question.name)
    if not response.answer:
        soa = dns.rrset.from_text("test.", 60, "IN", "SOA", "ns.test. root.test. 1 60 60 60 60")
        response.authority.append(soa)
        if not exists:
            response.set_rcode(dns.rcode.NXDOMAIN)
    return response


def _absolute(kind: str, data: str) -> str:
    return f"{data}." if kind in ("MX", "PTR", "NS") and not data.endswith(".") else data


@contextmanager
def name_server(address: str) -> Iterator[None]:
    """Answer at `address`, port 53, for the time of the block."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, 53))
        sock.settimeout(0.2)
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                try:
                    data, client = sock.recvfrom(4096)
                except TimeoutError:
                    continue
                sock.sendto(answer(dns.message.from_wire(data)).to_wire(), client)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


class PolicyServer:
    """Answers by the recipient's local part (`dunno` unless it is a key of `actions`), and remembers."""

    actions = {
        "ok": "OK",
        "reject": "REJECT go away",
        "defer": "DEFER_IF_PERMIT later",
        "code": "421 4.7.9 bye",
        "prepend": "PREPEND X-Policy: yes",
        "class": "reject_unauth_destination",
    }

    def __init__(self) -> None:
        self.requests: list[dict[str, str]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._socks: list[socket.socket] = []

    def start(self) -> None:
        thread = threading.Thread(target=self._accept)
        thread.start()
        self._threads.append(thread)

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._socks:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join()
        for sock in self._socks:
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._socks.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock,))
            thread.start()
            self._threads.append(thread)

    def _serve(self, sock: socket.socket) -> None:
        stream = sock.makefile("rb")
        request: dict[str, str] = {}
        try:
            for raw in stream:
                name, equals, value = raw.decode().rstrip("\n").partition("=")
                if equals:
                    request[name] = value
                    continue
                self.requests.append(request)
                action = self.actions.get(request["recipient"].partition("@")[0], "DUNNO")
                sock.sendall(f"action={action}\n\n".encode())
                request = {}
        except OSError:
            pass
        finally:
            stream.close()
