"""Variable envelope return paths: every recipient of a message gets it from a sender of his own, so that what
comes back tells who it was (VERP_README).

    owner-list@lists.test, for user@there.test, with `+=`:  owner-list+user=there.test@lists.test
"""

from __future__ import annotations

from mailstack.config.postfix.main_cf import MainCf

VERP = "verp"
"""Envelope attribute: the two delimiters."""


def verp_sender(delimiters: str, sender: str, recipient: str) -> str:
    """The sender for one recipient; both in internal form."""
    local, at, domain = sender.rpartition("@")
    if not at:
        local, domain = domain, ""
    user, at, host = recipient.rpartition("@")
    if not at:
        user, host = host, ""
    sender = local + delimiters[0] + user
    if host:
        sender += delimiters[1] + host
    return f"{sender}@{domain}" if domain else sender


def usable(delimiters: str, allowed: str) -> bool:
    """Whether these are two characters of verp_delimiter_filter."""
    return len(delimiters) == 2 and all(char in allowed for char in delimiters)


def default_delimiters(conf: MainCf) -> str:
    """default_verp_delimiters. Raises `ConfigError`."""
    found, allowed = conf.str("default_verp_delimiters"), conf.str("verp_delimiter_filter")
    if not usable(found, allowed):
        raise conf.error("default_verp_delimiters", f'needs two characters from "{allowed}", not "{found}"')
    return found
