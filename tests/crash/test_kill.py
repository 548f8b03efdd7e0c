"""Processes of a running stack are killed while mail flows; nothing that was answered 250 or OK may be lost.

`MAILSTACK_CRASH_ROUNDS` (20) and `MAILSTACK_CRASH_SEED` (the day of RFC 821) make it longer, or another one:
`make crash` runs some hundred rounds with a seed of their own, which is printed.
"""

from __future__ import annotations

import imaplib
import os
import random
import signal
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailstack.runtime import control
from mailstack.runtime.api import Project, open_project
from tests.crash.traffic import Traffic, damaged, marks

ROUNDS = int(os.environ.get("MAILSTACK_CRASH_ROUNDS", "20"))
SEED = int(os.environ.get("MAILSTACK_CRASH_SEED", "19820801"))
USERS = ("anna@alpha.test", "bela@beta.test")
VICTIMS = ("smtpd", "qmgr", "mailbox", "master", "supervisor")
SPEC = """\
domains:
  alpha.test:
    users:
      anna: {{password: anna-secret}}
  beta.test:
    users:
      bela: {{password: bela-secret}}
mta:
  workers: 2
  queue: {{minimal_backoff: 1s, maximal_backoff: 2s, lifetime: 1h}}
mailbox:
  delivery: {delivery}
"""

pytestmark = [
    pytest.mark.timeout(60 + 20 * ROUNDS),
    # imaplib and smtplib leave a socket behind when the server dies before its greeting.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(params=["lmtp", "maildir"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Project]:
    spec = tmp_path / "mailstack.yaml"
    spec.write_text(SPEC.format(delivery=request.param))
    project = open_project(spec, f"t{os.getpid()}-crash-{request.param}", runtime="process")
    yield project
    project.down(volumes=True)


def test_nothing_promised_is_lost(project: Project) -> None:
    delivery = project.name.rpartition("-")[2]
    chance = random.Random(f"{SEED} {delivery}")
    print(f"seed {SEED}, {ROUNDS} rounds, delivery: {delivery}")
    project.up()
    where = project.endpoints()
    victims: list[str] = []
    with Traffic(where) as traffic:
        for _ in range((ROUNDS + 1) // 2):
            if not victims:
                victims = chance.sample(VICTIMS, len(VICTIMS))
            traffic.wait(chance.randrange(1, 60))
            victim = victims.pop()
            kill(project, victim, chance)
            if victim == "supervisor":
                project.up()
            traffic.wait(1)
    assert traffic.unexpected == []
    print(f"{len(traffic.accepted)} promised")
    boxes = {user: maildir(project, *user.split("@")) for user in USERS}
    found = settle(project, boxes, traffic.accepted)
    assert traffic.accepted - set(found) == set()
    assert [path for box in boxes.values() for path in damaged(box)] == []
    assert list((project.state_dir / "queue" / "corrupt").iterdir()) == []
    for log in (project.state_dir / "log").iterdir():
        assert "Traceback" not in log.read_text(), log
    for user, box in boxes.items():
        assert listed(project, user) == len(marks(box))
    print(f"{sum(found.values()) - len(found)} arrived twice")


def maildir(project: Project, local: str, domain: str) -> Path:
    return project.state_dir / "mail" / domain / local


def processes(project: Project, role: str) -> list[int]:
    """Process ids of a role, in order."""
    alive = {name: pid for name, (pid, _) in control.leftovers(project.state_dir / "run").items()}
    if role in ("smtpd", "qmgr"):
        children = _children(alive["mta"]) if "mta" in alive else []
        return [pid for pid in children if _is_qmgr(pid) == (role == "qmgr")]
    name = "mta" if role == "master" else role
    return [alive[name]] if name in alive else []


def _children(parent: int) -> list[int]:
    try:
        return sorted(map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()))
    except OSError:
        return []


def _is_qmgr(pid: int) -> bool:
    """Whether a child of the master holds the queue manager's lock."""
    try:
        links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    return any(link.endswith("/pid/qmgr.lock") for link in links)


def kill(project: Project, role: str, chance: random.Random) -> None:
    """SIGKILL to one process of a role, once there is one."""
    deadline = time.monotonic() + 40
    while True:
        if pids := processes(project, role):
            try:
                os.kill(chance.choice(pids), signal.SIGKILL)
            except ProcessLookupError:
                pass  # a child that only checks the configuration may have ended since
            else:
                print(f"killing {role}")
                return
        assert time.monotonic() < deadline, f"no {role} runs"
        time.sleep(0.05)


def settle(project: Project, boxes: dict[str, Path], accepted: set[str]) -> Counter[str]:
    """Wait until all has arrived, or the queue is empty; what has arrived, with how often."""
    deadline = time.monotonic() + 60
    while True:
        empty = not project.queue()
        found = Counter(f"{mark} {user}" for user, box in boxes.items() for mark in marks(box))
        if not accepted - set(found) or empty or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def listed(project: Project, user: str) -> int:
    """How many messages IMAP shows."""
    where = project.endpoints()
    context = ssl.create_default_context(cafile=where.ca_file)
    with imaplib.IMAP4_SSL(where.host, where.ports["imaps"], ssl_context=context, timeout=15) as client:
        client.login(user, where.users[user])
        status, (count,) = client.select("INBOX", readonly=True)
        assert status == "OK", count
        _, (uids,) = client.uid("SEARCH", "ALL")
        assert count is not None
        assert len(set(uids.split())) == int(count)
        return int(count)
