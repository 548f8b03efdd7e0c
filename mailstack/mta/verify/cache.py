"""What is known of addresses: a record each, in the form and by the rules of Postfix's verify(8).

A record is `status:probed:updated:text`: what the last probe has found (`Status`), when a probe was sent that
has not come back (seconds since the epoch; 0: none is under way), when the last one came back (0: never) and
its words. So a cache that Postfix has made goes on here, and the other way round.

A record is used until it expires, and asked again by a new probe when it has become older than its refresh
time; what was deliverable stays so while a later probe fails, until it expires.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from mailstack.config.postfix.main_cf import MainCf

PROBE_LIFE = 1000
"""Seconds after which a probe that has not come back counts as lost."""
IN_PROGRESS = "Address verification in progress"
CLEANED = "_LAST_CACHE_CLEANUP_COMPLETED_"
"""The key under which Postfix notes when it has last cleaned a cache."""


class Status(IntEnum):
    """What is known of an address."""

    OK = 0
    DEFER = 1
    BOUNCE = 2
    TODO = 3


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one address; times in whole seconds since the epoch, 0: never."""

    status: Status
    probed: int
    updated: int
    text: str

    def __str__(self) -> str:
        return f"{self.status:d}:{self.probed}:{self.updated}:{self.text}"

    @classmethod
    def parse(cls, text: str) -> Record | None:
        """None for what is no record."""
        parts = text.split(":", 3)
        if len(parts) < 4 or not all(part.isascii() and part.isdecimal() for part in parts[:3]):
            return None
        status, probed, updated = (int(part) for part in parts[:3])
        if status > Status.TODO or not (probed or updated):
            return None
        return cls(Status(status), probed, updated, parts[3])


@dataclass(frozen=True, slots=True)
class Times:
    """The `address_verify_…` parameters of the cache; times in seconds."""

    positive_expire: float
    positive_refresh: float
    negative_expire: float
    negative_refresh: float
    negative_cache: bool
    """Failures are remembered."""

    @classmethod
    def read(cls, conf: MainCf) -> Times:
        """Raises `ConfigError`."""
        return cls(
            conf.time("address_verify_positive_expire_time"),
            conf.time("address_verify_positive_refresh_time"),
            conf.time("address_verify_negative_expire_time"),
            conf.time("address_verify_negative_refresh_time"),
            conf.bool("address_verify_negative_cache"),
        )

    def expired(self, record: Record, now: int) -> bool:
        """Whether a record is of no more use."""
        life = self.positive_expire if record.status is Status.OK else self.negative_expire
        return now - record.probed > PROBE_LIFE and record.updated + life < now

    def stale(self, record: Record, now: int) -> bool:
        """Whether it is time for another probe."""
        life = self.positive_refresh if record.status is Status.OK else self.negative_refresh
        return now - record.probed > PROBE_LIFE and record.updated + life < now


class Store(Protocol):
    """Where records are kept. Raises `OSError` and `TableError`."""

    def get(self, key: str) -> str | None: ...

    def put(self, key: str, value: str) -> None: ...

    def delete(self, key: str) -> None: ...

    def all(self) -> list[str]: ...

    def sync(self) -> None:
        """Put on disk what has changed."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What smtpd is told of an address."""

    status: Status
    text: str


@dataclass(slots=True)
class Cache:
    """The records and the rules. Nothing here waits for anything but the store."""

    store: Store
    times: Times

    def ask(self, address: str, now: int) -> tuple[Answer, bool]:
        """What is known, and whether a probe is to be sent; that it is under way is noted here."""
        key, times = _key(address), self.times
        data = self.store.get(key)
        record = Record.parse(data) if data is not None else None
        if record is None or times.expired(record, now):
            record = Record(Status.TODO, 0, 0, IN_PROGRESS)
            if data is not None and not times.negative_cache:
                self.store.delete(key)
        probe = times.stale(record, now)
        if probe and (record.updated or times.negative_cache):
            self.store.put(key, str(Record(record.status, now, record.updated, record.text)))
            self.store.sync()
        return Answer(record.status, record.text), probe

    def update(self, address: str, status: Status, text: str, now: int) -> None:
        """A probe has come back."""
        if status is not Status.OK:
            if not self.times.negative_cache:
                return
            data = self.store.get(_key(address))
            before = Record.parse(data) if data is not None else None
            if before is not None and before.status is Status.OK:
                return  # one failure does not make it undeliverable: the next question sends another probe
        self.store.put(_key(address), str(Record(status, 0, now, text)))
        self.store.sync()

    def clean(self, now: int) -> tuple[int, int]:
        """Drop what has expired; how many records are left, and how many have gone."""
        kept = dropped = 0
        for key in self.store.all():
            if key == CLEANED:
                continue
            data = self.store.get(key)
            record = Record.parse(data) if data is not None else None
            if record is None or self.times.expired(record, now):
                self.store.delete(key)
                dropped += 1
            else:
                kept += 1
        self.store.put(CLEANED, str(now))
        self.store.sync()
        return kept, dropped

    def cleaned(self) -> int:
        """When it was last cleaned, in seconds since the epoch; 0: never."""
        data = self.store.get(CLEANED)
        return int(data) if data is not None and data.isascii() and data.isdecimal() else 0


def _key(address: str) -> str:
    """An address as the cache names it; colons would be taken for parts of a record."""
    return address.replace(":", "_")
