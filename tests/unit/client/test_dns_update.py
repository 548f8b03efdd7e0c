"""What may be asked of a running zone, and what is told instead."""

from __future__ import annotations

import pytest

from mailstack.client.dns_update import change

ZONES = ["2.0.192.in-addr.arpa", "shop.test", "lab.shop.test"]


@pytest.mark.parametrize(
    ("words", "zone", "name", "kind", "records"),
    [
        (["www.shop.test", "A", "192.0.2.1"], "shop.test.", "www.shop.test.", "A", ["192.0.2.1"]),
        (["WWW.Shop.test.", "a", "192.0.2.1", "192.0.2.1"], "shop.test.", "WWW.Shop.test.", "A", ["192.0.2.1"]),
        (["a.lab.shop.test", "A", "192.0.2.1"], "lab.shop.test.", "a.lab.shop.test.", "A", ["192.0.2.1"]),
        (["MX", "shop.test", "10 mail.shop.test"], "shop.test.", "shop.test.", "MX", ["10 mail.shop.test."]),
        (["shop.test", "MX", "10", "mail.shop.test"], "shop.test.", "shop.test.", "MX", ["10 mail.shop.test."]),
        (["192.0.2.7", "PTR", "x.shop.test"], ZONES[0] + ".", "7." + ZONES[0] + ".", "PTR", ["x.shop.test."]),
        (["shop.test", "TXT", 'v=spf1 "a" -all'], "shop.test.", "shop.test.", "TXT", ['"v=spf1 \\"a\\" -all"']),
        (["shop.test", "TXT", '"in" "two"'], "shop.test.", "shop.test.", "TXT", ['"in" "two"']),
        (["shop.test", "TXT", "x" * 256], "shop.test.", "shop.test.", "TXT", [f'"{"x" * 255}" "x"']),
        (["x.shop.test", "TYPE65280", "\\# 1 00"], "shop.test.", "x.shop.test.", "TYPE65280", ["\\# 1 00"]),
        (["lab.shop.test", "DS", "1 13 2 " + "00" * 32], "shop.test.", "lab.shop.test.", "DS", ["1 13 2 " + "00" * 32]),
        (["x.shop.test", None], "shop.test.", "x.shop.test.", None, []),
    ],
)  # fmt: skip
def test_changes(words: list[str], zone: str, name: str, kind: str | None, records: list[str]) -> None:
    found = change(words[0], words[1], words[2:], ZONES)
    assert (found.zone, found.name, found.type, list(found.records)) == (zone, name, kind, records)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["www.other.test", "A", "192.0.2.1"], "does not lie in a zone of the stack; they are 2.0.192"),
        (["www.shop.test", "FOO", "x"], "'FOO' is not a record type"),
        (["www..shop.test", "A", "192.0.2.1"], "'www..shop.test' is not a domain name"),
        (["www.shop.test", "A", "192.0.2.256"], "'192.0.2.256' is not the data of a record of type A"),
        (["www.shop.test", "A", "192.0.2.1", "x"], "'x' is not the data"),
        (["shop.test", "DS", "1 13 2 " + "00" * 32], "the zone above 'shop.test' is not the stack's"),
        (["shop.test", "SOA", "x"], "SOA records are the name server's own"),
        (["shop.test", "DNSKEY", "x"], "DNSKEY records are the name server's own"),
        (["shop.test", "ANY", "x"], "ANY records are"),
        (["shop.test", "NS", "x.shop.test"], "the NS record of a zone itself cannot be changed"),
        (["shop.test", "CNAME", "x.test"], "the CNAME record of a zone itself"),
        (["x.shop.test", "CNAME", "x.test", "y.test"], "an alias of one name only"),
        (["x.shop.test", "MX", "70000 y.test"], "is not the data of a record of type MX"),
    ],
)
def test_what_cannot_be_changed(words: list[str], told: str) -> None:
    with pytest.raises(ValueError) as found:
        change(words[0], words[1], words[2:], ZONES)
    assert told in str(found.value)
