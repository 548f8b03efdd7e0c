"""Stand-ins for the three servers: `python fakes.py SERVICE STATE` answers its protocols on the ports of a table.

`STATE/fake.json`: {"listen": {PROTOCOL: [ADDRESS, PORT]}, "behave": {SERVICE: WORD}}; WORD is empty, `exit` (fails
at once), `config` (status 78), `mute` (listens, says nothing), `slow` (answers for a while after SIGTERM) or `deaf`
(ignores SIGTERM).
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import ssl
import struct
import sys

OWNER = {
    "smtp": "mta", "submission": "mta", "submissions": "mta", "lmtp": "mailbox", "imap": "mailbox",
    "imaps": "mailbox", "pop3": "mailbox", "pop3s": "mailbox", "dns": "dns",
}  # fmt: skip
GREETING = {"imap": b"* OK ready\r\n", "pop3": b"+OK ready\r\n"}


def dns_answer(query: bytes) -> bytes:
    """An authoritative answer with one (empty) record, as far as a header tells."""
    return query[:2] + struct.pack(">5H", 0x8400, 1, 1, 0, 0) + query[12:]


def serve(service: str, base: str) -> None:
    with open(f"{base}/fake.json") as file:
        table = json.load(file)
    behaviour = table["behave"].get(service, "")
    print(f"{service} started", file=sys.stderr, flush=True)
    if behaviour == "exit":
        sys.exit("fatal: the roof is on fire")
    if behaviour == "config":
        print("fatal: main.cf:3: nonsense", file=sys.stderr)
        sys.exit(78)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if behaviour == "deaf" else lambda *_: os._exit(0))
    if behaviour == "slow":
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        signal.signal(signal.SIGTERM, lambda *_: signal.setitimer(signal.ITIMER_REAL, 0.5))
    signal.signal(signal.SIGHUP, lambda *_: print(f"{service} reloaded", file=sys.stderr, flush=True))
    sockets: dict[int, tuple[str, socket.socket]] = {}
    for protocol, (address, port) in table["listen"].items():
        if OWNER[protocol] != service:
            continue
        listener = socket.create_server((address, port))
        sockets[listener.fileno()] = (protocol, listener)
        if protocol == "dns":
            datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            datagrams.bind((address, port))
            sockets[datagrams.fileno()] = ("udp", datagrams)
    while True:
        for fd in select.select(list(sockets), [], [])[0]:
            protocol, sock = sockets[fd]
            if protocol == "udp":
                query, peer = sock.recvfrom(512)
                sock.sendto(dns_answer(query), peer)
            elif behaviour != "mute":
                converse(protocol, sock.accept()[0], base)


def converse(protocol: str, connection: socket.socket, base: str) -> None:
    connection.settimeout(2)
    try:
        if protocol in ("submissions", "imaps", "pop3s"):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(f"{base}/tls/cert.pem", f"{base}/tls/key.pem")
            connection = context.wrap_socket(connection, server_side=True)
            protocol = protocol.removesuffix("s")
        if protocol == "dns":
            data = connection.recv(512)
            answer = dns_answer(data[2:])
            connection.sendall(struct.pack(">H", len(answer)) + answer)
        elif protocol in GREETING:
            connection.sendall(GREETING[protocol])
            connection.recv(512)
        else:
            connection.sendall(b"220-fake\r\n220 ready\r\n")
            connection.recv(512)
            connection.sendall(b"250-fake\r\n250 SIZE\r\n")
            connection.recv(512)
    except OSError:
        pass
    connection.close()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])
