"""CAPABILITY NOOP LOGOUT CHECK NAMESPACE ID ENABLE.

State: any (the first four RFC 3501 §6.1, §6.4.1; ID RFC 2971), authenticated (NAMESPACE RFC 2342, ENABLE
RFC 5161).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailstack.mailbox.imap.capability import capabilities
from mailstack.wire.imap import commands as c

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session


async def capability(session: Session, tag: str, command: c.Plain) -> str:
    session.line("* CAPABILITY " + " ".join(capabilities(session)))
    return "OK Capability completed."


async def noop(session: Session, tag: str, command: c.Plain) -> str:
    return "OK NOOP completed."


async def check(session: Session, tag: str, command: c.Plain) -> str:
    return "OK Check completed."


async def logout(session: Session, tag: str, command: c.Plain) -> str:
    session.leave()
    session.line("* BYE Logging out")
    return "OK Logout completed."


async def identify(session: Session, tag: str, command: c.Id) -> str:
    session.line('* ID ("name" "mailstack")')
    return "OK ID completed."


async def enable(session: Session, tag: str, command: c.Enable) -> str:
    """Others than these are passed over (RFC 5161 §3.1)."""
    enabled = []
    for name in command.capabilities:
        if name == "CONDSTORE" and not session.condstore:
            enabled.append(name)
            session.use_condstore()
        elif name == "QRESYNC" and not session.qresync:
            enabled.append(name)
            session.qresync = True
            session.use_condstore()
    session.line(" ".join(["* ENABLED", *enabled]))
    return "OK Enabled."


async def namespace(session: Session, tag: str, command: c.Plain) -> str:
    session.line('* NAMESPACE (("" ".")) NIL NIL')
    return "OK Namespace completed."
