"""Keys that sign zones, in the files that BIND keeps them in: `Kname.+alg+id.key`, `.private` and `.state`.

So `dnssec-keygen`'s keys are used, and BIND goes on with ours. A key file that cannot be read is a
`ConfigError` that names it: a zone signed with another key than its parent vouches for is worse than one that
is not there.
"""

from __future__ import annotations

import base64
import os
import re
import struct
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from mailstack.config.errors import ConfigError
from mailstack.config.named.model import DnssecPolicy, PolicyKey

ALGORITHMS: Final = {13: "ECDSAP256SHA256", 14: "ECDSAP384SHA384", 15: "ED25519"}
_CURVES: Final = {13: (ec.SECP256R1(), hashes.SHA256(), 32), 14: (ec.SECP384R1(), hashes.SHA384(), 48)}
_FILE = re.compile(r"K(?P<name>.*)\.\+(?P<algorithm>\d{3})\+(?P<tag>\d{5})\.private\Z")
ZONE, SEP, REVOKE = 0x0100, 0x0001, 0x0080
Private = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a zone. `flags` as in its DNSKEY record; a KSK signs the keys, a ZSK everything else."""

    algorithm: int
    flags: int
    public: bytes
    private: Private = field(compare=False, repr=False)
    ksk: bool
    zsk: bool

    @property
    def dnskey(self) -> bytes:
        """The data of its DNSKEY record (RFC 4034 §2.1)."""
        return struct.pack("!HBB", self.flags, 3, self.algorithm) + self.public

    @property
    def tag(self) -> int:
        """RFC 4034, appendix B."""
        data = self.dnskey
        total = sum(data[::2]) * 256 + sum(data[1::2])
        return (total + (total >> 16)) & 0xFFFF

    def sign(self, data: bytes) -> bytes:
        """A signature in the form of RRSIG (RFC 6605 §4, RFC 8080 §4)."""
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            return self.private.sign(data)
        _, digest, size = _CURVES[self.algorithm]
        r, s = decode_dss_signature(self.private.sign(data, ec.ECDSA(digest)))
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def keys_for(origin: str, policy: DnssecPolicy, directory: Path, now: float) -> list[Key]:
    """The keys that `policy` asks for: those in `directory`, and new ones where there is none.

    `origin` is the zone's name without final dot. Raises `ConfigError` when a file cannot be read or written.
    """
    present = list(_read_all(origin, directory))
    chosen: list[Key] = []
    for wanted in policy.keys:
        fitting = [key for key in present if _fits(key, wanted) and key not in chosen]
        if not fitting:
            fitting = [_generate(origin, wanted, policy, directory, now)]
        chosen.append(fitting[0])
    return chosen


def _fits(key: Key, wanted: PolicyKey) -> bool:
    return (key.algorithm, key.ksk, key.zsk) == (wanted.algorithm, wanted.ksk, wanted.zsk)


# ---- files


def _shown(origin: str) -> str:
    """A zone's name in the names of files, as BIND writes it."""
    return f"{origin}." if origin else "."


def _read_all(origin: str, directory: Path) -> Iterable[Key]:
    try:
        found = sorted(os.listdir(directory))
    except OSError as error:
        raise ConfigError(directory, 0, f"key-directory: {error.strerror}") from error
    for name in found:
        match = _FILE.match(name)
        if (
            match is not None
            and match["name"] + "." == _shown(origin)
            and int(match["algorithm"]) in ALGORITHMS
        ):
            key = _read(directory / name)
            if key is not None:
                yield key


def _read(path: Path) -> Key | None:
    """The key of a `.private` file; None for one that is in use no more. Raises `ConfigError`."""
    fields = _fields(path)
    public_path = path.with_suffix(".key")
    record = [line for line in _text(public_path).splitlines() if line and not line.startswith(";")]
    try:
        rdata = record[0].split(" DNSKEY ")[1].split()
        flags, algorithm, public = (
            int(rdata[0]),
            int(rdata[2]),
            base64.b64decode("".join(rdata[3:]), validate=True),
        )
        secret = base64.b64decode(fields["PrivateKey"], validate=True)
        private = _private(algorithm, secret)
    except (IndexError, KeyError, ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(path, 0, "this is no key file as dnssec-keygen writes it") from error
    if _public(private) != public:
        raise ConfigError(path, 0, f"the key is another one than that of {public_path.name}")
    if flags & REVOKE or not flags & ZONE or "Inactive" in fields or "Delete" in fields:
        return None
    state = _fields(path.with_suffix(".state")) if path.with_suffix(".state").exists() else {}
    ksk = state.get("KSK", "yes" if flags & SEP else "no") == "yes"
    zsk = state.get("ZSK", "no" if flags & SEP else "yes") == "yes"
    return Key(algorithm, flags, public, private, ksk, zsk)


def _fields(path: Path) -> Mapping[str, str]:
    pairs = (line.split(":", 1) for line in _text(path).splitlines() if ":" in line and line[:1] != ";")
    return {name: value.strip() for name, value in pairs}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError as error:
        raise ConfigError(path, 0, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(path, 0, "this is no key file as dnssec-keygen writes it") from error


def _private(algorithm: int, secret: bytes) -> Private:
    if algorithm == 15:
        return ed25519.Ed25519PrivateKey.from_private_bytes(secret)
    return ec.derive_private_key(int.from_bytes(secret, "big"), _CURVES[algorithm][0])


def _public(private: Private) -> bytes:
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private.public_key().public_bytes_raw()
    numbers = private.public_key().public_numbers()
    size = (numbers.curve.key_size + 7) // 8
    return numbers.x.to_bytes(size, "big") + numbers.y.to_bytes(size, "big")


def _secret(private: Private) -> bytes:
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private.private_bytes_raw()
    return private.private_numbers().private_value.to_bytes((private.key_size + 7) // 8, "big")


def _generate(origin: str, wanted: PolicyKey, policy: DnssecPolicy, directory: Path, now: float) -> Key:
    """A new key, on disk before it is used. Raises `ConfigError`."""
    algorithm = wanted.algorithm
    flags = ZONE | (SEP if wanted.ksk else 0)
    if algorithm == 15:
        private: Private = ed25519.Ed25519PrivateKey.generate()
    else:
        private = ec.generate_private_key(_CURVES[algorithm][0])
    key = Key(algorithm, flags, _public(private), private, wanted.ksk, wanted.zsk)
    stamp = time.strftime("%Y%m%d%H%M%S", time.gmtime(now))
    readable = f"{stamp} ({time.strftime('%a %b %e %H:%M:%S %Y', time.gmtime(now))})"
    role = "key-signing" if wanted.ksk else "zone-signing"
    shown = _shown(origin)
    yes = {True: "yes", False: "no"}
    public = base64.b64encode(key.public).decode()
    texts = {
        ".state": f"; This is the state of key {key.tag}, for {shown}\n"
        f"Algorithm: {algorithm}\nLength: {_bits(key)}\nLifetime: 0\n"
        f"KSK: {yes[wanted.ksk]}\nZSK: {yes[wanted.zsk]}\n"
        f"Generated: {readable}\nPublished: {readable}\nActive: {readable}\n",
        ".private": f"Private-key-format: v1.3\nAlgorithm: {algorithm} ({ALGORITHMS[algorithm]})\n"
        f"PrivateKey: {base64.b64encode(_secret(private)).decode()}\n"
        f"Created: {stamp}\nPublish: {stamp}\nActivate: {stamp}\n",
        ".key": f"; This is a {role} key, keyid {key.tag}, for {shown}\n"
        f"; Created: {readable}\n; Publish: {readable}\n; Activate: {readable}\n"
        f"{shown} {policy.dnskey_ttl} IN DNSKEY {flags} 3 {algorithm} {public}\n",
    }
    stem = f"K{shown}+{algorithm:03}+{key.tag:05}"
    for suffix, text in texts.items():
        _write(directory / (stem + suffix), text, 0o600 if suffix == ".private" else 0o644)
    return key


def _bits(key: Key) -> int:
    return 256 if isinstance(key.private, ed25519.Ed25519PrivateKey) else key.private.key_size


def _write(path: Path, text: str, mode: int) -> None:
    temporary = path.with_name(path.name + ".new")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except OSError as error:
        raise ConfigError(path, 0, f"a new key cannot be kept: {error.strerror}") from error
