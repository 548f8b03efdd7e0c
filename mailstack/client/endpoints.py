"""Where a running stack is, and as whom to talk to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mailstack.client.errors import ClientError


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Everything that a client needs to know.

    `hostname` is the name that the certificate is checked for; `host` the address literal at which the ports
    are published. `ports` has a key for each protocol that is offered: smtp submission submissions lmtp imap
    imaps pop3 pop3s dns. `ca_file` None with `tls`: the system's authorities apply.
    """

    domain: str
    hostname: str
    host: str
    ports: Mapping[str, int]
    ca_file: str | None
    tls: bool
    users: Mapping[str, str]
    """user@domain -> password; the first is the one that `send` uses."""

    @property
    def user(self) -> str:
        """The first user's address. Raises `ClientError` when the stack has none."""
        for address in self.users:
            return address
        raise ClientError(
            "no-user", "the stack has no user", hint="add one below domains.….users in the spec"
        )

    def password(self, address: str) -> str:
        """The password of one user. Raises `ClientError`."""
        try:
            return self.users[address]
        except KeyError:
            raise ClientError("no-such-user", f"{address} is not a user of this stack") from None

    def port(self, *protocols: str) -> tuple[str, int]:
        """The first of `protocols` that is offered, with its port. Raises `ClientError`."""
        for protocol in protocols:
            port = self.ports.get(protocol)
            if port is not None:
                return protocol, port
        raise ClientError(
            "not-offered",
            f"the stack does not offer {' or '.join(protocols)}",
            hint="see mta and mailbox.protocols in the spec",
        )
