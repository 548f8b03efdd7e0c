"""Tables for the daemons: those in files, and those that have to ask a network or a database.

A look-up is an ordinary call, deep inside functions that do not wait for anything, and for a table in memory
that is all it costs. A table that has to ask elsewhere cannot answer a call without holding up every other
session, so it raises `Pending`. Whoever called the outermost function, and can wait, hands it to `settled`:

    try:
        found = recipients.unlisted(address)
    except Pending:
        found = await settled(lambda: recipients.unlisted(address))

`settled` asks, without anything else standing still, and calls the function again, which now finds this
answer and goes on to its next question, until it is through. So such a function must do nothing that may not
be done twice. `Pending` is a `TableError`: where nobody waits for it, it is a table that cannot answer for
now, and mail is deferred.

Every question has a deadline, and one table asks a bounded number of them at a time.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mailstack.net.tasks import apart
from mailstack.storage.tables import Factory, Opener, Table, TableError, Warn, open_table, to_stderr

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from mailstack.storage.tables.query import ConfigFile

T = TypeVar("T")
Ask = Callable[[str], Awaitable["str | None"]]
_Answer = str | Exception | None
_answers: dict[tuple[SlowTable, str], list[_Answer]] = {}
"""What functions that are being settled have learnt: one copy for each of them that has asked."""
THREAD_TIMEOUT = 60.0
"""Seconds for a question that blocks a thread, with the time it waits for its turn."""


class Pending(TableError):  # noqa: N818 - not a fault
    """A table has to be asked before the look-up can go on."""

    def __init__(self, table: SlowTable, key: str) -> None:
        super().__init__(f"table {table.name}: the answer is not there yet")
        self.table = table
        self.key = key


class SlowTable:
    """A table that must be waited for."""

    __slots__ = ("_ask", "name")

    def __init__(self, name: str, ask: Ask) -> None:
        self.name = name
        self._ask = ask

    def lookup(self, key: str) -> str | None:
        """The answer where it is known already; raises `Pending` where it is not."""
        answers = _answers.get((self, key))
        if answers is None:
            raise Pending(self, key)
        answer = answers[-1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def ask(self, key: str) -> str | None:
        """The answer. Raises `TableError`."""
        try:
            return await apart(self._asked(key))
        except OSError as error:
            raise TableError(f"table {self.name}: query error: {error}") from None

    async def _asked(self, key: str) -> str | None:
        return await self._ask(key)


async def settled(function: Callable[[], T]) -> T:
    """The result of a function, with every slow table's answer waited for.

    Raises what the function raises, except `Pending`.
    """

    async def call() -> T:
        return function()

    return await settled_call(call)


async def settled_call(function: Callable[[], Awaitable[T]]) -> T:
    """The same for a function that waits for other things as well."""
    learnt: list[tuple[SlowTable, str]] = []
    try:
        while True:
            try:
                return await function()
            except Pending as pending:
                table, key = pending.table, pending.key
            answer: _Answer
            try:
                answer = await table.ask(key)
            except TableError as error:
                answer = error
            _answers.setdefault((table, key), []).append(answer)
            learnt.append((table, key))
    finally:
        for question in learnt:
            answers = _answers[question]
            answers.pop()
            if not answers:
                del _answers[question]


def opener(warn: Warn = to_stderr) -> Opener:
    """`open_table` with every type that the daemons know; `warn` takes what is wrong with single lines."""
    others: dict[str, Factory] = {
        "tcp": _tcp,
        "socketmap": _socketmap,
        "nis": partial(_nis, warn=warn),
        "sqlite": partial(_sqlite, warn=warn),
        "memcache": partial(_memcache, warn=warn),
    }
    if accounts_are_remote():
        others["unix"] = _unix
    return partial(open_table, warn=warn, others=others)


def accounts_are_remote(nsswitch: Path = Path("/etc/nsswitch.conf")) -> bool:
    """Whether this machine's accounts may come from elsewhere, and take their time (nsswitch.conf(5))."""
    try:
        text = nsswitch.read_text("ascii", "replace")
    except OSError:
        return False
    found = _ACCOUNTS.findall(text)
    return any(word not in _NEAR for words in found for word in _ACTION.sub(" ", words).split())


_ACCOUNTS = re.compile(r"^[ \t]*(?:passwd|group)[ \t]*:([^#\n]*)", re.MULTILINE)
_ACTION = re.compile(r"\[[^]]*\]")
_NEAR = frozenset(("files", "compat", "db", "systemd", "mymachines"))


def _unix(name: str, rest: str, opener: Opener) -> Table:
    """`unix:passwd.byname`, where the answer may take long."""
    return SlowTable(name, _in_threads(open_table(name).lookup, 4))


# Each kind is imported when a table names it: most configurations have none of them.


def _tcp(name: str, rest: str, opener: Opener) -> Table:
    from mailstack.net.tables.tcp import TcpTable

    return SlowTable(name, _made(name, lambda: TcpTable(rest)).query)


def _socketmap(name: str, rest: str, opener: Opener) -> Table:
    from mailstack.net.tables.socketmap import Socketmap

    return SlowTable(name, _made(name, lambda: Socketmap(rest)).query)


def _nis(name: str, rest: str, opener: Opener, *, warn: Warn) -> Table:
    from mailstack.net.tables.nis import Nis, Nowhere, in_a_domain

    if not in_a_domain():
        warn(f"{name}: NIS domain name not set - NIS lookups disabled")
        return Nowhere(name)
    return SlowTable(name, _in_threads(_made(name, lambda: Nis(rest)).query, 4))


def _sqlite(name: str, rest: str, opener: Opener, *, warn: Warn) -> Table:
    from mailstack.storage.tables.sqlite import SqliteTable

    table = SqliteTable(name, rest, opener, warn)
    query = _in_threads(table.query, 1, table.interrupt)  # one connection, one thread

    async def ask(key: str) -> str | None:
        if not await settled(lambda: table.domains.match(key)):
            return None
        return await query(key)

    return SlowTable(name, ask)


def _memcache(name: str, rest: str, opener: Opener, *, warn: Warn) -> Table:
    from mailstack.net.tables.channel import ServiceError
    from mailstack.net.tables.memcache import Memcache
    from mailstack.storage.tables.query import ConfigFile, Domains, check_template, expand

    known = frozenset((
        "memcache", "backup", "flags", "ttl", "key_format", "domain",
        "data_size_limit", "line_size_limit", "max_try", "retry_pause", "timeout",
    ))  # fmt: skip
    try:
        conf = ConfigFile(name, rest, known, warn)
        domains = Domains(conf.text("domain", ""), opener)
    except OSError as error:
        raise TableError(f"open {name}: {error.strerror or error}") from None
    server = _made(name, lambda: _server(Memcache, conf))
    key_format = check_template(rest, "key_format", conf.text("key_format", "%s"))
    flags, ttl = conf.number("flags", 0), conf.number("ttl", 3600)
    backup = opener(conf.text("backup")) if conf.text("backup", "") else None

    async def ask(key: str) -> str | None:
        if not await settled(lambda: domains.match(key)):
            return None
        cached = expand(key_format, key.lower())
        value = None
        try:
            if cached is not None:
                value = await server.get(cached)
        except ServiceError:
            if backup is None:
                raise
        if value is not None or backup is None:
            return value
        value = await settled(lambda: backup.lookup(key))
        if value is not None and cached is not None:
            try:
                await server.set(cached, value, flags=flags, ttl=ttl)
            except ServiceError as error:
                warn(f"table {name}: {error}")  # the answer is there all the same
        return value

    return SlowTable(name, ask)


def _server(make: Callable[..., T], conf: ConfigFile) -> T:
    return make(
        conf.text("memcache", "inet:localhost:11211"),
        timeout=conf.number("timeout", 2, minimum=1),
        tries=conf.number("max_try", 2, minimum=1),
        pause=conf.number("retry_pause", 1),
        line=conf.number("line_size_limit", 1024, minimum=1),
        data=conf.number("data_size_limit", 10240, minimum=1),
    )


def _made(name: str, make: Callable[[], T]) -> T:
    try:
        return make()
    except ValueError as error:
        raise TableError(f"open {name}: {error}") from None


def _in_threads(
    query: Callable[[str], str | None], threads: int, interrupt: Callable[[], None] = lambda: None
) -> Ask:
    """A blocking question, asked in one of a few threads, which are started by the first one."""
    pool: list[ThreadPoolExecutor] = []

    async def ask(key: str) -> str | None:
        if not pool:
            from concurrent.futures import ThreadPoolExecutor  # few configurations need it

            pool.append(ThreadPoolExecutor(threads, "lookup"))
        answer = asyncio.get_running_loop().run_in_executor(pool[0], query, key)
        try:
            async with asyncio.timeout(THREAD_TIMEOUT):
                return await answer
        except TimeoutError:
            interrupt()
            raise OSError("the query takes too long") from None

    return ask
