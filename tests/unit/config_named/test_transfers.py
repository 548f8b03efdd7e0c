"""What named.conf says of transfers: primaries, servers, NOTIFY."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailstack.config.errors import ConfigError
from mailstack.config.named import NamedConf, load
from mailstack.config.named.peers import Remote, Traffic, peer_of

KEYS = """
key k { algorithm hmac-sha256; secret "c2VjcmV0"; };
key "other." { algorithm hmac-sha256; secret "c2VjcmV0"; };
"""


def read(folder: Path, text: str) -> NamedConf:
    path = folder / "named.conf"
    path.write_text(KEYS + text)
    return load(path)


def test_primaries(tmp_path: Path) -> None:
    conf = read(
        tmp_path,
        """
        options { port 5300; max-refresh-time 600; notify explicit; also-notify { 192.0.2.9 key k; }; };
        masters inner port 5301 { 2001:db8::1; 192.0.2.2 port 5302; };
        primaries outer { inner; 192.0.2.2 key OTHER; 192.0.2.2 port 5302; };
        zone one.test { type slave; masters { outer; }; };
        zone two.test {
          type secondary; file "two"; primaries port 53 { 192.0.2.1; };
          max-refresh-time 700; min-retry-time 5; max-transfer-time-in 3; notify-source 127.0.0.2 port *;
          transfer-source-v6 ::1 port 99; notify primary-only; max-ixfr-ratio unlimited;
          max-journal-size 2k; request-ixfr no; allow-notify { key k; };
        };
        zone three.test { type primary; file "three"; also-notify { }; };
        """,
    )
    one, two, three = (zone.transfers for zone in conf.zones)
    assert one.primaries == (
        Remote("2001:db8::1", 5301),
        Remote("192.0.2.2", 5302),
        Remote("192.0.2.2", 5300, "other"),
    )
    assert (conf.zones[0].file, one.max_refresh, one.notify) == ("", 600, "explicit")
    assert one.also_notify == (Remote("192.0.2.9", 5300, "k"),)
    assert two.primaries == (Remote("192.0.2.1", 53),)
    assert (two.max_refresh, two.min_retry, two.max_time_in, two.notify) == (700, 5, 180, "primary-only")
    assert (two.notify_source, two.transfer_source_v6) == (("127.0.0.2", 0), ("::1", 99))
    assert (two.max_ixfr_ratio, two.max_journal_size, two.request_ixfr) == (None, 2048, False)
    assert not two.allow_notify.is_none
    assert (three.also_notify, three.max_ixfr_ratio, three.max_refresh) == ((), 100, 2_419_200)


def test_servers(tmp_path: Path) -> None:
    conf = read(
        tmp_path,
        """
        options { notify-rate 7; transfers-in 3; ixfr-from-differences secondary; };
        server 192.0.2.0/24 { keys k; provide-ixfr no; edns no; };
        server 192.0.2.1 { keys { "other"; }; transfer-format one-answer; notify-source 127.0.0.3; };
        server 2001:db8::1 { request-ixfr no; transfers 1; };
        zone one.test { type slave; masters { 192.0.2.1; }; };
        zone two.test { type master; file "two"; };
        """,
    )
    near, far = peer_of(conf.peers, "192.0.2.1"), peer_of(conf.peers, "192.0.2.2")
    assert near is not None and far is not None
    assert (near.key, near.transfer_format, near.notify_source) == ("other", "one-answer", ("127.0.0.3", 0))
    assert (far.key, far.provide_ixfr, far.request_ixfr) == ("k", False, None)
    assert peer_of(conf.peers, "192.0.3.1") is None
    assert conf.traffic == Traffic(notify_rate=7, transfers_in=3)
    assert [zone.transfers.ixfr_from_differences for zone in conf.zones] == [True, False]
    assert (near.edns, far.edns) == (True, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('zone "a" { type slave; };', "needs one list of 'primaries'"),
        ('zone "a" { type slave; masters { }; };', "list of primaries is empty"),
        ('zone "a" { type slave; masters { 1.2.3.4; }; primaries { 1.2.3.4; }; };', "are the same"),
        ('zone "a" { type slave; masters { nobody; }; };', "neither an address nor a list"),
        ('zone "a" { type slave; masters { 1.2.3.4 key nokey; }; };', "undefined key 'nokey'"),
        ('zone "a" { type slave; masters { 1.2.3.4 tls x; }; };', "DNS over TLS is not supported"),
        ('zone "a" { type slave; masters { 1.2.3.4; }; allow-update { any; }; };', "'allow-update' is not"),
        ('zone "a" { type slave; masters { 1.2.3.4; }; dnssec-policy default; };', "'dnssec-policy' is not"),
        ('zone "a" { type master; file "a"; masters { 1.2.3.4; }; };', "'masters' is for secondary zones"),
        ('zone "a" { type master; file "a"; allow-notify { any; }; };', "is for secondary zones"),
        (
            'zone a { type slave; file "x"; masters { 1.2.3.4; }; }; zone b { type master; file "x"; };',
            "already in use",
        ),
        ("primaries a { b; }; primaries b { a; };", "contains itself"),
        ("primaries a { 1.2.3.4; }; masters a { 1.2.3.4; };", "already defined"),
        ("primaries a { 1.2.3; };", "neither an address"),
        ("server 1.2.3.4 { keys nokey; };", "undefined key 'nokey'"),
        ("server 1.2.3.4 { query-source-v6 ::1; };", "the other address family"),
        ("server 1.2.3.4 { query-source address * port 5353; };", "answers to one port can be forged"),
        ("server 1.2.3.4 { nonsense; };", "unknown option 'nonsense'"),
        ("server 1.2.3.4 { notify-source-v6 ::1; };", "the other address family"),
        ("server 1.2.3.4 { }; server 1.2.3.4 { };", "already defined"),
        ("server here { };", "an address or a network"),
        ('options { notify maybe; };\nzone a { type master; file "x"; };', "takes one of"),
        ('options { notify-source ::1; };\nzone a { type master; file "x"; };', "takes an IPv4 address"),
        ('zone "a" { type master; file "x"; max-ixfr-ratio 10; };', "takes a percentage"),
        ('zone "a" { type master; file "x"; max-journal-size many; };', "takes octets"),
    ],
)
def test_errors(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert message in caught.value.message
    assert caught.value.line >= 4
