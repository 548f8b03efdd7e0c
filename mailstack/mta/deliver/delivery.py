"""A request while host after host is tried: final results, and the last word on the other recipients."""

from __future__ import annotations

from collections.abc import Iterable

from mailstack.mta.deliver.destination import LOOP
from mailstack.mta.deliver.request import Deferred, Outcome, Request, Result
from mailstack.mta.deliver.session import said
from mailstack.net.log import Log
from mailstack.wire.smtp import Reply

NOT_TRIED = Deferred("server unavailable or unable to receive mail", "4.3.0")


class Delivery:
    """The recipients of one request. What is deferred while a host may be left is a line in the log."""

    def __init__(self, request: Request, log: Log) -> None:
        self.request = request
        self.results: list[Result] = []
        self.why: Outcome | None = None
        """Why the last host could not be used at all."""
        self._log = log
        self._open = {target.index: target for target in request.targets}
        self._last: dict[int, Result] = {}
        self._noted: list[str] = []
        self._answered = False
        """Some host has said something about a recipient."""
        self.harmless = False
        """What the last host is to blame for does not count against the destination."""

    @property
    def site_failure(self) -> Deferred | None:
        """Why no host could be used at all, whoever the recipients are."""
        if self._answered or self.harmless or not self._open:
            return None
        last = self._last.get(next(iter(self._open)))
        outcome = last.outcome if last is not None else self.why
        return outcome if isinstance(outcome, Deferred) else None

    @property
    def open(self) -> bool:
        """Whether some recipient could still go to another host."""
        return bool(self._open)

    @property
    def loops(self) -> bool:
        """The mail would come back to us."""
        return self.why is not None and self.why.dsn == LOOP

    def remaining(self) -> Request:
        """The request for the recipients left."""
        request = self.request
        if len(self._open) == len(request.targets):
            return request
        return Request(
            request.message, request.nexthop, list(self._open.values()), request.entered, request.started
        )

    def take(self, results: Iterable[Result]) -> None:
        """Results of a transaction: what is final stays, what is deferred may go on."""
        self._answered = True
        self.why = None
        self._tell()
        for result in results:
            if isinstance(result.outcome, Deferred):
                self._last[result.target.index] = result
                self._remember(result.outcome.text)
            else:
                self.results.append(result)
                del self._open[result.target.index]

    def note(
        self, outcome: Outcome, relay: str = "none", reply: Reply | None = None, *, connect: float = 0.0
    ) -> None:
        """An outcome of a session for every recipient left: a temporary one may be better elsewhere."""
        self.why = None
        self._tell()
        remote = relay.partition("[")[0] if reply is not None else ""
        diagnostic = f"smtp; {said(reply)}" if reply is not None else ""
        for target in list(self._open.values()):
            result = Result(target, outcome, relay, connect, remote_mta=remote, diagnostic=diagnostic)
            if isinstance(outcome, Deferred):
                self._last[target.index] = result
            else:
                self.results.append(result)
                del self._open[target.index]
        if isinstance(outcome, Deferred):
            self._remember(outcome.text)

    def fail(self, outcome: Outcome) -> None:
        """A host or destination that there was no session with: another may do, even if this is final."""
        self._tell()
        self.why = outcome
        self.harmless = False
        self._last.clear()

    def close(self) -> None:
        """No host is left: what was said last stands."""
        outcome = self.why or NOT_TRIED
        for index, target in self._open.items():
            self.results.append(self._last.get(index) or Result(target, outcome))
        self._open.clear()

    def _remember(self, text: str) -> None:
        """Said in the log when another host is tried: the last one's word is each recipient's own line."""
        self._noted.append(text)

    def _tell(self) -> None:
        for text in self._noted:
            self._log.info(f"{self.request.message.queue_id}: {text}")
        self._noted.clear()
