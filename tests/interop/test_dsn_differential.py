"""Notifications (RFC 3461, RFC 3464) of the real Postfix and of ours, paragraph by paragraph.

Each server gets the same mail with the same main.cf; what arrives in the senders' and postmasters' mailbox, and
what the next servers are told, is compared with queue ids, times and ports taken out. What differs is listed in
docs/differences.md.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest

from tests.interop.delivery import World, ours, postfix
from tests.interop.real_postfix import let_daemons_in, need_postfix

pytestmark = pytest.mark.real


class Mail(NamedTuple):
    mail: str
    rcpts: list[str]
    content: bytes = b"Subject: hi\r\nFrom: s@box.test\r\n\r\nbody\r\n"


LONG = b"Subject: long\r\n\r\n" + b"0123456789 123456789 123456789 123456789 1234567890\r\n" * 80
SCENARIOS = {
    "delivered": Mail(
        "<s1@box.test> RET=HDRS ENVID=abc+2Bdef",
        ["<a@box.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;orig+40box.test"],
    ),
    "failed at RCPT and at the dot": Mail(
        "<s2@box.test>", ["<u@refuse.test>", "<v@reject.test> NOTIFY=FAILURE ORCPT=rfc822;v2@x.test"]
    ),
    "relayed, and handed on": Mail(
        "<s3@box.test> RET=FULL ENVID=e2",
        [
            "<u@dsn.test> NOTIFY=SUCCESS,DELAY,FAILURE",
            "<v@plain.test> NOTIFY=SUCCESS ORCPT=rfc822;v2@x.test",
            "<w@plain.test>",
        ],
    ),
    "expanded": Mail(
        "<s4@box.test>",
        [
            "<list@x.test> NOTIFY=SUCCESS",
            "<many@x.test> NOTIFY=SUCCESS",
            "<single@x.test> NOTIFY=SUCCESS,FAILURE",
            "<one@x.test> NOTIFY=SUCCESS",
        ],
    ),
    "a mailing list": Mail(
        "<s5@box.test> ENVID=Z", ["<owned@x.test> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;own@x.test"]
    ),
    "a silent mailing list": Mail("<s6@box.test>", ["<owned@x.test> NOTIFY=NEVER ORCPT=rfc822;own@x.test"]),
    "double bounce": Mail("<>", ["<u@refuse.test>"]),
    "bounced bounce": Mail("<s@refuse.test>", ["<w@reject.test>"]),
    "undeliverable double bounce": Mail("<double-bounce@mail.x.test>", ["<v@refuse.test>"]),
    "failed behind aliases": Mail(
        "<s7@box.test>", ["<bad@x.test> NOTIFY=FAILURE ORCPT=rfc822;bad2@x.test", "<wrong@x.test>"]
    ),
    "NOTIFY=NEVER": Mail("<s8@box.test>", ["<v@refuse.test> NOTIFY=NEVER"]),
    "NOTIFY without FAILURE": Mail(
        "<s9@box.test>", ["<v@refuse.test> NOTIFY=DELAY", "<w@refuse.test> NOTIFY=SUCCESS", "<x@refuse.test>"]
    ),
    "over bounce_size_limit": Mail("<s10@box.test> RET=FULL", ["<v@refuse.test>"], LONG),
    "RET=HDRS": Mail("<s11@box.test> RET=HDRS ENVID=q", ["<v@refuse.test>", "<a@box.test> NOTIFY=SUCCESS"]),
    "odd addresses": Mail(
        "<s12@box.test> ENVID=a+20b", ['<"a b"@dsn.test> NOTIFY=SUCCESS', "<+x=y@dsn.test> NOTIFY=FAILURE"]
    ),
    "SMTPUTF8": Mail("<s13@box.test> SMTPUTF8", ["<v@refuse.test> ORCPT=utf-8;v\\x{fc}@x.test"]),
    "SMTPUTF8, headers": Mail(
        "<s14@box.test> SMTPUTF8 RET=HDRS", ["<v@refuse.test>"], "Subject: hü\r\n\r\nb\r\n".encode()
    ),
}
LATE = {
    "late": Mail(
        "<s1@box.test> ENVID=d1",
        ["<a@later.test>", "<b@later.test> NOTIFY=FAILURE", "<c@later.test> NOTIFY=DELAY ORCPT=rfc822;cc@x"],
    ),
    "late, from nobody": Mail("<>", ["<n@later.test>"]),
    "late, and a failure": Mail("<s2@box.test>", ["<a@later.test> NOTIFY=NEVER", "<c@refuse.test>"]),
}
# A warning after 3 s, an end after 9 s and 13 s: some attempt falls between them however busy the machine is. With a
# back-off of no more than the queue run's delay Postfix now and then finds a message "still being delivered", leaves it
# in incoming/ and does not look at it again.
QUICK = (
    "minimal_backoff_time = 3s\nmaximal_backoff_time = 3s\nqueue_run_delay = 1s\n"
    "maximal_queue_lifetime = 13s\nbounce_queue_lifetime = 9s\n"
)
SESSIONS: list[list[bytes]] = [
    [b"EHLO x", b"MAIL FROM:<s@box.test>", b"RCPT TO:<u@old.test>", b"FOO", b"RSET", b"QUIT"],
    [b"EHLO x", b"MAIL FROM:<s@box.test>", b"RCPT TO:<u@e lsewhere.test>", b"DATA", b"QUIT"],
    [b"EHLO x", b"MAIL FROM:<s@box.test> SIZE=99999999999", b"QUIT"],
    [b"HELO x", b"RCPT TO:<" + b"x" * 300 + b"@box.test>", b"NOOP"],
    [b"EHLO x", b"MAIL FROM:<s@box.test>", b"RCPT TO:<a@box.test>", b"DATA", b"x: y\r\n\r\nz\r\n.", b"XX"],
]
REPLIES = [
    *("RET=FULL", "RET=X", "RET=", "RET", "RET=FULL RET=FULL", "RET=HDRS,FULL", "ret=hdrs envid=x"),
    *("ENVID=abc", "ENVID=", "ENVID", "ENVID=a+", "ENVID=a+20b", "ENVID=a+0Ab", "ENVID=+ZZ", "ENVID=+e0"),
    *("ENVID=a ENVID=b", "ENVID=a=b", "ENVID=+41+2b"),
]
RCPT_REPLIES = [
    *("NOTIFY=NEVER", "NOTIFY=SUCCESS,NEVER", "NOTIFY=", "NOTIFY", "NOTIFY=X", "NOTIFY=SUCCESS,"),
    *("NOTIFY=,SUCCESS", "NOTIFY=NEVER,NEVER", "NOTIFY=NEVER NOTIFY=NEVER", "NOTIFY=DELAY,DELAY"),
    *("ORCPT=rfc822;a@b", "ORCPT=rfc822;", "ORCPT=;a", "ORCPT=rfc822", "ORCPT=rfc822;a+2", "ORCPT=x;y"),
    *("ORCPT=rfc822;a+0Ab", "ORCPT=rfc822;a ORCPT=rfc822;a", "ORCPT=rfc822;a=b@c", "ORCPT=rfc822;+e0"),
    *("orcpt=RFC822;a@b notify=delay", "NOTIFY=SUCCESS FOO", "ORCPT=utf-8;a\\x{fc}b@c"),
]


@pytest.fixture(autouse=True, scope="module")
def _needs_postfix() -> None:
    need_postfix()


Found = tuple[list[list[str]], list[str]]
"""Notices, each as its paragraphs, and lines to compare as they are."""


def both(
    directory: Path, work: Callable[[World], Found], extra: str = "", warning: str = "0h"
) -> list[Found]:
    """What `work` makes of Postfix and of ours, side by side."""
    let_daemons_in(directory)

    def run(start: Callable[..., AbstractContextManager[World]], folder: Path) -> Found:
        folder.mkdir()
        let_daemons_in(folder)
        with start(folder, extra, warning=warning) as world:
            return work(world)

    # Not in `directory`: the names of Postfix's sockets have to be short.
    with TemporaryDirectory(prefix="dsn-") as name, ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, (postfix, ours), (Path(name) / "postfix", Path(name) / "ours")))


def _settled(world: World, at_least: int) -> list[bytes]:
    """Everything delivered once nothing has come for two seconds."""
    found = world.wait(at_least, seconds=30)
    while True:
        time.sleep(2)
        if len(found) == len(found := world.delivered()):
            return found


def _paragraphs(message: bytes) -> list[str]:
    """A message's paragraphs in no order (that of recipients is chance), without what must differ."""
    text = message.decode()
    text = re.sub(r"^X-Original-To: .*\n", "", text, flags=re.M)
    text = re.sub(r"^Received: .*\n(?:[ \t].*\n)*", "", text, flags=re.M)
    text = re.sub(r"\w{3}, +\d+ \w{3} \d{4} [\d:]{8} [+-]\d{4} \(\w+\)", "DATE", text)
    text = re.sub(r"\b[0-9A-F]{9,18}\.1\d{9}/", "BOUNDARY/", text)
    text = re.sub(r"\b2\d{13}\.[0-9A-F]{9,18}@", "MESSAGE-ID@", text)
    text = re.sub(r"(Queue-ID: |queued as )[0-9A-F]+", r"\1ID", text)
    text = re.sub(r"(127\.0\.0\.1\]):\d+", r"\1:PORT", text)
    return sorted(paragraph.strip("\n") for paragraph in text.split("\n\n"))


def _notices(messages: list[bytes]) -> list[list[str]]:
    kinds = (b"multipart/report", b"Transcript of session")
    return sorted(_paragraphs(message) for message in messages if any(kind in message for kind in kinds))


def _passed_on(world: World) -> list[str]:
    """What servers have been told of wishes, as a set."""
    return sorted(
        {
            f"{name}: {re.sub(r' (SIZE=[0-9]+|BODY=8BITMIME)', '', command)}"
            for name, sink in world.sinks.items()
            for command in sink.commands
        }
    )


def _send(world: World, scenarios: dict[str, Mail], at_least: int) -> Found:
    for name, mail in scenarios.items():
        replies = world.send(mail.mail, mail.rcpts, mail.content)
        assert replies[-1].startswith(b"250"), (name, replies)
    return _notices(_settled(world, at_least)), _passed_on(world)


def _equal(results: list[Found]) -> None:
    (theirs, their_commands), (own, own_commands) = results
    for wanted in theirs:
        assert wanted in own, _difference(wanted, own)
    for got in own:
        assert got in theirs, _difference(got, theirs)
    assert len(theirs) == len(own)
    assert own_commands == their_commands


def _difference(one: list[str], others: list[list[str]]) -> str:
    """How a notice differs from the most similar one of the other server."""
    nearest = min(others, key=lambda other: len(set(one) ^ set(other)), default=[])
    alone = sorted(set(one) - set(nearest))
    return "\n\n".join(["only here:", *alone, "instead of:", *sorted(set(nearest) - set(one))])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Found]]:
    yield both(tmp_path_factory.mktemp("dsn"), lambda world: _send(world, SCENARIOS, 32))


def test_notifications(results: list[Found]) -> None:
    _equal(results)


def test_there_was_something_to_compare(results: list[Found]) -> None:
    (theirs, commands), _ = results
    said = "\n".join(paragraph for notice in theirs for paragraph in notice)
    for action in ("failed", "delivered", "relayed", "expanded"):
        assert f"Action: {action}" in said
    assert any("NOTIFY=" in command for command in commands)


def test_delays_and_expiry(tmp_path: Path) -> None:
    found = both(tmp_path, lambda world: _send(world, LATE, 9), QUICK, "3s")
    (theirs, _), (own, _) = found
    assert any("Action: delayed" in paragraph for notice in theirs for paragraph in notice)
    _equal([(theirs, []), (own, [])])


def test_without_smtputf8(tmp_path: Path) -> None:
    some = {name: SCENARIOS[name] for name in ("delivered", "failed at RCPT and at the dot")}
    _equal(both(tmp_path, lambda world: _send(world, some, 4), "smtputf8_enable = no\n"))


def test_bounce_implies_double_bounce(tmp_path: Path) -> None:
    some = {name: SCENARIOS[name] for name in ("double bounce", "NOTIFY=NEVER")}
    _equal(both(tmp_path, lambda world: _send(world, some, 2), "notify_classes = bounce\n"))


def test_transcripts_and_replies(tmp_path: Path) -> None:
    def work(world: World) -> Found:
        for lines in SESSIONS:
            world.talk(lines)
        notices = _notices(_settled(world, 5))
        said = [world.talk([b"EHLO x", f"MAIL FROM:<s@box.test> {text}".encode()]) for text in REPLIES]
        said += [
            world.talk([b"EHLO x", b"MAIL FROM:<s@box.test>", f"RCPT TO:<a@box.test> {text}".encode()])
            for text in RCPT_REPLIES
        ]
        return notices, [str(replies) for replies in said]

    extra = "relocated_maps = inline:{u@old.test=u@new.test}\nvirtual_alias_domains = old.test\n"
    _equal(both(tmp_path, work, extra))


def test_the_obsolete_form_of_from(tmp_path: Path) -> None:
    def work(world: World) -> Found:
        world.talk(SESSIONS[0])
        some = {name: SCENARIOS[name] for name in ("failed at RCPT and at the dot",)}
        return _send(world, some, 3)[0], []

    extra = "header_from_format = obsolete\n"
    results = both(tmp_path, work, extra)
    _equal(results)
    assert "From: MAILER-DAEMON@x.test (Mail Delivery System)" in str(results[1])


TEMPLATES = """\
# as bounce(5) has it
failure_template = <<EOF
Charset: iso-8859-1
From: MAILER-DAEMON (The Post Office)
Subject: Could not be delivered
Postmaster-Subject: Copy: could not be delivered

Größe: $myhostname ${mydomain} $$5 $delay_warning_time_seconds $maximal_queue_lifetime_days
  $mail_name ${notify_classes?some}
EOF

delay_template = <<XX
Subject: Late
From: "Post, Office" <post@office.test>

Late by $delay_warning_time_hours
XX
success_template = <<END
Charset: us-ascii
Subject: Arrived

$recipient_delimiter is the delimiter.

END
verify_template = <<END
Subject: Nicht gefällig

ignored
END
other_template = <<END
ignored
END
"""
VERP = {
    "VERP": Mail(
        "<list@box.test> XVERP",
        [
            "<a@box.test>",
            "<u@refuse.test>",
            "<v@reject.test>",
            "<many@x.test>",
            "<list@x.test>",
            "<c@dsn.test>",
        ],
    ),
    "VERP with delimiters of its own": Mail(
        '<"list er"@box.test> XVERP=-=', ["<d@dsn.test> NOTIFY=SUCCESS", "<w@refuse.test>", "<wrong@x.test>"]
    ),
    "VERP, silent": Mail("<list2@box.test> XVERP", ["<v@refuse.test> NOTIFY=NEVER", "<x@dsn.test>"]),
    "no VERP": Mail("<list3@box.test>", ["<v@refuse.test>"]),
}
VERP_REPLIES = [
    *("<s@box.test> XVERP", "<s@box.test> XVERP=", "<s@box.test> XVERP=+", "<s@box.test> XVERP=+=-"),
    *("<s@box.test> XVERP=ab", "<s@box.test> xverp=-+", "<> XVERP", "<s@box.test> XVERP XVERP=--"),
]


def _with_templates(directory: Path) -> str:
    path = directory / "templates"
    path.write_text(TEMPLATES)
    return f"bounce_template_file = {path}\nenable_threaded_bounces = yes\n"


def test_templates_and_threads(tmp_path: Path) -> None:
    content = b"Subject: x\r\nMessage-Id: <orig@x.test>\r\nReferences: <a@b> <c@d>\r\n\r\nhi\r\n"
    some = {
        "failed": Mail("<s1@box.test>", ["<u@refuse.test>"], content),
        "delivered": Mail("<s2@box.test>", ["<a@box.test> NOTIFY=SUCCESS"]),
        "late": Mail("<s3@box.test>", ["<a@later.test>"], content.replace(b"Message-Id:", b"message-id:")),
        "SMTPUTF8": Mail("<s4@box.test> SMTPUTF8", ["<a@box.test> NOTIFY=SUCCESS"], content),
    }
    found = both(tmp_path, lambda world: _send(world, some, 10), _with_templates(tmp_path) + QUICK, "3s")
    (theirs, _), (own, _) = found
    said = "\n".join(paragraph for notice in theirs for paragraph in notice)
    for words in ("The Post Office", "In-Reply-To: <orig@x.test>", "Late by 0", "+ is the delimiter."):
        assert words in said
    _equal([(theirs, []), (own, [])])


def test_templates_without_smtputf8(tmp_path: Path) -> None:
    some = {name: SCENARIOS[name] for name in ("delivered", "failed at RCPT and at the dot")}
    extra = _with_templates(tmp_path) + "smtputf8_enable = no\n"
    _equal(both(tmp_path, lambda world: _send(world, some, 4), extra))


@pytest.mark.parametrize("bounces", ["yes", "no"])
def test_verp(tmp_path: Path, bounces: str) -> None:
    def work(world: World) -> Found:
        offered = [world.talk([b"EHLO x", f"MAIL FROM:{text}".encode()]) for text in VERP_REPLIES]
        notices, commands = _send(world, VERP, 14 if bounces == "yes" else 18)
        paths = sorted(
            line
            for message in world.delivered()
            for line in message.decode().split("\n\n")[0].splitlines()
            if line.startswith(("Return-Path:", "Delivered-To:"))
        )
        return notices, [*commands, *paths, *map(str, offered)]

    extra = f"smtpd_authorized_verp_clients = 127.0.0.1\ndisable_verp_bounces = {bounces}\n"
    found = both(tmp_path, work, extra)
    assert any("<list+u=refuse.test@box.test>" in line for line in found[0][1])
    _equal(found)


def test_verp_is_for_those_who_may(tmp_path: Path) -> None:
    def work(world: World) -> Found:
        return [], [str(world.talk([b"EHLO x", f"MAIL FROM:{text}".encode()])) for text in VERP_REPLIES[:2]]

    (_, theirs), (_, own) = both(tmp_path, work)
    assert own == theirs


def test_a_delay_that_is_over(tmp_path: Path) -> None:
    def work(world: World) -> Found:
        for sender, wish in (
            ("s1", ""),
            ("s2", " NOTIFY=DELAY"),
            ("s3", " NOTIFY=FAILURE"),
            ("s4", " NOTIFY=SUCCESS"),
        ):
            replies = world.send(
                f"<{sender}@box.test>", [f"<a@later.test>{wish}"], b"Subject: x\r\n\r\nb\r\n"
            )
            assert replies[-1].startswith(b"250")
        world.wait(4, seconds=30)  # two warnings, and the postmaster's copies
        time.sleep(1)
        world.sinks["later.test"].change("250 2.1.5 Ok")
        return _notices(_settled(world, 9)), []

    extra = QUICK.replace("maximal_queue_lifetime = 13s", "maximal_queue_lifetime = 100s")
    found = both(tmp_path, work, extra + "confirm_delay_cleared = yes\n", "3s")
    assert sum("Action: relayed" in "\n".join(notice) for notice in found[0][0]) == 3
    _equal(found)
