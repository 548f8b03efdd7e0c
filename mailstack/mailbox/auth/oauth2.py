"""Bearer tokens: JSON Web Tokens (RFC 7519) whose signature is checked with keys on disk, as Dovecot does.

The key is `KEYS/AZP/ALG/KID`: the token's `azp`, its `alg` and its `kid`, `default` for what it does not
name; a base64 secret for HS256 and its kin, a public key or certificate in PEM for the others (RFC 7518 §3).
A token needs `sub` and `exp`; `nbf` and `iat` count where they are. Everything here runs in a thread.
"""

from __future__ import annotations

import binascii
import hmac
import json
from base64 import b64decode, urlsafe_b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mailstack.config.dovecot.model import OAuth2
from mailstack.config.dovecot.variables import expand, user_values

_HASHES = {"256": "sha256", "384": "sha384", "512": "sha512"}
_ALGORITHMS = tuple(f"{kind}{bits}" for kind in ("HS", "RS", "PS", "ES") for bits in _HASHES)
LEEWAY = 60
"""Seconds by which a token may come before its time (clocks differ)."""


class TokenError(Exception):
    """The token lets nobody in; the text is for the log and holds nothing of it."""


def check(token: str, user: str, config: OAuth2, now: float) -> Mapping[str, Any]:
    """The token's claims, if it is good and `user`'s (canonical). `now`: seconds since 1970.

    Raises `TokenError`.
    """
    parts = token.split(".")
    if len(parts) != 3:
        raise TokenError("not a JWT")
    header, claims = _json(parts[0]), _json(parts[1])
    algorithm = header.get("alg")
    if algorithm not in _ALGORITHMS or header.get("crit"):
        raise TokenError("unsupported algorithm")
    if str(header.get("typ", "JWT")).upper() not in ("JWT", "AT+JWT"):
        raise TokenError("not a JWT by its type")
    key = _key(config, claims.get("azp"), algorithm, header.get("kid"))
    signed = f"{parts[0]}.{parts[1]}".encode()
    if not _signed(algorithm, key, signed, _decode(parts[2])):
        raise TokenError("wrong signature")
    _judge(claims, config, now)
    name = claims.get(config.username_attribute)
    if not isinstance(name, str) or not name:
        raise TokenError(f"no field {config.username_attribute}")
    if expand(config.username_format, user_values(name)) != expand(config.username_format, user_values(user)):
        raise TokenError("another user's token")
    return claims


def _judge(claims: Mapping[str, Any], config: OAuth2, now: float) -> None:
    if not isinstance(claims.get("sub"), str):
        raise TokenError("no field sub")
    times = {name: claims.get(name) for name in ("exp", "nbf", "iat")}
    for name, value in times.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise TokenError(f"field {name} is no time")
    expires, begins, issued = times["exp"], times["nbf"], times["iat"]
    if expires is None or expires <= now:
        raise TokenError("it has expired, or does not say when it does")
    if (begins or 0) > now + LEEWAY or (issued or 0) > now + LEEWAY:
        raise TokenError("it is not valid yet")
    if config.issuers and claims.get("iss") not in config.issuers:
        raise TokenError("its issuer is not one of issuers")
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if config.client_id and audience is not None and config.client_id not in audiences:
        raise TokenError("it is for another client_id")
    scopes = str(claims.get("scope", "")).split()
    if config.scope and not set(config.scope) <= set(scopes):
        raise TokenError("it lacks a scope")
    if config.active_attribute:
        active = str(claims.get(config.active_attribute, ""))
        if not active or (config.active_value and active != config.active_value):
            raise TokenError(f"its {config.active_attribute} is not {config.active_value or 'set'}")


def _key(config: OAuth2, azp: object, algorithm: str, kid: object) -> bytes:
    names = [_name(azp), algorithm, _name(kid)]
    try:
        return Path(config.keys, *names).read_bytes()
    except (OSError, ValueError):
        raise TokenError(f"there is no key {'/'.join(names)[:100]!r}") from None


def _name(value: object) -> str:
    """A part of a key's path; nothing in a token leads out of the folder."""
    if value is None:
        return "default"
    name = str(value).replace("%", "%25").replace("/", "%2f")
    if not isinstance(value, str) or name in ("", ".", "..") or "\0" in name:
        raise TokenError("azp or kid names no key")
    return name


def _signed(algorithm: str, key: bytes, data: bytes, signature: bytes) -> bool:
    digest = _HASHES[algorithm[2:]]
    if algorithm.startswith("HS"):
        try:
            secret = b64decode(key.strip(), validate=True)
        except binascii.Error:
            raise TokenError("the key is not base64") from None
        return len(secret) > 0 and hmac.compare_digest(hmac.digest(secret, data, digest), signature)
    return _public(algorithm, key, data, signature, digest)


def _public(algorithm: str, key: bytes, data: bytes, signature: bytes, digest: str) -> bool:
    """Signatures by keys of two halves."""
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
        from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
        from cryptography.x509 import load_pem_x509_certificate
    except ImportError:
        raise TokenError("the Python package cryptography is not installed") from None
    hashed = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}[digest]
    try:
        if b"BEGIN CERTIFICATE" in key:
            public: object = load_pem_x509_certificate(key).public_key()
        else:
            public = serialization.load_pem_public_key(key)
    except ValueError:
        raise TokenError("the key is not a public key in PEM") from None
    try:
        if algorithm.startswith("ES") and isinstance(public, ec.EllipticCurvePublicKey):
            size = (public.curve.key_size + 7) // 8
            if len(signature) != 2 * size:
                return False
            r, s = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
            public.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashed))
        elif algorithm.startswith("RS") and isinstance(public, rsa.RSAPublicKey):
            public.verify(signature, data, padding.PKCS1v15(), hashed)
        elif algorithm.startswith("PS") and isinstance(public, rsa.RSAPublicKey):
            pss = padding.PSS(mgf=padding.MGF1(hashed), salt_length=hashed.digest_size)
            public.verify(signature, data, pss, hashed)
        else:
            raise TokenError(f"the key is not one for {algorithm}")
    except InvalidSignature:
        return False
    return True


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(_decode(text))
    except (ValueError, RecursionError):
        raise TokenError("not JSON") from None
    if not isinstance(found, dict):
        raise TokenError("not JSON of an object")
    return found


def _decode(text: str) -> bytes:
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise TokenError("not base64") from None
