"""Sessions as a client and as the log sees them."""

from __future__ import annotations

import asyncio
import errno
import socket
from base64 import b64encode
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mailstack.net.stream import Stream
from mailstack.storage.queue import Queue, Recipient
from tests.unit.mta_smtpd.authority import PASSWORD, USER, answering
from tests.unit.mta_smtpd.serving import TLS_CF, Smtpd, client_tls, make_certificate, running

PEER = "localhost[127.0.0.1]"
TRUSTED = "mynetworks = 127.0.0.0/8\n"
PLAIN = b64encode(f"\0{USER}\0{PASSWORD}".encode()).decode()


class Client:
    """Lines out, replies in."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._buffer = b""

    async def reply(self) -> str:
        """One reply, its lines joined by newlines."""
        lines: list[str] = []
        while True:
            while b"\r\n" not in self._buffer:
                data = await self.stream.read(5.0)
                if not data:
                    return "\n".join([*lines, "<closed>"])
                self._buffer += data
            line, _, self._buffer = self._buffer.partition(b"\r\n")
            lines.append(line.decode())
            if line[3:4] != b"-":
                return "\n".join(lines)

    async def say(self, *lines: str) -> str:
        """Send each line and wait for its reply; the last reply."""
        reply = ""
        for line in lines:
            self.stream.write(line.encode() + b"\r\n")
            reply = await self.reply()
        return reply


def session(
    tmp_path: Path, check: Callable[[Smtpd, Client], Awaitable[None]], extra: str = "", **overrides: str
) -> None:
    """Run `check` against an smtpd with main.cf plus `extra`."""

    async def run() -> None:
        async with running(tmp_path, extra, overrides) as smtpd:
            client = Client(await smtpd.connect())
            if overrides.get("smtpd_tls_wrappermode") != "yes":
                assert (await client.reply()).startswith("220 ")
            await check(smtpd, client)
            client.stream.close()

    asyncio.run(run())


async def until(true: Callable[[], bool]) -> None:
    """Let the other tasks run until something holds."""
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110  # what is waited for is a file, not a task
            await asyncio.sleep(0)


MESSAGE = ("EHLO client.test", "MAIL FROM:<a@b.test>", "RCPT TO:<zs@dgtlinux.com>", "DATA")


def test_what_is_queued_and_logged(tmp_path: Path) -> None:
    async def check(smtpd: Smtpd, client: Client) -> None:
        wake = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        wake.settimeout(5)
        (tmp_path / "queue/public").mkdir()
        wake.bind(str(tmp_path / "queue/public/qmgr"))
        await client.say("EHLO client.test", "MAIL FROM:<ann> SIZE=9", "RCPT TO:<far@far.test>", "RSET")
        await client.say("MAIL FROM:<ann>", "RCPT TO:<nobody@other.test>", "RCPT TO:<zs+x@dgtlinux.com>")
        assert await client.say("RCPT TO:<ali@alias.test>", "DATA") == "354 End data with <CR><LF>.<CR><LF>"
        reply = await client.say("Subject: x\r\nMessage-ID: <one@b>\r\n\r\n..b\xfc\r\n.")
        queue_id = reply.removeprefix("250 2.0.0 Ok: queued as ")
        told = [wake.recv(100).decode().removeprefix("T ") for _ in range(2)]  # the tables are new, too
        assert told == [f"+{queue_id}", queue_id]  # while it is being flushed, and when it is there
        wake.close()
        assert await client.say("QUIT") == "221 2.0.0 Bye"
        assert await client.reply() == "<closed>"
        (message,) = smtpd.messages()
        envelope = message.envelope
        assert (message.queue_id, envelope.sender) == (queue_id, "ann@dgtlinux.com")
        assert envelope.recipients == (
            Recipient("zs+x@dgtlinux.com"),
            Recipient("zs@dgtlinux.com", "ali@alias.test"),
            Recipient("bob@other.test", "ali@alias.test"),
        )
        assert (envelope.client_name, envelope.client_address) == ("localhost", "127.0.0.1")
        assert (envelope.helo_name, envelope.protocol, envelope.body) == ("client.test", "ESMTP", "8bitmime")
        lines = smtpd.content(message).split(b"\r\n")
        assert lines[0] == b"Received: from client.test (localhost [127.0.0.1])"
        assert lines[1] == f"\tby mail.dgtlinux.com (Postfix) with ESMTP id {queue_id};".encode()
        assert lines[3:5] == [b"Subject: x", b"Message-ID: <one@b>"]
        assert lines[5].startswith(b"Date: ") and lines[6] == b"From: ann@dgtlinux.com"
        assert lines[7:] == [b"", ".b\xfc".encode(), b""]
        unknown = "Recipient address rejected: User unknown in virtual mailbox table"
        far = "from=<ann> to=<far@far.test> proto=ESMTP helo=<client.test>"
        nobody = "from=<ann> to=<nobody@other.test> proto=ESMTP helo=<client.test>"
        assert smtpd.log() == [
            "smtpd: connect from localhost[127.0.0.1]",
            f"smtpd: NOQUEUE: reject: RCPT from {PEER}: 554 5.7.1 <far@far.test>: Relay access denied; {far}",
            f"smtpd: NOQUEUE: reject: RCPT from {PEER}: 550 5.1.1 <nobody@other.test>: {unknown}; {nobody}",
            f"smtpd: {queue_id}: client=localhost[127.0.0.1]",
            f"cleanup: {queue_id}: message-id=<one@b>",
            f"smtpd: disconnect from {PEER} ehlo=1 mail=2 rcpt=2/4 data=1 rset=1 quit=1 commands=8/10",
        ]

    session(tmp_path, check)


def test_a_message_in_chunks(tmp_path: Path) -> None:
    async def check(smtpd: Smtpd, client: Client) -> None:
        assert (await client.say("EHLO client.test")).split("\n")[-1] == "250 CHUNKING"
        await client.say("MAIL FROM:<a@b.test>", "RCPT TO:<zs@dgtlinux.com>")
        for octets in (b"Subject: x\r\n\r", b"\n.\r\n"):
            client.stream.write(b"BDAT %d\r\n%s" % (len(octets), octets))
            assert await client.reply() == f"250 2.0.0 Ok: {len(octets)} bytes"
        client.stream.write(b"BDAT 4 LAST\r\nNOOPQUIT\r\n")
        reply, _, queue_id = (await client.reply()).rpartition(" ")
        assert reply == "250 2.0.0 Ok: 23 bytes queued as"
        assert await client.reply() == "221 2.0.0 Bye"
        (message,) = smtpd.messages()
        assert message.queue_id == queue_id
        content = smtpd.content(message)
        assert b"\r\nSubject: x\r\n" in content and content.endswith(b"\r\n\r\n.\r\nNOOP\r\n")
        assert smtpd.log()[-1] == (
            f"smtpd: disconnect from {PEER} ehlo=1 mail=1 rcpt=1 bdat=3 quit=1 commands=7"
        )

    session(tmp_path, check)


def test_a_large_message_in_chunks_is_spooled_and_whole(tmp_path: Path) -> None:
    async def check(smtpd: Smtpd, client: Client) -> None:
        await client.say(*MESSAGE[:3])
        content = b"Subject: big\r\n\r\n" + b"".join(b"%06d%s\r\n" % (i, b"x" * 92) for i in range(20_000))
        for start in range(0, len(content), 300_001):
            octets = content[start : start + 300_001]
            client.stream.write(b"BDAT %d\r\n%s" % (len(octets), octets))
            assert (await client.reply()).startswith("250 2.0.0 Ok: ")
        assert (await client.say("BDAT 0 LAST")).startswith(f"250 2.0.0 Ok: {len(content)} bytes queued as")
        (message,) = smtpd.messages()
        assert smtpd.content(message).endswith(content.partition(b"\r\n\r\n")[2])
        assert list((tmp_path / "queue/tmp").iterdir()) == []

    session(tmp_path, check, "message_size_limit = 5000000\n")


def test_refused_chunks_are_counted_and_nothing_is_queued(tmp_path: Path) -> None:
    async def check(smtpd: Smtpd, client: Client) -> None:
        await client.say(*MESSAGE[:3])
        client.stream.write(b"BDAT 100001\r\n" + b"x" * 100_001)
        assert await client.reply() == "552 5.3.4 Chunk exceeds message size limit"
        client.stream.write(b"BDAT 4 LAST\r\nQUIT")
        assert await client.reply() == "551 5.0.0 Discarded 4 bytes after earlier error"
        await client.say(*MESSAGE[1:3])
        assert await client.say("BDAT much LAST") == "521 5.5.4 Syntax: BDAT count [LAST]"
        assert await client.reply() == "<closed>"
        assert smtpd.messages() == []
        assert smtpd.log()[-1] == (
            f"smtpd: disconnect from {PEER} ehlo=1 mail=2 rcpt=2 bdat=0/3 commands=5/8"
        )

    session(tmp_path, check)


def test_a_last_chunk_that_is_refused_leaves_nothing_behind(tmp_path: Path) -> None:
    async def check(smtpd: Smtpd, client: Client) -> None:
        await client.say(*MESSAGE[:3])
        for octets, last, code in ((600_000, "", "250"), (600_000, " LAST", "552")):
            client.stream.write(f"BDAT {octets}{last}\r\n".encode() + b"x" * octets)
            assert (await client.reply()).startswith(code)
        assert list((tmp_path / "queue/tmp").iterdir()) == []
        assert await client.say("MAIL FROM:<>") == "250 2.1.0 Ok"

    session(tmp_path, check, "message_size_limit = 1000000\n")


def test_data_restrictions_are_judged_at_the_first_chunk(tmp_path: Path) -> None:
    refusal = "554 5.7.1 <DATA>: Data command rejected: Access denied"

    async def check(smtpd: Smtpd, client: Client) -> None:
        await client.say(*MESSAGE[:3])
        assert await client.say("BDAT 6\r\nQUIT") == refusal
        assert await client.say("BDAT 6\r\nQUIT") == "551 5.0.0 Discarded 6 bytes after earlier error"
        assert await client.say("BDAT 6 LAST\r\nQUIT") == "551 5.0.0 Discarded 6 bytes after earlier error"
        await client.say(*MESSAGE[1:3])
        assert await client.say("BDAT 6 LAST\r\nQUIT") == refusal
        assert await client.say("NOOP") == "250 2.0.0 Ok"
        assert smtpd.messages() == []
        rejects = [line for line in smtpd.log() if ": reject: " in line]
        assert len(rejects) == 2
        who = "from=<a@b.test> to=<zs@dgtlinux.com>"
        assert all(f": reject: BDAT from {PEER}: {refusal}; {who}" in line for line in rejects)

    session(tmp_path, check, "smtpd_data_restrictions = reject\n")


def test_a_chunk_is_no_pipelining(tmp_path: Path) -> None:
    """Its octets come behind its command, as they must."""

    async def check(smtpd: Smtpd, client: Client) -> None:
        await client.say(*MESSAGE[:3])
        assert (await client.say("BDAT 6 LAST\r\nQUIT")).startswith("250 2.0.0 Ok: 6 bytes queued as")
        assert not any("improper" in line for line in smtpd.log())

    session(tmp_path, check, "smtpd_data_restrictions = reject_unauth_pipelining\n")


def test_chunking_can_be_hidden(tmp_path: Path) -> None:
    async def check(smtpd: Smtpd, client: Client) -> None:
        assert "CHUNKING" not in await client.say("EHLO client.test")
        assert await client.say("BDAT 4 LAST") == "521 5.5.1 Error: command not implemented"

    session(tmp_path, check, "smtpd_discard_ehlo_keywords = chunking, dsn\n")


def test_a_large_message_is_spooled_and_whole(tmp_path: Path) -> None:
    async def check(smtpd: Smtpd, client: Client) -> None:
        await client.say(*MESSAGE)
        body = b"".join(b"%06d%s\r\n" % (i, b"x" * 92) for i in range(20_000))
        client.stream.write(b"Subject: big\r\n\r\n" + body + b".\r\n")
        assert (await client.reply()).startswith("250 2.0.0 Ok: queued as")
        (message,) = smtpd.messages()
        content = smtpd.content(message)
        assert message.envelope.size == len(content)
        assert content.endswith(body) and content.startswith(b"Received: from")
        assert list((tmp_path / "queue/tmp").iterdir()) == []

    session(tmp_path, check, "message_size_limit = 5000000\n")


def test_what_is_not_finished_leaves_nothing_behind(tmp_path: Path) -> None:
    async def check(smtpd: Smtpd, client: Client) -> None:
        await client.say(*MESSAGE)
        client.stream.write(b"x" * 600_000)
        await until(lambda: bool(list((tmp_path / "queue/tmp").iterdir())))
        client.stream.abort()
        await until(lambda: not smtpd.shared.sessions)
        assert list((tmp_path / "queue/tmp").iterdir()) == [] and smtpd.messages() == []
        assert any("lost connection after DATA (" in line for line in smtpd.log())

    session(tmp_path, check, "message_size_limit = 5000000\n")


@pytest.mark.parametrize(
    "number, reply",
    [
        (errno.ENOSPC, "452 4.3.1 Insufficient system storage"),
        (errno.EIO, "451 4.3.0 Error: queue file write error"),
    ],
)
def test_a_disk_that_fails_is_never_a_250(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reply: str
) -> None:
    async def fail(*args: object) -> str:
        raise OSError(number, "no")

    async def check(smtpd: Smtpd, client: Client) -> None:
        monkeypatch.setattr(Queue, "enqueue", fail)
        assert await client.say(*MESSAGE, "x\r\n.") == reply
        assert await client.say("NOOP") == "250 2.0.0 Ok"

    session(tmp_path, check)


def test_no_message_is_begun_without_space(tmp_path: Path) -> None:
    async def check(smtpd: Smtpd, client: Client) -> None:
        assert await client.say("MAIL FROM:<>") == "452 4.3.1 Insufficient system storage"

    session(tmp_path, check, "queue_minfree = 99999999999999999\n")


def test_limits(tmp_path: Path) -> None:
    async def check(smtpd: Smtpd, client: Client) -> None:
        await client.say("HELO x", "MAIL FROM:<>", "RCPT TO:<zs@dgtlinux.com>", "RCPT TO:<root>")
        assert await client.say("RCPT TO:<bob@other.test>") == "452 4.5.3 Error: too many recipients"
        others = [Client(await smtpd.connect()) for _ in range(2)]
        assert (await others[0].reply()).startswith("220 ")
        assert await others[1].reply() == (
            "421 4.7.0 mail.dgtlinux.com Error: too many connections from 127.0.0.1"
        )
        for other in others:
            other.stream.close()
        for _ in range(4):
            reply = await client.say("NOOP")
        assert reply == "250 2.0.0 Ok"
        assert await client.reply() == "421 4.7.0 mail.dgtlinux.com Error: too many errors"

    extra = "smtpd_recipient_limit = 2\nsmtpd_client_connection_count_limit = 2\n"
    session(tmp_path, check, extra + "smtpd_junk_command_limit = 1\nsmtpd_hard_error_limit = 3\n")


def test_silence_ends_a_session(tmp_path: Path) -> None:
    async def check(smtpd: Smtpd, client: Client) -> None:
        await client.say("EHLO x")
        assert await client.reply() == "421 4.4.2 mail.dgtlinux.com Error: timeout exceeded"
        assert "smtpd: timeout after EHLO from localhost[127.0.0.1]" in smtpd.log()

    session(tmp_path, check, "smtpd_timeout = 1s\n")


def test_shutdown_tells_idle_clients_and_lets_a_transaction_finish(tmp_path: Path) -> None:
    async def check(smtpd: Smtpd, client: Client) -> None:
        idle = Client(await smtpd.connect())
        await idle.reply()
        await client.say(*MESSAGE)
        for one in list(smtpd.shared.sessions):
            one.stop()
        goodbye = "421 4.3.2 mail.dgtlinux.com Service unavailable - try again later"
        assert await idle.reply() == goodbye
        assert (await client.say("x\r\n.")).startswith("250 ")
        assert await client.reply() == goodbye
        assert len(smtpd.messages()) == 1
        idle.stream.close()

    session(tmp_path, check)


def test_smtpd_delay_reject_no_refuses_at_once(tmp_path: Path) -> None:
    async def check(smtpd: Smtpd, client: Client) -> None:
        assert await client.say("EHLO host") == (
            "504 5.5.2 <host>: Helo command rejected: need fully-qualified hostname"
        )
        assert await client.say("EHLO a.test", "MAIL FROM:<a@host>") == (
            "504 5.5.2 <a@host>: Sender address rejected: need fully-qualified address"
        )

    extra = "smtpd_delay_reject = no\nsmtpd_helo_restrictions = reject_non_fqdn_helo_hostname\n"
    session(tmp_path, check, extra + "smtpd_sender_restrictions = reject_non_fqdn_sender\n")


def test_bare_newlines_can_be_refused(tmp_path: Path) -> None:
    async def check(smtpd: Smtpd, client: Client) -> None:
        assert await client.say(*MESSAGE, "a\nb\r\n.") == (
            "550 5.5.2 mail.dgtlinux.com Error: bare <LF> received"
        )
        assert smtpd.messages() == []

    session(tmp_path, check, "smtpd_forbid_bare_newline = reject\n")


def test_pipelining_out_of_turn_can_be_refused(tmp_path: Path) -> None:
    async def check(smtpd: Smtpd, client: Client) -> None:
        client.stream.write(b"EHLO x\r\nMAIL FROM:<>\r\n")
        assert await client.reply() == "554 5.5.0 Error: SMTP protocol synchronization"

    session(tmp_path, check, "smtpd_forbid_unauth_pipelining = yes\n")


def test_soft_bounce(tmp_path: Path) -> None:
    async def check(smtpd: Smtpd, client: Client) -> None:
        reply = await client.say("HELO x", "MAIL FROM:<>", "RCPT TO:<x@far.test>")
        assert reply == "454 4.7.1 <x@far.test>: Relay access denied"

    session(tmp_path, check, "soft_bounce = yes\n")


# ---- TLS and AUTH

SASL = "smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\nsmtpd_sasl_path = {dir}/auth\n"


def test_starttls_then_auth_by_the_dovecot_protocol(tmp_path: Path) -> None:
    make_certificate(tmp_path)

    async def check(smtpd: Smtpd, client: Client) -> None:
        async with answering(tmp_path / "auth", "dovecot") as authority:
            reply = await client.say("EHLO client.test")
            assert "STARTTLS" in reply and "AUTH" not in reply
            assert await client.say(f"AUTH PLAIN {PLAIN}") == "503 5.5.1 Error: authentication not enabled"
            # What is pipelined behind STARTTLS never counts.
            assert await client.say("STARTTLS\r\nMAIL FROM:<evil@x.test>") == "220 2.0.0 Ready to start TLS"
            await client.stream.start_tls(
                client_tls(tmp_path), 5.0, server_side=False, server_hostname="localhost"
            )
            reply = await client.say("EHLO client.test")
            assert "250-AUTH PLAIN LOGIN" in reply.split("\n") and "STARTTLS" not in reply
            assert await client.say("STARTTLS") == "554 5.5.1 Error: TLS already active"
            wrong = b64encode(f"\0{USER}\0wrong".encode()).decode()
            assert await client.say(f"AUTH PLAIN {wrong}") == (
                "535 5.7.8 Error: authentication failed: (reason unavailable)"
            )
            assert await client.say("AUTH CRAM-MD5") == (
                "535 5.7.8 Error: authentication failed: Invalid authentication mechanism"
            )
            slow = b64encode(b"\0slow\0x").decode()
            assert await client.say(f"AUTH PLAIN {slow}") == (
                "454 4.7.0 Temporary authentication failure: Internal login failure"
            )
            authority.hang_up()
            assert await client.say("AUTH LOGIN") == "334 VXNlcm5hbWU6"
            assert await client.say("*") == "501 5.7.0 Authentication aborted"
            assert await client.say("AUTH LOGIN", b64encode(USER.encode()).decode()) == "334 UGFzc3dvcmQ6"
            assert await client.say(b64encode(PASSWORD.encode()).decode()) == (
                "235 2.7.0 Authentication successful"
            )
            assert authority.connections == 2
            request = authority.requests[0]
            assert (request.service, request.params.get("rip")) == ("smtp", "127.0.0.1")
            assert "secured" in request.params
            reply = await client.say("MAIL FROM:<>", "RCPT TO:<far@far.test>", "DATA", "Subject: x\r\n\r\n.")
            assert reply.startswith("250 2.0.0 Ok: queued as ")
        (message,) = smtpd.messages()
        assert message.envelope.sasl_username == USER and message.envelope.protocol == "ESMTPSA"
        assert b" with ESMTPSA id " in smtpd.content(message)
        assert b"(using TLSv1.3 with cipher " in smtpd.content(message)
        log = smtpd.log()
        assert any(line.endswith(f", sasl_method=LOGIN, sasl_username={USER}") for line in log)
        assert (
            "smtpd: warning: localhost[127.0.0.1]: SASL PLAIN authentication failed: (reason unavailable), "
            f"sasl_username={USER}"
        ) in log
        assert PASSWORD not in "".join(log)

    extra = (TLS_CF + SASL).format(dir=tmp_path)
    session(tmp_path, check, extra + "smtpd_tls_auth_only = yes\nsmtpd_tls_received_header = yes\n")


def test_auth_by_saslauthd(tmp_path: Path) -> None:
    (tmp_path / "sasl").mkdir()
    (tmp_path / "sasl/smtpd.conf").write_text(
        f"pwcheck_method: saslauthd\nmech_list: PLAIN LOGIN\nlog_level: 3\nsaslauthd_path: {tmp_path}/mux\n"
    )

    async def check(smtpd: Smtpd, client: Client) -> None:
        assert "250-AUTH PLAIN LOGIN" in (await client.say("EHLO x")).split("\n")
        assert await client.say(f"AUTH PLAIN {PLAIN}") == (
            "454 4.7.0 Temporary authentication failure: cannot connect to saslauthd server"
        )
        async with answering(tmp_path / "mux", "saslauthd"):
            wrong = b64encode(f"\0{USER}\0wrong".encode()).decode()
            assert await client.say(f"AUTH PLAIN {wrong}") == (
                "535 5.7.8 Error: authentication failed: authentication failure"
            )
            assert await client.say(f"AUTH PLAIN {PLAIN}") == "235 2.7.0 Authentication successful"

    extra = (
        f"smtpd_sasl_auth_enable = yes\nsmtpd_sasl_path = smtpd\ncyrus_sasl_config_path = {tmp_path}/sasl\n"
    )
    session(tmp_path, check, extra)


def test_auth_is_not_offered_while_nobody_can_answer(tmp_path: Path) -> None:
    async def check(smtpd: Smtpd, client: Client) -> None:
        assert "AUTH" not in await client.say("EHLO x")
        assert any("SASL: Connect to" in line for line in smtpd.log())

    session(tmp_path, check, SASL.format(dir=tmp_path))


def test_tls_from_the_first_octet_and_tls_demanded(tmp_path: Path) -> None:
    make_certificate(tmp_path)

    async def wrapped(smtpd: Smtpd, client: Client) -> None:
        await client.stream.start_tls(
            client_tls(tmp_path), 5.0, server_side=False, server_hostname="localhost"
        )
        assert (await client.reply()).startswith("220 ")
        assert "STARTTLS" not in await client.say("EHLO x")

    session(tmp_path, wrapped, TLS_CF.format(dir=tmp_path), smtpd_tls_wrappermode="yes")

    async def demanded(smtpd: Smtpd, client: Client) -> None:
        reply = await client.say("EHLO x", "MAIL FROM:<>")
        assert reply == "530 5.7.0 Must issue a STARTTLS command first"
        client.stream.write(b"STARTTLS\r\n")
        assert (await client.reply()).startswith("220 ")
        client.stream.write(b"this is no handshake\r\n")
        assert await client.reply() == "<closed>"
        assert any(line.startswith("smtpd: SSL_accept error from localhost") for line in smtpd.log())

    session(tmp_path, demanded, TLS_CF.format(dir=tmp_path), smtpd_tls_security_level="encrypt")


def test_a_table_that_cannot_be_read_is_a_temporary_error(tmp_path: Path) -> None:
    async def check(smtpd: Smtpd, client: Client) -> None:
        reply = await client.say("HELO x", "MAIL FROM:<>", "RCPT TO:<zs@dgtlinux.com>")
        assert reply == "451 4.3.0 <zs@dgtlinux.com>: Temporary lookup failure"

    session(tmp_path, check, "local_recipient_maps = hash:/nonexistent/table\n")


def test_a_client_that_sends_ahead_does_not_hold_up_others(tmp_path: Path) -> None:
    async def check(smtpd: Smtpd, client: Client) -> None:
        other = Client(await smtpd.connect())
        assert (await other.reply()).startswith("220 ")
        await client.say("EHLO x", "MAIL FROM:<a@b.test>")
        client.stream.write(b"RCPT TO:<zs@dgtlinux.com>\r\n" * 900)
        assert await other.say("NOOP", "RSET") == "250 2.0.0 Ok"
        early = (await client.stream.read(5.0)).count(b"\n")
        assert early < 900, "not all of it has been heard by then"
        assert {await client.reply() for _ in range(900 - early)} == {"250 2.1.5 Ok"}
        other.stream.write(b"EHLO x\r\nMAIL FROM:<a@b.test>\r\n" + b"RCPT TO:<zs@dgtlinux.com>\r\n" * 900)
        await asyncio.sleep(0)
        other.stream.abort()
        await until(lambda: any(" rcpt=" in line for line in smtpd.log()))
        [line] = [line for line in smtpd.log() if " rcpt=" in line]
        assert int(line.partition(" rcpt=")[2].split()[0]) < 900, "nobody is left to do it for"

    session(tmp_path, check)


@pytest.mark.parametrize(
    ("lines", "logged"),
    [
        (["", "NOOP", "QUIT"], "disconnect from {peer} noop=1 quit=1 commands=2"),
        (["\t<\\\u00fc>"], "warning: non-SMTP command from {peer}: \\t<\\\\\\303\\274>"),
        (
            ["MAIL FROM:<a b@c.test> SIZE=1"],
            "warning: Illegal address syntax from {peer} in MAIL command: <a b@c.test>",
        ),
        (["BDAT 0"], "warning: NOQUEUE: null BDAT request from {peer}"),
        (["BDAT x"], "warning: NOQUEUE: malformed BDAT command syntax from {peer}: BDAT x"),
        (["EHLO a.test", "HELO b.test", "VRFY x@other.test"], "proto=ESMTP helo=<b.test>"),
    ],
)
def test_log_lines_of_odd_clients_are_those_of_postfix(tmp_path: Path, lines: list[str], logged: str) -> None:
    async def check(smtpd: Smtpd, client: Client) -> None:
        await client.say(*lines)
        found = "\n".join(smtpd.log())
        assert logged.format(peer="localhost[127.0.0.1]") in found

    session(tmp_path, check)
