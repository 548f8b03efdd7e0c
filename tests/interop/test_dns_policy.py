"""`update-policy`: the same changes, with the same keys, put to our server and to the real named."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import dns.tsigkeyring
import dns.update
import pytest

from tests.interop.dns_servers import bind, configure, ours
from tests.ports import free_port

pytestmark = pytest.mark.real

SECRET = "c2VjcmV0c2VjcmV0c2VjcmV0"
KEYS = ("acme", "admin", "host.rich.test", "sub.key", "nobody")
ZONES = (
    "\n".join(f'key "{key}" {{ algorithm hmac-sha256; secret "{SECRET}"; }};' for key in KEYS)
    + """
zone "rich.test" {
  type primary;
  file "zones/rich.zone";
  update-policy {
    deny admin name frozen.rich.test;
    grant acme name _acme-challenge.rich.test. TXT;
    grant acme wildcard *.acme.rich.test TXT A;
    grant admin zonesub ANY;
    grant host.rich.test self . A AAAA;
    grant host.rich.test selfsub . TXT;
    grant *.key subdomain ent.rich.test;
  };
};
zone "other.test" { type primary; file "zones/other.zone"; };
"""
)
CHANGES: list[tuple[str, str, list[str]]] = [
    (key, action, words.split())
    for key, action, words in (
        ("acme", "add", "_acme-challenge 60 TXT token"),
        ("acme", "add", "_ACME-challenge 60 TXT token2"),
        ("acme", "add", "_acme-challenge 60 A 192.0.2.1"),
        ("acme", "add", "x._acme-challenge 60 TXT token"),
        ("acme", "add", "mail 60 TXT token"),
        ("acme", "add", "x.acme 60 TXT token"),
        ("acme", "add", "x.y.acme 60 A 192.0.2.1"),
        ("acme", "add", "acme 60 A 192.0.2.1"),
        ("acme", "add", "x.acme 60 MX 10 mail"),
        ("acme", "delete", "_acme-challenge"),
        ("acme", "delete", "mail"),
        ("acme", "delete", "nothere"),
        ("acme", "delete", "mail A"),
        ("acme", "delete", "_acme-challenge TXT"),
        ("admin", "add", "frozen 60 A 192.0.2.1"),
        ("admin", "add", "thawed 60 A 192.0.2.1"),
        ("admin", "delete", "thawed"),
        ("admin", "add", "cut 60 NS ns1"),
        ("admin", "delete", "alias"),
        ("host.rich.test", "add", "host 60 A 192.0.2.9"),
        ("host.rich.test", "add", "host 60 TXT text"),
        ("host.rich.test", "add", "a.host 60 TXT text"),
        ("host.rich.test", "add", "a.host 60 A 192.0.2.9"),
        ("host.rich.test", "add", "host2 60 A 192.0.2.9"),
        ("sub.key", "add", "ent 60 A 192.0.2.9"),
        ("sub.key", "add", "q.ent 60 TXT text"),
        ("sub.key", "add", "q.ent 60 NS ns1"),
        ("sub.key", "add", "xent 60 TXT text"),
        ("nobody", "add", "host 60 A 192.0.2.9"),
        ("", "add", "host 60 A 192.0.2.9"),
    )
]


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    root, mine, theirs = tmp_path_factory.mktemp("policy"), free_port(), free_port()
    with (
        ours(configure(root / "ours", mine, zones=ZONES), mine),
        bind(configure(root / "bind", theirs, zones=ZONES), theirs),
    ):
        deadline = time.monotonic() + 30
        query = dns.message.make_query("www.other.test", "A")
        while not dns.query.tcp(query, "127.0.0.1", port=theirs, timeout=30).answer:
            assert time.monotonic() < deadline  # named answers before it has its zones
        yield mine, theirs


def rcode(port: int, key: str, action: str, words: list[str]) -> str:
    ring = dns.tsigkeyring.from_text({key: SECRET}) if key else None
    update = dns.update.UpdateMessage(
        "rich.test", keyring=ring, keyname=next(iter(ring)) if ring else None, keyalgorithm="hmac-sha256"
    )
    if action == "add":
        update.add(words[0], int(words[1]), words[2], " ".join(words[3:]))
    else:
        update.delete(*words)
    return dns.rcode.to_text(dns.query.tcp(update, "127.0.0.1", port=port, timeout=30).rcode())


def test_the_same_is_granted_and_denied(ports: tuple[int, int]) -> None:
    got, expected = ([rcode(port, *change) for change in CHANGES] for port in ports)
    differing = [
        (change, mine, theirs)
        for change, mine, theirs in zip(CHANGES, got, expected, strict=True)
        if mine != theirs
    ]
    assert not differing
    assert {"NOERROR", "REFUSED"} == set(expected)


@pytest.mark.parametrize(
    ("rules", "error"),
    [
        ("update-policy { local; };", "a rule is: grant or deny"),
        ("update-policy { grant k name; };", "a rule of type name takes a name"),
        ("update-policy { allow k name x.test A; };", "a rule is: grant or deny"),
        ("update-policy { grant k krb5-self . A; };", "rule type 'krb5-self' is not supported"),
        ("update-policy { grant k name x.test NOPE; };", "unknown type 'NOPE'"),
        ("update-policy { grant k wildcard x.test A; };", "'x.test' is not a wildcard"),
        (
            "allow-update { none; }; update-policy { grant k zonesub; };",
            "one of 'allow-update' and 'update-policy'",
        ),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, rules: str, error: str) -> None:
    from mailstack.config.errors import ConfigError
    from mailstack.config.named import load

    path = tmp_path / "named.conf"
    path.write_text(f'zone "x.test" {{ type primary; file "x"; {rules} }};')
    with pytest.raises(ConfigError, match=error):
        load(path)


def test_local(tmp_path: Path) -> None:
    """`nsupdate -l` with the file that the server has written, from this machine only; the key outlives a reload."""
    said = []
    zone = 'zone "rich.test" { type primary; file "zones/rich.zone"; update-policy local; };'
    for name, server in (("ours", ours), ("bind", bind)):
        port = free_port()
        root = configure(
            tmp_path / name, port, 'recursion no; session-keyname "here"; session-keyalg hmac-sha512;', zone
        )
        with server(root, port) as process:
            query = dns.message.make_query("rich.test", "SOA")
            deadline = time.monotonic() + 30
            while not dns.query.tcp(query, "127.0.0.1", port=port, timeout=30).answer:
                assert time.monotonic() < deadline  # named answers before it has loaded
                time.sleep(0.05)
            file = root / "session.key"
            assert file.stat().st_mode & 0o777 == 0o600
            secret = file.read_text().split('secret "')[1].split('"')[0]
            found = [file.read_text().replace(secret, ""), len(secret)]
            for source in ("127.0.0.1", "127.9.9.9"):
                script = f"server 127.0.0.1 {port}\nlocal {source}\nzone rich.test\nadd new.rich.test 60 A 192.0.2.7\nsend\n"
                done = subprocess.run(
                    ["nsupdate", "-k", str(file)],
                    input=script,
                    capture_output=True,
                    text=True,
                    timeout=60,
                    check=False,
                )
                found.append(done.stderr)
            unsigned = dns.update.UpdateMessage("rich.test")
            unsigned.delete("mail")
            found.append(dns.query.tcp(unsigned, "127.0.0.1", port=port, timeout=30).rcode())
            process.send_signal(signal.SIGHUP)
            log = root / f"{name}.log"
            while "reloading configuration succeeded" not in log.read_text():
                assert time.monotonic() < deadline + 30
                time.sleep(0.05)
            assert secret in file.read_text()
        said.append(found)
    assert said[0] == said[1]
    assert said[0][2] == "" and "REFUSED" in str(said[0][3])
