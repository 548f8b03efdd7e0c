"""virtual(8), error(8), discard(8): Maildir delivery, and answers that need no host. Log lines."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from mailstack.mta import lines
from mailstack.mta.deliver.error import ErrorAgent
from mailstack.mta.deliver.request import Bounced, Deferred, Result, Sent, Target
from mailstack.mta.deliver.virtual import VirtualAgent
from mailstack.net.clock import ManualClock
from mailstack.net.log import Log
from mailstack.storage.durable import GroupCommit
from mailstack.storage.queue import Queue
from mailstack.storage.tables import open_table
from tests.unit.mta_deliver.support import CONTENT, configuration, request, summary


def deliver(
    tmp_path: Path, *targets: Target, conf: str = "", table: str = "", log: int = -1, content: bytes = CONTENT
) -> Sequence[Result]:
    (tmp_path / "vmailbox").write_text(table or "zs@x.test x.test/zs/\nbox@x.test x.test/box\n")

    async def main() -> Sequence[Result]:
        queue = Queue(str(tmp_path / "queue"))
        queue.create()
        commit = GroupCommit()
        text = (
            f"virtual_mailbox_maps = texthash:{tmp_path}/vmailbox\nvirtual_mailbox_base = {tmp_path}/mail\n"
            f"recipient_delimiter = +\n{conf}"
        )
        lines = Log("postfix/virtual", "mail", log)
        agent = VirtualAgent(configuration(text), queue, commit, open_table, ManualClock(), lines)
        job = await request(queue, "", *(target.address for target in targets), content=content)
        job.targets[:] = targets
        results = await agent.deliver(job)
        await agent.close()
        commit.close()
        return results

    return asyncio.run(main())


def test_a_maildir(tmp_path: Path) -> None:
    results = deliver(tmp_path, Target(0, "ZS+ext@x.test", "info@x.test"))
    assert summary(results) == [("ZS+ext@x.test", "Sent", "2.0.0", "delivered to maildir")]
    assert results[0].relay == "virtual"
    [path] = (tmp_path / "mail" / "x.test" / "zs" / "new").iterdir()
    head = b"Return-Path: <zs@x.test>\nX-Original-To: info@x.test\nDelivered-To: ZS+ext@x.test\n"
    assert path.read_bytes() == head + CONTENT.replace(b"\r\n", b"\n")


def test_a_large_message_in_a_maildir(tmp_path: Path) -> None:
    content = CONTENT + b"large\r\n" * 100_000
    results = deliver(tmp_path, Target(0, "zs@x.test"), content=content)
    assert summary(results) == [("zs@x.test", "Sent", "2.0.0", "delivered to maildir")]
    folder = tmp_path / "mail" / "x.test" / "zs"
    [path] = (folder / "new").iterdir()
    delivered = path.read_bytes()
    assert delivered.endswith(b"\n" + content.replace(b"\r\n", b"\n")) and not list(
        (folder / "tmp").iterdir()
    )
    assert f",S={len(delivered)},W={len(delivered) + delivered.count(10)}" in path.name


def test_what_cannot_be_delivered(tmp_path: Path) -> None:
    assert summary(deliver(tmp_path, Target(0, "no@x.test"))) == [
        ("no@x.test", "Bounced", "5.1.1", 'unknown user: "no@x.test"')
    ]
    broken = "virtual_mailbox_maps = fail:always\n"
    assert summary(deliver(tmp_path, Target(0, "zs@x.test"), conf=broken))[0][1:3] == (
        "Deferred",
        "4.3.5",
    )
    small = deliver(tmp_path, Target(0, "zs@x.test"), conf="virtual_mailbox_limit = 10\n")
    assert summary(small)[0][1:3] == ("Bounced", "5.2.3")
    (tmp_path / "mail").write_text("no folder")
    assert summary(deliver(tmp_path, Target(0, "zs@x.test")))[0][1:3] == ("Deferred", "4.2.0")


def test_an_mbox(tmp_path: Path) -> None:
    (tmp_path / "mail" / "x.test").mkdir(parents=True)
    for _ in range(2):
        results = deliver(tmp_path, Target(0, "box@x.test"))
        assert summary(results) == [("box@x.test", "Sent", "2.0.0", "delivered to mailbox")]
    first, second = (tmp_path / "mail" / "x.test" / "box").read_bytes().split(b"From zs@x.test  ")[1:]
    head = b"Return-Path: <zs@x.test>\nX-Original-To: box@x.test\nDelivered-To: box@x.test\n"
    assert first.partition(b"\n")[2] == head + CONTENT.replace(b"\r\n", b"\n") + b"\n"
    assert second.partition(b"\n")[2] == first.partition(b"\n")[2]
    full = deliver(tmp_path, Target(0, "box@x.test"), conf="virtual_mailbox_limit = 300\n")
    box = tmp_path / "mail" / "x.test" / "box"
    assert summary(full)[0][1:] == (
        "Bounced",
        "5.2.2",
        f"delivery failed to mailbox {box}: error writing message: File too large",
    )
    assert box.read_bytes().count(b"From zs") == 2


@pytest.mark.parametrize(
    ("uid", "gid", "problem"),
    [
        ("99", "65534", "recipient zs@x.test: bad uid 99 in virtual_uid_maps"),
        ("nobody", "65534", "recipient zs@x.test: bad uid nobody in virtual_uid_maps"),
        ("65534", "0", "recipient zs@x.test: bad gid 0 in virtual_gid_maps"),
        ("65534", None, "recipient zs@x.test: not found in virtual_gid_maps"),
    ],
)
def test_whose_a_mailbox_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: str, gid: str | None, problem: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    conf = f"virtual_uid_maps = static:{uid}\n" + (f"virtual_gid_maps = static:{gid}\n" if gid else "")
    with (tmp_path / "log").open("w") as log:
        results = deliver(tmp_path, Target(0, "zs@x.test"), conf=conf, log=log.fileno())
    assert summary(results)[0][1:] == ("Deferred", "4.3.5", "mail system configuration error")
    assert problem in (tmp_path / "log").read_text()


def test_mailboxes_of_others(tmp_path: Path) -> None:
    """Root writes them in their name; anybody else keeps them, and says so."""
    conf = "virtual_uid_maps = static:65534\nvirtual_gid_maps = static:65533\n"
    with TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        (root / "mail").mkdir()
        if os.geteuid() == 0:
            os.chown(root / "mail", 65534, 65533)
        with (root / "log").open("w") as log:
            results = deliver(root, Target(0, "zs@x.test"), conf=conf, log=log.fileno())
        assert summary(results)[0][1:3] == ("Sent", "2.0.0")
        [path] = (root / "mail" / "x.test" / "zs" / "new").iterdir()
        warned = "virtual_uid_maps: not running as root" in (root / "log").read_text()
        if os.geteuid() == 0:
            assert (path.stat().st_uid, path.stat().st_gid, warned) == (65534, 65533, False)
        else:
            assert (path.stat().st_uid, warned) == (os.geteuid(), True)


@pytest.mark.parametrize(
    ("daemon", "nexthop", "expected"),
    [
        ("error", "5.1.6 User has moved to x", Bounced("User has moved to x", "5.1.6")),
        ("error", "mail is refused", Bounced("mail is refused", "5.0.0")),
        ("retry", "4.7.1 later", Deferred("later", "4.7.1")),
        ("retry", "later", Deferred("later", "4.0.0")),
        ("discard", "gone", Sent("gone", "2.0.0")),
    ],
)
def test_answers_without_a_host(
    tmp_path: Path, daemon: str, nexthop: str, expected: Sent | Deferred | Bounced
) -> None:
    async def main() -> Sequence[Result]:
        queue = Queue(str(tmp_path / "queue"))
        queue.create()
        return await ErrorAgent(daemon).deliver(await request(queue, nexthop, "a@x.test"))

    [result] = asyncio.run(main())
    assert (result.outcome, result.relay) == (expected, "none")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-1, "0"),
        (0.004, "0"),
        (0.0349, "0.03"),
        (0.5, "0.5"),
        (0.999, "1"),
        (1.26, "1.3"),
        (9.9, "9.9"),
        (9.96, "10"),
        (123.4, "123"),
        (100000, "100000"),
    ],
)
def test_delays_as_postfix_prints_them(value: float, text: str) -> None:
    assert lines.seconds(value) == text


def test_the_delivery_line() -> None:
    result = Result(Target(0, "b c@x.test", "o@x.test"), Deferred("why", "4.4.1"), "h[192.0.2.1]:25", 0.1, 3)
    assert lines.delivery("ABC", result, (1.0, 0.02, 0.1, 0.3)) == (
        'ABC: to=<"b c"@x.test>, orig_to=<o@x.test>, relay=h[192.0.2.1]:25, conn_use=3, delay=1.4, '
        "delays=1/0.02/0.1/0.3, dsn=4.4.1, status=deferred (why)"
    )
