"""IMAPClient and aioimaplib at the running stack's mailboxes: command by command, as programs use them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime

import aioimaplib  # type: ignore[import-untyped]
import imapclient  # type: ignore[import-untyped]
import pytest

from benchmarks.stack import Stack

USER, PASSWORD = "bert@other.test", "bert-secret"
ALTERNATIVE = (
    b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nFrom: Anna <anna@other.test>\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: multipart/alternative; boundary=b\r\n\r\n"
    b"--b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nHallo\r\n"
    b"--b\r\nContent-Type: text/html\r\n\r\n<p>Hallo\r\n--b--\r\n"
)


@pytest.fixture
def tls(stack: Stack) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=stack.ca_file)


@pytest.fixture
def client(stack: Stack, tls: ssl.SSLContext) -> Iterator[imapclient.IMAPClient]:
    """Logged in; the INBOX is empty."""
    made = imapclient.IMAPClient(stack.host, port=stack.port("imaps"), ssl_context=tls)
    made.login(USER, PASSWORD)
    made.select_folder("INBOX")
    if found := made.search():
        made.delete_messages(found)
        made.expunge()
    yield made
    made.logout()


def test_imapclient_messages(client: imapclient.IMAPClient) -> None:
    date = datetime(2020, 1, 1, 10, tzinfo=UTC)
    for number in range(5):
        client.append(
            "INBOX", b"Subject: m%d\r\n\r\nbody\r\n" % number, [b"\\Seen"] if number % 2 else [], date
        )
    client.append("INBOX", ALTERNATIVE, [b"kw"])
    client.noop()
    uids = client.search()
    assert len(uids) == 6
    assert client.search(["SUBJECT", "Grüße"], "UTF-8") == uids[5:]
    assert client.search(["OR", "SEEN", ["KEYWORD", "kw"]]) == [uids[1], uids[3], uids[5]]
    assert client.search(["NOT", ["SINCE", "2-Jan-2020"]]) == uids[:5]
    found = client.fetch(uids[5:], ["ENVELOPE", "BODYSTRUCTURE", "FLAGS", "RFC822.SIZE", "BODY.PEEK[1]"])[
        uids[5]
    ]
    assert found[b"ENVELOPE"].from_[0].mailbox == b"anna"
    assert found[b"BODYSTRUCTURE"].is_multipart
    assert [part[:2] for part in found[b"BODYSTRUCTURE"][0]] == [(b"text", b"plain"), (b"text", b"html")]
    assert (found[b"RFC822.SIZE"], found[b"BODY[1]"]) == (len(ALTERNATIVE), b"Hallo")
    assert client.fetch(uids[0], ["INTERNALDATE"])[uids[0]][b"INTERNALDATE"].astimezone(UTC) == date
    client.add_flags(uids[:2], [b"\\Flagged"])
    assert client.search("FLAGGED") == uids[:2]
    assert set(client.set_flags(uids[:1], [b"other"])[uids[0]]) - {b"\\Recent"} == {b"other"}
    client.delete_messages(uids[1:3])
    client.uid_expunge(uids[1:2])
    assert client.search("ALL") == [uids[0], *uids[2:]]


def test_imapclient_folders(client: imapclient.IMAPClient) -> None:
    client.append("INBOX", ALTERNATIVE)
    client.create_folder("Büro & Co")
    client.subscribe_folder("Büro & Co")
    assert "Büro & Co" in [name for _, _, name in client.list_sub_folders()]
    client.copy(client.search(), "Büro & Co")
    client.move(client.search(), "Büro & Co")
    assert client.search() == []
    assert client.folder_status("Büro & Co", ["MESSAGES", "UNSEEN"]) == {b"MESSAGES": 2, b"UNSEEN": 2}
    client.rename_folder("Büro & Co", "Büro.Eins")
    assert client.folder_exists("Büro.Eins") and not client.folder_exists("Büro & Co")
    client.unsubscribe_folder("Büro & Co")
    assert client.find_special_folder(b"\\Sent") == "Sent"
    assert client.namespace().personal == (("", "."),)
    client.select_folder("Büro.Eins", readonly=True)
    client.add_flags(client.search(), [b"\\Seen"])
    assert client.search("SEEN") == [], "nothing changes in a mailbox that is only looked at"
    client.unselect_folder()
    client.delete_folder("Büro.Eins")


def test_imapclient_is_told_while_it_idles(client: imapclient.IMAPClient, stack: Stack) -> None:
    client.idle()
    sent = stack.cli("send", "--from", "anna@other.test", "--to", USER, "--subject", "told")
    assert sent.returncode == 0, sent.stderr
    assert (1, b"EXISTS") in client.idle_check(timeout=20)
    client.idle_done()
    assert len(client.search(["SUBJECT", "told"])) == 1


def test_aioimaplib(client: imapclient.IMAPClient, stack: Stack, tls: ssl.SSLContext) -> None:
    """One connection is told of what another one does, and moves it away."""

    async def connect() -> aioimaplib.IMAP4_SSL:
        made = aioimaplib.IMAP4_SSL(host=stack.host, port=stack.port("imaps"), ssl_context=tls, timeout=20)
        await made.wait_hello_from_server()
        assert (await made.login(USER, PASSWORD)).result == "OK"
        return made

    async def run() -> None:
        one, two = await connect(), await connect()
        assert (await one.select("INBOX")).result == "OK"
        idling = await one.idle_start(timeout=20)
        assert (await two.append(ALTERNATIVE, "INBOX")).result == "OK"
        assert b"1 EXISTS" in await one.wait_server_push()
        one.idle_done()
        await asyncio.wait_for(idling, 20)
        fetched = await one.uid("fetch", "1:*", "(UID RFC822.SIZE BODY.PEEK[])")
        assert (fetched.result, bytes(fetched.lines[1])) == ("OK", ALTERNATIVE)
        assert (await one.move("1", "Trash")).result == "OK"
        assert (await one.search("ALL")).lines[0] == b""
        for used in (two, one):
            await used.logout()
            used.protocol.transport.abort()  # which the library leaves to the garbage collector
        await asyncio.sleep(0.05)

    asyncio.run(run())
