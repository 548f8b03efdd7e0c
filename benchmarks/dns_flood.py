"""A flood of random names against a DNS server, and how many legitimate questions are answered meanwhile."""

from __future__ import annotations

import secrets
import socket
import struct
import threading
import time

import dns.exception
import dns.message
import dns.query

WAIT = 1.0
"""Seconds that a legitimate client waits for its answer; it asks once."""
PAUSE = 0.005


def flooded(port: int, question: str, seconds: float) -> tuple[float, float]:
    """The share of legitimate questions (`NAME TYPE`) that were answered, and the flood's own a second."""
    name, rdtype = question.split()
    stop = threading.Event()
    sent = [0]
    flood = threading.Thread(target=_flood, args=(port, stop, sent))
    flood.start()
    asked = answered = 0
    begun = time.monotonic()
    try:
        while time.monotonic() - begun < seconds:
            asked += 1
            try:
                reply = dns.query.udp(
                    dns.message.make_query(name, rdtype), "127.0.0.1", port=port, timeout=WAIT
                )
                answered += bool(reply.answer)
            except (OSError, dns.exception.DNSException):
                pass
            time.sleep(PAUSE)
    finally:
        elapsed = time.monotonic() - begun
        stop.set()
        flood.join()
    return answered / asked, sent[0] / elapsed


def _flood(port: int, stop: threading.Event, sent: list[int]) -> None:
    head = struct.pack("!6H", 1, 0, 1, 0, 0, 0)
    tail = b"\4rich\4test\0" + struct.pack("!HH", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(("127.0.0.1", port))
        while not stop.is_set():
            try:
                sock.send(head + b"\x10" + secrets.token_hex(8).encode() + tail)
                sent[0] += 1
            except OSError:
                pass  # the socket is full, or nobody is there
