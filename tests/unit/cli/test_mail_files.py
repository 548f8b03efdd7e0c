"""`mail import`, `export`, `verify` and `reindex`: usage, and what is said to whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mailstack.client import account
from mailstack.client.stored import Stored, keys_of
from mailstack.wire.imap.client import MessageData
from tests.unit.cli.support import FakeProject, Shell


class FakeAccount:
    """Mailboxes in memory."""

    boxes: dict[str, list[Stored]]
    refuse = b""

    def __init__(self) -> None:
        self.boxes = {"INBOX": [], "Sent": []}
        self.user = "alice@mail.test"
        self.asked: list[str] = []

    def open(self, endpoints: object, user: str) -> FakeAccount:
        self.asked.append(user)
        return self

    def __enter__(self) -> FakeAccount:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def mailboxes(self) -> tuple[list[str], str]:
        return list(self.boxes), "/"

    def create(self, mailbox: str) -> None:
        self.boxes[mailbox] = []

    def known(self, mailbox: str) -> set[tuple[int, bytes]]:
        return {keys_of(one.raw)[0] for one in self.boxes[mailbox]}

    def append(self, mailbox: str, messages: Any) -> Any:
        for message in messages:
            if self.refuse and self.refuse in message.raw:
                yield message, "NO too large"
            else:
                self.boxes[mailbox].append(message)
                yield message, ""

    def read(self, mailbox: str) -> Any:
        return iter(self.boxes[mailbox])

    def sizes(self, mailbox: str) -> list[MessageData]:
        return [
            MessageData(number, one.flags, "", len(one.raw), b"")
            for number, one in enumerate(self.boxes[mailbox], 1)
        ]


@pytest.fixture
def boxes(monkeypatch: pytest.MonkeyPatch, project: FakeProject) -> FakeAccount:
    fake = FakeAccount()
    monkeypatch.setattr(account.Account, "open", fake.open)
    return fake


def maildir(root: Path) -> None:
    """A Maildir with a message each in its INBOX and the folder `Old.One`."""
    for folder, subject in ((root, "in"), (root / ".Old.One", "old")):
        for name in ("cur", "new", "tmp"):
            (folder / name).mkdir(parents=True)
        (folder / "cur" / "1.x:2,S").write_text(f"Subject: {subject}\n\n")


def test_folders_are_made_with_the_servers_separator(
    shell: Shell, boxes: FakeAccount, tmp_path: Path
) -> None:
    maildir(tmp_path / "md")
    ran = shell("mail", "import", "alice", str(tmp_path / "md"), "--mailbox", "Sent", "-o", "json")
    assert ran.status == 0
    assert ran.json["data"] == {
        "user": "alice@mail.test",
        "imported": 2,
        "skipped": 0,
        "mailboxes": {"Sent": 1, "Old/One": 1},
        "refused": [],
    }
    assert [one.raw for one in boxes.boxes["Old/One"]] == [b"Subject: old\r\n\r\n"]
    again = shell("mail", "import", "alice", str(tmp_path / "md"), "--mailbox", "Sent", "--skip-duplicates")
    assert (again.status, again.out) == (0, "0 messages imported, 2 skipped\n")


def test_a_message_that_is_refused_is_named_and_the_others_go_on(
    shell: Shell, boxes: FakeAccount, tmp_path: Path
) -> None:
    for name in ("1", "2", "3"):
        (tmp_path / f"{name}.eml").write_text(f"Subject: {name}\n\n")
    boxes.refuse = b"Subject: 2"
    ran = shell("mail", "import", "alice", str(tmp_path))
    assert (ran.status, ran.out) == (1, "2 messages imported\n")
    assert f"{tmp_path}/2.eml: NO too large\nerror: 1 message refused" in ran.err


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (("import", "alice", "nowhere.mbox"), 2, "nowhere.mbox: No such file"),
        (("import", "alice", "empty"), 1, "empty: no .eml or .mbox file"),
        (("import", "alice", "text.mbox"), 1, "text.mbox: not an mbox"),
        (("export", "alice", "full"), 1, "full is there already"),
        (("export", "alice", "text.mbox"), 1, "text.mbox is there already"),
        (("export", "alice", "full", "--format", "mbox"), 2, "full: is a folder"),
        (("export", "alice", "text.mbox", "--format", "eml"), 2, "text.mbox: is not a folder"),
        (("export", "alice", "x", "--format", "pst"), 2, "'pst' is not one of mbox, maildir, eml"),
        (("export", "alice", "-", "--format", "eml"), 2, "standard output takes a new mbox only"),
        (("export", "alice", "x", "--all", "--mailbox", "INBOX"), 2, "give names, or --all"),
        (("export", "nobody", "x"), 2, "nobody is not a mailbox of this stack"),
    ],
)
def test_what_cannot_be_done(
    args: tuple[str, ...], status: int, words: str, shell: Shell, boxes: FakeAccount, folder: Path
) -> None:
    (folder / "empty").mkdir()
    (folder / "full").mkdir()
    (folder / "full" / "x").write_text("x")
    (folder / "text.mbox").write_text("text")
    ran = shell("mail", *args)
    assert ran.status == status, ran
    assert words in ran.err


def test_export_says_how_many(shell: Shell, boxes: FakeAccount, folder: Path) -> None:
    boxes.boxes["INBOX"] = [Stored(b"Subject: a\r\n\r\n", ("\\Seen",), 0.0, uid=3)]
    ran = shell("mail", "export", "alice", "out.mbox", "-o", "json")
    assert ran.json["data"] == {
        "user": "alice@mail.test",
        "target": "out.mbox",
        "exported": 1,
        "skipped": 0,
        "mailboxes": {"INBOX": 1},
    }
    assert (folder / "out.mbox").read_text().endswith("1970\nSubject: a\nStatus: RO\n\n\n")
    assert shell("mail", "export", "alice", "eml", "--format", "eml", "-q").out == ""
    assert (folder / "eml" / "3.eml").read_bytes() == b"Subject: a\n\n"


def test_reindex_and_the_files_problems(
    shell: Shell, boxes: FakeAccount, project: FakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def reindex(user: str, mailbox: str | None) -> list[dict[str, Any]]:
        asked.append((user, mailbox))
        return [{"mailbox": "INBOX", "messages": 3}]

    monkeypatch.setattr(project, "reindex_mailboxes", reindex, raising=False)
    ran = shell("mail", "reindex", "alice", "--mailbox", "INBOX")
    assert (ran.status, ran.out) == (0, "3 messages in 1 mailbox indexed anew\n")
    assert asked == [("alice@mail.test", "INBOX")]

    found = [{"mailbox": "Sent", "uid": None, "problem": "it is torn"}]
    monkeypatch.setattr(project, "verify_mailboxes", lambda user, mailbox: found, raising=False)
    ran = shell("mail", "verify", "alice", "-o", "json")
    assert ran.status == 1
    assert ran.json["data"]["problems"] == found
    assert ran.json["error"]["code"] == "mailbox-damaged"
    monkeypatch.setattr(project, "verify_mailboxes", lambda user, mailbox: [], raising=False)
    assert shell("mail", "verify", "alice").out == "0 messages in 2 mailboxes: no problem\n"
