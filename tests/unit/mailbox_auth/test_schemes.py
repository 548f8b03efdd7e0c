"""Password schemes, against what doveadm writes."""

from __future__ import annotations

import hashlib
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailstack.mailbox.auth import md
from mailstack.mailbox.auth.schemes import SchemeError, parse

# Made with: doveadm pw -s SCHEME -p secret
STORED = [
    "{PLAIN}secret",
    "{CLEARTEXT}secret",
    "{PBKDF2}$1$jezJSjpETDH3T12K$5000$8b0a245b46db910e57de4d308b58ffbee091c65d",
    "{SSHA256}WqNU/++ZF3C/LjNVa/OG4a93vrDghclygeiKTmYMAtKOdDRW",
    "{SHA512}vSsar3708Jvp9Szi2NWZZ02Bqp1qRCFpbcTZPdBhnWgs5WtNZKnvCXdhztmeD2cmW192CF5bDufKRpayrW/isg==",
    "{SHA1}5en6G6MezRroT3XKqkdPOmY/BfQ=",
    "{SSHA}6hOwwnw+C5RioeOb+xD70Kmv5AttUJGX",
    "{SHA256.HEX}2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b",
    "{sha256}2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b",
    "{SSHA512.B64}e7N/7KSwXcIQbk2gdqHMmaMdNPXOgE3huLtEbcLjj5kiLNYkdxyP97afDfnvav5bg65R14KNg4/8nR5+7yA9bwovCB8=",
    "{LDAP-MD5}Xr4ilOzQ4PCOq3aQ0qbuaQ==",
    "{PLAIN-MD5}5ebe2294ecd0e0f08eab7690d2a6ee69",
    "{SMD5}X39aqVhNhbBDjSdPmy+b5Ed6iVM=",
    "{SCRAM-SHA-1}4096,ZxoWDW4d9QCyTDMM3dUdBw==,fUSWGCZcucUa0ozUR/JjrA66oWo=,ZXMgSX9S5TSLM/3jMXQzsCK4VRI=",
    "{SCRAM-SHA-256}4096,SNTmtGFJFjVgFdIVR7pR1w==,df48uwlSJA1/g2UD9mfp64bKUTco749C0o5+YLKHt1E=,i45hiflu8KwFO8ihNWPJqQOC4RcrI0kCRT7+YeJK8n4=",
    "{BLF-CRYPT}$2y$05$uzFfej9U.zS.IZ6Nbm09/ugjgqQMxPzbXtGvfMYmAUBmzXrdbn78q",
    "{CRYPT}$2y$05$cluC6M9B80D/o.rdoZHQYu5teNG2.oGcUp1Y/FfjKsuwwx2REMlga",
    "{DES-CRYPT}8Z34qK3.38kQg",
    "8Z34qK3.38kQg",
    "{MD5-CRYPT}$1$I.BI0qOz$s.iSnVcmk.E2hYQ1bgCZU.",
    "{MD5}$1$9oUMiqzH$DHYXxacqBe88p041OCuyB1",
    "{MD5}5ebe2294ecd0e0f08eab7690d2a6ee69",
    "{SHA256-CRYPT}$5$gkLsoOivKq9LTS6n$DH4aLiL9C5w7f1yyedVA4l62.UipgmEAVeLYfwrw1a7",
    "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$ZkquiO1z8l/TNesG4syEgQ$zK4B27wh9Yjs0qDXtuQqo+fpVzhhzou6lcQgKvf3XB0",
    "{CRAM-MD5}cd3ba7deaad6e5ca23448ba42e379747a9e0f7f1fbc00c8a81bbaac395731b56",
    "{HMAC-MD5}cd3ba7deaad6e5ca23448ba42e379747a9e0f7f1fbc00c8a81bbaac395731b56",
    "{PLAIN-MD4}67d3dafef63ff00603aeef3769cfbf0d",
    "{PLAIN-TRUNC}secret",
]


@pytest.mark.parametrize("text", STORED, ids=lambda text: text.partition("}")[0][1:])
def test_the_right_password_and_no_other(text: str) -> None:
    stored = parse(text, "CRYPT")
    assert stored.verify("secret")
    assert not stored.verify("Secret")
    assert not stored.verify("")
    assert "secret" not in repr(stored)


def test_the_default_scheme_is_for_fields_without_one() -> None:
    assert parse("secret", "PLAIN").verify("secret")
    assert parse("{not a scheme", "PLAIN").verify("{not a scheme")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        "{CRYPT}$6$x$y",
        "{BLF-CRYPT}$6$rounds$of another method",
        "{OTP}sha1 1024 9adb55f1eb797fa3 64ecf6dafcc9d0dd",
        "{ARGON2ID}$argon2i$v=19$m=8,t=1,p=1$x$y",
        "{CRAM-MD5}cd3b",
        "{SCRAM-SHA-1}4096,ZxoWDW4d9QCyTDMM3dUdBw==,fUSWGCZcucUa0ozUR/JjrA66oWo=",
        "{SCRAM-SHA-1}0,ZxoWDW4d9QCyTDMM3dUdBw==,fUSWGCZcucUa0ozUR/JjrA66oWo=,ZXMgSX9S5TSLM/3jMXQzsCK4VRI=",
        "{SHA256}2bb8",
        "{SHA256}%%%",
        "{SSHA256.ROT13}x",
        "{SSHA}6hOwwnw+C5RioeOb+xD70Kmv5As=",
        "{PBKDF2}$1$salt$0$8b0a245b46db910e57de4d308b58ffbee091c65d",
        "{PBKDF2}$1$salt$99999999999$8b0a245b46db910e57de4d308b58ffbee091c65d",
        "{PBKDF2}$1$salt$5000$8b",
        "{PBKDF2}$2$salt$5000$8b0a245b46db910e57de4d308b58ffbee091c65d",
    ],
)
def test_what_cannot_be_checked_is_an_error(text: str) -> None:
    with pytest.raises(SchemeError):
        parse(text, "CRYPT")


@settings(deadline=None)  # crypt(3) takes what it takes
@given(st.text(max_size=60))
def test_any_text_is_a_stored_password_or_the_documented_error(text: str) -> None:
    try:
        parse(text, "PLAIN").verify("x")
    except SchemeError:
        pass


def test_a_truncated_password_counts_as_far_as_it_goes() -> None:
    stored = parse("{PLAIN-TRUNC}8-password", "CRYPT")
    assert [stored.verify(given) for given in ("password", "password123", "passwor")] == [True, True, False]


def test_a_digest_that_holds_the_users_name() -> None:
    stored = parse("{DIGEST-MD5}134a639adf0875db42b7a00a954888c4", "CRYPT")
    assert stored.verify("secret", "zs@mail.test")
    assert not stored.verify("secret", "joe@mail.test")


def test_a_salt_that_crypt_does_not_take_is_an_error() -> None:
    with pytest.raises(SchemeError, match="CRYPT"):
        parse("{CRYPT}$9$nonsense$nonsense", "CRYPT").verify("secret")


@pytest.mark.parametrize("length", [0, 1, 54, 55, 56, 63, 64, 65, 200])
def test_md5_goes_on_from_a_state(length: int) -> None:
    first, rest = bytes(range(64)), b"x" * length
    digest = hashlib.md5(first + rest, usedforsecurity=False).digest()
    assert md.md5_continued(md.md5_state(first), rest) == digest


@pytest.mark.parametrize(
    ("text", "digest"),  # RFC 1320, appendix A.5
    [
        ("", "31d6cfe0d16ae931b73c59d7e0c089c0"),
        ("message digest", "d9130a8164549fe818874806e1c7014b"),
        ("1234567890" * 8, "e33b4ddc9c38f2199c3e7b164fcc0536"),
    ],
)
def test_md4(text: str, digest: str) -> None:
    assert md.md4(text.encode()).hex() == digest


@pytest.mark.real
@pytest.mark.skipif(shutil.which("doveadm") is None, reason="doveadm (dovecot-core) is missing")
@pytest.mark.parametrize("password", ["pässword", "x" * 70, "a b{c}"])
def test_doveadm_writes_what_we_read(password: str) -> None:
    """Every scheme that doveadm lists, but OTP."""
    listed = subprocess.run(["doveadm", "pw", "-l"], capture_output=True, text=True, check=True).stdout
    checked = 0
    for scheme in listed.split():
        command = ["doveadm", "pw", "-s", scheme, "-u", "zs@mail.test", "-p", password]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        if scheme == "OTP":
            continue
        stored = parse(text, "CRYPT")
        assert stored.verify(password, "zs@mail.test"), text
        assert not stored.verify("other", "zs@mail.test"), text
        checked += 1
    assert checked >= 25
