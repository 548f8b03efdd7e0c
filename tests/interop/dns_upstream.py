"""A DNS server that says what a test has it say: late, wrong, forged, or nothing. For forwarders to ask."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

Reply = bytes | dns.message.Message | None
Script = Callable[[dns.message.Message, bool], "Reply | Iterable[tuple[float, Reply]]"]
"""A query, and whether it came by TCP; what is said, or several of them, each after so many seconds."""


@dataclass
class Upstream:
    """UDP and TCP on one port, from `with` to its end. `asked` are the questions, in order."""

    script: Script
    port: int
    host: str = "127.0.0.1"
    asked: list[tuple[str, dns.message.Message]] = field(default_factory=list)

    def __enter__(self) -> Upstream:
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind((self.host, self.port))
        self._tcp = socket.create_server((self.host, self.port))
        self._over = False
        for work in (self._datagrams, self._connections):
            threading.Thread(target=work, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        for sock in (self._udp, self._tcp):
            sock.shutdown(socket.SHUT_RDWR) if sock is self._tcp else None
            sock.close()

    def count(self, name: str) -> int:
        """How often a name was asked for."""
        return sum(message.question[0].name.to_text().lower() == name for _, message in self.asked)

    def _datagrams(self) -> None:
        while not self._over:
            try:
                data, peer = self._udp.recvfrom(4096)
            except OSError:
                return
            threading.Thread(target=self._one, args=(data, peer), daemon=True).start()

    def _one(self, data: bytes, peer: tuple[str, int]) -> None:
        for wire in self._said(data, tcp=False):
            try:
                self._udp.sendto(wire, peer)
            except OSError:
                return

    def _connections(self) -> None:
        while not self._over:
            try:
                connection, _ = self._tcp.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as file:
            while len(head := file.read(2)) == 2:
                for wire in self._said(file.read(int.from_bytes(head, "big")), tcp=True):
                    connection.sendall(len(wire).to_bytes(2, "big") + wire)

    def _said(self, data: bytes, *, tcp: bool) -> Iterable[bytes]:
        query = dns.message.from_wire(data)
        self.asked.append(("tcp" if tcp else "udp", query))
        said = self.script(query, tcp)
        if said is None or isinstance(said, bytes | dns.message.Message):
            said = [(0.0, said)]
        for delay, reply in said:
            time.sleep(delay)
            if reply is None:
                continue
            yield reply.to_wire(max_size=65535) if isinstance(reply, dns.message.Message) else reply


def reply(
    query: dns.message.Message,
    answer: Iterable[str] = (),
    authority: Iterable[str] = (),
    additional: Iterable[str] = (),
    rcode: int = 0,
    flags: int = 0,
) -> dns.message.Message:
    """An answer; records are lines `NAME TTL TYPE DATA`, one each."""
    message = dns.message.make_response(query, recursion_available=True, our_payload=1232)
    message.flags |= flags
    message.set_rcode(dns.rcode.Rcode(rcode))
    for section, lines in (
        (message.answer, answer),
        (message.authority, authority),
        (message.additional, additional),
    ):
        for line in lines:
            name, ttl, rdtype, data = line.split(None, 3)
            one = dns.rrset.from_text(name, int(ttl), "IN", rdtype, data)
            for other in section:
                if other.match(one.name, one.rdclass, one.rdtype, one.covers):
                    for rdata in one:
                        other.add(rdata)
                    break
            else:
                section.append(one)
    return message
