"""named.conf: what is read, what is refused, and where the error points."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.config.errors import ConfigError
from mailstack.config.named import Locality, NamedConf, load
from mailstack.config.named.grammar import (
    OPTIONS_IGNORED,
    OPTIONS_REFUSED,
    OPTIONS_WORK,
    TOP_IGNORED,
    TOP_REFUSED,
    ZONE_IGNORED,
    ZONE_REFUSED,
    ZONE_WORKS,
)

SEED = """
//
// named.conf
//
options {
    listen-on port 53 { any; };
    listen-on-v6 port 53 { ::1; };
    directory   "/var/named";
    dump-file   "/var/named/data/cache_dump.db";
    statistics-file "/var/named/data/named_stats.txt";
    allow-query     { any; };
    /*
     - If you are building an AUTHORITATIVE DNS server, do NOT enable recursion.
    */
    recursion yes;
    dnssec-validation yes;
    managed-keys-directory "/var/named/dynamic";
    pid-file "/run/named/named.pid";
    session-keyfile "/run/named/session.key";
};
logging {
    channel default_debug { file "data/named.run"; severity dynamic; };
};
zone "." IN { type hint; file "named.ca"; };
include "named.rfc1912.zones";   # beside it
"""
SEED_ZONES = """
zone "dgtlinux.com" IN {
  type master;
  file "named.localhost";
  allow-update { none; };
};
"""


def read(tmp_path: Path, text: str, **files: str) -> NamedConf:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    path = tmp_path / "named.conf"
    path.write_text(text)
    return load(path)


def test_the_seeds_configuration(tmp_path: Path) -> None:
    text = SEED.replace('"named.rfc1912.zones"', f'"{tmp_path}/zones"')
    conf = read(tmp_path, text, zones=SEED_ZONES)
    assert [(item.port, item.ipv6) for item in conf.options.listen_on] == [(53, False), (53, True)]
    assert conf.options.recursion
    assert conf.options.allow_query.is_any
    (hint, zone) = conf.zones
    assert (hint.kind, hint.name) == ("hint", "")
    assert (zone.name, zone.kind, zone.file) == ("dgtlinux.com", "primary", "/var/named/named.localhost")
    assert (zone.path, zone.line) == (tmp_path / "zones", 2)
    ignored = [warning.split("'")[1] for warning in conf.warnings]
    assert sorted(ignored) == [
        ".",
        "dnssec-validation",
        "dump-file",
        "managed-keys-directory",
    ]
    assert [channel.path for channel in conf.logging.channels("general")] == ["", "/var/named/data/named.run"]


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("forwarders { 192.0.2.1; 2001:db8::1 port 5353; };", lambda o: o.forwarders,
         (("192.0.2.1", 53), ("2001:db8::1", 5353))),
        ("forwarders port 5353 { 192.0.2.1; };", lambda o: o.forwarders, (("192.0.2.1", 5353),)),
        ("forward only;", lambda o: o.forward_only, True),
        ("recursion no;", lambda o: o.recursion, False),
        ("RECURSION No;", lambda o: o.recursion, False),
        ("max-udp-size 9000;", lambda o: o.max_udp_size, 4096),
        ("max-cache-ttl 1h30m;", lambda o: o.resolving.max_cache_ttl, 5400),
        ("max-ncache-ttl PT1M;", lambda o: o.resolving.max_ncache_ttl, 60),
        ("minimal-responses yes;", lambda o: o.minimal_responses, "yes"),
        ("minimal-responses no-auth;", lambda o: o.minimal_responses, "no-auth"),
        ('version "none of your business";', lambda o: o.version, "none of your business"),
        ("version none;", lambda o: o.version, None),
        ("server-id hostname;", lambda o: o.server_id, ""),
        ("tcp-idle-timeout 50;", lambda o: o.tcp_idle_timeout, 5.0),
        ("empty-zones-enable no;", lambda o: o.empty_zones, False),
        ("port 5300;", lambda o: [item.port for item in o.listen_on], [5300, 5300]),
        ("querylog yes;", lambda o: o.querylog, True),
        ('directory "zo\\"nes";', lambda o: o.directory.rpartition("/")[2], 'zo"nes'),
    ],
)  # fmt: skip
def test_options(tmp_path: Path, text: str, value: Callable[[object], object], expected: object) -> None:
    conf = read(tmp_path, f"options {{ {text} }};")
    assert value(conf.options) == expected
    assert conf.warnings == ()


HERE = Locality(
    frozenset((ipaddress.ip_address("192.0.2.10"), ipaddress.ip_address("127.0.0.1"))),
    (ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("127.0.0.0/8")),
)


@pytest.mark.parametrize(
    ("acl", "inside", "outside"),
    [
        ("any;", ["8.8.8.8", "2001:db8::1"], []),
        ("none;", [], ["127.0.0.1"]),
        ("localhost;", ["127.0.0.1", "192.0.2.10"], ["192.0.2.11"]),
        ("localnets;", ["192.0.2.11", "127.3.4.5"], ["192.0.3.1"]),
        ("10/8; 192.168.0.0/16;", ["10.1.2.3", "192.168.1.1"], ["11.0.0.1"]),
        ("!10.1.1.1; 10/8;", ["10.1.1.2"], ["10.1.1.1"]),
        ("10/8; !10.1.1.1;", ["10.1.1.1"], ["11.0.0.1"]),
        ("!{ 10.1.1.1; 10.1.1.2; }; any;", ["10.1.1.3"], ["10.1.1.1", "10.1.1.2"]),
        ("!{ !10.1.1.1; any; }; any;", ["10.1.1.1"], ["10.1.1.2"]),
        ("friends; 172.16/12;", ["198.51.100.7", "172.20.0.1"], ["198.51.100.8"]),
        ("2001:db8::/32;", ["2001:db8::5"], ["2001:db9::5"]),
        ("10.0.0.0/8;", ["::ffff:10.0.0.1"], []),
    ],
)
def test_access_lists(tmp_path: Path, acl: str, inside: list[str], outside: list[str]) -> None:
    text = f"options {{ allow-query {{ {acl} }}; }};\nacl friends {{ !198.51.100.8; 198.51.100/24; }};"
    allow = read(tmp_path, text).options.allow_query
    assert [a for a in inside if not allow.matches(ipaddress.ip_address(a), HERE)] == []
    assert [a for a in outside if allow.matches(ipaddress.ip_address(a), HERE)] == []


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("options {\n  recursion maybe;\n};", 2, "'recursion' takes one of"),
        ("options {\n  recursion yes;\n  recursion no;\n};", 3, "redefined"),
        ("options {\n\n  nonsense 1;\n};", 3, "unknown option 'nonsense'"),
        ("nonsense;", 1, "unknown option 'nonsense'"),
        ("options {\n directory /tmp;\n};", 2, "string in quotes"),
        ("options { recursion no }", 1, "missing ';' before '}'"),
        ("options { recursion no; }", 1, "missing ';' at the end"),
        ("\n\noptions {", 3, "'{' is not closed"),
        ("};", 1, "unexpected '}'"),
        ("/* never\nclosed", 1, "comment is not closed"),
        ('options { directory "x\n"; };', 1, "unbalanced quotes"),
        ("options {\n allow-query { 10.0.0.1/8; };\n};", 2, "bits beyond the prefix"),
        ("options {\n allow-query { nobody; };\n};", 2, "undefined acl 'nobody'"),
        ("acl a { b; };\nacl b { a; };", 2, "contains itself"),
        ("acl any { none; };", 1, "built in"),
        ("options { allow-query { key k; }; };", 1, "undefined key 'k'"),
        ("options { forwarders { example.org; }; };", 1, "not an address"),
        ("options { listen-on port 99999 { any; }; };", 1, "not a number from 0 to 65535"),
        ("options { listen-on tls t { any; }; };", 1, "DNS over TLS"),
        ("options { response-policy { zone x; }; };", 1, "'response-policy' is not supported"),
        ("view v { };", 1, "views are not supported (engine: bind has it)"),
        ('zone "a" { type master; };', 1, "missing 'file' entry"),
        ('zone "a" { file "x"; };', 1, "type not present"),
        ('zone "a" {\n type stub; };', 2, "type stub is not supported"),
        ('options {\n session-keyalg hmac-none; };', 2, "unknown algorithm 'hmac-none'"),
        ('zone "a..b" { type master; file "x"; };', 1, "not a domain name"),
        ('zone "a" CH { type master; file "x"; };', 1, "class CH"),
        ('zone "a" { type forward;\n file "x"; };', 2, "not allowed in a zone of type forward"),
        ('zone "a" {type master; file "x";};\nzone "A." {type master; file "y";};', 2, "already exists"),
        ('\ninclude "absent";', 2, "no such file"),
        ("options { };\noptions { };", 2, "'options' redefined"),
        ("{ { { " * 50, 1, "nested too deeply"),
    ],
)  # fmt: skip
def test_errors_name_file_and_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path}/named.conf:{line}: ")
    assert message in caught.value.message


def test_an_error_in_an_included_file_points_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"more\.conf:2: unknown option 'x'"):
        read(tmp_path, 'include "more.conf";', **{"more.conf": "\nx;"})


def test_inclusion_of_itself_ends(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nested too deeply"):
        read(tmp_path, 'include "named.conf";')


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "named.conf")


def test_tables_do_not_overlap() -> None:
    for works, ignored, refused in (
        (OPTIONS_WORK, OPTIONS_IGNORED, OPTIONS_REFUSED),
        (ZONE_WORKS, ZONE_IGNORED, ZONE_REFUSED),
        (frozenset[str](), TOP_IGNORED, TOP_REFUSED),
    ):
        assert not works & set(ignored)
        assert not works & set(refused)
        assert not set(ignored) & set(refused)


@given(
    st.text(alphabet='{};!="/*\\#\n ab1.:' + "é", max_size=200)
    | st.lists(
        st.sampled_from(
            ["options", "zone", "{", "}", ";", '"x"', "type", "master", "any", "!", "port", "53"]
        ),
        max_size=40,
    ).map(" ".join)
)
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing but `ConfigError` comes out, whatever goes in."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "named.conf"
        path.write_text(text, encoding="utf-8")
        try:
            load(path)
        except ConfigError as error:
            assert error.line >= 0
