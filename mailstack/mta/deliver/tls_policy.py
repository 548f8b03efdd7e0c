"""How smtp(8) and lmtp(8) secure connections: smtp_tls_security_level, smtp_tls_policy_maps, and what they
demand. Where these names say `smtp_`, LMTP has parameters of its own.

A policy is looked up by the nexthop as the transport has it (`[host]:port`, `host:port`), and for a plain
domain also by its parents (`.example.com`). Its value is a level and `name=value` attributes: `match`,
`protocols`, `ciphers`, `exclude`, `servername`, `tafile`, `connection_reuse`. One that cannot be understood
defers the mail (`client TLS configuration problem`), with a warning that says why; in main.cf it is a
configuration error. Where there is no policy table, the old `smtp_tls_per_site` is asked by nexthop and host.

| level | what it asks of the server |
|---|---|
| none | nothing: plain text |
| may | TLS where it is offered |
| encrypt | TLS |
| verify, secure | a certificate of a trusted authority, for a name of `match` |
| fingerprint | a certificate, or a public key, with a fingerprint of `match` |
| dane, dane-only | a certificate that the DNS vouches for (`dane`), where it vouches for any |

`half-dane` is what `dane` is for an exchanger that an insecure MX record names; it is no configurable level.

Standards: RFC 3207, RFC 6125 §6.4 (names), RFC 7435 (opportunistic security).
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from mailstack.config.errors import ConfigError
from mailstack.config.postfix.lines import words
from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import Table
from mailstack.mta.deliver.certificates import certificate_names, chain_length, fingerprints, name_matches
from mailstack.mta.deliver.names import Daemon, Names
from mailstack.net.log import Log
from mailstack.net.tls import Protocols, client_context, parse_protocols

if TYPE_CHECKING:
    from mailstack.mta.deliver.dane import Dane


class TLSLevel(Enum):
    """smtp_tls_security_level."""

    NONE = "none"
    MAY = "may"
    ENCRYPT = "encrypt"
    FINGERPRINT = "fingerprint"
    HALF_DANE = "half-dane"
    DANE = "dane"
    DANE_ONLY = "dane-only"
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

    @property
    def dane(self) -> bool:
        """The DNS has to vouch for the certificate."""
        return self in (TLSLevel.HALF_DANE, TLSLevel.DANE, TLSLevel.DANE_ONLY)


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
    reuse: bool = False
    """Its connections may be kept for another delivery."""
    depth: int = -1
    """How far above the server's certificate a trusted chain may end; -1: no matter."""
    wide: bool = False
    """`*` in a certificate's name stands for any number of labels."""
    dane: Dane | None = None
    """What the DNS says of the host, at the levels that ask."""
    may: Policy | None = None
    """With DANE: the policy for a host that the DNS has nothing to say of."""
    encrypt: Policy | None = None
    """With DANE: the policy for a host of which it says nothing that can be used."""

    @property
    def demanding(self) -> bool:
        """Not every certificate will do."""
        return self.level.trusting or self.level.dane or self.level is TLSLevel.FINGERPRINT

    def server_name(self, nexthop: str, host: str) -> str | None:
        """The name for SNI. `nexthop`: the domain, without brackets and port."""
        return {"": None, "hostname": host, "nexthop": nexthop}.get(self.servername, self.servername)

    def matches(self, obj: ssl.SSLObject, nexthop: str, host: str) -> bool:
        """Whether the server's certificate is one that is asked for (its trust has been seen to)."""
        if self.level is TLSLevel.FINGERPRINT:
            der = obj.getpeercert(binary_form=True) or b""
            return any(mark in self.match for mark in fingerprints(der, self.digest))
        if self.dane is not None:
            from mailstack.mta.deliver.dane import peer_chain

            return self.dane.matches(peer_chain(obj))
        if self.depth >= 0 and chain_length(obj) - 1 > self.depth:
            return False
        wanted = [
            {"nexthop": nexthop, "dot-nexthop": f".{nexthop}", "hostname": host}.get(name, name).lower()
            for name in self.match
        ]
        names = certificate_names(obj)
        return any(name_matches(pattern, name, wide=self.wide) for pattern in wanted for name in names)


class Unusable(Exception):  # noqa: N818 - a condition
    """A policy that cannot be followed; `str()` says why. `soft`: nobody has configured that."""

    def __init__(self, text: str, *, soft: bool = False) -> None:
        super().__init__(text)
        self.soft = soft


PLAIN = Policy(TLSLevel.NONE)


class TLSPolicies:
    """The policies of one configuration."""

    def __init__(
        self, conf: MainCf, open_table: Callable[[str], Table], log: Log, daemon: Daemon = "smtp"
    ) -> None:
        self._names = Names(conf, daemon)
        self._log = log
        self._contexts: dict[tuple[object, ...], ssl.SSLContext] = {}
        self.tables: Sequence[Table] = self._names.tables("tls_policy_maps", open_table)
        self.sites: Sequence[Table] = ()
        """smtp_tls_per_site, where there is no policy table."""
        if not self.tables:
            self.sites = self._names.tables("tls_per_site", open_table)
        self._default = self._configured()

    def for_site(self, nexthop: str, host: str) -> Policy:
        """What smtp_tls_per_site says of a nexthop and its host. Raises what `find` does."""
        order = (None, TLSLevel.NONE, TLSLevel.MAY, TLSLevel.ENCRYPT, TLSLevel.VERIFY)
        found: TLSLevel | None = None
        for key in (nexthop.lower(), host.lower()):
            level = self._site(key)
            # The stricter counts, but NONE is more than MAY.
            gentle = {found, level} <= {TLSLevel.NONE, TLSLevel.MAY}
            if gentle and TLSLevel.NONE in (found, level):
                found = TLSLevel.NONE
            else:
                found = max(found, level, key=order.index)
        return self._default if found is None else self._policy(found, {})

    def _site(self, key: str) -> TLSLevel | None:
        for table in self.sites:
            value = table.lookup(key)
            if value is not None:
                level = _SITES.get(value.upper())
                if level is None:
                    raise Unusable(
                        f'{self._names.full("tls_per_site")}: unknown TLS policy "{value}" for {key}'
                    )
                return level
        return None

    def find(self, nexthop: str) -> Policy:
        """The policy for a nexthop. Raises `Unusable`, `TableError` or `OSError`."""
        if self.tables:
            value, where = self._look_up(nexthop)
            if value is not None:
                try:
                    return self._parse(value)
                except (Unusable, ConfigError) as error:
                    maps = self._names.full("tls_policy_maps")
                    raise Unusable(f'{maps}, next-hop destination "{where}": {error}') from None
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
        names = self._names
        name = names.str("tls_security_level")
        if not name:
            if names.bool("enforce_tls"):
                name = "verify" if names.bool("tls_enforce_peername") else "encrypt"
            else:
                name = "may" if names.bool("use_tls") else "none"
        try:
            policy = self._policy(_level(name), {})
            if names.bool("tls_wrappermode") and not policy.level.mandatory:
                raise Unusable(f'"{names.full("tls_wrappermode")} = yes" requires "encrypt" (or stronger)')
            return policy
        except Unusable as error:
            raise names.error("tls_security_level", str(error)) from None

    def _parse(self, value: str) -> Policy:
        """A policy of the table. Raises `Unusable`."""
        first, *rest = words(value) or [""]
        attributes: dict[str, str] = {}
        for word in rest:
            name, equals, text = word.partition("=")
            if not equals:
                raise Unusable(f'malformed attribute/value pair "{word}"')
            if name not in _ATTRIBUTES:
                raise Unusable(f'invalid attribute name: "{name}"')
            attributes[name] = text
        level = _level(first)
        if level is TLSLevel.NONE and attributes:
            raise Unusable("attributes at security level none")
        if attributes.get("connection_reuse", "yes") not in ("yes", "no"):
            raise Unusable('attribute "connection_reuse" is neither yes nor no')
        if "tafile" in attributes and not level.trusting:
            raise Unusable(f'attribute "tafile" invalid at security level "{level.value}"')
        if "match" in attributes and not (level.trusting or level is TLSLevel.FINGERPRINT):
            raise Unusable(f'attribute "match" invalid at security level "{level.value}"')
        return self._policy(level, attributes)

    def _policy(self, level: TLSLevel, attributes: dict[str, str]) -> Policy:
        if level is TLSLevel.NONE:
            return PLAIN
        names, mandatory = self._names, level.mandatory
        if mandatory:
            protocols, ciphers = names.str("tls_mandatory_protocols"), names.str("tls_mandatory_ciphers")
        else:
            protocols, ciphers = names.str("tls_protocols"), names.str("tls_ciphers")
        protocols = attributes.get("protocols", protocols).replace(":", " ")
        ciphers = attributes.get("ciphers", ciphers)
        exclude = list(names.list("tls_exclude_ciphers"))
        if mandatory:
            exclude += names.list("tls_mandatory_exclude_ciphers")
        if "exclude" in attributes:
            exclude = attributes["exclude"].replace(":", " ").split()
        digest = names.str("tls_fingerprint_digest")
        match level:
            case TLSLevel.FINGERPRINT:
                found = _marks(names.list("tls_fingerprint_cert_match"))
                if digest not in hashlib.algorithms_available:
                    raise Unusable(f"{names.full('tls_fingerprint_digest')}: unknown digest {digest}")
            case TLSLevel.VERIFY:
                found = tuple(names.list("tls_verify_cert_match"))
            case TLSLevel.SECURE:
                found = tuple(names.list("tls_secure_cert_match"))
            case _:
                found = ()
        if "match" in attributes:
            if level is TLSLevel.FINGERPRINT:
                found = _marks(attributes["match"].split("|"))
            else:
                found = tuple(attributes["match"].replace("|", ":").split(":"))
        if not found and (level.trusting or level is TLSLevel.FINGERPRINT):
            raise Unusable(f"level {level.value} needs something to match")
        anchors: tuple[str, ...] = ()
        if level.trusting:
            anchors = (attributes["tafile"],) if "tafile" in attributes else self._anchors()
        context = self._context(level.trusting, anchors, protocols, ciphers, tuple(exclude))
        reuse = attributes.get("connection_reuse")
        return Policy(
            level,
            context,
            found,
            digest,
            attributes.get("servername", names.str("tls_servername")),
            reuse == "yes" if reuse else names.bool("tls_connection_reuse"),
            names.int("tls_scert_verifydepth") if level.trusting else -1,
            names.conf.bool("tls_wildcard_matches_multiple_labels"),
            may=self._policy(TLSLevel.MAY, attributes) if level is TLSLevel.DANE else None,
            encrypt=self._policy(TLSLevel.ENCRYPT, attributes) if level is TLSLevel.DANE else None,
        )

    def _anchors(self) -> tuple[str, ...]:
        return tuple(self._names.list("tls_trust_anchor_file"))

    def _context(
        self,
        verify: bool,
        anchors: tuple[str, ...],
        protocols: str,
        ciphers: str,
        exclude: tuple[str, ...],
    ) -> ssl.SSLContext:
        key = (verify, anchors, protocols, ciphers, exclude)
        context = self._contexts.get(key)
        if context is None:
            made = self._made(verify, anchors, protocols, ciphers, exclude)
            context = self._contexts[key] = made
        return context

    def _made(
        self,
        verify: bool,
        anchors: tuple[str, ...],
        protocols: str,
        ciphers: str,
        exclude: tuple[str, ...],
    ) -> ssl.SSLContext:
        names = self._names
        try:
            wanted: Protocols = parse_protocols(protocols)
        except ValueError as error:
            raise Unusable(str(error)) from None
        if ciphers not in _GRADES:
            raise Unusable(f'invalid cipher grade: "{ciphers}"')
        ca_file, ca_path = names.str("tls_CAfile"), names.str("tls_CApath")
        try:
            context = client_context(
                verify=verify and not anchors,
                ca_file=Path(ca_file) if ca_file else None,
                ca_path=Path(ca_path) if ca_path else None,
                protocols=wanted,
                append_default=names.conf.bool("tls_append_default_CA"),
            )
        except OSError as error:
            where = ca_file or ca_path
            raise names.error("tls_CAfile", f"{where}: {error.strerror or error}") from None
        # What the certificate is for is compared here, with the policy's own names.
        context.check_hostname = False
        if anchors:
            self._trust(context, anchors)
        grade = _GRADES[ciphers]
        if grade or exclude:
            listed = ":".join((grade or "HIGH:MEDIUM", "!aNULL", *(f"!{name}" for name in exclude)))
            try:
                context.set_ciphers(listed)
            except ssl.SSLError:
                raise Unusable(f"no cipher is left of {listed}") from None
        self._load_chains(context)
        return context

    def _trust(self, context: ssl.SSLContext, anchors: Sequence[str]) -> None:
        """Trust the certificates of these files, and what they have signed, and nobody else."""
        context.verify_mode = ssl.CERT_REQUIRED
        # A trust anchor need not be a root.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        for path in anchors:
            try:
                if b"BEGIN PUBLIC KEY" in Path(path).read_bytes():
                    raise Unusable(f"{path}: trust anchors have to be certificates, not keys")
                context.load_verify_locations(path)
            except OSError as error:
                raise Unusable(f"{path}: {error.strerror or error}") from None

    def _load_chains(self, context: ssl.SSLContext) -> None:
        """Our own certificates. Raises `ConfigError`."""
        names = self._names
        files = names.list("tls_chain_files")
        if files:
            from mailstack.mta.smtpd.tls import load_pem  # seldom needed

            try:
                load_pem(context, b"\n".join(Path(name).read_bytes() for name in files))
            except (OSError, ssl.SSLError, ValueError) as error:
                raise names.error("tls_chain_files", str(error)) from None
            return
        for kind in ("", "ec", "d"):
            cert, key = names.str(f"tls_{kind}cert_file"), names.str(f"tls_{kind}key_file")
            if cert in ("", "none"):
                continue
            try:
                context.load_cert_chain(cert, key or cert)
            except OSError as error:
                raise names.error(f"tls_{kind}cert_file", f"{cert}: {error.strerror or error}") from None


_ATTRIBUTES = frozenset(
    ("match", "protocols", "ciphers", "exclude", "servername", "tafile", "connection_reuse")
)
_SITES = {
    "NONE": TLSLevel.NONE,
    "MAY": TLSLevel.MAY,
    "MUST_NOPEERMATCH": TLSLevel.ENCRYPT,
    "MUST": TLSLevel.VERIFY,
}
_GRADES = {"high": "HIGH", "medium": "", "low": "", "export": ""}
"""Cipher grades; an empty one is what OpenSSL and Python offer by themselves, which has nothing weaker."""


def _level(name: str) -> TLSLevel:
    try:
        if name == TLSLevel.HALF_DANE.value:
            raise ValueError(name)
        return TLSLevel(name)
    except ValueError:
        raise Unusable(f'invalid security level "{name}"') from None


def _marks(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(mark.upper() for value in values for mark in value.split("|"))
