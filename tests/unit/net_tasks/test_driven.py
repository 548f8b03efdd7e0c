"""Coroutines that run inside the call that wakes them: the same as tasks, but for the turn of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from mailstack.net.stream import SILENT, Stream
from mailstack.net.tasks import Driven, TaskSet, Turns, apart, current, park


def run(check: Callable[[TaskSet], Awaitable[None]]) -> list[tuple[str, BaseException]]:
    """What was reported to the owner of the tasks that `check` started; the loop itself must have no complaint."""
    reported: list[tuple[str, BaseException]] = []
    complaints: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        tasks = TaskSet(lambda name, error: reported.append((name, error)))
        await check(tasks)
        await turns()
        assert len(tasks) == 0

    asyncio.run(main())
    assert complaints == []
    return reported


async def turns(number: int = 8) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


class Parked:
    """A coroutine that parks again and again, and what it has seen."""

    def __init__(self) -> None:
        self.seen: list[object] = []
        self.driven: Driven | None = None

    async def __call__(self) -> None:
        self.driven = current()
        assert self.driven is not None
        try:
            while True:
                self.seen.append("park")
                try:
                    await park(self.driven)
                except TimeoutError as error:
                    self.seen.append(str(error))
        finally:
            self.seen.append("over")


def test_the_first_steps_are_taken_at_once() -> None:
    async def check(tasks: TaskSet) -> None:
        seen: list[str] = []

        async def short() -> None:
            assert current() is not None
            seen.append("short")

        tasks.drive(short(), "short")
        assert seen == ["short"]
        assert len(tasks) == 0
        assert current() is None

    assert run(check) == []


def test_it_goes_on_inside_the_call_that_resumes_it() -> None:
    async def check(tasks: TaskSet) -> None:
        parked = Parked()
        tasks.drive(parked(), "parked")
        assert parked.seen == ["park"] and len(tasks) == 1
        assert parked.driven is not None
        parked.driven.resume()
        assert parked.seen == ["park", "park"]
        parked.driven.resume(TimeoutError("late"))
        assert parked.seen == ["park", "park", "late", "park"]
        assert await tasks.drain(0) == 1
        assert parked.seen[-1] == "over"
        parked.driven.resume()  # nothing is left to go on

    assert run(check) == []


def test_resuming_what_is_not_parked_changes_nothing() -> None:
    async def check(tasks: TaskSet) -> None:
        future = asyncio.get_running_loop().create_future()
        seen: list[object] = []

        async def waits() -> None:
            driven = current()
            assert driven is not None
            driven.resume()  # it runs
            seen.append(await future)

        tasks.drive(waits(), "waits")
        (driven,) = tasks._tasks
        assert isinstance(driven, Driven)
        driven.resume()
        driven.resume(TimeoutError())
        assert seen == []
        future.set_result(1)
        await turns()
        assert seen == [1]

    assert run(check) == []


def test_it_awaits_what_a_task_may_await() -> None:
    async def slow(value: int) -> int:
        for _ in range(3):
            await asyncio.sleep(0)
        return value

    async def fails() -> None:
        await asyncio.sleep(0)
        raise KeyError("x")

    async def check(tasks: TaskSet) -> None:
        loop = asyncio.get_running_loop()
        seen: list[object] = []
        future: asyncio.Future[str] = loop.create_future()
        lock = asyncio.Lock()

        async def waits() -> str:
            for _ in range(3):
                await asyncio.sleep(0)
            seen.append(await future)
            seen.append(await loop.create_task(slow(2)))
            with pytest.raises(KeyError):
                await loop.create_task(fails())
            done, pending = await asyncio.wait([loop.create_task(slow(3)), loop.create_task(slow(3))])
            seen.append((len(done), len(pending)))
            seen.append(await asyncio.gather(slow(4), slow(5)))
            seen.append(await apart(slow(6)))
            async with lock:
                seen.append("lock")
            seen.append(await loop.run_in_executor(None, lambda: 7))
            await asyncio.sleep(1e-9)
            other = Driven(slow(8), "other")
            seen.append(await other)
            return "end"

        await lock.acquire()
        driven = Driven(waits(), "waits")
        future.set_result("one")
        loop.call_soon(lock.release)
        # A task may wait for it in turn.
        assert await driven == "end"
        assert driven.get_name() == "waits"
        assert seen == ["one", 2, (2, 0), [4, 5], 6, "lock", 7, 8]

    assert run(check) == []


def test_what_it_dies_of_is_reported() -> None:
    async def at_once() -> None:
        raise KeyError("at once")

    async def later() -> None:
        await asyncio.sleep(0)
        raise KeyError("later")

    async def check(tasks: TaskSet) -> None:
        tasks.drive(at_once(), "one")
        tasks.drive(later(), "two")
        await turns()

    assert [(name, str(error)) for name, error in run(check)] == [("one", "'at once'"), ("two", "'later'")]


def test_what_it_dies_of_does_not_reach_who_resumes_it() -> None:
    async def fragile() -> None:
        driven = current()
        assert driven is not None
        await park(driven)
        raise KeyError("gone")

    async def check(tasks: TaskSet) -> None:
        tasks.drive(fragile(), "fragile")
        (driven,) = tasks._tasks
        assert isinstance(driven, Driven)
        driven.resume()
        assert driven.done() and current() is None

    assert [name for name, _ in run(check)] == ["fragile"]


# ---- cancelling


def cancelled(coroutine: Coroutine[Any, Any, Any], before: Callable[[], object] = lambda: None) -> Driven:
    driven = Driven(coroutine, "x")
    before()
    assert driven.cancel()
    return driven


def test_cancelled_where_it_is_parked() -> None:
    async def check(tasks: TaskSet) -> None:
        parked = Parked()
        driven = cancelled(parked())
        assert parked.seen == [
            "park"
        ]  # never inside `cancel`: who calls it may be in the middle of something
        await turns(1)
        assert parked.seen == ["park", "over"]
        assert driven.cancelled()
        assert not driven.cancel()
        driven.resume()

    run(check)


def test_cancelled_where_it_sleeps() -> None:
    async def check(tasks: TaskSet) -> None:
        async def restless() -> None:
            while True:  # noqa: ASYNC110  # it sleeps for the sake of sleeping
                await asyncio.sleep(0)

        for coroutine in (asyncio.sleep(1000), restless()):
            driven = cancelled(coroutine)
            await turns()
            assert driven.cancelled()

    run(check)


def test_cancelled_where_it_awaits_a_future() -> None:
    async def check(tasks: TaskSet) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        driven = cancelled(_await(future))
        await turns()
        assert driven.cancelled() and future.cancelled()

    run(check)


async def _await(future: asyncio.Future[Any]) -> Any:
    return await future


def test_cancelled_where_it_awaits_a_task_that_has_to_clean_up() -> None:
    async def check(tasks: TaskSet) -> None:
        seen: list[str] = []

        async def inner() -> None:
            try:
                await asyncio.sleep(1000)
            finally:
                for _ in range(3):
                    await asyncio.sleep(0)
                seen.append("inner")

        async def outer() -> None:
            try:
                await apart(inner())
            finally:
                seen.append("outer")

        tasks.drive(outer(), "outer")
        await turns(2)
        assert await tasks.drain(0) == 1
        assert seen == ["inner", "outer"]  # as with a task: what is awaited cleans up first

    run(check)


def test_cancelled_where_what_it_awaits_has_just_come() -> None:
    """The call that brings the result is on its way: it must not be taken for another one."""

    async def check(tasks: TaskSet) -> None:
        loop = asyncio.get_running_loop()
        for cleans_up in (False, True):
            future: asyncio.Future[int] = loop.create_future()
            second: asyncio.Future[int] = loop.create_future()
            seen: list[object] = []

            async def waits(
                future: asyncio.Future[int] = future,
                second: asyncio.Future[int] = second,
                seen: list[object] = seen,
                cleans_up: bool = cleans_up,
            ) -> None:
                try:
                    seen.append(await future)
                finally:
                    if cleans_up:
                        seen.append(await second)

            driven = Driven(waits(), "x")
            driven.cancel()
            future.set_result(1)
            await turns()
            assert driven.done() is not cleans_up
            second.set_result(2)
            await turns()
            assert driven.cancelled()
            assert seen == ([2] if cleans_up else [])

    run(check)


def test_cancelled_before_it_went_on_and_after_it_was_done() -> None:
    async def check(tasks: TaskSet) -> None:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        # The result first: the coroutine is over when the cancellation comes.
        driven = cancelled(_await(future), lambda: future.set_result(1))
        await turns()
        assert driven.result() == 1
        assert not driven.cancel()

    run(check)


def test_a_cancellation_may_be_survived() -> None:
    async def check(tasks: TaskSet) -> None:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def stubborn() -> str:
            driven = current()
            assert driven is not None
            try:
                await park(driven)
            except asyncio.CancelledError:
                pass
            return await future

        driven = cancelled(stubborn())
        await turns()
        assert not driven.done()
        future.set_result("yes")
        assert await driven == "yes"

    run(check)


def test_drain_waits_then_cancels() -> None:
    async def check(tasks: TaskSet) -> None:
        parked, quick = Parked(), Parked()
        tasks.drive(parked(), "parked")
        tasks.drive(asyncio.sleep(0), "quick")
        tasks.start(asyncio.sleep(1000), "task")
        assert len(tasks) == 3
        assert await tasks.drain(1e-9) == 2
        assert parked.seen[-1] == "over"
        assert quick.seen == []

    run(check)


def test_drain_does_not_cancel_who_calls_it() -> None:
    async def check(tasks: TaskSet) -> None:
        parked = Parked()
        ended: list[int] = []

        async def last() -> None:
            ended.append(await tasks.drain(0))

        tasks.drive(parked(), "parked")
        tasks.drive(last(), "last")
        await turns()
        assert ended == [1]

    run(check)


# ---- the current task


def test_apart_gives_a_task_to_what_needs_one() -> None:
    async def check(tasks: TaskSet) -> None:
        me = asyncio.current_task()

        async def inside() -> str:
            task = asyncio.current_task()
            assert task is not None and task is not me and current() is None
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await asyncio.sleep(1000)
            return "done"

        async def outside() -> str:
            assert current() is not None
            return await apart(inside())

        # Driven from a task: the time-out must not end that one.
        driven = Driven(outside(), "x")
        assert await driven == "done"
        assert me is not None and me.cancelling() == 0

        async def same() -> bool:
            return asyncio.current_task() is me

        assert await apart(same())

    run(check)


def test_one_that_is_driven_by_another_gives_way_to_it_again() -> None:
    async def check(tasks: TaskSet) -> None:
        parked = Parked()
        seen: list[bool] = []

        async def outer() -> None:
            me = current()
            assert me is not None
            tasks.drive(parked(), "inner")
            seen.append(current() is me)
            assert parked.driven is not None and parked.driven is not me
            parked.driven.resume()
            seen.append(current() is me)
            # What parks is the outer one.
            await park(me)
            seen.append(current() is me)

        tasks.drive(outer(), "outer")
        assert parked.seen == ["park", "park"]
        outer_one = next(task for task in tasks._tasks if task is not parked.driven)
        assert isinstance(outer_one, Driven)
        outer_one.resume()
        assert seen == [True, True, True] and outer_one.done()
        await tasks.drain(0)

    run(check)


# ---- with a stream


def test_a_driven_reader_reads_inside_data_received() -> None:
    async def check(tasks: TaskSet) -> None:
        stream = Stream()
        read: list[bytes] = []

        async def reader() -> None:
            while data := await stream.read(1000):
                read.append(data)

        tasks.drive(reader(), "reader")
        stream.data_received(b"one")
        assert read == [b"one"]
        stream.data_received(b"two")
        assert read == [b"one", b"two"]
        (driven,) = tasks._tasks
        stream.interrupt()
        assert driven.done()
        stream.connection_lost(None)

    assert run(check) == []


def test_a_driven_reader_s_deadline() -> None:
    async def check(tasks: TaskSet) -> None:
        stream = Stream()
        read: list[object] = []

        async def reader() -> None:
            for _ in range(2):
                try:
                    await stream.read(0)
                except TimeoutError as error:
                    read.append(str(error))
            read.append(await stream.read(1000))

        tasks.drive(reader(), "reader")
        assert read == []
        async with asyncio.timeout(10):
            while len(read) < 2:  # noqa: ASYNC110  # the loop's own timer is what is waited for
                await asyncio.sleep(0)
        stream.data_received(b"late")
        assert read == [SILENT, SILENT, b"late"]
        stream.connection_lost(None)

    assert run(check) == []


def test_a_driven_reader_that_is_cancelled_reads_no_more() -> None:
    async def check(tasks: TaskSet) -> None:
        stream = Stream()
        driven = Driven(stream.read(1000), "reader")
        driven.cancel()
        await turns()
        assert driven.cancelled()
        stream.data_received(b"nobody")
        assert stream.readable
        assert await stream.read(1) == b"nobody"
        stream.connection_lost(None)

    assert run(check) == []


def test_long_work_goes_on_by_turns_and_short_work_in_between() -> None:
    async def check(tasks: TaskSet) -> None:
        order: list[str] = []
        long = Turns()

        async def work(name: str, pieces: int) -> None:
            for _ in range(pieces):
                await long.take()
                order.append(name)

        async def rounds() -> None:
            for _ in range(16):
                order.append("-")
                await asyncio.sleep(0)

        tasks.drive(work("a", 3), "a")
        tasks.drive(work("b", 3), "b")
        ended = asyncio.get_running_loop().create_task(work("c", 3))
        tasks.start(rounds(), "rounds")
        await asyncio.sleep(0)
        ended.cancel()
        await turns(20)
        assert "".join(order).replace("-", "") == "ababab", "one who has ended holds up nobody"
        assert not any("ab" in run or "ba" in run for run in "".join(order).split("-")), "one for each round"

    assert run(check) == []
