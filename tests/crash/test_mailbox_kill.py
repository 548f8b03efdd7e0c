"""The mailbox service is killed at random while clients append, flag, copy, move and expunge, and LMTP delivers.

After each restart everything that was answered OK or 250 must be so, and what a client keeps for years must
still hold: UIDVALIDITY and UIDs, that no UID means another message, that modification sequences never come
again, that a QRESYNC client which was told the difference knows the whole.

`MAILSTACK_CRASH_ROUNDS` (20) and `MAILSTACK_CRASH_SEED` make it longer, or another one (see `make crash`).
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.mailbox_load import BOXES, BrokenPromiseError, Client, Load, Observed, Service, Shown

ROUNDS = int(os.environ.get("MAILSTACK_CRASH_ROUNDS", "20"))
SEED = int(os.environ.get("MAILSTACK_CRASH_SEED", "19861101"))
pytestmark = [
    pytest.mark.timeout(60 + 10 * ROUNDS),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.kill()


def test_what_was_answered_holds_after_a_kill(service: Service) -> None:
    chance = random.Random(SEED)
    print(f"{ROUNDS} rounds, seed {SEED}")
    service.start()
    service.wait()
    with Client(service.imap) as client:
        client.login()
        for box in BOXES[1:]:
            client.ask(b"CREATE " + box)
    load = Load(service.imap, service.lmtp, SEED)
    observed = Observed()
    shown: dict[bytes, Shown] = {}
    done: Counter[str] = Counter()
    for number in range(ROUNDS):
        with load:
            time.sleep(chance.uniform(0.1, 0.8))
            orderly = number % 10 == 9
            service.kill(signal.SIGTERM if orderly else signal.SIGKILL)
        service.start()
        if chance.random() < 0.25:  # and in the middle of the start, too
            time.sleep(chance.uniform(0.1, 0.3))
            service.kill()
            service.start()
        service.wait()
        where = f"round {number} of seed {SEED}"
        try:
            shown = _look(service, observed, shown)
            done += load.settle({box: it.marks() for box, it in shown.items()}, shown)
        except BrokenPromiseError as lost:
            raise AssertionError(f"{where}: {lost}") from None
    print(dict(done))
    assert min(done[name] for name in ("append", "store", "expunge", "copy", "move", "lmtp")) > ROUNDS // 4, (
        done
    )
    log = (service.root / "log").read_text()
    assert "Traceback" not in log, log[-3000:]
    assert "damaged" not in log, log[-3000:]


def _look(service: Service, observed: Observed, before: dict[bytes, Shown]) -> dict[bytes, Shown]:
    """Every mailbox as it is now, seen whole and seen as a QRESYNC client that was away sees it."""
    found: dict[bytes, Shown] = {}
    for box in BOXES:
        with Client(service.imap) as client:
            client.login()
            client.ask(b"ENABLE QRESYNC")
            now = client.select(box)
            observed.add(box, now)
            if box in before:
                away = client.resynchronize(box, before[box])
                wrong = {
                    uid: (away.flags.get(uid), now.flags.get(uid))
                    for uid in away.flags | now.flags
                    if away.flags.get(uid) != now.flags.get(uid)
                }
                if wrong:
                    raise BrokenPromiseError(
                        f"{box!r}: QRESYNC tells the first, there is the second: {wrong}"
                    )
            found[box] = now
    return found
