"""Programs and Perl modules at our IMAP and POP3: getmail, InterIMAP, Mail::IMAPTalk, Net::IMAP::Simple and
Mail::POP3Client, command by command, and what is in the mailboxes afterwards."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.conftest import need
from tests.mailbox import Mailbox, running

pytestmark = pytest.mark.real

MESSAGES = [
    b"Subject: no final line end\r\n\r\nbody",
    b"Subject: a header only\r\n",
    b"no header at all\r\n",
    b"Subject: dots\r\n\r\n.\r\n..\r\n.x\r\n",
    b"Subject: \xe4\r\n\r\n\xf6\r\n",
    b"Subject: large\r\n\r\n" + b"x" * 76 + b"\r\n" * 5000,
]


async def call(*command: str, home: Path) -> str:
    """Run a program while the service goes on; what it says."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env={"HOME": str(home), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode(errors="replace")[-3000:]
    return said.decode(errors="replace")


def state(mailbox: Mailbox, user: str) -> dict[str, list[tuple[str, int]]]:
    """Flags and sizes of the messages of each mailbox, in order of the flags."""
    found = mailbox.service.lookup(user)
    assert found is not None
    root = Path(found.mail_root)
    boxes: dict[str, list[tuple[str, int]]] = {}
    for folder in sorted(path.parent for path in root.rglob("cur")):
        files = [path for place in ("cur", "new") for path in (folder / place).iterdir()]
        name = "INBOX" if folder == root else folder.name.lstrip(".")
        boxes[name] = sorted((path.name.partition(":2,")[2], path.stat().st_size) for path in files)
    return boxes


# ---- getmail

GETMAIL = """\
[retriever]
type = SimpleIMAP{kind}Retriever
server = 127.0.0.1
port = {port}
username = zs
password = secret
{more}
[destination]
type = Maildir
path = {out}/
{owner}
[options]
read_all = false
delete = {delete}
verbose = 2
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that the account which getmail changes to may write to, with a Maildir `out` in it."""
    with tempfile.TemporaryDirectory(prefix="programs-") as place:
        for name in ("", "out", "out/cur", "out/new", "out/tmp"):
            folder = Path(place, name)
            folder.mkdir(exist_ok=True)
            folder.chmod(0o777)
            if name and os.geteuid() == 0:
                shutil.chown(folder, "nobody")
        yield Path(place)


@pytest.mark.parametrize("s", ["", "s"])
def test_getmail(tmp_path: Path, home: Path, s: str) -> None:
    out = home / "out"

    async def fetch(mailbox: Mailbox, delete: str, more: str) -> None:
        (tmp_path / "getmailrc").write_text(
            GETMAIL.format(
                kind="SSL" if s else "",
                port=mailbox.port("imap" + s),
                out=out,
                owner="user = nobody" if os.geteuid() == 0 else "",
                delete=delete,
                more=more,
            )
        )
        await call(need("getmail"), f"--getmaildir={tmp_path}", "--rcfile=getmailrc", home=tmp_path)

    async def main() -> None:
        async with running(tmp_path, tls=True) as mailbox:
            for message in MESSAGES:
                await mailbox.deliver("zs", message)
            for _ in range(2):
                await fetch(mailbox, "false", "")
                assert len(os.listdir(out / "new")) == len(MESSAGES)
            await mailbox.deliver("zs", b"Subject: one more\r\n\r\nbody\r\n")
            await fetch(mailbox, "true", "")
            assert len(os.listdir(out / "new")) == len(MESSAGES) + 1
            assert state(mailbox, "zs") == {"INBOX": []}

    asyncio.run(main())


# ---- InterIMAP: two accounts kept alike with CONDSTORE, QRESYNC and COMPRESS

INTERIMAP = """\
database = {home}/db
list-mailbox = "*"
[local]
type = imap
host = 127.0.0.1
port = {port}
username = zs
password = secret
STARTTLS = NO
[remote]
type = imap
host = 127.0.0.1
port = {port}
username = support
password = s e cret
STARTTLS = NO
"""


def test_interimap(tmp_path: Path) -> None:
    program = need("interimap")
    for name in (".config/interimap", ".local/share/interimap"):
        (tmp_path / "home" / name).mkdir(parents=True)
    home = tmp_path / "home"

    async def main() -> None:
        async with running(tmp_path) as mailbox:
            config = home / ".config/interimap/config"
            config.write_text(INTERIMAP.format(home=home, port=mailbox.port("imap")))

            async def alike(*arguments: str) -> dict[str, list[tuple[str, int]]]:
                await call(program, *arguments, home=home)
                one, other = state(mailbox, "zs"), state(mailbox, "support")
                assert one == other
                return one

            for message in MESSAGES[:3]:
                await mailbox.deliver("zs", message)
            await alike()
            for message in MESSAGES[3:]:
                await mailbox.deliver("support", message)
            await alike()
            for user, password, commands in (
                (
                    "zs",
                    "secret",
                    (
                        "CREATE Work",
                        "SUBSCRIBE Work",
                        "SELECT INBOX",
                        "STORE 1 +FLAGS (\\Seen kw)",
                        "STORE 2 +FLAGS (\\Deleted)",
                        "EXPUNGE",
                        "COPY 3 Work",
                    ),
                ),
                ("support", '"s e cret"', ("SELECT INBOX", "STORE 3:4 +FLAGS (\\Flagged)", "CREATE Play")),
            ):
                stream = await mailbox.connect("imap")
                for command in (f"LOGIN {user} {password}", *commands, "LOGOUT"):
                    stream.write(f"a {command}\r\n".encode())
                said = b""
                while data := await stream.read(30):
                    said += data
                assert said.count(b"\na OK ") == len(commands) + 2, said
            found = await alike()
            assert [flags for flags, _ in found["INBOX"]] == ["", "", "F", "F", "Sa"]
            assert len(found["Work"]) == 1
            assert found["Play"] == []
            assert await alike() == found
            assert "Job" in await alike("--rename", "Work", "Job")
            assert "Play" not in await alike("--delete", "Play")

    asyncio.run(main())


# ---- Perl

TALK = r"""
use strict; use warnings; use Mail::IMAPTalk;
my $i = Mail::IMAPTalk->new(Server => '127.0.0.1', Port => $ARGV[0], Username => 'zs', Password => 'secret',
    Uid => 1) or die $@;
$i->select('INBOX') or die $@;
print join(' ', $i->get_response_code('exists'), sort @{$i->get_response_code('permanentflags')}), "\n";
$i->append('INBOX', '(\\Flagged)', ' 1-Jan-2020 10:00:00 +0000',
    {Literal => "Subject: talk\r\nFrom: a\@b.test\r\n\r\nbody\r\n"}) or die $@;
my $uid = $i->search('subject', {Quote => 'talk'})->[0];
my $m = $i->fetch($uid, '(flags envelope bodystructure rfc822.size internaldate)')->{$uid};
print join(' ', $m->{envelope}{Subject}, $m->{envelope}{From}, $m->{bodystructure}{'MIME-Type'},
    $m->{'rfc822.size'}, $m->{internaldate}, $m->{flags}[0]), "\n";
print scalar(@{$i->sort('(subject)', 'utf-8', 'all')}), ' ',
    scalar(@{$i->thread('references', 'utf-8', 'all')}), "\n";
$i->store($uid, '+flags', '(\\seen kw)') or die $@;
$i->create('Talk') or die $@;
$i->copy($uid, 'Talk') or die $@;
print $i->status('Talk', '(messages)')->{messages}, ' ', ref $i->namespace, ' ',
    join(',', sort map { $_->[2] } @{$i->list('', '*')}), "\n";
$i->delete('Talk') or die $@;
$i->store($uid, '+flags', '(\\deleted)') or die $@;
$i->expunge;
$i->logout;
"""
SIMPLE = r"""
use strict; use warnings; use Net::IMAP::Simple;
my $s = Net::IMAP::Simple->new("127.0.0.1:$ARGV[0]") or die;
$s->login('zs', 'secret') or die $s->errstr;
print join(' ', $s->select('INBOX'), $s->mailboxes, length(join '', @{$s->get(1)}), $s->list(1)), "\n";
$s->put('INBOX', "Subject: simple\r\n\r\nx\r\n", '\\Seen') or die $s->errstr;
$s->add_flags(1, '\\Flagged') or die $s->errstr;
$s->create_mailbox('Simple') or die $s->errstr;
$s->copy(1, 'Simple') or die $s->errstr;
print join(' ', (sort $s->msg_flags(1)), $s->search_subject('simple'), $s->last), "\n";
$s->delete(1) or die $s->errstr;
$s->expunge_mailbox;
print join(' ', $s->select('INBOX'), scalar $s->unseen, $s->select('Simple')), "\n";
$s->delete_mailbox('Simple') or die $s->errstr;
$s->quit;
"""
POP3 = r"""
use strict; use warnings; use Mail::POP3Client;
for my $auth ('PASS', 'CRAM-MD5') {
    my $p = Mail::POP3Client->new(HOST => '127.0.0.1', PORT => $ARGV[1], USER => 'support@mail.test',
        PASSWORD => 's e cret', AUTH_MODE => $auth);
    print join('|', $p->Count, $p->Size, $p->Head(4), $p->Body(4), scalar(grep { $_ } $p->Uidl), ($p->List)[3]), "\n";
    $p->Delete(1) or die $p->Message;
    $auth eq 'PASS' ? $p->Reset : $p->Close;
    $p->Close;
}
"""


@pytest.mark.parametrize(
    ("module", "package", "script", "lines"),
    [
        (
            "Mail::IMAPTalk",
            "libmail-imaptalk-perl",
            TALK,
            [
                "6 \\* \\Answered \\Deleted \\Draft \\Flagged \\Seen",
                "talk a@b.test text 39 01-Jan-2020 10:00:00 +0000 \\Flagged",
                "7 7",
                "1 ARRAY Inbox,Talk",
            ],
        ),
        (
            "Net::IMAP::Simple",
            "libnet-imap-simple-perl",
            SIMPLE,
            ["6 INBOX 34 34", "\\Flagged \\Recent \\Seen 7 7", "6 1 1"],
        ),
        (
            "Mail::POP3Client",
            "libmail-pop3client-perl",
            POP3,
            [f"6|{sum(map(len, MESSAGES))}|Subject: dots|.|..|.x|6|4 28"] * 2,
        ),
    ],
)
def test_perl(tmp_path: Path, module: str, package: str, script: str, lines: list[str]) -> None:
    perl = need("perl")
    if subprocess.run([perl, f"-M{module}", "-e", "1"], capture_output=True, check=False).returncode:
        pytest.skip(f"{package} is missing")
    (tmp_path / "client.pl").write_text(script)

    async def main() -> list[str]:
        async with running(tmp_path, "auth_mechanisms = plain login cram-md5\n") as mailbox:
            for user in ("zs", "support"):
                for message in MESSAGES:
                    await mailbox.deliver(user, message)
            ports = str(mailbox.port("imap")), str(mailbox.port("pop3"))
            return (await call(perl, str(tmp_path / "client.pl"), *ports, home=tmp_path)).splitlines()

    assert asyncio.run(main()) == lines
