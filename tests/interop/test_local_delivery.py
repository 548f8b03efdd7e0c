"""Our local, virtual and pipe beside Postfix's: one message for each recipient, to both, and what came of it.

Compared are the line in the log (dsn, status and text), and every file that has been written: mailboxes, files of
aliases, and what commands have seen (arguments, environment, input). Needs root, for deliveries run as others.
"""

from __future__ import annotations

import os
import re
import shutil
import smtplib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interop.real_postfix import make_aliases, start_postfix, stop_postfix, wait_for
from tests.ports import free_port

pytestmark = pytest.mark.real

MAIN_CF = """\
compatibility_level = 3.6
maillog_file_prefixes = /tmp
maillog_file = {dir}/log
inet_protocols = ipv4
inet_interfaces = 127.0.0.1
myhostname = mail.x.test
mydomain = x.test
myorigin = $mydomain
mydestination = $mydomain
mynetworks = 127.0.0.0/8
queue_directory = {dir}/queue
data_directory = {dir}/data
disable_dns_lookups = yes
smtp_dns_support_level = disabled
recipient_delimiter = +
local_recipient_maps =
alias_maps = hash:{dir}/aliases
mail_spool_directory = {dir}/spool
forward_path = {dir}/forward/$user${{recipient_delimiter}}${{extension}}, {dir}/forward/$user
mailbox_command_maps = texthash:{dir}/commands
mailbox_transport_maps = texthash:{dir}/mailboxes
mailbox_size_limit = 20000
message_size_limit = 20000
command_time_limit = 2s
biff = no
transport_maps = texthash:{dir}/transport
virtual_mailbox_domains = box.test
virtual_mailbox_base = {dir}/boxes
virtual_mailbox_maps = texthash:{dir}/vmailbox
virtual_mailbox_limit = 20000
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
show_destination_recipient_limit = 1
slow_time_limit = 1s
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_error_sleep_time = 0
notify_classes =
"""
MASTER_CF = """\
127.0.0.1:{port} inet n - n - 2 smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
local unix - n n - - local
virtual unix - n n - - virtual
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
exits unix - n n - - pipe user=nobody argv={dir}/bin/exits ${{user}}
said unix - n n - - pipe user=nobody argv={dir}/bin/says ${{user}}
slow unix - n n - - pipe user=nobody argv={dir}/bin/sleeps
gone unix - n n - - pipe user=nobody argv={dir}/bin/no-such-thing
small unix - n n - - pipe user=nobody size=50 argv={dir}/bin/exits 0
plain unix - n n - - pipe user=nobody argv={dir}/bin/shows {dir}/out/plain ${{sender}} ${{recipient}} ${{user}}
  ${{extension}} ${{domain}} ${{mailbox}} ${{nexthop}} fixed ${{original_recipient}}/${{client_address}}
show unix - n n - - pipe flags=DORXFBhu.> user=nobody:games null_sender= directory={dir}/out
  argv={dir}/bin/shows {dir}/out/show <${{sender}}> ${{recipient}} ${{mailbox}} ${{domain}}
crlf unix - n n - - pipe flags=Rq eol=\\r\\n user=nobody argv={dir}/bin/shows {dir}/out/crlf ${{recipient}} ${{user}}
"""
ALIASES = """\
postmaster: games
null: /dev/null
file: {dir}/out/alias-file
folder: {dir}/out/alias-maildir/
program: "|{dir}/bin/shows {dir}/out/program one two"
shell: "|cat > {dir}/out/shell; echo done >> {dir}/out/shell"
talks: "|echo spoken"
fails: "|cat > /dev/null; echo it is broken; exit 1"
noperm: "|cat > /dev/null; exit 77"
coded: "|echo 5.7.9 not with me; exit 3"
temporary: "|echo busy; exit 75"
slow: "|sleep 30"
killed: "|kill -9 $$"
missing: "|{dir}/bin/no-such-thing"
lost: "|no-such-command with arguments"
executable: {dir}/out/executable
included: :include:{dir}/list
badinclude: :include:{dir}/no-such-list
includedfile: :include:{dir}/filelist
first: backup
self: self
relative: :include:relative
named: Nobody Else <name@box.test>
commented: games@x.test (and a comment, too)
semicolons: games@x.test;
barquoted: |"{dir}/bin/shows {dir}/out/barquoted three four"
spaced: | {dir}/bin/says
unclosed: "|echo open
homeless: ~/file
wrongtilde: ~news/file
upper: "|{dir}/bin/shows {dir}/out/upper"
slash: "|{dir}/bin/shows {dir}/out/slash"
garbled: "|cat > /dev/null; printf 'a\\001b\\377'; exit 65"
"""
SCRIPTS = {
    "exits": 'cat > /dev/null; test "$1" = dies && kill -9 $$; exit "$1"',
    "says": 'cat > /dev/null; echo "$1 says so"; echo again; exit 65',
    "sleeps": "sleep 30",
    "shows": (
        'out=$1; shift; { for word; do echo "[$word]"; done; id -un; id -gn; pwd; '
        "env | grep -v ^_= | grep -v ^PWD= | grep -v -e ^MAIL_CONFIG= -e ^LANG= | LC_ALL=C sort; echo ---; cat; } > $out"
    ),
}
EXITS = ["0", "1", *map(str, range(64, 79)), "100", "dies"]
RECIPIENTS = [
    "daemon@here.test",
    "hard@box.test",
    "runs@box.test",
    "games@x.test",
    "games+ext@x.test",
    "GAMES@x.test",
    "unknown@x.test",
    "mailer-daemon@x.test",
    "first@x.test",
    "self@x.test",
    "null@x.test",
    "file@x.test",
    "folder@x.test",
    "program@x.test",
    "shell@x.test",
    "talks@x.test",
    "fails@x.test",
    "noperm@x.test",
    "coded@x.test",
    "temporary@x.test",
    "slow@x.test",
    "killed@x.test",
    "missing@x.test",
    "lost@x.test",
    "executable@x.test",
    "badinclude@x.test",
    "relative@x.test",
    "named@x.test",
    "commented@x.test",
    "semicolons@x.test",
    "barquoted@x.test",
    "spaced@x.test",
    "unclosed@x.test",
    "homeless@x.test",
    "wrongtilde@x.test",
    "garbled@x.test",
    "double-bounce@x.test",
    "includedfile@x.test",
    "news@x.test",
    "news+only@x.test",
    "News+ONLY@X.Test",
    "Upper+Ext.Ension@X.Test",
    "Slash+Up/../../A@x.test",
    "uucp@x.test",
    "proxy@x.test",
    "irc@x.test",
    "list@x.test",
    "lp@x.test",
    "man@x.test",
    "sync@x.test",
    "looping@x.test",
    "mbox@box.test",
    "dir@box.test",
    "x@said.test",
    "x@slow.test",
    "x@gone.test",
    "x@small.test",
    "Some.Body+Ext@plain.test",
    "Some.Body+Ext@Show.test",
    '"some body"@crlf.test',
    *(f"{status}@exits.test" for status in EXITS),
]
CONTENT = (
    "From: A <a@sender.test>\r\nTo: someone@x.test\r\nMessage-ID: <1@sender.test>\r\n"
    "Date: Sun, 22 Nov 2026 12:00:00 +0000\r\nSubject: hello\r\n{extra}\r\n"
    "A line.\r\nFrom the start of a line\r\n.a dot\r\n>From quoted\r\n\r\nFrom the end\r\n"
)


@dataclass
class World:
    directory: Path
    port: int

    def send(self, recipient: str) -> str:
        """Hand one message over; its queue id."""
        extra = f"Delivered-To: {recipient}\r\n" if recipient.startswith("looping") else ""
        with smtplib.SMTP("127.0.0.1", self.port, "client.test", timeout=20) as smtp:
            smtp.ehlo()
            smtp.mail("a@sender.test")
            assert smtp.rcpt(recipient)[0] == 250
            code, text = smtp.data(CONTENT.format(extra=extra).encode())
            assert code == 250, text
            return text.split()[-1].decode()

    def outcome(self, queue_id: str) -> tuple[str, str, str]:
        """(dsn, status, text) of the message's recipient."""
        pattern = re.compile(rf"{queue_id}: to=.*dsn=(\S+), status=(\S+) \((.*)\)$", re.M)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            found = pattern.search((self.directory / "log").read_text("utf-8", "replace"))
            if found:
                return found[1], found[2], self._same(found[3])
            time.sleep(0.1)
        return "", "unknown", ""

    def _same(self, text: str) -> str:
        """Text without what differs between two runs."""
        text = text.replace(str(self.directory), "DIR")
        text = re.sub(r"forwarded as \w+", "forwarded as ID", text)
        text = re.sub(r"(?m)^(>?From \S+)  .*", r"\1  DATE", text)
        return re.sub(
            r"Received: (from client.test|by)[^;]*;[^\n]*\n(?:[ \t][^\n]*\n)*", r"Received: \1\n", text
        )

    def files(self) -> dict[str, str]:
        """Every file below out/, spool/ and boxes/ that has been written; those of a Maildir in one."""
        found: dict[str, str] = {}
        for top in ("out", "spool", "boxes"):
            for path in sorted((self.directory / top).rglob("*")):
                if not path.is_file():
                    continue
                name = str(path.relative_to(self.directory))
                name = re.sub(r"/new/[^/]*$", "/new", name)
                owner = path.stat()
                text = self._same(path.read_bytes().decode("utf-8", "replace").replace("\r", "<CR>"))
                if top == "spool":  # deliveries to one user overtake each other
                    text = "".join(sorted(re.split(r"(?m)^(?=From a@)", text)))
                found[name] = f"{owner.st_uid}:{owner.st_gid}:{owner.st_mode:o}\n{text}"
        return found


def prepare(directory: Path) -> int:
    """The files of a world; its port."""
    port = free_port()
    directory.mkdir()
    for name in ("queue", "data", "spool", "out", "boxes", "forward", "bin"):
        (directory / name).mkdir()
    for name, mode in (("spool", 0o1777), ("out", 0o1777)):
        (directory / name).chmod(mode)
    shutil.chown(directory / "data", "postfix")
    os.chown(directory / "boxes", 65534, 65534)
    for name, text in SCRIPTS.items():
        path = directory / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    (directory / "main.cf").write_text(MAIN_CF.format(dir=directory))
    (directory / "master.cf").write_text(MASTER_CF.format(dir=directory, port=port))
    (directory / "aliases").write_text(ALIASES.format(dir=directory))
    (directory / "list").write_text("# a list\ngames@x.test\nnews@x.test\n")
    (directory / "filelist").write_text(f"{directory}/out/never\n")
    (directory / "commands").write_text(f"lp {directory}/bin/shows {directory}/out/lp\n")
    (directory / "mailboxes").write_text("man virtual:\n")
    (directory / "vmailbox").write_text(
        "mbox@box.test mbox\ndir@box.test dir/\nman@x.test man/\nname@box.test name/\n"
        "hard@box.test hard\nruns@box.test runs\n"
    )
    for name, mode in (("hard", 0o600), ("runs", 0o755)):
        (directory / "boxes" / name).touch(mode)
        os.chown(directory / "boxes" / name, 65534, 65534)
    os.link(directory / "boxes" / "hard", directory / "data" / "second")
    pipes = ("exits", "said", "slow", "gone", "small", "plain", "show", "crlf")
    (directory / "transport").write_text(
        "".join(f"{name}.test {name}:\n" for name in pipes) + "here.test local:\n"
    )
    executable = directory / "out" / "executable"
    executable.write_text("")
    executable.chmod(0o777)
    os.chown(executable, 65534, 65534)
    forward(directory, "news", f'# comment\n"|{directory}/bin/shows {directory}/out/news-forward"\n\\news\n')
    forward(directory, "news+only", f"{directory}/spool/news-only\n")
    forward(directory, "uucp", "/dev/null\n", mode=0o666)
    forward(directory, "proxy", "/dev/null\n", owner=65534)
    forward(directory, "irc", "backup@x.test, other@box.test\n")
    forward(directory, "list", "list\n")
    (directory / "spool" / "sync").write_text("x" * 19_900)
    os.chown(directory / "spool" / "sync", 4, 65534)
    (directory / "spool" / "sync").chmod(0o600)
    return port


def forward(directory: Path, name: str, text: str, *, mode: int = 0o644, owner: int = 0) -> None:
    path = directory / "forward" / name
    path.write_text(text)
    path.chmod(mode)
    os.chown(path, owner, owner)


@contextmanager
def postfix(directory: Path) -> Iterator[World]:
    port = prepare(directory)
    make_aliases(directory)
    start_postfix(directory)
    try:
        wait_for(port)
        yield World(directory, port)
    finally:
        stop_postfix(directory)


@contextmanager
def ours(directory: Path) -> Iterator[World]:
    port = prepare(directory)
    log = (directory / "log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "mailstack.mta", "--config", str(directory)],
        stdout=subprocess.DEVNULL,
        stderr=log,
    )
    try:
        wait_for(port)
        yield World(directory, port)
    finally:
        process.terminate()
        process.wait(30)
        log.close()


@dataclass
class Both:
    """What both have made of every recipient."""

    outcomes: dict[str, tuple[tuple[str, str, str], tuple[str, str, str]]]
    files: tuple[dict[str, str], dict[str, str]]
    logs: tuple[str, str]


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    if os.geteuid() != 0 or shutil.which("postfix") is None:
        pytest.skip("needs root and Debian's postfix")
    root = Path(tempfile.mkdtemp(prefix="local-"))
    root.chmod(0o755)
    try:
        with postfix(root / "postfix") as theirs, ours(root / "ours") as mine:
            ids = {to: (theirs.send(to), mine.send(to)) for to in RECIPIENTS}
            outcomes = {to: (theirs.outcome(a), mine.outcome(b)) for to, (a, b) in ids.items()}
            end = time.monotonic() + 10
            while time.monotonic() < end and theirs.files() != mine.files():
                time.sleep(0.2)
            logs = ((theirs.directory / "log").read_text(), (mine.directory / "log").read_text())
            yield Both(outcomes, (theirs.files(), mine.files()), logs)
    finally:
        if not os.environ.get("KEEP"):
            shutil.rmtree(root)


@pytest.mark.parametrize("recipient", RECIPIENTS)
def test_outcome(both: Both, recipient: str) -> None:
    theirs, mine = both.outcomes[recipient]
    assert mine == theirs


def test_files(both: Both) -> None:
    theirs, mine = both.files
    assert sorted(mine) == sorted(theirs)
    for name in theirs:
        assert mine[name] == theirs[name], name
