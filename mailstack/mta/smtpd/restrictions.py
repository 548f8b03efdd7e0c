"""Restriction lists: `smtpd_client_restrictions` and its kin, word by word (SMTPD_ACCESS_README).

A list is compiled once; an unknown word, or one that cannot be used, is a `ConfigError` that names the
parameter. Evaluated in order, the first word with an opinion decides: `PERMIT`, or the `Rejection` to send.
`warn_if_reject` makes the next word only warn. DNS words that get no answer for now defer.
"""

from __future__ import annotations

from dataclasses import dataclass

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import OpenTable
from mailstack.mta.rewrite import Rewriter
from mailstack.mta.smtpd import access
from mailstack.mta.smtpd.checks import Checks
from mailstack.mta.smtpd.recipients import Recipients
from mailstack.mta.smtpd.verdicts import (
    SUBJECT,
    Check,
    Client,
    Phase,
    Rejection,
    SlowCheck,
    Verdict,
    rejection,
)
from mailstack.net.resolver import Resolver


@dataclass(frozen=True, slots=True)
class _Step:
    check: Check | None = None
    slow: SlowCheck | None = None
    warn: bool = False


class Restrictions:
    """One compiled list."""

    __slots__ = ("_steps", "name")

    def __init__(self, name: str, steps: list[_Step]) -> None:
        self.name = name
        self._steps = tuple(steps)

    def __bool__(self) -> bool:
        return bool(self._steps)

    async def evaluate(self, client: Client) -> Verdict:
        """The first opinion, or None. Raises what a table raises."""
        for step in self._steps:
            if step.check is not None:
                verdict = step.check(client)
            else:
                assert step.slow is not None
                verdict = await step.slow(client)
            if verdict is None:
                continue
            if step.warn:
                if isinstance(verdict, Rejection):
                    client.warn_reject(verdict.reply)
                continue
            return verdict
        return None


class Compiler:
    """Makes lists out of main.cf. Raises `ConfigError`."""

    def __init__(
        self,
        conf: MainCf,
        rewriter: Rewriter,
        recipients: Recipients,
        resolver: Resolver,
        open_table: OpenTable,
    ) -> None:
        self._conf = conf
        self._open_table = open_table
        self._access = access.AccessTables(conf)
        self._checks = Checks(conf, rewriter, recipients, resolver, open_table)
        self.networks = self._checks.networks

    def compile(self, parameter: str, phase: Phase) -> Restrictions:
        """The list that main.cf gives as `parameter`. Raises `ConfigError`."""
        words = self._conf.list(parameter)
        steps: list[_Step] = []
        warn = False
        position = 0
        while position < len(words):
            word = words[position].lower()
            position += 1
            if word == "warn_if_reject":
                warn = True
                continue
            argument = ""
            if word in access.WORDS:
                if position >= len(words):
                    raise self._conf.error(parameter, f"{word} needs a table, type:name")
                argument = words[position]
                position += 1
            step = self._step(parameter, phase, word, argument)
            steps.append(_Step(step.check, step.slow, warn))
            warn = False
        return Restrictions(parameter, steps)

    def _step(self, parameter: str, phase: Phase, word: str, argument: str) -> _Step:
        if word in access.WORDS:
            return _Step(self._access.check(word, self._open_table(argument)))
        if word in ("reject", "defer"):
            return _Step(self._generic(phase, word))
        if word == "reject_unauth_pipelining":
            return _Step(self._pipelining(phase))
        if word in self._checks.simple:
            return _Step(self._checks.simple[word])
        if word in self._checks.slow:
            return _Step(slow=self._checks.slow[word])
        if ":" in word:
            raise self._conf.error(parameter, f"{word!r}: say which look-up is meant (check_…_access)")
        raise self._conf.error(parameter, f"unknown smtpd restriction: {word!r}")

    def _generic(self, phase: Phase, word: str) -> Check:
        label, subject = SUBJECT[phase]
        code = self._conf.int("reject_code" if word == "reject" else "defer_code")
        enhanced, text = ("5.7.1", "Access denied") if word == "reject" else ("4.3.2", "Try again later")

        def check(client: Client) -> Verdict:
            return rejection(code, enhanced, f"<{subject(client)}>: {label} rejected: {text}")

        return check

    def _pipelining(self, phase: Phase) -> Check:
        label, subject = SUBJECT[phase]

        def check(client: Client) -> Verdict:
            if not client.pipelined:
                return None
            text = f"<{subject(client)}>: {label} rejected: Improper use of SMTP command pipelining"
            return rejection(503, "5.5.0", text)

        return check
