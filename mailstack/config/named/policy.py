"""`dnssec-policy`: how a zone is signed, in BIND 9.18's words; keys that are rolled over are refused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mailstack.config.named.model import DnssecPolicy, PolicyKey
from mailstack.config.named.syntax import Block, Statement, Word
from mailstack.config.named.values import TRUE, duration, one_block, one_word, to_number

_ALGORITHMS: Final = {
    "13": 13, "ecdsap256sha256": 13, "ecdsa256": 13, "14": 14, "ecdsap384sha384": 14, "ecdsa384": 14,
    "15": 15, "ed25519": 15,
}  # fmt: skip
_ROLES: Final = {"csk": (True, True), "ksk": (True, False), "zsk": (False, True)}
WITHOUT_EFFECT: Final = frozenset(
    (
        "max-zone-ttl", "parent-ds-ttl", "parent-propagation-delay", "publish-safety", "purge-keys",
        "retire-safety", "signatures-validity-dnskey", "zone-propagation-delay",
    )
)  # fmt: skip
"""They time the rollover of keys, of which there is none here, or one kind of signature."""


WORKS: Final = frozenset(("keys", "dnskey-ttl", "signatures-validity", "signatures-refresh", "nsec3param"))


class Policies:
    """The policies of a configuration, and BIND's own: `default`, `insecure`, `none`."""

    def __init__(self, statements: Iterable[Statement]) -> None:
        """Raises `ConfigError`."""
        self._policies: dict[str, DnssecPolicy | None] = {
            "default": DnssecPolicy(name="default"),
            "insecure": None,
            "none": None,
        }
        for statement in statements:
            policy = _policy(statement)
            if policy.name in self._policies:
                raise statement.error(f"dnssec-policy '{policy.name}' is already there")
            self._policies[policy.name] = policy

    def named(self, statement: Statement) -> DnssecPolicy | None:
        """The policy that a zone's statement names; None for no signing. Raises `ConfigError`."""
        name = one_word(statement).text
        if name not in self._policies:
            raise statement.error(f"dnssec-policy '{name}' is not there")
        return self._policies[name]


def _policy(statement: Statement) -> DnssecPolicy:
    match statement.items[1:]:
        case (Word(text=name), Block() as body):
            pass
        case _:
            raise statement.error("dnssec-policy takes a name and a { block }")
    policy = DnssecPolicy(name=name)
    keys, ttl, nsec3 = policy.keys, policy.dnskey_ttl, policy.nsec3
    validity, refresh = policy.signatures_validity, policy.signatures_refresh
    for one in body.statements:
        match one.keyword:
            case "keys":
                keys = tuple(_key(line) for line in one_block(one).statements)
            case "dnskey-ttl":
                ttl = duration(one)
            case "signatures-validity":
                validity = duration(one)
            case "signatures-refresh":
                refresh = duration(one)
            case "nsec3param":
                nsec3 = _nsec3(one)
            case keyword if keyword in WITHOUT_EFFECT:
                duration(one)
            case keyword:
                raise one.error(f"unknown option '{keyword}'")
    if not any(key.ksk for key in keys) or not any(key.zsk for key in keys):
        raise statement.error(f"dnssec-policy '{name}': keys need a csk, or a ksk and a zsk")
    if refresh > validity * 9 // 10:
        raise statement.error(
            f"dnssec-policy '{name}': signatures-refresh must be at most 90% of signatures-validity"
        )
    return DnssecPolicy(
        name=name,
        keys=keys,
        dnskey_ttl=ttl,
        signatures_validity=validity,
        signatures_refresh=refresh,
        nsec3=nsec3,
    )


def _key(line: Statement) -> PolicyKey:
    words = [item.text for item in line.items if isinstance(item, Word)]
    role = words[0].lower() if words else ""
    if role not in _ROLES or len(words) != len(line.items):
        raise line.error(f"'{words[0] if words else '{'}' is not csk, ksk or zsk")
    rest = words[1:]
    if rest[:1] == ["key-directory"]:
        rest = rest[1:]
    if rest[:1] != ["lifetime"] or rest[2:3] != ["algorithm"] or len(rest) not in (4, 5):
        raise line.error("a key is csk|ksk|zsk [ key-directory ] lifetime TIME algorithm NAME [ BITS ]")
    if rest[1].lower() not in ("unlimited", "0", "p0d", "pt0s"):
        raise line.error("only lifetime unlimited is supported: keys are not rolled over (engine: bind does)")
    algorithm = _ALGORITHMS.get(rest[3].lower())
    if algorithm is None:
        raise line.error(
            f"algorithm {rest[3]} is not supported: ecdsap256sha256, ecdsap384sha384 and ed25519 are"
        )
    return PolicyKey(*_ROLES[role], algorithm)


def _nsec3(statement: Statement) -> tuple[int, bool, int]:
    words = [item for item in statement.items[1:] if isinstance(item, Word)]
    iterations, optout, salt = 5, False, 8
    for name, value in zip(words[::2], words[1::2], strict=False):
        match name.text:
            case "iterations":
                iterations = to_number(statement, value, 0, 150)
            case "optout":
                optout = value.text.lower() in TRUE
            case "salt-length":
                salt = to_number(statement, value, 0, 255)
            case unknown:
                raise statement.error(f"unknown option '{unknown}'")
    if len(words) % 2:
        raise statement.error("nsec3param takes [ iterations N ] [ optout BOOLEAN ] [ salt-length N ]")
    return iterations, optout, salt
