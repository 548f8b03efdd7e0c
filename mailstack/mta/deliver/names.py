"""main.cf as one of two clients reads it: smtp(8) and lmtp(8) are one program, whose parameters begin with
its name.

Only what LMTP's LHLO is called differs: `smtp_helo_timeout` is `lmtp_lhlo_timeout`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mailstack.config.errors import ConfigError
from mailstack.config.postfix.main_cf import MainCf, Origin
from mailstack.mta.address_maps import OpenTable, Table
from mailstack.storage.tables import TableError

Daemon = Literal["smtp", "lmtp"]
_Str = str  # the methods below have the names of types
_Bool = bool
_Int = int
_LHLO = {
    "helo_name": "lhlo_name",
    "helo_timeout": "lhlo_timeout",
    "discard_ehlo_keywords": "discard_lhlo_keywords",
    "discard_ehlo_keyword_address_maps": "discard_lhlo_keyword_address_maps",
}


class Names:
    """The parameters of one client, each named without `smtp_` or `lmtp_`; `conf` has all others."""

    __slots__ = ("conf", "daemon", "smtp")

    def __init__(self, conf: MainCf, daemon: Daemon = "smtp") -> None:
        self.conf = conf
        self.daemon = daemon
        self.smtp = daemon == "smtp"

    def full(self, what: _Str) -> _Str:
        """The parameter's whole name."""
        return f"smtp_{what}" if self.smtp else f"lmtp_{_LHLO.get(what, what)}"

    def str(self, what: _Str) -> _Str:
        return self.conf.str(self.full(what))

    def bool(self, what: _Str) -> _Bool:
        return self.conf.bool(self.full(what))

    def int(self, what: _Str) -> _Int:
        return self.conf.int(self.full(what))

    def time(self, what: _Str) -> float:
        """Seconds."""
        return self.conf.time(self.full(what))

    def list(self, what: _Str) -> Sequence[_Str]:
        return self.conf.list(self.full(what))

    def tables(self, what: _Str, open_table: OpenTable) -> Sequence[Table]:
        """The tables that a parameter names. Raises `ConfigError`."""
        try:
            return [open_table(name) for name in self.list(what)]
        except TableError as error:
            raise self.error(what, str(error)) from None

    def origin(self, what: _Str) -> Origin:
        return self.conf.origin(self.full(what))

    def error(self, what: _Str, message: _Str) -> ConfigError:
        return self.conf.error(self.full(what), message)
