"""Password schemes, against what doveadm writes."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@given(st.text(max_size=60))
def test_any_text_is_a_stored_password_or_the_documented_error(text: str) -> None:
    try:
        parse(text, "PLAIN").verify("x")
    except SchemeError:
        pass


@pytest.mark.real
@pytest.mark.skipif(shutil.which("doveadm") is None, reason="doveadm (dovecot-core) is missing")
@pytest.mark.parametrize(
    "scheme", ["PBKDF2", "SHA", "SHA256", "SSHA256", "SHA512", "SSHA512.HEX", "SSHA", "PLAIN"]
)
def test_doveadm_writes_what_we_read(scheme: str) -> None:
    command = ["doveadm", "pw", "-s", scheme, "-p", "pässword"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert parse(text, "CRYPT").verify("pässword")
