"""Restriction lists: `smtpd_client_restrictions` and its kin, word by word (SMTPD_ACCESS_README).

A list is compiled once; an unknown word, or one that cannot be used, is a `ConfigError` that names the
parameter. Evaluated in order, the first word with an opinion decides: `PERMIT`, or the `Rejection` to send.
`warn_if_reject` makes the next word only warn. `defer_if_permit` and `defer_if_reject` (`Deferral`) decide
nothing yet: the first turns a later permission into a deferral, the second a later 5xx reply.

A word may be a restriction class of main.cf, and a table's result may be a list again: such a list is
compiled when it is first met, and what is wrong with it is answered 451 4.3.5.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, assert_never

from mailstack.config.errors import ConfigError
from mailstack.config.postfix.lines import words as split_words
from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import OpenTable
from mailstack.mta.lookup import Pending, settled_call
from mailstack.mta.rewrite import Rewriter
from mailstack.mta.smtpd import access
from mailstack.mta.smtpd.checks import Checks
from mailstack.mta.smtpd.dnsbl import DnsLists
from mailstack.mta.smtpd.permits import Permits
from mailstack.mta.smtpd.policy import PolicyServices
from mailstack.mta.smtpd.recipients import Recipients
from mailstack.mta.smtpd.verdicts import (
    CONFIGURATION_ERROR,
    PERMIT,
    SUBJECT,
    Check,
    Client,
    Deferral,
    Permit,
    Phase,
    Rejection,
    SlowCheck,
    Subject,
    Verdict,
    rejection,
)
from mailstack.net.resolver import Resolver
from mailstack.wire.smtp.reply import Reply

if TYPE_CHECKING:
    from mailstack.mta.smtpd.verification import Verification

_DEPTH = 100
"""Lists within lists."""
_LISTS = 1000
"""Lists out of tables that are kept compiled."""
_DEFAULT_ACCESS = {
    Phase.CLIENT: "check_client_access",
    Phase.HELO: "check_helo_access",
    Phase.SENDER: "check_sender_access",
    Phase.RELAY: "check_recipient_access",
    Phase.RECIPIENT: "check_recipient_access",
    Phase.ETRN: "check_etrn_access",
}
"""What a table without a word before it means."""
_UNSUPPORTED = {
    "check_relay_domains": "removed from Postfix; use reject_unauth_destination",
}

Lookup = Callable[[Client], "access.Answer"]
SlowLookup = access.SlowLookup


@dataclass(frozen=True, slots=True)
class _Step:
    """One word. Exactly one of the fields but `warn` is set."""

    check: Check | None = None
    slow: SlowCheck | None = None
    lookup: Lookup | None = None
    slow_lookup: SlowLookup | None = None
    nested: Restrictions | None = None
    warn: bool = False


class Restrictions:
    """One compiled list."""

    __slots__ = ("_inner", "_steps", "name")

    def __init__(self, name: str, steps: list[_Step], inner: Callable[[access.Words], Restrictions]) -> None:
        self.name = name
        self._steps = tuple(steps)
        self._inner = inner

    def __bool__(self) -> bool:
        return bool(self._steps)

    async def evaluate(self, client: Client, warn: bool = False, depth: int = 0) -> Permit | Rejection | None:
        """The first opinion, or None. Raises what a table raises."""
        for step in self._steps:
            try:
                if step.check is not None:
                    verdict = step.check(client)
                elif step.slow is not None:
                    verdict = await step.slow(client)
                else:
                    verdict = await self._further(step, client, warn or step.warn, depth)
            except Pending:
                verdict = await settled_call(partial(self._verdict, step, client, warn or step.warn, depth))
            if verdict is None:
                if client.discarding:
                    return PERMIT
                continue
            if isinstance(verdict, Permit):
                return verdict
            if warn or step.warn:
                if verdict is not CONFIGURATION_ERROR:
                    client.warn_reject(verdict.reply)
                    continue
                return CONFIGURATION_ERROR
            if isinstance(verdict, Rejection):
                deferrals = client.deferrals
                if deferrals.if_reject is not None and verdict.reply.code >= 500:
                    return Rejection(deferrals.if_reject)
                return verdict
            client.deferrals.add(verdict)
            if client.deferrals.decided:
                return None
        return None

    async def _verdict(self, step: _Step, client: Client, warn: bool, depth: int) -> Verdict:
        """The verdict of any word, once more, with what a table has said meanwhile."""
        if step.check is not None:
            return step.check(client)
        if step.slow is not None:
            return await step.slow(client)
        return await self._further(step, client, warn, depth)

    async def _further(self, step: _Step, client: Client, warn: bool, depth: int) -> Verdict:
        """The verdict of a word that may lead to another list."""
        if step.nested is not None:
            return await step.nested.evaluate(client, warn, depth + 1)
        if step.lookup is not None:
            answer = step.lookup(client)
        else:
            assert step.slow_lookup is not None
            answer = await step.slow_lookup(client)
        match answer:
            case access.Words():
                if depth >= _DEPTH:
                    client.warn(
                        f"access table {answer.table} entry {answer.text} causes unreasonable recursion"
                    )
                    return CONFIGURATION_ERROR
                try:
                    inner = self._inner(answer)
                except ConfigError as error:
                    client.warn(f"access table {answer.table}: {error}")
                    return CONFIGURATION_ERROR
                verdict: Verdict = await inner.evaluate(client, warn, depth + 1)
                if verdict is PERMIT and answer.never_permit:
                    return access.forbid(client, answer)
                return verdict
            case None | Permit() | Rejection() | Deferral():
                return answer
            case _:
                assert_never(answer)


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
        self._checks = Checks(conf, rewriter, recipients, resolver, open_table)
        self._permits = Permits.load(conf, open_table)
        self._access = access.AccessTables(conf, rewriter, resolver, self._permits)
        self._dns_lists = DnsLists(conf, resolver, open_table, self._checks.authorised)
        self.policy_services = PolicyServices(conf, resolver)
        self.verification: Verification | None = None
        """Made with the first list that has a word of it."""
        self.networks = self._checks.networks
        self._classes = {name.lower(): name for name in conf.list("smtpd_restriction_classes")}
        for name in self._classes.values():
            if not conf.is_set(name):
                message = f"restriction class `{name}' needs a definition"
                raise conf.error("smtpd_restriction_classes", message)
        self._opening: list[str] = []
        self._compiled: dict[tuple[Phase, str, str], Restrictions] = {}

    def compile(self, parameter: str, phase: Phase) -> Restrictions:
        """The list that main.cf gives as `parameter`. Raises `ConfigError`."""
        return self._compile(parameter, phase, SUBJECT[phase], self._conf.list(parameter))

    def _compile(self, parameter: str, phase: Phase, about: Subject, words: list[str]) -> Restrictions:
        steps: list[_Step] = []
        warn = False
        position = 0
        while position < len(words):
            written = words[position]
            word = written.lower()
            if word == "warn_if_reject":
                warn = True
                position += 1
                continue
            if ":" in word and not word.startswith("{"):
                # A table alone is looked up with what the list is about.
                if phase not in _DEFAULT_ACCESS:
                    raise self._conf.error(
                        parameter, f"{word!r}: say which look-up is meant (check_…_access)"
                    )
                word = _DEFAULT_ACCESS[phase]
                position -= 1
            position += 1
            argument = ""
            if needs := _argument_of(word):
                if position >= len(words):
                    raise self._conf.error(parameter, f"{word} needs {needs}")
                argument = words[position]
                position += 1
            step = self._step(parameter, phase, about, word, argument, warn)
            steps.append(step if self._permits is None else _logged(self._permits, step, written, about))
            warn = False
        return Restrictions(parameter, steps, lambda words: self._of_table(parameter, phase, words))

    def _of_table(self, parameter: str, phase: Phase, found_words: access.Words) -> Restrictions:
        """The list that a table has given. Raises `ConfigError`."""
        text, about = found_words.text, found_words.about
        key = (phase, about[0], text)
        found = self._compiled.get(key)
        if found is None:
            words = split_words(text)
            if any(":" in word for word in words):
                raise self._conf.error(
                    parameter, f"{text!r}: lookup tables inside access tables; define a restriction class"
                )
            if len(self._compiled) >= _LISTS:
                self._compiled.clear()
            found = self._compiled[key] = self._compile(parameter, phase, about, words)
        return found

    def _step(
        self, parameter: str, phase: Phase, about: Subject, word: str, argument: str, warn: bool
    ) -> _Step:
        if word in self._checks.simple:
            return _Step(check=self._checks.simple[word], warn=warn)
        if word in self._checks.slow:
            return _Step(slow=self._checks.slow[word], warn=warn)
        if word in access.WORDS or word in access.SERVER_WORDS:
            table = self._open_table(argument)
            if word in access.WORDS:
                return _Step(lookup=self._access.check(word, table, argument, phase), warn=warn)
            return _Step(slow_lookup=self._access.server_check(word, table, argument, phase), warn=warn)
        if word == "check_policy_service":
            service = self.policy_services.get(parameter, argument)
            action = self._access.policy_action(about, service.name)

            async def ask(client: Client) -> access.Answer:
                return action(client, await service.ask(client))

            return _Step(slow_lookup=ask, warn=warn)
        if (look := self._dns_lists.check(word, argument)) is not None:
            return _Step(slow=look, warn=warn)
        if word == "reject_maps_rbl":
            return _Step(nested=self._old_lists(parameter, phase, about), warn=warn)
        if word == "sleep":
            return _Step(slow=self._sleep(parameter, argument), warn=warn)
        if word in ("reject_unverified_sender", "reject_unverified_recipient"):
            return _Step(slow=self._verification().check(word), warn=warn)
        if word in ("reject", "defer", "defer_if_permit", "defer_if_reject"):
            return _Step(check=self._generic(about, word), warn=warn)
        if word == "reject_unauth_pipelining":
            return _Step(check=self._pipelining(about), warn=warn)
        if word == "reject_multi_recipient_bounce":
            return _Step(check=self._checks.multi_recipient_bounce(about), warn=warn)
        if word in self._classes:
            return _Step(nested=self._class(self._classes[word], phase, about), warn=warn)
        if word in _UNSUPPORTED:
            raise self._conf.error(parameter, f"{word}: {_UNSUPPORTED[word]}")
        raise self._conf.error(parameter, f"unknown smtpd restriction: {word!r}")

    def simple(self, word: str) -> Check:
        """One of the words that need no argument and wait for nothing."""
        return self._checks.simple[word]

    def _verification(self) -> Verification:
        if self.verification is None:
            from mailstack.mta.smtpd.verification import Verification  # most stacks verify nobody

            self.verification = Verification(self._conf)
        return self.verification

    def close(self) -> None:
        """Let go of connections."""
        self.policy_services.close()
        if self.verification is not None:
            self.verification.close()

    def _class(self, name: str, phase: Phase, about: Subject) -> Restrictions:
        """A restriction class of main.cf, for lists of one phase."""
        if name in self._opening:
            raise self._conf.error(name, "restriction class contains itself")
        self._opening.append(name)
        try:
            return self._compile(name, phase, about, self._conf.list(name))
        finally:
            self._opening.pop()

    def _old_lists(self, parameter: str, phase: Phase, about: Subject) -> Restrictions:
        """reject_rbl_client for each of maps_rbl_domains."""
        words = [part for name in self._conf.list("maps_rbl_domains") for part in ("reject_rbl_client", name)]
        return self._compile(parameter, phase, about, words)

    def _sleep(self, parameter: str, argument: str) -> SlowCheck:
        if not argument.isdecimal():
            raise self._conf.error(parameter, "restriction sleep must be followed by number")
        seconds = int(argument)

        async def check(client: Client) -> Verdict:
            await asyncio.sleep(seconds)
            return None

        return check

    def _generic(self, about: Subject, word: str) -> Check:
        label, subject = about
        if word.startswith("defer_if"):
            on_permit = word == "defer_if_permit"

            def defer(client: Client) -> Verdict:
                text = f"<{subject(client)}>: {label} rejected: {word} requested"
                return Deferral(Reply(450, "4.7.0", text), on_permit)

            return defer
        code = self._conf.int("reject_code" if word == "reject" else "defer_code")
        enhanced, text = ("5.7.1", "Access denied") if word == "reject" else ("4.3.2", "Try again later")

        def check(client: Client) -> Verdict:
            return rejection(code, enhanced, f"<{subject(client)}>: {label} rejected: {text}")

        return check

    def _pipelining(self, about: Subject) -> Check:
        label, subject = about

        def check(client: Client) -> Verdict:
            if not client.pipelined:
                return None
            text = f"<{subject(client)}>: {label} rejected: Improper use of SMTP command pipelining"
            return rejection(503, "5.5.0", text)

        return check


def _logged(permits: Permits, step: _Step, word: str, about: Subject) -> _Step:
    """A word whose permissions are logged; tables and lists within lists see to that by themselves."""
    if step.check is not None:
        return replace(step, check=permits.checked(word, step.check, about))
    if step.slow is not None:
        return replace(step, slow=permits.slowly_checked(word, step.slow, about))
    return step


def _argument_of(word: str) -> str:
    """What must follow a word, in words; `""`: nothing."""
    if word in access.WORDS or word in access.SERVER_WORDS:
        return "a table, type:name"
    if word == "check_policy_service":
        return "a server, transport:endpoint"
    if word == "sleep":
        return "a number of seconds"
    return "a domain name" if word in DnsLists.WORDS else ""
