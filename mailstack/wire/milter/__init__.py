"""The milter protocol, the MTA's side, without I/O (versions 2 to 6, as libmilter of Sendmail 8.14 has it).

`MilterConnection` is the engine, `protocol` what goes over the wire and what it means.
"""

from mailstack.wire.milter.connection import NEED_DATA, Done, MilterConnection, State, Terms
from mailstack.wire.milter.protocol import (
    MILTER_CHUNK,
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteRecipient,
    Edit,
    Event,
    InsertHeader,
    MilterError,
    Progress,
    ReplaceBody,
    Verdict,
    offered_events,
    pack,
    strings,
)

__all__ = [
    "MILTER_CHUNK",
    "NEED_DATA",
    "AddHeader",
    "AddRecipient",
    "ChangeHeader",
    "ChangeSender",
    "DeleteRecipient",
    "Done",
    "Edit",
    "Event",
    "InsertHeader",
    "MilterConnection",
    "MilterError",
    "Progress",
    "ReplaceBody",
    "State",
    "Terms",
    "Verdict",
    "offered_events",
    "pack",
    "strings",
]
