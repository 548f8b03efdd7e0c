"""What access tables do to a message, whom XCLIENT makes of a client, and client certificates."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from mailstack.mta.smtpd.certificate import fingerprint
from tests.unit.mta_smtpd.serving import TLS_CF, Smtpd, make_certificate, running
from tests.unit.mta_smtpd.test_session import Client, session

ENVELOPE = ("MAIL FROM:<a@b.test>", "RCPT TO:<zs@dgtlinux.com>")


def send(
    tmp_path: Path, action: str, phase: str = "client"
) -> tuple[Smtpd, list[bytes], list[str], list[str]]:
    """A message under one action: its content, its recipients, and the names in hold/."""
    content: list[bytes] = []
    recipients: list[str] = []
    held: list[str] = []
    kept: list[Smtpd] = []

    async def check(smtpd: Smtpd, client: Client) -> None:
        kept.append(smtpd)
        await client.say("EHLO x", *ENVELOPE, "DATA")
        assert (await client.say("Subject: x\r\n\r\nx\r\n.")).startswith("250 2.0.0 Ok: queued as ")
        for message in smtpd.messages():
            content.append(smtpd.content(message))
            recipients.extend(one.address for one in message.envelope.recipients)
        held.extend(smtpd.queue.names("hold"))

    words = f"check_client_access inline:{{ {{127.0.0={action}}} }}"
    session(tmp_path, check, f"smtpd_{phase}_restrictions = {words}\n")
    return kept[0], content, recipients, held


@pytest.mark.parametrize("phase", ["client", "data", "end_of_data"])
def test_hold_puts_it_into_hold(tmp_path: Path, phase: str) -> None:
    smtpd, content, _, held = send(tmp_path, "HOLD for a look", phase)
    assert (content, len(held)) == ([], 1)
    assert any(
        ": hold: " in line and "<localhost[127.0.0.1]>: Client host for a look; from=<a@b.test>" in line
        for line in smtpd.log()
    )


def test_discard_takes_it_and_forgets_it(tmp_path: Path) -> None:
    smtpd, content, _, held = send(tmp_path, "DISCARD")
    assert (content, held) == ([], [])
    assert not list((tmp_path / "queue/tmp").iterdir())
    assert any("Client host triggers DISCARD action;" in line for line in smtpd.log())


def test_redirect_replaces_the_recipients(tmp_path: Path) -> None:
    assert send(tmp_path, "REDIRECT bob@other.test")[2] == ["bob@other.test"]


def test_bcc_adds_a_recipient(tmp_path: Path) -> None:
    assert send(tmp_path, "BCC bob@other.test")[2] == ["zs@dgtlinux.com", "bob@other.test"]


def test_prepend_stands_above_our_received(tmp_path: Path) -> None:
    _, content, _, _ = send(tmp_path, "PREPEND X-Seen: yes")
    assert content[0].startswith(b"X-Seen: yes\r\nReceived: from x (localhost [127.0.0.1])\r\n")
    assert b"\r\nSubject: x\r\n" in content[0] and content[0].endswith(b"\r\n\r\nx\r\n")


def test_what_concerns_a_message_is_skipped_where_there_is_none(tmp_path: Path) -> None:
    async def check(smtpd: Smtpd, client: Client) -> None:
        assert await client.say("VRFY zs@dgtlinux.com") == "252 2.0.0 zs@dgtlinux.com"
        said = "action HOLD is always skipped in VRFY or ETRN restrictions"
        assert f"smtpd: warning: access table inline:{{ 127.0.0=HOLD }}: {said}" in smtpd.log()

    session(tmp_path, check, "smtpd_client_restrictions = check_client_access inline:{ 127.0.0=HOLD }\n")


def test_whom_xclient_and_xforward_name(tmp_path: Path) -> None:
    extra = "smtpd_authorized_xclient_hosts = 127.0.0.1\nsmtpd_authorized_xforward_hosts = 192.0.2.7\n"

    async def check(smtpd: Smtpd, client: Client) -> None:
        line = "XCLIENT NAME=c.test ADDR=192.0.2.7 LOGIN=zs PORT=4711 REVERSE_NAME=r.test"
        assert (
            await client.say("EHLO x", *ENVELOPE[:1], line) == "503 5.5.1 Error: MAIL transaction in progress"
        )
        assert await client.say("RSET", line) == "220 mail.dgtlinux.com ESMTP Postfix"
        offered = await client.say("EHLO y")
        assert "XFORWARD NAME ADDR PROTO HELO SOURCE PORT IDENT" in offered and "XCLIENT" not in offered
        assert await client.say("XFORWARD NAME=first.test ADDR=198.51.100.3 IDENT=A1") == "250 2.0.0 Ok"
        await client.say(*ENVELOPE, "DATA", "x\r\n.")
        (message,) = smtpd.messages()
        envelope = message.envelope
        assert (envelope.client_name, envelope.client_address, envelope.helo_name) == (
            "c.test",
            "192.0.2.7",
            "y",
        )
        assert envelope.sasl_username == "zs"
        assert (
            f"smtpd: {message.queue_id}: client=c.test[192.0.2.7], sasl_method=XCLIENT, sasl_username=zs, "
            "orig_queue_id=A1, orig_client=first.test[198.51.100.3]"
        ) in smtpd.log()

    session(tmp_path, check, extra)


CERTIFICATES = """\
smtpd_tls_ask_ccert = yes
smtpd_tls_CAfile = {dir}/cert.pem
smtpd_tls_fingerprint_digest = sha256
smtpd_tls_loglevel = 1
relay_clientcerts = inline:{{ {{{print}=x}} }}
smtpd_relay_restrictions = permit_tls_clientcerts, reject_unauth_destination
smtpd_recipient_restrictions =
"""


@pytest.mark.parametrize("known", [True, False])
def test_a_certificate_lets_a_client_relay(tmp_path: Path, known: bool) -> None:
    make_certificate(tmp_path)
    der = ssl.PEM_cert_to_DER_cert((tmp_path / "cert.pem").read_text())
    printed = fingerprint(der if known else b"another", "sha256")
    extra = TLS_CF.format(dir=tmp_path) + CERTIFICATES.format(dir=tmp_path, print=printed)

    async def run() -> None:
        async with running(tmp_path, extra) as smtpd:
            for shown in (True, False):
                client = Client(await smtpd.connect())
                await client.reply()
                assert await client.say("EHLO x", "STARTTLS") == "220 2.0.0 Ready to start TLS"
                context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
                if shown:
                    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
                await client.stream.start_tls(context, 5.0, server_side=False, server_hostname="localhost")
                reply = await client.say("EHLO x", "MAIL FROM:<a@b.test>", "RCPT TO:<x@far.test>")
                denied = "554 5.7.1 <x@far.test>: Relay access denied"
                assert reply == ("250 2.1.5 Ok" if shown and known else denied)
                client.stream.abort()
            trust = [
                line.partition(" TLS connection")[0] for line in smtpd.log() if " TLS connection" in line
            ]
            assert trust == ["smtpd: Trusted", "smtpd: Anonymous"]

    asyncio.run(run())


def test_plain_text_behind_starttls_is_thrown_away(tmp_path: Path) -> None:
    """CVE-2011-0411: what is sent with STARTTLS in one segment must not be taken for what comes inside TLS."""
    make_certificate(tmp_path)

    async def check(smtpd: Smtpd, client: Client) -> None:
        await client.say("EHLO x")
        client.stream.write(b"STARTTLS\r\nMAIL FROM:<evil@b.test>\r\nRCPT TO:<zs@dgtlinux.com>\r\n")
        assert await client.reply() == "220 2.0.0 Ready to start TLS"
        context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        await client.stream.start_tls(context, 5.0, server_side=False, server_hostname="localhost")
        assert await client.say("RCPT TO:<zs@dgtlinux.com>") == "503 5.5.1 Error: need MAIL command"
        assert await client.say("MAIL FROM:<a@b.test>") == "250 2.1.0 Ok"

    session(tmp_path, check, TLS_CF.format(dir=tmp_path))
