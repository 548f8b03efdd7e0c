"""The server's half of the mechanisms: the RFCs' examples, and what is refused."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import b64decode, b64encode

import pytest

from mailstack.wire.sasl import Challenge, Credentials, Identity, Lookup, Mismatch, SASLError
from mailstack.wire.sasl_client import CramMD5Client, ScramClient
from mailstack.wire.sasl_scram import HASHES, ScramServer, keys
from mailstack.wire.sasl_server import (
    CramMD5Server,
    OAuthBearerServer,
    Surroundings,
    XOAuth2Server,
    mechanism,
)

AROUND = Surroundings(
    "3rfcNHYJY1ZVvWVs7j", b"<1896.697170952@postoffice.reston.mci.net>", {}, anonymous="anon"
)
BOUND = Surroundings("ours", b"", {"tls-unique": b"\1\2\3"}, plus=True)


@pytest.mark.parametrize(
    ("name", "nonce", "salt", "first", "final", "verifier"),
    [
        (  # RFC 5802 §5
            "SCRAM-SHA-1",
            "3rfcNHYJY1ZVvWVs7j",
            "QSXCR+Q6sek8bf92",
            b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
            b"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
            b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
        ),
        (  # RFC 7677 §3
            "SCRAM-SHA-256",
            "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
            "W22ZaJ0SNY7soEsUEjb6gQ==",
            b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
            b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
        ),
    ],
)
def test_scram_as_in_the_rfcs(
    name: str, nonce: str, salt: str, first: bytes, final: bytes, verifier: bytes
) -> None:
    digest = HASHES[name.removeprefix("SCRAM-")]
    server = ScramServer(name, digest, nonce, {}, plus_offered=False)
    assert server.step(first) == Lookup("", "user")
    challenge = server.known(keys(digest, "pencil", b64decode(salt)))
    assert isinstance(challenge, Challenge)
    assert challenge.data.endswith(f",s={salt},i=4096".encode())
    assert server.step(final) == Identity("", "user", verifier)


def scram(server: ScramServer, header: bytes, bound: bytes, password: str = "pencil") -> object:
    """Play a client that sends any GS2 header and binds to any data."""
    bare = b"n=user,r=theirs"
    server.step(header + bare)
    challenge = server.known(keys("sha256", "pencil", b"salt", 1000))
    assert isinstance(challenge, Challenge)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), b"salt", 1000)
    key = hmac.digest(salted, b"Client Key", "sha256")
    final = b"c=" + b64encode(header + bound) + b",r=theirsours"
    signature = hmac.digest(hashlib.sha256(key).digest(), b",".join((bare, challenge.data, final)), "sha256")
    proof = bytes(a ^ b for a, b in zip(key, signature, strict=True))
    return server.step(final + b",p=" + b64encode(proof))


@pytest.mark.parametrize(
    ("name", "header", "bound", "outcome"),
    [
        ("SCRAM-SHA-256-PLUS", b"p=tls-unique,,", b"\1\2\3", "Identity"),
        ("SCRAM-SHA-256-PLUS", b"p=tls-unique,,", b"\1\2\4", "Channel bindings do not match"),
        ("SCRAM-SHA-256-PLUS", b"p=tls-exporter,,", b"", "Unsupported channel binding type"),
        ("SCRAM-SHA-256-PLUS", b"n,,", b"", "needs channel binding"),
        ("SCRAM-SHA-256-PLUS", b"y,,", b"", "needs channel binding"),
        ("SCRAM-SHA-256", b"p=tls-unique,,", b"\1\2\3", "belongs to the -PLUS mechanism"),
        ("SCRAM-SHA-256", b"y,,", b"", "Server does support channel binding"),
        ("SCRAM-SHA-256", b"n,,", b"", "Identity"),
        ("SCRAM-SHA-256", b"n,,", b"\1\2\3", "Channel bindings do not match"),
        ("SCRAM-SHA-256", b"n,a=joe=2C=3D,", b"", "joe,="),
    ],
)
def test_scram_and_channel_binding(name: str, header: bytes, bound: bytes, outcome: str) -> None:
    server = mechanism(name, BOUND)
    assert isinstance(server, ScramServer)
    if outcome in ("Identity", "joe,="):
        got = scram(server, header, bound)
        assert isinstance(got, Identity)
        assert got.authzid == outcome.removeprefix("Identity")
    else:
        with pytest.raises(SASLError, match=outcome):
            scram(server, header, bound)


def test_our_own_client_and_a_wrong_password() -> None:
    for password, good in (("pencil", True), ("pencils", False)):
        client = ScramClient("us,er=", password, "theirs")
        server = mechanism("SCRAM-SHA-256", AROUND)
        assert isinstance(server, ScramServer)
        assert server.step(client.initial()) == Lookup("", "us,er=")
        challenge = server.known(keys("sha256", "pencil", b"salt"))
        assert isinstance(challenge, Challenge)
        response = client.step(challenge.data)
        if good:
            outcome = server.step(response)
            assert isinstance(outcome, Identity)
            assert client.step(outcome.data) == b""
        else:
            with pytest.raises(Mismatch):
                server.step(response)


def test_cram_md5_as_in_the_rfc() -> None:
    server = CramMD5Server(AROUND)
    assert server.step(None) == Challenge(AROUND.challenge)
    response = CramMD5Client("tim", "tanstaaftanstaaf").step(AROUND.challenge)
    assert response == b"tim b913a602c7eda7a495b4e6e7334d3890"  # RFC 2195 §2
    assert server.step(response) == Lookup("", "tim")
    digest = lambda challenge: hmac.new(b"tanstaaftanstaaf", challenge, "md5").digest()  # noqa: E731
    assert server.known(digest) == Identity("", "tim")
    with pytest.raises(Mismatch):
        server.known(None)


def test_bearer_tokens() -> None:
    # RFC 7628 §4.1
    message = b"n,a=user@example.com,\1host=server.example.com\1port=143\1auth=Bearer vF9dft4q==\1\1"
    server = OAuthBearerServer(AROUND)
    assert server.step(message) == Credentials("", "user@example.com", "vF9dft4q==")
    assert json.loads(server.failure("mail", "https://x.test/")) == {
        "status": "invalid_token",
        "scope": "mail",
        "openid-configuration": "https://x.test/",
    }
    message = b"user=user@example.com\1auth=bearer vF9dft4q==\1\1"
    assert XOAuth2Server(AROUND).step(message) == Credentials("", "user@example.com", "vF9dft4q==")


@pytest.mark.parametrize(
    ("name", "response"),
    [
        ("OAUTHBEARER", b""),
        ("OAUTHBEARER", b"n,,\1auth=Bearer x\1\1"),
        ("OAUTHBEARER", b"p=tls-unique,a=u,\1auth=Bearer x\1\1"),
        ("OAUTHBEARER", b"n,a=u,\1auth=Basic x\1\1"),
        ("OAUTHBEARER", b"n,a=u,\1auth=Bearer \1\1"),
        ("OAUTHBEARER", b"n,a=u,\1auth=Bearer x\1"),
        ("XOAUTH2", b"user=\1auth=Bearer x\1\1"),
        ("XOAUTH2", b"user=u\1auth=Bearer \xff\1\1"),
        ("XOAUTH2", b"user=u\1auth=Bearer " + b"x" * 9000 + b"\1\1"),
        ("CRAM-MD5", b"tim b913"),
        ("SCRAM-SHA-1", b""),
        ("SCRAM-SHA-1", b"n,n=user,r=x"),
        ("SCRAM-SHA-1", b"x,,n=user,r=x"),
        ("SCRAM-SHA-1", b"n,,n=us=er,r=x"),
        ("SCRAM-SHA-1", b"n,,m=x,n=user,r=x"),
        ("SCRAM-SHA-1", b"n,,n=user,r=x\xc3\xa9"),
        ("EXTERNAL", b"a\0b"),
        ("ANONYMOUS", b"\xff"),
        ("GSSAPI", b""),
    ],
)
def test_what_is_no_response_is_refused(name: str, response: bytes) -> None:
    with pytest.raises(SASLError):
        mechanism(name, AROUND).step(response)


def test_external_needs_a_certificate_and_anonymous_nothing() -> None:
    named = Surroundings("", b"", {}, certificate="zs@mail.test")
    assert mechanism("EXTERNAL", named).step(b"joe") == Credentials("joe", "zs@mail.test", "")
    asked = mechanism("EXTERNAL", named)
    assert asked.step(None) == Challenge(b"")
    assert asked.step(b"") == Credentials("", "zs@mail.test", "")
    with pytest.raises(Mismatch):
        mechanism("EXTERNAL", AROUND).step(b"")
    assert mechanism("ANONYMOUS", AROUND).step(b"trace@x.test") == Identity("", "anon")
