"""From spec and place to what render takes; passwords; the variables."""

from __future__ import annotations

from datetime import date
from ipaddress import IPv4Network
from pathlib import Path, PurePosixPath

import pytest

from mailstack.render import Listener
from mailstack.runtime.engine import Ground, Paths
from mailstack.runtime.errors import UsageProblem
from mailstack.runtime.model import RuntimeKind
from mailstack.runtime.network import Addresses
from mailstack.runtime.site import build_site, environment, resolve_passwords
from mailstack.runtime.state import Record, Secrets
from mailstack.spec import Stack, loads

SPEC = """\
project: one
domains:
  a.test:
    users:
      zs: {password: secret}
      env: {password_env: PW}
      file: {password_file: PATH}
      free: {}
"""
NETWORK = IPv4Network("127.9.9.0/24")
PLACES = [PurePosixPath(f"/s/{name}") for name in ("rendered", "queue", "mail", "run", "tls", "dns")]
PATHS = Paths(PLACES[0], PLACES[1], PLACES[2], PLACES[3], PLACES[4], PLACES[5], 7, 8)


def stack(text: str = "") -> Stack:
    return loads("domains: {a.test: {users: {zs: {password: secret}}}}\n" + text)


def ground(spec: Stack, own: tuple[str, ...], bind: str = "127.0.0.1", **fixed: int) -> Ground:
    ports = {name: fixed.get(name, 20000 + index) for index, name in enumerate(spec.services)}
    addresses = Addresses(NETWORK).as_text() if own else {}
    return Ground(NETWORK, addresses, own, bind, "127.0.0.1" if bind == "0.0.0.0" else bind, ports)


@pytest.mark.parametrize(
    ("kind", "own", "bind", "fixed", "listeners", "reachable"),
    [
        ("process", ("smtp",), "127.0.0.1", {}, [("127.9.9.3", 25), ("127.0.0.1", 20000)], ("127.9.9.3", 25)),
        ("process", (), "127.0.0.1", {}, [("127.0.0.1", 20000)], ("127.0.0.1", 20000)),
        ("process", (), "0.0.0.0", {}, [("", 20000)], ("127.0.0.1", 20000)),
        ("process", ("smtp",), "0.0.0.0", {"smtp": 25}, [("", 25)], ("127.9.9.3", 25)),
        ("docker", ("smtp",), "127.0.0.1", {}, [("", 25)], ("127.9.9.3", 25)),
    ],
)
def test_listeners_and_where_the_zone_points(
    kind: RuntimeKind,
    own: tuple[str, ...],
    bind: str,
    fixed: dict[str, int],
    listeners: list[tuple[str, int]],
    reachable: tuple[str, int],
) -> None:
    spec = stack()
    secrets = Secrets("00", {}, {"zs@a.test": "secret"})
    site = build_site(
        spec, kind, ground(spec, own, bind, **fixed), PATHS, Record("one"), secrets, date(2026, 1, 1)
    )
    assert list(site.listeners["smtp"]) == [Listener(*item) for item in listeners]
    assert site.reachable["smtp"] == Listener(*reachable)
    assert (site.mail_uid, site.mail_gid) == (7, 8)
    assert site.tls_cert == PurePosixPath("/s/tls/cert.pem")


def test_without_tls_there_is_no_certificate() -> None:
    spec = stack("tls: {mode: off}\nmailbox: {allow_plaintext_auth: true}\n")
    site = build_site(
        spec, "process", ground(spec, ()), PATHS, Record("one"), Secrets("00"), date(2026, 1, 1)
    )
    assert (site.tls_cert, site.tls_key, site.tls_ca) == (None, None, None)
    assert "imaps" not in site.listeners


def test_passwords_come_from_four_places_and_stay(tmp_path: Path) -> None:
    path = tmp_path / "pw"
    path.write_text("from file\nrest\n")
    spec = loads(SPEC.replace("PATH", str(path)))
    first = resolve_passwords(spec, Secrets("00"), {"PW": "from env"})
    assert list(first.users) == ["zs@a.test", "env@a.test", "file@a.test", "free@a.test"]
    assert list(first.users.values())[:3] == ["secret", "from env", "from file"]
    assert len(first.users["free@a.test"]) >= 20
    assert first.generated == {"free@a.test": first.users["free@a.test"]}
    assert resolve_passwords(spec, first, {"PW": "x"}).users["free@a.test"] == first.users["free@a.test"]


@pytest.mark.parametrize(
    ("content", "environ", "said"),
    [
        ("ok", {}, "the variable PW"),
        ("ok", {"PW": "a\nb"}, "the variable PW"),
        ("", {"PW": "ok"}, "no usable password"),
        (None, {"PW": "ok"}, "cannot be read"),
    ],
)
def test_missing_passwords_are_named(
    tmp_path: Path, content: str | None, environ: dict[str, str], said: str
) -> None:
    path = tmp_path / "pw"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageProblem, match=said) as caught:
        resolve_passwords(loads(SPEC.replace("PATH", str(path))), Secrets("00"), environ)
    assert caught.value.status == 2


def test_variables_in_their_order() -> None:
    record = Record("one", domain="a.test", host="127.0.0.1", ports={"dns": 53, "smtp": 25, "imaps": 993})
    found = environment(record, {"zs@a.test": "pw", "b@a.test": "no"}, "/ca.pem")
    assert list(found.items()) == [
        ("MAILSTACK_PROJECT", "one"), ("MAILSTACK_DOMAIN", "a.test"), ("MAILSTACK_HOST", "127.0.0.1"),
        ("MAILSTACK_SMTP_PORT", "25"), ("MAILSTACK_IMAPS_PORT", "993"), ("MAILSTACK_DNS_PORT", "53"),
        ("MAILSTACK_CA_FILE", "/ca.pem"), ("MAILSTACK_USER", "zs@a.test"), ("MAILSTACK_PASSWORD", "pw"),
    ]  # fmt: skip
