"""A message of 100 MiB by every way in, through and out: what it adds to each process's memory.

    python -m benchmarks.large [--size 100] [--limit 16] [--at-once 20] [--folder DIR] [PATH...]

For each path the MTA is started anew and takes a small message first; then the kernel is told to forget
each process's largest resident size (clear_refs), the large message is sent, and printed is how far each
process has grown beyond what it had: MiB of its largest resident size (VmHWM), until the message has left
the queue. `--at-once` is for the paths with many such messages together. Exit status 1 when a path adds more
than `--limit` (those with many: a third of that for each message).

| path | what it is |
|---|---|
| data, bdat, bdat-small | SMTP DATA; one BDAT chunk; chunks of 4 KiB; thrown away by discard(8) |
| tls | as `data`, behind STARTTLS |
| proxy | as `data`, from a proxy that says who the client is |
| line | one line |
| headers | a header block of 1 MiB before the body |
| header-line | a header of the whole size |
| checks, checks-line, checks-mime | with header_checks and body_checks; one line; a part's endless header |
| milter, milter-local | shown to a filter that speaks the milter protocol |
| proxy-filter | through a before-queue filter |
| slow-maps | canonical maps that a server answers |
| sendmail, sendmail-line | sendmail(1) and pickup(8) |
| lmtp, smtp | to a server |
| seven | to a server that takes seven bits; one line of it; as quoted-printable |
| generic | with smtp_generic_maps |
| virtual, virtual-mbox | virtual(8) into a Maildir, into an mbox file |
| local, local-mbox, command | an alias's Maildir, file, command |
| pipe, pipe-line | pipe(8) with flags; one line |
| forward | an alias's address |
| bounce | returned whole (bounce_size_limit) |
| stack | submission with AUTH and TLS, LMTP, the mailbox service's Maildir: `mailstack up` |
| many | `--at-once` messages together, by SMTP into Maildirs |
| many-relay | the same, to a server |
"""

from __future__ import annotations

import argparse
import base64
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.large_rig import (
    LIMIT,
    MIB,
    MTA,
    Client,
    Memory,
    eight_bit,
    header_line,
    lines,
    many_headers,
    one_line,
    part_header,
)
from benchmarks.stack import Stack, bench_spec

CHECKS = """\
header_checks = pcre:{root}/checks
body_checks = pcre:{root}/checks
body_checks_size_limit = 1000000000
"""

# ---- paths

Content = Callable[[int], Iterator[bytes]]


@dataclass(frozen=True)
class Way:
    """One way through the MTA."""

    recipient: str = "user@discard.test"
    content: Content = lines
    way: str = "data"
    extra: str = ""
    status: str = "status=sent"
    parameters: str = ""


PATHS = {
    "data": Way(),
    "bdat": Way(way="bdat"),
    "bdat-small": Way(way="bdat-small"),
    "tls": Way(way="tls"),
    "proxy": Way(way="proxy", extra="smtpd_upstream_proxy_protocol = haproxy\n"),
    "line": Way(content=one_line),
    "headers": Way(content=many_headers),
    "header-line": Way(content=header_line),
    "checks": Way(extra=CHECKS),
    "checks-line": Way(content=one_line, extra=CHECKS),
    "checks-mime": Way(content=part_header, extra=CHECKS),
    "milter": Way(extra="smtpd_milters = inet:127.0.0.1:{milter}\n"),
    "milter-local": Way(way="sendmail", extra="non_smtpd_milters = inet:127.0.0.1:{milter}\n"),
    "proxy-filter": Way(extra="smtpd_proxy_filter = 127.0.0.1:{smtp}\n", status=""),
    "slow-maps": Way(extra="canonical_maps = tcp:127.0.0.1:{table}\n"),
    "sendmail": Way(way="sendmail"),
    "sendmail-line": Way(way="sendmail", content=one_line),
    "lmtp": Way("user@lmtp.test"),
    "smtp": Way("user@smtp.test"),
    "seven": Way("user@seven.test", eight_bit, parameters=" BODY=8BITMIME"),
    "generic": Way("user@smtp.test", extra="smtp_generic_maps = texthash:{root}/generic\n"),
    "virtual": Way("user@virtual.test"),
    "virtual-mbox": Way("mbox@virtual.test"),
    "local": Way("maildir@local.test"),
    "local-mbox": Way("file@local.test", extra="allow_mail_to_files = alias\n"),
    "mbox-line": Way("mbox@virtual.test", one_line),
    "command": Way("command@local.test"),
    "pipe": Way("user@pipe.test"),
    "pipe-line": Way("user@pipe.test", one_line),
    "forward": Way("forward@local.test"),
    "bounce": Way(
        "user@false.test",
        status="status=bounced",
        extra="bounce_size_limit = 1000000000\ncommand_time_limit = 600s\n",
    ),
    "many": Way("user@virtual.test", way="many"),
    "many-relay": Way("user@smtp.test", way="many"),
}


def send(mta: MTA, path: Way, size: int, at_once: int = 1) -> None:
    """One message by that path (`at_once` of them, where it is for many); returns when it is taken."""
    if path.way == "sendmail":
        command = [sys.executable, "-m", "mailstack.mta.sendmail", "--config", str(mta.root)]
        with subprocess.Popen(
            [*command, "-i", "-f", "sender@bench.test", path.recipient], stdin=subprocess.PIPE
        ) as process:
            assert process.stdin is not None
            for part in path.content(size):
                process.stdin.write(part)
        if process.returncode:
            raise RuntimeError("sendmail failed")
        return
    if path.way == "many":
        errors: list[Exception] = []

        def one() -> None:
            try:
                send(mta, Way(path.recipient, path.content), size)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=one) for _ in range(at_once)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return
    first = b"PROXY TCP4 127.0.0.9 127.0.0.1 1234 25\r\n" if path.way == "proxy" else b""
    client = Client(mta.port, first=first)
    try:
        if path.way == "tls":
            client.start_tls()
        if path.way.startswith("bdat"):
            client.bdat(path.recipient, path.content(size), 4096 if path.way == "bdat-small" else 0)
        else:
            client.data(path.recipient, path.content(size), path.parameters)
    finally:
        client.close()


def measure(name: str, size: int, folder: str | None, at_once: int = 1) -> dict[str, float]:
    """MiB that each process has grown by."""
    path = PATHS[name]
    with tempfile.TemporaryDirectory(prefix="large-", dir=folder) as place:
        root = Path(place)
        extra, count = path.extra, at_once if path.way == "many" else 1
        if path.way == "tls":
            extra += certificate(root)
        with MTA(root, extra) as mta:
            send(mta, path, 4096)

            def ended() -> int:
                # A before-queue filter keeps the message: the reply to the client is the end.
                return mta.count(path.recipient, path.status) if path.status else count + 1

            mta.until(lambda: ended() >= 1 and not mta.queued(), "small message delivered")
            memory = Memory(mta.processes())
            send(mta, path, size, count)
            mta.until(lambda: ended() > count and not mta.queued(), "large message delivered")
            return memory.growth()


def certificate(root: Path) -> str:
    """A certificate that signs itself; the lines of main.cf for it."""
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=bench.test -keyout {root}/key.pem"
    subprocess.run([*command.split(), "-out", f"{root}/cert.pem"], check=True, capture_output=True)
    return (
        f"smtpd_tls_security_level = may\nsmtpd_tls_cert_file = {root}/cert.pem\n"
        f"smtpd_tls_key_file = {root}/key.pem\n"
    )


def measure_stack(size: int, folder: str | None) -> dict[str, float]:
    """Submission with AUTH and TLS → LMTP → the mailbox service; MiB by which each process has grown."""
    with tempfile.TemporaryDirectory(prefix="large-", dir=folder) as place:
        spec = bench_spec(["u0"]) + "mta: {message_size_limit: 500MiB}\n"
        with Stack(Path(place), spec) as stack:
            _submit(stack, 4096)
            new = stack.maildir("u0@bench.test") / "new"
            _wait(lambda: new.exists() and len(os.listdir(new)) == 1)
            processes = {f"{_module(pid)} {pid}": pid for pid in stack.processes()}
            memory = Memory(processes)
            _submit(stack, size)
            _wait(lambda: len(os.listdir(new)) == 2)
            time.sleep(0.2)
            growth: dict[str, float] = {}
            for name, grown in memory.growth().items():
                module = name.split()[0]
                growth[module] = max(growth.get(module, 0.0), grown)
            return growth


def _submit(stack: Stack, size: int) -> None:
    client = Client(stack.port("submission"), stack.host)
    client.start_tls()
    client.say(b"AUTH PLAIN " + base64.b64encode(b"\0u0@bench.test\0secret"), b"235")
    client.say(b"MAIL FROM:<u0@bench.test>", b"250")
    client.say(b"RCPT TO:<u0@bench.test>", b"250")
    client.say(b"DATA", b"354")
    for part in lines(size):
        client.sock.sendall(part)
    client.say(b".", b"250")
    client.close()


def _module(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return words[words.index(b"-m") + 1].decode() if b"-m" in words else "supervisor"


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("not delivered in time")
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("paths", nargs="*", metavar="PATH")
    parser.add_argument("--size", type=int, default=100, help="MiB of a message")
    parser.add_argument("--limit", type=float, default=16.0, help="MiB that a path may add")
    parser.add_argument("--at-once", type=int, default=20)
    parser.add_argument("--folder", help="where queue and mail lie")
    options = parser.parse_args()
    worst = 0.0
    print("| path | grown by, MiB | seconds |\n|---|---|---|")
    for name in options.paths or [*PATHS, "stack"]:
        started = time.monotonic()
        if name == "stack":
            grown = measure_stack(options.size * MIB, options.folder)
        else:
            grown = measure(name, options.size * MIB, options.folder, options.at_once)
        count = max(1.0, options.at_once / 3) if name.startswith("many") else 1.0
        worst = max(worst, *(value / count for value in grown.values()))
        shown = ", ".join(f"{key.removeprefix('mailstack.')} {value:.1f}" for key, value in grown.items())
        print(f"| {name} | {shown} | {time.monotonic() - started:.1f} |", flush=True)
    print(f"the most: {worst:.1f} MiB (limit {options.limit:g})")
    sys.exit(worst > options.limit)


if __name__ == "__main__":
    main()
