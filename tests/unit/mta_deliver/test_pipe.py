"""pipe(8): what master.cf may say, what the command gets, what its end means."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from mailstack.config.errors import ConfigError
from mailstack.config.postfix import MainCf
from mailstack.config.postfix.master_cf import MasterService, parse_master
from mailstack.mta.deliver import pipe
from mailstack.mta.deliver.pipe import PipeAgent, read_line
from mailstack.mta.deliver.request import Result, Sent
from mailstack.net.clock import ManualClock
from mailstack.storage.identity import Identity
from mailstack.storage.queue import Queue
from tests.unit.mta_deliver.support import CONTENT, request, summary

MAIN = "compatibility_level = 3.6\nmyhostname = mail.x.test\nrecipient_delimiter = +\n"


def service(text: str) -> MasterService:
    [found] = parse_master(f"agent unix - n n - - pipe\n  {text}\n", Path("master.cf"))
    return found


def main_cf(text: str = "") -> MainCf:
    return MainCf.parse(MAIN + text, Path("main.cf"), transports=["agent"])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("argv=/bin/cat", "missing user= command-line attribute"),
        ("user=nobody", "missing argv= command-line attribute"),
        ("user=nobody argv=", "missing argv= command-line attribute"),
        ("user=no-such-user argv=/bin/cat", "unknown username: no-such-user"),
        ("user=nobody:no-such-group argv=/bin/cat", "unknown group: no-such-group"),
        ("user=root argv=/bin/cat", "specifies root privileges"),
        ("user=nobody:root argv=/bin/cat", "specifies privileged group id 0"),
        ("user=nobody colour=red argv=/bin/cat", "unknown attribute name: colour=red"),
        ("user=nobody chroot=/x argv=/bin/cat", "chroot= is not supported"),
        ("user=nobody flags=RZ argv=/bin/cat", "unknown flag: Z"),
        ("user=nobody flags=D argv=/bin/cat", "pipe flag `D' requires agent_destination_recipient_limit = 1"),
        ("user=nobody size=big argv=/bin/cat", "bad size= value: big"),
        ("user=nobody argv=/bin/cat ${colour}", 'unknown macro name: "colour"'),
    ],
)
def test_lines_that_mean_nothing(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_line(service(text), main_cf())
    assert str(caught.value).startswith("master.cf:1: agent: ")
    assert problem in str(caught.value)


def run(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    *recipients: str,
    conf: str = "",
    sender: str = "zs@x.test",
    content: bytes = CONTENT,
) -> Sequence[Result]:
    """Deliver with a line of master.cf, as our own user."""
    ours = (Identity(os.geteuid(), os.getegid()), ())
    monkeypatch.setattr(pipe, "_account", lambda user, conf: ours)

    async def main() -> Sequence[Result]:
        queue = Queue(str(root / "queue"))
        queue.create()
        line = service(text.replace("ROOT", str(root)))
        agent = PipeAgent(line, main_cf(conf), queue, ManualClock())
        job = await request(queue, "next.hop", *recipients, content=content, sender=sender)
        results = await agent.deliver(job)
        await agent.close()
        return results

    return asyncio.run(main())


def test_a_sender_keeps_his_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = f"flags=hu {shows(tmp_path)} ${{recipient}} ${{sender}}"
    run(tmp_path, monkeypatch, line, "A+B@Y.test", sender="Send+X@Far.test")
    assert (tmp_path / "args").read_text() == "a+b@y.test\nSend+X@Far.test\n"


def shows(root: Path) -> str:
    """A program that writes its arguments and its input into files."""
    program = root / "shows"
    program.write_text(f'#!/bin/sh\nfor word; do echo "$word"; done > {root}/args\ncat > {root}/input\n')
    program.chmod(0o755)
    return "user=nobody argv=ROOT/shows"


def test_arguments_for_several_recipients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "${sender} $(size) $nexthop -f ${user}+${extension}@${domain} x${recipient}x $$ ${mailbox}"
    results = run(tmp_path, monkeypatch, f"{shows(tmp_path)} {words}", "A+b@Y.test", "c;d@y.test")
    assert summary(results) == [
        (address, "Sent", "2.0.0", "delivered via agent service") for address in ("A+b@Y.test", "c;d@y.test")
    ]
    assert [result.relay for result in results] == ["agent", "agent"]
    assert isinstance(results[0].outcome, Sent)
    assert results[0].outcome.action == "relayed"
    assert (tmp_path / "args").read_text().splitlines() == [
        "zs@x.test",
        str(len(CONTENT)),
        "next.hop",
        "-f",
        "A+b@Y.test",
        "c;d+@y.test",
        "xA+b@Y.testx",
        "xc;d@y.testx",
        "$",
        "A+b",
        "c;d",
    ]
    assert (tmp_path / "input").read_bytes() == CONTENT.replace(b"\r\n", b"\n")


@pytest.mark.parametrize(
    ("flags", "args", "text"),
    [
        ("", "Some User@Y.test\nMAILER-DAEMON", "Subject: x\n\n.dot\nFrom a\nFrom b\n"),
        ("flags=hu", "some user@y.test\nMAILER-DAEMON", "Subject: x\n\n.dot\nFrom a\nFrom b\n"),
        ("flags=q null_sender=", '"Some User"@Y.test\n', "Subject: x\n\n.dot\nFrom a\nFrom b\n"),
        ("flags=.>", None, "Subject: x\n\n..dot\n>From a\n>From b\n"),
        ("flags=RB", None, "Return-Path: <MAILER-DAEMON>\nSubject: x\n\n.dot\nFrom a\nFrom b\n\n"),
        (
            "flags=DO",
            None,
            (
                'X-Original-To: "Some User"@Y.test\nDelivered-To: "Some User"@Y.test\n'
                "Subject: x\n\n.dot\nFrom a\nFrom b\n"
            ),
        ),
        ("eol=\\r\\n", None, "Subject: x\r\n\r\n.dot\r\nFrom a\r\nFrom b\r\n"),
    ],
)
def test_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, args: str | None, text: str
) -> None:
    line = f"{flags} {shows(tmp_path)} ${{recipient}} ${{sender}}"
    content = b"Subject: x\r\n\r\n.dot\r\nFrom a\r\nFrom b"
    conf = "agent_destination_recipient_limit = 1\n"
    [result] = run(tmp_path, monkeypatch, line, "Some User@Y.test", sender="", content=content, conf=conf)
    assert isinstance(result.outcome, Sent)
    assert (tmp_path / "input").read_bytes().decode() == text
    if args is not None:
        assert (tmp_path / "args").read_text() == f"{args}\n"


def test_final_delivery_and_what_the_command_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [result] = run(tmp_path, monkeypatch, "flags=X user=nobody argv=/bin/echo hello", "a@y.test")
    assert result.outcome == Sent("delivered via agent service (hello )", action="delivered")


@pytest.mark.parametrize(
    ("line", "content", "conf", "expected"),
    [
        ("size=10 user=x argv=/bin/cat", CONTENT, "", ("Bounced", "5.2.3", "message too large")),
        (
            "user=x argv=/bin/false",
            CONTENT,
            "",
            ("Bounced", "5.3.0", 'Command died with status 1: "/bin/false"'),
        ),
        (
            "user=x argv=/bin/sleep 60",
            CONTENT,
            "agent_time_limit = 1s\n",
            ("Bounced", "5.3.0", 'Command time limit exceeded: "/bin/sleep"'),
        ),
        (
            "flags=D user=x argv=/bin/cat",
            b"delivered-to: A@y.test\r\n" + CONTENT,
            "agent_destination_recipient_limit = 1\n",
            ("Bounced", "5.4.6", "mail forwarding loop for a@y.test"),
        ),
        (
            "user=x directory=/no/such argv=/bin/cat",
            CONTENT,
            "",
            (
                "Deferred",
                "4.3.0",
                (
                    'temporary failure. Command output: cannot change directory to "/no/such": '
                    "No such file or directory "
                ),
            ),
        ),
    ],
)
def test_failures(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    content: bytes,
    conf: str,
    expected: tuple[str, str, str],
) -> None:
    results = run(tmp_path, monkeypatch, line, "a@y.test", content=content, conf=conf)
    assert summary(results) == [("a@y.test", *expected)]
