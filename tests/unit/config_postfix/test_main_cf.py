"""main.cf: syntax, expansion and types, compared with the real postconf where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_interface
from pathlib import Path

import pytest

from mailstack.config.errors import ConfigError
from mailstack.config.postfix import MainCf, Origin, interfaces
from mailstack.postfix_parameters import HONOURED, PARAMETERS, Kind, parameter, parse_time

HEAD = "myhostname = mail.dgtlinux.com\nmydomain = dgtlinux.com\nempty =\nname = value\nself_safe = $name\n"

EXPANSIONS = [
    ("plain", "plain"),
    ("$name", "value"),
    ("${name}", "value"),
    ("$(name)", "value"),
    ("$name$name", "valuevalue"),
    ("$name.com", "value.com"),
    ("a $$name b", "a $name b"),
    ("$no_such_name|", "|"),
    ("${name?yes}", "yes"),
    ("${empty?yes}", ""),
    ("${name:no}", ""),
    ("${empty:no}", "no"),
    ("${name?{yes}:{no}}", "yes"),
    ("${empty?{yes}:{no}}", "no"),
    ("${empty?{yes}:{$name}}", "value"),
    ("${empty? {yes} : {n o}}", "n o"),
    ("${name?${empty:inner}}", "inner"),
    ("${name?{${empty?{a}:{b $name}}}:{c}}", "b value"),
    ("${ name }", "value"),
    ("$mydestination", "mail.dgtlinux.com, localhost.dgtlinux.com, localhost"),
    ("${{$name} == {value} ? {same} : {other}}", "same"),
    ("${{$name} != {value} ? {same} : {other}}", "other"),
    ("${{10} > {9} ? {number} : {text}}", "number"),
    ("${{abc} < {abd} ? {less} : {more}}", "less"),
    ("${{3.10} >level {3.9} ? {newer} : {older}}", "newer"),
    ("${{a} == {a}}", "true"),
    ("$self_safe", "value"),
    ("one,\n\n# a comment\n two\n three", "one, two three"),
    ("a = b = c", "a = b = c"),
]


@pytest.mark.parametrize(("source", "expected"), EXPANSIONS)
def test_expansion(source: str, expected: str) -> None:
    conf = MainCf.parse(f"{HEAD}probe = {source}\n", Path("main.cf"))
    assert conf.str("probe") == expected


@pytest.mark.real
@pytest.mark.skipif(shutil.which("postconf") is None, reason="postconf (Debian's postfix) is not installed")
def test_expansion_is_what_postconf_says(tmp_path: Path) -> None:
    text = HEAD + "".join(f"probe{index} = {source}\n" for index, (source, _) in enumerate(EXPANSIONS))
    # Postconf knows only names that some parameter uses.
    uses = " ".join(f"$probe{index}" for index in range(len(EXPANSIONS)))
    (tmp_path / "main.cf").write_text(f"{text}smtpd_banner = {uses}\n")
    names = [f"probe{index}" for index in range(len(EXPANSIONS))]
    said = subprocess.run(
        ["postconf", "-c", str(tmp_path), "-xh", *names], capture_output=True, text=True, check=True
    ).stdout.split("\n")
    conf = MainCf.load(tmp_path)
    assert [conf.str(name) for name in names] == said[: len(names)]


@pytest.mark.real
@pytest.mark.skipif(shutil.which("postconf") is None, reason="postconf (Debian's postfix) is not installed")
def test_the_defaults_are_postfix_defaults() -> None:
    said = subprocess.run(["postconf", "-d"], capture_output=True, text=True, check=True).stdout
    theirs = {name: value.strip() for name, _, value in (line.partition(" =") for line in said.splitlines())}
    computed = {"myhostname", "mydomain", "mynetworks", "mail_version", "daemon_directory", "shlib_directory"}
    ours = {name: p.default for name, p in PARAMETERS.items() if name not in computed}
    assert {name: theirs.get(name) for name in ours} == ours


QUIET = """\
biff = no
debug_peer_level = 2
debugger_command = PATH=/bin; sleep 5
mailq_path = /usr/bin/mailq
sendmail_path = /usr/sbin/sendmail
smtpd_delay_open_until_valid_rcpt = yes
reset_owner_alias = no
"""


def test_what_asks_for_what_is_done_anyway_is_not_warned_about(tmp_path: Path) -> None:
    assert MainCf.parse(QUIET, tmp_path / "main.cf").warnings == ()
    loud = "biff = yes\ndebug_peer_level = 2\ndebug_peer_list = 192.0.2.1\nreset_owner_alias = yes\n"
    names = [line.split(": ")[1].split()[0] for line in MainCf.parse(loud, tmp_path / "main.cf").warnings]
    assert names == ["biff", "debug_peer_level", "debug_peer_list", "reset_owner_alias"]


NETWORKS = [
    *(f"{style}\ninet_protocols = {protocols}\n"
      for style in ("mynetworks_style = class", "mynetworks_style = host", "mynetworks_style = subnet", "",
                    "compatibility_level = 2")
      for protocols in ("all", "ipv4")),
    *(f"mynetworks_style = subnet\ninet_interfaces = {names}\n"
      for names in ("loopback-only", "127.0.0.1", "127.0.0.1, [::1]")),
    "mynetworks_style = host\ninet_interfaces = loopback-only\ninet_protocols = ipv6\n",
]  # fmt: skip


@pytest.mark.real
@pytest.mark.skipif(shutil.which("postconf") is None, reason="postconf (Debian's postfix) is not installed")
def test_mynetworks_is_what_postfix_computes_on_this_machine(tmp_path: Path) -> None:
    def both(number: int) -> tuple[set[str], set[str]]:
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / "master.cf").write_text("")
        (directory / "main.cf").write_text(f"myhostname = mail.x.test\n{NETWORKS[number]}")
        command = ["postconf", "-c", str(directory), "-h", "mynetworks"]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        own = set(MainCf.load(directory).list("mynetworks"))
        # Postfix takes no address that no interface has: [::1] on a machine without IPv6.
        return own, set(said.stdout.split()) if said.returncode == 0 else own

    with ThreadPoolExecutor(8) as pool:  # postconf asks the DNS for this host's name
        for text, (own, theirs) in zip(NETWORKS, pool.map(both, range(len(NETWORKS))), strict=True):
            assert own == theirs, text


def test_mynetworks_of_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    known = ("127.0.0.1/8", "10.1.2.3/26", "172.20.1.1/12", "198.51.100.7/32", "::1/128", "2001:db8::5/56")
    own = tuple(ip_interface(one) for one in known)
    monkeypatch.setattr(interfaces, "interfaces", lambda: own)

    def networks(style: str, *names: str) -> str:
        return interfaces.default_networks(style, names, ("all",))

    assert networks("host", "all") == (
        "127.0.0.1/32 10.1.2.3/32 172.20.1.1/32 198.51.100.7/32 [::1]/128 [2001:db8::5]/128"
    )
    assert networks("subnet", "all") == (
        "127.0.0.0/8 10.1.2.0/26 172.16.0.0/12 198.51.100.7/32 [::1]/128 [2001:db8::]/56"
    )
    assert (
        networks("class", "10.1.2.3", "172.20.1.1", "198.51.100.7")
        == "10.0.0.0/8 172.20.0.0/16 198.51.100.0/24"
    )
    assert networks("subnet", "loopback-only") == "127.0.0.0/8 [::1]/128"
    assert networks("subnet", "127.0.0.5", "203.0.113.1") == "127.0.0.0/8 203.0.113.1/32"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a = b\nnonsense\n", 2, "missing '=' after attribute name: 'nonsense'"),
        ("= b\n", 1, "missing attribute name: '= b'"),
        ("  a = b\n", 1, "logical line must not start with whitespace: 'a = b'"),
        ("a b = c\n", 1, "white space in the parameter name 'a b'"),
        ("# c\nmyorigin = ${mydomain\n", 2, "myorigin: truncated macro reference: '${mydomain'"),
        ("myorigin = $mydomain\nmydomain = x$myorigin\n", 1, "myorigin: parameter myorigin refers to itself"),
        ("smtpd_delay_reject = on\n", 1, "smtpd_delay_reject: expected yes or no, not 'on'"),
        ("smtpd_recipient_limit = 0\n", 1, "smtpd_recipient_limit: must be at least 1"),
        ("smtpd_recipient_limit = ten\n", 1, "smtpd_recipient_limit: expected a number, not 'ten'"),
        ("message_size_limit =\n", 1, "message_size_limit: expected a number, not ''"),
        ("minimal_backoff_time = 5 min\n", 1, "minimal_backoff_time: expected a time such as 30s"),
        ("smtpd_tls_security_level = maybe\n", 1, "smtpd_tls_security_level: expected one of (empty), none"),
        ("lmtp_destination_concurrency_limit = -1\n", 1, "lmtp_destination_concurrency_limit: must be at le"),
        ("mydomain = a\0b\n", 1, "NUL in the file"),
        ("a = ${name~x}\nname = 1\n", 1, "a: expected ? or : after name"),
        ("a = ${name?{x}:{y}z}\nname = 1\n", 1, "a: excess text 'z'"),
        ("a = $-\n", 1, "a: a name must follow the $"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, line: int, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        MainCf.parse(text, Path("/etc/postfix/main.cf"))
    assert caught.value.line == line
    assert caught.value.message.startswith(message)
    assert str(caught.value).startswith(f"/etc/postfix/main.cf:{line}: ")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="open: No such file or directory"):
        MainCf.load(tmp_path)


def test_typed_values() -> None:
    conf = MainCf.parse(
        "mydestination = $myhostname, {a b} \n  c,d\nmyhostname = h.example.org\n"
        "maximal_queue_lifetime = 2\nminimal_backoff_time = 5m\nmessage_size_limit = 0\n"
        "smtpd_helo_required = yes\nsmtpd_timeout = ${stress?{10}:{300}}s\n",
        Path("main.cf"),
    )
    assert conf.list("mydestination") == ["h.example.org", "{a b}", "c", "d"]
    assert conf.str("mydomain") == "example.org"
    assert conf.time("maximal_queue_lifetime") == 2 * 86400
    assert conf.time("minimal_backoff_time") == 300
    assert conf.size("message_size_limit") == 0
    assert conf.bool("smtpd_helo_required") is True
    assert conf.bool("smtpd_delay_reject") is True
    assert conf.time("smtpd_timeout") == 300
    assert conf.int("smtpd_hard_error_limit") == 20
    assert conf.int("lmtp_destination_concurrency_limit") == 20
    assert conf.is_set("smtpd_helo_required")
    assert not conf.is_set("smtpd_delay_reject")


def test_overrides_belong_to_one_service() -> None:
    conf = MainCf.parse("myhostname = a.example\nsmtpd_banner = hi\n", Path("main.cf"))
    other = conf.with_overrides({"smtpd_banner": "$myhostname here"})
    assert (conf.str("smtpd_banner"), other.str("smtpd_banner")) == ("hi", "a.example here")
    with pytest.raises(ConfigError, match=r"^m/master.cf:7: smtpd_delay_reject: expected yes or no"):
        conf.with_overrides({"smtpd_delay_reject": "maybe"}, Origin(Path("m/master.cf"), 7))


def test_warnings_name_what_nobody_uses() -> None:
    text = (
        "myhostname = a.example\nmyhostname = b.example\nqmqpd_timeout = 3\n"
        "mine = 1\nsmtpd_banner = $mine\nslow_destination_concurrency_limit = 3\nbiff = no\nmail_owner = x\n"
        "nosuch = 1\n"
    )
    assert MainCf.parse(text, Path("main.cf"), transports=["slow"]).warnings == (
        "main.cf, line 2: overriding earlier entry: myhostname=a.example",
        "main.cf, line 3: qmqpd_timeout is not honoured: there is no QMQP server",
        "main.cf, line 9: unused parameter: nosuch=1",
    )


def test_the_table_is_sound() -> None:
    for known in PARAMETERS.values():
        assert known.doc
        assert not known.default or "$" in known.default or known.problem(known.default) is None, known
        assert bool(known.choices) == (known.kind is Kind.ENUM)
    assert "smtpd_banner" in HONOURED
    assert "shlib_directory" not in HONOURED
    assert parameter("slow_destination_concurrency_limit") is None
    assert [parse_time(text) for text in ("10", "2m", "1h", "1d", "1w", "1x", "", "-1")] == [
        10,
        120,
        3600,
        86400,
        604800,
        None,
        None,
        None,
    ]


def test_config_directory_is_where_main_cf_lies(tmp_path: Path) -> None:
    (tmp_path / "main.cf").write_text("alias_maps = hash:${config_directory}/aliases\n")
    assert MainCf.load(tmp_path).list("alias_maps") == [f"hash:{tmp_path}/aliases"]
