"""Several sessions that change one mailbox at random never disagree about it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest

from tests.imap_states import Client, agree, play
from tests.mailbox import running

SESSIONS, STEPS = 5, 60


@pytest.mark.parametrize("seed", [1, 2])
def test_sessions_agree(tmp_path: Path, seed: int) -> None:
    async def main() -> None:
        async with running(tmp_path) as mailbox:
            subjects: dict[int, bytes] = {}
            clients = [
                await Client.login(mailbox.port("imap"), "zs", "secret", subjects) for _ in range(SESSIONS)
            ]
            await clients[0].command("CREATE Other")
            randoms = [Random(100 * seed + number) for number in range(SESSIONS)]
            await asyncio.gather(
                *(
                    play(client, random, STEPS, str(number + 1))
                    for number, (client, random) in enumerate(zip(clients, randoms, strict=True))
                )
            )
            await agree(clients)
            assert len(subjects) > 10, "nothing has happened"
            for client in clients:
                await client.close()

    asyncio.run(main())


def test_the_client_notices() -> None:
    """What must not be said."""

    async def main(said: bytes, command: str) -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(b"* 2 EXISTS\r\n* 1 FETCH (UID 5)\r\n" + said + b"1 OK done\r\n")
        client = Client(reader, _Nowhere(), {})  # type: ignore[arg-type]
        await client.command(command)

    asyncio.run(main(b"* 1 EXPUNGE\r\n* 1 FETCH (UID 6)\r\n", "NOOP"))
    for said, command in (
        (b"* 1 EXISTS\r\n", "NOOP"),
        (b"* 1 EXPUNGE\r\n", "FETCH 1 FLAGS"),
        (b"* 3 EXPUNGE\r\n", "NOOP"),
        (b"* 1 FETCH (UID 6)\r\n", "NOOP"),
        (b"* 2 FETCH (UID 4)\r\n", "NOOP"),
        (b"* SEARCH 3\r\n", "SEARCH ALL"),
    ):
        with pytest.raises(AssertionError):
            asyncio.run(main(said, command))


class _Nowhere:
    def write(self, data: bytes) -> None:
        """Nobody reads it."""
