"""DANE: which chains the records of a host vouch for; `tests/interop/test_dane_differential.py` has the rest."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from mailstack.config.errors import ConfigError
from mailstack.mta.deliver import dane
from mailstack.mta.deliver.certificates import public_key
from mailstack.mta.deliver.dane import Authority, Dane, Record
from mailstack.mta.deliver.names import Names as Parameters
from mailstack.mta.deliver.session import Facts, Host
from mailstack.mta.deliver.tls_policy import TLSLevel, TLSPolicies
from mailstack.net.log import Log
from mailstack.net.resolver import Answer
from mailstack.storage.tables import open_table
from tests.unit.mta_deliver.chains import DER, signed
from tests.unit.mta_deliver.support import QUIET, Names, configuration

ROOT, OTHER, MIDDLE = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
LEAF = rsa.generate_private_key(65537, 2048)
RSA_ROOT = rsa.generate_private_key(65537, 2048)
root = signed("root", ROOT, "root", ROOT, authority=True).public_bytes(DER)
old = signed("root", ROOT, "root", ROOT, authority=True, days=-1).public_bytes(DER)
middle = signed("middle", MIDDLE, "root", ROOT, authority=True).public_bytes(DER)
false_middle = signed("middle", MIDDLE, "root", ROOT).public_bytes(DER)
leaf = signed("leaf", LEAF, "middle", MIDDLE, host="mx.x.test").public_bytes(DER)
late = signed("leaf", LEAF, "middle", MIDDLE, host="mx.x.test", days=-1).public_bytes(DER)
stranger = signed("leaf", LEAF, "middle", MIDDLE, host="mx.y.test").public_bytes(DER)
wild = signed("leaf", LEAF, "middle", MIDDLE, host="*.x.test").public_bytes(DER)
rsa_root = signed("root", RSA_ROOT, "root", RSA_ROOT, authority=True).public_bytes(DER)
by_rsa = signed("leaf", LEAF, "root", RSA_ROOT, host="mx.x.test").public_bytes(DER)
TA = Record(2, 0, 1, hashlib.sha256(root).digest())
TA_KEY = Record(2, 1, 1, hashlib.sha256(public_key(root)).digest())
EE = Record(3, 1, 0, public_key(leaf))


@pytest.mark.parametrize(
    ("chain", "record", "good"),
    [
        ([leaf, middle, root], TA, True),
        ([leaf, root, middle], TA_KEY, True),
        ([wild, middle, root], TA, True),
        ([leaf, middle], Record(2, 0, 1, hashlib.sha256(middle).digest()), True),
        ([leaf, middle], Record(2, 0, 0, root), True),
        ([leaf, middle], Record(2, 1, 0, public_key(root)), True),
        ([by_rsa], Record(2, 1, 0, public_key(rsa_root)), True),
        ([by_rsa], Record(2, 1, 0, public_key(root)), False),
        ([leaf, middle], TA, False),
        ([leaf, root], TA, False),
        ([leaf, false_middle, root], TA, False),
        ([stranger, middle, root], TA, False),
        ([late, middle, root], TA, False),
        ([leaf, middle, old], Record(2, 0, 1, hashlib.sha256(old).digest()), False),
        ([root], TA, False),
        ([], TA, False),
        ([b"junk"], TA, False),
        ([leaf, middle], Record(2, 0, 0, b"junk"), False),
        ([leaf], EE, True),
        ([late], EE, True),
        ([stranger], EE, True),
        ([middle, leaf], EE, False),
        ([], EE, False),
    ],
)
def test_chains(chain: list[bytes], record: Record, good: bool) -> None:
    assert Dane("mx.x.test", ("mx.x.test", "x.test"), (record,), {1: "sha256"}).matches(chain) is good


def test_a_wildcard_may_be_for_more_than_one_label() -> None:
    names = ("a.b.x.test",)
    for wide in (True, False):
        found = Dane("a.b.x.test", names, (TA,), {1: "sha256"}, wide)
        assert found.matches([wild, middle, root]) is wide


HOST = Host("mx.x.test", "192.0.2.1", 25, Facts("mx.x.test", "mx.x.test", True, "x.test", "x.test", True))


def level(record: str, conf: str = "", log: Log = QUIET) -> TLSLevel:
    """What the policy `dane` becomes for a host with one TLSA record."""
    names = Names({}, {})
    names.answers[("_25._tcp.mx.x.test", "TLSA")] = Answer(((0, record),), "", True, 60)
    settings = configuration(f"smtp_tls_security_level = dane\nsmtp_dns_support_level = dnssec\n{conf}")
    authority = Authority(Parameters(settings), names, log, dnssec=True)
    policy = TLSPolicies(settings, open_table, log).find("x.test")
    return asyncio.run(authority.apply(policy, HOST)).level


def test_anchors_need_a_library(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    record = "2 0 1 " + "ab" * 32
    assert level(record) is TLSLevel.DANE
    monkeypatch.setattr(dane, "find_spec", lambda name: None)
    assert level(record, log=Log("postfix/smtp", "mail", 2)) is TLSLevel.ENCRYPT
    assert "TLSA records of usage 2 need the cryptography package" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("record", "conf", "expected"),
    [
        ("3 1 1 " + "ab" * 31, "", TLSLevel.ENCRYPT),
        ("3 2 1 " + "ab" * 32, "", TLSLevel.ENCRYPT),
        ("3 1 2 " + "ab" * 64, "tls_dane_digests = sha256\n", TLSLevel.ENCRYPT),
        ("3 1 7 " + "ab" * 48, "tls_dane_digests = sha384=7 sha256\n", TLSLevel.DANE),
    ],
)
def test_records_that_can_be_used(record: str, conf: str, expected: TLSLevel) -> None:
    assert level(record, conf) is expected


@pytest.mark.parametrize(
    "conf",
    [
        "tls_dane_digests = nonsense\n",
        "tls_dane_digests = sha384\n",
        "tls_dane_digests = sha256=9\n",
        "tls_dane_digests = sha384=x\n",
        "tls_dane_digests = sha384=1 sha256\n",
        "smtp_tls_dane_insecure_mx_policy = secure\n",
    ],
)
def test_wrong_configuration(conf: str) -> None:
    with pytest.raises(ConfigError):
        level("3 1 1 " + "ab" * 32, conf)


def test_a_resolver_that_does_not_validate_is_mentioned_once(capfd: pytest.CaptureFixture[str]) -> None:
    names, log = Names({}, {}), Log("postfix/smtp", "mail", 2)
    settings = configuration("smtp_tls_security_level = dane\nsmtp_dns_support_level = dnssec\n")
    authority = Authority(Parameters(settings), names, log, dnssec=True)
    policy = TLSPolicies(settings, open_table, log).find("x.test")
    host = Host("mx.x.test", "192.0.2.1", 25, Facts("mx.x.test", "mx.x.test", False, "", "", False))
    for _ in range(2):
        assert asyncio.run(authority.apply(policy, host)).level is TLSLevel.MAY
    assert capfd.readouterr().err.count("dnssec_probe 'ns:.' received a response that is not") == 1
