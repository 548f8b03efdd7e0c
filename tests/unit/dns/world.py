"""The zones of the tests, and a responder that serves them without sockets."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import dns.flags
import dns.message

from mailstack.config.named import Locality, NamedConf, load
from mailstack.dns.forward import Forwarder
from mailstack.dns.responder import Responder
from mailstack.dns.zone import Zone
from mailstack.dns.zonefile import load_zone
from mailstack.net.log import Log

ZONES = Path(__file__).parent / "zones"
FILES = {
    "rich.test": "rich.zone",
    "other.test": "other.zone",
    "child.other.test": "child.zone",
    "2.0.192.in-addr.arpa": "rev.zone",
}


@cache
def zones() -> tuple[Zone, ...]:
    return tuple(load_zone(name, str(ZONES / file))[0] for name, file in FILES.items())


def configuration(folder: Path, options: str = "recursion no;", extra: str = "") -> NamedConf:
    """named.conf over the zones, read back."""
    text = f"options {{ {options} }};\n{extra}\n"
    for name, file in FILES.items():
        text += f'zone "{name}" {{ type primary; file "{ZONES / file}"; }};\n'
    (folder / "named.conf").write_text(text)
    return load(folder / "named.conf")


def responder(folder: Path, options: str = "recursion no;", *, log_fd: int | None = None) -> Responder:
    """Serves the test zones under the given options."""
    log = Log("named", "test", os.open(os.devnull, os.O_WRONLY) if log_fd is None else log_fd)
    conf = configuration(folder, options)
    return Responder(conf, zones(), Locality(), Forwarder(), log)


def ask(
    server: Responder, query: dns.message.Message, host: str = "192.0.2.99", *, tcp: bool = False
) -> dns.message.Message:
    """The parsed answer to a query."""
    wire = server.respond(query.to_wire(), host, 4242, tcp=tcp)
    assert isinstance(wire, bytes)
    response = dns.message.from_wire(wire)
    assert response.id == query.id
    assert response.flags & dns.flags.QR
    return response
