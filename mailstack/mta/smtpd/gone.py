"""Clients that have gone before their turn: they have no session, and the log tells of them as of one.

A worker that has many connections to accept (`net.accept`) finds out which of their clients have closed their
side without a word. Such a client can have nothing done for it; it is sent the greeting, for it may read that
still (a monitor that looks whether somebody answers). Nobody asks the DNS for its name.

Diagnostics: `connect from unknown[ADDRESS]`, `lost connection after CONNECT from unknown[ADDRESS]`,
`disconnect from unknown[ADDRESS] commands=0/0`.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from mailstack.mta.smtpd.anvil import Event
from mailstack.mta.smtpd.peer import UNKNOWN
from mailstack.net.accept import Gone
from mailstack.net.stream import PeerAddress
from mailstack.wire.smtp import Reply

if TYPE_CHECKING:
    from mailstack.mta.smtpd.settings import Settings
    from mailstack.mta.smtpd.worker import Shared


def farewell(settings: Settings, shared: Shared) -> Gone | None:
    """What is done with them; None where a service has to look at every client before it greets it."""
    limits = settings.event_limits
    if (
        settings.tls_wrapper
        or settings.proxy_timeout
        or settings.milters is not None
        or settings.footers is not None
        or not settings.delay_reject
        or (limits is not None and limits.rates[Event.CONNECTION])
    ):
        return None
    greeting = Reply(220, "", settings.banner).encode()
    log = shared.log_for(settings)

    def gone(connection: socket.socket, address: PeerAddress) -> None:
        shared.life.served += 1
        port = f":{address[1]}" if settings.log_ports else ""
        peer = f"{UNKNOWN}[{address[0]}]{port}"
        log.info(f"connect from {peer}")
        try:
            connection.send(greeting, socket.MSG_DONTWAIT)
        except OSError:
            pass
        log.info(f"lost connection after CONNECT from {peer}")
        log.info(f"disconnect from {peer} commands=0/0")

    return gone
