"""Milters: our smtpd and the real Postfix before the same scripted milter, and real milters before ours.

For each case the replies to the client, what the milters were told (commands, macros, order), the message in the
queue (envelope and content) and the lines in the log are compared. What may differ is in docs/differences.md.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mailstack.net.listen import bind_tcp
from mailstack.storage.queue import Queue
from tests.interop import scripted_milter as m
from tests.interop import test_sendmail
from tests.interop.real_postfix import (
    let_daemons_in,
    make_aliases,
    need_postfix,
    start_postfix,
    stop_postfix,
    wait_for,
)
from tests.interop.scripted_milter import Script, ScriptedMilter, comparable
from tests.interop.test_smtp_differential import BOTH, POSTFIX, SERVICES, _reply
from tests.ports import free_ports
from tests.unit.mta_milter.test_smtpd import sent
from tests.unit.mta_smtpd.serving import running, write_config
from tests.unit.mta_smtpd.test_worker import SCRIPT

pytestmark = pytest.mark.real

EXTRA = """\
smtpd_authorized_xclient_hosts = 127.0.0.0/8
smtpd_peername_lookup = no
smtpd_sasl_auth_enable = no
virtual_alias_maps = inline:{ {ali@alias.test = zs@dgtlinux.com, bob@other.test} }
milter_connect_macros = j _ v {daemon_name} {daemon_addr} {daemon_port} {client_addr} {client_name}
  {client_port} {client_ptr} {client_resolve} {client_connections} i b {none}
milter_helo_macros = {tls_version} {cipher} {cipher_bits} {cert_subject} {cert_issuer} j
milter_data_macros = i {mail_addr} {rcpt_addr}
milter_end_of_header_macros = i j _ v {client_addr} {client_name} {client_port} {client_ptr} {daemon_name}
  {daemon_addr} {auth_type} {mail_addr} {mail_host} {rcpt_addr} {rcpt_mailer}
milter_end_of_data_macros = i {client_name} {client_connections} {auth_authen} {auth_author} {daemon_port}
milter_macro_defaults = {none}=nothing, { b = two words }
"""
TEXT = (
    "From: a@b.test\r\nTo: zs@dgtlinux.com\r\nSubject: one\r\n two\r\nX-Many: 1\r\nX-Many:2\r\nX-Many:\t3\r\n"
)
CONTENT = TEXT + "\r\nHello,\r\n\r\nbody\r\n."
MESSAGE = ["EHLO c.test", "MAIL FROM:<a@b.test>", "RCPT TO:<zs@dgtlinux.com>", "DATA", CONTENT]


@dataclass(frozen=True)
class Case:
    name: str
    script: Script = field(default_factory=Script)
    settings: dict[str, str] = field(default_factory=dict)
    lines: Sequence[bytes | str] = (*MESSAGE, "QUIT")
    second: Script | None = None
    """Of another milter behind the first."""


def at(letter: str, *answers: tuple[bytes, ...], **more: object) -> Script:
    return Script({letter: answers}, **more)  # type: ignore[arg-type]


def edit(*edits: bytes, end: tuple[bytes, ...] = m.CONTINUE) -> Script:
    return at("E", m.changes(*edits, end=end))


def symbols(*lists: tuple[int, str]) -> bytes:
    return b"".join(struct.pack("!I", stage) + names.encode() + b"\0" for stage, names in lists)


TWICE = ["MAIL FROM:<a@b.test>", "RCPT TO:<zs@dgtlinux.com>", "DATA", CONTENT]
MIXED: list[bytes | str] = [
    "HELO c.test", "NOOP", "FOO bar", "VRFY zs@dgtlinux.com", "ETRN dgtlinux.com", "AUTH PLAIN AAA",
    "MAIL FROM:<a@b.test>", "RCPT TO:<zs@dgtlinux.com>", "RSET", "EHLO again.test", "QUIT",
]  # fmt: skip
LETTERS = {"C": "connect", "H": "helo", "M": "mail", "R": "rcpt", "T": "data", "L": "header", "N": "eoh",
           "B": "body", "E": "eom", "U": "unknown"}  # fmt: skip
ANSWERS = {
    "accept": m.ACCEPT, "reject": m.REJECT, "tempfail": m.TEMPFAIL, "discard": m.DISCARD,
    "reply": m.reply("554 5.7.9 100%% of %this"), "shutdown": m.SHUTDOWN, "skip": m.SKIP, "lost": m.LOST,
}  # fmt: skip
EVERY: list[bytes | str] = ["EHLO c.test", "FOO", *TWICE, *TWICE, "NOOP", "QUIT"]
QUICK: tuple[dict[str, str], dict[str, str]] = ({}, {"milter_command_timeout": "3s"})
"""For a milter that says nothing. All others have the time that a busy machine may need."""
CASES: list[Case] = [
    *(Case(f"{what}-{name}", at(letter, answer), lines=EVERY)
      for letter, what in LETTERS.items() for name, answer in ANSWERS.items()),
    *(Case(f"{action}-{what}-fails", at(letter, answer), {"milter_default_action": action, **QUICK[answer is m.SILENCE]}, EVERY)
      for action in ("accept", "reject", "tempfail", "quarantine")
      for what, letter, answer in (("connect", "C", m.CLOSE), ("rcpt", "R", m.SILENCE), ("eom", "E", m.CLOSE),
                                   ("body", "B", m.GARBAGE), ("mail", "M", m.HUGE), ("data", "T", m.EMPTY))),
    *(Case(f"{action}-nobody", settings={"milter_default_action": action, "smtpd_milters": "inet:127.0.0.1:{nobody}"},
           lines=EVERY) for action in ("accept", "reject", "tempfail", "quarantine")),
    # Rejections that last.
    *(Case(f"mixed-{what}-{name}", at(letter, answer), lines=MIXED)
      for letter, what in (("C", "connect"), ("H", "helo"))
      for name, answer in (("reject", m.REJECT), ("tempfail", m.TEMPFAIL), ("reply", m.reply("550 no")),
                           ("421", m.reply("421 4.7.0 go away")), ("accept", m.ACCEPT))),
    Case("mixed", lines=MIXED),
    Case("mixed-unknown", at("U", m.reply("555 5.5.5 what?"), m.REJECT), lines=["EHLO x", "FOO", "BAR", "QUIT"]),
    Case("second-recipient", at("R", m.CONTINUE, m.REJECT, m.TEMPFAIL, m.reply("550-5.1.1 two\r\n550 5.1.1 lines")),
         lines=["EHLO c.test", "MAIL FROM:<a@b.test> SIZE=100 BODY=8BITMIME", *["RCPT TO:<zs@dgtlinux.com>"] * 5,
                "DATA", CONTENT, "QUIT"]),
    Case("rejected-recipients", lines=["EHLO c.test", "MAIL FROM:<>", "RCPT TO:<x@far.test>", "RCPT TO:<nobody@dgtlinux.com>",
         "RCPT TO:<ZS@dgtlinux.com> NOTIFY=NEVER", "DATA", CONTENT, "QUIT"], script=Script(events=0x800)),
    Case("unwanted-rejected-recipients", lines=["EHLO c.test", "MAIL FROM:<a@b.test>", "RCPT TO:<x@far.test>",
         "RCPT TO:<zs@dgtlinux.com>", "DATA", CONTENT, "QUIT"]),
    Case("malformed-reply", at("R", m.reply("2xx what"), m.REJECT)),
    Case("wrong-class", at("R", m.reply("550 4.7.1 mixed"))),
    Case("bare-code", at("R", m.reply("550"))),
    Case("soft-bounce", at("R", m.reply("550 5.7.1 hard"), m.REJECT), {"soft_bounce": "yes"}, EVERY),
    Case("lost-client", lines=["EHLO c.test", "MAIL FROM:<a@b.test>", "RCPT TO:<zs@dgtlinux.com>"]),
    Case("rset", lines=["EHLO c.test", "MAIL FROM:<a@b.test>", "RSET", "MAIL FROM:<b@b.test>", "EHLO d.test", "RSET",
                        "MAIL FROM:<c@b.test>", "QUIT"]),
    Case("delay-reject", settings={"smtpd_delay_reject": "no",
                                   "smtpd_helo_restrictions": "check_helo_access inline:{ bad.test=REJECT }",
                                   "smtpd_sender_restrictions": "check_sender_access inline:{ bad@b.test=REJECT }"},
         lines=["EHLO bad.test", "EHLO c.test", "MAIL FROM:<bad@b.test>", "MAIL FROM:<a@b.test>", "EHLO bad.test",
                "MAIL FROM:<a@b.test>", "QUIT"]),
    Case("delay-reject-client", settings={"smtpd_delay_reject": "no", "smtpd_client_restrictions": "reject"},
         lines=["EHLO c.test", "QUIT"]),
    Case("access-discard", settings={"smtpd_sender_restrictions": "check_sender_access inline:{ a@b.test=DISCARD }"}),
    Case("xclient", lines=["EHLO c.test", "XCLIENT NAME=far.test ADDR=192.0.2.7 PORT=4711 LOGIN=joe", "EHLO far.test",
                           *TWICE, "QUIT"], settings={"local_header_rewrite_clients": ""}),
    Case("xclient-unknown", lines=["XCLIENT NAME=[UNAVAILABLE] ADDR=198.51.100.9", "HELO far.test", "QUIT"]),
    Case("maps", settings={"smtpd_milter_maps": "inline:{ {127.0.0.1 = DISABLE} }"}),
    Case("maps-other", settings={"smtpd_milters": "inet:127.0.0.1:{nobody}",
                                 "smtpd_milter_maps": "inline:{ {127.0.0.1 = inet:127.0.0.1:{milter}} }"}),
    Case("no-milters", settings={"receive_override_options": "no_milters"}),
    Case("braces", at("C", m.CLOSE), settings={
        "smtpd_milters": "{ inet:127.0.0.1:{milter}, default_action=reject, command_timeout=1s, { connect_timeout = 5s } }"}),
    Case("two-accept", at("M", m.ACCEPT), second=Script()),
    Case("two-reject", at("R", m.REJECT), second=Script()),
    Case("two-second-rejects", second=at("R", m.REJECT)),
    Case("two-edit", edit(m.add_header("X-First", "1"), m.body(b"new\r\n")),
         second=edit(m.change_header(1, "X-First", "2"), m.add_header("X-Second", "2"))),
    Case("two-hold", edit(m.quarantine("why not")), second=edit(m.add_header("X-Second", "2"))),
    Case("two-fails", at("C", m.CLOSE), {"milter_default_action": "accept"}, second=edit(m.add_header("X-Second", "2"))),
    # What is negotiated.
    *(Case(f"without-{flag:x}", Script(events=flag), lines=EVERY)
      for flag in (1, 2, 4, 8, 0x10, 0x20, 0x40, 0x80, 0x100, 0x200, m.NO_REPLIES, 0x37F, 0x7F)),
    Case("leading-space", Script({"E": (m.changes(m.add_header("X-A", "none"), m.add_header("X-B", " one"),
                                                  m.change_header(1, "Subject", "  two")),)}, events=0x100000)),
    *(Case(f"protocol-{version}", Script(version=version if version in (2, 3, 4, 6) else 2),
           {"milter_protocol": str(version)}, lines=EVERY) for version in (2, 3, 4, 6)),
    Case("protocol-old", Script(version=3), lines=EVERY),
    Case("protocol-five", Script(version=5), lines=EVERY),
    Case("no_header_reply", Script(version=2, events=0x80), {"milter_protocol": "2, no_header_reply"}),
    Case("version-conflict", Script(version=7)),
    Case("action-conflict", Script(actions=0x3FF)),
    Case("no-negotiation", Script(negotiation=b"c")),
    Case("short-negotiation", Script(negotiation=b"O\0\0\0\6")),
    Case("closed-negotiation", Script(negotiation=b"!close")),
    Case("symbols", Script(symbols=symbols((0, "j {client_addr}"), (2, "{mail_addr}, i"), (3, "{rcpt_host}"), (5, "i"),
                                           (6, "{client_name}")))),
    Case("symbols-unknown", Script(symbols=symbols((99, "j"), (1, "{cipher}")))),
    Case("plain-macros", settings={"milter_macro_daemon_name": "ORIGINATING", "milter_macro_v": "us 1",
                                   "milter_macro_defaults": "", "milter_rcpt_macros": "", "milter_data_macros": ""}),
    Case("unknown-macros", settings={"milter_unknown_command_macros": "j {client_name} i"}, lines=["FOO", "EHLO c", "QUIT"]),
    Case("all-macros", settings={"milter_mail_macros": "i {auth_type} {auth_authen} {auth_author} {mail_addr} {mail_host} {mail_mailer} {rcpt_addr}",
                                 "milter_rcpt_macros": "i {rcpt_addr} {rcpt_host} {rcpt_mailer} {mail_addr}"},
         lines=["EHLO c.test", 'MAIL FROM:<"a b"@B.test>', "RCPT TO:<ZS@dgtlinux.com>", "RCPT TO:<bob@other.test>",
                "RCPT TO:<ali@alias.test>", "RCPT TO:<r@relay.test>", "DATA", CONTENT, "QUIT"]),
    # Changes.
    Case("add", edit(m.add_header("X-New", "value"), m.add_header("X-New", "two\n\tlines"), m.add_header("X-New", "two\nlines"))),
    *(Case(f"insert-{index}", edit(m.insert_header(index, "X-New", "value"))) for index in (0, 1, 2, 3, 7, 8, 99)),
    Case("insert-more", edit(m.insert_header(0, "X-A", "1"), m.insert_header(0, "X-B", "2"), m.insert_header(1, "X-C", "3"),
                             m.insert_header(3, "X-D", "4"), m.change_header(1, "X-A", "5"), m.change_header(1, "Received", ""))),
    *(Case(f"change-{index}", edit(m.change_header(index, "x-many", "new"))) for index in (0, 1, 2, 3, 4)),
    *(Case(f"delete-{index}", edit(m.change_header(index, "X-MANY", ""))) for index in (0, 1, 2, 3, 4)),
    Case("delete-all", edit(*[m.change_header(1, "X-Many", "")] * 4, m.change_header(1, "Received", ""))),
    Case("change-folded", edit(m.change_header(1, "Subject", "a\n b\n\tc"), m.change_header(1, "Received", "from nowhere"))),
    Case("change-missing", edit(m.change_header(1, "X-None", "new"), m.change_header(3, "X-None", "newer"))),
    Case("bad-index", edit(m.change_header(0xFFFFFFFF, "X-Many", "x"))),
    Case("bad-insert", edit(m.insert_header(0xFFFFFFFE, "X-Many", "x"))),
    Case("no-name", edit(m.change_header(1, "", "x"))),
    Case("from", edit(m.change_from("<new@sender.test>"))),
    Case("from-null", edit(m.change_from("<>"))),
    Case("from-bare", edit(m.change_from("new@sender.test", "ENVID=abc RET=HDRS FOO=bar"))),
    Case("from-local", edit(m.change_from("<new>"))),
    Case("from-bad", edit(m.change_from("<new@sender.test>", "RET=NONE ENVID= SIZE=1"))),
    Case("rcpt-add", edit(m.add_rcpt("<bob@other.test>"), m.add_rcpt("x@far.test"), m.add_rcpt("<zs@dgtlinux.com>"))),
    Case("rcpt-add-alias", edit(m.add_rcpt("<ali@alias.test>"), m.add_rcpt("<zs>"))),
    Case("rcpt-add-null", edit(m.add_rcpt("<>"), m.add_rcpt("<a@b.test>, <b@b.test>"))),
    Case("rcpt-add-with", edit(m.add_rcpt_with("<x@far.test>", "NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;y@far.test"),
                               m.add_rcpt_with("<y@far.test>", "NOTIFY=SOMETIMES ORCPT=x FOO=bar"))),
    Case("rcpt-del", edit(m.del_rcpt("<zs@dgtlinux.com>"), m.add_rcpt("<bob@other.test>"))),
    Case("rcpt-del-none", edit(m.del_rcpt("<nobody@dgtlinux.com>"))),
    Case("rcpt-del-alias", edit(m.del_rcpt("<ali@alias.test>")),
         lines=["EHLO c.test", "MAIL FROM:<a@b.test>", "RCPT TO:<ali@alias.test>", "RCPT TO:<r@relay.test>", "DATA",
                CONTENT, "QUIT"]),
    Case("rcpt-del-case", edit(m.del_rcpt("<ZS@dgtlinux.com>"), m.del_rcpt("r@relay.test")),
         lines=["EHLO c.test", "MAIL FROM:<a@b.test>", "RCPT TO:<zs@dgtlinux.com>", "RCPT TO:<r@relay.test>", "DATA",
                CONTENT, "QUIT"]),
    Case("body", edit(m.body(b"new\r\nbody\r\n"))),
    Case("body-pieces", edit(m.body(b"new\r"), m.body(b"\nbody"), m.body(b"\nand\r\n\r\nmore"))),
    Case("body-empty", edit(m.body(b""))),
    Case("body-mixed", edit(m.body(b"new\r\n"), m.add_header("X-New", "1"), m.body(b"more\r\n"))),
    Case("body-long", edit(m.body(b"x" * 5000 + b"\r\n" + b"y" * 60000))),
    Case("body-and-progress", edit(m.add_header("X-New", "1"), b"p", m.body(b"new\r\n"), end=m.ACCEPT)),
    Case("body-half", edit(m.add_header("X-New", "1"), m.body(b"new"), end=m.CLOSE), {"milter_default_action": "tempfail"}),
    Case("edit-reject", edit(m.add_header("X-New", "1"), end=m.REJECT)),
    Case("edit-discard", edit(m.add_header("X-New", "1"), end=m.DISCARD)),
    Case("edit-reply", edit(m.add_header("X-New", "1"), end=m.reply("550-5.7.1 two\r\n550 5.7.1 lines"))),
    Case("quarantine", edit(m.quarantine("why not"), m.add_header("X-New", "1"))),
    Case("quarantine-accept", edit(m.quarantine(""), end=m.ACCEPT)),
    Case("quarantine-reject", edit(m.quarantine("why not"), end=m.REJECT)),
    Case("quarantine-twice", edit(m.quarantine("why not")), lines=EVERY),
    Case("edit-too-early", at("L", m.changes(m.add_header("X-New", "1")))),
    Case("unexpected", at("M", (b"z",))),
    Case("surplus", at("R", (b"cx",))),
    Case("unterminated", at("E", (b"hX-New", b"c"))),
    Case("short", at("E", (b"m\0\0", b"c"))),
    Case("left-over", at("E", (b"+<a@b.test>\0xyz", b"c"))),
    *(Case(f"checks-{word}", edit(m.add_header("X-Spam", word), m.add_header("X-After", "1")), {
        "milter_header_checks": f"pcre:{{ {{/^X-Spam:/ {rule}}} }}"})
      for word, rule in (("reject", "REJECT no spam"), ("reject4", "REJECT 4.7.1 later"), ("discard", "DISCARD spam"), ("hold", "HOLD look"),
                         ("ignore", "IGNORE"), ("replace", "REPLACE X-Spam: no"), ("warn", "WARN look"), ("info", "INFO see"),
                         ("filter", "FILTER smtp:[127.0.0.1]"), ("redirect", "REDIRECT else@far.test"),
                         ("prepend", "PREPEND X-Before: 1"))),
    # Content.
    Case("empty-body", lines=[*MESSAGE[:-1], "Subject: x\r\n.", "QUIT"]),
    Case("no-header", lines=[*MESSAGE[:-1], "no header\r\nat all\r\n.", "QUIT"]),
    Case("nothing", lines=[*MESSAGE[:-1], ".", "QUIT"]),
    Case("long-body", lines=[*MESSAGE[:-1], "Subject: x\r\n\r\n" + ("x" * 70 + "\r\n") * 1000 + ".", "QUIT"]),
    Case("body-skip", Script({"B": (m.SKIP,)}), lines=[*MESSAGE[:-1], "Subject: x\r\n\r\n" + ("x" * 70 + "\r\n") * 1300 + ".", "QUIT"]),
    Case("header-skip", Script({"L": (m.SKIP,)})),
    Case("local-client", settings={"mynetworks": "127.0.0.0/8"}, lines=[*MESSAGE[:-1], "To: zs\r\nSubject: x\r\n\r\nx\r\n.", "QUIT"],
         script=edit(m.change_header(1, "Message-Id", "<changed@x>"))),
    Case("chunks", lines=["EHLO c.test", "MAIL FROM:<a@b.test>", "RCPT TO:<zs@dgtlinux.com>",
                          b"BDAT 14 LAST\r\nSubject: x\r\n\r\n", "QUIT"]),
    Case("chunks-reject", at("T", m.REJECT), lines=["EHLO c.test", "MAIL FROM:<a@b.test>", "RCPT TO:<zs@dgtlinux.com>",
                          b"BDAT 14 LAST\r\nSubject: x\r\n\r\n", "QUIT"]),
    Case("no-milter-at-all", settings={"smtpd_milters": ""}),
]  # fmt: skip


Told = list[list[tuple[str, list[str]]]]
"""What one milter was told, by connection."""


@dataclass
class Side:
    """One server, with the milters that it asks."""

    directory: Path
    ports: list[int]
    milter: ScriptedMilter
    second: ScriptedMilter

    def run(self, number: int) -> tuple[list[bytes], list[str], list[Told]]:
        """Replies, queue ids, and what the milters heard."""
        case = CASES[number]
        self.milter.begin(case.script)
        self.second.begin(case.second or Script())
        replies, ids = [], []
        with (
            socket.create_connection(("127.0.0.1", self.ports[number]), timeout=20) as sock,
            sock.makefile("rb") as stream,
        ):
            replies.append(_reply(stream.readline))
            for line in case.lines:
                raw = line.encode() if isinstance(line, str) else line
                try:
                    sock.sendall(raw if raw.endswith(b"\n") and raw[:4] == b"BDAT" else raw + b"\r\n")
                    reply = _reply(stream.readline)
                except OSError:
                    break
                if not reply:
                    break
                ids += [one.decode() for one in re.findall(rb"queued as (\w+)", reply)]
                replies.append(re.sub(rb"queued as \w+", b"queued as ID", reply))
        return replies, ids, [comparable(self.milter.heard()), comparable(self.second.heard())]


@dataclass(frozen=True)
class Pair:
    theirs: Side
    ours: Side


def _services(ports: list[str], milters: list[ScriptedMilter], nobody: int) -> str:
    milter, second = milters
    lines = []
    for port, case in zip(ports, CASES, strict=True):
        lines.append(f"{port} inet n - n - - smtpd\n")
        named = "inet:127.0.0.1:{milter}" + (", inet:127.0.0.1:{second}" if case.second else "")
        for name, value in {"smtpd_milters": named, **case.settings}.items():
            text = value.replace("{milter}", str(milter.port)).replace("{second}", str(second.port))
            lines.append(f"  -o {{ {name} = {text.replace('{nobody}', str(nobody))} }}\n")
    return "".join(lines)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    need_postfix()
    with ExitStack() as stack, bind_tcp("127.0.0.1", 0) as closed:
        sides = []
        for start in (_start_postfix, _start_ours):
            milters = [ScriptedMilter(), ScriptedMilter()]
            for milter in milters:
                stack.callback(milter.stop)
            directory = tmp_path_factory.mktemp(start.__name__)
            ports = start(directory, milters, closed.getsockname()[1], stack)
            sides.append(Side(directory, ports, *milters))
        closed.close()
        yield Pair(*sides)


def _start_postfix(
    directory: Path, milters: list[ScriptedMilter], nobody: int, stack: ExitStack
) -> list[int]:
    let_daemons_in(directory)
    write_config(directory, BOTH + EXTRA + POSTFIX.format(dir=directory))
    shutil.rmtree(directory / "queue")
    (directory / "queue").mkdir()
    (directory / "data").mkdir()
    shutil.chown(directory / "data", "postfix")
    ports = free_ports(len(CASES))
    master = _services([f"127.0.0.1:{port}" for port in ports], milters, nobody) + SERVICES
    # What cleanup reads as well: a cleanup of its own for each service that has some.
    shared = {"milter_header_checks", "milter_macro_v", "milter_macro_daemon_name"}
    for number, case in enumerate(CASES):
        for name in sorted(shared & case.settings.keys()):
            service = f"127.0.0.1:{ports[number]} inet n - n - - smtpd\n"
            if f"cleanup{number} " not in master:
                master = master.replace(service, f"{service}  -o cleanup_service_name=cleanup{number}\n")
                master += f"cleanup{number} unix n - n - 0 cleanup\n"
            master += f"  -o {{ {name} = {case.settings[name]} }}\n"
    (directory / "master.cf").write_text(master)
    make_aliases(directory)
    start_postfix(directory)
    stack.callback(stop_postfix, directory)
    wait_for(ports[-1])
    return ports


def _start_ours(directory: Path, milters: list[ScriptedMilter], nobody: int, stack: ExitStack) -> list[int]:
    write_config(directory, BOTH + EXTRA)
    socks = [bind_tcp("127.0.0.1", 0) for _ in CASES]
    ports = [sock.getsockname()[1] for sock in socks]
    fds = [sock.fileno() for sock in socks]
    lines = _services([str(number + 1) for number in range(len(socks))], milters, nobody)
    command = [sys.executable, "-c", SCRIPT, str(directory), lines, *map(str, fds)]
    log = stack.enter_context((directory / "mail.log").open("w"))
    process = subprocess.Popen(command, pass_fds=fds, stdout=subprocess.DEVNULL, stderr=log)
    for sock in socks:
        sock.close()

    def stop() -> None:
        process.terminate()
        process.wait(30)
        assert "Traceback" not in (directory / "mail.log").read_text()

    stack.callback(stop)
    return ports


@dataclass(frozen=True)
class Queued:
    """A message in the queue, without what differs each time."""

    held: bool
    sender: str
    recipients: list[tuple[str, str, str, str]]
    ret: str
    envid: str
    content: list[str]


_NOTIFY = {1: "NEVER", 2: "SUCCESS", 4: "FAILURE", 8: "DELAY"}


def _plain(content: str) -> list[str]:
    content = re.sub(r"id \w+(;|\n\tfor)", r"id ID\1", content)
    content = re.sub(r"\w{3}, \d+ \w{3} \d{4} [\d:]+ [+-]\d{4} \(\w+\)", "DATE", content)
    return re.sub(r"<[\d.]+\w+@mail", "<ID@mail", content).rstrip("\n").splitlines()


def _queued_by_postfix(directory: Path, queue_id: str, tries: int) -> Queued | None:
    """None where it is not there, also after so many tries."""
    for _ in range(tries):
        found = subprocess.run(
            ["postcat", "-c", str(directory), "-q", queue_id], capture_output=True, check=False, timeout=20
        )
        if found.returncode == 0:
            break
        time.sleep(0.05)
    else:
        return None
    text = found.stdout.decode("utf-8", "surrogateescape")
    envelope, _, rest = text.partition("*** MESSAGE CONTENTS ")
    name, _, rest = rest.partition(" ***\n")
    content, _, extracted = rest.partition("*** HEADER EXTRACTED ")
    sender = ret = envid = original = notify = orcpt = ""
    recipients = []
    for line in (envelope + extracted).splitlines():
        key, _, value = line.partition(": ")
        match key:
            case "sender":
                sender = value
            case "original_recipient":
                original = value
            case "named_attribute":
                attribute, _, setting = value.partition("=")
                notify = setting if attribute == "notify_flags" else notify
                orcpt = setting if attribute == "dsn_orig_rcpt" else orcpt
                ret = setting if attribute == "ret_flags" else ret
                envid = setting if attribute == "envelope_id" else envid
            case "dsn_notify_flags" | "notify_flags":
                notify = value
            case "dsn_orig_rcpt" | "original_dsn":
                orcpt = value
            case "recipient":
                original = original or value
                if orcpt.lower() == f"rfc822;{original}".lower():
                    orcpt = ""  # Postfix makes one where the client gave none
                notify = ",".join(word for bit, word in _NOTIFY.items() if int(notify or 0) & bit)
                recipients.append((value, original, notify, orcpt))
                original = notify = orcpt = ""
            case "canceled recipient" | "canceled_recipient":
                original = notify = orcpt = ""
    ret = {"1": "FULL", "2": "HDRS"}.get(ret, ret)
    # A recipient that is added again is there twice; ours is one.
    return Queued("hold" in name, sender, sorted(set(recipients)), ret, envid, _plain(content))


def _queued_by_us(directory: Path, queue_id: str) -> Queued | None:
    queue = Queue(str(directory / "queue"))
    name = queue.find(queue_id)
    if name is None:
        return None
    message = queue.read(name, queue_id)
    envelope = message.envelope
    content = queue.read_content(message).decode("utf-8", "surrogateescape").replace("\r\n", "\n")
    return Queued(
        name == "hold",
        envelope.sender,
        sorted(
            (one.address, one.original or one.address, one.notify, one.orcpt) for one in envelope.recipients
        ),
        envelope.ret,
        envelope.envid,
        _plain(content),
    )


DIFFERENT = {
    # Postfix throws the message away, and says that it has been queued.
    **dict.fromkeys(("header-shutdown", "eoh-shutdown", "body-shutdown", "eom-shutdown"), b"421 4.7.0 "),
    # Postfix's smtpd dies.
    "unknown-accept": b"221 2.0.0 Bye",
    "unknown-discard": b"221 2.0.0 Bye",
}
"""How the conversation ends here, where it does not go as it does there."""


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: CASES[number].name)
def test_cases(pair: Pair, number: int) -> None:
    case = CASES[number]
    wanted, got = pair.theirs.run(number), pair.ours.run(number)
    if case.name in DIFFERENT:
        assert got[0][-1].startswith(DIFFERENT[case.name])
        assert got[0] != wanted[0]
        return
    said = ["(greeting)", *case.lines]
    for line, theirs, own in zip(said, wanted[0], got[0], strict=False):
        assert own == theirs, f"after {line!r}"
    assert len(got[0]) == len(wanted[0]), f"{got[0]!r} for {wanted[0]!r}"
    for theirs_told, own_told in zip(wanted[2], got[2], strict=True):
        assert len(own_told) == len(theirs_told)
        for one, other in zip(theirs_told, own_told, strict=True):
            for told, told_by_us in zip(one, other, strict=False):
                assert told_by_us == told, f"in {other!r}"
            assert len(other) == len(one), f"{other!r} for {one!r}"
    for theirs_id, own_id in zip(wanted[1], got[1], strict=True):
        own_message = _queued_by_us(pair.ours.directory, own_id)
        tries = 50 if own_message is not None else 3
        assert own_message == _queued_by_postfix(pair.theirs.directory, theirs_id, tries)


# ---- mail of local programs

LOCAL = """\
milter_connect_macros = j _ v {daemon_name} {client_addr} {client_name} {client_port} {client_ptr} i {daemon_addr}
  {daemon_port} {client_connections} {client_resolve}
milter_mail_macros = i {mail_addr} {auth_type} {client_name}
milter_rcpt_macros = i {rcpt_addr} {mail_addr}
"""
LOCAL_SCRIPTS = {
    "plain": Script(),
    "edit": edit(m.add_header("X-New", "1"), m.change_header(1, "Subject", "other"), m.body(b"new\r\n")),
    "everything-off": Script(events=0x37F),
    "accept": at("M", m.ACCEPT),
}


@pytest.mark.parametrize("name", LOCAL_SCRIPTS)
def test_mail_of_local_programs_is_shown_alike(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    if shutil.which("postfix") is None or os.geteuid() != 0:
        pytest.skip("a real Postfix, which starts only as root, is missing")
    results = []
    for world_of in (test_sendmail.postfix, test_sendmail.ours):
        milter = ScriptedMilter()
        milter.begin(LOCAL_SCRIPTS[name])
        extra = f"{LOCAL}non_smtpd_milters = inet:127.0.0.1:{milter.port}\n"
        folder = Path(tempfile.mkdtemp(dir=tmp_path_factory.mktemp("world")))
        let_daemons_in(folder)
        with world_of(folder, extra) as world:
            text = b"From: me@x.test\nTo: more@box.test\nSubject: hello\n\nHello,\n\nworld\n"
            assert world.sendmail(["-f", "me@x.test", "more@box.test"], text) == (0, [])
            results.append((world.mail("more"), comparable(milter.heard())))
        milter.stop()
    (theirs, theirs_told), (own, own_told) = results
    assert own == theirs
    for event, event_of_ours in zip(theirs_told[0], own_told[0], strict=False):
        assert event_of_ours == event
    assert len(own_told[0]) == len(theirs_told[0])


# ---- real milters

SIGNER = """\
Mode s
Domain dgtlinux.com
Selector sel
KeyFile {dir}/sel.private
Socket inet:{port}@127.0.0.1
InternalHosts {dir}/internal
Canonicalization relaxed/simple
Background no
RequireSafeKeys no
"""
VERIFIER = """\
Mode v
Socket inet:{port}@127.0.0.1
InternalHosts {dir}/external
TestDNSData file:{dir}/dns
AuthservID verifier.test
AlwaysAddARHeader yes
Background no
"""


def _opendkim(directory: Path, name: str, text: str, stack: ExitStack) -> int:
    with bind_tcp("127.0.0.1", 0) as sock:
        port: int = sock.getsockname()[1]
    (directory / name).write_text(text.format(dir=directory, port=port))
    log = stack.enter_context((directory / f"{name}.log").open("w"))
    process = subprocess.Popen(["opendkim", "-f", "-x", str(directory / name)], stderr=log)
    stack.callback(process.wait, 20)
    stack.callback(process.terminate)
    end = time.monotonic() + 20
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return port
        except OSError:
            time.sleep(0.05)
    raise AssertionError((directory / f"{name}.log").read_text())


@pytest.mark.parametrize("size", [3, 20_000])
def test_opendkim_signs_and_verifies_what_we_queue(tmp_path: Path, size: int) -> None:
    """What one opendkim signs through our smtpd another one verifies through our smtpd."""
    if shutil.which("opendkim") is None or shutil.which("opendkim-genkey") is None:
        pytest.skip("opendkim is missing (apt-get install opendkim opendkim-tools)")
    key = ["opendkim-genkey", "-b", "1024", "-d", "dgtlinux.com", "-s", "sel", "-D", str(tmp_path)]
    subprocess.run(key, check=True, timeout=60)
    record = "".join(re.findall(r'"([^"]*)"', (tmp_path / "sel.txt").read_text()))
    (tmp_path / "dns").write_text(f"sel._domainkey.dgtlinux.com {record}\n")
    (tmp_path / "internal").write_text("127.0.0.1\n")
    (tmp_path / "external").write_text("192.0.2.99\n")
    text = b"From: zs@dgtlinux.com\r\nSubject: signed\r\n\r\n" + b"A line of text.\r\n" * size

    async def through(folder: str, port: int, content: bytes) -> bytes:
        (tmp_path / folder).mkdir()
        extra = f"message_size_limit = 0\nsmtpd_milters = inet:127.0.0.1:{port}\n"
        async with running(tmp_path / folder, extra, {"mynetworks": "127.0.0.0/8"}) as smtpd:
            assert b"queued as" in await sent(smtpd, content)
            [message] = smtpd.messages()
            return smtpd.content(message)

    with ExitStack() as stack:
        signer = _opendkim(tmp_path, "signer", SIGNER, stack)
        verifier = _opendkim(tmp_path, "verifier", VERIFIER, stack)
        signed = asyncio.run(through("one", signer, text))
        assert b"\r\nDKIM-Signature: v=1; a=rsa-sha256;" in b"\r\n" + signed
        checked = asyncio.run(through("two", verifier, signed))
        assert b"dkim=pass" in checked.partition(b"\r\n\r\n")[0]
        forged = asyncio.run(
            through("three", verifier, signed.replace(b"Subject: signed", b"Subject: forged"))
        )
        assert b"dkim=fail" in forged.partition(b"\r\n\r\n")[0]
