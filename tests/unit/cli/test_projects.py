"""Mailboxes as a user names them."""

from __future__ import annotations

import pytest

from mailstack.cli.exits import Failure
from mailstack.cli.projects import address_of
from mailstack.client.endpoints import Endpoints

ENDPOINTS = Endpoints(
    domain="mail.test",
    hostname="mail.mail.test",
    host="127.0.0.1",
    ports={},
    ca_file=None,
    tls=False,
    users={"zs@mail.test": "x", "anna@xn--bcher-kva.test": "y"},
)


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("zs", "zs@mail.test"),
        ("ZS@Mail.Test", "zs@mail.test"),
        ("anna@xn--bcher-kva.test", "anna@xn--bcher-kva.test"),
        ("anna@bücher.test", "anna@xn--bcher-kva.test"),
        ("Anna@BÜCHER.test", "anna@xn--bcher-kva.test"),
    ],
)
def test_a_mailbox_has_several_names(given: str, address: str) -> None:
    assert address_of(given, ENDPOINTS) == address


@pytest.mark.parametrize("given", ["nobody", "zs@other.test", "zs@.ü", "ännä@mail.test"])
def test_nobodys_mailbox(given: str) -> None:
    with pytest.raises(Failure, match="is not a mailbox of this stack"):
        address_of(given, ENDPOINTS)
