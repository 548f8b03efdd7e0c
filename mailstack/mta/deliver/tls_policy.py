"""How smtp(8) secures its connections: smtp_tls_security_level, smtp_tls_policy_maps, and what they demand.

A policy is looked up by the nexthop as the transport has it (`[host]:port`, `host:port`), and for a plain
domain also by its parents (`.example.com`). Its value is a level and `name=value` attributes: `match`,
`protocols`, `ciphers`, `exclude`, `servername`. One that cannot be understood defers the mail (`client TLS
configuration problem`), with a warning that says why; in main.cf it is a configuration error.

| level | what it asks of the server |
|---|---|
| none | nothing: plain text |
| may | TLS where it is offered |
| encrypt | TLS |
| verify, secure | a certificate of a trusted authority, for a name of `match` |
| fingerprint | a certificate, or a public key, with a fingerprint of `match` |

`dane` and `dane-only` are refused: the resolver does not say what DNSSEC has validated. `half-dane` is no
configurable level.

Standards: RFC 3207, RFC 6125 §6.4 (names), RFC 7435 (opportunistic security).
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import cast

from mailstack.config.errors import ConfigError
from mailstack.config.postfix.lines import words
from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import Table
from mailstack.net.log import Log
from mailstack.net.tls import Protocols, client_context, parse_protocols
from mailstack.storage.tables import TableError


class TLSLevel(Enum):
    """smtp_tls_security_level."""

    NONE = "none"
    MAY = "may"
    ENCRYPT = "encrypt"
    FINGERPRINT = "fingerprint"
    VERIFY = "verify"
    SECURE = "secure"

    @property
    def mandatory(self) -> bool:
        """Without TLS nothing is delivered."""
        return self not in (TLSLevel.NONE, TLSLevel.MAY)

    @property
    def trusting(self) -> bool:
        """An authority must have signed the certificate."""
        return self in (TLSLevel.VERIFY, TLSLevel.SECURE)


@dataclass(frozen=True, slots=True)
class Policy:
    """What connections to one destination have to be."""

    level: TLSLevel
    context: ssl.SSLContext | None = None
    match: tuple[str, ...] = ()
    """Names (`nexthop`, `dot-nexthop`, `hostname`, or as they stand), or fingerprints."""
    digest: str = "sha256"
    servername: str = ""
    """What SNI says: `hostname`, `nexthop`, or a name; empty: nothing."""

    def server_name(self, nexthop: str, host: str) -> str | None:
        """The name for SNI. `nexthop`: the domain, without brackets and port."""
        return {"": None, "hostname": host, "nexthop": nexthop}.get(self.servername, self.servername)

    def matches(self, obj: ssl.SSLObject, nexthop: str, host: str) -> bool:
        """Whether the server's certificate is one that is asked for (its trust has been seen to)."""
        if self.level is TLSLevel.FINGERPRINT:
            der = obj.getpeercert(binary_form=True) or b""
            return any(mark in self.match for mark in fingerprints(der, self.digest))
        wanted = [
            {"nexthop": nexthop, "dot-nexthop": f".{nexthop}", "hostname": host}.get(name, name).lower()
            for name in self.match
        ]
        names = certificate_names(obj)
        return any(name_matches(pattern, name) for pattern in wanted for name in names)


class Unusable(Exception):  # noqa: N818 - a condition
    """A policy that cannot be followed; `str()` says why."""


PLAIN = Policy(TLSLevel.NONE)


class TLSPolicies:
    """The policies of one configuration."""

    def __init__(self, conf: MainCf, open_table: Callable[[str], Table], log: Log) -> None:
        self._conf = conf
        self._log = log
        self._contexts: dict[tuple[object, ...], ssl.SSLContext] = {}
        try:
            self.tables: Sequence[Table] = [open_table(name) for name in conf.list("smtp_tls_policy_maps")]
        except TableError as error:
            raise conf.error("smtp_tls_policy_maps", str(error)) from None
        self._default = self._configured()

    def find(self, nexthop: str) -> Policy:
        """The policy for a nexthop. Raises `Unusable`, `TableError` or `OSError`."""
        if self.tables:
            value, where = self._look_up(nexthop)
            if value is not None:
                try:
                    return self._parse(value)
                except (Unusable, ConfigError) as error:
                    raise Unusable(f'smtp_tls_policy_maps, next-hop destination "{where}": {error}') from None
        return self._default

    def _look_up(self, nexthop: str) -> tuple[str | None, str]:
        key = nexthop.lower()
        plain = key[:1] not in ("[", ".") and ":" not in key
        while key:
            for table in self.tables:
                value = table.lookup(key)
                if value is not None:
                    return value, key
            if not plain:
                break
            dot = key.find(".", 1)
            key = key[dot:] if dot > 0 else ""
        return None, ""

    def _configured(self) -> Policy:
        """What main.cf says for every destination. Raises `ConfigError`."""
        conf = self._conf
        name = conf.str("smtp_tls_security_level")
        if not name:
            if conf.bool("smtp_enforce_tls"):
                name = "verify" if conf.bool("smtp_tls_enforce_peername") else "encrypt"
            else:
                name = "may" if conf.bool("smtp_use_tls") else "none"
        try:
            policy = self._policy(_level(name), {})
            if conf.bool("smtp_tls_wrappermode") and not policy.level.mandatory:
                raise Unusable('"smtp_tls_wrappermode = yes" requires "encrypt" (or stronger)')
            return policy
        except Unusable as error:
            raise conf.error("smtp_tls_security_level", str(error)) from None

    def _parse(self, value: str) -> Policy:
        """A policy of the table. Raises `Unusable`."""
        first, *rest = words(value) or [""]
        attributes: dict[str, str] = {}
        for word in rest:
            name, equals, text = word.partition("=")
            if not equals:
                raise Unusable(f'malformed attribute/value pair "{word}"')
            if name not in ("match", "protocols", "ciphers", "exclude", "servername"):
                raise Unusable(f'invalid attribute name: "{name}"')
            attributes[name] = text
        level = _level(first)
        if level is TLSLevel.NONE and attributes:
            raise Unusable("attributes at security level none")
        if "match" in attributes and not (level.trusting or level is TLSLevel.FINGERPRINT):
            raise Unusable(f'attribute "match" invalid at security level "{level.value}"')
        return self._policy(level, attributes)

    def _policy(self, level: TLSLevel, attributes: dict[str, str]) -> Policy:
        if level is TLSLevel.NONE:
            return PLAIN
        conf, mandatory = self._conf, level.mandatory
        if mandatory:
            protocols, ciphers = (
                conf.str("smtp_tls_mandatory_protocols"),
                conf.str("smtp_tls_mandatory_ciphers"),
            )
        else:
            protocols, ciphers = conf.str("smtp_tls_protocols"), conf.str("smtp_tls_ciphers")
        protocols = attributes.get("protocols", protocols).replace(":", " ")
        ciphers = attributes.get("ciphers", ciphers)
        exclude = conf.list("smtp_tls_exclude_ciphers")
        if mandatory:
            exclude = exclude + conf.list("smtp_tls_mandatory_exclude_ciphers")
        if "exclude" in attributes:
            exclude = attributes["exclude"].replace(":", " ").split()
        digest = conf.str("smtp_tls_fingerprint_digest")
        match level:
            case TLSLevel.FINGERPRINT:
                found = _marks(conf.list("smtp_tls_fingerprint_cert_match"))
                if digest not in hashlib.algorithms_available:
                    raise Unusable(f"smtp_tls_fingerprint_digest: unknown digest {digest}")
            case TLSLevel.VERIFY:
                found = tuple(conf.list("smtp_tls_verify_cert_match"))
            case TLSLevel.SECURE:
                found = tuple(conf.list("smtp_tls_secure_cert_match"))
            case _:
                found = ()
        if "match" in attributes:
            if level is TLSLevel.FINGERPRINT:
                found = _marks(attributes["match"].split("|"))
            else:
                found = tuple(attributes["match"].replace("|", ":").split(":"))
        if not found and (level.trusting or level is TLSLevel.FINGERPRINT):
            raise Unusable(f"level {level.value} needs something to match")
        context = self._context(level.trusting, protocols, ciphers, tuple(exclude))
        servername = attributes.get("servername", conf.str("smtp_tls_servername"))
        return Policy(level, context, found, digest, servername)

    def _context(
        self, verify: bool, protocols: str, ciphers: str, exclude: tuple[str, ...]
    ) -> ssl.SSLContext:
        key = (verify, protocols, ciphers, exclude)
        context = self._contexts.get(key)
        if context is None:
            context = self._contexts[key] = self._made(verify, protocols, ciphers, exclude)
        return context

    def _made(self, verify: bool, protocols: str, ciphers: str, exclude: tuple[str, ...]) -> ssl.SSLContext:
        conf = self._conf
        try:
            wanted: Protocols = parse_protocols(protocols)
        except ValueError as error:
            raise Unusable(str(error)) from None
        if ciphers not in _GRADES:
            raise Unusable(f'invalid cipher grade: "{ciphers}"')
        ca_file, ca_path = conf.str("smtp_tls_CAfile"), conf.str("smtp_tls_CApath")
        try:
            context = client_context(
                verify=verify,
                ca_file=Path(ca_file) if ca_file else None,
                ca_path=Path(ca_path) if ca_path else None,
                protocols=wanted,
                append_default=conf.bool("tls_append_default_CA"),
            )
        except OSError as error:
            where = ca_file or ca_path
            raise conf.error("smtp_tls_CAfile", f"{where}: {error.strerror or error}") from None
        # What the certificate is for is compared here, with the policy's own names.
        context.check_hostname = False
        grade = _GRADES[ciphers]
        if grade or exclude:
            listed = ":".join((grade or "HIGH:MEDIUM", "!aNULL", *(f"!{name}" for name in exclude)))
            try:
                context.set_ciphers(listed)
            except ssl.SSLError:
                raise Unusable(f"no cipher is left of {listed}") from None
        cert = conf.str("smtp_tls_cert_file")
        if cert and cert != "none":
            try:
                context.load_cert_chain(cert, conf.str("smtp_tls_key_file") or cert)
            except OSError as error:
                raise conf.error("smtp_tls_cert_file", f"{cert}: {error.strerror or error}") from None
        return context


_GRADES = {"high": "HIGH", "medium": "", "low": "", "export": ""}
"""Cipher grades; an empty one is what OpenSSL and Python offer by themselves, which has nothing weaker."""


def _level(name: str) -> TLSLevel:
    if name in ("dane", "dane-only"):
        raise Unusable(f"level {name} is not supported: the resolver does not validate DNSSEC")
    try:
        return TLSLevel(name)
    except ValueError:
        raise Unusable(f'invalid security level "{name}"') from None


def _marks(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(mark.upper() for value in values for mark in value.split("|"))


def fingerprints(der: bytes, digest: str) -> tuple[str, ...]:
    """Of a certificate and of its public key, as `postfix tls` writes them: `AB:CD:…`."""
    parts = (der, public_key(der))
    return tuple(hashlib.new(digest, part, usedforsecurity=False).digest().hex(":").upper() for part in parts)


def public_key(der: bytes) -> bytes:
    """The SubjectPublicKeyInfo of an X.509 certificate (RFC 5280 §4.1); empty where it is none.

    The seventh element of TBSCertificate, or the sixth where there is no version.
    """
    try:
        _, start, _ = _element(der, 0)  # Certificate
        _, place, end = _element(der, start)  # TBSCertificate
        fields: list[tuple[int, int]] = []
        while place < end:
            tag, _, after = _element(der, place)
            if tag != 0xA0:
                fields.append((place, after))
            place = after
        first, last = fields[5]
        return der[first:last]
    except IndexError:
        return b""


def _element(der: bytes, place: int) -> tuple[int, int, int]:
    """(tag, start of the content, end) of the DER element at `place`."""
    tag, length, start = der[place], der[place + 1], place + 2
    if length & 0x80:
        count = length & 0x7F
        length = int.from_bytes(der[start : start + count], "big")
        start += count
    return tag, start, start + length


def certificate_names(obj: ssl.SSLObject) -> list[str]:
    """The DNS names of a verified certificate; its common name where it has none (RFC 6125 §6.4.4)."""
    found = obj.getpeercert() or {}
    alternatives = cast("tuple[tuple[str, str], ...]", found.get("subjectAltName", ()))
    names = [value for kind, value in alternatives if kind == "DNS"]
    if not names:
        subject = cast("tuple[tuple[tuple[str, str], ...], ...]", found.get("subject", ()))
        names += [value for group in subject for kind, value in group if kind == "commonName"]
    return [name.lower().rstrip(".") for name in names]


def name_matches(pattern: str, name: str) -> bool:
    """Whether a certificate's name is what is asked for: `.example.com` is any name below example.com.

    In the certificate's name `*` stands for one whole label at the front (RFC 6125 §6.4.3).
    """
    if pattern.startswith("."):
        return name.endswith(pattern) and len(name) > len(pattern)
    if name.startswith("*."):
        return "." in pattern and pattern.partition(".")[2] == name[2:]
    return pattern == name
