"""`logging` as administrators write it: the same files with the same lines from our server and the real named."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.query
import dns.rdatatype
import dns.update
import pytest

from tests.interop.dns_servers import WORLD, bind, configure, ours
from tests.ports import free_port

LOGGING = """
logging {
  channel default_log { file "log/default.log" versions 3 size 20m; print-time yes; print-category yes;
                        print-severity yes; severity info; };
  channel queries_log { file "log/queries.log" versions 5 size 10m; print-time yes; severity info; };
  channel query_errors { file "log/query-errors.log"; print-time iso8601; print-category yes; };
  channel security_log { file "log/security.log" versions 3 size 5m; print-time yes; print-severity yes; };
  channel plain { file "log/update.log"; };
  channel xfer_log { file "log/xfer.log"; print-category yes; print-severity yes; };
  channel syslog_info { syslog daemon; severity info; };
  channel debugging { file "log/debug.log" versions 2 size 1k; severity debug 3; };
  category default { default_log; };
  category queries { queries_log; };
  category query-errors { query_errors; };
  category security { security_log; };
  category update { plain; };
  category update-security { plain; };
  category xfer-out { xfer_log; };
  category rate-limit { null; };
  category lame-servers { null; };
  category edns-disabled { null; };
};
"""
ZONES = WORLD.replace(
    'zone "other.test" { type master;', 'zone "other.test" { type master; allow-query { 127.0.0.9; };'
)
OPTIONS = "recursion yes; allow-recursion { 127.0.0.9; }; allow-transfer { 127.0.0.3; };"
Ask = Callable[[int], object]


def query(name: str, kind: str = "A", **words: object) -> dns.message.Message:
    found = dns.message.make_query(name, "A" if kind.startswith("TYPE") else kind, **words)  # type: ignore[arg-type]
    if kind.startswith("TYPE"):
        found.question[0].rdtype = dns.rdatatype.from_text(kind)
    return found


def udp(message: dns.message.Message, source: str = "127.0.0.1") -> Ask:
    return lambda port: dns.query.udp(message, "127.0.0.1", port=port, source=source, timeout=30)


def tcp(message: dns.message.Message, source: str = "127.0.0.1") -> Ask:
    return lambda port: dns.query.tcp(message, "127.0.0.1", port=port, source=source, timeout=30)


def with_options(*options: tuple[int, bytes]) -> list[dns.edns.Option]:
    return [dns.edns.GenericOption(dns.edns.OptionType.make(code), data) for code, data in options]


def asked() -> Iterator[Ask]:
    norec = query("rich.test", "TYPE1000", use_edns=0, options=with_options((8, b"\0\1\x08\0\x0a")))
    norec.flags = dns.flags.Flag(dns.flags.CD)
    yield udp(query("mail.rich.test"))
    yield udp(query("MAIL.rich.test", "MX", use_edns=0, want_dnssec=True))
    yield tcp(query("rich.test", "SOA", use_edns=0, options=with_options((10, b"12345678"))))
    yield udp(norec)
    yield udp(query("nowhere.rich.test"))
    yield tcp(query("version.bind", "TXT", rdclass="CH"))  # by UDP named answers three a second
    yield udp(query("elsewhere.example"))
    yield udp(query("elsewhere.example", "MX"))
    yield udp(query("www.other.test"))
    yield udp(query("rich.test", "ANY"), "127.0.0.2")
    yield udp(query("rich.test", rdclass="CLASS100"))
    yield tcp(query("rich.test", "AXFR"))
    yield tcp(query("rich.test", "AXFR"), "127.0.0.3")
    update = dns.update.UpdateMessage("rich.test")
    update.add("new", 60, "A", "192.0.2.9")
    yield udp(update)


ODD = re.compile(
    r"^\S+T\S+ |^\d\d-\w{3}-\d{4} [\d:.]+ |@0x[0-9a-f]+ |#\d+|at (query\.c:\d+|responder\.py)"
    r"|AXFR ended: .* \(serial"
)
CAUGHT = ("queries", "query-errors", "security", "update", "xfer")


def lines(path: Path) -> list[str]:
    """A log's lines without what differs from run to run."""
    return [ODD.sub("", ODD.sub("", line)) for line in path.read_text().splitlines()] if path.exists() else []


def prepare(root: Path, port: int) -> Path:
    (root / "log").mkdir(parents=True)
    configure(root, port, OPTIONS, LOGGING + ZONES)
    return root


def wait_for(path: Path, text: str) -> str:
    deadline = time.monotonic() + 30
    while not path.exists() or text not in path.read_text():
        assert time.monotonic() < deadline, path.read_text() if path.exists() else f"no {path}"
        time.sleep(0.02)
    return path.read_text()


@pytest.mark.real
def test_files_have_nameds_lines(tmp_path: Path) -> None:
    mine, theirs = free_port(), free_port()
    with (
        ours(prepare(tmp_path / "ours", mine), mine),
        bind(prepare(tmp_path / "bind", theirs), theirs, "-f"),
    ):
        wait_for(tmp_path / "bind" / "log" / "default.log", "notice: running\n")
        for ask in asked():
            ask(mine)
            ask(theirs)
        for folder in ("ours", "bind"):
            wait_for(tmp_path / folder / "log" / "update.log", "denied")
            wait_for(tmp_path / folder / "log" / "xfer.log", "AXFR ended")
    for name in CAUGHT:
        got, expected = (
            [line for line in lines(tmp_path / folder / "log" / f"{name}.log") if "version.bind" not in line]
            for folder in ("ours", "bind")
        )
        assert got == expected, name
        assert got
    for folder in ("ours", "bind"):
        default = (tmp_path / folder / "log" / "default.log").read_text()
        assert re.search(
            r"^\d\d-\w{3}-\d{4} \d\d:\d\d:\d\d\.\d{3} general: (notice|info): running$", default, re.M
        )


def test_files_are_put_aside_when_they_are_full_and_when_the_server_is_told(tmp_path: Path) -> None:
    port = free_port()
    root = tmp_path / "dns"
    (root / "log").mkdir(parents=True)
    logging = """logging {
      channel q { file "log/q" versions 3 size 2k; };
      channel fresh { file "log/fresh" versions 2; };
      channel full { file "log/full" size 1k; };
      channel own { stderr; print-category yes; };
      category queries { q; full; };
      category default { fresh; own; };
    };
    """
    configure(root, port, zones=logging + WORLD)
    with ours(root, port) as process:
        for _ in range(100):
            udp(query("mail.rich.test"))(port)
        wait_for(root / "log" / "q.2", "query: mail.rich.test")
        wait_for(root / "log" / "fresh", "running")
        assert sorted(path.name for path in (root / "log").glob("q*")) == ["q", "q.0", "q.1", "q.2"]
        assert all(path.stat().st_size < 2500 for path in (root / "log").glob("q*"))
        assert 1024 <= (root / "log" / "full").stat().st_size < 1300
        process.send_signal(signal.SIGHUP)
        wait_for(root / "log" / "fresh.0", "running")
        wait_for(root / "log" / "fresh", "reloading configuration succeeded")
        # A file that cannot be opened leaves the old configuration, and its log, in force.
        conf = (root / "named.conf").read_text()
        (root / "named.conf").write_text(conf.replace('"log/q"', '"nowhere/q"'))
        process.send_signal(signal.SIGHUP)
        wait_for(root / "log" / "fresh", "nowhere/q: No such file or directory")
        assert "general: running" in (root / "ours.log").read_text()


def test_statistics_when_asked_for(tmp_path: Path) -> None:
    port = free_port()
    options = 'recursion no; zone-statistics full; pid-file "named.pid"; statistics-file "named.stats";'
    root = configure(tmp_path, port, options)
    conf = root / "named.conf"
    conf.write_text(conf.read_text().replace("  pid-file none;\n", ""))
    command = [sys.executable, "-m", "mailstack.dns.stats", "--config", str(root)]
    with ours(root, port) as process:
        for _ in range(3):
            udp(query("mail.rich.test"))(port)
        tcp(query("nowhere.rich.test"))(port)
        process.send_signal(signal.SIGHUP)
        wait_for(root / "ours.log", "reloading configuration succeeded")
        udp(query("mail.rich.test", "CAA"))(port)
        for _ in range(2):
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        found = json.loads(done.stdout)
        assert found["queries"]["A"] == 4  # what was counted before a reload stays
        assert found["queries"]["CAA"] == 1
        assert found["rcodes"]["NXDOMAIN"] == 1
        assert found["zones"]["rich.test"]["queries resulted in nxrrset"] == 1
        assert found["zones"]["other.test"] == {}
        assert (root / "named.stats").read_text().count("+++ Statistics Dump +++") == 2
    assert not (root / "named.pid").exists()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (69, f"no server runs from {conf}\n")
