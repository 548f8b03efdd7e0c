"""The connection to one milter, for one client: the engine of `wire.milter` over a socket, with deadlines.

A milter that cannot be reached, does not answer in time, breaks the protocol or goes away is logged as
Postfix logs it, and is said to have decided what milter_default_action says, for the rest of the session.
Nothing here raises but cancellation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from mailstack.mta.milter.configuration import Milter
from mailstack.net.log import Log
from mailstack.net.resolver import ResolveError, Resolver
from mailstack.net.stream import Stream, connect, connect_unix
from mailstack.wire.milter import (
    NEED_DATA,
    Done,
    Edit,
    Event,
    MilterConnection,
    Progress,
    State,
    Verdict,
)

Change = Callable[[Edit], Awaitable[None]]
"""Carries out what a milter asks for at the end of a message."""
_TIMEOUT = "Connection timed out"


class Link:
    """One milter of one session."""

    __slots__ = ("_stream", "engine", "log", "milter")

    def __init__(self, milter: Milter, log: Log) -> None:
        self.milter = milter
        self.engine = MilterConnection(milter.terms)
        self.log = log
        self._stream: Stream | None = None

    @property
    def active(self) -> bool:
        """It wants to see the message."""
        return self.engine.state is State.ENVELOPE

    async def connect(self, resolver: Resolver) -> None:
        """Connect and negotiate; `engine.lasting` says what has come of it where that failed."""
        milter = self.milter
        try:
            self._stream = await self._open(resolver)
        except (OSError, TimeoutError, ResolveError) as error:
            reason = _TIMEOUT if isinstance(error, TimeoutError) else _reason(error)
            self.log.warning(f"connect to Milter service {milter.name}: {reason}")
            self.engine.fail()
            return
        await self._exchange(self.engine.begin(), milter.command_timeout, None)

    async def _open(self, resolver: Resolver) -> Stream:
        milter = self.milter
        if milter.kind == "unix":
            return await connect_unix(milter.host, milter.connect_timeout)
        addresses = await resolver.addresses(milter.host)
        problem: Exception = OSError(0, f"host {milter.host} has no address")
        for address in addresses:
            try:
                return await connect(address, milter.port, milter.connect_timeout)
            except (OSError, TimeoutError) as error:
                problem = error
        raise problem

    async def report(
        self, event: Event, macros: bytes, data: bytes, timeout: float, change: Change | None = None
    ) -> Verdict | None:
        """Tell the milter of an event, and its answer, if it gives one; None: go on."""
        octets = self.engine.event(event, macros, data)
        if not octets:
            return self.engine.lasting
        return await self._exchange(octets, timeout, change)

    async def _exchange(self, octets: bytes, timeout: float, change: Change | None) -> Verdict | None:
        stream, engine = self._stream, self.engine
        assert stream is not None
        stream.write(octets)
        negotiating = engine.state is State.CLOSED
        if engine.waiting is None and not negotiating:
            try:
                await stream.drain(timeout)
            except (OSError, TimeoutError) as error:
                reason = _TIMEOUT if isinstance(error, TimeoutError) else _reason(error)
                self._warn(f"error writing command: {reason}")
                self.close()
                return engine.fail()
            return engine.lasting
        while True:
            found = engine.next()
            if engine.warnings:
                self._complain()
            match found:
                case Done(verdict):
                    if engine.state in (State.ERROR, State.ACCEPTED_ALL, State.REJECTED_ALL):
                        self.close()
                    return verdict
                case Progress():
                    pass
                case _ if found is NEED_DATA:
                    await self._receive(stream, timeout)
                case _:
                    assert change is not None
                    await change(found)

    async def _receive(self, stream: Stream, timeout: float) -> None:
        engine = self.engine
        try:
            data = await stream.read(timeout)
        except TimeoutError:
            engine.lose(_TIMEOUT)
        except OSError as error:
            engine.lose(_reason(error))
        else:
            engine.receive_data(data)

    def abort(self) -> None:
        """There is no message any more."""
        self._send(self.engine.abort())

    def quit(self) -> None:
        """The client is gone."""
        self._send(self.engine.quit())
        self.close()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _send(self, octets: bytes) -> None:
        if octets and self._stream is not None:
            self._stream.write(octets)

    def _complain(self) -> None:
        for text in self.engine.warnings:
            for line in text.split("\n"):
                self._warn(line)
        self.engine.warnings.clear()

    def _warn(self, text: str) -> None:
        self.log.warning(f"milter {self.milter.name}: {text}")


def _reason(error: Exception) -> str:
    if isinstance(error, asyncio.IncompleteReadError):
        return "Application error"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
