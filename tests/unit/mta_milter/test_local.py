"""Mail of local programs before milters: taken, changed, held, dropped, sent back, left for later."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop import scripted_milter as m
from tests.interop.scripted_milter import Script, ScriptedMilter, comparable
from tests.unit.mta_sendmail.test_pickup import World, directory, sendmail

__all__ = ["directory"]
TEXT = b"From: me@x.test\nTo: list@x.test\nSubject: x\n\nhello\n"


@pytest.fixture
def milter() -> Iterator[ScriptedMilter]:
    milter = ScriptedMilter()
    yield milter
    milter.stop()


def picked_up(directory: Path, milter: ScriptedMilter, script: Script, text: bytes = TEXT) -> World:
    """The world after one message has been handed in and looked at."""
    milter.begin(script)
    assert sendmail(directory, "-f", "me@x.test", "list@x.test", text=text).returncode == 0
    world = World(directory, f"non_smtpd_milters = inet:127.0.0.1:{milter.port}\n")
    world.pick_up()
    return world


def test_what_milters_are_told(directory: Path, milter: ScriptedMilter) -> None:
    picked_up(directory, milter, Script())
    [told] = comparable(milter.heard())
    assert [(letter, texts) for letter, texts in told if letter not in "DOLA"] == [
        ("C", ["localhost", "4", "127.0.0.1"]),
        ("H", ["localhost"]),
        ("M", ["me@x.test"]),
        ("R", ["list@x.test"]),
        ("T", []),
        ("N", []),
        ("B", ["hello\r\n"]),
        ("E", []),
        ("Q", []),
    ]
    shown = [texts[0] for letter, texts in told if letter == "L"]
    assert shown == ["From", "To", "Subject", "Message-Id", "Date"]


@pytest.mark.parametrize("size", [1, 40_000])
def test_changes_are_made(directory: Path, milter: ScriptedMilter, size: int) -> None:
    edits = m.changes(
        m.add_header("X-New", "1"),
        m.change_from("<new@x.test>"),
        m.add_rcpt("<b@y.test>"),
        m.body(b"other\n"),
    )
    world = picked_up(directory, milter, Script({"E": (edits,)}), TEXT + b"a line\n" * size)
    [name] = world.queue.names("incoming")
    message = world.queue.read("incoming", name)
    envelope = message.envelope
    assert envelope.sender == "new@x.test"
    assert [entry.address for entry in envelope.recipients] == ["a@x.test", "b@y.test"]
    content = world.queue.read_content(message)
    assert content.endswith(b"\r\nX-New: 1\r\n\r\nother\r\n") and content.startswith(b"Received: by ")
    assert world.left() == [] and world.queue.names("tmp") == []


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        (Script({"E": (m.REJECT,)}), "bounced"),
        (Script({"M": (m.reply("550 5.7.1 not you"),)}), "bounced"),
        (Script({"E": (m.TEMPFAIL,)}), "left"),
        (Script({"R": (m.REJECT,)}), "left"),
        (Script({"C": (m.CLOSE,)}), "left"),
        (Script({"T": (m.DISCARD,)}), "gone"),
        (Script({"E": ((m.quarantine("look"), b"c"),)}), "hold"),
        (Script({"M": (m.ACCEPT,)}), "incoming"),
    ],
)
def test_verdicts(directory: Path, milter: ScriptedMilter, script: Script, outcome: str) -> None:
    world = picked_up(directory, milter, script)
    found = {
        "bounced": len(world.bounced),
        "left": len(world.left()),
        "hold": len(world.queue.names("hold")),
        "incoming": len(world.queue.names("incoming")),
    }
    assert found == {name: int(name == outcome) for name in found}
    if outcome == "bounced":
        assert "milter-reject: " in world.log()


def test_a_refused_recipient_is_a_configuration_error(directory: Path, milter: ScriptedMilter) -> None:
    log = picked_up(directory, milter, Script({"R": (m.REJECT,)})).log()
    assert "milter configuration error: can't reject recipient in non-smtpd(8) submission" in log
    assert "deferring delivery of this message" in log
