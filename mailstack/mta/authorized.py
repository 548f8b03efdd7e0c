"""What a local user may do (`authorized_…_users`), and in whose name he may write (local_login_sender_maps).

Raises `Fatal` for what he may not, and for a table that cannot be read.
"""

from __future__ import annotations

import os
import pwd

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import DomainList, split_extension
from mailstack.mta.command import EX_TEMPFAIL, Fatal, warn
from mailstack.mta.postdrop import user_name
from mailstack.storage.tables import TableError, open_table


def check_user(conf: MainCf, parameter: str, doing: str, *, status: int = EX_TEMPFAIL) -> None:
    """Whether a list lets the real user of this process do something; `doing` says what."""
    words = conf.list(parameter)
    if words == ["static:anyone"]:
        return
    uid = os.getuid()
    name = user_name(uid)
    try:
        allowed = DomainList(words, open_table).match(name.lower())
    except (TableError, OSError) as error:
        raise Fatal(f"{parameter}: {error}", status) from None
    if not allowed:
        raise Fatal(f"User {name}({uid}) is not allowed to {doing}", status)


def check_sender(conf: MainCf, sender: str, uid: int) -> None:
    """Whether the user may write in that sender's name (local_login_sender_maps)."""
    names = conf.list("local_login_sender_maps")
    if names == ["static:*"]:
        return
    try:
        login = pwd.getpwuid(uid).pw_name
    except KeyError:
        login = f"uid:{uid}"
    patterns = _patterns(names, login, f"{sender}({uid})")
    if not patterns or not _matches(
        patterns,
        sender.lower() or conf.str("empty_address_local_login_sender_maps_lookup_key").lower(),
        conf.str("recipient_delimiter"),
    ):
        raise Fatal(f"{sender}({uid}): not authorized to use sender='{sender}'")


def _patterns(names: list[str], login: str, who: str) -> list[str]:
    """The senders that the first table which knows the user gives him."""
    for name in names:
        try:
            value = open_table(name).lookup(login)
        except (TableError, OSError) as error:
            warn("postdrop", str(error))
            raise Fatal(f"{who}: local_login_sender_maps table lookup error for '{name}'") from None
        if value is None:
            continue
        if not value:
            warn("postdrop", f"local_login_sender_maps lookup of {login} returns an empty string result")
            warn("postdrop", "local_login_sender_maps should return NO RESULT in case of NOT FOUND")
            raise Fatal(f"{who}: local_login_sender_maps table lookup error for '{name}'")
        return value.replace(",", " ").lower().split()
    return []


def _matches(patterns: list[str], sender: str, delimiters: str) -> bool:
    local, at, domain = sender.rpartition("@")
    forms = {sender, "*"}
    if at:
        forms |= {f"@{domain}", f"{split_extension(local, delimiters)[0]}@{domain}"}
    else:
        forms.add(split_extension(sender, delimiters)[0])
    return not forms.isdisjoint(patterns)
