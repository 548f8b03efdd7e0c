"""What goes over the wire when a message is sent, and what a refusal becomes."""

from __future__ import annotations

import base64
import socket
import ssl
from email import message_from_bytes
from email.policy import default
from pathlib import Path

import pytest

from mailstack.client.errors import ClientError
from mailstack.client.send import compose, send, stored
from tests.unit.client.scripted import Scripted, endpoints

PLAIN = base64.b64encode(b"\0zs@example.test\0secret").decode().replace("+", r"\+")
OPENING = rf"""
    S: 220 mail.example.test ESMTP
    C: EHLO \[127.0.0.1\]
    S: 250-mail.example.test\r\n250 STARTTLS
    C: STARTTLS
    S: 220 2.0.0 Ready to start TLS
    TLS
    C: EHLO \[127.0.0.1\]
    S: 250-mail.example.test\r\n250-SIZE 1000000\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 AUTH PLAIN LOGIN
    C: AUTH PLAIN {PLAIN}
    S: 235 2.7.0 Authentication successful
"""


def message(text: str = "hello\n.\nend") -> bytes:
    return compose(sender="zs@example.test", recipients=["anna@example.test"], subject="Hi", text=text).octets


def test_submission_with_starttls_and_auth(authority: Path, server_tls: ssl.SSLContext) -> None:
    octets = message()
    server = Scripted(
        OPENING
        + rf"""
        C: MAIL FROM:<zs@example.test> SIZE={len(octets)}
        S: 250 2.1.0 Ok
        C: RCPT TO:<anna@example.test>
        S: 250 2.1.5 Ok
        C: RCPT TO:<nobody@example.test>
        S: 550 5.1.1 <nobody@example.test>: Recipient address rejected
        C: DATA
        S: 354 End data with <CR><LF>.<CR><LF>
        C*
        S: 250 2.0.0 Ok: queued as 3F0A1B2C3D
        C: QUIT
        """,
        server_tls,
    )
    receipt = send(
        endpoints("submission", server.port, authority),
        "zs@example.test",
        ["anna@example.test", "nobody@example.test"],
        octets,
    )
    server.close()
    assert receipt.queue_id == "3F0A1B2C3D"
    assert receipt.tls in ("TLSv1.2", "TLSv1.3")
    assert receipt.refused == (
        ("nobody@example.test", "550 5.1.1 <nobody@example.test>: Recipient address rejected"),
    )
    assert server.content.replace(b"\r\n..\r\n", b"\r\n.\r\n") == octets


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        (r"S: 535 5.7.8 Error: authentication failed", "AUTH as zs@example.test: 535 5.7.8"),
        ("S: 235 2.7.0 Ok\n C: MAIL .*\n S: 552 5.3.4 Message size exceeds limit", "552 5.3.4"),
        (
            "S: 235 2.7.0 Ok\n C: MAIL .*\n S: 250 2.1.0 Ok\n C: RCPT .*\n S: 554 5.7.1 Relay access denied",
            "recipient anna@example.test: 554 5.7.1 Relay access denied",
        ),
        ("S: 235 2.7.0 Ok\n C: MAIL .*", "closed the connection"),
        ("S: what?", "not a reply"),
    ],
)
def test_a_refusal_is_told_in_the_servers_words(
    rest: str, words: str, authority: Path, server_tls: ssl.SSLContext
) -> None:
    server = Scripted(OPENING.rpartition("S: 235")[0] + rest, server_tls)
    with pytest.raises(ClientError, match=words):
        send(
            endpoints("submission", server.port, authority),
            "zs@example.test",
            ["anna@example.test"],
            message(),
        )
    server.close()


def test_a_server_without_starttls_gets_no_password(authority: Path) -> None:
    server = Scripted("S: 220 hi\n C: EHLO .*\n S: 250-hi\\r\\n250 AUTH PLAIN")
    with pytest.raises(ClientError, match="does not offer STARTTLS"):
        send(
            endpoints("submission", server.port, authority),
            "zs@example.test",
            ["anna@example.test"],
            message(),
        )
    server.close()


def test_a_certificate_for_another_name_is_refused(authority: Path, server_tls: ssl.SSLContext) -> None:
    server = Scripted(OPENING, server_tls)
    where = endpoints("submission", server.port, authority, hostname="other.test")
    with pytest.raises(ClientError, match=r"no TLS for other\.test"):
        send(where, "zs@example.test", ["anna@example.test"], message())
    with pytest.raises((OSError, AssertionError)):
        server.close()


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
    with pytest.raises(ClientError) as caught:
        send(endpoints("submission", port, None), "zs@example.test", ["anna@example.test"], message())
    assert caught.value.unreachable
    assert f"submission at 127.0.0.1 port {port}" in str(caught.value)


def test_compose_with_attachments() -> None:
    outgoing = compose(
        sender="zs@example.test",
        recipients=["anna@example.test", "bert@example.test"],
        subject="Grüße",
        text="Wie geht’s?",
        attachments=[("notes.txt", b"text\n"), ("data.bin.gz", b"\x1f\x8b\0"), ("odd", bytes(range(256)))],
    )
    assert outgoing.octets.isascii()
    assert b"\n" not in outgoing.octets.replace(b"\r\n", b"")
    parsed = message_from_bytes(outgoing.octets, policy=default)
    assert parsed["Subject"] == "Grüße"
    assert parsed["To"] == "anna@example.test, bert@example.test"
    assert parsed["Message-ID"] == outgoing.message_id
    assert parsed["Message-ID"].endswith("@example.test>")
    body, *parts = parsed.iter_parts()
    assert body.get_content().strip() == "Wie geht’s?"
    kinds = [(part.get_filename(), part.get_content_type(), part.get_payload(decode=True)) for part in parts]
    assert kinds == [
        ("notes.txt", "text/plain", b"text\n"),
        ("data.bin.gz", "application/octet-stream", b"\x1f\x8b\0"),
        ("odd", "application/octet-stream", bytes(range(256))),
    ]


@pytest.mark.parametrize("subject", ["a\nBcc: x@example.test", "a\r\nb", "\r"])
def test_no_header_can_be_smuggled_in(subject: str) -> None:
    with pytest.raises(ClientError, match="cannot be made"):
        compose(sender="zs@example.test", recipients=["anna@example.test"], subject=subject, text="")


@pytest.mark.parametrize(
    ("octets", "sent"),
    [
        (b"Subject: x\n\nbody", b"Subject: x\r\n\r\nbody\r\n"),
        (b"Subject: x\r\n\r\nbody\r\n", b"Subject: x\r\n\r\nbody\r\n"),
        (b"Subject: x\r\rb\xff\n", b"Subject: x\r\n\r\nb\xff\r\n"),
    ],
)
def test_a_stored_message_changes_only_its_line_ends(octets: bytes, sent: bytes) -> None:
    outgoing = stored(octets)
    assert outgoing.octets == sent
    assert outgoing.subject == "x"
