"""A message as milters change it, and main.cf's words about milters."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mailstack.config.errors import ConfigError
from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.cleanup import Cleanup
from mailstack.mta.milter import Draft, Milters, Recipients, load_milters
from mailstack.mta.milter.draft import HEADER_ROOM, HELD, Body
from mailstack.mta.rewrite import Rewriter
from mailstack.net.log import Log
from mailstack.net.resolver import Resolver
from mailstack.storage.queue import Queue, Recipient, Spool
from mailstack.storage.tables import open_table
from mailstack.wire.milter import (
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteRecipient,
    Edit,
    InsertHeader,
    ReplaceBody,
)

OWN = b"Received: from c.test\r\n\tby us; now\r\n"
HEAD = OWN + b"Subject: one\r\n two\r\nX-A: 1\r\nX-A:2\r\n"
CF = "myhostname = mail.x.test\nmydomain = x.test\nvirtual_alias_maps = inline:{ ali@x.test=a@x.test }\n"


class Desk:
    """Drafts with a queue in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.queue = Queue(str(folder))
        self.queue.create()
        self.log = (folder / "log").open("w+")
        self.spools: list[Spool] = []

    def draft(self, body: bytes = b"\r\nhello\r\n", *, limit: int = 0) -> Draft:
        conf = MainCf.parse(CF, Path("main.cf"))
        rewriter = Rewriter(conf, open_table)
        envelope = Recipients(
            Cleanup(conf, rewriter, open_table),
            rewriter,
            "s@x.test",
            (Recipient("a@x.test", "ali@x.test"), Recipient("b@x.test")),
        )

        def spool(suffix: str) -> Spool:
            self.spools.append(self.queue.spool(0.0, queue_id="ID", suffix=suffix))
            return self.spools[-1]

        log = Log("postfix/cleanup", "mail", self.log.fileno())
        return Draft("ID", HEAD, Body((body,)), envelope, own=OWN, limit=limit, new_spool=spool, log=log)

    def files(self) -> list[str]:
        return self.queue.names("tmp")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.log.close()


async def change(draft: Draft, *edits: Edit, space: bool = True) -> None:
    draft.begin_changes(space=space)
    for edit in edits:
        await draft.change(edit)
    draft.end_changes()


def changed(draft: Draft, *edits: Edit, space: bool = True) -> tuple[bytes, bytes]:
    """Header and body when the milter has made these changes."""
    asyncio.run(change(draft, *edits, space=space))
    return b"".join(draft.headers), b"".join(draft.body.pieces())


def test_our_own_header_is_not_shown(desk: Desk) -> None:
    draft = desk.draft()
    assert list(draft.shown(leading_space=False)) == [
        (b"Subject", b"one\n two"),
        (b"X-A", b"1"),
        (b"X-A", b"2"),
    ]
    assert next(draft.shown(leading_space=True)) == (b"Subject", b" one\n two")
    assert b"".join(draft.text()) == b"hello\r\n"


SUBJECT, FIRST, SECOND = b"Subject: one\r\n two\r\n", b"X-A: 1\r\n", b"X-A:2\r\n"
NEW = b"X-B: b\r\n"


@pytest.mark.parametrize(
    ("edits", "headers"),
    [
        ([AddHeader(b"X-B", b"b")], [OWN, SUBJECT, FIRST, SECOND, NEW]),
        ([InsertHeader(0, b"X-B", b"b")], [NEW, OWN, SUBJECT, FIRST, SECOND]),
        ([InsertHeader(1, b"X-B", b"b")], [OWN, NEW, SUBJECT, FIRST, SECOND]),
        ([InsertHeader(99, b"X-B", b"b")], [OWN, SUBJECT, FIRST, SECOND, NEW]),
        ([ChangeHeader(2, b"x-a", b"new")], [OWN, SUBJECT, FIRST, b"x-a: new\r\n"]),
        ([ChangeHeader(1, b"X-A", b"")], [OWN, SUBJECT, SECOND]),
        ([ChangeHeader(3, b"X-A", b"")], [OWN, SUBJECT, FIRST, SECOND]),
        ([ChangeHeader(1, b"X-B", b"b")], [OWN, SUBJECT, FIRST, SECOND, NEW]),
        ([ChangeHeader(1, b"Received", b"")], [OWN, SUBJECT, FIRST, SECOND]),
        ([AddHeader(b"X-B", b"b\nc\r\n d\re")], [OWN, SUBJECT, FIRST, SECOND, b"X-B: b\r\n\tc\r\n d e\r\n"]),
        ([AddHeader(b"X B", b"b"), AddHeader(b"X\nB", b"b")], [OWN, SUBJECT, FIRST, SECOND]),
    ],
)
def test_headers(desk: Desk, edits: Sequence[Edit], headers: Sequence[bytes]) -> None:
    draft = desk.draft()
    assert changed(draft, *edits)[0] == b"".join(headers)
    assert draft.changed == (headers != [OWN, SUBJECT, FIRST, SECOND])


@pytest.mark.parametrize(
    ("pieces", "body"),
    [
        ([b""], b"\r\n"),
        ([b"one\r\ntwo\n"], b"\r\none\r\ntwo\r\n"),
        ([b"one\r", b"\ntw", b"o"], b"\r\none\r\ntwo\r\n"),
        ([b"one\r", b"two\r"], b"\r\none\rtwo\r\r\n"),
    ],
)
def test_a_new_body(desk: Desk, pieces: list[bytes], body: bytes) -> None:
    assert changed(desk.draft(), *map(ReplaceBody, pieces))[1] == body


def test_a_large_body_is_kept_in_a_file_and_copied_in_pieces(desk: Desk) -> None:
    draft = desk.draft()
    pieces = [ReplaceBody(b"%05d" % number * 9999 + b"\n") for number in range(60)]

    async def work() -> bytes:
        await change(draft, *pieces, AddHeader(b"X-B", b"b"))
        assert desk.files() == ["ID.body"]
        parts, spool = await draft.assemble(None)
        assert parts == [] and spool is not None
        content = spool.read(0, 1 << 30)
        draft.close()
        spool.abort()
        return content

    content = asyncio.run(work())
    new = b"".join(piece.data for piece in pieces).replace(b"\n", b"\r\n")
    assert len(new) > 10 * HELD
    assert content == HEAD + NEW + b"\r\n" + new
    assert desk.files() == []


def test_half_a_body_is_none(desk: Desk) -> None:
    draft = desk.draft()

    async def work() -> None:
        draft.begin_changes(space=True)
        await draft.change(ReplaceBody(b"x" * 2 * HELD))
        draft.spoil()
        draft.end_changes()

    asyncio.run(work())
    assert b"".join(draft.body.pieces()) == b"\r\nhello\r\n" and not draft.changed
    assert desk.files() == []


def test_what_a_milter_may_add_has_an_end(desk: Desk) -> None:
    draft = desk.draft(limit=1000)
    asyncio.run(change(draft, ReplaceBody(b"x" * 600), ReplaceBody(b"x" * 600), AddHeader(b"X-B", b"b")))
    assert draft.failure is not None and draft.failure.code == 552
    assert len(draft.headers) == 4
    many = desk.draft()
    asyncio.run(change(many, *[AddHeader(b"X", b"x" * 100_000)] * 60))
    assert many.failure is not None and sum(map(len, many.headers)) < HEADER_ROOM + 100


def test_the_envelope(desk: Desk) -> None:
    draft = desk.draft()
    changed(
        draft,
        ChangeSender("<new@far.test>", "RET=HDRS ENVID=x FOO=1"),
        DeleteRecipient("<ali@x.test>"),
        DeleteRecipient("<a@x.test>"),
        AddRecipient("<b@x.test>", ""),
        AddRecipient("ali@x.test", "NOTIFY=NEVER ORCPT=rfc822;c@x.test BAR"),
        AddRecipient("<>", ""),
    )
    envelope = draft.envelope
    assert (envelope.sender, envelope.ret, envelope.envid) == ("new@far.test", "HDRS", "x")
    assert envelope.recipients == (
        Recipient("b@x.test"),
        Recipient("a@x.test", "ali@x.test", "NEVER", "rfc822;c@x.test"),
    )
    desk.log.seek(0)
    log = desk.log.read()
    assert 'Ignoring bad ESMTP parameter "FOO=1" in SMFI_CHGFROM request' in log
    assert 'ID: ignoring ESMTP argument from Milter or header/body_checks: "BAR"' in log
    assert "ID: ignoring attempt from Milter to add null recipient" in log


# ---- main.cf


def milters(text: str, extra: str = "") -> object:
    conf = MainCf.parse(f"{CF}queue_directory = /q\nsmtpd_milters = {text}\n{extra}", Path("main.cf"))
    return load_milters(conf, "smtpd_milters", open_table, Resolver([("127.0.0.1", 1)]), maps=True)


def test_no_milters_are_none() -> None:
    assert milters("") is None
    assert milters("inet:h:1", "receive_override_options = no_milters\n") is None


def test_where_milters_are_and_how_they_are_spoken_to() -> None:
    found = milters(
        "inet:[::1]:8891, unix:run/m { local:/m, default_action=Accept, { command_timeout = 1m } protocol=2 }"
    )
    assert isinstance(found, Milters)
    first, second, third = found.list
    assert (first.kind, first.host, first.port, first.terms.default_action) == (
        "inet",
        "::1",
        8891,
        "tempfail",
    )
    assert (second.kind, second.host, second.command_timeout) == ("unix", "/q/run/m", 30.0)
    assert (third.host, third.terms.default_action, third.command_timeout) == ("/m", "accept", 60.0)
    assert third.terms.version == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("inet:", "needs transport:endpoint"),
        ("tcp:h:1", "invalid transport name"),
        ("inet:h:nosuchport", "no such port"),
        ("{ inet:h:1, foo=1 }", "syntax error"),
        ("{ }", "empty milter definition"),
        ("{ inet:h:1, default_action=maybe }", "unrecognized default action"),
        ("{ inet:h:1, protocol=5 }", "bad protocol information"),
        ("{ inet:h:1, connect_timeout=soon }", "is no time"),
    ],
)
def test_what_cannot_be_is_a_configuration_error(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        milters(text)


def test_maps_choose_by_address() -> None:
    maps = "smtpd_milter_maps = inline:{ {192.0.2.1 = DISABLE}, {192.0.2.2 = inet:other:2} }\n"
    found = milters("inet:h:1", maps)
    assert isinstance(found, Milters)
    assert [[one.host for one in found.of(f"192.0.2.{number}")] for number in (1, 2, 3)] == [
        [],
        ["other"],
        ["h"],
    ]
