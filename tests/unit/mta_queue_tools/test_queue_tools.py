"""postqueue, postsuper and postcat on a queue folder: what they print, and where messages are afterwards."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import socket
import time
from pathlib import Path

import pytest

from mailstack.mta import postcat, postqueue, postsuper, trigger
from mailstack.storage.durable import GroupCommit
from mailstack.storage.queue import Envelope, Queue, Reason, Recipient

CONTENT = b"Subject: hello\r\nTo: b@y.test\r\n\r\nLine one.\r\n\r\nLine three.\r\n"
ARRIVAL = 1_700_000_000.0


class Site:
    """A queue, a main.cf that names it, and the commands run on it."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.config = root / "cf"
        self.config.mkdir()
        (self.config / "main.cf").write_text(f"queue_directory = {root}/queue\nmyhostname = mail.x.test\n")
        self.queue = Queue(str(root / "queue"))
        self.queue.create()
        self._capsys = capsys

    def put(self, queue: str = "incoming") -> str:
        """A message in a queue."""

        async def enqueue() -> str:
            commit = GroupCommit()
            envelope = Envelope(
                "a@x.test", (Recipient("b@y.test"), Recipient("c@y.test", "C@y.test")), ARRIVAL
            )
            try:
                return await self.queue.enqueue(envelope, (CONTENT,), commit)
            finally:
                commit.close()

        queue_id = asyncio.run(enqueue())
        if queue == "deferred":
            message = self.queue.read("incoming", queue_id)
            self.queue.mark_done(message, [1])
            reasons = {0: Reason(ARRIVAL, "4.4.1", "connect to y.test: refused")}
            self.queue.defer(message, reasons, time.time() + 3600)
        elif queue != "incoming":
            self.queue.move(queue_id, "incoming", queue)
        return queue_id

    def run(self, tool: str, *args: str) -> tuple[int, str, str]:
        """(exit status, standard output, standard error) of a command."""
        main = {"postqueue": postqueue.main, "postsuper": postsuper.main, "postcat": postcat.main}[tool]
        status = main(["--config", str(self.config), *args])
        out, err = self._capsys.readouterr()
        return status, out, err

    def super(self, *args: str) -> list[str]:
        """What postsuper says, without its name."""
        status, out, err = self.run("postsuper", *args)
        assert (status, out) == (0, "")
        return [line.removeprefix("postsuper: ") for line in err.splitlines()]


@pytest.fixture
def site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Site:
    return Site(tmp_path, capsys)


def test_hold_and_release(site: Site) -> None:
    """The lines are those of Postfix 3.7.11."""
    queue_id = site.put("deferred")
    assert site.super("-h", queue_id) == [f"{queue_id}: placed on hold", "Placed on hold: 1 message"]
    assert site.queue.find(queue_id) == "hold"
    assert site.super("-h", queue_id) == ["Placed on hold: 0 messages"]
    assert site.super("-H", queue_id, "-H", "ABCDEF0123") == [
        f"{queue_id}: released from hold",
        "Released from hold: 1 message",
    ]
    message = site.queue.read("deferred", queue_id)
    assert message.mtime <= time.time()
    assert list(message.pending) == [0]
    assert message.attempts == 1


def test_remove(site: Site) -> None:
    ids = [site.put(queue) for queue in ("incoming", "active", "deferred", "hold")]
    assert site.super("-d", ids[0], "-d", "nonexist", "-d", "../main") == [
        f"{ids[0]}: removed",
        "warning: invalid mail queue id: ../main",
        "Deleted: 1 message",
    ]
    assert site.super("-d", "ALL", "hold", "active") == ["Deleted: 2 messages"]
    assert [site.queue.find(queue_id) for queue_id in ids] == [None, None, "deferred", None]
    assert site.super("-d", "ALL") == ["Deleted: 1 message"]
    assert site.super("-d", "ALL") == ["Deleted: 0 messages"]


def test_ids_from_standard_input(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = site.put(), site.put("deferred")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{one}\n\n{two}\n"))
    assert site.super("-h", "-") == [
        f"{one}: placed on hold",
        f"{two}: placed on hold",
        "Placed on hold: 2 messages",
    ]


def test_requeue_forgets_earlier_attempts(site: Site) -> None:
    queue_id, held = site.put("deferred"), site.put("hold")
    assert site.super("-r", queue_id, "-r", held) == [
        f"{queue_id}: requeued",
        f"{held}: requeued",
        "Requeued: 2 messages",
    ]
    message = site.queue.read("incoming", queue_id)
    assert (message.attempts, message.reasons, list(message.pending)) == (0, {}, [0])
    assert site.queue.find(held) == "incoming"


def test_several_actions_at_once(site: Site) -> None:
    one, two, three = site.put(), site.put(), site.put("hold")
    assert site.super("-d", one, "-h", two, "-H", three)[-3:] == [
        "Deleted: 1 message",
        "Placed on hold: 1 message",
        "Released from hold: 1 message",
    ]


def test_structure_and_purge(site: Site) -> None:
    queue_id, fine = site.put("deferred"), site.put("deferred")
    root = Path(site.queue.directory)
    os.rename(site.queue.path("deferred", queue_id), root / "deferred" / queue_id)
    (root / "incoming" / "7").mkdir()
    nested = site.put()
    os.rename(site.queue.path("incoming", nested), root / "incoming" / "7" / nested)
    (root / "hold" / "not-an-id").write_bytes(b"")
    for name, age in (("OLD", 90_000), ("NEW", 10)):
        (root / "tmp" / name).write_bytes(b"x")
        os.utime(root / "tmp" / name, (time.time() - age,) * 2)
    assert sorted(site.super()) == sorted(
        [
            f"renamed file deferred/{queue_id} as deferred/{queue_id[0]}/{queue_id}",
            f"renamed file incoming/7/{nested} as incoming/{nested}",
            "warning: bogus file name: hold/not-an-id",
            "removed file tmp/OLD",
        ]
    )
    assert {site.queue.find(one) for one in (queue_id, fine)} == {"deferred"}
    assert (root / "tmp" / "NEW").exists()
    assert site.super("-s", "-p") == ["warning: bogus file name: hold/not-an-id"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["-d", "ALL", "nosuch"], "postsuper: fatal: invalid directory name: nosuch\n"),
        (["-x"], f"postsuper: option -x not recognized\npostsuper: fatal: {postsuper.USAGE}\n"),
        (["-d"], f"postsuper: option -d requires argument\npostsuper: fatal: {postsuper.USAGE}\n"),
    ],
)
def test_wrong_use_of_postsuper(args: list[str], said: str, site: Site) -> None:
    queue_id = site.put()
    assert site.run("postsuper", *args) == (1, "", said)
    assert site.queue.find(queue_id) == "incoming"


def test_a_damaged_file_stays_where_it_is(site: Site) -> None:
    queue_id = site.put("hold")
    path = Path(site.queue.path("hold", queue_id))
    path.write_bytes(path.read_bytes()[:-3])
    warning, summary = site.super("-r", queue_id)
    assert warning.startswith(f"warning: {queue_id}: damaged queue file in hold: ")
    assert summary == "Requeued: 0 messages"
    assert site.queue.find(queue_id) == "hold"


def test_listings(site: Site) -> None:
    assert site.run("postqueue", "-p") == (0, "Mail queue is empty\n", "")
    deferred, held = site.put("deferred"), site.put("hold")
    _, out, _ = site.run("postqueue", "-p")
    assert out.startswith("-Queue ID-  --Size-- ----Arrival Time---- -Sender/Recipient-------\n")
    assert re.search(rf"^{held}! +{len(CONTENT)} .* a@x\.test$", out, re.MULTILINE)
    assert f"{deferred} " in out
    assert "(connect to y.test: refused)\n" in out
    assert out.endswith("\n-- 0 Kbytes in 2 Requests.\n")
    objects = [json.loads(line) for line in site.run("postqueue", "-j")[1].splitlines()]
    found = {one["queue_id"]: one for one in objects}
    assert found[deferred]["queue_name"] == "deferred"
    assert found[deferred]["recipients"] == [
        {"address": "b@y.test", "delay_reason": "connect to y.test: refused"}
    ]
    assert [one["address"] for one in found[held]["recipients"]] == ["b@y.test", "c@y.test"]


def test_the_columns_of_the_listing_are_postfixs(site: Site) -> None:
    queue_id = site.put("deferred")
    lines = site.run("postqueue", "-p")[1].splitlines()
    assert re.fullmatch(
        rf"{queue_id}  {len(CONTENT):7d} \w{{3}} \w{{3}} .\d \d\d:\d\d:\d\d  a@x.test", lines[1]
    )
    assert lines[2] == f"{'(connect to y.test: refused)':>78}"
    assert lines[3] == f"{'':41}b@y.test"
    main_cf = Path(site.config) / "main.cf"
    main_cf.write_text(main_cf.read_text() + "enable_long_queue_ids = yes\n")
    lines = site.run("postqueue", "-p")[1].splitlines()
    assert lines[0] == "----Queue ID----- --Size-- ---Arrival Time---- --Sender/Recipient------"
    assert re.fullmatch(
        rf"{queue_id:<17} {len(CONTENT):8d} \w{{3}} \w{{3}} .\d \d\d:\d\d:\d\d a@x.test", lines[1]
    )
    assert lines[3] == f"{'':47}b@y.test"


def test_what_lies_about_in_the_queue_hides_nothing_and_is_not_overwritten(site: Site) -> None:
    queue_id = site.put("deferred")
    root = Path(site.queue.directory) / "deferred"
    (root / "0stray").write_text("x")
    (root / "lost.file").write_text("x")
    (root / queue_id[0] / "folder").mkdir()
    (root / queue_id).write_text("another of that name")
    assert [entry.queue_id for entry in site.queue.scan("deferred")] == [queue_id]
    assert site.run("postqueue", "-p")[1].count("@y.test") == 1
    assert any("is there already" in line for line in site.super("-s", "deferred"))
    assert (root / queue_id).read_text() == "another of that name"
    site.queue.read("deferred", queue_id)


def test_only_what_is_held_is_released(site: Site) -> None:
    site.put("deferred")
    assert site.super("-H", "ALL", "deferred") == ["Released from hold: 0 messages"]
    assert site.super("-h", "ALL", "hold") == ["Placed on hold: 0 messages"]
    assert site.super("-d", "") == ["warning: invalid mail queue id: ", "Deleted: 0 messages"]
    status, _, said = site.run("postsuper", "-d", "ALL", "hold", "-h", "ALL")
    assert (status, said) == (1, "postsuper: fatal: invalid directory name: -h\n")


def test_asking_the_queue_manager(site: Site) -> None:
    assert site.run("postqueue", "-f") == (
        69,
        "",
        "postqueue: fatal: queue manager: No such file or directory\n",
    )
    sock = trigger.bind(os.path.join(site.queue.directory, "public"))
    try:
        for args, request in (
            (["-f"], b"F"),
            (["-i", "4A1B2C"], b"deliver 4A1B2C"),
            (["-s", "Other.test"], b"flush other.test"),
            (["-s", "[192.0.2.1]"], b"flush [192.0.2.1]"),
        ):
            assert site.run("postqueue", *args) == (0, "", "")
            assert sock.recv(100) == request
        site.super("-H", "ALL")
        assert [sock.recv(10), sock.recv(10)] == [b"I", b"D"]
        for args in (["-s", "bad domain"], ["-i", "../x"], ["-f", "-p"], [], ["-x"], ["-p", "more"]):
            status, _, err = site.run("postqueue", *args)
            assert status == 69
            assert err.startswith("postqueue: fatal: ")
        with pytest.raises(BlockingIOError):
            sock.recv(10)
    finally:
        sock.close()
    assert isinstance(sock, socket.socket)


def test_postcat(site: Site) -> None:
    queue_id = site.put("deferred")
    text = CONTENT.decode().replace("\r\n", "\n")
    head, _, body = text.partition("\n\n")
    assert site.run("postcat", "-bhq", queue_id) == (0, text, "")
    assert site.run("postcat", "-hq", queue_id)[1] == head + "\n"
    assert site.run("postcat", "-b", "-q", queue_id)[1] == body
    out = site.run("postcat", "-q", queue_id)[1]
    assert out.startswith(f"*** ENVELOPE RECORDS deferred/{queue_id} ***\nmessage_size: {len(CONTENT)}\n")
    assert (
        "\nsender: a@x.test\nrecipient: b@y.test\noriginal_recipient: C@y.test\ndone_recipient: c@y.test\n"
        in out
    )
    assert f"\n*** MESSAGE CONTENTS deferred/{queue_id} ***\n{text}*** MESSAGE FILE END" in out
    for args, status in ((["-q", "ABC"], 1), (["-q", "../x"], 1), ([queue_id], 64), (["-z"], 64)):
        assert site.run("postcat", *args)[0] == status


def test_a_bad_configuration(site: Site) -> None:
    (site.config / "main.cf").write_text("hash_queue_depth = many\n")
    for tool in ("postqueue", "postsuper", "postcat"):
        status, _, err = site.run(tool, *{"postqueue": ["-p"], "postsuper": [], "postcat": ["-q", "A"]}[tool])
        assert status == 78
        assert "hash_queue_depth" in err
