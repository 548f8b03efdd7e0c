"""Ask the installed Postfix, Dovecot and BIND what they think of the rendered files.

The tree is written into a temporary folder and only read there; nothing is started.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mailstack.render import Facts
    from mailstack.spec import Stack

TIMEOUT = 60
"""Seconds for one tool."""
PLACES = "/usr/sbin:/sbin:/usr/local/sbin:/opt/local/sbin"
"""Where these tools lie that is not on everybody's PATH."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one tool said. `output` are the lines that matter: its complaints."""

    tool: str
    status: Literal["accepted", "warned", "refused", "missing"]
    command: str
    output: tuple[str, ...] = ()
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Tool:
    """A checker: its arguments for a tree, and which of its words mean that something is wrong."""

    name: str
    package: str
    arguments: Callable[[Path], list[str]]
    refused: tuple[str, ...]
    noted: tuple[str, ...] = ("warning",)


TOOLS = (
    Tool(
        "postconf",
        "postfix",
        lambda root: ["-c", str(root / "postfix"), "-n"],
        refused=("unused parameter", "fatal:", "error:", "overriding earlier entry"),
    ),
    Tool(
        "postconf -M",
        "postfix",
        lambda root: ["-c", str(root / "postfix")],
        refused=("fatal:", "error:", "warning:"),
    ),
    Tool(
        "doveconf",
        "dovecot-core",
        lambda root: ["-c", str(root / "dovecot" / "dovecot.conf"), "-n"],
        refused=("Fatal:", "Error:"),
        noted=("Warning:",),
    ),
    Tool(
        "named-checkconf",
        "bind9-utils",
        lambda root: ["-z", str(root / "bind" / "named.conf")],
        refused=("error", "not loaded", "bad zone"),
    ),
)


def find(name: str) -> str | None:
    """The path of an installed tool."""
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), PLACES)))


def check_natively(stack: Stack, facts: Facts) -> list[Report]:
    """Render for this machine's own Postfix, Dovecot and BIND, and ask each. Raises `OSError`."""
    from mailstack.render import render
    from mailstack.render.site import site_for_host

    with tempfile.TemporaryDirectory(prefix="mailstack-check-") as name:
        root = Path(name)
        site = site_for_host(
            PurePosixPath(root),
            stack,
            passwords={address: "unused" for address, _ in stack.users()},  # none of the tools reads them
            salt_secret=b"unused",
            today=date.today(),
            facts=facts,
        )
        for path, file in render(stack, site).files.items():
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.data)
            target.chmod(file.mode)
        if stack.tls.mode == "ca":
            # doveconf reads these files, without looking into them; `up` makes the real ones.
            (root / "tls").mkdir()
            for file_name in ("cert.pem", "key.pem"):
                (root / "tls" / file_name).write_text("made by up\n")
        return [_ask(tool, root) for tool in TOOLS]


def _ask(tool: Tool, root: Path) -> Report:
    program, *flags = tool.name.split()
    path = find(program)
    if path is None:
        return Report(tool.name, "missing", program, fix=f"on Debian, apt-get install {tool.package}")
    command = [path, *flags, *tool.arguments(root)]
    shown = " ".join(command).replace(str(root), "TREE")
    try:
        done = subprocess.run(  # noqa: S603  (a fixed list of tools)
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Report(tool.name, "refused", shown, (f"cannot be run: {error}",))
    # named-checkconf complains on standard output, the others on standard error beside their listing.
    said = done.stderr + (done.stdout if program == "named-checkconf" else "")
    lines = [line.replace(f"{root}/", "").strip() for line in said.splitlines() if line.strip()]
    if done.returncode != 0:
        return Report(tool.name, "refused", shown, tuple(lines) or (f"exit status {done.returncode}",))
    if any(word in line for word in tool.refused for line in lines):
        return Report(tool.name, "refused", shown, tuple(lines))
    noted = tuple(line for line in lines if any(word in line for word in tool.noted))
    return Report(tool.name, "warned" if noted else "accepted", shown, noted)
