"""A zone and the steps that it changes in: applied, found between two zones, and put in order for IXFR.

Changes are a journal's (`mailstack.dns.journal.Change`). RRSIG records, which a `Zone` keeps beside the sets
that they sign, and NSEC3 records, which it keeps apart, are records like others here.

Standards: RFC 1995 §4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mailstack.dns import names
from mailstack.dns.denial import denial_of
from mailstack.dns.edit import flat, folded, rrset_of
from mailstack.dns.journal import Change, Entry
from mailstack.dns.zone import RRSIG, SOA, Node, RRset, Zone

Record = tuple[bytes, RRset]
"""An owner and a set of one record."""
_Key = tuple[int, int]
"""A type, and for RRSIG what it covers."""


class Unfit(Exception):  # noqa: N818 - the zone is another one than the changes begin with
    """A change that cannot be made in a zone."""


def patched(zone: Zone, changes: Iterable[Change], *, strict: bool = False) -> Zone:
    """A zone with changes, made in order; names that do not change are shared.

    With `strict`, a record that goes has to be there. Raises `Unfit` for that, and for a zone without SOA.
    """
    by_owner: dict[bytes, list[Change]] = {}
    for change in changes:
        by_owner.setdefault(change.owner.lower(), []).append(change)
    nodes = {name: node for name, node in zone.nodes.items() if node.rrsets}
    for name, node in zone.hashes.items():
        # A copy: `Zone` takes what proves absence out of the nodes that it is given.
        nodes[name] = _joined(node, nodes.get(name))
    for name, several in by_owner.items():
        made = _changed(nodes.get(name), several, strict=strict)
        if made is None:
            nodes.pop(name, None)
        else:
            nodes[name] = made
    apex = nodes.get(zone.origin)
    if apex is None or SOA not in apex.rrsets or len(apex.rrsets[SOA].rdatas) != 1:
        raise Unfit("the zone would have no SOA record, or several")
    found = Zone(zone.origin, nodes)
    found.denial = denial_of(found)
    return found


def _joined(node: Node, other: Node | None) -> Node:
    made = Node(node.owner)
    if other is not None:
        made.rrsets.update(other.rrsets)
    made.rrsets.update(node.rrsets)
    return made


def _changed(node: Node | None, changes: list[Change], *, strict: bool) -> Node | None:
    """One name after its changes; None when nothing is left of it."""
    held: dict[_Key, dict[bytes, int]] = {}
    if node is not None:
        for rrset in node.rrsets.values():
            for each in (rrset, rrset.signature):
                if each is not None:
                    key = (each.rdtype, rrset.rdtype if each is not rrset else 0)
                    held[key] = {flat(rdata): each.ttl for rdata in each.rdatas}
    for change in changes:
        key = key_of(change.rdtype, change.data)
        datas = held.setdefault(key, {})
        if change.ttl is not None:
            datas.pop(change.data, None)
            datas[change.data] = change.ttl
        elif datas.pop(change.data, None) is None and not _gone(datas, change) and strict:
            shown = f"{names.to_text(change.owner)} type {change.rdtype}"
            raise Unfit(f"a record that is not there goes: {shown}")
    return node_of(changes[0].owner if node is None else node.owner, held)


def _gone(datas: dict[bytes, int], change: Change) -> bool:
    """Take out the record that a change means, when its names are written in another case."""
    if not datas:
        return False
    wanted = folded(change.rdtype, change.data)
    for data in datas:
        if len(data) == len(change.data) and folded(change.rdtype, data) == wanted:
            del datas[data]
            return True
    return False


def key_of(rdtype: int, data: bytes) -> _Key:
    """What makes records one set."""
    return (RRSIG, int.from_bytes(data[:2], "big")) if rdtype == RRSIG else (rdtype, 0)


def node_of(owner: bytes, held: dict[_Key, dict[bytes, int]]) -> Node | None:
    """A name from its records, data and TTL by set. The last TTL is the set's; None without records."""
    made = Node(owner)
    for (rdtype, _), datas in held.items():
        if datas and rdtype != RRSIG:
            made.rrsets[rdtype] = rrset_of(rdtype, list(datas.values())[-1], list(datas))
    for (rdtype, covers), datas in held.items():
        signed = made.rrsets.get(covers)
        if rdtype == RRSIG and datas and signed is not None:
            signed.signature = RRset(RRSIG, list(datas.values())[-1], tuple(datas))
    return made if made.rrsets else None


def singles(zone: Zone) -> Iterator[Record]:
    """The records of a zone one by one, the SOA first, so that no set is too large for a message."""
    for owner, rrset in zone.records():
        for rdata in rrset.rdatas:
            yield owner, RRset(rrset.rdtype, rrset.ttl, (rdata,))


def differences(old: Zone, new: Zone) -> tuple[Change, ...]:
    """The changes that make one zone of another: what goes, then what comes."""
    before = {_identity(owner, rrset): (owner, rrset) for owner, rrset in singles(old)}
    come: list[Change] = []
    for owner, rrset in singles(new):
        held = before.get(_identity(owner, rrset))
        if held is not None and held[1].ttl == rrset.ttl:
            del before[_identity(owner, rrset)]
        else:
            come.append(Change(owner, rrset.rdtype, rrset.ttl, flat(rrset.rdatas[0])))
    gone = [
        Change(owner, rrset.rdtype, None, flat(rrset.rdatas[0]), rrset.ttl)
        for owner, rrset in before.values()
    ]
    return (*gone, *come)


def _identity(owner: bytes, rrset: RRset) -> tuple[bytes, int, bytes]:
    return owner.lower(), rrset.rdtype, flat(rrset.rdatas[0])


def sequences(entries: Iterable[Entry]) -> list[Record] | None:
    """The steps as IXFR has them: for each the old SOA, what goes, the new SOA, what comes.

    None when the journal does not say enough (one that an earlier version has written).
    """
    found: list[Record] = []
    for entry in entries:
        gone: list[Record] = []
        come: list[Record] = []
        for (_, rdtype, data), (owner, before, after) in _net(entry.changes).items():
            if before == after:
                continue
            if before is not None:
                if before < 0:
                    return None
                gone.append((owner, rrset_of(rdtype, before, [data])))
            if after is not None:
                come.append((owner, rrset_of(rdtype, after, [data])))
        for records in (gone, come):
            records.sort(key=lambda record: record[1].rdtype != SOA)
            if not records or records[0][1].rdtype != SOA:
                return None
            found += records
    return found


def _net(
    changes: Iterable[Change],
) -> dict[tuple[bytes, int, bytes], tuple[bytes, int | None, int | None]]:
    """For each record that changes its owner, and its TTL before and after; a TTL that is not known is -1."""
    found: dict[tuple[bytes, int, bytes], tuple[bytes, int | None, int | None]] = {}
    for change in changes:
        key = (change.owner.lower(), change.rdtype, change.data)
        before: int | None = None
        if key in found:
            before = found[key][1]
        elif change.ttl is None:
            before = -1 if change.was is None else change.was
        found[key] = (change.owner, before, change.ttl)
    return found


def octets(records: Iterable[Record]) -> int:
    """What records take on the wire, uncompressed."""
    return sum(len(owner) + 10 + len(flat(rrset.rdatas[0])) for owner, rrset in records)
