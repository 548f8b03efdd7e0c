"""A stack of ours for a measurement: brought up through the command line, as a user would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

SPEC = """\
project: {project}
domains:
  bench.test:
    users:
{users}
"""


class Stack:
    """`mailstack up` on entry, `mailstack down --volumes` on exit; `seconds` is how long `up` took."""

    def __init__(self, root: Path, users: list[str], *, runtime: str = "process", extra: str = "") -> None:
        self.root = root
        self.runtime = runtime
        self.users = users
        root.mkdir(parents=True, exist_ok=True)
        self.spec = root / "mailstack.yaml"
        lines = "\n".join(f"      {user}: {{password: secret}}" for user in users)
        self.spec.write_text(SPEC.format(project=f"bench-{os.getpid()}", users=lines) + extra)
        self.environment = {**os.environ, "XDG_STATE_HOME": str(root / "state"), "MAILSTACK_RUNTIME": runtime}
        self.seconds = 0.0
        self.env: dict[str, str] = {}

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one command against the stack."""
        command = [sys.executable, "-m", "mailstack.cli", "-f", str(self.spec), *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)

    def __enter__(self) -> Stack:
        started = time.perf_counter()
        result = self.cli("-o", "json", "up")
        self.seconds = time.perf_counter() - started
        if result.returncode != 0:
            raise RuntimeError(f"up failed ({result.returncode}): {result.stdout}{result.stderr}")
        self.env = json.loads(result.stdout)["data"]["env"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        result = self.cli("down", "--volumes")
        if result.returncode != 0 and kind is None:
            raise RuntimeError(f"down failed: {result.stdout}{result.stderr}")

    @property
    def state(self) -> Path:
        """The project's state folder."""
        return Path(self.environment["XDG_STATE_HOME"]) / "mailstack" / f"bench-{os.getpid()}"

    def maildirs(self) -> list[Path]:
        return [self.state / "mail" / "bench.test" / user for user in self.users]

    def processes(self) -> list[int]:
        """Process ids of everything that runs for the stack: all whose environment or command names it."""
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
