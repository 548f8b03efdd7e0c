"""Signing: keys in BIND's files, generations of signatures, serials that never fall back."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import dns.dnssec
import dns.exception
import dns.message
import dns.name
import dns.rdatatype
import dns.rrset
import pytest

from mailstack.config.errors import ConfigError
from mailstack.config.named import load
from mailstack.config.named.model import DnssecPolicy, PolicyKey
from mailstack.dns.authority import Authority
from mailstack.dns.chains import bitmap
from mailstack.dns.keys import keys_for
from mailstack.dns.signing import Serials, sign
from mailstack.dns.zone import Rdata, Zone
from mailstack.dns.zonefile import load_zone
from tests.unit.dns.world import ZONES

NOW = 1_800_000_000.0
DAY = 86_400


def zone(folder: Path, policy: DnssecPolicy, now: float = NOW) -> Zone:
    """rich.test, signed."""
    (folder / "named.conf").write_text(
        f'options {{ directory "{folder}"; }};\nzone "rich.test" {{ type primary; file "rich.zone"; }};\n'
    )
    (folder / "rich.zone").write_bytes((ZONES / "rich.zone").read_bytes())
    found, _ = load_zone("rich.test", str(folder / "rich.zone"))
    conf = load(folder / "named.conf").zones[0]
    sign(found, replace(conf, dnssec=policy, key_directory=str(folder)), now)
    return found


def rrsets(found: Zone, name: str, rdtype: str) -> tuple[dns.rrset.RRset, dns.rrset.RRset]:
    """A set and its signatures as dnspython has them."""
    wire = dns.name.from_text(name).to_wire() or b""
    answer = Authority([found]).answer(
        wire, dns.rdatatype.from_text(rdtype), recursive=False, tcp=True, do=True
    )
    assert answer is not None
    made = []
    for owner, rrset in answer.answer:
        shown = dns.name.from_wire(owner, 0)[0]
        texts = [
            dns.rdata.from_wire("IN", dns.rdatatype.RdataType(rrset.rdtype), data, 0, len(data))
            for data in map(_flat, rrset.rdatas)
        ]
        made.append(dns.rrset.from_rdata_list(shown, rrset.ttl, texts))
    return made[0], made[1]


def _flat(rdata: Rdata) -> bytes:
    return rdata if isinstance(rdata, bytes) else rdata[0] + b"".join(rdata[1]) + rdata[2]


@pytest.mark.parametrize("algorithm", [13, 14, 15])
@pytest.mark.parametrize("split", [False, True], ids=["csk", "ksk and zsk"])
def test_signatures_hold_for_as_long_as_the_policy_says(
    tmp_path: Path, algorithm: int, *, split: bool
) -> None:
    roles = ((True, False), (False, True)) if split else ((True, True),)
    policy = DnssecPolicy(name="x", keys=tuple(PolicyKey(*role, algorithm) for role in roles))
    found = zone(tmp_path, policy)
    keys, by_keys = rrsets(found, "rich.test", "DNSKEY")
    assert len(keys) == len(roles)
    origin = dns.name.from_text("rich.test")
    for name, rdtype in (
        ("mail.rich.test", "A"),
        ("Mixed.Case.rich.test", "A"),
        ("rich.test", "MX"),
        ("rich.test", "SOA"),
        ("_imaps._tcp.rich.test", "SRV"),
        ("x.wild.rich.test", "MX"),
        ("alias.rich.test", "CNAME"),
        ("sub.rich.test", "DS"),
    ):
        records, signatures = rrsets(found, name, rdtype)
        for now in (NOW, NOW + 14 * DAY - 1):
            dns.dnssec.validate(records, signatures, {origin: keys}, now=now)
        with pytest.raises(dns.exception.ValidationFailure):
            dns.dnssec.validate(records, signatures, {origin: keys}, now=NOW + 14 * DAY + 1)
    dns.dnssec.validate(keys, by_keys, {origin: keys}, now=NOW)


def test_a_new_generation(tmp_path: Path) -> None:
    policy = DnssecPolicy(name="x")
    found = zone(tmp_path, policy)
    _, before = rrsets(found, "mail.rich.test", "A")
    serial = found.serial
    assert found.signer is not None
    assert found.signer.renewal == NOW + 9 * DAY
    conf = load(tmp_path / "named.conf").zones[0]
    sign(found, replace(conf, dnssec=policy, key_directory=str(tmp_path)), NOW + 9 * DAY)
    _, after = rrsets(found, "mail.rich.test", "A")
    assert after[0].expiration == before[0].expiration + 9 * DAY
    assert after[0].key_tag == before[0].key_tag
    assert found.serial == serial + 1


def test_keys_are_kept(tmp_path: Path) -> None:
    policy = DnssecPolicy(name="x")
    (first,) = keys_for("rich.test", policy, tmp_path, NOW)
    assert keys_for("rich.test", policy, tmp_path, NOW) == [first]
    names = sorted(os.listdir(tmp_path))
    stem = f"Krich.test.+013+{first.tag:05}"
    assert names == [f"{stem}.key", f"{stem}.private", f"{stem}.state"]
    assert stat.S_IMODE((tmp_path / f"{stem}.private").stat().st_mode) == 0o600
    (other,) = keys_for("rich.test", replace(policy, keys=(PolicyKey(True, True, 15),)), tmp_path, NOW)
    assert other.algorithm == 15
    assert keys_for("other.test", policy, tmp_path, NOW)[0].public != first.public


@pytest.mark.parametrize(
    ("suffix", "text", "wanted"),
    [
        (".private", "rubbish", "no key file"),
        (".private", "Algorithm: 13\nPrivateKey: AAA=\n", "no key file"),
        (".private", f"Algorithm: 13\nPrivateKey: {'A' * 42}E=\n", "another one"),
        (".key", "; nothing\n", "no key file"),
        (".key", "rich.test. IN DNSKEY 257 3 13 ????\n", "no key file"),
    ],
)
def test_a_key_file_that_cannot_be_read_is_named(tmp_path: Path, suffix: str, text: str, wanted: str) -> None:
    policy = DnssecPolicy(name="x")
    (key,) = keys_for("rich.test", policy, tmp_path, NOW)
    stem = tmp_path / f"Krich.test.+013+{key.tag:05}"
    stem.with_name(stem.name + suffix).write_text(text)
    with pytest.raises(ConfigError, match=wanted) as error:
        keys_for("rich.test", policy, tmp_path, NOW)
    assert stem.name in str(error.value)


def test_a_folder_for_keys_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="key-directory: No such file"):
        keys_for("rich.test", DnssecPolicy(name="x"), tmp_path / "none", NOW)


@pytest.mark.parametrize(
    ("last", "own", "wanted"),
    [
        (None, 7, 7),
        ("7\n", 7, 8),
        ("9\n", 7, 10),
        ("7\n", 2026112201, 2026112201),
        ("4294967295\n", 7, 7),
        ("x", 7, 7),
    ],
)
def test_serials(tmp_path: Path, last: str | None, own: int, wanted: int) -> None:
    path = tmp_path / "zone.serial"
    if last is not None:
        path.write_text(last)
    assert Serials(path).next(own) == wanted
    assert Serials(path).next(own) == wanted + 1


def test_bitmap() -> None:
    """RFC 4034 §4.3: A MX RRSIG NSEC TYPE1234."""
    assert bitmap({1, 15, 46, 47, 1234}) == bytes.fromhex("0006400100000003041b" + "00" * 26 + "20")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            'zone "a" { type primary; file "f"; dnssec-policy "none-such"; };',
            "dnssec-policy 'none-such' is not there",
        ),
        ('dnssec-policy "default" { };', "already there"),
        (
            'dnssec-policy "p" { keys { zsk lifetime unlimited algorithm 13; }; };',
            "need a csk, or a ksk and a zsk",
        ),
        ('dnssec-policy "p" { keys { csk lifetime P90D algorithm 13; }; };', "only lifetime unlimited"),
        (
            'dnssec-policy "p" { keys { csk lifetime unlimited algorithm rsasha256; }; };',
            "rsasha256 is not supported",
        ),
        ('dnssec-policy "p" { keys { csk algorithm 13; }; };', "a key is csk|ksk|zsk"),
        ('dnssec-policy "p" { signatures-refresh 14d; };', "at most 90%"),
        ('dnssec-policy "p" { cookies 3; };', "unknown option 'cookies'"),
        ('dnssec-policy "p" { nsec3param iterations 151; };', "'151' is not a number from 0 to 150"),
        ('dnssec-policy "p";', "takes a name and a { block }"),
    ],
)
def test_policies_that_cannot_be(tmp_path: Path, text: str, wanted: str) -> None:
    (tmp_path / "named.conf").write_text(text)
    with pytest.raises(ConfigError) as error:
        load(tmp_path / "named.conf")
    assert wanted in str(error.value)
    assert str(error.value).startswith(f"{tmp_path}/named.conf:1:")


def test_a_policy_for_all_and_one_for_none(tmp_path: Path) -> None:
    (tmp_path / "named.conf").write_text(
        f"""options {{ directory "{tmp_path}"; dnssec-policy own; key-directory "keys"; }};
dnssec-policy "own" {{
  keys {{ ksk key-directory lifetime unlimited algorithm ed25519; zsk lifetime P0D algorithm 15 256; }};
  dnskey-ttl 2h; signatures-validity P20D; signatures-refresh 3d; max-zone-ttl 1d;
  nsec3param iterations 1 optout yes salt-length 4;
}};
zone "a" {{ type primary; file "a"; }};
zone "b" {{ type primary; file "b"; dnssec-policy none; key-directory "/elsewhere"; }};
"""
    )
    a, b = load(tmp_path / "named.conf").zones
    assert a.dnssec == DnssecPolicy(
        name="own",
        keys=(PolicyKey(True, False, 15), PolicyKey(False, True, 15)),
        dnskey_ttl=7200,
        signatures_validity=20 * DAY,
        signatures_refresh=3 * DAY,
        nsec3=(1, True, 4),
    )
    assert (a.key_directory, b.dnssec, b.key_directory) == (f"{tmp_path}/keys", None, "/elsewhere")
