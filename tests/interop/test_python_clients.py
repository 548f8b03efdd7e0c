"""smtplib, imaplib and poplib against the running stack, over TLS that is verified against the stack's CA."""

from __future__ import annotations

import imaplib
import poplib
import smtplib
import ssl
import time
from email.message import EmailMessage

import pytest

from benchmarks.stack import Stack

PASSWORDS = {
    "zs@dgtlinux.com": "secret",
    "support@dgtlinux.com": "hunter 2",
    "anna@other.test": "anna-secret",
    "bert@other.test": "bert-secret",
}


def tls(stack: Stack) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=stack.ca_file)


def message(sender: str, to: str, subject: str) -> EmailMessage:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = sender, to, subject
    mail.set_content("Grüße aus der Probe.\n.\n..zwei Punkte\n")
    return mail


def submit(stack: Stack, sender: str, to: str, subject: str) -> None:
    with smtplib.SMTP(stack.host, stack.port("submission"), timeout=20) as smtp:
        smtp.starttls(context=tls(stack))
        smtp.login(sender, PASSWORDS[sender])
        smtp.send_message(message(sender, to, subject))


def inbox(stack: Stack, user: str, subject: str, seconds: float = 15) -> list[bytes]:
    """The messages of a subject, once there is at least one (or after `seconds`, none)."""
    with imaplib.IMAP4_SSL(stack.host, stack.port("imaps"), ssl_context=tls(stack)) as imap:
        imap.login(user, PASSWORDS[user])
        deadline = time.monotonic() + seconds
        while True:
            imap.select("INBOX")
            _, found = imap.search(None, "SUBJECT", f'"{subject}"')
            numbers = found[0].split()
            if numbers or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        messages = []
        for number in numbers:
            _, data = imap.fetch(number.decode(), "(RFC822)")
            assert isinstance(data[0], tuple)
            messages.append(data[0][1])
        return messages


@pytest.mark.parametrize(
    ("sender", "to", "reader"),
    [
        ("zs@dgtlinux.com", "support@dgtlinux.com", "support@dgtlinux.com"),
        ("zs@dgtlinux.com", "anna@other.test", "anna@other.test"),
        ("anna@other.test", "zs@dgtlinux.com", "zs@dgtlinux.com"),
        ("bert@other.test", "postmaster@dgtlinux.com", "zs@dgtlinux.com"),
        ("zs@dgtlinux.com", "support+tag@dgtlinux.com", "support@dgtlinux.com"),
        ("zs@dgtlinux.com", "whoever@other.test", "anna@other.test"),
        ("zs@dgtlinux.com", "bert@other.test", "bert@other.test"),
    ],
    ids=lambda value: value.partition("@")[0] if isinstance(value, str) else None,
)
def test_submitted_mail_arrives(stack: Stack, sender: str, to: str, reader: str) -> None:
    subject = f"from {sender} to {to}"
    submit(stack, sender, to, subject)
    (content,) = inbox(stack, reader, subject)
    assert b"\r\n.\r\n..zwei Punkte\r\n" in content
    assert content.startswith(b"Return-Path: <" + sender.encode() + b">\r\n")
    assert b"with ESMTPSA id " in content


def test_an_alias_of_two_reaches_both(stack: Stack) -> None:
    submit(stack, "anna@other.test", "team@dgtlinux.com", "for the team")
    for reader in ("zs@dgtlinux.com", "support@dgtlinux.com"):
        assert len(inbox(stack, reader, "for the team")) == 1


def test_submissions_port(stack: Stack) -> None:
    with smtplib.SMTP_SSL(stack.host, stack.port("submissions"), timeout=20, context=tls(stack)) as smtp:
        smtp.login("zs@dgtlinux.com", "secret")
        smtp.send_message(message("zs@dgtlinux.com", "support@dgtlinux.com", "through 465"))
    assert inbox(stack, "support@dgtlinux.com", "through 465")


def test_no_open_relay(stack: Stack) -> None:
    with smtplib.SMTP(stack.host, stack.port("submission"), timeout=20) as smtp:
        smtp.starttls(context=tls(stack))
        smtp.ehlo()
        smtp.mail("zs@dgtlinux.com")
        code, text = smtp.rcpt("someone@example.org")
        assert code in (530, 554), text


def test_unknown_user_is_refused_at_rcpt(stack: Stack) -> None:
    with smtplib.SMTP(stack.host, stack.port("smtp"), timeout=20) as smtp:
        smtp.ehlo("client.example")
        smtp.mail("someone@example.org")
        code, text = smtp.rcpt("nobody-here@dgtlinux.com")
        assert code == 550
        assert text.startswith(b"5.1.1 ")


def test_wrong_password(stack: Stack) -> None:
    with smtplib.SMTP(stack.host, stack.port("submission"), timeout=20) as smtp:
        smtp.starttls(context=tls(stack))
        with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
            smtp.login("zs@dgtlinux.com", "wrong")
        assert caught.value.smtp_code == 535
    with (
        imaplib.IMAP4_SSL(stack.host, stack.port("imaps"), ssl_context=tls(stack)) as imap,
        pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"),
    ):
        imap.login("zs@dgtlinux.com", "wrong")


def test_no_password_in_plain_text(stack: Stack) -> None:
    with imaplib.IMAP4(stack.host, stack.port("imap")) as imap:
        assert "LOGINDISABLED" in imap.capabilities
        with pytest.raises(imaplib.IMAP4.error, match="PRIVACYREQUIRED"):
            imap.login("zs@dgtlinux.com", "secret")
        imap.starttls(tls(stack))
        imap.login("zs@dgtlinux.com", "secret")


def test_poplib(stack: Stack) -> None:
    submit(stack, "anna@other.test", "bert@other.test", "for POP3")
    assert inbox(stack, "bert@other.test", "for POP3")
    pop = poplib.POP3_SSL(stack.host, stack.port("pop3s"), context=tls(stack), timeout=20)
    pop.user("bert@other.test")
    pop.pass_("bert-secret")
    messages, _ = pop.stat()
    assert messages >= 1
    _, uids, _ = pop.uidl()
    assert len({line.split()[1] for line in uids}) == messages
    _, lines, _ = pop.retr(messages)
    assert b"Subject: for POP3" in lines
    pop.dele(messages)
    pop.quit()
    again = poplib.POP3(stack.host, stack.port("pop3"), timeout=20)
    again.stls(context=tls(stack))
    again.user("bert@other.test")
    again.pass_("bert-secret")
    assert again.stat()[0] == messages - 1
    again.quit()


def test_imap_folders_and_flags(stack: Stack) -> None:
    with imaplib.IMAP4_SSL(stack.host, stack.port("imaps"), ssl_context=tls(stack)) as imap:
        imap.login("support@dgtlinux.com", "hunter 2")
        _, listed = imap.list()
        names = {line.split()[-1].strip(b'"') for line in listed if isinstance(line, bytes)}
        assert {b"INBOX", b"Drafts", b"Sent", b"Junk", b"Trash", b"Archive"} <= names
        assert imap.create("Projects")[0] == "OK"
        body = b"Subject: kept\r\n\r\nhello\r\n"
        status, answer = imap.append("Projects", r"(\Seen $Label1)", imaplib.Time2Internaldate(0), body)
        assert status == "OK"
        assert b"APPENDUID" in answer[0]
        imap.select("Projects")
        assert imap.uid("MOVE", "1", "Archive")[0] == "OK"
        imap.select("Archive")
        _, data = imap.fetch("1", "(FLAGS RFC822.SIZE INTERNALDATE BODY[])")
        assert isinstance(data[0], tuple)
        assert data[0][1] == body
        assert b"\\Seen" in data[0][0] and b"$Label1" in data[0][0]
        imap.store("1", "+FLAGS", r"(\Deleted)")
        assert imap.expunge()[0] == "OK"
        imap.close()
        assert imap.delete("Projects")[0] == "OK"
