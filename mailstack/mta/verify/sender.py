"""The probes' envelope sender: address_verify_sender, with the time in it where …_sender_ttl says so.

Mail to it is welcome at every time: whoever verifies the sender of our probe gets an answer, and two sites
that probe each other do not refuse each other for ever.
"""

from __future__ import annotations

from collections.abc import Callable

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.rewrite import Rewriter

_DIGITS = "0123456789BCDFGHJKLMNPQRSTVWXYZ"
"""Base 31, as Postfix writes it: no vowels."""


class ProbeSender:
    """The address under one configuration."""

    __slots__ = ("_domain", "_local", "_prefix", "_ttl", "address")

    def __init__(self, conf: MainCf, rewriter: Rewriter) -> None:
        text = conf.str("address_verify_sender")
        if text.startswith("@") or text.endswith("@"):
            where = "start" if text.startswith("@") else "end"
            raise conf.error("address_verify_sender", f"value {text!r} must not {where} with '@'")
        self._ttl = int(conf.time("address_verify_sender_ttl"))
        self.address = "" if text in ("", "<>") else rewriter.complete(text)
        """Without the time; `""`: the null sender."""
        self._local, _, self._domain = self.address.partition("@")
        self._prefix = self._local.lower()

    def at(self, now: float) -> str:
        """The sender of a probe that is sent at `now` (seconds since the epoch)."""
        if not self._ttl or not self.address:
            return self.address
        return f"{self._local}{_base31(int(now) // self._ttl)}@{self._domain}"

    def matches(self, address: str, now: Callable[[], float]) -> bool:
        """Whether an address (not empty) is ours of this period, the one before or the one after.

        `now` gives the seconds since the epoch, where they are asked for.
        """
        prefix = self._prefix
        if not prefix or address[: len(prefix)].lower() != prefix:
            return False
        local, at, domain = address.partition("@")
        if not at or domain.lower() != self._domain.lower():
            return False
        rest = local[len(prefix) :].upper()
        if not self._ttl:
            return not rest
        period = int(now()) // self._ttl
        return rest in [_base31(period + step) for step in (-1, 0, 1)]


def _base31(number: int) -> str:
    digits = ""
    while number or not digits:
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits
