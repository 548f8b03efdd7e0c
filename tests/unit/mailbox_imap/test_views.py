"""Shared mailboxes: three sessions' numbers, other programs' files, Dovecot's uidlist."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailstack.mailbox.views import KeywordsFullError, MailStore, SharedMailbox, View
from mailstack.net.clock import ManualClock
from mailstack.storage.durable import GroupCommit
from mailstack.storage.maildir import tree
from mailstack.storage.maildir.names import DELETED, FLAGGED, SEEN


@asynccontextmanager
async def store_at(root: Path) -> AsyncIterator[MailStore]:
    commit = GroupCommit()
    store = MailStore(commit, ManualClock(), "h")
    try:
        yield store
    finally:
        store.close()
        commit.close()


def with_inbox(root: Path, check: Callable[[MailStore, SharedMailbox], Awaitable[None]]) -> None:
    async def run() -> None:
        async with store_at(root) as store:
            await check(store, await store.open(str(root)))

    asyncio.run(run())


async def add(box: SharedMailbox, count: int, flags: int = 0) -> None:
    for _ in range(count):
        await box.append([box.prepare([b"Subject: x\r\n\r\n"], flags, None)])


class Client:
    """What a client believes after every response: the messages it numbers, with their flags."""

    def __init__(self, box: SharedMailbox) -> None:
        self.view = View(box, readonly=False)
        self.uids = [self.view.uid(number) for number in range(1, self.view.count + 1)]
        self.seen: dict[int, int] = {}

    def hear(self, expunge: bool) -> None:
        updates = self.view.sync(expunge)
        assert expunge or not updates.expunged
        for number in updates.expunged:
            del self.uids[number - 1]
        if updates.exists is not None:
            assert updates.exists >= len(self.uids)
            for number in range(len(self.uids) + 1, updates.exists + 1):
                self.uids.append(self.view.uid(number))
        folder = self.view.box.folder
        for number in updates.flags:
            self.seen[self.uids[number - 1]] = folder.flags[folder.index(self.uids[number - 1])]
        assert self.uids == [self.view.uid(number) for number in range(1, self.view.count + 1)]
        assert all(self.view.number(uid) == at for at, uid in enumerate(self.uids, 1))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["append", "expunge", "flag", "hear", "partly"]), st.integers(0, 2), st.integers(0, 9)
    ),
    max_size=30,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_sessions_never_disagree(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    async def check(store: MailStore, box: SharedMailbox) -> None:
        await add(box, 3)
        clients = [Client(box) for _ in range(3)]
        for action, who, which in steps:
            client = clients[who]
            uid = client.uids[which % len(client.uids)] if client.uids else 0
            match action:
                case "append":
                    await add(box, 1 + which % 3)
                case "expunge":
                    await box.expunge([uid])
                case "flag":
                    await box.store_flags([uid], lambda old: old ^ FLAGGED, client.view)
                case _:
                    client.hear(expunge=action == "hear")
        for client in clients:
            client.hear(expunge=True)
        assert clients[0].uids == clients[1].uids == clients[2].uids == list(box.folder.uids)

    with_inbox(tmp_path_factory.mktemp("m"), check)


def test_a_long_log_is_merged_and_nobody_misses_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailstack.mailbox.views.watched.LOG_LIMIT", 4)

    async def check(store: MailStore, box: SharedMailbox) -> None:
        await add(box, 12)
        lagging, other = Client(box), Client(box)
        for uid in range(1, 11):
            await box.store_flags([uid], lambda old: old | SEEN, None)
            await box.expunge([uid])
            if uid % 3 == 0:
                other.hear(expunge=True)
        assert len(box.log) <= 6
        lagging.hear(expunge=False)
        assert lagging.uids == list(range(1, 13))
        for client in (lagging, other):
            client.hear(expunge=True)
            assert client.uids == [11, 12]

    with_inbox(tmp_path, check)


def test_recent_belongs_to_one_session(tmp_path: Path) -> None:
    async def check(store: MailStore, box: SharedMailbox) -> None:
        await add(box, 2)
        looking, first, second = (
            View(box, readonly=True),
            View(box, readonly=False),
            View(box, readonly=False),
        )
        assert (first.recent_count(), second.recent_count()) == (2, 0)
        await add(box, 1)
        second.sync(expunge=True)
        first.sync(expunge=True)
        looking.sync(expunge=True)
        assert (first.recent_count(), second.recent_count(), looking.recent_count()) == (2, 1, 0)
        assert not os.listdir(tmp_path / "new")

    with_inbox(tmp_path, check)


@pytest.mark.parametrize("watched", [True, False])
def test_what_other_programs_do_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watched: bool
) -> None:
    if not watched:
        monkeypatch.setattr("mailstack.storage.maildir.watch.Watcher.watch", lambda *_: None)

    async def check(store: MailStore, box: SharedMailbox) -> None:
        await add(box, 3)
        client = Client(box)
        (tmp_path / "new" / "1.dropped").write_bytes(b"Subject: x\n\n")
        names = sorted(os.listdir(tmp_path / "cur"))
        os.rename(tmp_path / "cur" / names[0], tmp_path / "cur" / (names[0] + "S"))
        os.unlink(tmp_path / "cur" / names[1])
        await box.refresh()
        client.hear(expunge=True)
        assert client.uids == [1, 3, 4]
        assert client.seen == {1: SEEN}
        os.rename(tmp_path / "cur" / "1.dropped:2,", tmp_path / "cur" / "1.dropped:2,T")
        assert await box.store_flags([4], lambda old: old | SEEN, None) == [4]
        assert (tmp_path / "cur" / "1.dropped:2,ST").exists()

    with_inbox(tmp_path, check)


def test_an_idler_is_woken_by_delivery_and_by_other_programs(tmp_path: Path) -> None:
    async def check(store: MailStore, box: SharedMailbox) -> None:
        view = View(box, readonly=False)
        woken = asyncio.Event()
        view.wake = woken.set
        await store.deliver(str(tmp_path), [b"Subject: x\r\n\r\n"])
        assert woken.is_set()
        woken.clear()
        (tmp_path / "tmp" / "2.x").write_bytes(b"x\n")
        os.rename(tmp_path / "tmp" / "2.x", tmp_path / "new" / "2.x")
        await asyncio.wait_for(woken.wait(), 10)
        await box.refresh()
        assert view.sync(expunge=True).exists == 2

    with_inbox(tmp_path, check)


def test_uids_survive_a_restart_and_a_uidlist_that_dovecot_has_rewritten(tmp_path: Path) -> None:
    async def first(store: MailStore, box: SharedMailbox) -> None:
        await add(box, 3, SEEN)
        await box.expunge([3])

    async def second(store: MailStore, box: SharedMailbox) -> None:
        assert list(box.folder.uids) == [1, 2]
        await add(box, 1)
        assert list(box.folder.uids) == [1, 2, 4]
        client = Client(box)
        (tmp_path / "cur" / "9.theirs:2,").write_bytes(b"x\n")
        text = (tmp_path / "dovecot-uidlist").read_text() + "7 W3 S2 :9.theirs\n"
        (tmp_path / "x").write_text(text.replace(" N1 ", " N20 "))
        os.rename(tmp_path / "x", tmp_path / "dovecot-uidlist")
        await box.refresh()
        client.hear(expunge=True)
        assert client.uids == [1, 2, 4, 7]
        assert box.wire_size(3) == 3
        await add(box, 1)
        assert list(box.folder.uids)[-1] == 20

    with_inbox(tmp_path, first)
    validity = (tmp_path / "dovecot-uidlist").read_text().split()[1]
    with_inbox(tmp_path, second)
    assert (tmp_path / "dovecot-uidlist").read_text().split()[1] == validity


def test_copies_and_moves_keep_flags_keywords_and_dates(tmp_path: Path) -> None:
    async def check(store: MailStore, box: SharedMailbox) -> None:
        tree.create(str(tmp_path), "Box")
        target = await store.open(str(tmp_path), "Box")
        await target.add_keywords(["other"])
        await box.add_keywords(["mine"])
        bit = box.folder.keywords.bit("mine") or 0
        await box.append([box.prepare([b"x\r\n"], FLAGGED | bit, 1_000_000.0)])
        await add(box, 1)
        assert await box.transfer([1, 2], target, move=False) == [(1, 1), (2, 2)]
        assert await box.transfer([2, 1], target, move=True) == [(2, 3), (1, 4)]
        assert list(box.folder.uids) == []
        assert target.folder.keywords.of(target.folder.flags[3]) == ["mine"]
        assert target.folder.date(0) == target.folder.date(3) == 1_000_000
        both = await asyncio.gather(
            target.transfer([1, 2], box, move=True), box.transfer([9], target, move=True)
        )
        assert [new for _, new in both[0]] == [3, 4]

    with_inbox(tmp_path, check)


def test_messages_that_come_together_are_all_there_or_none(tmp_path: Path) -> None:
    async def check(store: MailStore, box: SharedMailbox) -> None:
        good = [box.prepare([b"%d\r\n" % number], 0, None) for number in range(3)]
        assert await box.append(good) == [1, 2, 3]
        bad = [box.prepare([b"x\r\n"], 0, None) for _ in range(2)]
        bad[1] = (replace(bad[1][0], final=f"{tmp_path}/nowhere/x"), True)
        with pytest.raises(FileNotFoundError):
            await box.append(bad)
        await box.refresh()
        assert list(box.folder.uids) == [1, 2, 3]
        assert len(os.listdir(tmp_path / "new")) == 3 and not os.listdir(tmp_path / "tmp")

    with_inbox(tmp_path, check)


def test_a_message_whose_session_has_gone_is_found(tmp_path: Path) -> None:
    async def check(store: MailStore, box: SharedMailbox) -> None:
        appending = asyncio.create_task(box.append([box.prepare([b"x\r\n"], 0, None)]))
        await asyncio.sleep(0)
        appending.cancel()
        async with asyncio.timeout(30):
            while not box.folder.uids:
                await asyncio.sleep(0)
                await box.refresh()
        assert list(box.folder.uids) == [1]

    with_inbox(tmp_path, check)


def test_keywords_have_an_end(tmp_path: Path) -> None:
    async def check(store: MailStore, box: SharedMailbox) -> None:
        with pytest.raises(KeywordsFullError):
            await box.add_keywords([f"k{number}" for number in range(27)])

    with_inbox(tmp_path, check)


def test_a_deleted_mailbox_is_gone_for_its_sessions(tmp_path: Path) -> None:
    async def check(store: MailStore, box: SharedMailbox) -> None:
        root = str(tmp_path)
        tree.create(root, "Box")
        target = await store.open(root, "Box")
        view = View(target, readonly=False)
        woken = asyncio.Event()
        view.wake = woken.set
        tree.purge(tree.delete(root, "Box", "u"))
        store.deleted(target.folder.path)
        assert woken.is_set()
        with pytest.raises(OSError, match="deleted"):
            await target.refresh()
        with pytest.raises(FileNotFoundError):
            await store.open(root, "Box")

    with_inbox(tmp_path, check)


def test_many_changes_go_through_threads(tmp_path: Path) -> None:
    async def check(store: MailStore, box: SharedMailbox) -> None:
        await asyncio.gather(*(add(box, 10) for _ in range(10)))
        client = Client(box)
        uids = list(box.folder.uids)
        assert uids == list(range(1, 101))
        assert await box.store_flags(uids, lambda old: old | DELETED, None) == uids
        await box.expunge(uids[:-1])
        client.hear(expunge=True)
        assert client.uids == [100]

    with_inbox(tmp_path, check)
