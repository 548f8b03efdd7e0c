"""Addresses completed and resolved as trivial-rewrite does."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailstack.mta.address_maps import DomainList, split_extension
from mailstack.mta.rewrite import AddressClass, Rewriter
from mailstack.storage.tables import open_table
from tests.unit.mta_smtpd.serving import write_config

EXTRA = """\
local_transport = lmtp:inet:127.0.0.1:24
virtual_transport = virtual
relayhost = [out.test]:587
transport_maps = inline:{ slow.test=smtp:[s.test], .sub.test=relay:, u@mapped.test=lmtp:inet:h:1, e.test=error:gone }
"""


def rewriter(directory: Path, extra: str = "") -> Rewriter:
    return Rewriter(write_config(directory, EXTRA + extra), open_table)


@pytest.mark.parametrize(
    "address, expected",
    [
        ("", ""),
        ("zs", "zs@dgtlinux.com"),
        ("zs@x.test.", "zs@x.test"),
        ("site!zs", "zs@site"),
        ("zs%x.test", "zs@x.test"),
        ("a%b@x.test", "a%b@x.test"),
        ("zs@host", "zs@host"),
    ],
)
def test_complete(tmp_path: Path, address: str, expected: str) -> None:
    assert rewriter(tmp_path).complete(address) == expected


def test_domains_outside_ascii_are_what_their_a_labels_are(tmp_path: Path) -> None:
    domains = "virtual_mailbox_domains = xn--bcher-kva.test, grün.test, xn--strae-oqa.test\n"
    rewrite = rewriter(tmp_path, domains)
    for given, expected in [
        ("zs@bücher.test", "zs@xn--bcher-kva.test"),
        ("ünal@BÜCHER.test", "ünal@xn--bcher-kva.test"),
        ("zs@bu\u0308cher.test", "zs@xn--bcher-kva.test"),
        ("zs@straße.test", "zs@xn--strae-oqa.test"),
        ("zs@grün.test", "zs@grün.test"),
    ]:
        assert rewrite.complete(given) == expected
        assert rewrite.resolve(rewrite.complete(given)).address_class is AddressClass.VIRTUAL
    assert rewrite.complete("zs@例え.テスト") == "zs@xn--r8jz45g.xn--zckzah"
    assert rewrite.complete("zs@" + "ü" * 70 + ".test") == "zs@" + "ü" * 70 + ".test"


def test_append_dot_mydomain(tmp_path: Path) -> None:
    assert rewriter(tmp_path, "append_dot_mydomain = yes\n").complete("zs@host") == "zs@host.dgtlinux.com"


@pytest.mark.parametrize(
    "address, kind, transport, nexthop",
    [
        ("zs@DGTLINUX.com", AddressClass.LOCAL, "lmtp", "inet:127.0.0.1:24"),
        ("zs@[127.0.0.1]", AddressClass.LOCAL, "lmtp", "inet:127.0.0.1:24"),
        ("bob@other.test", AddressClass.VIRTUAL, "virtual", "other.test"),
        ("r@relay.test", AddressClass.RELAY, "relay", "[out.test]:587"),
        ("r@deep.relay.test", AddressClass.RELAY, "relay", "[out.test]:587"),
        ("x@alias.test", AddressClass.ALIAS, "error", "5.1.1 User unknown in virtual alias table"),
        ("x@far.test", AddressClass.REMOTE, "smtp", "[out.test]:587"),
        ("x@slow.test", AddressClass.REMOTE, "smtp", "[s.test]"),
        ("x@a.sub.test", AddressClass.REMOTE, "relay", "a.sub.test"),
        ("u+tag@mapped.test", AddressClass.REMOTE, "lmtp", "inet:h:1"),
        ("x@e.test", AddressClass.REMOTE, "error", "gone"),
        ("old@dgtlinux.com", AddressClass.LOCAL, "error", "5.1.6 User has moved to new@example.net"),
        ("x%far.test@dgtlinux.com", AddressClass.REMOTE, "smtp", "[out.test]:587"),
        ("zs@dgtlinux.com@localhost", AddressClass.LOCAL, "lmtp", "inet:127.0.0.1:24"),
    ],
)
def test_resolve(tmp_path: Path, address: str, kind: AddressClass, transport: str, nexthop: str) -> None:
    found = rewriter(tmp_path).resolve(address)
    assert (found.address_class, found.transport, found.nexthop) == (kind, transport, nexthop)


def test_routing_characters_behind_a_domain_that_is_not_ours_to_strip(tmp_path: Path) -> None:
    assert rewriter(tmp_path).resolve("a%b.test@other.test").routed
    assert not rewriter(tmp_path).resolve("a@other.test").routed


def test_domain_lists(tmp_path: Path) -> None:
    (tmp_path / "names").write_text("# comment\nfile.test, other.test\n")
    words = ["!no.test", "plain.test", ".below.test", f"{tmp_path}/names", "inline:{ table.test=x }"]
    plain = DomainList(words, open_table)
    for name, covered in {
        "plain.test": True, "sub.plain.test": False, "x.below.test": True, "below.test": False,
        "file.test": True, "table.test": True, "no.test": False, "x.test": False,
    }.items():  # fmt: skip
        assert plain.match(name) is covered, name
    parents = DomainList(words, open_table, parents=True)
    assert parents.match("sub.plain.test") and not parents.match("sub.no.test")


@pytest.mark.parametrize(
    "local, delimiters, parts",
    [
        ("zs+tag", "+", ("zs", "+tag")),
        ("zs", "+", ("zs", "")),
        ("+tag", "+", ("+tag", "")),
        ("zs-a+b", "+-", ("zs", "-a+b")),
        ("owner-list", "-", ("owner-list", "")),
        ("mailer-daemon", "-", ("mailer-daemon", "")),
        ("zs+tag", "", ("zs+tag", "")),
    ],
)
def test_extensions(local: str, delimiters: str, parts: tuple[str, str]) -> None:
    assert split_extension(local, delimiters) == parts
