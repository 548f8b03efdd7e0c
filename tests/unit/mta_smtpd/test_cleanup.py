"""Headers completed and recipients expanded, as cleanup does."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailstack.mta.cleanup import AliasExpansionError, TooManyHops, received_header
from mailstack.mta.smtpd.settings import Settings
from mailstack.storage.queue import Recipient
from tests.unit.mta_smtpd.serving import settings_of

NOW = 1_795_348_800.0


def clean(settings: Settings, head: bytes, *, local: bool = True, sender: str = "zs@dgtlinux.com") -> bytes:
    cleaned = settings.cleanup.headers(
        head, received=b"R: x\r\n", queue_id="ABC", sender=sender, local=local, now=NOW
    )
    return b"".join(cleaned.parts)


def test_missing_headers_are_added_for_local_clients_only(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    head = b"Subject: x\r\n\r\nbody\r\n"
    lines = clean(settings, head).split(b"\r\n")
    assert lines[:2] == [b"R: x", b"Subject: x"]
    assert lines[2].startswith(b"Message-Id: <2026") and lines[2].endswith(b".ABC@mail.dgtlinux.com>")
    assert lines[3].startswith(b"Date: ")
    assert lines[4:] == [b"From: zs@dgtlinux.com", b"", b"body", b""]
    assert clean(settings, head, local=False) == b"R: x\r\n" + head


@pytest.mark.parametrize(
    "head, expected",
    [
        (b"no header at all\r\n", b"\r\nno header at all\r\n"),
        (b"A: b\r\nbody at once\r\n", b"A: b\r\n\r\nbody at once\r\n"),
        (b"A: b\r\n folded\r\n\r\nbody\r\n", b"A: b\r\n folded\r\n\r\nbody\r\n"),
        (b"A: b\r\n", b"A: b\r\n\r\n"),
        (b"", b"\r\n"),
        (b"\r\n\r\nx\r\n", b"\r\n\r\nx\r\n"),
        (
            b"Bcc: secret@x\r\n more\r\nA: b\r\nreturn-path: <x>\r\n\r\nBcc: body\r\n",
            b"A: b\r\n\r\nBcc: body\r\n",
        ),
    ],
)
def test_where_the_header_ends_and_what_is_dropped(tmp_path: Path, head: bytes, expected: bytes) -> None:
    assert clean(settings_of(tmp_path), head, local=False) == b"R: x\r\n" + expected


@pytest.mark.parametrize(
    "line, expected",
    [
        (b"From: root", b"From: root@dgtlinux.com"),
        (b"To: zs, bob@other.test,root", b"To: zs@dgtlinux.com, bob@other.test, root@dgtlinux.com"),
        (b"From: Root <root>", b"From: Root <root@dgtlinux.com>"),
        (b'From: "root, he" <root>', b'From: "root, he" <root@dgtlinux.com>'),
        (b"To: undisclosed-recipients:;", b"To: undisclosed-recipients:;"),
        (b"Subject: root", b"Subject: root"),
    ],
)
def test_addresses_without_a_domain_are_completed(tmp_path: Path, line: bytes, expected: bytes) -> None:
    assert expected + b"\r\n" in clean(settings_of(tmp_path), line + b"\r\n\r\n")


def test_the_message_id_is_reported(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    cleaned = settings.cleanup.headers(
        b"Message-ID:\r\n <a@b>\r\n\r\n", received=b"", queue_id="A", sender="", local=False, now=NOW
    )
    assert cleaned.message_id == "<a@b>"


def test_a_loop_is_seen(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "hopcount_limit = 3\n")
    clean(settings, b"Received: x\r\n\r\nReceived: x\r\nReceived: y\r\n")
    with pytest.raises(TooManyHops):
        clean(settings, b"Received: x\r\n" * 2 + b"\r\n")


def test_recipients_are_expanded_once_each(tmp_path: Path) -> None:
    cleanup = settings_of(tmp_path).cleanup
    assert cleanup.recipients([("ali@alias.test", "ali@alias.test"), ("zs@dgtlinux.com", "zs")]) == (
        Recipient("zs@dgtlinux.com", "ali@alias.test"),
        Recipient("bob@other.test", "ali@alias.test"),
        Recipient("zs@dgtlinux.com", "zs"),  # given in another way: a delivery of its own
    )
    assert cleanup.expand("ALI+tag@alias.test") == ["zs+tag@dgtlinux.com", "bob+tag@other.test"]
    with pytest.raises(AliasExpansionError, match=r"nesting for loop@alias\.test"):
        cleanup.expand("loop@alias.test")
    assert cleanup.expand("nobody@x.test") == ["nobody@x.test"]


@pytest.mark.parametrize(
    "table, limit",
    [
        ("inline:{ {a@x.test=b@x.test, c@x.test, d@x.test} }", "virtual_alias_expansion_limit = 2\n"),
        (
            "inline:{ a@x.test=b@x.test, b@x.test=c@x.test, c@x.test=d@x.test }",
            "virtual_alias_recursion_limit = 2\n",
        ),
        ("inline:{ a@x.test=bad@@, b@x.test=x }", ""),
    ],
)
def test_aliases_that_explode_are_an_error(tmp_path: Path, table: str, limit: str) -> None:
    cleanup = settings_of(tmp_path, f"virtual_alias_maps = {table}\n{limit}").cleanup
    with pytest.raises(AliasExpansionError):
        cleanup.expand("a@x.test")


def test_received_as_postfix_writes_it() -> None:
    header = received_header(
        helo="client.test", client_name="unknown", client_address="::1", comments=["using TLSv1.3"],
        host="mail.dgtlinux.com", mail_name="Postfix", protocol="ESMTPSA", queue_id="ABC",
        recipient="a b@c.test", now=NOW,
    )  # fmt: skip
    lines = header.decode().split("\r\n")
    assert lines[:3] == [
        "Received: from client.test (unknown [IPv6:::1])",
        "\t(using TLSv1.3)",
        "\tby mail.dgtlinux.com (Postfix) with ESMTPSA id ABC",
    ]
    assert lines[3].startswith('\tfor <"a b"@c.test>; ')
