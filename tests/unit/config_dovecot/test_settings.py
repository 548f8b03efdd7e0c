"""The settings table: its page, and that a default asks for nothing."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailstack.config.dovecot import load
from mailstack.dovecot_settings import SETTINGS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "dovecot-settings.md"


def page() -> str:
    """docs/dovecot-settings.md, from the table."""
    lines = [
        "# Settings of dovecot.conf",
        "",
        "Made from `mailstack/dovecot_settings.py` by `make golden`: every setting of Dovecot 2.3, as `doveconf -d` lists",
        "them, and what becomes of it. Nothing is ignored in silence: what asks for something that does not happen is named",
        "in a warning at start, with the reason that stands here. Setting Dovecot's own default asks for nothing.",
        "",
        "## Works",
        "",
        "| setting | default | what it does |",
        "|---|---|---|",
    ]
    settings = sorted(SETTINGS.values())
    lines += [f"| `{one.name}` | {_code(one.default)} | {one.doc} |" for one in settings if one.works]
    lines += [
        "",
        "## As it is",
        "",
        "These need nothing of ours: the service behaves in the one way that is named. No value given: any will do.",
        "",
        "| setting | value | reason |",
        "|---|---|---|",
    ]
    for one in settings:
        if one.values is not None and one.values != (one.default,):
            value = ", ".join(map(_code, one.values))
            lines.append(f"| `{one.name}` | {value} | {one.doc} |")
    lines += ["", "## Refused", "", "| reason | settings |", "|---|---|"]
    reasons: dict[str, list[str]] = {}
    for one in SETTINGS.values():
        if one.values is not None and one.values == (one.default,):
            reasons.setdefault(one.doc, []).append(f"`{one.name}`")
    lines += [f"| {reason} | {' '.join(names)} |" for reason, names in reasons.items()]
    return "\n".join([*lines, ""])


def _code(text: str) -> str:
    return f"`{text}`" if text else "(empty)"


def test_the_page_is_the_table() -> None:
    if os.environ.get("MAILSTACK_UPDATE_GOLDEN"):
        PAGE.write_text(page())
    assert PAGE.read_text() == page(), "make golden writes it anew"


def warned() -> Iterator[tuple[str, str]]:
    for one in SETTINGS.values():
        if one.values and one.name != "mail_plugins":
            yield one.name, "yes" if one.default == "no" and "no" in one.values else "17 weeks"


@pytest.mark.parametrize(("name", "value"), list(warned()))
def test_what_is_not_honoured_is_named_with_its_reason(tmp_path: Path, name: str, value: str) -> None:
    path = tmp_path / "dovecot.conf"
    path.write_text(f"ssl = no\n{name} = {value}\n")
    assert load(tmp_path).warnings == (f"{path}:2: setting {name} has no effect: {SETTINGS[name].doc}",)


def test_defaults_and_what_is_so_in_any_case_give_no_warning(tmp_path: Path) -> None:
    lines = [
        f'{one.name} = "{value}"'
        for one in SETTINGS.values()
        for value in {one.default, *(one.values or ())}
        if one.name not in ("ssl", "ssl_cert", "ssl_key", "mail_location")
    ]
    (tmp_path / "dovecot.conf").write_text("\n".join(["ssl = no", *lines, ""]))
    assert load(tmp_path).warnings == ()


TUTORIAL = """\
protocols = imap pop3 lmtp
mail_location = maildir:/var/mail/vhosts/%d/%n
mail_privileged_group = mail
first_valid_uid = 1000
auth_mechanisms = plain login
mail_plugins = $mail_plugins quota
passdb {
  driver = passwd-file
  args = scheme=SHA512-CRYPT username_format=%u users
}
userdb {
  driver = static
  args = uid=vmail gid=vmail home=/var/mail/vhosts/%d/%n
}
namespace inbox {
  inbox = yes
  type = private
  separator = /
  mailbox Trash {
    auto = subscribe
    special_use = \\Trash
    autoexpunge = 30d
  }
}
service lmtp {
  unix_listener /var/spool/postfix/private/dovecot-lmtp {
    mode = 0600
    user = postfix
    group = postfix
  }
}
service auth {
  unix_listener /var/spool/postfix/private/auth {
    mode = 0666
  }
}
ssl = required
ssl_cert = <cert.pem
ssl_key = <cert.pem
ssl_min_protocol = TLSv1.2
ssl_prefer_server_ciphers = yes
protocol imap {
  mail_plugins = $mail_plugins imap_quota
  mail_max_userip_connections = 20
}
protocol lmtp {
  postmaster_address = postmaster@example.com
  mail_plugins = $mail_plugins sieve
}
log_path = /var/log/dovecot.log
"""


def test_a_configuration_as_tutorials_have_it_starts_and_tells_what_it_does_not_do(tmp_path: Path) -> None:
    path = tmp_path / "dovecot.conf"
    path.write_text(TUTORIAL)
    (tmp_path / "cert.pem").touch()
    told = [warning.removeprefix(f"{path}:") for warning in load(tmp_path).warnings]
    assert told == [
        f"50: setting log_path has no effect: {SETTINGS['log_path'].doc}",
        f"48: mail_plugins: sieve has no effect: {SETTINGS['mail_plugins'].doc}",
    ]


STOCK = Path("/usr/share/dovecot")


@pytest.mark.real
@pytest.mark.skipif(not (STOCK / "dovecot.conf").exists(), reason="dovecot-core is missing")
def test_debian_s_own_configuration_starts(tmp_path: Path) -> None:
    shutil.copytree(STOCK / "conf.d", tmp_path / "conf.d")
    text = (STOCK / "dovecot.conf").read_text()
    (tmp_path / "dovecot.conf").write_text(text.replace(f"{STOCK}/protocols.d", str(tmp_path / "none")))
    tls = tmp_path / "conf.d" / "10-ssl.conf"
    tls.write_text(re.sub(r"</etc/dovecot/private/\S+", "<../cert.pem", tls.read_text()))
    (tmp_path / "cert.pem").touch()
    config = load(tmp_path)
    told = [re.sub(r"^.*/([^/]+):\d+: ", r"\1: ", warning) for warning in config.warnings]
    assert [line.partition(" has no effect")[0] for line in told] == [
        "auth-system.conf.ext: passdb { driver = pam",
        "auth-system.conf.ext: userdb { driver = passwd",
    ]
    assert config.mail_layout.mbox == "/var/mail/%u"
