"""Our DNS server beside BIND: queries a second, start-up, loading, memory, floods.

    python -m benchmarks.dns_qps [--seconds 3] [--rounds 3] [--names 100000] [--rows REGEX]

Needs named, dnssec-keygen and dnssec-signzone (bind9) and dnsperf. Both servers serve the same zones from the
same named.conf on 127.0.0.1, one after the other; dnsperf runs beside them on the same processors. Rounds
alternate between the two; the table has the medians, and the ratio of ours to named's. All three have
real-time priority where that is allowed, so that other work on the machine hardly counts.

Questions for the large zones are random, and a new server is started for each load: hardly a name has been
asked for before. A server is ready when it answers from its largest zone; ours, where it signs the zone
itself, when all of it is signed. named takes minutes for that and answers without signatures and proofs
meanwhile, which is less work; its rate over zones that are signed is in the rows of NSEC.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import dns.exception
import dns.message
import dns.query

from benchmarks.dns_flood import flooded
from tests.interop.dns_servers import WORLD, configure
from tests.ports import free_port

FEW = """rich.test MX
mail.rich.test A
_imaps._tcp.rich.test SRV
4.2.0.192.in-addr.arpa PTR
nothere.rich.test A
"""
HEAD = "$TTL 3600\n@ IN SOA ns hostmaster 1 3600 600 86400 300\n@ NS ns\nns A 192.0.2.1\n"
SIZES = (100_000, 300_000, 1_000_000)
PATIENCE = 240
"""Seconds that a server may take to load its zones."""
POLICY = "dnssec-policy one { keys { csk lifetime unlimited algorithm ecdsa256; }; };\n"
TOOLS = ("named", "dnssec-keygen", "dnssec-signzone", "dnsperf")
FIRST: list[str] = []
"""What servers and dnsperf are started by."""


@dataclass(frozen=True)
class Row:
    """One measurement: configuration, the name that is answered when all is loaded, dnsperf's arguments."""

    title: str
    zones: str
    ready: str
    load: tuple[str, ...] = ()
    flood: bool = False
    head: str = ""
    make: Callable[[], None] | None = None
    """Makes the files, the first time that the row is measured."""
    signed: bool = False
    """The server signs the zone: ours is asked when it has, named at once."""


def main() -> int:
    """Print one table. Exit status 4 when a tool is missing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--names", type=int, default=100_000)
    parser.add_argument("--rows", default="")
    arguments = parser.parse_args()
    FIRST.extend(first())
    for tool in TOOLS:
        if shutil.which(tool) is None:
            print(f"needs {tool}", file=sys.stderr)
            return 4
    with tempfile.TemporaryDirectory(prefix="dns-qps-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        print(f"{'':44}{'ours':>12}{'named':>12}{'ratio':>8}", flush=True)
        for row in rows(root, arguments.names):
            if re.search(arguments.rows, row.title):
                if row.make is not None:
                    row.make()
                compare(row, root, arguments.rounds, arguments.seconds)
    return 0


def first() -> list[str]:
    """chrt(1), where it may be used: whatever else the machine does, comes after what is measured."""
    command = ["chrt", "-f", "10"]
    if shutil.which("chrt") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        return []
    return command


def rows(root: Path, count: int) -> Iterator[Row]:
    """What is measured. Files are made when they are needed."""
    few = root / "few.txt"
    few.write_text(FEW)
    yield Row("five names", WORLD, "mail.rich.test", ("-d", str(few)))
    yield Row("five names, TCP", WORLD, "mail.rich.test", ("-d", str(few), "-m", "tcp"))
    large, many = root / "large.zone", root / "many.txt"
    write_large(large, count)
    chance = random.Random(1)  # the same questions each time
    many.write_text("".join(f"host{chance.randrange(count)}.large.test A\n" for _ in range(400_000)))
    random_load = ("-d", str(many))
    yield Row(f"{count} names", zone("large.test", large), "host1.large.test", random_load)
    half = root / "half.txt"
    half.write_text("".join(f"host{chance.randrange(2 * count)}.large.test A\n" for _ in range(400_000)))
    half_load = ("-d", str(half))
    yield Row(f"{count} names, half NXDOMAIN", zone("large.test", large), "host1.large.test", half_load)
    for proof, options in (("NSEC", ()), ("NSEC3", ("-3", "-", "-H", "0"))):
        signed = root / f"{proof}.zone"
        shown = f"{count} names, {proof}, DO"
        yield Row(
            shown,
            zone("large.test", signed),
            "host1.large.test",
            (*random_load, "-D"),
            make=partial(sign, root, large, signed, options),
        )
        yield Row(
            f"{shown}, half NXDOMAIN",
            zone("large.test", signed),
            "host1.large.test",
            (*half_load, "-D"),
            make=partial(sign, root, large, signed, options),
        )
    own = root / "own.zone"
    shutil.copy(large, own)
    for more, load in (("", random_load), (", half NXDOMAIN", half_load)):
        yield Row(
            f"{count} names, dnssec-policy, DO{more}",
            zone("large.test", own, "dnssec-policy one; inline-signing yes;"),
            "host1.large.test",
            (*load, "-D"),
            head=POLICY,
            signed=True,
        )
    for size in SIZES:
        path = root / f"size{size}.zone"
        write_mixed(path, size)
        yield Row(f"load of {size} records", zone("large.test", path), "host1.large.test")
    yield Row("a flood of random names", WORLD, "mail.rich.test", flood=True)


def zone(name: str, path: Path, more: str = "") -> str:
    return f'zone "{name}" {{ type master; file "{path}"; {more} }};\n'


def write_large(path: Path, count: int) -> None:
    """A zone of `count` hosts."""
    path.write_text(HEAD + "".join(f"host{number} A {_address(number)}\n" for number in range(count)))


def write_mixed(path: Path, count: int) -> None:
    """A zone of `count` records, half of them MX."""
    lines = (
        f"host{number} A {_address(number)}\nd{number} MX 10 host{number}\n" for number in range(count // 2)
    )
    path.write_text(HEAD + "".join(lines))


def _address(number: int) -> str:
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def sign(root: Path, path: Path, signed: Path, options: tuple[str, ...]) -> None:
    """Make the zone as dnssec-signzone signs it, unless it is there."""
    if signed.exists():
        return
    for key in root.glob("Klarge.test.*"):
        key.unlink()
    keygen = ["dnssec-keygen", "-q", "-a", "ECDSAP256SHA256", "-K", str(root)]
    for more in ([], ["-f", "KSK"]):
        subprocess.run([*keygen, *more, "large.test"], check=True, capture_output=True)
    signer = [
        "dnssec-signzone",
        "-S",
        "-P",
        *options,
        "-K",
        str(root),
        "-o",
        "large.test",
        "-f",
        str(signed),
        str(path),
    ]
    subprocess.run(signer, check=True, capture_output=True, cwd=root)


def compare(row: Row, root: Path, rounds: int, seconds: int) -> None:
    found: dict[str, dict[str, list[float]]] = {"ours": {}, "named": {}}
    for _ in range(rounds):
        for name, into in found.items():
            try:
                for title, value in measure(name, row, root, seconds).items():
                    into.setdefault(title, []).append(value)
            except RuntimeError as error:
                print(f"{row.title}: {name}: {error}", file=sys.stderr)
    for title in found["ours"]:
        mine = median(found["ours"][title])
        theirs = median(found["named"].get(title, [float("nan")]))
        ratio = mine / theirs if theirs else float("nan")
        print(f"{row.title + ', ' + title:44}{mine:12.2f}{theirs:12.2f}{ratio:8.2f}", flush=True)


def measure(name: str, row: Row, root: Path, seconds: int) -> dict[str, float]:
    """One round of one server."""
    port = free_port()
    home = root / name
    shutil.rmtree(home, ignore_errors=True)
    configure(home, port, "recursion no;", row.zones)
    conf = home / "named.conf"
    conf.write_text(row.head + conf.read_text())
    found: dict[str, float] = {}
    begun = time.monotonic()
    with started(name, home, port, row.ready) as process:
        found["start s"] = time.monotonic() - begun
        found["start processor s"] = processor(process.pid)
        found["memory MiB"] = pss(process.pid)
        if row.signed and name == "ours":
            found["signed s"] = signed_after(home / "log")
            found["memory MiB"] = pss(process.pid)
        if row.load:
            found["queries/s"] = dnsperf(port, seconds, row.load)
            found["memory after it MiB"] = pss(process.pid)
        if row.flood:
            found["answered share"], found["flood questions/s"] = flooded(port, FEW.split("\n")[1], seconds)
            found["memory after it MiB"] = pss(process.pid)
    return found


@contextmanager
def started(name: str, home: Path, port: int, ready: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server process, from its first answer for `ready` to its end. Raises `RuntimeError`."""
    command = [sys.executable, "-m", "mailstack.dns", "--config", str(home)]
    if name == "named":
        command = [shutil.which("named") or "named", "-g", "-c", str(home / "named.conf")]
    with open(home / "log", "wb") as log:
        process = subprocess.Popen([*FIRST, *command], stdout=log, stderr=log)
    try:
        query = dns.message.make_query(ready, "A")
        deadline = time.monotonic() + PATIENCE
        while not _answers(query, port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((home / "log").read_text()[-1000:])
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.wait(20)
        shutil.rmtree(home / "journals", ignore_errors=True)


def signed_after(log: Path) -> float:
    """Seconds until our server has signed its large zone, from its first answer on. Raises `RuntimeError`."""
    begun = time.monotonic()
    while b"all signatures made" not in log.read_bytes():
        if time.monotonic() > begun + PATIENCE:
            raise RuntimeError("the zone is not signed in time")
        time.sleep(0.1)
    return time.monotonic() - begun


def _answers(query: dns.message.Message, port: int) -> bool:
    try:
        return bool(dns.query.udp(query, "127.0.0.1", port=port, timeout=0.1).answer)
    except (OSError, dns.exception.DNSException):
        return False


def dnsperf(port: int, seconds: int, arguments: tuple[str, ...]) -> float:
    command = [
        *FIRST,
        "dnsperf",
        "-s",
        "127.0.0.1",
        "-p",
        str(port),
        "-l",
        str(seconds),
        "-c",
        "4",
        *arguments,
    ]
    output = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30, check=True).stdout
    match = re.search(r"Queries per second:\s+([\d.]+)", output)
    lost = re.search(r"Queries lost:\s+(\d+)", output)
    if match is None or lost is None or int(lost[1]) > 1000:
        raise RuntimeError(output)
    return float(match[1])


def processor(pid: int) -> float:
    """Seconds of processor time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def pss(pid: int) -> float:
    """Proportional set size in MiB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    match = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    assert match is not None
    return int(match[1]) / 1024


if __name__ == "__main__":
    sys.exit(main())
