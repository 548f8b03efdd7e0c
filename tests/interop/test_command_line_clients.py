"""swaks, curl, mbsync and fetchmail against the running stack."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.stack import Stack
from tests.interop.conftest import need, sh


def arrived(stack: Stack, user: str, subject: str) -> str:
    """The message as `mailstack mail wait` prints it."""
    result = stack.cli("mail", "wait", user, "--subject", subject, "--timeout", "20s")
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_swaks_with_auth_over_starttls(stack: Stack) -> None:
    result = sh(
        need("swaks"), "--server", stack.host, "--port", str(stack.port("submission")), "--tls",
        "--tls-ca-path", stack.ca_file, "--tls-verify", "--auth", "PLAIN",
        "--auth-user", "zs@dgtlinux.com", "--auth-password", "secret",
        "--from", "zs@dgtlinux.com", "--to", "support@dgtlinux.com", "--header", "Subject: from swaks",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "250 2.0.0 Ok: queued as" in result.stdout
    assert "from swaks" in arrived(stack, "support@dgtlinux.com", "from swaks")


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_swaks_over_implicit_tls(stack: Stack, mechanism: str) -> None:
    result = sh(
        need("swaks"), "--server", stack.host, "--port", str(stack.port("submissions")), "--tls-on-connect",
        "--auth", mechanism, "--auth-user", "anna@other.test", "--auth-password", "anna-secret",
        "--from", "anna@other.test", "--to", "zs@dgtlinux.com", "--header", f"Subject: 465 {mechanism}",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    arrived(stack, "zs@dgtlinux.com", f"465 {mechanism}")


def test_swaks_relay_denied(stack: Stack) -> None:
    # A name that is not ours, from a client that is neither authenticated nor of our networks' kind.
    result = sh(
        need("swaks"), "--server", stack.host, "--port", str(stack.port("submission")), "--tls",
        "--from", "zs@dgtlinux.com", "--to", "someone@example.org",
    )  # fmt: skip
    assert result.returncode != 0
    assert "554 5.7.1" in result.stdout or "530 5.7.0" in result.stdout


def test_swaks_speaks_lmtp(stack: Stack) -> None:
    result = sh(
        need("swaks"), "--protocol", "LMTP", "--server", stack.host, "--port", str(stack.port("lmtp")),
        "--from", "zs@dgtlinux.com", "--to", "support@dgtlinux.com,nobody@dgtlinux.com",
        "--header", "Subject: straight in",
    )  # fmt: skip
    assert "550 5.1.1" in result.stdout
    arrived(stack, "support@dgtlinux.com", "straight in")


def test_curl_sends_and_reads(stack: Stack, tmp_path: Path) -> None:
    mail = tmp_path / "mail.eml"
    mail.write_text("From: zs@dgtlinux.com\r\nTo: bert@other.test\r\nSubject: by curl\r\n\r\ncurl body\r\n")
    sent = sh(
        need("curl"), "-sS", "--ssl-reqd", "--cacert", stack.ca_file,
        f"smtp://{stack.host}:{stack.port('submission')}", "--user", "zs@dgtlinux.com:secret",
        "--mail-from", "zs@dgtlinux.com", "--mail-rcpt", "bert@other.test", "--upload-file", mail,
    )  # fmt: skip
    assert sent.returncode == 0, sent.stderr
    arrived(stack, "bert@other.test", "by curl")
    common = ["-sS", "--cacert", stack.ca_file, "--user", "bert@other.test:bert-secret"]
    imap = sh(
        need("curl"),
        *common,
        f"imaps://{stack.host}:{stack.port('imaps')}/INBOX",
        "-X",
        "SEARCH SUBJECT curl",
    )
    assert imap.returncode == 0, imap.stderr
    number = imap.stdout.split()[-1]
    body = sh(
        need("curl"),
        *common,
        "--ssl-reqd",
        f"imap://{stack.host}:{stack.port('imap')}/INBOX;MAILINDEX={number}",
    )
    assert body.returncode == 0, body.stderr
    assert "curl body" in body.stdout
    for url in (f"pop3s://{stack.host}:{stack.port('pop3s')}/", f"pop3://{stack.host}:{stack.port('pop3')}/"):
        listing = sh(need("curl"), *common, "--ssl-reqd", url)
        assert listing.returncode == 0, listing.stderr
        assert listing.stdout.strip()


MBSYNC = """\
IMAPStore remote
Host {host}
Port {port}
User anna@other.test
Pass anna-secret
SSLType IMAPS
CertificateFile {ca}
AuthMechs PLAIN

MaildirStore local
Path {root}/
Inbox {root}/INBOX
SubFolders Verbatim

Channel all
Far :remote:
Near :local:
Patterns *
Create Both
Expunge Both
SyncState *
"""


def test_mbsync_both_ways(stack: Stack, tmp_path: Path) -> None:
    for number in range(3):
        result = stack.cli(
            "send", "--from", "zs@dgtlinux.com", "--to", "anna@other.test", "--subject", f"sync {number}"
        )
        assert result.returncode == 0, result.stdout + result.stderr
        arrived(stack, "anna@other.test", f"sync {number}")
    local = tmp_path / "Mail"
    local.mkdir()
    config = tmp_path / "mbsyncrc"
    config.write_text(MBSYNC.format(host=stack.host, port=stack.port("imaps"), ca=stack.ca_file, root=local))
    first = sh(need("mbsync"), "-c", config, "-a")
    assert first.returncode == 0, first.stderr
    files = [
        path for path in (local / "INBOX").rglob("*") if path.parent.name in ("new", "cur") and path.is_file()
    ]
    subjects = {
        line for path in files for line in path.read_text().splitlines() if line.startswith("Subject: sync")
    }
    assert subjects == {f"Subject: sync {number}" for number in range(3)}
    # A message that is written locally travels to the server; a second run changes nothing.
    (local / "INBOX" / "new" / "1700000000.M1.here").write_text("Subject: from below\n\nlocal\n")
    assert sh(need("mbsync"), "-c", config, "-a").returncode == 0
    arrived(stack, "anna@other.test", "from below")
    before = sorted(path.name for path in (local / "INBOX").rglob("*"))
    assert sh(need("mbsync"), "-c", config, "-a").returncode == 0
    assert sorted(path.name for path in (local / "INBOX").rglob("*")) == before


@pytest.mark.parametrize("protocol", ["IMAP", "POP3"])
def test_fetchmail(stack: Stack, tmp_path: Path, protocol: str) -> None:
    subject = f"fetch by {protocol}"
    sent = stack.cli(
        "send", "--from", "zs@dgtlinux.com", "--to", "support@dgtlinux.com", "--subject", subject
    )
    assert sent.returncode == 0, sent.stdout + sent.stderr
    arrived(stack, "support@dgtlinux.com", subject)
    config = tmp_path / "fetchmailrc"
    port = stack.port("imaps" if protocol == "IMAP" else "pop3s")
    store = tmp_path / "store"
    config.write_text(
        f"poll {stack.host} protocol {protocol} port {port}\n"
        f'  user "support@dgtlinux.com" password "hunter 2"\n'
        f'  ssl sslcertck sslcertfile "{stack.ca_file}" sslproto "TLS1.2+"\n'
        f'  mda "cat >> {store}" keep fetchall\n'
    )
    config.chmod(0o700)
    result = sh(need("fetchmail"), "-f", config, "--pidfile", tmp_path / "pid", "-i", tmp_path / "ids")
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"Subject: {subject}" in store.read_text()


def test_mail_wait_is_woken_by_the_server(stack: Stack) -> None:
    """`mail wait` started before the message is sent returns soon after it arrives."""
    cursor = stack.json("mail", "ls", "bert@other.test")["cursor"]
    stack.cli(
        "send", "--from", "zs@dgtlinux.com", "--to", "bert@other.test", "--subject", "woken", check=True
    )
    started = time.monotonic()
    result = stack.cli(
        "mail", "wait", "bert@other.test", "--after", cursor, "--subject", "woken", "--timeout", "10s"
    )
    assert result.returncode == 0
    assert time.monotonic() - started < 5
