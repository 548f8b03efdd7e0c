"""A blocking connection with a deadline, on which the wire engines are driven.

Everything that goes wrong becomes a `ClientError` that names the protocol and where it was looked for.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mailstack.client.errors import ClientError

if TYPE_CHECKING:
    from types import TracebackType

    from mailstack.client.endpoints import Endpoints

READ_SIZE = 64 * 1024
IMPLICIT_TLS = frozenset({"submissions", "imaps", "pop3s"})
"""Protocols that begin with the TLS handshake (RFC 8314)."""
DEFAULT_TIMEOUT = 30.0
"""Seconds of silence before a server counts as gone."""


class Channel:
    """One TCP connection to a service of the stack, as a context manager."""

    def __init__(self, endpoints: Endpoints, protocol: str, timeout: float = DEFAULT_TIMEOUT) -> None:
        self.protocol = protocol
        self.secured = False
        self._endpoints = endpoints
        self._timeout = timeout
        host, port = endpoints.host, endpoints.ports[protocol]
        self.where = f"{protocol} at {host} port {port}"
        try:
            self._socket: socket.socket = socket.create_connection((host, port), timeout)
        except OSError as error:
            raise ClientError(
                "unreachable",
                f"{self.where} does not answer: {error.strerror or error}",
                hint="is the stack up? See 'mailstack status'",
                unreachable=True,
            ) from None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if protocol in IMPLICIT_TLS:
            self.start_tls()

    def __enter__(self) -> Channel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def local_address(self) -> str:
        """Our own side's address literal."""
        return str(self._socket.getsockname()[0])

    def start_tls(self) -> None:
        """Shake hands, verified for the stack's host name against its CA. Raises `ClientError`."""
        import ssl

        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self._endpoints.ca_file is not None:
                context.load_verify_locations(self._endpoints.ca_file)
            else:
                context.load_default_certs()
            self._socket.settimeout(self._timeout)
            self._socket = context.wrap_socket(self._socket, server_hostname=self._endpoints.hostname)
        except (OSError, ValueError) as error:
            self.close()
            reason = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else error
            raise ClientError(
                "tls",
                f"{self.where}: no TLS for {self._endpoints.hostname}: {reason}",
                hint="see 'mailstack doctor' for the certificate",
            ) from None
        self.secured = True

    @property
    def tls(self) -> str | None:
        """`TLSv1.3`, or None in plain text."""
        return getattr(self._socket, "version", lambda: None)()

    def send(self, parts: Iterable[bytes]) -> None:
        """Send all of it. Raises `ClientError`."""
        data = b"".join(parts)
        if not data:
            return
        try:
            self._socket.settimeout(self._timeout)
            self._socket.sendall(data)
        except OSError as error:
            raise self._lost(error) from None

    def receive(self, deadline: float | None = None) -> bytes:
        """Some octets; none when the server has closed.

        `deadline` (of `time.monotonic`): raises `TimeoutError` when it passes. Without one, a server that is
        silent for the channel's time-out raises `ClientError`.
        """
        try:
            if deadline is None:
                self._socket.settimeout(self._timeout)
            else:
                self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            return self._socket.recv(READ_SIZE)
        except TimeoutError as error:
            if deadline is not None:
                raise
            raise self._lost(error) from None
        except OSError as error:
            raise self._lost(error) from None

    def close(self) -> None:
        """Close at once."""
        self._socket.close()

    def _lost(self, error: OSError) -> ClientError:
        reason = "no answer in time" if isinstance(error, TimeoutError) else error.strerror or str(error)
        return ClientError("connection-lost", f"{self.where}: {reason}", unreachable=True)
