"""What named checks when a zone has been read: SOA, NS, and the hosts that NS, MX and SRV name."""

from __future__ import annotations

from mailstack.config.errors import ConfigError
from mailstack.dns import names
from mailstack.dns.plainlines import Nodes, targets_of
from mailstack.dns.zone import AAAA, CNAME, DNAME, MX, NS, SOA, SRV, A, Node, Zone


def check_zone(path: str, origin: bytes, nodes: dict[bytes, Node], *, hosts: bool) -> list[str]:
    """What is odd about a zone as a whole, one `file: text` each; without `hosts`, nothing is.

    Raises `ConfigError` for a zone that named would not load.
    """
    apex = nodes.get(origin)
    if apex is None or SOA not in apex.rrsets:
        raise ConfigError(path, 0, f"zone {names.to_text(origin)}: has 0 SOA records")
    if NS not in apex.rrsets:
        raise ConfigError(path, 0, f"zone {names.to_text(origin)}: has no NS records")
    if not hosts:
        return []
    if DNAME in apex.rrsets and any(names.is_below(t.lower(), origin) for t in apex.rrsets[NS].targets):
        raise ConfigError(path, 0, f"zone {names.to_text(origin)}: an NS host is below a DNAME (illegal)")
    warnings: list[str] = []
    special = nodes.special() if isinstance(nodes, Nodes) else nodes.items()
    apart = list(special)
    cuts = {name for name, node in apart if NS in node.rrsets and name != origin}
    if isinstance(nodes, Nodes):
        for name, line in nodes.kept():
            found = targets_of(line, nodes.origin)
            if found is not None and not nodes.has_address(found[1]):
                problem = _target_problem(found[1], origin, nodes, cuts)
                if problem is not None:
                    label = "MX" if found[0] == MX else "SRV"
                    warnings.append(_warning(path, name, label, found[1], problem))
    for name, node in apart:
        for kind, label in ((NS, "NS"), (MX, "MX"), (SRV, "SRV")):
            rrset = node.rrsets.get(kind)
            for target in rrset.targets if rrset is not None else ():
                problem = _target_problem(target.lower(), origin, nodes, cuts)
                if problem is None:
                    continue
                text = _warning(path, node.owner, label, target, problem)
                if kind == NS and name == origin:
                    raise ConfigError(path, 0, text.removeprefix(f"{path}: "))
                warnings.append(text)
    return warnings


def apex_problem(zone: Zone) -> str | None:
    """Which of a zone's own name servers would keep it from being loaded, and why."""
    for target in zone.apex.rrsets[NS].targets:
        lower = above = target.lower()
        cuts: set[bytes] = set()
        while names.is_below(above, zone.origin) and above != zone.origin:
            node = zone.nodes.get(above)
            if node is not None and NS in node.rrsets:
                cuts.add(above)
            above = names.parent(above)
        problem = _target_problem(lower, zone.origin, zone.nodes, cuts)
        if problem is not None:
            return f"NS '{names.to_text(target)}' {problem}"
    return None


def _warning(path: str, owner: bytes, label: str, target: bytes, problem: str) -> str:
    return f"{path}: {names.to_text(owner)}/{label} '{names.to_text(target)}' {problem}"


def _target_problem(target: bytes, origin: bytes, nodes: dict[bytes, Node], cuts: set[bytes]) -> str | None:
    """What is wrong with a host that a record of the zone names; None when all is well or not ours to say."""
    if target == names.ROOT or not names.is_below(target, origin):
        return None
    node = nodes.get(target)
    if node is not None and CNAME in node.rrsets:
        return "is a CNAME (illegal)"
    if node is not None and (A in node.rrsets or AAAA in node.rrsets):
        return None
    above = target
    while above != origin:
        if above in cuts or b"\1*" + names.parent(above) in nodes:
            return None
        above = names.parent(above)
    return "has no address records (A or AAAA)"
