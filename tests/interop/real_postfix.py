"""The real Postfix in a folder of its own, and what each test that runs one needs: patience, an end."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest


def need_postfix() -> None:
    """Skip the test where no Postfix can be started."""
    if shutil.which("postfix") is None:
        pytest.skip("postfix is missing (apt-get install postfix)")
    if os.geteuid() != 0:
        pytest.skip("a real Postfix starts only as root")


def let_daemons_in(folder: Path) -> None:
    """Open a folder, and those above it, to the users that daemons and agents run as."""
    for one in (folder, *folder.parents):
        if str(one).startswith("/tmp/"):
            one.chmod(one.stat().st_mode | 0o055)


def wait_for(port: int, seconds: float = 30) -> None:
    """Return when somebody listens on a port."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"nothing listens on port {port}")


def make_aliases(directory: Path) -> None:
    """The index of the folder's aliases."""
    command = ["postalias", "-c", str(directory), f"hash:{directory}/aliases"]
    subprocess.run(command, check=True, timeout=60)


def start_postfix(directory: Path) -> None:
    """Start the Postfix of a folder; what it says where it does not is in the error.

    It returns when the log says that the master runs. A master whose postlogd has not begun waits for ever now and
    then, when others have filled the log's socket (ten lines) before: such a one is started anew.
    """
    command = ["postfix", "-c", str(directory), "start"]
    asked = ["postconf", "-c", str(directory), "-h", "maillog_file"]
    log = Path(
        subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True).stdout.strip() or "/"
    )
    for _ in range(3):
        before = _starts(log)
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60)
        if done.returncode:
            logs = (path.read_text(errors="replace")[-2000:] for path in directory.glob("*log"))
            raise AssertionError(f"postfix does not start: {done.stderr}{''.join(logs)}")
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if log == Path("/") or log.is_char_device() or _starts(log) > before:
                return
            time.sleep(0.05)
        stop_postfix(directory)
    raise AssertionError(f"postfix does not run: {log.read_text(errors='replace')[-2000:]}")


def _starts(log: Path) -> int:
    return log.read_text(errors="replace").count("daemon started") if log.is_file() else 0


def stop_postfix(directory: Path) -> None:
    """Stop the Postfix of a folder; one that does not end by itself (its master may wait for a daemon that has
    crashed) is ended the hard way."""
    for word in ("stop", "abort"):
        try:
            command = ["postfix", "-c", str(directory), word]
            subprocess.run(command, check=False, capture_output=True, timeout=20)
        except subprocess.TimeoutExpired:
            continue
        return
