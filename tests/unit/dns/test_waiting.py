"""Who waits for forwarders when more want to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mailstack.dns.waiting import PATIENCE, Turn, Waiting


def run(scenario: Callable[[Waiting], None], most: int = 4) -> None:
    async def go() -> None:
        scenario(Waiting(most))

    asyncio.run(go())


def entered(turn: Turn | None) -> Turn:
    assert turn is not None
    return turn


def test_the_address_with_most_makes_room_and_of_it_the_port_with_most() -> None:
    def scenario(waiting: Waiting) -> None:
        held = [entered(waiting.enter("192.0.2.9", port, 0.0)) for port in (1, 2, 2)]
        held.append(entered(waiting.enter("192.0.2.8", 1, 0.0)))
        entered(waiting.enter("192.0.2.8", 2, 0.0))
        assert [turn.over.done() for turn in held] == [False, True, False, False]
        assert waiting.count == 4

    run(scenario)


def test_a_flood_from_one_port_is_turned_away_until_its_oldest_has_had_its_time() -> None:
    def scenario(waiting: Waiting) -> None:
        held = [entered(waiting.enter("192.0.2.9", 7, 0.0)) for _ in range(4)]
        assert waiting.enter("192.0.2.9", 7, PATIENCE / 2) is None
        entered(waiting.enter("192.0.2.9", 8, PATIENCE / 2))
        entered(waiting.enter("192.0.2.9", 7, PATIENCE))
        assert [turn.over.done() for turn in held] == [True, True, False, False]

    run(scenario)


def test_whoever_leaves_makes_room() -> None:
    def scenario(waiting: Waiting) -> None:
        turn = entered(waiting.enter("192.0.2.9", 7, 0.0))
        assert waiting.enter("192.0.2.9", 7, 0.0) is None
        waiting.leave(turn)
        waiting.leave(turn)
        assert waiting.count == 0
        entered(waiting.enter("192.0.2.9", 7, 0.0))

    run(scenario, most=1)
