"""The signatures of large zones, made on the side by a child process, so that answers find them ready.

A zone is in service as soon as it is loaded: what nobody has signed yet is signed for the first answer that
carries it (`mailstack.dns.signing`). Meanwhile a forked child, which has the zone as it is, signs everything
once and writes the sets as they are kept (`mailstack.dns.packed`) into a pipe; the event loop takes them some
hundred at a time: first those that answer questions, then the proofs. A zone that changes has other
signatures: its child is ended, and another one begins when the zone has been left alone for a while. The
child has none of the server's sockets and ends with the pipe, so that a server that is killed leaves nothing
behind.

Zones of fewer than `LEAST` names are not worth a process. The child's signatures and those that the server
makes meanwhile are all right, and which one is kept does not matter; their nonces differ, because OpenSSL
seeds its generator anew after a fork.
"""

from __future__ import annotations

import asyncio
import gc
import marshal
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn

from mailstack.dns import packed
from mailstack.dns.chains import Nsec, Nsec3, is_occluded
from mailstack.dns.plainlines import Nodes, type_of
from mailstack.dns.zone import AAAA, NSEC, A, Node, RRset, Zone
from mailstack.net.log import Log

if TYPE_CHECKING:
    from mailstack.dns.signing import Signer

LEAST: Final = 2000
"""Names of the smallest zone that is signed ahead."""
FRAME: Final = 256
"""Names in one piece of the child's work: some 10 ms of its time, a fraction of one of the server's."""
QUIET: Final = 2.0
"""Seconds that a changed zone is left alone before all of it is signed again; at least `SHARE` times as long
as the last time has taken, so that updates do not keep a processor busy."""
SHARE: Final = 10
_AGAIN: Final = 0.05
"""Seconds between looks after a child that has been killed."""
_PIPE: Final = 1 << 16
_ADDRESSES: Final = frozenset((A, AAAA))
_MAY_PACK: Final = _ADDRESSES | {NSEC}

_SETS, _HELD, _PROOFS, _HASHES, _DONE = range(5)
"""Kinds of frames: the sets of names that are kept packed; signatures only, for the others; NSEC sets of the
former; NSEC3 sets; the end (its number is not zero where it has come too early)."""
_Frame = tuple[int, int, list[bytes]]
"""The kind, the number of the first name or proof, and the octets for each; empty where there are none."""


class Work:
    """What there is to sign in one generation of a zone. Names and proofs are numbered in their order."""

    def __init__(self, zone: Zone, signer: Signer) -> None:
        self.zone = zone
        self.signer = signer
        self._names = list(zone.nodes)

    # ---- the child

    def frames(self) -> Iterator[_Frame]:
        """Everything, signed; the zone is left as it is."""
        names, chain = self._names, self.signer.chain
        for start in range(0, len(names), FRAME):
            piece = names[start : start + FRAME]
            hosts = [self._is_host(name) for name in piece]
            for kind, make, which in ((_SETS, self._sets, True), (_HELD, self._signatures, False)):
                if which in hosts:
                    made = [
                        make(name) if one is which else b"" for name, one in zip(piece, hosts, strict=True)
                    ]
                    yield kind, start, made
        if isinstance(chain, Nsec3):
            for start in range(0, len(chain), FRAME):
                numbers = range(start, min(start + FRAME, len(chain)))
                yield _HASHES, start, [self._hash(number) for number in numbers]
        else:
            for start in range(0, len(names), FRAME):
                yield _PROOFS, start, [self._proof(name) for name in names[start : start + FRAME]]
        yield _DONE, 0, []

    def _is_host(self, name: bytes) -> bool:
        """Whether a name may stand in the zone as packed sets."""
        nodes = self.zone.nodes
        value: Any = dict.get(nodes, name)
        if isinstance(value, bytes):
            return packed.is_packed(value) or type_of(value) in _ADDRESSES
        if not isinstance(nodes, Nodes) or value.owner != name or name.startswith(b"\1*"):
            return False
        return not _ADDRESSES.isdisjoint(value.rrsets) and _MAY_PACK.issuperset(value.rrsets)

    def _sets(self, name: bytes) -> bytes:
        if is_occluded(self.zone, name):
            return b""
        rrsets = _peek(self.zone, name).rrsets.values()
        return packed.MARK + b"".join(self._signed(name, rrset) for rrset in rrsets if rrset.rdtype != NSEC)

    def _signatures(self, name: bytes) -> bytes:
        """Signatures over the sets of a name, its NSEC record's among them."""
        rrsets = {rdtype: rrset for rdtype, rrset in _peek(self.zone, name).rrsets.items() if rdtype != NSEC}
        proof = self._nsec(name)
        if proof is not None:
            rrsets[NSEC] = proof
        found = [
            packed.pack_set(rrset.rdtype, (), _records(self.signer.sign(name, rrset)))
            for rrset in rrsets.values()
            if self.signer.covers(name, rrset)
        ]
        return packed.MARK + b"".join(found) if found else b""

    def _nsec(self, name: bytes) -> RRset | None:
        chain = self.signer.chain
        number = chain.index(name) if isinstance(chain, Nsec) else None
        return None if number is None else chain.record(number)[1]

    def _proof(self, name: bytes) -> bytes:
        proof = self._nsec(name) if self._is_host(name) else None
        return b"" if proof is None else self._signed(name, proof)

    def _hash(self, number: int) -> bytes:
        owner, rrset = self.signer.chain.record(number)
        return packed.MARK + self._signed(owner, rrset)

    def _signed(self, name: bytes, rrset: RRset) -> bytes:
        return packed.pack_set(rrset.rdtype, _records(rrset), _records(self.signer.sign(name, rrset)))

    # ---- the server

    @property
    def is_wanted(self) -> bool:
        """Whether the zone still has the signatures of that generation."""
        return self.zone.signer is self.signer

    def take(self, frame: _Frame) -> None:
        """Put a piece of the child's work into the zone."""
        kind, start, found = frame
        nodes: dict[bytes, Any] = self.zone.nodes
        chain = self.signer.chain
        if isinstance(chain, Nsec3) and kind == _HASHES:
            hashes: dict[bytes, Any] = self.zone.hashes
            for number, value in enumerate(found, start):
                dict.__setitem__(hashes, chain.owner(number), value)
            return
        for name, value in zip(self._names[start : start + len(found)], found, strict=True):
            if not value:
                continue
            if kind == _HELD:
                self.signer.hold(name, value)
            elif kind == _SETS:
                dict.__setitem__(nodes, name, value)
            else:
                present: Any = dict.get(nodes, name)
                if isinstance(present, Node):  # somebody has asked for it meanwhile
                    present.rrsets.update(packed.node_of(name, packed.MARK + value).rrsets)
                elif packed.is_packed(present):
                    dict.__setitem__(nodes, name, present + value)


def _peek(zone: Zone, name: bytes) -> Node:
    """The node of a name, which stays as it is kept."""
    return zone.nodes.peek(name) if isinstance(zone.nodes, Nodes) else zone.nodes[name]


def _records(rrset: RRset) -> list[bytes]:
    return [packed.record(rrset.rdtype, rrset.ttl, data) for data in rrset.rdatas if isinstance(data, bytes)]


class Child:
    """The process that signs one zone. Raises `OSError` when there can be none."""

    def __init__(self, work: Work) -> None:
        self.descriptor, out = os.pipe()
        try:
            self.pid = os.fork()
        except OSError:
            os.close(self.descriptor)
            os.close(out)
            raise
        if self.pid == 0:
            _sign_all(work, out)
        os.close(out)
        os.set_blocking(self.descriptor, False)
        self._buffer = b""

    def read(self) -> list[_Frame] | None:
        """What has come, without waiting; None when the child has ended."""
        try:
            data = os.read(self.descriptor, _PIPE)
        except BlockingIOError:
            return []
        if not data:
            return None
        buffer = self._buffer + data
        found: list[_Frame] = []
        start = 0
        while len(buffer) >= start + 4:
            end = start + 4 + int.from_bytes(buffer[start : start + 4], "big")
            if len(buffer) < end:
                break
            found.append(marshal.loads(memoryview(buffer)[start + 4 : end]))  # noqa: S302 - it is our own child
            start = end
        self._buffer = buffer[start:]
        return found

    def end(self) -> None:
        """It is needed no more. It is a zombie until `is_gone`."""
        os.close(self.descriptor)
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def is_gone(self, *, wait: bool = False) -> bool:
        """Whether the process has ended and is nothing any more."""
        try:
            return os.waitpid(self.pid, 0 if wait else os.WNOHANG)[0] != 0
        except ChildProcessError:
            return True


def _sign_all(work: Work, out: int) -> NoReturn:
    """The child: sign, write, end."""
    status = 1
    try:
        gc.disable()  # it would touch, and so copy, every object of the server's
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(null, standard)
        for descriptor in _open():
            if descriptor > 2 and descriptor != out:
                with suppress(OSError):  # the one that has listed them is closed already
                    os.close(descriptor)
        with suppress(OSError, AttributeError):  # a server with real-time priority keeps that for itself
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        for frame in work.frames():
            data = marshal.dumps(frame)
            data = len(data).to_bytes(4, "big") + data
            while data:
                data = data[os.write(out, data) :]
        status = 0
    finally:
        os._exit(status)


def _open() -> list[int]:
    """The descriptors that are open; the limit on their number may be a thousand million."""
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return list(range(3, min(os.sysconf("SC_OPEN_MAX"), 1 << 16)))


class Ahead:
    """Zones that wait to be signed, and the one that is: one after the other, on one processor."""

    def __init__(self, log: Log) -> None:
        self._log = log.category("dnssec")
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, tuple[Zone, Signer, float]] = {}
        """By the zone's name; with the time of the event loop from when on."""
        self._took: dict[str, float] = {}
        """Seconds that the last time has taken."""
        self._under_way: tuple[str, Work, Child, float] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._killed: list[Child] = []

    def start(self, zones: Mapping[str, Zone]) -> None:
        """These are the zones in service: after the start, and after a reload."""
        for name in self._waiting.keys() - zones.keys():
            del self._waiting[name]
        if self._under_way is not None and self._under_way[0] not in zones:
            self._stop()
        for name, zone in zones.items():
            self._want(name, zone, 0.0)
        self._go_on()

    def changed(self, name: str, zone: Zone) -> None:
        """A zone has been updated, or has a new generation of signatures."""
        self._want(name, zone, max(QUIET, SHARE * self._took.get(name, 0.0)))
        self._go_on()

    def close(self) -> None:
        """The server ends."""
        self._waiting.clear()
        self._stop()
        for child in self._killed:
            child.is_gone(wait=True)
        self._killed.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _want(self, name: str, zone: Zone, delay: float) -> None:
        if self._under_way is not None and self._under_way[0] == name:
            if self._under_way[1].zone is zone and self._under_way[1].is_wanted:
                return
            self._stop()
        self._waiting.pop(name, None)
        if zone.signer is not None and len(zone.nodes) >= LEAST:
            self._waiting[name] = (zone, zone.signer, self._loop.time() + delay)

    def _go_on(self) -> None:
        """Begin what is due, if nothing is under way; look again when there is something to do."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._killed = [child for child in self._killed if not child.is_gone()]
        again = [_AGAIN] if self._killed else []
        if self._under_way is None and self._waiting:
            name = min(self._waiting, key=lambda name: self._waiting[name][2])
            zone, signer, due = self._waiting[name]
            wait = due - self._loop.time()
            if wait <= 0:
                del self._waiting[name]
                self._begin(name, Work(zone, signer))
            again.append(max(wait, _AGAIN))
        if again:
            self._timer = self._loop.call_later(min(again), self._go_on)

    def _begin(self, name: str, work: Work) -> None:
        if not work.is_wanted:
            return
        try:
            child = Child(work)
        except OSError as error:
            self._log.warning(f"zone {name or '.'}/IN: not signed ahead: {error.strerror}")
            return
        self._under_way = name, work, child, self._loop.time()
        self._loop.add_reader(child.descriptor, self._readable)

    def _readable(self) -> None:
        assert self._under_way is not None
        name, work, child, begun = self._under_way
        shown = f"zone {name or '.'}/IN"
        frames = child.read() if work.is_wanted else [(_DONE, 1, [])]
        if frames is None:
            self._log.warning(f"{shown}: signing ahead has failed: the rest is signed when asked for")
            frames = [(_DONE, 1, [])]
        for frame in frames:
            if frame[0] != _DONE:
                work.take(frame)
                continue
            if frame[1] == 0:
                took = self._took[name] = self._loop.time() - begun
                self._log.info(f"{shown}: all signatures made in {took:.1f} s")
            self._stop()
            self._go_on()

    def _stop(self) -> None:
        if self._under_way is not None:
            _, _, child, _ = self._under_way
            self._loop.remove_reader(child.descriptor)
            child.end()
            self._killed.append(child)
            self._under_way = None
