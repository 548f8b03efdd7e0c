"""A before-queue content filter that says what a script wants, and remembers what it was told."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping

DEFAULT = {
    "GREETING": "220 filter.test ESMTP",
    "EHLO": "250-filter.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-DSN\r\n"
    "250 XFORWARD NAME ADDR PROTO HELO SOURCE PORT IDENT",
    "HELO": "250 filter.test",
    "XFORWARD": "250 2.0.0 Ok",
    "MAIL": "250 2.1.0 filter says Ok",
    "RCPT": "250 2.1.5 filter says Ok",
    "DATA": "354 filter waits",
    ".": "250 2.0.0 filter has taken it",
    "RSET": "250 2.0.0 filter Ok",
    "QUIT": "221 2.0.0 filter Bye",
}
HANG_UP = "hang up"


class ScriptedProxy:
    """Listens on a port of its own; `said` has each session's lines, a message's content as one of them."""

    def __init__(self, replies: Mapping[str, str]) -> None:
        self._replies = {**DEFAULT, **replies}
        self.said: list[list[str]] = []
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._sock.getsockname()[1]
        self._closed = False
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        self._closed = True
        self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def settle(self) -> None:
        """Wait until every session is over."""
        for thread in self._threads[1:]:
            thread.join(10)

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection, _ = self._sock.accept()
            except OSError:
                return
            lines: list[str] = []
            self.said.append(lines)
            self._threads.append(threading.Thread(target=self._serve, args=(connection, lines), daemon=True))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket, lines: list[str]) -> None:
        with connection, connection.makefile("rb") as stream:
            connection.settimeout(20)

            def answer(verb: str) -> bool:
                reply = self._replies.get(verb, "500 5.5.2 what?")
                if reply == HANG_UP:
                    return False
                connection.sendall(reply.encode() + b"\r\n")
                return True

            try:
                if not answer("GREETING"):
                    return
                while line := stream.readline():
                    text = line.decode("utf-8", "replace").removesuffix("\r\n")
                    lines.append(text)
                    verb = text.split(" ")[0].upper()
                    # A reply may be for one recipient.
                    exact = next((key for key in self._replies if " " in key and key in text), verb)
                    if not answer(exact) or verb == "QUIT":
                        return
                    if verb == "DATA" and self._replies["DATA"].startswith("3"):
                        content = b""
                        while (line := stream.readline()) not in (b".\r\n", b""):
                            content += line
                        lines.append(content.decode("utf-8", "replace"))
                        if not line or not answer("."):
                            return
            except OSError:
                return
