"""What a command finds in its environment about message and user (local(8), ENVIRONMENT)."""

from __future__ import annotations

import pwd
from collections.abc import Mapping

from mailstack.mta.deliver.local.users import censor
from mailstack.mta.deliver.request import Target
from mailstack.storage.queue import Message

_ALWAYS = ("LOCAL", "DOMAIN", "RECIPIENT", "SENDER", "ORIGINAL_RECIPIENT")
"""These are there even when they are empty."""


def found_by(
    names: Mapping[str, str],
    account: pwd.struct_passwd | None,
    message: Message,
    target: Target,
    allowed: str,
) -> dict[str, str]:
    """The variables, with no other characters than `allowed` (command_expansion_filter) in their values.

    `names`: what templates know of the address (`Users.names`). `account`: None for nobody's command.
    """
    envelope = message.envelope
    values = {
        "LOCAL": names.get("local", ""),
        "DOMAIN": names.get("domain", ""),
        "EXTENSION": names.get("extension", ""),
        "LOGNAME": names.get("user", ""),
        "USER": names.get("user", ""),
        "RECIPIENT": target.address,
        "SENDER": envelope.sender,
        "ORIGINAL_RECIPIENT": target.original or target.address,
        "CLIENT_ADDRESS": envelope.client_address,
        "CLIENT_HELO": envelope.helo_name,
        "CLIENT_HOSTNAME": envelope.client_name,
        "CLIENT_PROTOCOL": envelope.protocol,
        "SASL_METHOD": envelope.sasl_method,
        "SASL_USERNAME": envelope.sasl_username,
    }
    if account is not None:
        values |= {"HOME": account.pw_dir, "SHELL": account.pw_shell}
    return {name: censor(value, allowed) for name, value in values.items() if value or name in _ALWAYS}
