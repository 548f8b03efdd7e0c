"""master.cf: columns, `-o` in both forms, endpoints, and errors with their line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailstack.config.errors import ConfigError
from mailstack.config.postfix.main_cf import MainCf
from mailstack.config.postfix.master_cf import enabled, parse_master

GOOD = """\
# service type  private unpriv  chroot  wakeup  maxproc command + args
smtp      inet  n       -       y       -       -       smtpd
127.77.3.4:2525 inet n  -       n       -       2       smtpd -v
submission inet n       -       n       -       4       smtpd
  -o syslog_name=postfix/submission
# a comment between
  -o { smtpd_banner = $myhostname hello, world } -o smtpd_client_restrictions=permit_sasl_authenticated,reject
[::1]:465 inet n - n - - smtpd -o smtpd_tls_wrappermode=yes
qmgr      unix  n       -       n       300     1       qmgr
tlsmgr    unix  -       -       y       1000?   1       tlsmgr
maildrop  unix  -       n       n       -       0       pipe
  flags=DRXhu user=vmail argv=/usr/bin/maildrop -d ${recipient}
"""


def test_a_good_file() -> None:
    services = parse_master(GOOD, Path("master.cf"))
    assert [service.name for service in services] == [
        "smtp",
        "127.77.3.4:2525",
        "submission",
        "[::1]:465",
        "qmgr",
        "tlsmgr",
        "maildrop",
    ]
    smtp, local, submission, submissions, qmgr, tlsmgr, maildrop = services
    assert (smtp.endpoint(), smtp.maxproc, smtp.chroot, smtp.private) == (("", 25), None, True, False)
    assert (local.endpoint(), local.maxproc, local.verbose) == (("127.77.3.4", 2525), 2, True)
    assert submission.endpoint() == ("", 587)
    assert dict(submission.overrides) == {
        "syslog_name": "postfix/submission",
        "smtpd_banner": "$myhostname hello, world",
        "smtpd_client_restrictions": "permit_sasl_authenticated,reject",
    }
    assert submissions.endpoint() == ("::1", 465)
    assert (qmgr.wakeup, qmgr.wakeup_if_used) == (300, False)
    assert (tlsmgr.wakeup, tlsmgr.wakeup_if_used, tlsmgr.private) == (1000, True, True)
    assert (maildrop.command, maildrop.maxproc) == ("pipe", 0)
    assert maildrop.arguments == ("flags=DRXhu", "user=vmail", "argv=/usr/bin/maildrop", "-d", "${recipient}")
    assert submission.origin.line == 4


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("smtp inet n - n - -\n", 1, "missing 'command' field"),
        ("\nsmtp tcp n - n - - smtpd\n", 2, "bad transport type 'tcp'"),
        ("smtp inet x - n - - smtpd\n", 1, "field 'private' must be y, n or -, not 'x'"),
        ("smtp inet n - n often - smtpd\n", 1, "bad wakeup time 'often'"),
        ("smtp inet - - n - - smtpd\n", 1, "an inet service cannot be private"),
        ("smtp inet n - n - - smtpd -S\n", 1, "unexpected command-line argument: -S"),
        ("smtp unix - - n - - smtp -v relay -o a=b\n", 1, "unexpected command-line argument: relay"),
        ("smtp inet n - n - many smtpd\n", 1, "bad process limit 'many'"),
        ("smtp inet n - n - - smtpd\n -o broken\n", 1, "-o needs name=value, not 'broken'"),
        ("smtp inet n - n - - smtpd -o\n", 1, "-o needs name=value, not ''"),
        ("no-such-service-name inet n - n - - smtpd\n", 1, "unknown service: 'no-such-service-name'"),
        ("1.2.3.4:70000 inet n - n - - smtpd\n", 1, "bad port number '70000'"),
        ("smtp inet n - n - - smtpd -o { a = b\n", 1, "missing '}' in '{ a = b'"),
        ("  smtp inet n - n - - smtpd\n", 1, "logical line must not start with whitespace"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, line: int, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_master(text, Path("master.cf"))
    assert caught.value.line == line
    assert caught.value.message.startswith(message)


def test_a_later_line_replaces_an_earlier_one() -> None:
    text = "smtp inet n - n - 1 smtpd\nsmtp unix - - n - - smtp\nsmtp inet n - n - 2 smtpd\n"
    assert [(s.type, s.maxproc) for s in parse_master(text, Path("master.cf"))] == [
        ("inet", 2),
        ("unix", None),
    ]


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ([], ["smtp", "587", "pickup", "relay"]),
        (["inet"], ["pickup", "relay"]),
        (["smtp.inet"], ["587", "pickup", "relay"]),
        (["!587.inet", "inet", "relay/unix"], ["587", "pickup"]),
        (["smtp", "inet.smtp"], ["smtp", "587", "pickup", "relay"]),
    ],
)
def test_services_that_are_off(words: list[str], left: list[str]) -> None:
    text = "".join(
        f"{name} {kind} n - n - - {command}\n"
        for name, kind, command in (
            ("smtp", "inet", "smtpd"), ("587", "inet", "smtpd"), ("pickup", "unix", "pickup"), ("relay", "unix", "smtp"),
        )
    )  # fmt: skip
    services = parse_master(text, Path("master.cf"))
    assert [service.name for service in enabled(services, words)] == left


def test_the_name_of_a_service_in_its_settings() -> None:
    line = "relay unix - - n - - smtp\n  -o syslog_name=postfix/$service_name\n"
    [service] = parse_master(line, Path("master.cf"))
    conf = MainCf.parse("", Path("main.cf")).with_overrides(service.overrides)
    assert conf.str("syslog_name") == "postfix/relay"
