"""Canonical addresses, masquerading and copies."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailstack.config.errors import ConfigError
from mailstack.mta.cleanup import Cleanup, Generic, MapError
from mailstack.mta.rewrite import Rewriter
from mailstack.storage.queue import Recipient
from mailstack.storage.tables import open_table
from tests.unit.mta_smtpd.serving import write_config


def cleanup_of(directory: Path, extra: str) -> Cleanup:
    conf = write_config(directory, f"virtual_alias_maps =\n{extra}")
    return Cleanup(conf, Rewriter(conf, open_table), open_table)


def cleaned(cleanup: Cleanup, head: bytes) -> bytes:
    parts = cleanup.headers(head, received=b"", queue_id="A", sender="", local=True, now=0.0).parts
    return b"".join(parts)


CANONICAL = "canonical_maps = inline:{ one@c.test=new@c.test, @old.test=@c.test, zs=Z.S, a@l.test=b@l.test, b@l.test=a@l.test }\n"


@pytest.mark.parametrize(
    "given, expected",
    [
        ("one@c.test", "new@c.test"),
        ("one+tag@c.test", "new+tag@c.test"),
        ("who+x@old.test", "who+x@c.test"),
        ("one@old.test", "new@c.test"),
        ("zs@dgtlinux.com", "Z.S@dgtlinux.com"),
        ("zs@else.test", "zs@else.test"),
        ("", ""),
    ],
)
def test_canonical_addresses(tmp_path: Path, given: str, expected: str) -> None:
    assert cleanup_of(tmp_path, CANONICAL).sender(given) == expected


def test_a_circle_is_an_error_in_the_envelope_and_a_warning_in_a_header(tmp_path: Path) -> None:
    cleanup = cleanup_of(tmp_path, CANONICAL)
    text = "unreasonable canonical_maps map nesting for a@l.test -- message not accepted, try again later"
    with pytest.raises(MapError, match=text):
        cleanup.sender("a@l.test")
    result = cleanup.headers(
        b"From: a@l.test\r\n\r\n", received=b"", queue_id="A", sender="", local=True, now=0.0
    )
    assert result.warnings == (text,)
    assert result.parts[0] == b"From: a@l.test\r\n"


def test_classes(tmp_path: Path) -> None:
    cleanup = cleanup_of(tmp_path, CANONICAL + "canonical_classes = header_recipient\n")
    assert cleanup.sender("one@c.test") == "one@c.test"
    out = cleaned(cleanup, b"From: one@c.test\r\nTo: one@c.test\r\n\r\n")
    assert out.startswith(b"From: one@c.test\r\nTo: new@c.test\r\n")
    with pytest.raises(ConfigError, match="canonical_classes"):
        cleanup_of(tmp_path, CANONICAL + "canonical_classes = nonsense\n")
    maps = "sender_canonical_maps = static:x\nsender_canonical_classes = envelope_recipient\n"
    with pytest.raises(ConfigError, match="sender_canonical_classes"):
        cleanup_of(tmp_path, maps)


@pytest.mark.parametrize(
    "given, expected",
    [
        ("u@a.b.c.test", "u@c.test"),
        ("u@c.test", "u@c.test"),
        ("u@xc.test", "u@xc.test"),
        ("u@x.keep.c.test", "u@x.keep.c.test"),
        ("root@a.c.test", "root@a.c.test"),
    ],
)
def test_masquerading(tmp_path: Path, given: str, expected: str) -> None:
    extra = "masquerade_domains = !keep.c.test c.test\nmasquerade_exceptions = root\n"
    assert cleanup_of(tmp_path, extra).sender(given) == expected


def test_copies_are_made_of_mail_from_outside_only(tmp_path: Path) -> None:
    extra = (
        "always_bcc = all\nsender_bcc_maps = inline:{ boss@b.test=s@c.test }\n"
        "recipient_bcc_maps = inline:{ @d.test=r@c.test }\n"
    )
    cleanup = cleanup_of(tmp_path, extra)
    named = [("x@d.test", "x@d.test"), ("y@d.test", "y@d.test")]
    plain = (Recipient("x@d.test"), Recipient("y@d.test"))
    assert cleanup.recipients(named) == plain
    copies = ("all@dgtlinux.com", "s@c.test", "r@c.test")
    expected = (*plain, *(Recipient(copy, "", "NEVER") for copy in copies))
    assert cleanup.recipients(named, copies_for="boss@b.test") == expected
    off = cleanup_of(tmp_path, extra + "receive_override_options = no_address_mappings\n")
    assert off.recipients(named, copies_for="boss@b.test") == plain


def test_aliases_of_a_whole_domain_keep_the_user(tmp_path: Path) -> None:
    cleanup = cleanup_of(tmp_path, "virtual_alias_maps = inline:{ {@old.test = @new.test, log@new.test} }\n")
    assert cleanup.expand("who+x@old.test") == ["who+x@new.test", "log@new.test"]


def test_original_recipients_tell_deliveries_apart(tmp_path: Path) -> None:
    maps = "virtual_alias_maps = inline:{ a@x.test=z@x.test, b@x.test=z@x.test }\n"
    named = [("a@x.test", "a@x.test"), ("b@x.test", "b@x.test")]
    assert len(cleanup_of(tmp_path, maps).recipients(named)) == 2
    assert len(cleanup_of(tmp_path, maps + "enable_original_recipient = no\n").recipients(named)) == 1


def test_generic_maps(tmp_path: Path) -> None:
    conf = write_config(
        tmp_path, "smtp_generic_maps = inline:{ zs@dgtlinux.com=zs@isp.test, @in.test=me@isp.test }\n"
    )
    generic = Generic.load(conf, Rewriter(conf, open_table), open_table)
    assert generic is not None
    assert [generic.address(one) for one in ("zs@dgtlinux.com", "x@in.test", "x@out.test", "")] == [
        "zs@isp.test",
        "me@isp.test",
        "x@out.test",
        "",
    ]
