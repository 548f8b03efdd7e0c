"""Readiness: ask each service a question of its own protocol and look at the answer.

Listening is not ready: SMTP and LMTP must greet with 220 and answer EHLO or LHLO, IMAP must greet with
`* OK`, POP3 with `+OK`, a port that begins with TLS must shake hands with a certificate that the stack's
authority vouches for, and DNS must answer the primary domain's SOA authoritatively over UDP and over TCP
(unless it is to give wrong answers).

Nothing here imports asyncio: a probe is a few blocking calls, and one thread per service asks its ports one
after the other (they come up together, so the first one takes all the waiting).
"""

from __future__ import annotations

import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailstack.runtime.model import OWNER, TLS_FROM_START, ServiceKey

if TYPE_CHECKING:
    import ssl

ATTEMPT = 3.0
"""Seconds that one question may take."""
POLL_FAST = 0.004
POLL_SLOW = 0.025
FAST_FOR = 1.5
"""Seconds of fast polling: a healthy service is up long before."""
DNS_RESEND = 0.05
FAREWELL = 0.1
_LIMIT = 64 * 1024


class ProbeError(Exception):
    """The answer is not what a usable service gives."""


@dataclass(frozen=True, slots=True)
class Target:
    """One port to ask."""

    protocol: str
    """A name of `model.PORT_NAMES`."""
    host: str
    port: int

    @property
    def service(self) -> ServiceKey:
        return OWNER[self.protocol]

    def __str__(self) -> str:
        return f"{self.protocol} at {self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Expected:
    """What the answers are checked against."""

    domain: str
    """The primary domain: its SOA is asked for."""
    hostname: str
    """The name that certificates must carry."""
    tls: ssl.SSLContext | None
    """For the ports that begin with TLS; None when TLS is off."""
    faults: bool = False
    """The name server gives wrong answers on purpose: it is ready when it takes connections."""


def tls_context(ca_file: str | None, *, verify: bool = True) -> ssl.SSLContext:
    """A client context that trusts `ca_file`, or only encrypts with `verify` False."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_file is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(ca_file)
    return context


def probe(target: Target, expected: Expected, timeout: float) -> None:
    """Ask once. Raises `ProbeError` or `OSError` (refused, time-out, TLS) when the service is not usable."""
    deadline = time.monotonic() + timeout
    if target.protocol == "dns" and expected.faults:
        socket.create_connection((target.host, target.port), timeout=timeout).close()
        return
    if target.protocol == "dns":
        _dns_udp(target, expected.domain, deadline)
        _dns_tcp(target, expected.domain, deadline)
        return
    with socket.create_connection((target.host, target.port), timeout=timeout) as raw:
        if target.protocol in TLS_FROM_START:
            if expected.tls is None:
                raise ProbeError("TLS is off")
            with expected.tls.wrap_socket(raw, server_hostname=expected.hostname) as secured:
                _converse(secured, target.protocol, deadline)
        else:
            _converse(raw, target.protocol, deadline)


def wait_ready(
    targets: Sequence[Target],
    expected: Expected,
    *,
    timeout: float,
    on_ready: Callable[[ServiceKey], None],
    check: Callable[[], None],
    check_every: float = 0.02,
) -> dict[ServiceKey, str]:
    """Ask every target until all answer. Returns what is still wrong after `timeout`: service -> reason.

    `on_ready` is called (on this thread) when all of a service's ports answer. `check` is called every
    `check_every` seconds and may raise to end the waiting: that is where an early exit is noticed.
    """
    by_service: dict[ServiceKey, list[Target]] = {}
    for target in targets:
        by_service.setdefault(target.service, []).append(target)
    deadline = time.monotonic() + timeout
    stop = threading.Event()
    changed = threading.Condition()
    done: list[ServiceKey] = []
    trouble: dict[ServiceKey, str] = {}

    def ask(service: ServiceKey) -> None:
        began = time.monotonic()
        for target in by_service[service]:
            while True:
                left = deadline - time.monotonic()
                if stop.is_set() or left <= 0:
                    trouble.setdefault(service, f"{target} was not asked in time")
                    return
                try:
                    probe(target, expected, min(ATTEMPT, left))
                    trouble.pop(service, None)
                    break
                except (ProbeError, OSError) as error:
                    trouble[service] = f"{target}: {_words(error)}"
                fast = time.monotonic() - began < FAST_FOR
                stop.wait(POLL_FAST if fast else POLL_SLOW)
        with changed:
            done.append(service)
            changed.notify()

    threads = [
        threading.Thread(target=ask, args=(service,), name=f"probe-{service}", daemon=True)
        for service in by_service
    ]
    for thread in threads:
        thread.start()
    told = 0
    try:
        while True:
            with changed:
                if len(done) == told:
                    changed.wait(check_every)
                fresh = done[told:]
            told += len(fresh)
            for service in fresh:
                on_ready(service)
            if told == len(by_service):
                return {}
            check()
            if time.monotonic() >= deadline:
                return {s: trouble.get(s, "no answer") for s in by_service if s not in done}
    finally:
        stop.set()


def ask_all(targets: Sequence[Target], expected: Expected, timeout: float) -> Mapping[Target, str]:
    """Ask every target once, all at the same time; target -> what is wrong, for those that are not usable."""
    wrong: dict[Target, str] = {}

    def ask(target: Target) -> None:
        try:
            probe(target, expected, timeout)
        except (ProbeError, OSError) as error:
            wrong[target] = _words(error)

    threads = [threading.Thread(target=ask, args=(target,), daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    end = time.monotonic() + timeout + 0.5
    for thread, target in zip(threads, targets, strict=True):
        thread.join(max(0.0, end - time.monotonic()))
        if thread.is_alive():
            wrong.setdefault(target, "no answer in time")
    return wrong


# ---- the conversations


def _converse(connection: socket.socket, protocol: str, deadline: float) -> None:
    reader = _Lines(connection, deadline)
    match protocol:
        case "imap" | "imaps":
            _expect(reader.line(), b"* OK")
            connection.sendall(b"p LOGOUT\r\n")
        case "pop3" | "pop3s":
            _expect(reader.line(), b"+OK")
            connection.sendall(b"QUIT\r\n")
        case _:
            _expect(reader.reply(), b"220")
            hello = b"LHLO" if protocol == "lmtp" else b"EHLO"
            connection.sendall(hello + b" localhost\r\n")
            _expect(reader.reply(), b"250")
            connection.sendall(b"QUIT\r\n")
    reader.rest()


def _expect(line: bytes, start: bytes) -> None:
    if not line.startswith(start):
        raise ProbeError(f"said {line[:80].decode(errors='replace')!r}")


class _Lines:
    """A peer's lines, with one deadline for all of them."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline
        self._buffer = b""

    def line(self) -> bytes:
        while b"\n" not in self._buffer:
            self._more()
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.rstrip(b"\r")

    def reply(self) -> bytes:
        """The last line of an SMTP reply (RFC 5321 §4.2.1: `250-` goes on, `250 ` ends)."""
        while True:
            line = self.line()
            if line[3:4] != b"-":
                return line

    def rest(self) -> None:
        """Read to the end, so that the peer logs an orderly close; never waited for long."""
        self._deadline = min(self._deadline, time.monotonic() + FAREWELL)
        try:
            while self._receive():
                pass
        except OSError:
            pass

    def _more(self) -> None:
        data = self._receive()
        if not data:
            raise ProbeError("closed the connection")
        self._buffer += data
        if len(self._buffer) > _LIMIT:
            raise ProbeError("talks without end")

    def _receive(self) -> bytes:
        self._connection.settimeout(max(0.001, self._deadline - time.monotonic()))
        return self._connection.recv(4096)


# ---- DNS (RFC 1035 §4): asked by hand, because dnspython takes longer to import than the server to start


def soa_query(domain: str, ident: int) -> bytes:
    """A question for `domain`'s SOA (lower-case A-labels)."""
    name = b"".join(bytes([len(label)]) + label for label in domain.encode("ascii").split(b"."))
    return struct.pack(">6H", ident, 0, 1, 0, 0, 0) + name + b"\0" + struct.pack(">2H", 6, 1)


def check_soa(answer: bytes, ident: int) -> None:
    """Raise `ProbeError` unless `answer` is an authoritative NOERROR with an answer record."""
    if len(answer) < 12:
        raise ProbeError("the answer is too short")
    got, flags, _, records, _, _ = struct.unpack(">6H", answer[:12])
    if got != ident or not flags & 0x8000:
        raise ProbeError("this is not an answer to the question")
    if flags & 0x000F or not flags & 0x0400 or not records:
        raise ProbeError(f"no authoritative SOA (rcode {flags & 15}, {records} records)")


def serial_of(answer: bytes, ident: int) -> int:
    """The serial in an answer to `soa_query`. Raises `ProbeError` when there is none."""
    check_soa(answer, ident)
    try:
        place = _after_name(answer, _after_name(answer, 12) + 4)
        kind, _, _, _ = struct.unpack_from(">HHIH", answer, place)
        if kind != 6:
            raise ProbeError("the answer is no SOA")
        place = _after_name(answer, _after_name(answer, place + 10))
        return int(struct.unpack_from(">I", answer, place)[0])
    except (IndexError, struct.error) as error:
        raise ProbeError("the answer is cut off") from error


def _after_name(message: bytes, place: int) -> int:
    while message[place]:
        if message[place] >= 0xC0:
            return place + 2
        place += 1 + message[place]
    return place + 1


def serials(host: str, port: int, zones: Iterable[str], timeout: float = 0.5) -> dict[str, int]:
    """The serials of zones, as a server says; left out are those it says nothing of within `timeout` s."""
    found: dict[str, int] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((host, port))
            asked = dict(enumerate(zones, secrets.randbits(15)))
            for ident, zone in asked.items():
                sock.send(soa_query(zone, ident))
            deadline = time.monotonic() + timeout
            while len(found) < len(asked) and (left := deadline - time.monotonic()) > 0:
                sock.settimeout(left)
                answer = sock.recv(4096)
                ident = int.from_bytes(answer[:2], "big")
                if ident not in asked:
                    continue
                try:
                    found[asked[ident]] = serial_of(answer, ident)
                except ProbeError:
                    del asked[ident]
        except OSError:
            pass  # nobody is there, or says nothing
    return found


def _dns_udp(target: Target, domain: str, deadline: float) -> None:
    ident = secrets.randbits(16)
    query = soa_query(domain, ident)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((target.host, target.port))
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise ProbeError("no answer over UDP")
            sock.settimeout(min(DNS_RESEND, left))
            sock.send(query)
            try:
                answer = sock.recv(4096)
            except TimeoutError:
                continue
            check_soa(answer, ident)
            return


def _dns_tcp(target: Target, domain: str, deadline: float) -> None:
    ident = secrets.randbits(16)
    query = soa_query(domain, ident)
    left = max(0.001, deadline - time.monotonic())
    with socket.create_connection((target.host, target.port), timeout=left) as sock:
        sock.sendall(struct.pack(">H", len(query)) + query)
        data = b""
        while len(data) < 2 or len(data) < 2 + struct.unpack(">H", data[:2])[0]:
            more = sock.recv(4096)
            if not more:
                raise ProbeError("closed the TCP connection without an answer")
            data += more
        check_soa(data[2:], ident)


def _words(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
