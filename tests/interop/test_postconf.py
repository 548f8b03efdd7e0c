"""Our postconf and the real one, on the same files: what they print, and what they make of main.cf."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mailstack.postfix_parameters import PARAMETERS

pytestmark = pytest.mark.real

TREES = sorted((Path(__file__).parents[1] / "golden").glob("*/*/postfix"))
MAIN_CF = """\
compatibility_level = 3.6
myhostname = mail.x.test
mydestination = $myhostname,
   localhost
# a comment
    foo.test
zz_user = hello
unused_thing = 1
smtpd_restriction_classes = zz_class
zz_class = permit_mynetworks, reject
smtpd_banner = $myhostname $zz_user  two  spaces and a very long text that has to be folded somewhere, here or there
relay_domains =
inet_interfaces=loopback-only
fast_destination_concurrency_limit = 3
nosuch_destination_concurrency_limit = 3
myorigin = a
myorigin = b
"""
MASTER_CF = """\
127.0.0.1:40025 inet n - n - 2 smtpd
  -o syslog_name=postfix/sub -v
  -o { smtpd_banner = hello  there } -o smtpd_helo_required=no
pickup unix n - n 60 1 pickup
fast unix - - n - - lmtp
relay unix - - n - - smtp
        -o syslog_name=postfix/$service_name
very-long-service-name-here unix n - n 1000? 100000 lmtp -o master=$myhostname
maildrop  unix  -       n       n       -       -       pipe
  flags=DRhu user=vmail argv=/usr/bin/maildrop -d ${recipient}
"""
ASKED = [
    "-n", "-nh", "-nx", "-nH", "-nf", "-n -C builtin", "-C user", "-d myorigin mydomain nosuch", "-dh myorigin",
    "myorigin smtpd_banner nosuch", "-x mydestination", "-p myhostname", "-o myhostname=q.test -x smtpd_banner",
    "-M", "-Mf", "-M pickup/unix fast", "-M nope", "-M */inet", "-F", "-F pickup", "-Fh pickup/unix/command",
    "-FH fast", "-F */inet/chroot", "-P", "-P */*/smtpd_banner", "-Px", "-Ph", "-dn", "-C foo", "-a", "-Mh", "-Ph relay",
]  # fmt: skip
CHANGES = [
    ["myorigin=c"],
    ["-e", "mydestination = one, two", "new_one=3", "compatibility_level="],
    ["-X", "mydestination", "zz_user"],
    ["-#", "mydestination", "relay_domains"],
    ["-X", "myorigin"],
    ["-e", "nothing"],
    ["-X", "a=b"],
]


def theirs(directory: Path, *words: str) -> tuple[int, list[str], list[str]]:
    return _run(["postconf", "-c", str(directory), *words])


def ours(directory: Path, *words: str) -> tuple[int, list[str], list[str]]:
    return _run([sys.executable, "-m", "mailstack.mta.postconf", "--config", str(directory), *words])


def _run(command: list[str]) -> tuple[int, list[str], list[str]]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout.splitlines(), sorted(set(done.stderr.splitlines()))


@pytest.fixture(autouse=True)
def real() -> None:
    if shutil.which("postconf") is None:
        pytest.skip("postconf is missing (apt-get install postfix)")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "main.cf").write_text(MAIN_CF)
    (tmp_path / "master.cf").write_text(MASTER_CF)
    return tmp_path


@pytest.mark.parametrize("asked", ASKED)
def test_the_same_is_printed(directory: Path, asked: str) -> None:
    wanted, found = theirs(directory, *asked.split()), ours(directory, *asked.split())
    assert found[:2] == wanted[:2]
    assert _mattering(found[2]) == _mattering(wanted[2])


def _mattering(said: list[str]) -> list[str]:
    """Without entries that override each other, which the real one names once for each time that it reads the
    file, and without what it says of -o in master.cf."""
    return [
        line for line in said if "overriding earlier entry" not in line and "/master.cf: unused" not in line
    ]


@pytest.mark.parametrize("tree", TREES, ids=lambda path: f"{path.parts[-3]}-{path.parts[-2]}")
def test_rendered_trees(tree: Path) -> None:
    assert TREES
    for words in (["-nx"], ["-M"], ["-P"]):
        assert ours(tree, *words) == theirs(tree, *words)


def test_the_defaults_of_every_parameter(directory: Path) -> None:
    """mail_version, mynetworks and what Debian says of its own paths apart."""
    own = dict(line.partition(" =")[::2] for line in ours(directory, "-d")[1])
    real = dict(line.partition(" =")[::2] for line in theirs(directory, "-d")[1])
    machine = {"mail_version", "mynetworks", "myhostname", "mydomain", "config_directory"}
    assert {
        name: text for name, text in own.items() if name not in machine and real.get(name, text) != text
    } == {}
    assert set(PARAMETERS) <= set(own)


@pytest.mark.parametrize("words", CHANGES, ids=" ".join)
def test_main_cf_is_changed_alike(
    directory: Path, tmp_path_factory: pytest.TempPathFactory, words: list[str]
) -> None:
    other = tmp_path_factory.mktemp("other")
    for name in ("main.cf", "master.cf"):
        shutil.copy(directory / name, other / name)
    wanted, found = theirs(other, *words), ours(directory, *words)
    assert found[0] == wanted[0]
    assert (directory / "main.cf").read_text() == (other / "main.cf").read_text()
    assert (directory / "main.cf").stat().st_mode == (other / "main.cf").stat().st_mode
    assert sorted(path.name for path in directory.iterdir()) == ["main.cf", "master.cf"]


def test_master_cf_is_not_changed(directory: Path) -> None:
    status, _, said = ours(directory, "-M", "pickup/unix=pickup unix n - n 60 1 pickup")
    assert status == 1
    assert said == ["postconf: fatal: master.cf is not changed by this program: use an editor"]
