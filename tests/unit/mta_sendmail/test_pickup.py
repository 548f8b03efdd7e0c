"""From sendmail through maildrop/ into incoming/, in one process with a clock that stands still."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from mailstack.config.postfix.main_cf import MainCf
from mailstack.config.postfix.master_cf import parse_master
from mailstack.mta.cleanup import Cleanup
from mailstack.mta.deliver.request import Result
from mailstack.mta.lookup import opener
from mailstack.mta.pickup import Pickup, Settings
from mailstack.mta.rewrite import Rewriter
from mailstack.net.clock import ManualClock
from mailstack.net.log import Log
from mailstack.net.resolver import Resolver
from mailstack.net.tasks import TaskSet
from mailstack.storage.durable import GroupCommit
from mailstack.storage.queue import Message, Queue
from mailstack.storage.tables import open_table

_RESOLVER = Resolver([("127.0.0.1", 1)])
MAIN_CF = """\
compatibility_level = 3.6
myhostname = mail.x.test
mydomain = x.test
myorigin = $mydomain
queue_directory = {dir}/queue
virtual_alias_maps = inline:{{ list@x.test=a@x.test }}
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "main.cf").write_text(MAIN_CF.format(dir=tmp_path))
    (tmp_path / "master.cf").write_text("pickup unix n - n 60 1 pickup\n")
    Queue(str(tmp_path / "queue")).create()
    return tmp_path


def sendmail(
    directory: Path, *words: str, text: bytes = b"", **environ: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "mailstack.mta.sendmail", "--config", str(directory), *words],
        input=text,
        capture_output=True,
        check=False,
        env=os.environ | environ,
    )


class World:
    """A pickup and what is around it."""

    def __init__(self, directory: Path, extra: str = "") -> None:
        conf = MainCf.parse((directory / "main.cf").read_text() + extra, directory / "main.cf")
        self.queue = Queue(conf.str("queue_directory"))
        self.clock = ManualClock()
        self.bounced: list[tuple[Message, Sequence[Result]]] = []
        self.taken: list[str] = []
        self.log_path = directory / "log"
        self._log = Log("postfix/qmgr", "mail", fd=os.open(self.log_path, os.O_WRONLY | os.O_CREAT))
        self._conf = conf
        self._services = parse_master((directory / "master.cf").read_text(), directory / "master.cf")

    def pick_up(self) -> list[Message]:
        """One look; what is in incoming/ afterwards, in order of arrival."""

        async def look() -> None:
            errors: list[BaseException] = []
            tasks = TaskSet(lambda name, error: errors.append(error))
            commit = GroupCommit()
            rewriter = Rewriter(self._conf, open_table)
            cleanup = Cleanup(self._conf, rewriter, open_table)
            settings = Settings.read(self._conf, self._services, cleanup, open_table, _RESOLVER)
            pickup = Pickup(self.queue, commit, self.clock, self._log, tasks, self.taken.append)
            pickup.configure(settings, self._bounce, "postfix")
            pickup.wake()
            pickup.wake()
            await tasks.drain(10)
            commit.close()
            assert errors == []

        asyncio.run(look())
        found = [self.queue.read("incoming", name) for name in self.queue.names("incoming")]
        return sorted(found, key=lambda message: message.envelope.arrival)

    def looks(self, pauses: Sequence[float]) -> list[bool]:
        """Whether `tick` looks into maildrop/, after each of these pauses in seconds."""
        found: list[bool] = []

        async def tick() -> None:
            tasks = TaskSet(lambda name, error: None)
            rewriter = Rewriter(self._conf, open_table)
            cleanup = Cleanup(self._conf, rewriter, open_table)
            pickup = Pickup(self.queue, GroupCommit(), self.clock, self._log, tasks, self.taken.append)
            settings = Settings.read(self._conf, self._services, cleanup, open_table, _RESOLVER)
            pickup.configure(settings, self._bounce, "postfix")
            for pause in pauses:
                self.clock.advance(pause)
                pickup.tick()
                found.append(len(tasks) == 1)
                await tasks.drain(10)

        asyncio.run(tick())
        return found

    async def _bounce(self, message: Message, results: Sequence[Result]) -> None:
        self.bounced.append((message, results))

    def log(self) -> str:
        return re.sub(
            r"^.{15} mail (postfix/\w+)\[\d+\]", r"\1", self.log_path.read_text(), flags=re.MULTILINE
        )

    def left(self) -> list[str]:
        return self.queue.names("maildrop")


def test_a_message_of_a_program(directory: Path) -> None:
    text = b"To: list\nCc: Joe <b@y.test>\nBcc: c@y.test\nSubject: hello\n\n\xe4 body\n.\nno more\n"
    done = sendmail(directory, "-t", "-F", "Joe D.", "-f", "me", "-Nnever", "-Vident", "-Rfull", text=text)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    [name] = os.listdir(directory / "queue/maildrop")
    assert (directory / "queue/maildrop" / name).stat().st_mode & 0o777 == 0o700
    assert (directory / "queue/maildrop").stat().st_mode & 0o077 == 0

    world = World(directory)
    [message] = world.pick_up()
    envelope = message.envelope
    assert envelope.sender == "me@x.test"
    assert [entry.address for entry in envelope.recipients] == ["a@x.test", "b@y.test", "c@y.test"]
    assert {entry.notify for entry in envelope.recipients} == {"NEVER"}
    assert (envelope.ret, envelope.envid, envelope.body) == ("FULL", "ident", "8bitmime")
    lines = world.queue.read_content(message).split(b"\r\n")
    host = b"Received: by mail.x.test (Postfix, from userid %d)" % os.getuid()
    assert lines[0] == host
    assert lines[1].startswith(b"\tid " + message.queue_id.encode() + b"; ")
    assert lines[2:5] == [b"To: list@x.test", b"Cc: Joe <b@y.test>", b"Subject: hello"]
    assert lines[5].startswith(b"Message-Id: <") and lines[6].startswith(b"Date: ")
    assert lines[7:] == [b'From: "Joe D." <me@x.test>', b"", b"\xe4 body", b""]
    assert world.taken == [message.queue_id]
    assert world.left() == []
    assert world.log().splitlines()[0] == f"postfix/pickup: {message.queue_id}: uid={os.getuid()} from=<me>"
    assert f"postfix/cleanup: {message.queue_id}: message-id=<" in world.log()


def test_a_large_message_is_the_same_when_it_has_gone_through(directory: Path) -> None:
    body = os.urandom(400_000).hex().encode()
    body = b"\n".join(body[at : at + 70] for at in range(0, len(body), 70)) + b"\n"
    assert sendmail(directory, "a@y.test", text=b"Subject: big\n\n" + body).returncode == 0
    world = World(directory)
    [message] = world.pick_up()
    assert world.queue.read_content(message).partition(b"\r\n\r\n")[2] == body.replace(b"\n", b"\r\n")


def test_a_header_block_beyond_what_is_read_first(directory: Path) -> None:
    block = b"".join(b"X-Header-%d: %s\n" % (number, b"h" * 980) for number in range(500))
    assert sendmail(directory, "a@y.test", text=block + b"Subject: last\n\nbody\n").returncode == 0
    world = World(directory)
    [message] = world.pick_up()
    head, _, body = world.queue.read_content(message).partition(b"\r\n\r\n")
    assert body == b"body\r\n" and b"\r\nSubject: last\r\n" in head and block.replace(b"\n", b"\r\n") in head


def test_gateway_submissions_are_not_completed(directory: Path) -> None:
    assert sendmail(directory, "-G", "-f", "a@y.test", "b@y.test", text=b"To: b\n\nx\n").returncode == 0
    world = World(directory)
    [message] = world.pick_up()
    head = world.queue.read_content(message).partition(b"\r\n\r\n")[0]
    assert head.endswith(b"\r\nTo: b")


@pytest.mark.parametrize(
    ("extra", "words", "text", "reason"),
    [
        ("", ["-t"], b"Subject: x\n\nTo: a@x.test\n", "No recipient addresses found in message header"),
        ("", [], b"x\n", "Recipient addresses must be specified on the command line or via the -t option"),
        ("message_size_limit = 50\n", ["a@x.test"], b"x" * 100, "message file too big"),
        ("authorized_submit_users = !static:all\n", ["a@x.test"], b"x", "is not allowed to submit mail"),
    ],
)
def test_refusals_leave_nothing(
    directory: Path, extra: str, words: list[str], text: bytes, reason: str
) -> None:
    with (directory / "main.cf").open("a") as file:
        file.write(extra)
    done = sendmail(directory, *words, text=text)
    assert done.returncode == 75
    assert done.stderr.startswith(b"sendmail: fatal: ") and reason.encode() in done.stderr
    assert os.listdir(directory / "queue/maildrop") == []


def test_a_queue_that_is_not_there_is_named(directory: Path) -> None:
    (directory / "queue/maildrop").rmdir()
    done = sendmail(directory, "a@x.test", text=b"x\n")
    assert done.returncode == 75
    assert b"start the mail system first" in done.stderr


AS_NOBODY = """
import os, sys
from mailstack.mta import postdrop, sendmail, submission
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sys.exit(sendmail.main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_other_accounts_are_told_who_may_submit(directory: Path) -> None:
    with tempfile.TemporaryDirectory(
        prefix="mailstack-sendmail-"
    ) as name:  # not below pytest's closed folder
        root = Path(name)
        root.chmod(0o755)
        (root / "main.cf").write_text(MAIN_CF.format(dir=root))
        Queue(str(root / "queue")).create()
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, "--config", name, "a@x.test"],
            input=b"x\n",
            capture_output=True,
            check=False,
        )
        assert done.returncode == 75
        assert (
            b"Permission denied: only root(0), who runs the mail system, and root may submit" in done.stderr
        )
        # What root hands in belongs to the account that will pick it up.
        os.chown(root / "queue/maildrop", 65534, 65534)
        assert sendmail(root, "a@x.test", text=b"x\n").returncode == 0
        [path] = (root / "queue/maildrop").iterdir()
        assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (65534, 0o700)


def test_a_configuration_that_is_not_named(directory: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mailstack.mta.sendmail", "a@x.test"],
        input=b"x\n",
        capture_output=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "MAIL_CONFIG"},
    )
    assert done.returncode == 64
    assert b"say --config DIR, or set MAIL_CONFIG" in done.stderr
    given = subprocess.run(
        [sys.executable, "-m", "mailstack.mta.sendmail", "a@x.test"],
        input=b"x\n",
        check=False,
        env=os.environ | {"MAIL_CONFIG": str(directory)},
    )
    assert given.returncode == 0


def drop(directory: Path, mode: int = 0o700) -> Path:
    """A file that a program has left."""
    assert sendmail(directory, "a@x.test", text=b"Subject: x\n\nx\n").returncode == 0
    [name] = os.listdir(directory / "queue/maildrop")
    path = directory / "queue/maildrop" / name
    path.chmod(mode)
    return path


def test_bad_files_go_to_corrupt_and_good_ones_go_on(directory: Path) -> None:
    world = World(directory)
    torn = drop(directory)
    torn.write_bytes(torn.read_bytes()[:-5])
    torn.rename(torn.with_name("TORN000"))
    open_to_all = drop_beside(directory, "OPEN000", 0o744)
    linked = drop_beside(directory, "LINK000")
    os.link(linked, directory / "elsewhere")
    (directory / "queue/maildrop/SYM0000").symlink_to("/etc/passwd")
    (directory / "queue/maildrop/TEXT000").write_bytes(b"not a queue file\n")
    (directory / "queue/maildrop/TEXT000").chmod(0o700)
    drop_beside(directory, "GOOD000")
    [message] = world.pick_up()
    assert message.envelope.recipients[0].address == "a@x.test"
    assert world.left() == []
    assert sorted(world.queue.names("corrupt")) == ["LINK000", "OPEN000", "SYM0000", "TEXT000", "TORN000"]
    for name, reason in (
        ("TORN000", r"\d+ octets long instead of \d+"),
        ("OPEN000", "mode 0744: others may use it"),
        ("LINK000", "it has 2 links"),
        ("SYM0000", "not a regular file"),
        ("TEXT000", "only 17 octets long"),
    ):
        warning = (
            f"postfix/pickup: warning: {name}: damaged queue file in maildrop: {reason}; saved in corrupt"
        )
        assert re.search(warning, world.log()), name
    assert not open_to_all.exists()


def drop_beside(directory: Path, name: str, mode: int = 0o700) -> Path:
    folder = directory / "queue/maildrop"
    aside = directory / "aside"
    folder.rename(aside)
    folder.mkdir(0o700)
    path = drop(directory, mode).rename(aside / name)
    folder.rmdir()
    aside.rename(folder)
    return folder / path.name


def test_unfinished_files_wait_and_are_removed_after_a_day(directory: Path) -> None:
    world = World(directory)
    path = drop(directory, 0o600)
    os.utime(path, (world.clock.time(), world.clock.time()))
    assert world.pick_up() == []
    assert world.left() == [path.name]
    world.clock.advance(90_000)
    assert world.pick_up() == []
    assert world.left() == []
    assert f"maildrop/{path.name}: removed: it was never finished" in world.log()


def test_a_message_that_loops_goes_back_to_its_sender(directory: Path) -> None:
    text = b"Received: x\n" * 60 + b"\nx\n"
    assert sendmail(directory, "-f", "me", "a@x.test", "b@y.test", text=text).returncode == 0
    world = World(directory)
    assert world.pick_up() == []
    [(message, results)] = world.bounced
    assert message.envelope.sender == "me@x.test"
    assert [(entry.target.address, entry.outcome.text, entry.outcome.dsn) for entry in results] == [
        ("a@x.test", "too many hops", "5.4.0"),
        ("b@y.test", "too many hops", "5.4.0"),
    ]
    assert world.left() == []


def test_what_cannot_be_taken_now_stays(directory: Path) -> None:
    assert sendmail(directory, "a@x.test", text=b"x\n").returncode == 0
    world = World(directory, "virtual_alias_maps = fail:it\n")
    assert world.pick_up() == []
    assert len(world.left()) == 1
    assert re.search(r"postfix/cleanup: warning: maildrop/\w+: .*fail:it", world.log())
    assert len(World(directory).pick_up()) == 1


def test_without_a_pickup_line_nothing_is_taken(directory: Path) -> None:
    (directory / "master.cf").write_text("qmgr unix n - n 300 1 qmgr\n")
    assert sendmail(directory, "a@x.test", text=b"x\n").returncode == 0
    world = World(directory)
    assert world.pick_up() == []
    assert len(world.left()) == 1


def test_a_fault_of_ours_stops_no_other_message(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Queue.read

    def faulty(self: Queue, queue: str, queue_id: str) -> Message:
        if queue_id == "0FAULTY":
            raise ValueError("nobody thought of this")
        return read(self, queue, queue_id)

    drop_beside(directory, "0FAULTY")
    drop_beside(directory, "GOOD000")
    world = World(directory)
    with monkeypatch.context() as patch:
        patch.setattr(Queue, "read", faulty)
        assert len(world.pick_up()) == 1
    assert world.left() == ["0FAULTY"]
    assert "error: maildrop/0FAULTY: ValueError: nobody thought of this" in world.log()
    assert len(world.pick_up()) == 2


def test_the_wake_up_time(directory: Path) -> None:
    for wakeup, ticks in (("60", [True, False, True]), ("0", [True, False, False])):
        (directory / "master.cf").write_text(f"pickup unix n - n {wakeup} 1 pickup\n")
        assert World(directory).looks([0.0, 59.0, 1.0]) == ticks


@pytest.mark.parametrize(
    ("extra", "text", "recipient", "wanted"),
    [
        ("", "Subject: x\n\nbüx\n", "a@far.test", False),
        ("", "Subject: ü\n\nx\n", "a@far.test", True),
        ("", "Subject: x\n\nx\n", "ü@far.test", True),
        ("smtputf8_autodetect_classes =\n", "Subject: ü\n\nx\n", "ü@far.test", False),
        ("smtputf8_enable = no\n", "Subject: ü\n\nx\n", "a@far.test", False),
    ],
)
def test_addresses_and_headers_outside_ascii_ask_for_smtputf8(
    directory: Path, extra: str, text: str, recipient: str, wanted: bool
) -> None:
    sendmail(directory, recipient, text=text.encode())
    (message,) = World(directory, extra).pick_up()
    assert message.envelope.smtputf8 is wanted


def test_copies_that_checks_ask_for_wait_for_their_aliases(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "open_table", opener())
    with sqlite3.connect(directory / "db") as database:
        database.execute("CREATE TABLE aliases AS SELECT 'copy@x.test' AS name, 'c@y.test' AS target")
    database.close()
    query = f"dbpath = {directory}/db\nquery = SELECT target FROM aliases WHERE name = '%s'\n"
    (directory / "db.cf").write_text(query)
    assert sendmail(directory, "a@y.test", text=b"Subject: hello\n\nbody\n").returncode == 0
    world = World(
        directory,
        f"virtual_alias_maps = sqlite:{directory}/db.cf\nheader_checks = static:{{BCC copy@x.test}}\n",
    )
    [message] = world.pick_up()
    assert [one.address for one in message.envelope.recipients] == ["a@y.test", "c@y.test"]
