"""Mail programs at the running stack's mailboxes: mutt, imapfilter, mpop, curl, and Perl's Mail::IMAPClient."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.stack import Stack
from tests.interop.conftest import need, sh

USER, PASSWORD = "bert@other.test", "bert-secret"
MBOX = "".join(
    f"From a@b.test Sat Nov {number + 1:2} 10:00:00 2025\nFrom: a@b.test\nSubject: m{number}\n"
    f"Status: {'RO' if number % 2 else 'O'}\n\nbody {number}\n\n"
    for number in range(12)
)


@pytest.fixture
def filled(stack: Stack, tmp_path: Path) -> Stack:
    """The stack, with exactly twelve messages in the INBOX."""
    assert stack.cli("mail", "rm", USER, "--all").returncode == 0
    (tmp_path / "in.mbox").write_text(MBOX)
    assert stack.cli("mail", "import", USER, str(tmp_path / "in.mbox")).returncode == 0
    return stack


def listed(stack: Stack, mailbox: str = "INBOX") -> list[dict[str, Any]]:
    done = stack.cli("-o", "json", "mail", "ls", USER, "--mailbox", mailbox)
    assert done.returncode == 0, done.stdout
    messages: list[dict[str, Any]] = json.loads(done.stdout)["data"]["messages"]
    return messages


def subjects(stack: Stack, mailbox: str = "INBOX", flag: str = "") -> list[str]:
    return [one["subject"] for one in listed(stack, mailbox) if not flag or flag in one["flags"]]


MUTTRC = """\
set imap_user="{user}" imap_pass="{password}" certificate_file="{ca}" ssl_ca_certificates_file="{ca}"
set ssl_verify_host=no folder="imaps://{host}:{port}/" spoolfile="+INBOX" header_cache="{cache}"
set move=no delete=yes confirmappend=no confirmcreate=no quit=yes wait_key=no
"""


def test_mutt_copies_flags_and_deletes(filled: Stack, tmp_path: Path) -> None:
    rc = tmp_path / "muttrc"
    rc.write_text(
        MUTTRC.format(
            user=USER,
            password=PASSWORD,
            ca=filled.ca_file,
            host="localhost",
            port=filled.port("imaps"),
            cache=tmp_path / "hc",
        )
    )
    keys = (
        "<tag-pattern>~s m1<enter><tag-prefix><copy-message>=Mutt<enter>"
        "<tag-prefix><set-flag>!<delete-pattern>~s m5<enter><sync-mailbox><exit>"
    )
    url = f"imaps://localhost:{filled.port('imaps')}/INBOX"
    command = f"{need('mutt')} -n -F {rc} -f {url} -e 'push \"{keys}\"'"
    done = sh("env", "TERM=xterm", need("script"), "-qec", command, "/dev/null", stdin="")
    assert done.returncode == 0, done.stdout
    assert subjects(filled, "Mutt") == ["m1", "m10", "m11"]
    assert subjects(filled, flag="\\Flagged") == ["m1", "m10", "m11"]
    assert "m5" not in subjects(filled)


IMAPFILTER = """\
options.timeout = 20
options.create = true
box = IMAP {{ server = 'localhost', port = {port}, username = '{user}', password = '{password}', ssl = 'auto' }}
unseen = box.INBOX:is_unseen()
print('unseen', #unseen, 'm1', #box.INBOX:contain_subject('m1'), 'both', #(unseen * box.INBOX:contain_subject('m1')))
box.INBOX:contain_subject('m7'):copy_messages(box.Filtered)
box.INBOX:contain_body('body 8'):mark_flagged()
box.INBOX:contain_subject('m9'):move_messages(box.Filtered)
print('filtered', #box.Filtered:select_all())
"""


def test_imapfilter(filled: Stack, tmp_path: Path) -> None:
    script = tmp_path / "filter.lua"
    script.write_text(IMAPFILTER.format(port=filled.port("imaps"), user=USER, password=PASSWORD))
    done = sh("env", f"HOME={tmp_path}", need("imapfilter"), "-t", filled.ca_file, "-c", script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "unseen\t6\tm1\t3\tboth\t1" in done.stdout, done.stdout
    assert "filtered\t2" in done.stdout
    assert subjects(filled, "Filtered") == ["m7", "m9"]
    assert subjects(filled, flag="\\Flagged") == ["m8"]
    assert "m9" not in subjects(filled)


def test_mpop_fetches_each_message_once(filled: Stack, tmp_path: Path) -> None:
    box = tmp_path / "box"
    for name in ("cur", "new", "tmp"):
        (box / name).mkdir(parents=True)

    def fetch() -> None:
        done = sh(
            need("mpop"), "--file=/dev/null", "--host=localhost", f"--port={filled.port('pop3s')}", "--tls=on",
            "--tls-starttls=off", f"--tls-trust-file={filled.ca_file}", "--auth=plain", f"--user={USER}",
            f"--passwordeval=echo {PASSWORD}", "--keep=on", "--half-quiet", f"--delivery=maildir,{box}",
            f"--uidls-file={tmp_path / 'uidls'}",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    fetch()
    first = sorted((box / "new").iterdir())
    assert len(first) == 12
    fetch()
    assert sorted((box / "new").iterdir()) == first


def test_curl_reads_searches_and_appends(filled: Stack, tmp_path: Path) -> None:
    url = f"imaps://localhost:{filled.port('imaps')}"

    def curl(*args: str) -> str:
        done = sh(need("curl"), "-sS", "--cacert", filled.ca_file, "-u", f"{USER}:{PASSWORD}", *args)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert '* LIST (\\HasNoChildren \\Drafts) "." Drafts' in curl(f"{url}/")
    uid = listed(filled)[6]["uid"]
    assert curl(f"{url}/INBOX;UID={uid};SECTION=TEXT") == "body 6\n"
    assert curl(f"{url}/INBOX;UID={uid}").replace("\r", "").endswith("Subject: m6\n\nbody 6\n")
    assert curl(f"{url}/INBOX?SUBJECT%20m6").strip() == "* SEARCH 7"
    (tmp_path / "up").write_bytes(b"Subject: from curl\r\n\r\nbody\r\n")
    curl("-T", str(tmp_path / "up"), f"{url}/INBOX")
    assert subjects(filled)[-1] == "from curl"
    assert "* 7 FETCH (FLAGS (\\Seen))" in curl(f"{url}/INBOX", "-X", "FETCH 7 (FLAGS)"), "it has been read"


PERL = r"""
use strict; use warnings; use Mail::IMAPClient;
my ($port, $ca, $user, $password) = @ARGV;
my $imap = Mail::IMAPClient->new(Server => 'localhost', Port => $port, User => $user, Password => $password,
    Uid => 1, Starttls => [SSL_ca_file => $ca, SSL_verifycn_name => 'localhost']) or die "$@";
$imap->select('INBOX') or die $imap->LastError;
my $uid = $imap->append_string('INBOX', "Subject: perl\r\n\r\nbody\r\n", '\Flagged', ' 1-Jan-2020 10:00:00 +0000');
$uid or die $imap->LastError;
my @found = $imap->search('SUBJECT', $imap->Quote('perl'));
my $structure = $imap->get_bodystructure($uid);
print join(' ', $imap->message_count, "@found" eq $uid, $imap->size($uid), $imap->internaldate($uid),
    "@{$imap->flags($uid)}", $structure->bodytype, $imap->get_envelope($uid)->subject), "\n";
$imap->create('Perl') or die $imap->LastError;
$imap->create('Perl') and die 'made twice';
$imap->copy('Perl', $uid) or die $imap->LastError;
$imap->move('Perl', $uid) or die $imap->LastError;
$imap->expunge or die $imap->LastError;
$imap->rename('Perl', 'Two.Perl') or die $imap->LastError;
print join(' ', $imap->message_count('Two.Perl'), $imap->unseen_count('INBOX')), "\n";
my $tag = $imap->idle or die $imap->LastError;
$imap->done($tag) or die $imap->LastError;
$imap->delete('Two.Perl') or die $imap->LastError;
$imap->logout or die $imap->LastError;
"""


def test_perl_mail_imapclient(filled: Stack, tmp_path: Path) -> None:
    perl = need("perl")
    if sh(perl, "-MMail::IMAPClient", "-e", "1").returncode:
        pytest.skip("needs libmail-imapclient-perl")
    script = tmp_path / "client.pl"
    script.write_text(PERL)
    done = sh(perl, script, str(filled.port("imap")), filled.ca_file, USER, PASSWORD)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [
        "13 1 23 01-Jan-2020 10:00:00 +0000 \\Flagged \\Recent TEXT perl",
        "2 6",
    ]
