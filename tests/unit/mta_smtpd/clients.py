"""A client that restrictions can look at, without a connection."""

from __future__ import annotations

from dataclasses import dataclass, field

from mailstack.mta.smtpd.verdicts import Certificate, Deferrals
from mailstack.wire.smtp import Reply


@dataclass
class Client:
    client_name: str = "unknown"
    client_address: str = "198.51.100.1"
    client_port: str = "4711"
    reverse_client_name: str = "unknown"
    name_failed_for_now: bool = False
    reverse_name_failed_for_now: bool = False
    server_address: str = "192.0.2.25"
    server_port: str = "25"
    helo: str = "client.test"
    sender: str | None = "a@b.test"
    recipient: str | None = "x@far.test"
    etrn_domain: str = ""
    sasl_user: str = ""
    sasl_method: str = ""
    sasl_sender: str = ""
    secured: bool = False
    tls_facts: tuple[str, str, int] = ("", "", 0)
    certificate: Certificate | None = None
    pipelined: bool = False
    recipient_count: int = 1
    stressed: bool = False
    discarding: bool = False
    where: str = "RCPT"
    protocol_name: str = "ESMTP"
    instance: str = "1.2.3.4"
    queue_id: str = ""
    message_size: int = 0
    deferrals: Deferrals = field(default_factory=Deferrals)
    rejected: list[Reply] = field(default_factory=list)
    """What warn_if_reject has kept back."""
    warnings: list[str] = field(default_factory=list)
    changes: list[tuple[str, str]] = field(default_factory=list)
    permissions: list[str] = field(default_factory=list)

    @property
    def peer(self) -> str:
        return f"{self.client_name}[{self.client_address}]"

    def warn_reject(self, reply: Reply) -> None:
        self.rejected.append(reply)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def permitted(self, text: str) -> None:
        self.permissions.append(text)

    def change(self, action: str, argument: str, text: str) -> None:
        self.changes.append((action, argument))
        self.discarding = self.discarding or action == "discard"
