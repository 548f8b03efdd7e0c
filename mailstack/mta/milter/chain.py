"""The milters of one client, in main.cf's order: an event goes to one after the other until one decides.

Postfix's rules: the first verdict counts; a milter that has accepted or refused the connection, or has
failed, is asked no more, and what it has said for good is said again at every event; the content goes to
those that still listen, each sees what the ones before have changed, and a verdict ends the round.

Every milter has a connection for each client, as libmilter wants it. Nothing is shared between clients, and
all waiting is this session's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mailstack.mta.lookup import Pending, settled
from mailstack.mta.milter.configuration import Milter, Milters
from mailstack.mta.milter.draft import Draft
from mailstack.mta.milter.link import Link
from mailstack.mta.milter.macros import Lookup, encoded
from mailstack.net.log import Log
from mailstack.wire.milter import Event, State, Verdict, protocol, strings
from mailstack.wire.milter.protocol import Stage

_UNKNOWN = "unknown"
_STAGES = {
    Event.CONNECT: Stage.CONNECT,
    Event.HELO: Stage.HELO,
    Event.MAIL: Stage.MAIL,
    Event.RCPT: Stage.RCPT,
    Event.DATA: Stage.DATA,
    Event.UNKNOWN: Stage.UNKNOWN,
    Event.HEADER: Stage.END_OF_HEADER,
    Event.END_OF_HEADER: Stage.END_OF_HEADER,
    Event.BODY: Stage.END_OF_MESSAGE,
    Event.END_OF_MESSAGE: Stage.END_OF_MESSAGE,
}


class Chain:
    """The milters of one client. `lookup`: the values of macros."""

    __slots__ = ("_configuration", "_links", "_lookup")

    def __init__(self, configuration: Milters, milters: Sequence[Milter], lookup: Lookup, log: Log) -> None:
        self._configuration = configuration
        self._links = [Link(milter, log) for milter in milters]
        self._lookup = lookup

    # ---- events

    async def connect(self, name: str, address: str, port: str) -> Verdict | None:
        """Connect to the milters, and tell them who has connected to us. `name` may be `unknown`."""
        shown = f"[{address}]" if name == _UNKNOWN and address != _UNKNOWN else name
        family = b"U" if address == _UNKNOWN else b"6" if ":" in address else b"4"
        data = strings((shown,)) + family
        if family != b"U":
            number = int(port) if port.isdecimal() and int(port) < 65536 else 0
            data += number.to_bytes(2, "big") + strings((address,))
        for link in self._links:
            await link.connect(self._configuration.resolver)
            verdict = await self._tell(link, Event.CONNECT, data)
            if verdict is not None:
                return verdict
        return None

    async def helo(self, name: str) -> Verdict | None:
        return await self._report(Event.HELO, strings((name,)))

    async def mail(self, words: Iterable[str]) -> Verdict | None:
        """MAIL FROM: the address as it was given, and the parameters."""
        return await self._report(Event.MAIL, strings(words))

    async def rcpt(self, words: Iterable[str], *, rejected: bool = False) -> Verdict | None:
        """RCPT TO; recipients that are `rejected` already are told to those who have asked for them."""
        return await self._report(Event.RCPT, strings(words), rejected=rejected)

    async def data(self) -> Verdict | None:
        return await self._report(Event.DATA, b"")

    async def unknown(self, line: str) -> Verdict | None:
        """A command that we do not know."""
        return await self._report(Event.UNKNOWN, strings((line,)))

    def standing(self) -> Verdict | None:
        """What has been said for the whole session, for commands that milters are not told of."""
        for link in self._links:
            if link.engine.lasting is not None:
                return link.engine.lasting
        return None

    async def message(self, draft: Draft, lookup: Lookup, log: Log) -> Verdict | None:
        """Show the content; `log`: for what goes wrong with milters meanwhile.

        Changes are made in `draft`, which says when one of them has failed.
        """
        for link in self._links:
            if not link.active:
                continue
            events, link.log = link.log, log
            try:
                verdict = await self._show(link, draft, lookup)
            finally:
                link.log = events
            if draft.failure is not None and not (verdict and (verdict.discard or _temporary(verdict))):
                return Verdict(draft.failure)
            if verdict is not None:
                return verdict
            if draft.discarded:
                return Verdict(discard=True)
        return None

    def abort(self) -> None:
        """The message, or what there was of it, is over."""
        for link in self._links:
            link.abort()

    def quit(self) -> None:
        """The client is gone."""
        for link in self._links:
            link.quit()

    # ---- one milter

    async def _report(self, event: Event, data: bytes, *, rejected: bool = False) -> Verdict | None:
        for link in self._links:
            if rejected and not link.engine.events & protocol.REJECTED_RCPT:
                continue
            verdict = await self._tell(link, event, data)
            if verdict is not None:
                return verdict
        return None

    async def _tell(self, link: Link, event: Event, data: bytes) -> Verdict | None:
        if not link.engine.listens(event):
            return link.engine.lasting
        macros = await self._macros(link, event, self._lookup)
        return await link.report(event, macros, data, link.milter.command_timeout)

    async def _macros(self, link: Link, event: Event, lookup: Lookup) -> bytes:
        stage = _STAGES[event]
        macros = self._configuration.macros
        names = link.engine.macros.get(stage) or macros.names[stage]
        try:
            return encoded(names, lookup, macros)
        except Pending:
            return await settled(lambda: encoded(names, lookup, macros))

    async def _show(self, link: Link, draft: Draft, lookup: Lookup) -> Verdict | None:
        engine, timeout = link.engine, link.milter.content_timeout
        engine.begin_message()
        try:
            macros = await self._macros(link, Event.END_OF_HEADER, lookup)
            if not engine.events & protocol.NO_HEADERS:
                for name, value in draft.shown(leading_space=bool(engine.events & protocol.LEADING_SPACE)):
                    verdict = await link.report(Event.HEADER, macros, strings((name, value)), timeout)
                    if verdict is not None or engine.state is not State.MESSAGE:
                        return verdict
            if not engine.events & protocol.NO_EOH:
                verdict = await link.report(Event.END_OF_HEADER, macros, b"", timeout)
                if verdict is not None or engine.state is not State.MESSAGE:
                    return verdict
            macros = await self._macros(link, Event.END_OF_MESSAGE, lookup)
            if not engine.events & protocol.NO_BODY:
                for piece in draft.text():
                    verdict = await link.report(Event.BODY, macros, piece, timeout)
                    if verdict is not None or engine.state is not State.MESSAGE:
                        return verdict
                    if engine.skips(Event.BODY):
                        break
            draft.begin_changes(space=not engine.events & protocol.LEADING_SPACE)
            verdict = await link.report(Event.END_OF_MESSAGE, macros, b"", timeout, draft.change)
            if engine.state is State.ERROR:
                # It went away in the middle: half of a new body is none.
                draft.spoil()
            draft.end_changes()
            return verdict
        finally:
            engine.end_message()


def _temporary(verdict: Verdict) -> bool:
    return verdict.shutdown or (verdict.reply is not None and verdict.reply.transient)
