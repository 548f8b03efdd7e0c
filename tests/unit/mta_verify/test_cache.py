"""What is known of addresses, for how long, and where it is kept."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.rewrite import Rewriter
from mailstack.mta.verify import store as store_module
from mailstack.mta.verify.cache import Answer, Cache, Status, Times
from mailstack.mta.verify.sender import ProbeSender
from mailstack.mta.verify.store import MemoryStore, open_store
from mailstack.storage.tables import open_table
from mailstack.storage.tables.files import readable

NOW = 1_700_000_000
DAY, HOUR = 86400, 3600
TIMES = Times(31 * DAY, 7 * DAY, 3 * DAY, 3 * HOUR, negative_cache=True)
ASK = Answer(Status.TODO, "Address verification in progress")


def cache(record: str | None = None, times: Times = TIMES) -> Cache:
    made = Cache(MemoryStore(), times)
    if record is not None:
        made.store.put("a@x.test", record)
    return made


@pytest.mark.parametrize(
    ("record", "after", "answer", "probe"),
    [
        (None, 0, ASK, True),
        ("3:1700000000:0:Address verification in progress", 999, ASK, False),
        ("3:1700000000:0:Address verification in progress", 1001, ASK, True),
        ("0:0:1700000000:250 Ok", 7 * DAY, Answer(Status.OK, "250 Ok"), False),
        ("0:0:1700000000:250 Ok", 7 * DAY + 1, Answer(Status.OK, "250 Ok"), True),
        ("0:1700605000:1700000000:250 Ok", 7 * DAY + 1, Answer(Status.OK, "250 Ok"), False),
        ("0:0:1700000000:250 Ok", 31 * DAY + 1, ASK, True),
        ("2:0:1700000000:550 no: really", 3 * HOUR, Answer(Status.BOUNCE, "550 no: really"), False),
        ("1:0:1700000000:450 later", 3 * HOUR + 1, Answer(Status.DEFER, "450 later"), True),
        ("2:0:1700000000:550 no", 3 * DAY + 1, ASK, True),
        ("nonsense", 0, ASK, True),
        ("7:0:1700000000:x", 0, ASK, True),
        ("0:0:0:x", 0, ASK, True),
    ],
)
def test_what_is_known_counts_until_it_is_old(
    record: str | None, after: int, answer: Answer, probe: bool
) -> None:
    known = cache(record)
    assert known.ask("a@x.test", NOW + after) == (answer, probe)
    assert known.ask("a@x.test", NOW + after) == (answer, False), "one probe at a time"


def test_results_are_remembered_by_postfix_s_rules() -> None:
    known = cache()
    known.ask("a@x.test", NOW)
    assert known.store.get("a@x.test") == f"3:{NOW}:0:Address verification in progress"
    known.update("a@x.test", Status.BOUNCE, "550 no", NOW + 1)
    assert known.store.get("a@x.test") == f"2:0:{NOW + 1}:550 no"
    known.update("a@x.test", Status.OK, "250 Ok", NOW + 2)
    known.update("a@x.test", Status.BOUNCE, "550 no", NOW + 3)
    assert known.store.get("a@x.test") == f"0:0:{NOW + 2}:250 Ok", "one failure does not end it"
    known.update("b:c@[ipv6:::1]", Status.OK, "250 Ok", NOW)
    assert known.ask("b:c@[ipv6:::1]", NOW) == (Answer(Status.OK, "250 Ok"), False)
    assert known.store.get("b_c@[ipv6___1]") is not None


def test_failures_are_forgotten_where_main_cf_says_so() -> None:
    known = cache("2:0:1600000000:550 no", Times(31 * DAY, 7 * DAY, 3 * DAY, 3 * HOUR, negative_cache=False))
    assert known.ask("a@x.test", NOW) == (ASK, True)
    assert known.store.get("a@x.test") is None
    known.update("a@x.test", Status.BOUNCE, "550 no", NOW)
    assert known.ask("a@x.test", NOW) == (ASK, True)
    known.update("a@x.test", Status.OK, "250 Ok", NOW)
    assert known.ask("a@x.test", NOW) == (Answer(Status.OK, "250 Ok"), False)


def test_memory_has_room_for_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "REMEMBERED", 3)
    kept = MemoryStore()
    for name in "abcad":
        kept.put(name, "x")
    assert sorted(kept.all()) == ["a", "c", "d"], "b is the oldest"


def test_cleaning_drops_what_has_expired() -> None:
    known = cache("0:0:1690000000:250 Ok")
    for name, record in {"new": f"0:0:{NOW}:x", "gone": "2:0:1690000000:x", "odd": "x"}.items():
        known.store.put(name, record)
    assert known.cleaned() == 0
    assert known.clean(NOW) == (1, 3)
    assert sorted(known.store.all()) == ["_LAST_CACHE_CLEANUP_COMPLETED_", "new"]
    assert known.cleaned() == NOW


@pytest.mark.parametrize("kind", ["btree", "hash", "lmdb"])
def test_a_file_outlives_the_process_and_is_nobody_else_s(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not readable(kind):
        pytest.skip(f"{kind} is not installed")
    name = f"proxy:{kind}:{tmp_path}/cache"
    kept = open_store(name)
    for number in range(50):
        kept.put(f"grün{number}@x.test", f"0:0:{NOW}:250 Ok")
    kept.delete("grün7@x.test")
    kept.sync()
    monkeypatch.setattr(store_module, "PATIENCE", 0.0)
    if kind != "lmdb":  # its lock is the process's
        with pytest.raises(BlockingIOError):
            open_store(name)
    kept.close()
    again = open_store(name)
    assert again.get("grün0@x.test") == f"0:0:{NOW}:250 Ok"
    assert again.get("grün7@x.test") is None
    assert len(again.all()) == 49
    again.close()


def test_a_file_that_others_hold_is_waited_for_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "PATIENCE", 0.0)
    with (tmp_path / "cache.db").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match="another program has it locked"):
            open_store(f"btree:{tmp_path}/cache")


def sender(tmp_path: Path, text: str) -> ProbeSender:
    conf = MainCf.parse(f"myhostname = mail.x.test\nmydomain = x.test\nmyorigin = x.test\n{text}", tmp_path)
    return ProbeSender(conf, Rewriter(conf, open_table))


def test_the_sender_of_probes(tmp_path: Path) -> None:
    fixed = sender(tmp_path, "")
    assert fixed.at(NOW) == "double-bounce@x.test"
    assert fixed.matches("Double-Bounce@X.test", lambda: NOW)
    assert not any(
        fixed.matches(address, lambda: NOW)
        for address in ("double-bounce@mail.x.test", "double-bounce1@x.test", "double-bounce", "x@x.test")
    )
    moving = sender(tmp_path, "address_verify_sender_ttl = 1h\naddress_verify_sender = probe@y.test\n")
    # 1700000000 / 3600 = 472222 = 15 * 31^3 + 26 * 31^2 + 11 * 31 + 30
    assert [moving.at(NOW + hours * HOUR) for hours in (0, 1)] == ["probeHVCZ@y.test", "probeHVD0@y.test"]
    for hours, welcome in ((-2, False), (-1, True), (0, True), (1, True), (2, False)):
        assert moving.matches(moving.at(NOW + hours * HOUR), lambda: NOW) is welcome, hours
    assert not moving.matches("probe@y.test", lambda: NOW)
    for text in ("", "<>"):
        null = sender(tmp_path, f"address_verify_sender = {text}\n")
        assert null.at(NOW) == ""
        assert not null.matches("double-bounce@x.test", lambda: NOW)
    for text in ("@x.test", "x@"):
        with pytest.raises(Exception, match=r"must not (start|end) with '@'"):
            sender(tmp_path, f"address_verify_sender = {text}\n")
