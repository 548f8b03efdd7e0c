"""A command line run inside the test, and a project that only pretends to run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mailstack.cli.main import main
from mailstack.runtime.model import (
    DownResult,
    Endpoints,
    LogLine,
    Plan,
    ProgressCallback,
    ServiceStatus,
    StackStatus,
    Step,
    UpResult,
    no_progress,
)

SPEC = """\
project: demo
domains:
  mail.test:
    users: {alice: {password: secret}, bob: {password: other}}
"""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command line left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on standard output, checked to have the envelope's shape."""
        lines = self.out.splitlines()
        assert len(lines) == 1, self.out
        return envelope(lines[0])


def envelope(line: str) -> dict[str, Any]:
    """One line of JSON output, whose shape is the documented one."""
    value = json.loads(line)
    assert list(value) == ["schemaVersion", "command", "status", "data", "warnings", "error"]
    assert value["schemaVersion"] == 1
    assert isinstance(value["data"], dict)
    assert isinstance(value["warnings"], list)
    if value["status"] == "ok":
        assert value["error"] is None
    else:
        assert value["status"] == "error"
        assert set(value["error"]) == {"code", "message", "hint"}
    return dict(value)


class Shell:
    """Runs command lines in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *args: str) -> Ran:
        self._capsys.readouterr()
        status = main(list(args))
        out, err = self._capsys.readouterr()
        return Ran(int(status), out, err)


ENDPOINTS = Endpoints(
    project="demo",
    domain="mail.test",
    hostname="mail.mail.test",
    host="127.0.0.1",
    ports={"smtp": 1025, "submission": 1587, "imap": 1143, "dns": 1053},
    ca_file="/ca.pem",
    tls=True,
    users={"alice@mail.test": "secret", "bob@mail.test": "o'th \"er$"},
    addresses={"dns": "127.7.7.2", "mta": "127.7.7.3", "mailbox": "127.7.7.4"},
    network="127.7.7.0/24",
)
ENV = {
    "MAILSTACK_PROJECT": "demo",
    "MAILSTACK_HOST": "127.0.0.1",
    "MAILSTACK_SMTP_PORT": "1025",
    "MAILSTACK_PASSWORD": "o'th \"er$",
}


@dataclass
class FakeProject:
    """Records what it was asked to do."""

    name: str = "demo"
    spec_path: Path | None = None
    health: str = "stopped"
    calls: list[str] = field(default_factory=list)
    error: Exception | None = None
    lines: Sequence[LogLine] = ()
    messages: list[dict[str, Any]] = field(default_factory=list)

    def _status(self) -> StackStatus:
        services = tuple(
            ServiceStatus(
                service=name,
                health=self.health,  # type: ignore[arg-type]
                detail="",
                address=ENDPOINTS.addresses[name],
                ports={},
                pid=42,
            )
            for name in ("dns", "mailbox", "mta")
        )
        return StackStatus(
            project=self.name,
            runtime="process",
            health=self.health,  # type: ignore[arg-type]
            services=services,
            endpoints=ENDPOINTS,
            state_dir="/state/demo",
            spec_path="/spec/mailstack.yaml",
            env=ENV,
        )

    def plan(self, *, build: bool = False) -> Plan:
        return Plan("process", "no Docker daemon answers", (Step("start", "dns", "it does not run"),))

    def up(
        self,
        progress: ProgressCallback = no_progress,
        *,
        build: bool = False,
        timeout: float = 60.0,
        wait: bool = True,
    ) -> UpResult:
        self.calls.append(f"up build={build} timeout={timeout} wait={wait}")
        if self.error is not None:
            raise self.error
        self.health = "ready"
        return UpResult(self.plan(), self._status(), 0.5, {"load": 0.1}, ("something to know",))

    def down(self, progress: ProgressCallback = no_progress, *, volumes: bool = False) -> DownResult:
        self.calls.append(f"down volumes={volumes}")
        return DownResult(("process dns",))

    def status(self, *, probe_timeout: float = 2.0) -> StackStatus:
        return self._status()

    def endpoints(self) -> Endpoints:
        return ENDPOINTS

    def env(self) -> dict[str, str]:
        return dict(ENV)

    def logs(
        self, services: Sequence[str] = (), *, follow: bool = False, since: float | None = None
    ) -> Iterator[LogLine]:
        self.calls.append(f"logs {list(services)} follow={follow} since={since}")
        yield from self.lines

    def queue(self) -> list[dict[str, Any]]:
        return self.messages

    def queue_content(self, queue_id: str) -> bytes:
        return f"Subject: {queue_id}\n\nbody\xff\n".encode("latin-1")

    def flush_queue(self, queue_ids: Sequence[str] = (), domain: str = "") -> None:
        self.calls.append(f"flush {list(queue_ids)} domain={domain}")

    def change_queue(self, operation: str, queue_ids: Sequence[str]) -> int:
        self.calls.append(f"{operation} {list(queue_ids)}")
        return len(queue_ids) or len(self.messages)
