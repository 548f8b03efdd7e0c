"""`update-policy`: which key may change which records of a zone.

Standards: BIND 9.18's named.conf(5). The rule types about Kerberos and addresses are refused.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from mailstack.config.named.acl import Acl, Element, KeyName, key_name
from mailstack.config.named.syntax import Statement, Word
from mailstack.config.named.values import one_block

Kind = Literal["name", "subdomain", "zonesub", "wildcard", "self", "selfsub", "selfwild"]
_KINDS: Final = ("name", "subdomain", "zonesub", "wildcard", "self", "selfsub", "selfwild")
_NOT_BY_DEFAULT: Final = frozenset((2, 6, 46, 47, 50))
"""NS, SOA, RRSIG, NSEC and NSEC3 have to be named."""
_ANY: Final = 255


@dataclass(frozen=True, slots=True)
class UpdateRule:
    """One rule. Names are lower case, without final dot; `types` is empty where the rule names none."""

    grant: bool
    identity: str
    """The key's name, or a wildcard."""
    kind: Kind
    name: str = ""
    types: frozenset[int] = frozenset()

    def is_about(self, key: str, name: str, rdtype: int) -> bool:
        """Whether the rule decides on a change of a name and type under a key."""
        if not _matches(self.identity, key):
            return False
        if self.types:
            if rdtype not in self.types and _ANY not in self.types:
                return False
        elif rdtype in _NOT_BY_DEFAULT:
            return False
        match self.kind:
            case "name":
                return name == self.name
            case "subdomain":
                return _below(name, self.name)
            case "zonesub":
                return True
            case "wildcard":
                return _matches(self.name, name)
            case "self":
                return name == key
            case "selfsub":
                return _below(name, key)
            case "selfwild":
                return name != key and _below(name, key)


def permitted(rules: Sequence[UpdateRule], key: str | None, name: str, rdtype: int) -> bool:
    """Whether a change is granted by the first rule about it. Nothing is without a key."""
    if key is None:
        return False
    return next((rule.grant for rule in rules if rule.is_about(key, name, rdtype)), False)


def is_local(statement: Statement) -> bool:
    """Whether it is `update-policy local`: the session key may change everything, from this machine."""
    match statement.items[1:]:
        case (Word(text="local"),):
            return True
    return False


def read_update_policy(statement: Statement, zone: str, session_key: str) -> tuple[UpdateRule, ...]:
    """The rules of a zone. `session_key` is the name of the key of `local`. Raises `ConfigError`."""
    if is_local(statement):
        return (UpdateRule(True, session_key, "zonesub", types=frozenset((_ANY,))),)
    return tuple(_rule(item, zone) for item in one_block(statement).statements)


def granted(rules: Sequence[UpdateRule], keys: Collection[str]) -> Acl:
    """Those who may change anything at all."""
    named = [key for key in keys if any(rule.grant and _matches(rule.identity, key) for rule in rules)]
    return Acl(tuple(Element(KeyName(key)) for key in named))


def local_only(key: str) -> Acl:
    """Those who sign with a key and are at an address of this machine."""
    elsewhere = Acl((Element("localhost", negated=True), Element("any")))
    return Acl((Element(elsewhere, negated=True), Element(KeyName(key))))


def _rule(item: Statement, zone: str) -> UpdateRule:
    import dns.exception
    import dns.rdatatype

    words = [entry.text for entry in item.items if isinstance(entry, Word)]
    if len(words) < 3 or len(words) != len(item.items) or words[0].lower() not in ("grant", "deny"):
        raise item.error("a rule is: grant or deny, KEY, a rule type, NAME, types")
    action, identity, kind, *rest = words
    kind = kind.lower()
    if kind not in _KINDS:
        raise item.error(f"rule type '{kind}' is not supported: {', '.join(_KINDS)} are")
    name = ""
    if kind != "zonesub":
        if not rest:
            raise item.error(f"a rule of type {kind} takes a name")
        name, *rest = rest
        name = zone if name == "@" else key_name(name)
        if kind == "wildcard" and not name.startswith("*."):
            raise item.error(f"'{name}' is not a wildcard")
    types: set[int] = set()
    for text in rest:
        try:
            types.add(int(dns.rdatatype.from_text(text)))
        except (dns.exception.DNSException, ValueError):
            raise item.error(f"unknown type '{text}'") from None
    return UpdateRule(action.lower() == "grant", key_name(identity), kind, name, frozenset(types))  # type: ignore[arg-type]


def _matches(pattern: str, name: str) -> bool:
    """A name, or one below a wildcard's parent."""
    if pattern == "*":
        return True
    return name.endswith(pattern[1:]) if pattern.startswith("*.") else name == pattern


def _below(name: str, parent: str) -> bool:
    return name == parent or not parent or name.endswith("." + parent)
