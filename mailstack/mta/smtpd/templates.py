"""Templates of what clients are told: `$names` of the session in them, and footers of refusals.

Names of main.cf are not to be had in a template: its values are nobody's business. What the client has said
of itself is repeated as far as `smtpd_expansion_filter` lets it through; other characters become `_`.
Raises `ConfigError`. Standards: RFC 5321 §4.2.1 (replies of several lines).
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping

from mailstack.config.postfix.expand import ExpansionError, expand
from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import OpenTable, Table
from mailstack.mta.lookup import SlowTable
from mailstack.mta.smtpd.verdicts import Client
from mailstack.storage.tables import TableError
from mailstack.wire.smtp.reply import Reply

_ESCAPE = re.compile(r"\\([0-7]{1,3}|.)", re.DOTALL)
_LETTERS = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
Unfit = re.Pattern[str]
"""What of foreign data a reply does not repeat."""


def unfit(conf: MainCf) -> Unfit:
    """What smtpd_expansion_filter does not let through."""

    def plain(found: re.Match[str]) -> str:
        text = found[1]
        return chr(int(text, 8) & 0xFF) if text[0] in "01234567" else _LETTERS.get(text, text)

    allowed = _ESCAPE.sub(plain, conf.raw("smtpd_expansion_filter"))
    return re.compile(f"[^{re.escape(allowed)}]" if allowed else "(?s:.)")


def session_names(client: Client) -> dict[str, str]:
    """What a template may name of the session."""
    names = {
        "client": f"{client.client_name}[{client.client_address}]",
        "client_address": client.client_address,
        "client_name": client.client_name,
        "client_port": client.client_port,
        "reverse_client_name": client.reverse_client_name,
        "server_address": client.server_address,
        "server_port": client.server_port,
        "helo_name": client.helo,
    }
    for name, address in (("sender", client.sender), ("recipient", client.recipient)):
        if address is None:
            names |= {name: "", f"{name}_name": "", f"{name}_domain": ""}
            continue
        local, _, domain = address.rpartition("@") if "@" in address else (address, "", "")
        names |= {name: address or "<>", f"{name}_name": local or "<>", f"{name}_domain": domain}
    return names


def fill(template: str, names: Mapping[str, str], unfit: Unfit) -> str | None:
    """The template with its `$names`; None where it cannot be read or names something unknown."""
    unknown = False

    def look(name: str) -> str | None:
        nonlocal unknown
        if name not in names and not isinstance(names, defaultdict):
            unknown = True
            return None
        return unfit.sub("_", names[name]).replace("$", "$$")

    try:
        text = expand(template, look, ())
    except ExpansionError:
        return None
    return None if unknown else text


class Footers:
    """smtpd_reject_footer_maps, by the whole of a reply, and smtpd_reject_footer for all others."""

    def __init__(self, conf: MainCf, tables: list[Table]) -> None:
        self._host = conf.str("myhostname")
        self._default = conf.raw("smtpd_reject_footer")
        self._tables = tables
        self._unfit = unfit(conf)

    @classmethod
    def load(cls, conf: MainCf, open_table: OpenTable) -> Footers | None:
        """None where refusals have no footer. Raises `ConfigError`, `TableError`."""
        names = conf.list("smtpd_reject_footer_maps")
        tables = [open_table(name) for name in names]
        for name, table in zip(names, tables, strict=True):
            if isinstance(table, SlowTable):
                raise conf.error("smtpd_reject_footer_maps", f"{name}: a reply waits for no server")
        if not tables and not conf.raw("smtpd_reject_footer"):
            return None
        return cls(conf, tables)

    def add(self, reply: Reply, names: dict[str, str], now: float, warn: Callable[[str], None]) -> Reply:
        """A reply (4xx or 5xx) with its footer; backslash and n in it begin a line, backslash and c at its
        start do not. `names`: the session's; what else a footer names is nothing."""
        template = self._find(str(reply), warn) or self._default
        if not template:
            return reply
        stamp = time.strftime("%b %d %H:%M:%S", time.localtime(now))
        names |= {"localtime": stamp, "server_name": self._host}
        if template.endswith("$") and not template.endswith("$$"):
            text = None
        else:
            text = fill(template, defaultdict(str, names), self._unfit)
        if text is None:
            warn(f"bad macro in smtpd_reject_footer: {template}")
            return reply
        glue = "" if text.startswith("\\c") else "\n"
        text = text.removeprefix("\\c").replace("\\n", "\n")
        return Reply(reply.code, reply.enhanced, f"{reply.text}{glue}{text}")

    def _find(self, key: str, warn: Callable[[str], None]) -> str | None:
        try:
            for table in self._tables:
                found = table.lookup(key)
                if found:
                    return found
        except (OSError, TableError) as error:
            warn(f"smtpd_reject_footer_maps: {error}")
        return None
