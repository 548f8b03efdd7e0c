"""internal_mail_filter_classes: notifications and notices of the real Postfix and of ours, before header_checks
and a scripted milter.

Compared are cleanup's and bounce's lines in the log, the header of what arrives, and what the milter is told.
"""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.interop import scripted_milter as m
from tests.interop.delivery import World, ours, postfix
from tests.interop.real_postfix import let_daemons_in, need_postfix
from tests.interop.scripted_milter import Script, ScriptedMilter, comparable

pytestmark = pytest.mark.real

SESSION = [b"EHLO x", b"FOO", b"QUIT"]
NOTICE_DONE = r"to=<errors@box\.test>, .*status=sent|(?:reject|hold|discard): .*from=<double-bounce@|not accepted, try again"
"""What the log has when the postmaster's notice of the session has been delivered, or will not be."""
CONTENT = b"Subject: hi\r\nFrom: s@box.test\r\nMessage-Id: <1@box.test>\r\nDate: now\r\n\r\nbody\r\n"


@dataclass(frozen=True)
class Case:
    rules: str = ""
    """header_checks, as pcre: inline."""
    script: Script | None = None
    classes: str = "bounce, notify"
    mail: int = 3
    """Messages that arrive."""
    more: str = ""


def every(letter: str, *answer: bytes) -> Script:
    return Script({letter: (answer,) * 9})


CASES = {
    "nothing": Case("{/^Subject:/ WARN seen}", every("M", *m.REJECT), classes=""),
    "warn": Case("{/^Subject:/ WARN seen} {/^Received:/ WARN received}"),
    "notify only": Case("{/^Subject:/ WARN seen}", classes="notify"),
    "bounce only": Case("{/^Subject:/ PREPEND X-Seen: yes}", classes="bounce"),
    "reject": Case("{/^Subject: (Undel|Postmaster|Postfix)/ REJECT no}", mail=0),
    "hold, discard": Case("{/^Subject: Undel/ DISCARD no} {/^Subject: Post/ HOLD}", mail=0),
    "changes": Case("{/^From:/ IGNORE} {/^Auto-Submitted:/ REPLACE Auto-Submitted: no} {/^Date:/ STRIP no date}"),
    "redirect, bcc": Case("{/^Subject: Undel/ REDIRECT else@box.test} {/^Subject: Postm/ BCC too@box.test}", mail=4),
    "body": Case(more="body_checks = pcre:{ {/^Status:/ REPLACE Status: 5.9.9} {/^ Out: 500/ IGNORE} }\n"),
    "milter": Case(script=every("E", *m.changes(m.add_header("X-Milter", "1"), m.body(b"new\r\n")))),
    "milter, from and to": Case(script=every("E", *m.changes(m.change_from("<n@box.test>"), m.add_rcpt("<too@box.test>"))), mail=6),
    "milter quarantines": Case(script=every("E", *m.changes(m.quarantine("why"))), mail=0),
    "milter rejects": Case(script=every("M", *m.REJECT), mail=0),
    "milter rejects notifications": Case(script=every("M", *m.REJECT), classes="bounce", mail=1),
    "milter rejects recipients": Case(script=every("R", *m.REJECT), mail=0),
    "milter wants it later": Case(script=every("E", *m.TEMPFAIL), mail=0),
    "milter discards": Case(script=every("T", *m.DISCARD), mail=0),
    "milter accepts": Case("{/^Subject: Undel/ WARN seen}", every("C", *m.ACCEPT)),
}  # fmt: skip
Seen = tuple[list[str], list[list[str]], list[str]]


@pytest.mark.parametrize("name", CASES)
def test_mail_of_our_own_is_filtered_alike(name: str) -> None:
    need_postfix()
    case = CASES[name]
    with TemporaryDirectory(prefix="internal-") as folder, ThreadPoolExecutor(2) as pool:
        # Not below pytest's own folder: the names of Postfix's sockets have to be short.
        let_daemons_in(Path(folder))
        found = list(pool.map(lambda start: _run(case, start, Path(folder)), (postfix, ours)))
    theirs, own = found
    assert own[0] == theirs[0]
    assert own[1] == theirs[1]
    assert own[2] == theirs[2]


def _run(case: Case, start: object, folder: Path) -> Seen:
    directory = folder / ("postfix" if start is postfix else "ours")
    directory.mkdir()
    let_daemons_in(directory)
    milter = ScriptedMilter()
    milter.begin(case.script or Script())
    extra = f"internal_mail_filter_classes = {case.classes}\n{case.more}"
    extra += f"header_checks = pcre:{{ {case.rules} }}\n" if case.rules else ""
    extra += f"non_smtpd_milters = inet:127.0.0.1:{milter.port}\n" if case.script else ""
    with (postfix if start is postfix else ours)(directory, extra) as world:
        world.talk(SESSION)
        _wait(world, NOTICE_DONE)
        assert world.send("<s@box.test>", ["<u@refuse.test>"], CONTENT)[-1].startswith(b"250")
        # The end of the first attempt.
        _wait(world, r"postmaster non-delivery notification|bounce failed|bounce: refused")
        mail = [_header(one) for one in world.wait(case.mail, seconds=60)]
        lines = [
            _plain(line)
            for line in world.log().splitlines()
            if re.search(
                r"(?:cleanup|bounce)\[\d+\]: (?!warning: (?:file system clock|resetting file time))", line
            )
        ]
    milter.stop()
    told = [
        str([(letter, [_plain(text) for text in texts]) for letter, texts in one])
        for one in comparable(milter.heard())
    ]
    # Two processes of Postfix's cleanup are not in order; a refused notification is tried again.
    return sorted({line for line in lines if "message-id=" not in line}), sorted(mail), sorted(set(told))


def _wait(world: World, pattern: str) -> None:
    end = time.monotonic() + 60
    while not re.search(pattern, world.log()):
        assert time.monotonic() < end, world.log()
        time.sleep(0.05)


def _header(message: bytes) -> list[str]:
    """The header of a message and how long the rest is, without what is different each time."""
    head, _, body = message.decode().partition("\n\n")
    return [_plain(line) for line in head.splitlines() if " id " not in line and "\tid " not in line] + [
        f"{len(body.splitlines())} lines"
    ]


def _plain(text: str) -> str:
    """Without what differs from one run, or one server, to the other."""
    text = re.sub(r"^\w{3} [ \d]\d [\d:]{8} \S+ (postfix/\w+)\[\d+\]: ", r"\1: ", text)
    text = re.sub(r"\w{3}, +\d+ \w{3} \d{4} [\d:]{8} [+-]\d{4} \(\w+\)", "DATE", text)
    text = re.sub(r"\b2\d{13}\.[0-9A-F]{9,18}@", "ID@", text)
    text = re.sub(r"\b[0-9A-F]{9,18}\.1\d{9}/", "BOUNDARY/", text)
    text = re.sub(r"\.\d+/mail", "/mail", text)
    text = re.sub(r"(127\.0\.0\.1\]):\d+", r"\1:PORT", text)
    return re.sub(r"\b[0-9A-F]{9,18}\b", "ID", text)
