"""What has to hold for any octets that a DNS client, a zone file or named.conf may hold; see `targets`."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import dns.message

from mailstack.config.errors import ConfigError
from mailstack.config.named import Locality, grammar, load
from mailstack.config.named import Zone as ZoneConf
from mailstack.config.named.model import TsigKey
from mailstack.dns import names, zonefile
from mailstack.dns.edit import flat
from mailstack.dns.forward import Forwarder
from mailstack.dns.responder import Responder
from mailstack.dns.results import Delayed, Pending, Transfer
from mailstack.dns.signing import sign
from mailstack.dns.tsig import Conversation
from mailstack.dns.zone import Zone
from mailstack.net.log import Log

NOW = 1_800_000_000.0
MESSAGE_MOST = 65_535
SECONDS = 2.0
"""Of processor time, for one input. It is some milliseconds; coverage and a busy machine make it more."""
_SECRET = b"0123456789abcdef"
_ZONE = """$TTL 300
@ SOA ns hostmaster 7 3600 600 86400 60
@ NS ns
@ MX 10 mail
ns A 192.0.2.1
ns AAAA 2001:db8::1
mail A 192.0.2.2
mail TXT "one" "two"
*.wild TXT "any"
alias CNAME mail
loop CNAME loop
out CNAME www.elsewhere.test.
sub NS ns.sub
sub NS ns.other.test.
ns.sub A 192.0.2.3
tree DNAME sub.wild
big TXT "{big}"
big A 192.0.2.4
big A 192.0.2.5
srv._tcp SRV 0 0 25 mail
odd TYPE65280 \\# 3 010203
deep.er.and.er A 192.0.2.6
""".replace("{big}", '" "'.join("x" * 200 for _ in range(8)))
_CONF = """
key k { algorithm hmac-sha256; secret "MDEyMzQ1Njc4OWFiY2RlZg=="; };
dnssec-policy hashed { keys { csk lifetime unlimited algorithm ed25519; }; nsec3param iterations 0; };
zone "z.test" { type primary; file "z.zone"; allow-transfer { any; }; };
zone "s.test" { type primary; file "s.zone"; dnssec-policy default; allow-update { any; }; };
zone "h.test" { type primary; file "h.zone"; dnssec-policy hashed; allow-transfer { key k; }; };
zone "u.test" { type primary; file "u.zone"; allow-update { any; }; check-names ignore; };
zone "p.test" { type primary; file "p.zone"; update-policy { grant k subdomain p.test ANY; }; };
zone "c.test" { type secondary; file "c.zone"; primaries { 192.0.2.9; }; allow-update-forwarding { key k; }; };
"""
_OPTIONS = (
    "recursion no; version none; rrset-order { order none; }; minimal-any yes; server-id none;",
    """recursion yes; forwarders { 192.0.2.77; }; forward only; minimal-responses yes; server-id "us";
    rate-limit { responses-per-second 5; slip 2; }; require-server-cookie yes; max-records 200;""",
)


class Watched(Log):
    """A fault of ours is one of the target's: `Responder.respond` logs it and answers SERVFAIL."""

    def exception(self, text: str, fault: BaseException) -> None:
        raise fault


@cache
def folder() -> Path:
    """A folder of this process, in memory."""
    path = tempfile.mkdtemp(dir="/dev/shm", prefix="mailstack-fuzz-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return Path(path)


@cache
def served(number: int) -> tuple[Responder, dict[bytes, Zone]]:
    """A server of `_CONF` under one of `_OPTIONS`, and its zones as they are at first."""
    home = folder() / f"server{number}"
    home.mkdir()
    for letter in "zshupc":
        (home / f"{letter}.zone").write_text(_ZONE)
    (home / "named.conf").write_text(f"options {{ {_OPTIONS[number]} }};{_CONF}")
    conf = load(home / "named.conf")
    log = Watched("named", "fuzz", os.open(os.devnull, os.O_WRONLY))
    zones = []
    for zone_conf in conf.zones:
        zone, _ = zonefile.load_zone(zone_conf.name, zone_conf.file)
        if zone_conf.dnssec is not None:
            sign(zone, zone_conf, NOW)
        zones.append(zone)

    def sign_again(zone: Zone, zone_conf: ZoneConf, _now: float) -> None:
        sign(zone, zone_conf, NOW)

    server = Responder(conf, zones, Locality(), Forwarder(), log, sign=sign_again)
    return server, {zone.origin: zone for zone in zones}


def dns_message(data: bytes) -> None:
    """Whatever comes, with a signature that holds or without: a sound answer in bounds, or silence.

    The first octet's bits: TCP, IPv6, which server, a TSIG of ours, drawn out to the longest message.
    """
    flags, octets = (data[0] if data else 0), data[1:]
    tcp = bool(flags & 1)
    if flags & 16 and len(octets) > 12:
        octets += (octets[12:] * (MESSAGE_MOST // (len(octets) - 12)))[: MESSAGE_MOST - len(octets)]
    if flags & 8 and len(octets) >= 12 and octets[10:12] != b"\xff\xff":
        octets = Conversation(TsigKey("k", "hmac-sha256", _SECRET)).sign(octets)
    octets = octets[: MESSAGE_MOST if tcp else 4096]
    server, zones = served(flags >> 2 & 1)
    host = "2001:db8::99" if flags & 2 else "192.0.2.99"
    try:
        found = server.respond(octets, host, 5353, tcp=tcp)
    finally:
        _restore(server, zones)
    if isinstance(found, Delayed):
        found = found.wire
    if isinstance(found, Transfer):
        for message in found.messages:
            assert len(message) <= MESSAGE_MOST
            _sound(octets, message)
    elif isinstance(found, bytes):
        assert len(found) <= (MESSAGE_MOST if tcp else 1432), len(found)
        _sound(octets, found)
    elif found is None and not flags & 4:  # the other server limits rates
        assert len(octets) < 12 or octets[2] & 0x80
    else:
        assert found is None or isinstance(found, Pending)


def _sound(asked: bytes, answer: bytes) -> None:
    assert answer[:2] == asked[:2] and answer[2] & 0x80 and (answer[2] ^ asked[2]) & 0x78 == 0
    if not asked[2] & 0x78:  # dnspython reads other opcodes by rules of their own
        dns.message.from_wire(answer, keyring=False, ignore_trailing=False)


def _restore(server: Responder, zones: dict[bytes, Zone]) -> None:
    """Undo what an update has done, so that each input finds the same zones."""
    for origin, zone in zones.items():
        if server.in_service[origin] is not zone:
            server.put(zone)
            for path in folder().glob("server*/*.journal"):
                path.unlink()


_LINE_END = re.compile(rb"\r\n?|\n")
_GENERATE = re.compile(rb"\$generate[ \t]+(\d*)-(\d*)", re.IGNORECASE)
_OTHER_FILES = re.compile(rb"(\$include|include|directory|file)[^;\n]*[/*?\[]", re.IGNORECASE)


def _allowed(data: bytes) -> bool:
    """Whether an input keeps to what can be done in no time: it names no files elsewhere, makes no millions."""
    if _OTHER_FILES.search(data):
        return False
    return all(abs(int(end or 0) - int(start or 0)) <= 300 for start, end in _GENERATE.findall(data))


def dns_zone(data: bytes) -> None:
    """A zone file makes a zone, or `ConfigError` with its place; in bulk or word by word the same zone."""
    if not _allowed(data):
        return
    path = folder() / "any.zone"
    path.write_bytes(data)
    os.chdir(folder())
    zones: list[tuple[list[tuple[object, ...]], list[str]]] = []
    for least in (1 << 30, 0):
        zonefile.LARGE, before = least, zonefile.LARGE
        try:
            zone, odd = zonefile.load_zone("z.test", str(path))
            zones.append((_said(zone), sorted(odd)))
        except ConfigError as error:
            _placed(error, data)
            zones.append(([], [str(error)]))
        finally:
            zonefile.LARGE = before
    assert zones[0] == zones[1], zones


def _said(zone: Zone) -> list[tuple[object, ...]]:
    """Every record of a zone."""
    found: list[tuple[object, ...]] = []
    for owner, rrset in zone.records():
        assert names.is_below(owner.lower(), zone.origin)
        hosts = sorted(rrset.targets)
        found += [(owner, rrset.rdtype, rrset.ttl, flat(rdata), hosts) for rdata in rrset.rdatas]
    return sorted(found)


def _placed(error: ConfigError, data: bytes) -> None:
    assert error.path.parent == folder() or not error.path.is_absolute(), error
    assert 0 <= error.line <= len(_LINE_END.findall(data)) + 2, error
    assert error.message, error


def named_conf(data: bytes) -> None:
    """A configuration is one, or `ConfigError` with its place."""
    if not _allowed(data):
        return
    path = folder() / "named.conf"
    path.write_bytes(data)
    os.chdir(folder())
    try:
        conf = load(path)
    except ConfigError as error:
        _placed(error, data)
        return
    for warning in conf.warnings:
        assert "\n" not in warning


def _in_time(target: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """The same, and no input takes more than `SECONDS` of the processor."""

    def timed(data: bytes) -> None:
        begun = time.process_time()
        target(data)
        took = time.process_time() - begun
        assert took < SECONDS, took

    return timed


DNS_TARGETS = {
    "dns_message": _in_time(dns_message),
    "dns_zone": _in_time(dns_zone),
    "named_conf": _in_time(named_conf),
}
_ZONE_WORDS = r"""$ORIGIN $TTL $INCLUDE $GENERATE SOA NS MX A AAAA CNAME DNAME TXT SRV PTR CAA TLSA NAPTR DS RRSIG NSEC
NSEC3 DNSKEY SVCB HTTPS LOC HINFO SSHFP URI TYPE65280 \# IN CH @ ( ) ; " \000 1w2d3h ${1,2,x} 0-5 *. ."""
DNS_WORDS = {
    "dns_message": [
        *(
            b"\0" + number.to_bytes(2, "big") + b"\0\1"
            for number in (1, 2, 5, 6, 15, 28, 39, 46, 48, 251, 252, 255)
        ),
        *(b"\1" + bytes((letter,)) + b"\4test\0" for letter in b"zshupc"),
        *(code.to_bytes(2, "big") for code in (3, 8, 9, 10, 11, 12, 14, 15, 0xC00C, 0xFFFF)),
        b"\0\0\x29\x10\0\0\0\x80\0\0\0",
        b"\xc0\x0c",
        b"\4wild",
        b"\x28\0",
        b"\x20\0",
        b"\0\xff\0\0\0\0\0\0",
        b"\0\xfe\0\0\0\0\0\4\xc0\0\2\1",
    ],
    "dns_zone": [word.encode() for word in _ZONE_WORDS.split()],
    "named_conf": [
        word.encode()
        for word in sorted(
            grammar.OPTIONS_WORK
            | grammar.ZONE_WORKS
            | {"options {", 'zone "', "key k {", "acl a {", "logging {", "server 192.0.2.1 {", 'include "'}
            | {
                "type primary;",
                "type secondary;",
                "type forward;",
                "};",
                "algorithm",
                "secret",
                "dnssec-policy p {",
            }
            | {"keys { csk lifetime unlimited algorithm 13; };", "any;", "none;", "! ", "/*", "*/", "//", "#"}
            | {"192.0.2.0/24;", "2001:db8::/32;", "port 53", "channel c {", "category", "primaries", 'file "'}
        )
    ],
}
"""What the fuzzer may put in: it would be long in finding these."""
