"""A server that plays a dialogue: lines beginning `S: ` are sent, `C: ` expected (as a regular expression).

`TLS` shakes hands; `C*` takes everything up to a line that holds a single dot.
"""

from __future__ import annotations

import re
import socket
import ssl
import threading
from contextlib import ExitStack
from pathlib import Path

from mailstack.client.endpoints import Endpoints

HOSTNAME = "mail.example.test"


class Scripted:
    """Serves one connection; `close()` raises what went wrong in it."""

    def __init__(self, dialogue: str, context: ssl.SSLContext | None = None) -> None:
        self._lines = [line.strip() for line in dialogue.splitlines() if line.strip()]
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(20)
        self.port = int(self._listener.getsockname()[1])
        self.content = b""
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            with self._listener:
                connection, _ = self._listener.accept()
            connection.settimeout(20)
            with ExitStack() as closing:
                self._play(connection, closing)
        except BaseException as error:
            self._error = error

    def _play(self, connection: socket.socket, closing: ExitStack) -> None:
        closing.enter_context(connection)
        reader = closing.enter_context(connection.makefile("rb"))
        for line in self._lines:
            if line == "TLS":
                assert self._context is not None
                connection = closing.enter_context(self._context.wrap_socket(connection, server_side=True))
                reader = closing.enter_context(connection.makefile("rb"))
            elif line == "C*":
                while (got := reader.readline()) not in (b".\r\n", b""):
                    self.content += got
            elif line.startswith("S: "):
                connection.sendall(line[3:].encode().decode("unicode_escape").encode("latin-1") + b"\r\n")
            else:
                got = reader.readline()
                assert re.fullmatch(line[3:].encode() + rb"\r\n", got), f"wanted {line!r}, got {got!r}"

    def close(self) -> None:
        """Wait for the end of the dialogue."""
        self._thread.join(20)
        assert not self._thread.is_alive(), "the dialogue did not come to its end"
        if self._error is not None:
            raise self._error


def endpoints(protocol: str, port: int, ca_file: Path | None, hostname: str = HOSTNAME) -> Endpoints:
    """A stack whose only service is the scripted one."""
    return Endpoints(
        domain="example.test",
        hostname=hostname,
        host="127.0.0.1",
        ports={protocol: port},
        ca_file=str(ca_file) if ca_file else None,
        tls=ca_file is not None,
        users={"zs@example.test": "secret", "anna@example.test": "other"},
    )
