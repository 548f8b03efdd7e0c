"""The throwaway authority and its leaf."""

from __future__ import annotations

import hashlib
import ssl
import time
from pathlib import Path

import pytest

from mailstack.runtime import tls
from mailstack.runtime.errors import UsageProblem

NAMES = ("mail.a.test", "localhost", "127.0.0.1", "::1", "127.9.9.3")
NOW = time.time()


def shake(folder: Path, name: str) -> None:
    """A handshake in memory that verifies `name` against the folder's authority, as strictly as OpenSSL can."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    client = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    one, two = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(one, two, server_hostname=name)
    far = server.wrap_bio(two, one, server_side=True)
    for _ in range(4):
        for end in (near, far):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
    assert near.version() is not None


@pytest.mark.parametrize("name", NAMES)
def test_every_name_and_address_verifies(tmp_path: Path, name: str) -> None:
    tls.ensure(tmp_path, "p", NAMES, NOW)
    shake(tmp_path, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(tmp_path, "elsewhere.test")


def test_reuse_and_reissue(tmp_path: Path) -> None:
    first = tls.ensure(tmp_path, "p", NAMES, NOW)
    authority = (tmp_path / "ca.pem").read_bytes()
    assert first.issued
    again = tls.ensure(tmp_path, "p", NAMES[:2], NOW + 86400)
    assert (again.issued, again.digest) == (False, first.digest)
    more = tls.ensure(tmp_path, "p", (*NAMES, "imap.b.test"), NOW)
    assert (more.issued, more.digest != first.digest) == (True, True)
    shake(tmp_path, "imap.b.test")
    near_end = NOW + (tls.LEAF_DAYS - 10) * 86400
    assert tls.ensure(tmp_path, "p", NAMES, near_end).issued
    assert (tmp_path / "ca.pem").read_bytes() == authority
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir() if "key" in path.name} == {
        "key.pem": 0o600, "ca-key.pem": 0o600,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["cert.pem", "key.pem", "ca.pem", "issued.json"])
def test_damage_is_repaired(tmp_path: Path, name: str) -> None:
    tls.ensure(tmp_path, "p", NAMES, NOW)
    (tmp_path / name).write_text("damaged")
    if name == "ca.pem":
        (tmp_path / "issued.json").unlink()
    assert tls.ensure(tmp_path, "p", NAMES, NOW).issued
    shake(tmp_path, "mail.a.test")


def test_files_of_the_users_own(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    ours.mkdir()
    tls.ensure(theirs, "p", NAMES, NOW)
    adopted = tls.adopt(ours, theirs / "cert.pem", theirs / "key.pem")
    assert (adopted.issued, adopted.ca) == (True, None)
    assert not tls.adopt(ours, theirs / "cert.pem", theirs / "key.pem").issued
    chain = theirs / "chain.pem"
    chain.write_bytes((theirs / "cert.pem").read_bytes() + (theirs / "ca.pem").read_bytes())
    assert tls.adopt(ours, chain, theirs / "key.pem").ca == ours / "ca.pem"
    shake(ours, "mail.a.test")
    with pytest.raises(UsageProblem, match="are not a certificate and its key"):
        tls.adopt(ours, theirs / "cert.pem", theirs / "ca-key.pem")
    with pytest.raises(UsageProblem, match="No such file"):
        tls.adopt(ours, theirs / "none.pem", theirs / "key.pem")


def test_the_digest_of_the_key_is_that_of_a_library(tmp_path: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    tls.ensure(tmp_path, "p", NAMES, NOW)
    chain = (tmp_path / "cert.pem").read_bytes()
    key = x509.load_pem_x509_certificate(chain).public_key()
    whole = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert tls.key_digest(b"a comment\n" + chain + chain) == hashlib.sha256(whole).hexdigest()
    assert tls.key_digest(b"") is tls.key_digest(chain[:60]) is tls.key_digest(chain[:200]) is None


def test_dkim_keys_of_either_kind_and_half(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    pem, path = serialization.Encoding.PEM, tmp_path / "key.pem"
    texts: dict[str, set[str]] = {"rsa": set(), "ed25519": set()}
    for kind, key in (
        ("rsa", rsa.generate_private_key(65537, 2048)),
        ("ed25519", ed25519.Ed25519PrivateKey.generate()),
    ):
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        for data in (
            private,
            key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo),
        ):
            path.write_bytes(data)
            texts[kind].add(tls.dkim_text(path, "dkim.mail of a.test"))
    (text,), (short,) = texts["rsa"], texts["ed25519"]
    assert text.startswith("v=DKIM1; k=rsa; p=MIIBIjANBgkqhkiG9w0B")
    assert short.startswith("v=DKIM1; k=ed25519; p=") and len(short) == 22 + 44
    other = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(
        other.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    with pytest.raises(UsageProblem, match="neither an RSA nor an Ed25519 key"):
        tls.dkim_text(path, "dkim.mail of a.test")
    path.write_bytes(b"nothing")
    with pytest.raises(UsageProblem, match=r"key.pem \(dkim.mail of a.test\) is no key"):
        tls.dkim_text(path, "dkim.mail of a.test")
    with pytest.raises(UsageProblem, match="cannot be read"):
        tls.dkim_text(tmp_path / "none", "dkim.mail of a.test")
