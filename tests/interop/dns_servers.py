"""Our DNS server and the real named, started on the same configuration and free ports."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import pytest

ZONES = Path(__file__).parent.parent / "unit" / "dns" / "zones"
WORLD = """
zone "rich.test" { type master; file "zones/rich.zone"; };
zone "other.test" { type master; file "zones/other.zone"; };
zone "child.other.test" { type master; file "zones/child.zone"; };
zone "2.0.192.in-addr.arpa" { type master; file "zones/rev.zone"; };
"""


def configure(root: Path, port: int, options: str = "recursion no;", zones: str = WORLD) -> Path:
    """Write named.conf (and the zones beside it) under `root`; returns `root`."""
    root.mkdir(parents=True, exist_ok=True)
    if not (root / "zones").exists():
        shutil.copytree(ZONES, root / "zones")
    (root / "named.conf").write_text(
        f"""options {{
  directory "{root}";
  listen-on port {port} {{ 127.0.0.1; }};
  listen-on-v6 {{ none; }};
  pid-file none;
  lock-file none;
  session-keyfile "{root}/session.key";
  managed-keys-directory "{root}";
  notify no;
  {options}
}};
controls {{ }};
{zones}
"""
    )
    return root


@contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server process, from its first answer to its end."""
    with open(log, "ab") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink)
    try:
        deadline = time.monotonic() + 60
        query = dns.message.make_query("version.bind", "TXT", "CH")
        while True:
            try:
                # By UDP named answers three of these in a second, and those who go on asking none.
                dns.query.tcp(query, "127.0.0.1", port=port, timeout=10)
                break
            except (OSError, EOFError, dns.exception.DNSException):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.01)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(20)


@contextmanager
def ours(root: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m mailstack.dns` on `root`/named.conf."""
    command = [sys.executable, "-m", "mailstack.dns", "--config", str(root)]
    with running(command, port, root / "ours.log") as process:
        yield process


@contextmanager
def bind(root: Path, port: int, mode: str = "-g") -> Iterator[subprocess.Popen[bytes]]:
    """Debian's named on `root`/named.conf. With `mode` -f it logs where the configuration says."""
    named = shutil.which("named", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if named is None:
        pytest.skip("needs named (bind9)")
    command = [named, mode, "-c", str(root / "named.conf")]
    log = root / "bind.log"
    before = log.stat().st_size if log.exists() else 0
    with running(command, port, log) as process:
        # It answers before it has read its zones: SERVFAIL.
        deadline = time.monotonic() + 60
        while mode == "-g" and b"all zones loaded" not in log.read_bytes()[before:]:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)
        yield process
