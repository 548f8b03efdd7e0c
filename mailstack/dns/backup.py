"""A secondary zone on disk: its file as a backup copy, and the journal of the steps since.

The file is a zone file in text form, replaced as a whole; the journal has the incremental transfers that came
after it. Both are ours: what cannot be used is left aside, and the zone comes from its primary again.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Lock

import dns.rdata
import dns.rdataclass
import dns.rdatatype

from mailstack.config.errors import ConfigError
from mailstack.config.named import Zone as ZoneConf
from mailstack.dns import names
from mailstack.dns.edit import flat
from mailstack.dns.ixfr import Unfit, patched, singles
from mailstack.dns.journal import Entry, Journal
from mailstack.dns.update import journal_limit, journal_of
from mailstack.dns.zone import AAAA, A, Zone
from mailstack.dns.zonefile import load_zone
from mailstack.net.log import Log

BUFFER = 1 << 20
"""Octets written at once."""
SMALL = 64 * 1024
"""Octets of a journal from which on the file is written anew, if they are more than a quarter of it."""

_LOCKS: dict[str, Lock] = {}
"""A file may still be written on behalf of the configuration before."""


class Backup:
    """The files of one secondary zone. A zone without `file` is kept nowhere. Methods block."""

    def __init__(self, conf: ZoneConf, log: Log) -> None:
        self._conf = conf
        self._log = log
        self._shown = f"zone {conf.name or '.'}/IN"
        self._journal: Journal | None = journal_of(conf) if conf.file else None
        self.abandoned = False
        """The server stops, and does not wait for a large file: the zone comes from its primary again."""
        self._lock = _LOCKS.setdefault(conf.file, Lock())

    def load(self) -> tuple[Zone, float] | None:
        """The zone as it was last kept, and when it was known to be current (seconds since the epoch)."""
        journal = self._journal
        if journal is None or not os.path.exists(self._conf.file):
            return None
        try:
            zone, _ = load_zone(self._conf.name, self._conf.file, checks=False)
            when = os.stat(self._conf.file).st_mtime
            entries = journal.read()
        except (ConfigError, OSError) as error:
            self._log.warning(f"{self._shown}: the backup copy cannot be used: {error}")
            return None
        if not entries or entries[-1].after == zone.serial:
            return zone, when
        start = next((index for index, entry in enumerate(entries) if entry.before == zone.serial), None)
        try:
            if start is None:
                journal.remove()  # of another zone than the file has
            else:
                changes = [change for entry in entries[start:] for change in entry.changes]
                when = max(when, journal.path.stat().st_mtime)
                return patched(zone, changes, strict=True), when
        except (Unfit, OSError) as error:
            self._log.warning(f"{self._shown}: the journal does not fit the backup copy: {error}")
            return None
        return zone, when

    def current(self) -> None:
        """The primary has just said that the zone has not changed."""
        try:
            if self._conf.file:
                os.utime(self._conf.file)
        except OSError:
            pass  # not written yet

    def replace(self, zone: Zone, step: Entry | None) -> None:
        """Keep a zone that came as a whole; `step` leads to it from the one before, if that is wanted."""
        journal = self._journal
        if journal is None:
            return
        with self._lock:
            try:
                if step is None:
                    # First: a journal that does not belong to the new file must never meet it.
                    journal.remove()
                else:
                    journal.append(step)
                self._write(zone)
                self._shorten(journal)
            except (OSError, ConfigError) as error:
                self._failed(error)

    def follow(self, zone: Zone, entries: list[Entry]) -> None:
        """Keep a zone that came in steps."""
        journal = self._journal
        if journal is None:
            return
        with self._lock:
            try:
                self._append(journal, entries)
                size = os.path.getsize(self._conf.file) if os.path.exists(self._conf.file) else 0
                if size < SMALL or journal.size() > max(SMALL, size // 4):
                    self._write(zone)
                    self._shorten(journal)
            except (OSError, ConfigError) as error:
                self._failed(error)

    @staticmethod
    def _append(journal: Journal, entries: list[Entry]) -> None:
        try:
            for entry in entries:
                journal.append(entry)
        except OSError:
            journal.remove()  # there would be a gap
            raise

    def _lines(self, zone: Zone) -> Iterator[str]:
        for line in lines(zone):
            if self.abandoned:
                raise InterruptedError("the server stops")
            yield line

    def _shorten(self, journal: Journal) -> None:
        journal.shorten(journal_limit(self._conf), None)

    def _failed(self, error: OSError | ConfigError) -> None:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        self._log.error(f"{self._shown}: the backup copy cannot be written: {reason}")

    def _write(self, zone: Zone) -> None:
        """Replace the file. Raises `OSError`."""
        path = Path(self._conf.file)
        temporary = path.with_name(path.name + ".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            with open(descriptor, "w", encoding="ascii", buffering=BUFFER) as file:
                file.writelines(self._lines(zone))
                file.flush()
                os.fsync(descriptor)
            os.rename(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def lines(zone: Zone) -> Iterator[str]:
    """A zone as a zone file, a record a line, every name absolute."""
    yield f"; zone {names.to_text(zone.apex.owner)}, written by its secondary server\n"
    for owner, rrset in singles(zone):
        data = flat(rrset.rdatas[0])
        kind = dns.rdatatype.RdataType.make(rrset.rdtype)
        if rrset.rdtype == A and len(data) == 4:
            text = socket.inet_ntop(socket.AF_INET, data)
        elif rrset.rdtype == AAAA and len(data) == 16:
            text = socket.inet_ntop(socket.AF_INET6, data)
        else:
            text = dns.rdata.from_wire(dns.rdataclass.IN, kind, data, 0, len(data)).to_text()
        shown = names.to_text(owner)
        yield f"{shown}{'' if shown == '.' else '.'} {rrset.ttl} IN {dns.rdatatype.to_text(kind)} {text}\n"
