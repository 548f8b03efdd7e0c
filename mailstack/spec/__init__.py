"""The spec: one typed file that describes a mail domain.

`load(path)` returns a frozen `Stack`, or raises `SpecErrors` with every problem that the file has, each with
line, column, the field's path and what to write instead. Nothing is read but the file itself; the files that
it names (passwords, certificates) are read by the runtime.
"""

from __future__ import annotations

from mailstack.spec.load import load, loads
from mailstack.spec.model import Dns, Domain, Mailbox, Mta, Network, Queue, Sasl, Stack, Tls, User
from mailstack.spec.problems import Problem, SpecErrors

__all__ = [
    "Dns",
    "Domain",
    "Mailbox",
    "Mta",
    "Network",
    "Problem",
    "Queue",
    "Sasl",
    "SpecErrors",
    "Stack",
    "Tls",
    "User",
    "load",
    "loads",
]
