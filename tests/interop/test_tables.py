"""Lookup tables side by side with Postfix's own postmap and postalias: the same answers, warnings and files."""

from __future__ import annotations

import asyncio
import io
import os
import re
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailstack.mta import postalias, postmap
from mailstack.mta.lookup import opener, settled
from mailstack.net.tables.channel import close_all
from mailstack.storage.tables import TableError
from mailstack.storage.tables.files import INDEXED
from tests.interop.conftest import need
from tests.interop.real_postfix import wait_for
from tests.ports import free_port
from tests.unit.mta_lookup import services

pytestmark = pytest.mark.real

SLOW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
MADE = ["hash", "btree", "lmdb", "cdb"]


@pytest.fixture(scope="module")
def types() -> frozenset[str]:
    need("postmap")
    need("postconf")
    result = subprocess.run(["postconf", "-m"], capture_output=True, text=True, check=True, timeout=60)
    return frozenset(result.stdout.split())


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration of its own, so that no other one matters."""
    directory = tmp_path_factory.mktemp("postfix")
    (directory / "main.cf").write_text("compatibility_level = 3.6\n")
    dynamic = Path("/etc/postfix/dynamicmaps.cf")
    if dynamic.exists():
        (directory / "dynamicmaps.cf").write_text(dynamic.read_text())
    return directory


def want(types: frozenset[str], kind: str) -> None:
    if kind not in types:
        pytest.skip(f"needs postfix-{kind}")


def real(config: Path, *words: str, stdin: str = "", program: str = "postmap") -> tuple[int, str, list[str]]:
    """(exit status, output, warnings without the program's name) of Postfix's own program."""
    result = subprocess.run(
        [program, "-c", str(config), *words],
        input=stdin.encode("utf-8", "surrogateescape"),
        capture_output=True,
        check=False,
        timeout=60,
    )
    lines = result.stderr.decode("utf-8", "surrogateescape").splitlines()
    warnings = [
        found[1] for line in lines if (found := re.match(rf"{program}: (?:warning|fatal): (.*)", line))
    ]
    return result.returncode, result.stdout.decode("utf-8", "surrogateescape"), warnings


def theirs(config: Path, name: str, keys: list[str]) -> tuple[dict[str, str], list[str]]:
    """What `postmap -q -` says of keys, and its warnings."""
    status, out, warnings = real(config, "-q", "-", name, stdin="".join(f"{key}\n" for key in keys))
    assert status in (0, 1)
    return dict(line.split("\t", 1) for line in out.splitlines()), warnings


def theirs_of(config: Path) -> Callable[[str, list[str]], tuple[dict[str, str], list[str]]]:
    return lambda name, keys: theirs(config, name, keys)


def ours(name: str, keys: list[str]) -> tuple[dict[str, str], list[str]]:
    warnings: list[str] = []
    table = opener(warnings.append)(name)

    async def ask() -> dict[str, str]:
        found = {}
        for key in keys:
            value = await settled(lambda key=key: table.lookup(key))  # type: ignore[misc]
            if value is not None:
                found[key] = value
        await close_all()
        return found

    return asyncio.run(ask()), warnings


def write(path: Path, text: str) -> None:
    path.write_text(text)
    os.utime(path, (1e9, 1e9))  # postmap waits until a file is a second old


def alike(config: Path, name: str, keys: list[str], *, words: bool = True) -> None:
    expected, their_warnings = theirs(config, name, keys)
    found, warnings = ours(name, keys)
    assert found == expected
    if not words:
        return
    # Postfix tells of an empty result when it is asked, not when the line is read.
    told = [warning for warning in their_warnings if not warning.startswith("table ")]
    assert warnings == told


# ---- text and patterns


TEXT_CASES = {
    "texthash": (
        'a one\nA two\n"b c" three\n"x"y four\n"open five\nalone\n key\nk: v\n<> null\nlong one\n two\n# c\n three\n',
        ["a", "A", "b c", '"b c"', '"x"y', "open", '"open', "alone", "k", "k:", "<>", "long"],
    ),
    "regexp": (
        "/^a(.)(z)?/ 1${1}2$(2)$$\n!/b/ not b\n",
        ["ab", "abz", "b", "z", "AB"],
    ),
    "regexp-more": (
        ("/q/q x\n/(/ x\n/a/ $1\n/(a)/ $1x\nword\n/unclosed\n!/(z)/ $1\nendif\n/[[:digit:]]+$/ digits\n"
        "/[]x]y/ bracket\n/[\\.]$/ in bracket\n/^(a|ab)(c|bcd)$/ <$1><$2>\n/\\<word\\>/ a word\n/A.C/i case\n"
        "/^m$/m lines\n/x{2,3}$/ twice\n/d\\|e/x basic\n|pipe/| other delimiter\n/a\\/b/ slash\n/e/\n"),
        ["1", "]y", "xy", "a.", "a\\", "abcd", "a word b", "awordb", "AbC", "abc", "m", "xx", "xxx", "yxxxx", "d",
         "d|e", "pipe/", "a/b", "e", "none at all", "é"],
    ),
    "regexp-if": (
        ("if /a/\n/b/ ab\nif !/c/\n/d/ d\nendif\nendif\nif /x/ more\n/y/ xy\nendif junk\n/foo/iii three\nIF /k/\n"
        "/k/ kk\nENDIF\nif /open/\n/o/ opened\n"),
        ["ab", "ad", "acd", "xy", "foo", "FOO", "k", "b", "open", "o"],
    ),
    "pcre": (
        ("/^a(.)(z)?/ 1${1}2$(2)$$\n/(?<name>q+)(?i:X)$/i named $1\n/\\d{3}$/ digits\n/[[:alpha:]]{4}$/ letters\n"
        "/^x++y/ possessive\n/a.c/s no newline\n/ l\\ m /x extended\n/^m/A anchored\n/g+?h/U greedy\n/i$/E end\n"
        "/Q/XX twice\n/z(/ bad\n/j/j bad\n/(?|(l)|(r))\\K!/ reset $1\n/[/ open\n!/.../ short\n"),
        ["ab", "abz", "qqX", "qqx", "123", "abcd", "xxxy", "a-c", "lm", "m1", "gggh", "i", "Q", "q", "l!", "é", "zz", "z"],
    ),
    "pcre-if": (
        "if /a/\n/b(.)/ ab$1\nif !/c/\n/d/ d\nendif\nendif\nendif\nif !/z/\n!/y/ neither\nendif\n",
        ["abx", "ad", "acd", "zy", "xy", "q"],
    ),
    "cidr": (
        ("if 10.0.0.0/8\n10.1.0.0/16 a\n!10.2.0.0/16 c\nendif\nif !10.0.0.0/8\n0.0.0.0/0 b\nendif\n[::1]/128 d\n"
        "2001:db8::/32  e f \n[2001:db9::1] g\n::/0 h\n! 1.1.1.1 i\n192.168.1.1/33 x\n1.2.3 x\n10/8 z\nif foo\n"
        "endif x\n10.0.0.1/24 x\n[::1/128 y\nfe80::1%lo z\n"),
        ["10.1.1.1", "10.2.2.2", "10.3.0.0", "11.1.1.1", "::1", "2001:db8::5", "2001:db9::1", "fe80::1",
         "::ffff:10.1.1.1", "name", "10.1.1", "1.1.1.1", "010.1.1.1"],
    ),
    "cidr-open": ("if 10.0.0.0/8\n10.1.0.0/16 a\n", ["10.1.0.1", "11.0.0.0"]),
    "inline": ("{ a=b, {c = d e}, a=z }", ["a", "C", "c", "d"]),
    "static": ("{some text}", ["a", "b"]),
    "pipemap": ("{inline:{a=b},inline:{b=c}}", ["a", "b", "c"]),
    "unionmap": ("{inline:{a=b,q=r},static:{c d}}", ["a", "q", "z"]),
    "randmap": ("{{one value}}", ["a"]),
    "unix": ("passwd.byname", ["root", "Root", "nobody here", "daemon"]),
    "unix-group": ("group.byname", ["root", "daemon", "nobody here"]),
}  # fmt: skip


@pytest.mark.parametrize("case", TEXT_CASES)
def test_the_same_answers_and_warnings(
    tmp_path: Path, config: Path, types: frozenset[str], case: str
) -> None:
    kind = case.partition("-")[0]
    want(types, kind)
    text, keys = TEXT_CASES[case]
    if kind in ("texthash", "regexp", "pcre", "cidr"):
        write(tmp_path / "table", text)
        alike(config, f"{kind}:{tmp_path}/table", keys)
    else:
        alike(config, f"{kind}:{text}", keys)


atoms = st.sampled_from(
    ["a", "b", ".", "[ab]", "[^a]", "[]a]", "(a|ab)", "(b)", "()", "\\.", "a*", "b+", "(ab)?", "^", "$", "[[:alpha:]]",
     "{", "a{2}", "(", ")", "[", "\\", "*", "/", "!", "x y"]
)  # fmt: skip
values = st.sampled_from(["v", "$1", "${2}", "x$$y", "$(1)-$1", "$", "a  b", "", "$1a", "${0}"])
rules = st.lists(
    st.one_of(
        st.builds(
            lambda no, parts, flags, value: f"{no}/{''.join(parts)}/{flags} {value}",
            st.sampled_from(["", "!", "!!"]),
            st.lists(atoms, min_size=1, max_size=5),
            st.sampled_from(["", "i", "m", "x", "q"]),
            values,
        ),
        st.sampled_from(["if /a/", "if !/b/i", "endif", "ENDIF", "word", " /cont/ x", "# comment", "", "/b"]),
    ),
    max_size=8,
)
subjects = st.lists(st.text("abAB.x[/\\é", min_size=1, max_size=6), min_size=1, max_size=6, unique=True)


@SLOW
@given(lines=rules, keys=subjects)
@pytest.mark.parametrize("kind", ["regexp", "pcre"])
def test_any_patterns(
    tmp_path: Path, config: Path, types: frozenset[str], kind: str, lines: list[str], keys: list[str]
) -> None:
    want(types, kind)
    write(tmp_path / "table", "".join(f"{line}\n" for line in lines))
    alike(config, f"{kind}:{tmp_path}/table", keys, words=False)


addresses = st.one_of(
    st.sampled_from(
        ["10.0.0.0", "10.1.2.3", "192.0.2.1", "::1", "2001:db8::", "2001:db8::1", "0.0.0.0", "::", "1.2.3"]
    ),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
)
networks = st.builds(
    lambda no, address, length, value: f"{no}{address}{length} {value}",
    st.sampled_from(["", "!", "if ", "if !"]),
    addresses,
    st.sampled_from(["", "/0", "/8", "/24", "/32", "/64", "/128", "/129", "/x", "/"]),
    st.sampled_from(["v", "", "a b"]),
)


@SLOW
@given(
    lines=st.lists(st.one_of(networks, st.sampled_from(["endif", "endif x", "", "# c"])), max_size=8),
    keys=st.lists(addresses, min_size=1, max_size=5, unique=True),
)
def test_any_networks(
    tmp_path: Path, config: Path, types: frozenset[str], lines: list[str], keys: list[str]
) -> None:
    write(tmp_path / "table", "".join(f"{line}\n" for line in lines))
    alike(config, f"cidr:{tmp_path}/table", keys, words=False)


words = st.text('abAB:"\\,#<>@.é', min_size=1, max_size=6)


@SLOW
@given(
    lines=st.lists(
        st.builds(lambda lead, key, gap, value: lead + key + gap + value, st.sampled_from(["", "", "", " "]),
                  words, st.sampled_from([" ", "\t", "", "   "]), words),
        max_size=8,
    ),
)  # fmt: skip
def test_any_text(tmp_path: Path, config: Path, types: frozenset[str], lines: list[str]) -> None:
    write(tmp_path / "table", "".join(f"{line}\n" for line in lines))
    keys = [line.split()[0] for line in lines if line.split()]
    alike(config, f"texthash:{tmp_path}/table", keys or ["a"], words=False)


# ---- indexes, both ways

entries = st.dictionaries(
    st.text("abcXYZ@.-+=é", min_size=1, max_size=30).filter(lambda key: not key.startswith("-")),
    st.text("abc XYZ@.,|/$é", min_size=1, max_size=60).map(str.strip).filter(bool),
    min_size=1,
    max_size=40,
)


@settings(SLOW, max_examples=6)
@given(records=entries)
@pytest.mark.parametrize("kind", MADE)
def test_each_reads_what_the_other_has_made(
    tmp_path: Path, config: Path, types: frozenset[str], kind: str, records: dict[str, str]
) -> None:
    want(types, kind)
    path = tmp_path / "table"
    name = f"{kind}:{path}"
    path.write_text("".join(f"{key} {value}\n" for key, value in records.items()))
    keys = [*records, "none"]
    makers: list[Callable[[], int]] = [
        lambda: real(config, "-w", name)[0],
        lambda: postmap.main(["-w", name]),
    ]
    for make in makers:
        Path(f"{path}{INDEXED[kind]}").unlink(missing_ok=True)
        assert make() == 0
        text = path.read_text()
        path.unlink()  # so that nobody reads the source instead
        assert ours(name, keys)[0] == theirs(config, name, keys)[0]
        assert len(ours(name, keys)[0]) >= len(records)
        path.write_text(text)


@pytest.mark.parametrize("kind", ["hash", "btree", "lmdb"])
def test_each_changes_what_the_other_has_made(
    tmp_path: Path, config: Path, types: frozenset[str], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    want(types, kind)
    path = tmp_path / "table"
    path.write_text("".join(f"key{n} value{n}\n" for n in range(500)))
    name = f"{kind}:{path}"
    assert postmap.main([name]) == 0
    assert real(config, "-d", "key1", name)[0] == 0
    assert real(config, "-i", name, stdin="new by them\n")[0] == 0
    assert ours(name, ["key1", "key2", "new"])[0] == {"key2": "value2", "new": "by them"}
    assert real(config, name)[0] == 0
    assert postmap.main(["-d", "key3", name]) == 0
    assert theirs(config, name, ["key1", "key3", "key4"])[0] == {"key1": "value1", "key4": "value4"}
    assert len(real(config, "-s", name)[1].splitlines()) == 499


@pytest.mark.parametrize("kind", MADE)
def test_aliases(tmp_path: Path, config: Path, types: frozenset[str], kind: str) -> None:
    want(types, kind)
    path = tmp_path / "aliases"
    path.write_text(
        'Postmaster: zs\n"a name": b\nlist: a, "|/bin/x -y", :include:/etc/l\nzs@x.test: no\nbad\ne:\n'
    )
    keys = ["postmaster", "a name", "list", "zs@x.test", "@"]
    answers = []
    makers: list[Callable[[], int]] = [
        lambda: real(config, f"{kind}:{path}", program="postalias")[0],
        lambda: postalias.main([f"{kind}:{path}"]),
    ]
    for make in makers:
        Path(f"{path}{INDEXED[kind]}").unlink(missing_ok=True)
        assert make() == 0
        answers += [ours(f"{kind}:{path}", keys)[0], theirs(config, f"{kind}:{path}", keys)[0]]
    assert (
        answers
        == [{"postmaster": "zs", "a name": "b", "list": 'a, "|/bin/x -y", :include:/etc/l', "@": "@"}] * 4
    )


@pytest.mark.parametrize("kind", MADE)
def test_a_reader_sees_every_new_index_whole(
    tmp_path: Path, config: Path, types: frozenset[str], kind: str
) -> None:
    """Made anew by Postfix again and again, a table answers rightly, or fails for now: it never denies a key."""
    want(types, kind)
    path = tmp_path / "table"
    path.write_text("".join(f"key{n} value{n}\n" for n in range(1000)))
    name = f"{kind}:{path}"
    assert real(config, name)[0] == 0
    table = opener()(name)
    assert table.lookup("key7") == "value7"
    over = threading.Event()

    def remake() -> None:
        for _ in range(5):
            real(config, name)
        over.set()

    thread = threading.Thread(target=remake)
    thread.start()
    answers = 0
    while not over.is_set():
        try:
            assert table.lookup("key999") == "value999"
            answers += 1
        except (OSError, TableError):
            pass
    thread.join()
    assert answers


def test_stale_index(tmp_path: Path, config: Path, types: frozenset[str]) -> None:
    want(types, "cdb")
    path = tmp_path / "table"
    path.write_text("key old\n")
    assert postmap.main([f"cdb:{path}"]) == 0
    path.write_text("key new\n")
    os.utime(f"{path}.cdb", (1000, 1000))
    os.utime(path, (2000, 2000))
    alike(config, f"cdb:{path}", ["key"])


# ---- the commands


@pytest.mark.parametrize(
    "words",
    [
        ("cdb:/no/such/table",), ("-q", "a", "cdb:/no/such/table"), ("-q", "a", "lmdb:/no/such/table"),
        ("regexp:/no/such/table",), ("-d", "a", f"texthash:{__file__}"), ("-q", "a", "fail:x"), ("-q", "a", "-d", "b", "cdb:x"),
        ("-s", "static:x"), ("-q", "a", "inline:a"), ("-q", "a", "pipemap:{}"), ("-q", "a", "unix:x"),
        ("-i", "cdb:/no/such/table"), ("-d", "a", "cdb:/no/such/table"),
    ],
)  # fmt: skip
def test_errors_in_postfixs_words(
    config: Path, types: frozenset[str], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, told = real(config, *words)
    assert postmap.main(words) == status == 1
    assert capsys.readouterr().err == f"postmap: fatal: {told[-1]}\n"


MESSAGE = """\
Received: by x.test
\tid 1
Subject: grün
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=z

before
--z
Content-Type: message/rfc822

Subject: inside
 goes on

text
--z
X-Part: two

--z--
after
"""


@pytest.mark.parametrize("flags", ["-h", "-b", "-hb", "-hm", "-bm", "-hbm", "-m", "-hU", "-bu"])
@pytest.mark.parametrize("message", [MESSAGE, "no header\n\nx\n", "A: b\nno header\n", "A: b\n", "", "\nx\n"])
def test_messages_are_looked_up_by_headers_and_lines(
    tmp_path: Path,
    config: Path,
    types: frozenset[str],
    flags: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(tmp_path / "all", "/^(.*)$/ <$1>\n")
    words = [flags, "-q", "-", f"regexp:{tmp_path}/all"]
    status, out, warnings = real(config, *words, stdin=message)
    monkeypatch.setattr("sys.stdin", io.StringIO(message))
    assert postmap.main(words) == status
    told = capsys.readouterr()
    assert told.out == out
    assert [line.removeprefix("postmap: warning: ") for line in told.err.splitlines()] == warnings


@pytest.mark.parametrize("flags", ["", "-u", "-U"])
@pytest.mark.parametrize("kind", ["hash", "btree"])
def test_what_is_not_utf_8(
    tmp_path: Path,
    config: Path,
    types: frozenset[str],
    kind: str,
    flags: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    want(types, kind)
    words = [flags] if flags else []
    path = tmp_path / "table"
    listed: list[object] = []
    for program in ("theirs", "ours"):
        path.write_bytes(b"GR\xc3\x9cN 1\nbad\xff 2\nworse 3\xff\nGood 4\n")
        os.utime(path, (1e9, 1e9))
        if program == "theirs":
            made = real(config, *words, f"{kind}:{path}")
            asked = real(config, *words, "-q", "bad\udcff", f"{kind}:{path}")
            warnings = made[2] + asked[2]
            status = made[0], asked[0]
        else:
            status = (
                postmap.main([*words, f"{kind}:{path}"]),
                postmap.main([*words, "-q", "bad\udcff", f"{kind}:{path}"]),
            )
            told = capsys.readouterr()
            warnings = [line.removeprefix("postmap: warning: ") for line in told.err.splitlines()]
        records = sorted(real(config, "-u", "-s", f"{kind}:{path}")[1].splitlines())
        listed.append((status, warnings, records))
        (tmp_path / "table.db").unlink()
    assert listed[0] == listed[1]


@pytest.mark.parametrize(
    "words",
    [
        ("-h", "-q", "x", "regexp:x"), ("-b", "-s", "hash:x"), ("-m", "hash:x"), ("-bh", "-d", "x", "hash:x"),
        ("-b", "hash:x"),
    ],
)  # fmt: skip
def test_parts_of_messages_are_for_standard_input(
    config: Path, types: frozenset[str], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, told = real(config, *words)
    assert postmap.main(words) == status == 1
    assert capsys.readouterr().err == f"postmap: fatal: {told[-1]}\n"


@pytest.mark.parametrize("letter", ["h", "b", "m", "U", "F", "x"])
def test_options_that_postalias_does_not_have(
    config: Path, types: frozenset[str], letter: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert real(config, f"-{letter}", "hash:x", program="postalias")[0] == 1
    assert postalias.main([f"-{letter}", "hash:x"]) == 1
    assert f"-{letter}" in capsys.readouterr().err


# ---- services


@contextmanager
def serving(handler: object) -> Iterator[services.Service]:
    """A service in a thread of its own, for a program that waits for it."""
    loop = asyncio.new_event_loop()
    ready: list[services.Service] = []
    started, stop = threading.Event(), asyncio.Event()

    async def main() -> None:
        async with services.running(handler) as service:
            ready.append(service)
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    started.wait(10)
    try:
        yield ready[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


def test_tcp_and_socketmap(config: Path, types: frozenset[str]) -> None:
    keys = ["zs@x.test", "none", "a b%", "é"]
    with serving(services.tcp) as service:
        alike(config, f"tcp:{service.address}", keys)
        assert service.asked[: len(keys)] == service.asked[len(keys) :]
    with serving(services.socketmap) as service:
        alike(config, f"socketmap:inet:{service.address}:virtual", keys)
        assert service.asked[: len(keys)] == service.asked[len(keys) :]


def test_memcache(tmp_path: Path, config: Path, types: frozenset[str]) -> None:
    with serving(services.memcached) as cache:
        cache.stored["v:zs"] = "a value"
        (tmp_path / "conf").write_text(
            f"memcache = inet:{cache.address}\nkey_format = v:%u\nbackup = inline:{{other=from the backup}}\n".replace(
                "{other=from the backup}", "{{other=from the backup}}"
            )
        )
        alike(config, f"memcache:{tmp_path}/conf", ["zs", "zs@x.test", "ZS", "other", "@x.test", "none"])
        assert cache.stored["v:other"] == "from the backup"


def test_memcached(tmp_path: Path, config: Path, types: frozenset[str]) -> None:
    """With the real one: each finds what the other's question has left there."""
    need("memcached")
    port = free_port()
    command = ["memcached", "-u", "nobody", "-l", "127.0.0.1", "-p", str(port), "-U", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        for number, first in enumerate((theirs_of(config), ours)):
            conf = tmp_path / f"conf{number}"
            backup = "{{zs@x.test=from the backup, é=two words}}"
            conf.write_text(
                f"memcache = inet:127.0.0.1:{port}\nkey_format = v{number}:%s\nbackup = inline:{backup}\n"
            )
            keys = ["zs@x.test", "ZS@x.test", "é", "none"]
            found = first(f"memcache:{conf}", keys)[0]
            conf.write_text(f"memcache = inet:127.0.0.1:{port}\nkey_format = v{number}:%s\n")
            alike(config, f"memcache:{conf}", keys)
            assert found.items() >= theirs(config, f"memcache:{conf}", keys)[0].items() != {}.items()
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.parametrize(
    "conf",
    [
        "query = SELECT v FROM t WHERE k = '%s'\n",
        "query = SELECT v FROM t WHERE k = '%u@%d'\nresult_format = <%s>%U\n",
        "query = SELECT v FROM t WHERE k = '%u' OR k = '%s'\ndomain = x.test, inline:{y.test=ok}\n",
        "query = SELECT '%1.%2' FROM t LIMIT 1\n",
        "query = SELECT v FROM t WHERE k LIKE '%%%u%%' ORDER BY v\nresult_format = %u at %d\n",
        "select_field = v\ntable = t\nwhere_field = k\n",
    ],
)
def test_sqlite(tmp_path: Path, config: Path, types: frozenset[str], conf: str) -> None:
    want(types, "sqlite")
    with sqlite3.connect(tmp_path / "data") as connection:
        connection.execute("CREATE TABLE t (k TEXT, v TEXT)")
        rows = [
            ("zs@x.test", "a@y.test"),
            ("zs@x.test", "b"),
            ("zs", "local"),
            ("it's@x.test", "quoted"),
            ("n", None),
        ]
        connection.executemany("INSERT INTO t VALUES (?, ?)", rows)
    connection.close()
    (tmp_path / "conf").write_text(f"dbpath = {tmp_path}/data\n{conf}")
    keys = [
        "zs@x.test",
        "ZS@X.test",
        "zs@y.test",
        "zs",
        "@x.test",
        "it's@x.test",
        "n",
        "' OR 1=1 --",
        "é@x.test",
        "a@b.c.d",
    ]
    alike(config, f"sqlite:{tmp_path}/conf", keys)
