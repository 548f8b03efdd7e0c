"""Dynamic updates (RFC 2136): prerequisites, changes, the journal, and the zone that is served from then on.

An update is acknowledged when it is on disk. It changes the zone as its file has it; a zone that is signed as
it is served gets new signatures.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable

import dns.exception
import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.update

from mailstack.config.errors import ConfigError
from mailstack.config.named import Zone as ZoneConf
from mailstack.dns import names
from mailstack.dns.denial import denial_of
from mailstack.dns.edit import Edit, flat, folded, is_later, serial_of
from mailstack.dns.ixfr import differences, patched, singles
from mailstack.dns.journal import Entry, Journal
from mailstack.dns.message import FORMERR, NOERROR, NXDOMAIN, REFUSED, SERVFAIL
from mailstack.dns.zone import CLASS_ANY, CLASS_NONE, DNSKEY, IN, NSEC, NSEC3, RRSIG, SOA, RRset, Zone
from mailstack.dns.zonechecks import apex_problem
from mailstack.dns.zonefile import is_host_record
from mailstack.net.log import Log

YXDOMAIN, YXRRSET, NXRRSET, NOTZONE = 6, 7, 8, 10
JOURNAL_LEAST = 64 * 1024
"""Octets that a small zone's journal may have, too, when `max-journal-size` does not say."""
_META = range(128, 256)
_ANY = 255
_SIGNERS = frozenset((RRSIG, NSEC, NSEC3))
"""Types that are made by whoever signs the zone."""

Sign = Callable[[Zone, ZoneConf, float], None]


class Refusal(Exception):  # noqa: N818 - an answer, not an error of ours
    """The response code of an update that does not take place."""

    def __init__(self, rcode: int, reason: str) -> None:
        super().__init__(reason)
        self.rcode = rcode


def own_soa(zone: Zone) -> RRset:
    """The SOA of a zone as its file and journal have it."""
    return zone.soa if zone.signer is None else zone.signer.own_soa


def journal_of(conf: ZoneConf) -> Journal:
    """The journal of a zone."""
    return Journal(conf.journal_file, conf.name)


def journal_limit(conf: ZoneConf) -> int:
    """Octets that the journal of a zone may have whose file has everything. Raises `OSError`."""
    limit = conf.transfers.max_journal_size
    return max(2 * os.path.getsize(conf.file), JOURNAL_LEAST) if limit is None else limit


def loaded(zone: Zone, conf: ZoneConf, before: Zone | None, log: Log) -> Zone:
    """A zone as it is served, from what its file has. `before` is what was served so far (reload).

    Raises `ConfigError`.
    """
    transfers = conf.transfers
    if transfers.max_records and sum(1 for _ in singles(zone)) > transfers.max_records:
        raise ConfigError(conf.file, 0, f"more than {transfers.max_records} records (max-records)")
    if not conf.allow_update.is_none:
        if before is None or not transfers.ixfr_from_differences or conf.dnssec is not None:
            return replayed(zone, conf, log)
        if any(entry.before == zone.serial for entry in journal_of(conf).read()):
            return replayed(zone, conf, log)  # the file is as it was, or somebody has gone back to it
    if transfers.ixfr_from_differences and conf.dnssec is None:
        _compare(zone, conf, before, log)
    return zone


def _compare(zone: Zone, conf: ZoneConf, before: Zone | None, log: Log) -> None:
    """Put into the journal what another file of a zone has in other words (`ixfr-from-differences`)."""
    journal, shown = journal_of(conf), f"zone {conf.name or '.'}/IN"
    try:
        entries = journal.read()
        last = entries[-1].after if entries else None
        if before is None or not is_later(zone.serial, before.serial):
            if before is not None and zone.serial == before.serial:
                if differences(before, zone):
                    text = f"serial ({zone.serial}) unchanged: zone may fail to transfer to secondaries"
                    log.warning(f"{shown}: {text}")
            elif before is not None:
                log.warning(f"{shown}: zone serial ({zone.serial}/{before.serial}) has gone backwards")
            if last not in (None, zone.serial):
                journal.put_aside()
            return
        if last not in (None, before.serial):
            journal.put_aside()
        journal.append(Entry(before.serial, zone.serial, differences(before, zone)))
        journal.shorten(journal_limit(conf), None)
    except OSError as error:
        log.error(f"{shown}: the journal cannot be written: {error.strerror}")


def replayed(zone: Zone, conf: ZoneConf, log: Log) -> Zone:
    """A zone as its file has it, with the updates that came since. Raises `ConfigError`."""
    journal = journal_of(conf)
    entries = journal.read()
    if not entries or entries[-1].after == zone.serial:
        return zone
    start = next((index for index, entry in enumerate(entries) if entry.before == zone.serial), None)
    if start is None:
        if is_later(zone.serial, entries[-1].after):
            aside = journal.put_aside()
            log.warning(
                f"zone {conf.name or '.'}/IN: the file is newer than its updates, which are now in {aside}"
            )
            return zone
        raise ConfigError(
            conf.file,
            0,
            f"serial {zone.serial} is not among those of the updates in {journal.path}: give the zone a later"
            f" serial than {entries[-1].after}, or remove the journal",
        )
    return patched(zone, [change for entry in entries[start:] for change in entry.changes])


def update(zone: Zone, conf: ZoneConf, message: dns.message.Message, sign: Sign) -> Zone:
    """The zone after an update; the same one when nothing has changed. Raises `Refusal`."""
    if not isinstance(message, dns.update.UpdateMessage):
        raise Refusal(FORMERR, "no update")
    edit = Edit(zone, own_soa(zone))
    _prerequisites(edit, message)
    _check(edit, message, host_names=conf.check_names == "fail")
    before = serial_of(edit.soa)
    for record in message.update:
        _apply(edit, record)
    if not edit.changes:
        return zone
    if edit.signed and conf.dnssec is None:
        _refuse_signed(edit)
    if serial_of(edit.soa) == before:
        edit.renumber()
    found = edit.result()
    problem = apex_problem(found)
    if problem is not None:
        raise Refusal(REFUSED, f"post update name server sanity check failed: {problem}")
    most = conf.transfers.max_records
    if most and sum(1 for _ in singles(found)) > most:
        raise Refusal(SERVFAIL, f"the zone would have more than {most} records (max-records)")
    try:
        journal_of(conf).append(Entry(before, serial_of(edit.soa), edit.changes))
        if conf.dnssec is not None:
            sign(found, conf, time.time())
        else:
            found.denial = denial_of(found)
    except OSError as error:
        raise Refusal(SERVFAIL, f"the update cannot be kept: {error.strerror}") from error
    except ConfigError as error:
        raise Refusal(SERVFAIL, str(error)) from error
    return found


def _refuse_signed(edit: Edit) -> None:
    """A zone whose file has its signatures: there are no keys for others."""
    if DNSKEY not in edit.types(edit.origin):
        raise Refusal(REFUSED, "update rejected: all DNSKEY records removed")
    raise Refusal(SERVFAIL, "found no active private keys, unable to generate any signatures")


def _wire(name: dns.name.Name) -> bytes:
    return name.to_wire() or names.ROOT


def _place(edit: Edit, record: dns.rrset.RRset) -> bytes:
    name = _wire(record.name).lower()
    if not names.is_below(name, edit.origin):
        raise Refusal(NOTZONE, f"{record.name.to_text(True)} is not of the zone")
    return name


def _class(record: dns.rrset.RRset) -> int:
    return int(record.deleting) if record.deleting is not None else int(record.rdclass)


def _prerequisites(edit: Edit, message: dns.update.UpdateMessage) -> None:
    """RFC 2136 §3.2."""
    sets: dict[tuple[bytes, int], set[bytes]] = defaultdict(set)
    for record in message.prerequisite:
        name, rdtype, rdclass = _place(edit, record), int(record.rdtype), _class(record)
        if record.ttl:
            raise Refusal(FORMERR, "a prerequisite with a TTL")
        rrsets = edit.rrsets(name)
        if rdclass == CLASS_ANY:
            if rdtype == _ANY and not rrsets:
                raise Refusal(
                    NXDOMAIN, f"'name in use' prerequisite not satisfied: {record.name.to_text(True)}"
                )
            if rdtype not in (_ANY, *rrsets):
                raise Refusal(
                    NXRRSET, f"'rrset exists' prerequisite not satisfied: {record.name.to_text(True)}"
                )
        elif rdclass == CLASS_NONE:
            if rdtype == _ANY and rrsets:
                raise Refusal(
                    YXDOMAIN, f"'name not in use' prerequisite not satisfied: {record.name.to_text(True)}"
                )
            if rdtype in rrsets:
                raise Refusal(
                    YXRRSET, f"'rrset does not exist' prerequisite not satisfied: {record.name.to_text(True)}"
                )
        elif rdclass == IN:
            sets[name, rdtype].update(folded(rdtype, rdata.to_wire() or b"") for rdata in record)
        else:
            raise Refusal(FORMERR, "a prerequisite of another class")
    for (name, rdtype), wanted in sets.items():
        present = edit.rrsets(name).get(rdtype)
        if present is None or {folded(rdtype, flat(rdata)) for rdata in present.rdatas} != wanted:
            raise Refusal(
                NXRRSET, f"'rrset exists (value dependent)' prerequisite not satisfied: {names.to_text(name)}"
            )


def _check(edit: Edit, message: dns.update.UpdateMessage, *, host_names: bool) -> None:
    """RFC 2136 §3.4.1, and what named refuses beyond it."""
    for record in message.update:
        _place(edit, record)
        rdtype, rdclass = int(record.rdtype), _class(record)
        if rdclass == IN:
            wrong = rdtype in _META
        elif rdclass == CLASS_ANY:
            wrong = bool(record.ttl) or len(record) > 0 or (rdtype in _META and rdtype != _ANY)
        elif rdclass == CLASS_NONE:
            wrong = bool(record.ttl) or rdtype in _META
        else:
            wrong = True
        if wrong:
            raise Refusal(FORMERR, f"a change that cannot be: {record.name.to_text(True)}")
        if rdtype in _SIGNERS and (rdclass == IN or edit.signed):
            raise Refusal(REFUSED, "RRSIG, NSEC and NSEC3 records are made by the server")
        if not host_names or rdclass != IN:
            continue
        if not all(is_host_record(rdtype, record.name, rdata) for rdata in record):
            raise Refusal(REFUSED, f"{record.name.to_text(True)}: bad name (check-names)")


def _apply(edit: Edit, record: dns.rrset.RRset) -> None:
    """RFC 2136 §3.4.2."""
    owner, rdtype = _wire(record.name), int(record.rdtype)
    name = owner.lower()
    match _class(record):
        case 1:  # IN
            for rdata in record:
                edit.add(owner, rdtype, int(record.ttl), rdata.to_wire() or b"")
        case 255 if rdtype == _ANY:
            for present in edit.types(name):
                if present not in _SIGNERS:
                    edit.delete_set(name, present)
        case 255:
            edit.delete_set(name, rdtype)
        case _:
            for rdata in record:
                if rdtype != SOA:
                    edit.delete(name, rdtype, rdata.to_wire() or b"")


__all__ = ["NOERROR", "Refusal", "own_soa", "replayed", "update"]
