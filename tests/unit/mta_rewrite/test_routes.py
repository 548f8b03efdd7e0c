"""Where addresses go that depend on their sender, on transport_maps and on who has moved."""

from __future__ import annotations

from ipaddress import ip_interface
from pathlib import Path

import pytest

from mailstack.config.postfix import interfaces
from mailstack.mta.rewrite import Rewriter
from mailstack.storage.tables import open_table
from tests.unit.mta_smtpd.serving import write_config

MAPS = """\
relayhost = [hub.test]
default_transport = smtp
relay_transport = relay
transport_maps = inline:{ {exact@t.test = smtp:[a]:1} {t.test = slow:} {.t.test = :[b]} {e.test = error:} {n.test = :} }
sender_dependent_relayhost_maps = inline:{ boss@b.test=[boss]:2 @d.test=DUNNO <>=[null] }
sender_dependent_default_transport_maps = inline:{ uucp@b.test=uucp:h fast@b.test=fast: }
"""


@pytest.mark.parametrize(
    "address, sender, expected",
    [
        ("u@far.test", None, ("smtp", "[hub.test]")),
        ("u@far.test", "x@y.test", ("smtp", "[hub.test]")),
        ("u@far.test", "boss+x@b.test", ("smtp", "[boss]:2")),
        ("u@far.test", "z@d.test", ("smtp", "[hub.test]")),
        ("u@far.test", "", ("smtp", "[null]")),
        ("r@relay.test", "boss@b.test", ("relay", "[boss]:2")),
        ("u@far.test", "uucp@b.test", ("uucp", "h")),
        ("u@far.test", "fast@b.test", ("fast", "[hub.test]")),
        ("r@relay.test", "uucp@b.test", ("relay", "[hub.test]")),
        ("bob@other.test", "uucp@b.test", ("virtual", "other.test")),
        ("exact+x@t.test", None, ("smtp", "[a]:1")),
        ("u@t.test", "boss@b.test", ("slow", "t.test")),
        ("u@x.y.t.test", None, ("smtp", "[b]")),
        ("u@e.test", None, ("error", "Address is undeliverable")),
        ("u@n.test", None, ("smtp", "[hub.test]")),
        ("old@dgtlinux.com", None, ("error", "5.1.6 User has moved to new@example.net")),
        ("x@alias.test", "boss@b.test", ("error", "5.1.1 User unknown in virtual alias table")),
    ],
)
def test_routes(tmp_path: Path, address: str, sender: str | None, expected: tuple[str, str]) -> None:
    found = Rewriter(write_config(tmp_path, MAPS), open_table).resolve(address, sender)
    assert (found.transport, found.nexthop) == expected


def test_patterns_see_whole_addresses_only(tmp_path: Path) -> None:
    (tmp_path / "transport").write_text("/./ smtp:[pattern]\n")
    conf = write_config(tmp_path, f"transport_maps = regexp:{tmp_path}/transport\nrelocated_maps =\n")
    rewriter = Rewriter(conf, open_table)
    assert rewriter.resolve("u@far.test").nexthop == "[pattern]"
    (tmp_path / "transport").write_text("/^far.test$/ smtp:[pattern]\n/^[*]/ smtp:[star]\n")
    assert Rewriter(conf, open_table).resolve("u@far.test").nexthop == "far.test"


@pytest.mark.parametrize(
    "given, expected",
    [
        ("user", "user@far.invalid"),
        ("user@host", "user@host.far.invalid"),
        ("@r.test,@s.test:u@v.test", "u@v.test"),
        ("u@v.test.", "u@v.test"),
        ("u@v.test..", "u@v.test.."),
        ("@", ""),
    ],
)
def test_headers_of_others_are_completed_with_a_domain_of_their_own(
    tmp_path: Path, given: str, expected: str
) -> None:
    rewriter = Rewriter(write_config(tmp_path, "append_dot_mydomain = yes\n"), open_table)
    assert rewriter.complete_in(given, "far.invalid") == expected


def test_an_address_without_a_domain_is_ours(tmp_path: Path) -> None:
    rewriter = Rewriter(write_config(tmp_path, "append_at_myorigin = no\n"), open_table)
    assert rewriter.complete("zs") == "zs"
    assert rewriter.resolve("zs").recipient == "zs@mail.dgtlinux.com"


@pytest.mark.parametrize("protocols, own", [("all", True), ("ipv4", False)])
def test_mail_may_name_this_host_by_any_of_its_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocols: str, own: bool
) -> None:
    known = tuple(ip_interface(one) for one in ("127.0.0.1/8", "198.51.100.7/24", "2001:db8::5/64"))
    monkeypatch.setattr(interfaces, "interfaces", lambda: known)
    rewriter = Rewriter(write_config(tmp_path, f"inet_protocols = {protocols}\n"), open_table)
    assert rewriter.resolve("postmaster@[198.51.100.7]").transport == "local"
    assert (rewriter.resolve("postmaster@[IPv6:2001:db8::5]").transport == "local") is own
    assert rewriter.resolve("postmaster@[198.51.100.8]").transport == "smtp"
