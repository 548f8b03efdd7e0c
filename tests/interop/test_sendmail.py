"""Programs that send mail by the command: our sendmail and the real one, on the same main.cf.

Compared are exit status, what is said on standard error, and what is in the mailbox.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interop.real_postfix import need_postfix, start_postfix, stop_postfix, wait_for
from tests.ports import free_port

pytestmark = pytest.mark.real

MAIN_CF = """\
compatibility_level = 3.6
maillog_file_prefixes = /tmp
maillog_file = {dir}/maillog
inet_protocols = ipv4
inet_interfaces = 127.0.0.1
myhostname = mail.x.test
mydomain = x.test
myorigin = $mydomain
mydestination = $myhostname, $mydomain
queue_directory = {dir}/queue
data_directory = {dir}/data
local_recipient_maps =
alias_maps =
mailbox_transport = virtual
virtual_mailbox_domains = box.test
virtual_mailbox_base = {dir}/mail
virtual_mailbox_maps = texthash:{dir}/boxes
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
virtual_minimum_uid = 1
message_size_limit = 200000
smtp_dns_support_level = disabled
disable_dns_lookups = yes
"""
SERVICES = """\
127.0.0.1:{port} inet n - n - 1 smtpd
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
showq unix n - n - - showq
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""


@dataclass(frozen=True)
class World:
    """One mail system and its sendmail."""

    directory: Path
    command: tuple[str, ...]

    def sendmail(self, words: list[str], text: bytes) -> tuple[int, list[str]]:
        """Exit status, and what sendmail says on standard error."""
        done = subprocess.run(
            [*self.command, *words],
            input=text,
            capture_output=True,
            check=False,
            timeout=60,
            env={**os.environ, "MAIL_CONFIG": str(self.directory), "NAME": "The Name"},
        )
        said = done.stderr.decode().splitlines()
        return done.returncode, [
            line for line in said if line.startswith(("sendmail: warning: ", "sendmail: fatal: "))
        ]

    def mail(self, box: str) -> list[str]:
        """The message in a mailbox as lines from Received: on, without what differs each time."""
        folder = self.directory / "mail" / box / "new"
        end = time.monotonic() + 20
        while not (folder.is_dir() and list(folder.iterdir())):
            assert time.monotonic() < end, f"no mail for {box}\n{self.log()}"
            time.sleep(0.02)
        [path] = folder.iterdir()
        text = path.read_bytes().decode("latin-1").replace("\r\n", "\n")
        text = text[text.index("Received: by") :]
        text = re.sub(r"id \w+; .*", "id ID; DATE", text, count=1)
        text = re.sub(r"(Message-Id: <)[\w.]+@", r"\1ID@", text)
        return re.sub(r"(Date: )\w{3}, .*", r"\1DATE", text).splitlines()

    def log(self) -> str:
        return "".join(path.read_text() for path in self.directory.glob("*log"))


@contextmanager
def postfix(directory: Path, extra: str = "") -> Iterator[World]:
    """`extra`: more of main.cf."""
    _prepare(directory, extra)
    start_postfix(directory)
    try:
        yield World(directory, ("/usr/sbin/sendmail",))
    finally:
        stop_postfix(directory)


@contextmanager
def ours(directory: Path, extra: str = "") -> Iterator[World]:
    _prepare(directory, extra)
    with (directory / "our.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mailstack.mta", "--config", str(directory)], stderr=log
        )
        try:
            wait_for(int((directory / "port").read_text()))
            yield World(directory, (sys.executable, "-m", "mailstack.mta.sendmail"))
        finally:
            process.terminate()
            process.wait(30)
    assert "Traceback" not in (directory / "our.log").read_text()


def _prepare(directory: Path, extra: str) -> None:
    port = free_port()
    (directory / "port").write_text(str(port))
    (directory / "main.cf").write_text(MAIN_CF.format(dir=directory) + extra)
    (directory / "master.cf").write_text(SERVICES.format(port=port))
    boxes = [f"c{number}" for number in range(len(DELIVERED))] + ["more", "hidden", "other", "bs"]
    (directory / "boxes").write_text("".join(f"{box}@box.test {box}/\n" for box in boxes))
    for name in ("queue", "data", "mail"):
        (directory / name).mkdir()
    if shutil.which("postfix"):
        shutil.chown(directory / "data", "postfix")
    os.chown(directory / "mail", 65534, 65534)


# What is sent, with BOX for the mailbox of the case.
DELIVERED: list[tuple[list[str], bytes]] = [
    (["BOX"], b"Subject: plain\n\nbody\n"),
    (["-i", "BOX"], b"Subject: dots\n\n.\n..\nbody\n.\n"),
    (["BOX"], b"Subject: dot ends\n\nbody\n.\nmore\n"),
    (["-oi", "-f", "me@x.test", "BOX"], b"Subject: CRLF\r\n\r\nbody\r\n.\r\nlast"),
    (["-f", "<>", "BOX"], b"Subject: null sender\n\nbody\n"),
    (["-f", "", "BOX"], b"Subject: empty sender\n\nbody\n"),
    (["-r", "me", "-F", "Joe Doe", "BOX"], b"Subject: name\n\nbody\n"),
    (["-F", 'Joe "D" Doe (x)', "-f", "me", "BOX"], b"Subject: quoted name\n\nbody\n"),
    (["-F", "", "-f", "me", "BOX"], b"Subject: no name\n\nbody\n"),
    (["-t"], b"To: BOX\nBcc: hidden@box.test\nSubject: t\n\nbody\n"),
    (["-t", "-i"], b'To: "A, B" <BOX>,\n\tgroup: more@box.test;\nFrom: f@x.test\nDate: now\n\nbody\n'),
    (["-t", "other@box.test"], b"Cc: BOX (comment)\nMessage-Id: <own@x.test>\n\nbody\n"),
    (["-t"], b"Resent-To: BOX\nTo: never@box.test\nSubject: resent\n\nbody\n"),
    (["BOX"], b"From zs Sun Nov 22\nSubject: mbox line\n\nFrom here on\n"),
    (["BOX"], b"no header\nbody\n"),
    (["BOX"], b"\n"),
    (["-t"], b"Resent-From: x@x.test\nTo: BOX\n\nbody\n"),
    (["-G", "-f", "me@y.test", "BOX"], b"From: bare\nSubject: gateway\n\nbody\n"),
    (["BOX"], b"From: bare\nTo: someone\nSubject: completed\n\nbody\n"),
    (
        ["-em", "-oem", "-om", "-o7", "-U", "-m", "-h", "5", "-O", "a=b", "-L", "x", "-Am", "BOX"],
        b"S: options\n\nb\n",
    ),
    (["-N", "bogus", "-R", "bogus", "-V", "x" * 101, "BOX"], b"Subject: bad DSN\n\nbody\n"),
    (["-N", "never", "-R", "hdrs", "-V", "ident", "-B", "8BITMIME", "BOX"], b"Subject: DSN\n\n\xe4\n"),
    (["-XV", "-f", "list@x.test", "BOX"], b"Subject: VERP\n\nb\n"),
    (["-XV-=", "-f", "list@x.test", "BOX"], b"Subject: VERP\n\nb\n"),
    (["-V+=", "-f", "list@x.test", "BOX"], b"Subject: old VERP\n\nb\n"),
    (["BOX"], b"Subject: stray CR\n\na\rb\n"),
]
REFUSED: list[tuple[list[str], bytes]] = [
    ([], b"body\n"),
    (["-t"], b"Subject: nobody\n\nTo: x@box.test\n"),
    (["-B", "9BIT", "x@box.test"], b""),
    (["-n", "x@box.test"], b""),
    (["-bx"], b""),
    (["-qSx"], b""),
    (["-qR"], b""),
    (["-qI"], b""),
    (["-oA"], b""),
    (["-XVab", "x@box.test"], b"b\n"),
    (["-XV", "-f", "<>", "x@box.test"], b"b\n"),
    (["-Xl", "x@box.test"], b"b\n"),
    (["c0@box.test"], b"x" * 300_000),
    (["-t"], b"Apparently-To: c0@box.test\n\nb\n"),
    (["-t", "-bs"], b""),
    (["-t", "-bv"], b""),
    (["-XVab"], b""),
    (["-q", "x@box.test"], b""),
    (["-qIABC", "x@box.test"], b""),
    (["-bp", "x@box.test"], b""),
    (["-bi", "x@box.test"], b""),
    (["-bs", "x@box.test"], b""),
]
NOTHING: list[list[str]] = [["-q30m"], ["-bh"], ["-bH", "x@box.test"], ["-q5", "x@box.test"]]
"""What Sendmail does and Postfix takes without doing anything."""


@pytest.fixture(scope="module")
def worlds() -> Iterator[tuple[World, World]]:
    need_postfix()
    # Not below pytest's own folder, which each run closes to others: Postfix's daemons run as another user.
    with tempfile.TemporaryDirectory(prefix="mailstack-sendmail-") as name:
        root = Path(name)
        root.chmod(0o755)
        for folder in (root / "postfix", root / "ours"):
            folder.mkdir()
        with postfix(root / "postfix") as theirs, ours(root / "ours") as own:
            yield theirs, own


@pytest.mark.parametrize("number", range(len(DELIVERED)))
def test_the_same_message_arrives(worlds: tuple[World, World], number: int) -> None:
    words, text = DELIVERED[number]
    box = f"c{number}@box.test"
    words = [box if word == "BOX" else word for word in words]
    theirs, own = (world.sendmail(words, text.replace(b"BOX", box.encode())) for world in worlds)
    assert own == theirs
    assert own[0] == 0
    wanted, found = (world.mail(f"c{number}") for world in worlds)
    assert found == wanted


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_the_same_is_refused(worlds: tuple[World, World], number: int) -> None:
    theirs, own = (world.sendmail(*REFUSED[number]) for world in worlds)
    assert own[0] == theirs[0] != 0
    assert own[1][-1] == theirs[1][-1]


@pytest.mark.parametrize("words", NOTHING, ids=" ".join)
def test_the_same_does_nothing(worlds: tuple[World, World], words: list[str]) -> None:
    theirs, own = (world.sendmail(words, b"") for world in worlds)
    assert own == theirs == (0, [])


def test_bcc_and_further_recipients_have_it_too(worlds: tuple[World, World]) -> None:
    for box in ("hidden", "more", "other"):
        wanted, found = (world.mail(box) for world in worlds)
        assert found == wanted
        assert not any(line.startswith("Bcc") for line in found)


NAMES = ["Joe Doe", "Joe (D) Doe", 'a "b" c', "a\\b", "x) y", "(x", "Jörg", "a, b; <c>", "spaced out"]


def test_names_in_the_obsolete_form(tmp_path: Path) -> None:
    """header_from_format = obsolete: address (Name)."""
    need_postfix()
    results = []
    with tempfile.TemporaryDirectory(prefix="mailstack-sendmail-") as name:
        root = Path(name)
        root.chmod(0o755)
        for start, folder in ((postfix, root / "postfix"), (ours, root / "ours")):
            folder.mkdir()
            with start(folder, "header_from_format = obsolete\n") as world:
                for number, one in enumerate(NAMES):
                    words = ["-F", one, "-f", "me", f"c{number}@box.test"]
                    assert world.sendmail(words, b"Subject: x\n\nbody\n") == (0, [])
                results.append([world.mail(f"c{number}") for number in range(len(NAMES))])
    theirs, own = results
    for wanted, found in zip(theirs, own, strict=True):
        assert found == wanted
    assert "From: me@x.test (Joe Doe)" in own[0]


def test_smtp_on_standard_input(worlds: tuple[World, World]) -> None:
    text = (
        b"EHLO me\r\nMAIL FROM:<me@x.test>\r\nRCPT TO:<bs@box.test>\r\nRCPT TO:<a@elsewhere.test>\r\nRSET\r\n"
        b"MAIL FROM:<me@x.test>\r\nRCPT TO:<bs@box.test>\r\nDATA\r\nSubject: bs\r\n\r\nbody\r\n.\r\nQUIT\r\n"
    )
    replies = []
    for world in worlds:
        done = subprocess.run(
            [*world.command, "-bs"],
            input=text,
            capture_output=True,
            check=True,
            timeout=60,
            env={**os.environ, "MAIL_CONFIG": str(world.directory)},
        )
        lines = [line for line in done.stdout.decode().splitlines() if not line.startswith("250-")]
        replies.append([re.sub(r"queued as \w+", "queued as ID", line) for line in lines])
    theirs, own = replies
    assert [line[:3] for line in own] == [line[:3] for line in theirs]
    assert own[-2:] == theirs[-2:]


def test_the_queue_as_mailq_prints_it(worlds: tuple[World, World]) -> None:
    _, own = worlds
    done = subprocess.run(
        [*own.command, "-bp"],
        capture_output=True,
        check=True,
        timeout=60,
        env={**os.environ, "MAIL_CONFIG": str(own.directory)},
    )
    assert done.stdout.startswith((b"Mail queue is empty\n", b"-Queue ID-  --Size-- "))
