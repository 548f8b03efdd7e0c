"""What `doctor` looks at beyond the runtime's own findings: disk, clock, spec, certificate, real tools."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

from mailstack.runtime.model import Check

if TYPE_CHECKING:
    from mailstack.runtime.api import Project
    from mailstack.spec import Stack

DISK_LOW = 200 << 20
"""Octets of free space below which mail is likely to be turned away soon."""
INODES_LOW = 2000
EARLIEST = 1704067200
"""2024-01-01: a clock before that is wrong, and certificates are not valid yet."""
EXPIRES_SOON = 7 * 86400
ROUTES = Path("/proc/net/route")


def machine(state_home: Path) -> Iterator[Check]:
    """Disk and clock."""
    yield disk(state_home)
    yield clock(time.time())


def disk(folder: Path) -> Check:
    """Room for mail where the state is, or will be, kept."""
    while not folder.exists():
        folder = folder.parent
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    text = f"{free >> 20} MiB free at {folder}"
    if free < DISK_LOW:
        return Check("disk", "fail", text, "free some space, or set XDG_STATE_HOME to a folder with more")
    if found.f_files and found.f_favail < INODES_LOW:
        text = f"only {found.f_favail} files can still be made at {folder}"
        return Check("disk", "fail", text, "remove files there, or set XDG_STATE_HOME")
    return Check("disk", "pass", text)


def clock(now: float) -> Check:
    """Whether the time can be right; `now` in seconds since the epoch."""
    shown = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(now))
    if now < EARLIEST:
        return Check(
            "clock", "fail", f"the clock says {shown}", "set it; certificates are checked against it"
        )
    return Check("clock", "pass", shown)


def stack(project: Project) -> Iterator[Check]:
    """The project's spec, network and certificate."""
    yield from _spec(project)
    yield from certificate(project.state_dir / "tls" / "cert.pem", time.time())


def _spec(project: Project) -> Iterator[Check]:
    if project.spec_path is None:
        return
    from mailstack.spec import SpecErrors, load

    try:
        spec = load(project.spec_path)
    except SpecErrors as error:
        count = len(error.problems)
        text = f"{project.spec_path} has {count} problem{'s' if count != 1 else ''}"
        yield Check("spec", "fail", text, "see 'mailstack check'")
    except OSError as error:
        yield Check("spec", "fail", f"{project.spec_path}: {error.strerror}", "name another with -f FILE")
    else:
        yield Check("spec", "pass", f"{project.spec_path} is valid")
        yield from subnet(spec, ROUTES, running=project.status().runtime is not None)


def subnet(spec: Stack, routes: Path, *, running: bool) -> Iterator[Check]:
    """Whether a subnet that the spec insists on is in use here; the automatic one avoids what is."""
    wanted = spec.network.subnet
    if wanted == "auto" or running:
        return
    clash = next(((device, net) for device, net in _routes(routes) if net.overlaps(wanted)), None)
    if clash is None:
        yield Check("subnet", "pass", f"{wanted} is free")
    else:
        fix = "write network: {subnet: auto}, or another private /24"
        yield Check("subnet", "fail", f"{wanted} overlaps {clash[1]} of {clash[0]}", fix)


def _routes(path: Path) -> Iterator[tuple[str, IPv4Network]]:
    """The kernel's IPv4 routes but the default one: device and destination."""
    try:
        lines = path.read_text().splitlines()[1:]
    except OSError:
        return
    for line in lines:
        fields = line.split()
        destination, mask = (socket.inet_ntoa(struct.pack("=L", int(fields[index], 16))) for index in (1, 7))
        if mask != "0.0.0.0":
            yield fields[0], IPv4Network(f"{destination}/{mask}", strict=False)


def certificate(path: Path, now: float) -> Iterator[Check]:
    """Whether the stack's certificate is valid at `now` (seconds since the epoch)."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        yield Check("certificate", "fail", f"{path}: {error.strerror}", f"make {path} readable")
        return
    from cryptography import x509

    fix = "'mailstack up' makes a new one"
    try:
        found = x509.load_pem_x509_certificate(data)
    except ValueError:
        yield Check("certificate", "fail", f"{path} holds no certificate", fix)
        return
    start, end = found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp()
    until = found.not_valid_after_utc.strftime("%Y-%m-%d")
    if now < start:
        yield Check("certificate", "fail", "the certificate is not valid yet", "is the clock right?")
    elif now >= end:
        yield Check("certificate", "fail", f"the certificate ended on {until}", fix)
    elif now >= end - EXPIRES_SOON:
        yield Check("certificate", "warn", f"the certificate ends on {until}", fix)
    else:
        yield Check("certificate", "pass", f"valid until {until}")


def native_tools() -> Iterator[Check]:
    """Which real parsers `check --native` would find."""
    from mailstack.cli.native import TOOLS, find

    for name, package in {tool.name.split()[0]: tool.package for tool in TOOLS}.items():
        path = find(name)
        if path is None:
            fix = f"only for 'check --native': on Debian, apt-get install {package}"
            yield Check(name, "warn", "not installed", fix)
        else:
            yield Check(name, "pass", path)
