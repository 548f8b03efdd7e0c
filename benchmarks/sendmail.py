"""Messages per second from connection to Maildir: ours, Postfix and Debian's sendmail, in turn, in one run.

    python -m benchmarks.sendmail [--messages 1000] [--sessions 20 1] [--rounds 3]

Debian's sendmail and procmail run in a container made from `IMAGE` (built from Debian's packages with
mmdebstrap where it is missing) in the host's network; queue and mailboxes lie on the same disk as those of
the others. The load is that of `benchmarks.smtp`: 4 KiB, a connection for every message. The clock stops when
the last message stands in new/. sendmail is configured to its advantage where that costs no durability:

| | |
|---|---|
| durable | SuperSafe (a message is flushed before 250; sendmail's default), procmail as Debian builds it |
| no DNS | nocanonify, a service switch of files, no ident query |
| no limits | no rate or connection control, no greeting pause, no load limits, any number of children |
| delivery | in the background, at once (the default) |
| no log | LogLevel 0; the others write theirs |

Needs root, Docker, mmdebstrap and Debian's postfix.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import real
from benchmarks.smtp import USERS, run
from benchmarks.stack import Stack, bench_spec

IMAGE = "mailstack-sendmail:bookworm"
PACKAGES = "sendmail-bin,sendmail,procmail,m4,postfix-"
FIRST_UID = 20_000

MC = """\
divert(0)dnl
define(`_USE_ETC_MAIL_')dnl
include(`/usr/share/sendmail/cf/m4/cf.m4')dnl
OSTYPE(`debian')dnl
DOMAIN(`debian-mta')dnl
undefine(`confHOST_STATUS_DIRECTORY')dnl
define(`confDOMAIN_NAME', `mail.bench.test')dnl
define(`confSERVICE_SWITCH_FILE', `/bench/switch')dnl
define(`confDONT_PROBE_INTERFACES', `True')dnl
define(`confTO_IDENT', `0')dnl
define(`confSAFE_QUEUE', `True')dnl
define(`confDELIVERY_MODE', `background')dnl
define(`confQUEUE_LA', `1000')dnl
define(`confREFUSE_LA', `1000')dnl
define(`confDELAY_LA', `0')dnl
define(`confMAX_DAEMON_CHILDREN', `0')dnl
define(`confCONNECTION_RATE_THROTTLE', `0')dnl
define(`confBAD_RCPT_THROTTLE', `0')dnl
define(`confLOG_LEVEL', `0')dnl
FEATURE(`no_default_msa')dnl
FEATURE(`nocanonify')dnl
FEATURE(`accept_unresolvable_domains')dnl
FEATURE(`promiscuous_relay')dnl
DAEMON_OPTIONS(`Family=inet, Name=MTA, Addr=127.0.0.1, Port={port}')dnl
FEATURE(`local_procmail', `/usr/bin/procmail', `procmail -Y -a $h -d $u')dnl
MAILER(`local')dnl
MAILER(`smtp')dnl
LOCAL_CONFIG
Cwbench.test
Cwmail.bench.test
"""
START = """\
set -e
m4 /bench/sendmail.mc >/etc/mail/sendmail.cf
cat /bench/passwd >>/etc/passwd
newaliases
exec /usr/sbin/sendmail -bD -q10s
"""


def available() -> str | None:
    """None, or what is missing."""
    missing = real.available()
    if missing is None and shutil.which("docker") is None:
        return "docker"
    if missing is None and subprocess.run(["docker", "version"], capture_output=True, check=False).returncode:
        return "a Docker daemon"
    return missing


def build() -> None:
    """Make the image where it is not there. Raises `RuntimeError`."""
    there = subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, check=False)
    if there.returncode == 0:
        return
    if shutil.which("mmdebstrap") is None:
        raise RuntimeError(f"needs mmdebstrap to make the image {IMAGE}")
    with tempfile.TemporaryDirectory() as folder:
        tar = f"{folder}/root.tar"
        subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", "bookworm", tar],
            check=True,
        )
        subprocess.run(["docker", "import", tar, IMAGE], check=True, capture_output=True)


class Sendmail:
    """A sendmail that accepts for `<user>@bench.test` and delivers to Maildirs; started and stopped here."""

    def __init__(self, root: Path, users: list[str]) -> None:
        self.root = root
        self.port = real.free_port()
        self._users = users
        for name in ("mqueue", "mail"):
            (root / name).mkdir(parents=True)
        real.let_pass(root)
        (root / "sendmail.mc").write_text(MC.format(port=self.port))
        (root / "switch").write_text("hosts files\naliases files\npasswd files\n")
        (root / "start").write_text(START)
        (root / "procmailrc").write_text("DEFAULT=$HOME/\nMAILDIR=$HOME\nLOGFILE=/dev/null\nUMASK=077\n")
        lines = []
        for number, user in enumerate(users):
            uid = FIRST_UID + number
            lines.append(f"{user}:x:{uid}:{uid}::/bench/mail/{user}:/bin/sh\n")
            for name in ("", "new", "cur", "tmp"):
                (root / "mail" / user / name).mkdir(exist_ok=True)
                os.chown(root / "mail" / user / name, uid, uid)
        (root / "passwd").write_text("".join(lines))
        self._container = ""

    def __enter__(self) -> Sendmail:
        command = [
            *("docker", "run", "--detach", "--network=host", "--hostname=mail.bench.test"),
            *("--volume", f"{self.root}:/bench", "--volume", f"{self.root}/mqueue:/var/spool/mqueue"),
            *("--volume", f"{self.root}/procmailrc:/etc/procmailrc:ro", IMAGE, "sh", "/bench/start"),
        ]
        self._container = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 5) as sock:
                    if sock.recv(100).startswith(b"220 "):
                        return self
            except OSError:
                time.sleep(0.1)
        said = subprocess.run(
            ["docker", "logs", self._container], check=False, capture_output=True, text=True
        )
        self.__exit__()
        raise RuntimeError(f"sendmail does not answer: {said.stdout}{said.stderr}")

    def __exit__(self, *_: object) -> None:
        subprocess.run(["docker", "rm", "--force", self._container], check=False, capture_output=True)

    def maildirs(self) -> list[Path]:
        return [self.root / "mail" / user for user in self._users]


@contextlib.contextmanager
def sides(users: list[str]) -> Iterator[dict[str, Callable[[int, int], float]]]:
    """For each server, what sends so many messages in so many sessions and returns messages/s."""
    with tempfile.TemporaryDirectory(prefix="mailstack-bench-") as folder, contextlib.ExitStack() as stack:
        root = Path(folder)
        ours = stack.enter_context(Stack(root / "ours", bench_spec(users)))
        postfix = stack.enter_context(real.Postfix(root / "postfix", users))
        sendmail = stack.enter_context(Sendmail(root / "sendmail", users))
        maildirs = [ours.maildir(f"{user}@bench.test") for user in users]
        yield {
            "mailstack": lambda n, s: run(ours.port("smtp"), maildirs, n, s),
            "Postfix": lambda n, s: run(postfix.port, postfix.maildirs(), n, s),
            "sendmail": lambda n, s: run(sendmail.port, sendmail.maildirs(), n, s),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--sessions", type=int, nargs="*", default=[20, 1])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    missing = available()
    if missing:
        raise SystemExit(f"benchmarks.sendmail: needs {missing}")
    build()
    print("| load | mailstack | Postfix | sendmail | mailstack / sendmail | Postfix / sendmail |")
    print("|---|---|---|---|---|---|")
    for sessions in options.sessions:
        messages = options.messages if sessions > 1 else options.messages // 4
        with sides(USERS[: max(1, min(len(USERS), sessions // 5))]) as servers:
            for send in servers.values():
                send(max(20, messages // 5), sessions)
            rounds = [[send(messages, sessions) for send in servers.values()] for _ in range(options.rounds)]
        ours, postfix, sendmail = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratio = statistics.median(a / c for a, _, c in rounds)
        other = statistics.median(b / c for _, b, c in rounds)
        print(
            f"| {sessions} session{'s' * (sessions > 1)} | {ours:.0f} /s | {postfix:.0f} /s "
            f"| {sendmail:.0f} /s | {ratio:.1f} x | {other:.1f} x |",
            flush=True,
        )


if __name__ == "__main__":
    main()
