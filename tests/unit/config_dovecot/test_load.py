"""Settings: the seed's, Debian's, and what becomes of those that have no effect."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailstack.config.dovecot import (
    Database,
    DovecotConfig,
    InetListener,
    Mailbox,
    Saslauthd,
    UnixListener,
    expand,
    load,
    user_variables,
)
from mailstack.config.errors import ConfigError

MAIN = """
protocols = imap pop3 lmtp
listen = 127.0.0.1
base_dir = /run/x
ssl = required
ssl_cert = <cert.pem
ssl_key = <key.pem
disable_plaintext_auth = yes
auth_anonymous_username = anonymous
auth_mechanisms = plain login
mail_location = maildir:~/
login_greeting = Welcome to mail.test
passdb {
  driver = passwd-file
  args = scheme=plain username_format=%Lu users
}
userdb {
  driver = static
  args = home=/var/mail/%d/%n
}
namespace inbox {
  inbox = yes
  mailbox Sent {
    special_use = \\Sent
    auto = subscribe
  }
}
service imap-login {
  inet_listener imap {
    address = 127.0.0.2 ::1
    port = 1143
  }
  inet_listener imaps {
    port = 0
  }
}
service lmtp {
  inet_listener lmtp {
    port = 24
  }
  unix_listener lmtp {
    mode = 0600
  }
}
service auth {
  unix_listener /run/y/auth-client {
    mode = 0660
    group = postfix
  }
  unix_listener auth-userdb {
  }
}
protocol pop3 {
  mail_max_userip_connections = 3
}
protocol !imap {
  login_greeting = Others
  mail_home = ignored
}
protocol lmtp {
  plugin {
    quota = ignored
  }
}
"""


def config(folder: Path, text: str) -> DovecotConfig:
    (folder / "cert.pem").touch()
    (folder / "key.pem").touch()
    (folder / "dovecot.conf").write_text(text)
    return load(folder)


def test_a_whole_file(tmp_path: Path) -> None:
    conf = config(tmp_path, MAIN)
    assert [warning.partition(": ")[2] for warning in conf.warnings] == [
        "protocol lmtp { plugin has no effect here; write plugin { … } outside of protocol",
        "setting mail_home has no effect in protocol !imap",
    ]
    assert conf.protocols == {"imap", "pop3", "lmtp"}
    assert conf.inet_listeners == (
        InetListener("imap", "imap", "127.0.0.2", 1143),
        InetListener("imap", "imap", "::1", 1143),
        InetListener("lmtp", "lmtp", "127.0.0.1", 24),
        InetListener("pop3", "pop3", "127.0.0.1", 110),
        InetListener("pop3", "pop3s", "127.0.0.1", 995, True),
    )
    assert conf.unix_listeners == (
        UnixListener("lmtp", Path("/run/x/lmtp"), 0o600),
        UnixListener("auth", Path("/run/y/auth-client"), 0o660, "", "postfix"),
    )
    assert (conf.ssl, conf.ssl_cert, conf.ssl_key) == (
        "required",
        tmp_path / "cert.pem",
        tmp_path / "key.pem",
    )
    assert conf.disable_plaintext_auth
    assert conf.auth_mechanisms == ("PLAIN", "LOGIN")
    assert conf.mail_location == "~"
    assert conf.login_greeting == {"imap": "Welcome to mail.test", "pop3": "Others", "lmtp": "Others"}
    assert conf.mailboxes == (Mailbox("Sent", ("\\Sent",), "subscribe"),)
    assert conf.mail_max_userip_connections == {"imap": 10, "pop3": 3}
    (passdb,) = conf.passdbs
    assert (passdb.file, passdb.scheme, passdb.username_format) == (tmp_path / "users", "PLAIN", "%Lu")
    (userdb,) = conf.userdbs
    assert userdb.fields == {"home": "/var/mail/%d/%n"}


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("protocols = imap sieve\n", "protocols: sieve has no effect: there is no ManageSieve"),
        ("protocols = imap submission\n", "protocols: submission has no effect: submission is the MTA's"),
        ("protocols = imap\nmetric a {\n  event_name = x\n}\n", "metric a has no effect: there is no stats"),
        ("protocols = imap\nevent_exporter b {\n}\n", "event_exporter b has no effect"),
        ("protocols = imap\nprotocol sieve {\n  managesieve_sieve_capability = x\n}\n", "is unknown here"),
    ],
)
def test_what_other_packages_add_is_named(tmp_path: Path, text: str, warning: str) -> None:
    """Files made for a whole Dovecot, with Pigeonhole and its statistics, can be used."""
    (tmp_path / "dovecot.conf").write_text("ssl = no\nmail_location = maildir:%Lh/Maildir/\n" + text)
    found = load(tmp_path)
    assert found.protocols == {"imap"}
    assert found.mail_location == "%Lh/Maildir"
    assert [told for told in found.warnings if warning in told] == list(found.warnings)
    assert found.warnings


def test_what_has_no_effect_is_named_once_each(tmp_path: Path) -> None:
    conf = config(
        tmp_path,
        "ssl = no\nmail_debug = yes\nmail_debug = yes\nfrobnicate = 1\nmail_fsync = always\n"
        "service imap {\n  vsz_limit = 3M\n}\nplugin {\n  frobnicator = maildir\n}\n"
        "service imap-login {\n  inet_listener imaps {\n    port = 993\n  }\n}\nprotocols = imap\n"
        "mail_location = maildir:~/Maildir\n",
    )
    here = tmp_path / "dovecot.conf"
    assert conf.warnings == (
        f"{here}:3: setting mail_debug has no effect: there are no debug lines",
        f"{here}:4: setting frobnicate is unknown here and has no effect",
        f"{here}:10: plugin {{ frobnicator has no effect: there is no such plugin here",
        f"{here}:7: service imap {{ vsz_limit has no effect",
        f"{here}:13: inet_listener imaps is off because ssl = no",
    )
    assert [listener.port for listener in conf.inet_listeners] == [143, 143]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ssl = yes\n", "ssl is not no, but ssl_cert is not set"),
        ("ssl_cert = cert.pem\n", "write it as <file"),
        ("ssl_cert = <nothing.pem\n", "Can't open file"),
        ("ssl = no\nprotocols = imap\nmail_location = mdbox:~/mail\n", "mdbox is not supported"),
        ("ssl = no\nprotocols = imap\n", "only maildir:PATH"),
        ("ssl = no\nmail_location = maildir:~/x:CONTROL=/y\n", "unsupported option CONTROL"),
        ("ssl = no\nmail_location = maildir:~/%x\n", "unsupported variable %x"),
        ("ssl = no\nauth_mechanisms = plain gssapi\n", "unsupported mechanism GSSAPI"),
        (
            "ssl = no\npassdb {\n  driver = pam\n  result_failure = return-fail\n}\n",
            "driver pam is not supported",
        ),
        ("ssl = no\npassdb {\n  driver = passwd-file\n}\n", "args has to name one file"),
        ("ssl = no\npassdb {\n  driver = static\n  frob = yes\n}\n", "Unknown setting: passdb { frob"),
        ("ssl = no\nuserdb {\n  driver = static\n  deny = yes\n}\n", "Unknown setting: userdb { deny"),
        ("ssl = no\npassdb {\n  driver = static\n  result_failure = stop\n}\n", "result_failure is one of"),
        ("ssl = no\npassdb {\n  driver = static\n  pass = yes\n  result_success = return\n}\n", "together"),
        ("ssl = no\npassdb {\n  driver = static\n  args = user=%x\n}\n", "unknown variable %x"),
        ("ssl = no\npassdb {\n  driver = sql\n  args = nowhere\n}\n", "No such file"),
        ("ssl = no\nlogin_trusted_networks = 10.0.0.0/8 x\n", "invalid network x"),
        ("ssl = no\nauth_username_translation = abc\n", "come in pairs"),
        ("ssl = no\nauth_ssl_require_client_cert = yes\n", "needs ssl_verify_client_cert"),
        ("ssl = no\nlisten = mail.test\n", "Invalid address mail.test"),
        ("ssl = no\nnamespace x {\n  prefix = INBOX/\n}\n", "inbox=yes namespace missing"),
        ("ssl = no\npop3_uidl_format = %v\n", "messages would share an id"),
    ],
)
def test_what_cannot_be_honoured_safely_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("{", r"\{")) as caught:
        config(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "dovecot.conf"))


def test_the_saslauthd_socket_stands_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "mailstack.toml").write_text('[saslauthd]\npath = "/run/sasl/mux"\nmode = 0o660\n')
    assert config(tmp_path, "ssl = no\n").saslauthd == Saslauthd(Path("/run/sasl/mux"), 0o660)
    (tmp_path / "mailstack.toml").write_text('[saslauthd]\npfad = "/run"\n')
    with pytest.raises(ConfigError, match=r"unknown key saslauthd\.pfad"):
        config(tmp_path, "ssl = no\n")


def test_a_static_passdb(tmp_path: Path) -> None:
    conf = config(tmp_path, "ssl = no\npassdb {\n  driver = static\n  args = password=x nopassword=y\n}\n")
    assert conf.passdbs == (
        Database(
            "static",
            f"passdb at {tmp_path / 'dovecot.conf'}:2",
            fields={"password": "x", "nopassword": "y"},
            override={},
        ),
    )


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("/mail/%d/%n", "/mail/Mail.test/Zs"),
        ("%Lu %Un %%", "zs@mail.test ZS %"),
        ("%1n/%1.1n/%{user}", "Z/s/Zs@Mail.test"),
        ("%h/%s", "/h/imap"),
        ("nothing", "nothing"),
    ],
)
def test_variables(template: str, expected: str) -> None:
    assert expand(template, user_variables("Zs@Mail.test", "/h", "imap")) == expected
    assert expand("%08Xu%08Xv", {"u": "26", "v": "1700000000"}) == "0000001a6553f100"
