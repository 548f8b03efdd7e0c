"""Addresses that are refused unless main.cf lets them in, as Postfix 3.7 answers."""

from __future__ import annotations

import pytest

from mailstack.wire.smtp.address import AddressError, Allowed, read_path


@pytest.mark.parametrize(
    ("path", "allowed", "address"),
    [
        ("<-a@x.test>", Allowed(dash=True), "-a@x.test"),
        ("<a@-b.test>", Allowed(dash=True), None),
        ("<user@192.0.2.1>", Allowed(numeric=True), "user@[192.0.2.1]"),
        ("<user@256.1.1.1>", Allowed(numeric=True), None),
        ("<user@1.2>", Allowed(numeric=True), None),
        ('<"a b"@192.0.2.1>', Allowed(numeric=True), "a b@[192.0.2.1]"),
        ("<user@>", Allowed(null=True), "user@"),
        ("<@>", Allowed(null=True), None),
        ("<user@>", Allowed(dash=True, numeric=True), None),
        ("<user@192.0.2.1>", Allowed(dash=True, null=True), None),
        ("<-a@192.0.2.1>", Allowed(numeric=True), None),
        ("<a@x.test>", Allowed(True, True, True), "a@x.test"),
        ("<>", Allowed(True, True, True), ""),
    ],
)
def test_odd_addresses(path: str, allowed: Allowed, address: str | None) -> None:
    if address is None:
        with pytest.raises(AddressError):
            read_path(path, allowed)
    else:
        assert read_path(path, allowed) == address
    if address and address != "a@x.test":
        with pytest.raises(AddressError):
            read_path(path)
