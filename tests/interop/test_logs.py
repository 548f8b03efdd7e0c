"""A day of mail through the real Postfix and through ours: what is in the log, and what others read out of it.

Line by line, each with ids, times, sizes and ports taken out; then as pflogsumm counts, and as fail2ban with
Debian's filter finds. What may differ is listed here, with the reason in docs/differences.md.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.interop.log_day import NAME_SERVER, World, day, ours, postfix
from tests.interop.real_postfix import need_postfix
from tests.interop.restrictions_world import PolicyServer, name_server

pytestmark = pytest.mark.real

OURS_ONLY = (
    # A line of Postfix's that ours begins like: Python's ssl does not tell the rest.
    r"postfix/smtpd: Anonymous TLS connection established from \S+: TLSv1\.3 with cipher \S+ \(256/256 bits\)",
    r"postfix/smtpd: warning: TLS library problem: error:SSL routines::wrong version number",
    # Its postlogd is gone before master says it.
    r"postfix/master: terminating on signal 15",
    r"postfix/qmgr: refresh configuration",
    # Connections to a destination are kept when one more delivery waits.
    r"postfix/smtp: ID: to=<\w+@later\.test>, relay=\S+, conn_use=2, .*",
)
POSTFIX_ONLY = (
    r"postfix/(anvil|scache): statistics: .*",
    r"postfix/postfix-script: .*",
    r"postfix/cleanup: warning: mail_stream_cleanup: close error",
    r"postfix/smtpd: Anonymous TLS connection established from .* server-digest SHA256",
    r"postfix/smtpd: warning: TLS library problem: error:\w+:SSL routines::wrong version number:.*",
)
_ID = r"\b[0-9A-F]{10,20}\b|\b[0-9B-DF-HJ-NP-TV-Zb-df-hj-np-tv-z]{10,}z[0-9B-DF-HJ-NP-TV-Zb-df-hj-np-tv-z]+\b"


class Log(NamedTuple):
    path: Path
    directory: Path

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines()

    def shapes(self) -> Counter[str]:
        """Every line as tag and text, without what is different each time."""
        return Counter(_shape(line, self.directory) for line in self.lines())


def _shape(line: str, directory: Path) -> str:
    found = re.match(r"\w{3} [ \d]\d [\d:]{8} mail ([\w/-]+)\[\d+\]: (.*)", line)
    assert found is not None, f"not in syslog's form: {line}"
    text = found[2].replace(str(directory), "DIR")
    text = re.sub(_ID, "ID", text)
    text = re.sub(r"delay=[\d.]+, delays=[\d./]+", "delay=N, delays=N", text)
    text = re.sub(r"(127\.0\.0\.\d+\]):\d+", r"\1:PORT", text)
    text = re.sub(r"(for service 127\.0\.0\.1):\d+", r"\1:PORT", text)
    text = re.sub(r"\b(size=|pid )\d+", r"\1N", text)
    return f"{found[1]}: " + re.sub(r"\(\d+ bytes\)", "(N bytes)", text)


@pytest.fixture(scope="module")
def logs() -> Iterator[tuple[Log, Log]]:
    """Postfix's and ours, of the same day."""
    need_postfix()
    policy = PolicyServer()
    policy.start()
    # Not below pytest's own folder, which each run closes to others: Postfix's daemons run as another user.
    with tempfile.TemporaryDirectory(prefix="mailstack-logs-") as name, name_server(NAME_SERVER):
        root = Path(name)
        root.chmod(0o755)

        def run(directory: Path) -> Log:
            directory.mkdir()
            start = postfix if directory.name == "postfix" else ours
            world: AbstractContextManager[World] = start(directory, policy)
            with world as running:
                day(running)
            return Log(directory / "log", directory)

        try:
            with ThreadPoolExecutor(2) as pool:
                theirs, own = pool.map(run, (root / "postfix", root / "ours"))
            yield theirs, own
        finally:
            policy.stop()


def _without(shapes: Counter[str], patterns: tuple[str, ...]) -> Counter[str]:
    expected = re.compile("|".join(f"(?:{pattern})" for pattern in patterns))
    return Counter({shape: count for shape, count in shapes.items() if not expected.fullmatch(shape)})


def test_every_line_is_one_of_postfix(logs: tuple[Log, Log]) -> None:
    theirs, own = (log.shapes() for log in logs)
    assert sorted(_without(own, OURS_ONLY) - theirs) == []
    assert len(own) > 250


def test_every_line_of_postfix_is_there(logs: tuple[Log, Log]) -> None:
    theirs, own = (log.shapes() for log in logs)
    missing = _without(theirs, POSTFIX_ONLY) - own
    assert sorted(shape for shape in missing if "@later.test" not in shape) == []


def test_no_line_of_the_lists_is_needless(logs: tuple[Log, Log]) -> None:
    theirs, own = (log.shapes() for log in logs)
    for shapes, patterns in ((own, OURS_ONLY[:4]), (theirs, POSTFIX_ONLY)):
        for pattern in patterns:
            assert any(re.fullmatch(pattern, shape) for shape in shapes), pattern


def _sizes(log: Log) -> list[tuple[str, int]]:
    """Sender and size of what came in with a Message-ID, without the queue id in its Received: header."""
    lines = log.lines()
    known = {
        found[1]
        for line in lines
        if (found := re.search(r"cleanup\[\d+\]: (\w+): message-id=<m\d+@day>", line))
    }
    sizes = []
    for line in lines:
        found = re.search(r"qmgr\[\d+\]: (\w+): from=<(.*)>, size=(\d+)", line)
        if found is not None and found[1] in known:
            sizes.append((found[2], int(found[3]) - len(found[1])))
    return sorted(set(sizes))


def test_sizes_are_those_of_postfix(logs: tuple[Log, Log]) -> None:
    theirs, own = (dict(Counter(_sizes(log))) for log in logs)
    # A forwarded message has one more header, with an id of its own.
    differing = {sender for sender, _ in theirs.keys() ^ own.keys()}
    assert differing <= {"s1@box.test", "s2@box.test", "s8@box.test", "owner-list@x.test"}
    assert len(own) > 15


def _summary(log: Log) -> list[str]:
    """pflogsumm's report from its counts on, without times and octets, in an order that is not chance.

    Not its statistics of connections: they take a process for a client, and ours serve many.
    """
    done = subprocess.run(
        ["pflogsumm", "--verbose-msg-detail", str(log.path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == ""
    text = re.sub(r"Per-(Hour|Day|Date) Traffic.*?\n\n(?=\S)", "", done.stdout, flags=re.S)
    text = text.replace(str(log.directory), "DIR")
    text = re.sub(_ID, "ID", text)
    text = re.sub(r"(127\.0\.0\.1\]?):\d+", r"\1:PORT", text)
    text = re.sub(r"^\s+\d+k?( +bytes (?:received|delivered))$", r"N\1", text, flags=re.M)
    text = re.sub(r"^( +\d+) +\d+k?( +\d+) +[\d.]+ [smhd] +[\d.]+ [smhd]  ", r"\1 N\2 N N ", text, flags=re.M)
    text = re.sub(r"^( +\d+) +\d+k? +(?=\S+$)", r"\1 N ", text, flags=re.M)
    section, lines = "", []
    for line in text.splitlines():
        if re.match(r"\S", line) and not line.startswith("--"):
            section = line
        if "size" in section:
            line = re.sub(r"^ +\d+k?  ", "N ", line)
        lines.append(f"{section}: {line}")
    return sorted(lines)


def test_pflogsumm_counts_the_same(logs: tuple[Log, Log]) -> None:
    if shutil.which("pflogsumm") is None:
        pytest.skip("pflogsumm is missing (apt-get install pflogsumm)")
    theirs, own = (Counter(_summary(log)) for log in logs)
    explained = re.compile(
        r".*(postfix-script|mail_stream_cleanup|TLS library problem|terminating on signal| cleanup \(total: "
        r"| smtpd \(total: |DIR/(\./)?(queue|spool|mail|data)).*"
    )
    assert [line for line in sorted(own - theirs) if not explained.match(line)] == []
    assert [line for line in sorted(theirs - own) if not explained.match(line)] == []
    counts = "\n".join(sorted(own))
    for word in (
        "received",
        "delivered",
        "forwarded",
        "deferred",
        "bounced",
        "rejected",
        "held",
        "discarded",
    ):
        assert re.search(rf" [1-9]\d*   {word}", counts), word


@pytest.mark.parametrize("mode", ["more", "auth", "normal", "ddos", "rbl", "extra", "aggressive", "errors"])
def test_fail2ban_finds_the_same(logs: tuple[Log, Log], mode: str) -> None:
    if shutil.which("fail2ban-regex") is None:
        pytest.skip("fail2ban-regex is missing (apt-get install fail2ban)")
    found = []
    for log in logs:
        done = subprocess.run(
            ["fail2ban-regex", str(log.path), f"postfix[mode={mode}]"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        hits = re.findall(r"^\|\s+(\d+)\) \[(\d+)\]", done.stdout, re.M)
        found.append((hits, re.search(r"(\d+) matched", done.stdout)[1]))  # type: ignore[index]
    theirs, own = found
    assert own == theirs
    assert int(own[1]) > 0
