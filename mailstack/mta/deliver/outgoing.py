"""What a message becomes on its way out: addresses that the outside may know, and seven bits where it must.

`smtp_generic_maps` rewrites the envelope and the headers; then come `smtp_header_checks` and their like
(`content_checks`). A message of eight bits for a server that does not
announce 8BITMIME becomes quoted-printable (RFC 6152 §3), unless `disable_mime_output_conversion` says no.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import OpenTable
from mailstack.mta.cleanup.headers import BLOCK, rewrite_headers
from mailstack.mta.cleanup.maps import Generic
from mailstack.mta.deliver.names import Daemon, Names
from mailstack.mta.deliver.request import Request, Result, Target
from mailstack.mta.deliver.session import Convert, Session
from mailstack.mta.lookup import settled
from mailstack.mta.rewrite import Rewriter
from mailstack.net.log import Log
from mailstack.storage.queue import Queue

if TYPE_CHECKING:
    from mailstack.mta.deliver.content_checks import OutgoingChecks

CHECKS = ("header_checks", "mime_header_checks", "nested_header_checks", "body_checks")
HEAD = 256 * 1024
"""Octets of the content that are looked at for headers."""


class Outgoing:
    """The changes that one configuration asks for."""

    def __init__(
        self,
        conf: MainCf,
        queue: Queue,
        rewriter: Rewriter | None,
        open_table: OpenTable,
        log: Log,
        daemon: Daemon = "smtp",
    ) -> None:
        self._queue = queue
        self._convert = not conf.bool("disable_mime_output_conversion")
        self._limit = conf.int("header_address_token_limit")
        self._generic: Generic | None = None
        names = Names(conf, daemon)
        if rewriter is not None:
            self._generic = Generic.load(conf, rewriter, open_table, names.full("generic_maps"))
        self._checks: OutgoingChecks | None = None
        if any(map(names.list, CHECKS)):
            from mailstack.mta.deliver.content_checks import OutgoingChecks  # few have any

            self._checks = OutgoingChecks(names, open_table, log)
        self.idle = self._generic is None and self._checks is None
        """Only what a server lacks may change a message."""

    async def prepare(self, request: Request, session: Session) -> Request:
        """The request as this session is to have it. Raises `TableError`, `MapError` or `OSError`."""
        downgrading = (
            self._convert
            and request.message.envelope.body == "8bitmime"
            and "8BITMIME" not in session.engine.extensions
        )
        if self.idle and not downgrading:
            return request
        new = Request(request.message, request.nexthop, request.targets, request.entered, request.started)
        block, changed = b"", b""
        generic = self._generic
        if generic is not None:
            change = generic.address
            envelope = request.message.envelope
            new.sender = await settled(lambda: change(envelope.sender)) if envelope.sender else ""
            new.targets = [
                Target(target.index, await settled(partial(change, target.address)), target.original)
                for target in request.targets
            ]
            found = BLOCK.match(self._queue.read_content(request.message, HEAD))
            block = found[0] if found is not None else b""
            changed = await settled(
                lambda: rewrite_headers(block, lambda _, address: change(address), self._limit)
            )
        checks = self._checks.changes(request.message.queue_id) if self._checks is not None else None
        if changed != block or downgrading or checks is not None:
            new.convert = _Conversion(len(block), changed, checks, downgrading)
        return new


class _Conversion:
    """The parts of a message with another header block, as seven bits where that is asked for."""

    def __init__(self, length: int, block: bytes, checks: Convert | None, downgrading: bool) -> None:
        self._length, self._block = length, block
        self._checks, self._downgrading = checks, downgrading

    def __call__(self, parts: Iterable[bytes]) -> Iterator[bytes]:
        spliced = self._spliced(parts)
        if self._checks is not None:
            spliced = self._checks(spliced)
        if not self._downgrading:
            return spliced
        # Imported when a message needs it: few do.
        from mailstack.wire.mime.downgrade import downgrade

        return downgrade(spliced)

    def _spliced(self, parts: Iterable[bytes]) -> Iterator[bytes]:
        skip = self._length
        if self._block:
            yield self._block
        for part in parts:
            if skip >= len(part):
                skip -= len(part)
                continue
            yield part[skip:] if skip else part
            skip = 0


def restored(results: Sequence[Result], request: Request) -> Sequence[Result]:
    """Results with the targets of the request as it came: their addresses are what is logged."""
    targets = {target.index: target for target in request.targets}
    return [replace(result, target=targets[result.target.index]) for result in results]
