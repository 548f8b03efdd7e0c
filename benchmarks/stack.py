"""A running stack for tests and measurements: brought up through the command line, as a user would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

SPEC = """\
domains:
  bench.test:
    users:
{users}
"""


def bench_spec(users: list[str]) -> str:
    """The spec of one domain, `bench.test`, whose users all have the password `secret`."""
    return SPEC.format(users="\n".join(f"      {user}: {{password: secret}}" for user in users))


class Stack:
    """`mailstack up` on entry, `mailstack down --volumes` on exit; `seconds` is how long `up` took."""

    def __init__(
        self, root: Path, spec: str, *, runtime: str = "process", project: str | None = None
    ) -> None:
        self.root = root
        self.runtime = runtime
        self.project = project or f"bench-{os.getpid()}"
        root.mkdir(parents=True, exist_ok=True)
        self.spec = root / "mailstack.yaml"
        self.spec.write_text(spec)
        self.environment = {
            **os.environ,
            "XDG_STATE_HOME": str(root / "state"),
            "MAILSTACK_RUNTIME": runtime,
            "MAILSTACK_PROJECT": self.project,
        }
        self.seconds = 0.0
        self.env: dict[str, str] = {}

    def cli(
        self, *arguments: str, check: bool = False, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run one command against the stack; with `check`, raise `RuntimeError` when it fails."""
        command = [sys.executable, "-m", "mailstack", "-f", str(self.spec), *arguments]
        result = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=timeout
        )
        if check and result.returncode != 0:
            raise RuntimeError(f"{arguments}: exit {result.returncode}: {result.stdout}{result.stderr}")
        return result

    def json(self, *arguments: str) -> Any:
        """The `data` of one command's JSON answer."""
        return json.loads(self.cli("-o", "json", *arguments, check=True).stdout)["data"]

    def __enter__(self) -> Stack:
        started = time.perf_counter()
        answer = self.json("up")
        self.seconds = time.perf_counter() - started
        self.env = answer["env"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cli("down", "--volumes", check=kind is None)

    def port(self, service: str) -> int:
        """The published port of `smtp`, `imaps`, `dns` …"""
        return int(self.env[f"MAILSTACK_{service.upper()}_PORT"])

    @property
    def host(self) -> str:
        return self.env["MAILSTACK_HOST"]

    @property
    def ca_file(self) -> str:
        return self.env["MAILSTACK_CA_FILE"]

    @property
    def state(self) -> Path:
        """The project's state folder."""
        return Path(self.environment["XDG_STATE_HOME"]) / "mailstack" / self.project

    def maildir(self, address: str) -> Path:
        """Where a user's Maildir lies (process runtime)."""
        user, _, domain = address.partition("@")
        return self.state / "mail" / domain / user

    def processes(self) -> list[int]:
        """Process ids of everything whose command line names the project's state folder."""
        found = []
        needle = str(self.state).encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if needle in (entry / "cmdline").read_bytes():
                        found.append(int(entry.name))
                except OSError:
                    continue
        return sorted(found)
