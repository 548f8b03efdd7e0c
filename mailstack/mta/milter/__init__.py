"""Milters: programs that are told of clients and messages, decide, and change messages (MILTER_README).

`Milters` is what main.cf says of them, `Chain` those of one client, `Draft` a message that they may change.
"""

from mailstack.mta.milter.chain import Chain
from mailstack.mta.milter.configuration import Milters, load_milters
from mailstack.mta.milter.draft import Draft, Recipients
from mailstack.mta.milter.local import LocalFilter
from mailstack.mta.milter.macros import Lookup, general_macro

__all__ = [
    "Chain",
    "Draft",
    "LocalFilter",
    "Lookup",
    "Milters",
    "Recipients",
    "general_macro",
    "load_milters",
]
