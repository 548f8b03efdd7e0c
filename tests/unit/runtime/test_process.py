"""The process engine and its supervisor, over stand-ins that answer the services' protocols."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from mailstack.runtime import control, ports, probes, tls
from mailstack.runtime.engine import Ground, Launch
from mailstack.runtime.errors import ServiceDied
from mailstack.runtime.model import SERVICES, Step
from mailstack.runtime.plan import Wanted, files_of, make_plan
from mailstack.runtime.process import ProcessEngine
from mailstack.runtime.state import Deployed, Record, StateDir
from mailstack.runtime.supervisor import process_start
from mailstack.runtime.tree import TreeFile, read_tree
from tests.unit.runtime import fakes

PROTOCOLS = tuple(fakes.OWNER)
FILES = {"bind/named.conf": TreeFile(b"1\n", 0o644), "postfix/main.cf": TreeFile(b"1\n", 0o644)}


class Bench:
    """One project's engine, and what the stand-ins are to do."""

    def __init__(self, folder: Path) -> None:
        self.state = StateDir(folder / "mailstack", "one")
        self.state.make()
        self.listen = ports.choose(PROTOCOLS, bind="127.0.0.1", seed=str(folder), remembered={}, fixed={})
        tls.ensure(self.state.tls, "one", ["mail.a.test", "127.0.0.1"], time.time())
        self.record = Record("one", runtime="process")
        self.behave()

    def behave(self, **words: str) -> None:
        listen = {name: ["127.0.0.1", port] for name, port in self.listen.items()}
        (self.state.path / "fake.json").write_text(json.dumps({"listen": listen, "behave": words}))

    def engine(self) -> ProcessEngine:
        command = (sys.executable, fakes.__file__)
        base = str(self.state.path)
        return ProcessEngine(self.state, os.environ, {name: (*command, name, base) for name in SERVICES})

    def up(self, files: dict[str, TreeFile], timeout: float = 10.0) -> tuple[Step, ...]:
        """What `launch.up` does with an engine, without spec and rendering."""
        engine = self.engine()
        digests = {path: file.digest for path, file in files.items()}
        services = {name: Deployed({}, files_of(name, digests)) for name in SERVICES}
        wanted = Wanted("process", services)
        steps = make_plan(wanted, engine.find(self.record))
        ground = Ground(IPv4Network("127.9.9.0/24"), {}, (), "127.0.0.1", "127.0.0.1", self.listen)
        try:
            engine.apply(Launch(steps, files, wanted, ground), lambda _: None)
            targets = [probes.Target(name, "127.0.0.1", port) for name, port in self.listen.items()]
            context = probes.tls_context(str(self.state.tls / "ca.pem"))
            expected = probes.Expected("a.test", "mail.a.test", context)
            wrong = probes.wait_ready(
                targets, expected, timeout=timeout, on_ready=lambda _: None, check=engine.check
            )
            assert not wrong, wrong
        except BaseException:
            engine.undo()
            raise
        engine.commit()
        self.record = self.record.but(services=services)
        return steps

    def down(self) -> tuple[str, ...]:
        return self.engine().stop(self.record, volumes=False).removed

    def pids(self) -> dict[str, int]:
        return {name: live.pid for name, live in self.engine().live(self.record).items() if live.pid}

    def log(self, service: str) -> str:
        return (self.state.log / f"{service}.log").read_text()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    control.end(bench.state.run)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def test_life_of_a_stack(bench: Bench) -> None:
    assert [step.action for step in bench.up(FILES)] == ["write", "start", "start", "start"]
    first = bench.pids()
    assert set(first) == set(SERVICES)
    assert read_tree(bench.state.rendered) == FILES

    assert bench.up(FILES) == ()
    assert bench.pids() == first

    zone = FILES | {"bind/zones/a.test.zone": TreeFile(b"2\n", 0o644)}
    assert [str(step) for step in bench.up(zone)][1:] == ["reload dns: bind/zones/a.test.zone changed"]
    until(lambda: "dns reloaded" in bench.log("dns"))
    assert bench.pids() == first

    other = zone | {"postfix/main.cf": TreeFile(b"2\n", 0o644)}
    assert [str(step) for step in bench.up(other)][1:] == ["restart mta: postfix/main.cf changed"]
    after = bench.pids()
    assert after["mta"] != first["mta"]
    assert (after["dns"], after["mailbox"]) == (first["dns"], first["mailbox"])

    assert set(bench.down()) == {"process supervisor", *(f"process {name}" for name in SERVICES)}
    assert not any(process_start(pid) for pid in after.values())
    assert list(bench.state.run.iterdir()) == []
    assert bench.down() == ()


def test_restarted_service_is_the_new_one(bench: Bench) -> None:
    """The old one answers until it has drained: that is not what `up` waits for."""
    bench.behave(mta="slow")
    bench.up(FILES)
    first = bench.pids()
    bench.behave()
    bench.up(FILES | {"postfix/main.cf": TreeFile(b"2\n", 0o644)})
    assert not process_start(first["mta"])
    assert bench.pids()["mta"] not in (None, first["mta"])


def test_killed_service_comes_back_and_is_counted(bench: Bench) -> None:
    bench.up(FILES)
    old = bench.pids()["mailbox"]
    os.kill(old, signal.SIGKILL)
    until(lambda: bench.pids().get("mailbox", old) != old)
    live = bench.engine().live(bench.record)["mailbox"]
    assert (live.running, live.restarts) == (True, 1)
    assert "signal 9" in bench.log("supervisor")


def test_services_die_with_their_supervisor(bench: Bench) -> None:
    bench.up(FILES)
    pids = bench.pids()
    os.kill(control.leftovers(bench.state.run)["supervisor"][0], signal.SIGKILL)
    until(lambda: not any(process_start(pid) for pid in pids.values()))
    # and the next `up` finds nothing in its way
    assert len(bench.up(FILES)) == 4


@pytest.mark.parametrize(
    ("word", "said", "state"),
    [("exit", "the roof is on fire", "status 1"), ("config", "main.cf:3: nonsense", "status 78")],
)
def test_early_exit_fails_at_once_and_leaves_nothing(bench: Bench, word: str, said: str, state: str) -> None:
    bench.behave(mta=word)
    began = time.monotonic()
    with pytest.raises(ServiceDied) as caught:
        bench.up(FILES, timeout=30)
    assert time.monotonic() - began < 5
    assert caught.value.service == "mta"
    assert caught.value.status == 3
    assert said in caught.value.tail[-1]
    assert state in str(caught.value)
    assert control.leftovers(bench.state.run) == {}


def test_update_that_fails_puts_the_old_configuration_back(bench: Bench) -> None:
    bench.up(FILES)
    first = bench.pids()
    bench.behave(mta="exit")
    with pytest.raises(ServiceDied):
        bench.up(FILES | {"postfix/main.cf": TreeFile(b"bad\n", 0o644)})
    bench.behave()
    assert read_tree(bench.state.rendered) == FILES
    until(lambda: bench.pids().get("mta") not in (None, first["mta"]))
    assert (bench.pids()["dns"], bench.pids()["mailbox"]) == (first["dns"], first["mailbox"])


def test_service_that_is_silent_is_named(bench: Bench) -> None:
    bench.behave(mailbox="mute")
    with pytest.raises(AssertionError, match=r"mailbox.*lmtp"):
        bench.up(FILES, timeout=1.0)
    assert control.leftovers(bench.state.run) == {}


def test_configuration_error_is_not_tried_again(bench: Bench) -> None:
    bench.up(FILES)
    bench.behave(dns="config")
    os.kill(bench.pids()["dns"], signal.SIGKILL)
    until(lambda: "failed" in bench.log("supervisor"))
    live = bench.engine().live(bench.record)["dns"]
    assert (live.running, live.detail) == (False, "it refuses its configuration (status 78)")
    # the next `up` tries it again
    bench.behave()
    assert [str(step) for step in bench.up(FILES)] == ["start dns: it was not running"]


def test_recycled_pid_is_not_ended(bench: Bench) -> None:
    me = os.getpid()
    note = {"supervisor": [me, process_start(me) + 1], "services": {"mta": [me, 0]}}
    (bench.state.run / "supervisor.json").write_text(json.dumps(note))
    assert control.leftovers(bench.state.run) == {}
    assert control.end(bench.state.run) == ()


def test_deaf_service_is_killed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.behave(dns="deaf")
    bench.up(FILES)
    monkeypatch.setattr(control, "GRACE", 0.2)
    # without its supervisor the service gets the kernel's SIGTERM and ignores it
    os.kill(control.leftovers(bench.state.run)["supervisor"][0], signal.SIGKILL)
    until(lambda: set(control.leftovers(bench.state.run)) == {"dns"})
    assert control.end(bench.state.run) == ("dns",)
    assert control.leftovers(bench.state.run) == {}


def test_supervisor_answers_nonsense_and_stays(bench: Bench) -> None:
    bench.up(FILES)
    connection = control.connect(str(bench.state.path))
    assert connection is not None
    for command in ("dance", "restart", "start"):
        with pytest.raises(Exception, match="refused"):
            connection.ask(command)
    assert connection.ask("status")["services"]["mta"]["state"] == "running"
    connection.close()


def test_logs_are_read_by_time_and_followed(bench: Bench) -> None:
    bench.up(FILES)
    lines = bench.engine().logs((), follow=False, since=None, record=bench.record)
    texts = [(line.service, line.text) for line in lines]
    assert ("mta", "mta started") in texts
    assert any(service == "supervisor" and "dns: started" in text for service, text in texts)
    follower = bench.engine().logs(("dns",), follow=True, since=None, record=bench.record)
    assert next(follower).text == "dns started"
    os.kill(bench.pids()["dns"], signal.SIGHUP)
    assert next(follower).text == "dns reloaded"
