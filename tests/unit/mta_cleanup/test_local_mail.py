"""What checks make of mail that local programs hand in."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailstack.storage.queue import Queue
from tests.unit.mta_sendmail.test_pickup import MAIN_CF, World, sendmail

RULES = """\
/^Subject: hold/ HOLD
/^Subject: gone/ DISCARD
/^Subject: no/ REJECT 5.6.6 no such thing
/^Subject: to/ REDIRECT r@y.test
/^Subject: new/ REPLACE Subject: other
"""


def world(directory: Path, subject: bytes, size: int) -> World:
    """A pickup that has looked, after a program has sent this."""
    (directory / "main.cf").write_text(MAIN_CF.format(dir=directory))
    (directory / "master.cf").write_text("pickup unix n - n 60 1 pickup\n")
    (directory / "rules").write_text(RULES)
    Queue(str(directory / "queue")).create()
    text = b"Subject: " + subject + b"\n\n" + (b"x" * 79 + b"\n") * (size // 80) + b"end\n"
    assert sendmail(directory, "-f", "me", "a@y.test", text=text).returncode == 0
    made = World(directory, f"header_checks = regexp:{directory}/rules\nalways_bcc = copy\n")
    made.pick_up()
    assert made.left() == []
    return made


@pytest.mark.parametrize("size", [0, 900_000])
def test_actions(tmp_path: Path, size: int) -> None:
    for subject in (b"hold", b"gone", b"no", b"to", b"new"):
        folder = tmp_path / subject.decode()
        folder.mkdir()
        made = world(folder, subject, size)
        found = {
            name: [made.queue.read(name, one) for one in made.queue.names(name)]
            for name in ("incoming", "hold")
        }
        match subject:
            case b"hold":
                assert not found["incoming"] and len(found["hold"]) == 1
                assert made.taken == []
            case b"gone":
                assert found == {"incoming": [], "hold": []} and made.bounced == []
            case b"no":
                assert found == {"incoming": [], "hold": []}
                [(message, results)] = made.bounced
                assert message.envelope.sender == "me@x.test"
                assert str(results[0].outcome) == "Bounced(text='no such thing', dsn='5.6.6')"
            case b"to":
                [message] = found["incoming"]
                assert [one.address for one in message.envelope.recipients] == ["r@y.test"]
            case _:
                [message] = found["incoming"]
                assert [one.address for one in message.envelope.recipients] == ["a@y.test", "copy@x.test"]
                content = made.queue.read_content(message)
                assert b"\r\nSubject: other\r\n" in content and content.endswith(b"end\r\n")
                assert made.taken == [message.queue_id]
