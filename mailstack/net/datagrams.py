"""Datagrams by the dozen: recvmmsg(2) and sendmmsg(2), which the standard library does not have.

A datagram that is received and answered by `recvfrom` and `sendto` costs two system calls, and an address
that is made into a tuple of text and back. Here a call moves up to `COUNT` of them, and addresses stay where
the kernel has put them.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import sys
from collections.abc import Callable, Iterable, Sequence

SLOT = 4096
"""Octets of a datagram; what a longer one has more is cut off."""
COUNT = 64
"""Datagrams for each call."""
_ADDRESS = 32
"""Octets for an address: 16 are used for IPv4, 28 for IPv6."""
_FULL = (errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS)

Answer = Callable[[bytes, int], bytes | None]
"""Makes the answer to a datagram; the number is for `Batch.peer`. None: nothing is sent."""

Choose = Callable[[Sequence[bytes]], Iterable[int]]
"""The numbers, going up, of those to be answered, by their senders: the port, two octets, and the address."""


class _Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """struct mmsghdr, with the struct msghdr that it begins with."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vector", ctypes.c_void_p),
        ("vectors", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("padding", ctypes.c_char * (ctypes.sizeof(ctypes.c_void_p) - 4)),
        ("moved", ctypes.c_uint),
    )


_STEP = ctypes.sizeof(_Header)


class _Buffer:
    """Octets at a place that the kernel is told."""

    def __init__(self, size: int) -> None:
        self.octets = bytearray(size)
        self.view = memoryview(self.octets)
        self.at = ctypes.addressof((ctypes.c_char * size).from_buffer(self.octets))


class _Shared:
    """What all sockets of a process use in turn."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        self.receive, self.send = library.recvmmsg, library.sendmmsg
        pointer, number = ctypes.c_void_p, ctypes.c_uint
        self.receive.argtypes = [ctypes.c_int, pointer, number, ctypes.c_int, pointer]
        self.send.argtypes = [ctypes.c_int, pointer, number, ctypes.c_int]
        self.inbox, self.outbox = _Buffer(COUNT * SLOT), _Buffer(COUNT * SLOT)


_shared: _Shared | None = None


def batch_of(sock: socket.socket) -> Batch | None:
    """The socket's datagrams in batches; None where the system has no such calls."""
    global _shared
    if _shared is None:
        if not sys.platform.startswith("linux"):
            return None
        try:
            _shared = _Shared()
        except (OSError, AttributeError):
            return None
    return Batch(sock, _shared)


class Batch:
    """The datagrams of one socket that does not block. Not for threads: batches share their buffers."""

    def __init__(self, sock: socket.socket, shared: _Shared) -> None:
        self._sock = sock
        self._shared = shared
        self._six = sock.family == socket.AF_INET6
        self._end = 24 if self._six else 8
        """Of an address: what follows it is always the same, or nothing."""
        self._addresses = _Buffer(COUNT * _ADDRESS)
        self._in, self._room = self._headers(shared.inbox)
        self._out, vectors = self._headers(shared.outbox)
        self._lengths = self._in.view.cast("I")[_Header.moved.offset // 4 :: _STEP // 4]
        """Of what has come."""
        self._sizes = vectors.view.cast("L")[1::2]
        """Of what goes out."""

    def _headers(self, box: _Buffer) -> tuple[_Buffer, _Buffer]:
        headers, vectors = _Buffer(COUNT * _STEP), _Buffer(COUNT * ctypes.sizeof(_Vector))
        size = 28 if self._six else 16
        for index in range(COUNT):
            name, vector = self._addresses.at + index * _ADDRESS, vectors.at + index * ctypes.sizeof(_Vector)
            ctypes.memmove(vector, bytes(_Vector(box.at + index * SLOT, SLOT)), ctypes.sizeof(_Vector))
            ctypes.memmove(headers.at + index * _STEP, bytes(_Header(name, size, vector, 1)), _STEP)
        return headers, vectors

    def peer(self, index: int) -> tuple[str, int]:
        """The sender of a datagram of this batch, before the next one is answered."""
        at = index * _ADDRESS
        octets = self._addresses.octets
        port = int.from_bytes(octets[at + 2 : at + 4], "big")
        if not self._six:
            return socket.inet_ntop(socket.AF_INET, octets[at + 4 : at + 8]), port
        host = socket.inet_ntop(socket.AF_INET6, octets[at + 8 : at + 24])
        scope = int.from_bytes(octets[at + 24 : at + 28], sys.byteorder)
        return (f"{host}%{_interface(scope)}" if scope else host), port

    def sender(self, index: int) -> bytes:
        """The sender of a datagram of this batch as octets: its port, and its address."""
        at = index * _ADDRESS
        return self._addresses.view[at + 2 : at + self._end].tobytes()

    def _senders(self, came: int) -> list[bytes]:
        octets, end = self._addresses.view[: came * _ADDRESS].tobytes(), self._end
        return [octets[at + 2 : at + end] for at in range(0, came * _ADDRESS, _ADDRESS)]

    def exchange(self, answer: Answer, choose: Choose | None = None) -> int:
        """Receive what is there, answer it, and send the answers; how many datagrams have come.

        `choose` says which of them are answered, all when there is none. Answers that the socket does not
        take are dropped, as the network might have done.
        """
        shared = self._shared
        came = shared.receive(self._sock.fileno(), self._in.at, COUNT, socket.MSG_DONTWAIT, None)
        lengths, sizes = self._lengths, self._sizes
        inbox, outbox = shared.inbox.view, shared.outbox.view
        used = 0
        for index in range(came) if choose is None or came < 1 else choose(self._senders(came)):
            start = index * SLOT
            reply = answer(inbox[start : start + lengths[index]].tobytes(), index)
            if reply is None:
                continue
            size = len(reply)
            if size > SLOT:
                self._send_alone(reply, index)
                continue
            start = used * SLOT
            outbox[start : start + size] = reply
            sizes[used] = size
            if used != index:
                self._move_address(index, used)
            used += 1
        if used:
            self._send(used)
        return int(came)

    def _send(self, count: int) -> None:
        send, fd, at = self._shared.send, self._sock.fileno(), self._out.at
        done = 0
        while done < count:
            sent = send(fd, at + done * _STEP, count - done, socket.MSG_DONTWAIT)
            if sent < 0:
                if ctypes.get_errno() in _FULL:
                    return
                sent = 1  # nobody can be reached there: the others can
            done += sent

    def _send_alone(self, reply: bytes, index: int) -> None:
        try:
            self._sock.sendto(reply, self.peer(index))
        except OSError:
            pass

    def _move_address(self, index: int, to: int) -> None:
        """An answer's address, in the place of one that needs no answer."""
        octets = self._addresses.octets
        octets[to * _ADDRESS : (to + 1) * _ADDRESS] = octets[index * _ADDRESS : (index + 1) * _ADDRESS]


def _interface(scope: int) -> str:
    try:
        return socket.if_indextoname(scope)
    except OSError:
        return str(scope)
