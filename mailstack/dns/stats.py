"""NAME: stats - what the running DNS server was asked, and what it answered

SYNOPSIS:
    python -m mailstack.dns.stats --config DIR

Has the server that runs from DIR write its counts (SIGUSR1) to the file that `statistics-file` names, as
`rndc stats` has named do, and prints them as one JSON object: `requests` by opcode, `queries` by type,
`rcodes`, `server` by what happened, `zones` by name for those with `zone-statistics full`. The server is
found by the file that `pid-file` names.

DIAGNOSTICS: exit status 0; 64 wrong usage; 69 there is no server; 75 it has not written in time; 78
(EX_CONFIG). One line on standard error says why.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

from mailstack.config.errors import EX_CONFIG, ConfigError
from mailstack.config.named import load

USAGE = "usage: python -m mailstack.dns.stats --config DIR"
EX_USAGE, EX_UNAVAILABLE, EX_TEMPFAIL = 64, 69, 75
PATIENCE = 10.0
"""Seconds that the server has."""
_SECTIONS = {
    "Incoming Requests": "requests",
    "Incoming Queries": "queries",
    "Outgoing Rcodes": "rcodes",
    "Name Server Statistics": "server",
}
_LINE = re.compile(r" *(\d+) (\S.*)\Z")
_BEGIN, _END = "+++ Statistics Dump +++", "--- Statistics Dump ---"


def counts(text: str) -> dict[str, dict[str, object]]:
    """The last dump of a statistics file. Raises `ValueError` when there is no whole one."""
    begin = text.rfind(_BEGIN)
    if begin < 0 or _END not in text[begin:]:
        raise ValueError("no statistics")
    found: dict[str, dict[str, object]] = {name: {} for name in (*_SECTIONS.values(), "zones")}
    place: dict[str, object] = {}
    for line in text[begin:].splitlines()[1:]:
        if line.startswith("++ "):
            place = found.get(_SECTIONS.get(line.strip("+ "), ""), {})
        elif line.startswith("["):
            place = {}
            found["zones"][line.strip("[]")] = place
        elif match := _LINE.match(line):
            place[match[2]] = int(match[1])
    return found


def main(arguments: list[str]) -> int:
    """The command; its exit status."""
    match arguments:
        case ["--config", directory]:
            path = Path(directory).absolute() / "named.conf"
        case _:
            return _fail(EX_USAGE, USAGE)
    try:
        options = load(path).options
    except ConfigError as error:
        return _fail(EX_CONFIG, str(error))
    file = Path(options.statistics_file)
    before = file.stat().st_size if file.exists() else 0
    if not options.pid_file:
        return _fail(EX_CONFIG, f"{path}: pid-file is not set: there is no knowing which process to ask")
    try:
        pid = int(Path(options.pid_file).read_text())
        if b"mailstack.dns" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            raise ProcessLookupError
        os.kill(pid, signal.SIGUSR1)
    except (OSError, ValueError):
        return _fail(EX_UNAVAILABLE, f"no server runs from {path}")
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if file.exists() and file.stat().st_size > before:
            with file.open("rb") as handle:
                handle.seek(before)
                text = handle.read().decode("utf-8", "replace")
            if _END in text:
                sys.stdout.write(json.dumps(counts(text)) + "\n")
                return 0
        time.sleep(0.01)
    return _fail(EX_TEMPFAIL, f"{file}: nothing was written; the server's log says why")


def _fail(status: int, text: str) -> int:
    sys.stderr.write(text + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
