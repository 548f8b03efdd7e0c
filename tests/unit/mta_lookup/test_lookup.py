"""Tables that must be waited for: their protocols, what stands still meanwhile (nothing), and how they fail."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mailstack.mta.address_maps import AddressMaps, DomainList
from mailstack.mta.lookup import Pending, SlowTable, opener, settled, settled_call
from mailstack.net.tables import nis
from mailstack.net.tables.channel import Channel, ServiceError, close_all
from mailstack.net.tables.tcp import TcpTable
from mailstack.net.tasks import TaskSet
from mailstack.storage.tables import Table, TableError
from tests.unit.mta_lookup import services
from tests.unit.mta_lookup.services import running


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        try:
            async with asyncio.timeout(30):
                await main()
        finally:
            await close_all()

    asyncio.run(bounded())


async def ask(table: Table, key: str) -> str | None:
    return await settled(lambda: table.lookup(key))


# ---- waiting


def test_a_function_is_called_again_until_every_answer_is_there() -> None:
    async def main() -> None:
        async with running(services.tcp) as service:
            first, second = (opener()(f"tcp:{service.address}") for _ in range(2))
            calls = 0

            def both() -> tuple[str | None, ...]:
                nonlocal calls
                calls += 1
                return first.lookup("a"), second.lookup("b"), first.lookup("a"), first.lookup("none")

            assert await settled(both) == ("A", "B", "A", None)
            assert calls == 4
            assert service.asked == ["a", "b", "none"]
            with pytest.raises(Pending):  # nothing is remembered behind it
                first.lookup("a")

    run(main)


def test_a_slow_answer_holds_up_nobody_else() -> None:
    async def main() -> None:
        async with running(services.tcp) as service:
            table = opener()(f"tcp:{service.address}")
            service.held["slow"] = asyncio.Event()
            slow = asyncio.ensure_future(ask(table, "slow"))
            await service.question.wait()
            assert [await ask(table, key) for key in ("a", "b", "slower")] == ["A", "B", "SLOWER"]
            assert not slow.done()
            service.held["slow"].set()
            assert await slow == "SLOW"
            assert service.connections == 2

    run(main)


def test_two_sessions_with_the_same_question_and_a_driven_one() -> None:
    async def main() -> None:
        problems: list[object] = []
        tasks = TaskSet(lambda name, error: problems.append(error))
        found: list[str | None] = []

        async def session() -> None:
            found.append(await ask(table, "k"))

        async with running(services.tcp) as service:
            table = opener()(f"tcp:{service.address}")
            service.held["k"] = asyncio.Event()
            for _ in range(20):
                tasks.drive(session(), "session")
            await service.question.wait()
            service.held["k"].set()
            await tasks.drain(10)
            assert found == ["K"] * 20
            assert service.connections <= 8  # questions at the same time to one service
            assert not problems

    run(main)


def test_what_waits_for_other_things_as_well() -> None:
    async def main() -> None:
        table = SlowTable("slow:x", lambda key: asyncio.sleep(0, key * 2))

        async def both() -> list[str | None]:
            first = table.lookup("a")
            await asyncio.sleep(0)
            return [first, table.lookup("b")]

        assert await settled_call(both) == ["aa", "bb"]

    run(main)


def test_nobody_waits() -> None:
    """A caller that does not know of slow tables has a table that fails for now."""
    table = opener()("tcp:127.0.0.1:1")
    with pytest.raises(TableError, match="the answer is not there yet"):
        AddressMaps(["x"], lambda name: table).find("zs@x.test")


def test_maps_lists_and_tables_of_tables() -> None:
    async def main() -> None:
        async with running(services.tcp) as service:
            name = f"tcp:{service.address}"
            maps = AddressMaps([name], opener(), delimiters="+")
            found = await settled(lambda: maps.find("no+ext@x.test"))
            assert found is not None
            assert (found.value, found.extension) == ("@X.TEST", "")
            asked = len(service.asked)
            assert await settled(lambda: maps.find("no+ext@x.test")) == found
            assert len(service.asked) == asked  # remembered, as any other table's
            domains = DomainList([name], opener())
            assert await settled(lambda: domains.match("x.test"))
            pipe = opener()(f"pipemap:{{{name},inline:{{A=found}}}}")
            assert await ask(pipe, "a") == "found"
            union = opener()(f"unionmap:{{proxy:{name},{name}}}")
            assert await ask(union, "a") == "A,A"

    run(main)


# ---- protocols


def test_tcp() -> None:
    async def main() -> None:
        async with running(services.tcp) as service:
            table = opener()(f"tcp:{service.address}")
            assert await ask(table, "none") is None
            assert await ask(table, "ü % x") == "ü % X"
            assert service.asked[-1] == "%C3%BC%20%25%20x"
            for key, message in {
                "bad key": "no such luck",
                "garbage": "malformed reply",
                "hang up": "lost connection",
            }.items():
                with pytest.raises(TableError, match=f"table tcp:.*: query error: .*{message}"):
                    await ask(table, key)

    run(main)


def test_a_connection_that_was_closed_meanwhile_is_made_anew() -> None:
    async def main() -> None:
        async with running(services.once) as service:
            table = opener()(f"tcp:{service.address}")
            for key in ("a", "b", "c"):
                assert await ask(table, key) == key.upper()
            assert service.asked == ["a", "b", "c"]

    run(main)


def test_nobody_answers() -> None:
    async def main() -> None:
        async with running(services.tcp) as service:
            service.held["k"] = asyncio.Event()
            with pytest.raises(ServiceError, match="Connection timed out"):
                await TcpTable(service.address, timeout=0.05).query("k")
            service.held["k"].set()
        with pytest.raises(TableError, match=r"query error: connect to .*: Connection refused"):
            await ask(opener()(f"tcp:{service.address}"), "k")

    run(main)


def test_socketmap(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            running(services.socketmap) as inet,
            running(services.socketmap, str(tmp_path / "sock")) as unix,
        ):
            for address in (f"inet:{inet.address}", unix.address):
                table = opener()(f"socketmap:{address}:virtual")
                assert await ask(table, "zs@x.test") == "virtual=ZS@X.TEST"
                assert await ask(table, "a key, 8:") == "virtual=A KEY, 8:"
                assert await ask(table, "none") is None
                for key, message in {
                    "TEMP try again": "map virtual temporary error: try again",
                    "PERM never": "permanent error: never",
                    "TIMEOUT ": "timeout error: no reason given",
                    "long": "bad netstring length",
                }.items():
                    with pytest.raises(TableError, match=message):
                        await ask(table, key)

    run(main)


def test_memcache_with_a_backup(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(services.memcached) as cache, running(services.tcp) as backup:
            (tmp_path / "conf").write_text(
                f"memcache = inet:{cache.address}\nbackup = tcp:{backup.address}\nkey_format = v:%s\n"
                "ttl = 60\nflags = 7\ndomain = x.test\n"
            )
            table = opener()(f"memcache:{tmp_path}/conf")
            for _ in range(2):
                assert await ask(table, "zs@x.test") == "ZS@X.TEST"
            assert backup.asked == ["zs@x.test"]
            assert cache.asked == ["v:zs@x.test", "set v:zs@x.test 7 60", "v:zs@x.test"]
            assert await ask(table, "zs@y.test") is None
            assert await ask(table, "no@x.test") is None
            assert await ask(table, "a b@x.test") == "A%20B@X.TEST".replace("%20", " ")  # not for a cache
            assert len(cache.stored) == 1

    run(main)


def test_memcache_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(services.memcached) as cache:
            (tmp_path / "conf").write_text(
                f"memcache = {cache.address}\ndata_size_limit = 5\nretry_pause = 0\n"
            )
            table = opener()(f"memcache:{tmp_path}/conf")
            cache.stored["k"] = "value"
            assert await ask(table, "K") == "value"
            assert await ask(table, "z") is None
            cache.stored["k"] = "longer"
            with pytest.raises(TableError, match="over data_size_limit"):
                await ask(table, "k")
        (tmp_path / "conf").write_text(f"memcache = {cache.address}\nmax_try = 3\nretry_pause = 0\n")
        with pytest.raises(TableError, match="Connection refused"):
            await ask(opener()(f"memcache:{tmp_path}/conf"), "k")

    run(main)


def test_sqlite_in_its_thread(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "data") as connection:
        connection.execute("CREATE TABLE t AS SELECT 'zs@x.test' AS k, 'found' AS v")
    connection.close()
    (tmp_path / "conf").write_text(
        f"dbpath = {tmp_path}/data\nquery = SELECT v FROM t WHERE k = '%s'\ndomain = x.test\n"
    )

    async def main() -> None:
        table = opener()(f"sqlite:{tmp_path}/conf")
        assert await ask(table, "zs@x.test") == "found"
        assert await ask(table, "zs@y.test") is None
        assert threading.main_thread() in threading.enumerate()
        assert any(thread.name.startswith("lookup") for thread in threading.enumerate())

    run(main)


def test_without_a_nis_domain_its_maps_are_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("domain", "(none)\n"), ("named", "x.test\n")):
        (tmp_path / name).write_text(text)
    assert not nis.in_a_domain(tmp_path / "domain") and not nis.in_a_domain(tmp_path / "missing")
    assert nis.in_a_domain(tmp_path / "named")
    monkeypatch.setattr(nis, "in_a_domain", lambda: False)
    said: list[str] = []
    table = opener(said.append)("nis:mail.aliases")
    assert table.lookup("zs") is None
    assert said == ["nis:mail.aliases: NIS domain name not set - NIS lookups disabled"]


def test_nis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nis, "in_a_domain", lambda: True)
    with pytest.raises(
        TableError, match=r"open nis:mail.aliases: the yp tools \(ypmatch\) are not installed"
    ):
        monkeypatch.setenv("PATH", str(tmp_path))
        opener()("nis:mail.aliases")
    command = tmp_path / "ypmatch"
    command.write_text(
        '#!/bin/sh\ntest "$1 $3" = "-- mail.aliases" || exit 3\n'
        'case "$2" in\n'
        "zs) echo zs@x.test;;\n"
        'down) echo "Domain not bound" >&2; exit 1;;\n'
        '*) echo "No such key in map" >&2; exit 1;;\nesac\n'
    )
    command.chmod(0o755)

    async def main() -> None:
        table = opener()("nis:mail.aliases")
        assert await ask(table, "ZS") == "zs@x.test"
        assert await ask(table, "-k") is None
        with pytest.raises(TableError, match="Domain not bound"):
            await ask(table, "down")

    run(main)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tcp:nowhere", "expected host:port"),
        ("socketmap:127.0.0.1:1:x", "expected inet:host:port:name"),
        ("socketmap:unix:relative:x", "must begin with /"),
        ("sqlite:/no/such/file", "open sqlite:/no/such/file: No such file or directory"),
        ("memcache:relative", "must begin with /"),
        ("mysql:/etc/mysql.cf", "no MySQL client"),
    ],
)
def test_what_is_no_table(name: str, message: str) -> None:
    with pytest.raises(TableError, match=message):
        opener()(name)


def test_what_is_kept_is_closed() -> None:
    async def main() -> None:
        async with running(services.tcp) as service:
            table = TcpTable(service.address)
            assert await table.query("a") == "A"
            table.close()
            assert isinstance(table._channel, Channel)
            assert table._channel._idle == []

    run(main)
