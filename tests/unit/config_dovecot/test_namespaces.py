"""`namespace` sections and `mail_plugins = acl` of dovecot.conf."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailstack.config.dovecot import AclSettings, DovecotConfig, Mailbox, MailLocation, load
from mailstack.config.errors import ConfigError

BASE = "ssl = no\nmail_location = maildir:~/Maildir\n"
INBOX = "namespace inbox {\n  inbox = yes\n}\n"
ACL = "mail_plugins = acl\nplugin {\n  acl = vfile:\n}\n"
SHARED = "namespace s {\n  type = shared\n  prefix = s.%%u.\n  location = maildir:%%h/x\n"


def config(folder: Path, text: str) -> DovecotConfig:
    (folder / "dovecot.conf").write_text(BASE + text)
    return load(folder)


def test_each_section_without_a_name_is_a_namespace(tmp_path: Path) -> None:
    found = config(
        tmp_path,
        "namespace {\n  inbox = yes\n  mailbox Sent {\n  }\n}\n"
        "namespace {\n  prefix = B.\n  location = maildir:/srv/b\n}\n",
    )
    assert [(space.prefix, space.inbox) for space in found.namespaces] == [("", True), ("B.", False)]


def test_sections_of_one_name_are_one_namespace(tmp_path: Path) -> None:
    found = config(
        tmp_path,
        "namespace inbox {\n  inbox = yes\n  prefix = INBOX.\n}\n"
        "namespace inbox {\n  mailbox Sent {\n    special_use = \\Sent\n    comment = All of it\n  }\n"
        "  mailbox INBOX {\n    autoexpunge = 1 d\n  }\n}\n"
        "namespace a {\n  prefix = A.\n  location = maildir:/srv/%u:LAYOUT=fs\n  list = children\n}\n"
        "namespace b {\n  prefix = B.\n  disabled = yes\n}\n",
    )
    assert found.warnings == ()
    assert [(space.name, space.prefix, space.list) for space in found.namespaces] == [
        ("a", "A.", "children"),
        ("inbox", "INBOX.", "yes"),
    ]
    assert found.namespaces[0].location == MailLocation("/srv/%u", fs=True)
    assert found.mailboxes == (
        Mailbox("INBOX.Sent", ("\\Sent",), comment="All of it"),
        Mailbox("INBOX", autoexpunge=86400.0),
    )
    assert found.acl is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("namespace a {\n  prefix = A.\n}\n", "inbox=yes namespace missing"),
        (INBOX + "namespace b {\n  inbox = yes\n  prefix = b.\n}\n", "only one namespace with inbox=yes"),
        (INBOX + "namespace b {\n}\n", 'Duplicate namespace prefix: ""'),
        (INBOX + "namespace b {\n  prefix = B\n}\n", "prefix=B has to end with separator ."),
        (INBOX + "namespace b {\n  prefix = B/\n  separator = /\n}\n", "must use the same separator"),
        ("namespace a {\n  inbox = yes\n  separator = ^\n}\n", "separator = ^ is not supported: . or /"),
        ("namespace a {\n  inbox = yes\n  list = no\n}\n", "list=yes namespace missing"),
        ("namespace a {\n  inbox = yes\n  hidden = yes\n}\n", "hidden=no namespace missing"),
        ("namespace a {\n  inbox = yes\n  subscriptions = no\n}\n", "subscriptions=yes namespace missing"),
        (
            "namespace a {\n  inbox = yes\n  type = public\n  location = maildir:/x\n}\n",
            "goes with type=private",
        ),
        (INBOX + "namespace p {\n  type = public\n  prefix = p.\n}\n", "needs a location"),
        (
            INBOX
            + "namespace p {\n  type = public\n  prefix = p.\n  location = maildir:/x:INDEXPVT=~/y\n}\n",
            "INDEXPVT is not supported",
        ),
        (INBOX + "namespace b {\n  prefix = b.\n  alias_for = c\n}\n", "alias_for is not supported"),
        (INBOX + "namespace b {\n  prefix = b.\n  location = mbox:/x\n}\n", "mbox files go with one"),
        (INBOX + SHARED + "}\n", "needs mail_plugins = acl"),
        (INBOX + ACL + SHARED.replace("s.%%u.", "s.") + "}\n", "doesn't contain %"),
        (INBOX + ACL + SHARED.replace("%%h", "%h") + "}\n", "the path is another user's"),
        (INBOX + ACL + SHARED + "  mailbox x {\n  }\n}\n", "mailbox blocks in a shared namespace"),
        (INBOX + "mail_plugins = acl\nplugin {\n  acl = vfile:acls\n}\n", "acls is no path: vfile:/PATH"),
        (INBOX + "mail_plugins = acl\nplugin {\n  acl = imapc\n}\n", "acl = imapc is not supported"),
        (
            "protocols = imap lmtp\n"
            + INBOX
            + "protocol imap {\n  mail_plugins = acl\n}\nplugin {\n  acl = vfile\n}\n",
            "acl is missing in protocol lmtp",
        ),
    ],
)
def test_what_is_not_there_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, text)
    assert message in str(caught.value)


def test_acls(tmp_path: Path) -> None:
    text = (
        INBOX
        + "mail_plugins = acl\nprotocol imap {\n  mail_plugins = $mail_plugins imap_acl\n}\n"
        + "plugin {\n  acl = vfile:cache_secs=300\n  acl_anyone = allow\n  acl_groups = a,b\n"
        + "  acl_shared_dict = file:/var/lib/shared\n  acl_defaults_from_inbox = yes\n}\n"
    )
    found = config(tmp_path, text)
    assert found.warnings == ()
    assert found.acl == AclSettings(True, True, True, "/var/lib/shared", ("a", "b"))


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("mail_plugins = acl\n", "mail_plugins: acl has no effect without plugin { acl = vfile }"),
        (
            "protocol imap {\n  mail_plugins = imap_acl\n}\n",
            "mail_plugins: imap_acl has no effect without acl",
        ),
        ("namespace inbox {\n  frob = 1\n}\n", "namespace { frob has no effect here"),
        (
            ACL + "plugin {\n  acl_shared_dict = proxy::acl\n}\n",
            "acl_shared_dict has no effect: only file:/PATH is supported",
        ),
    ],
)
def test_what_has_no_effect_is_told(tmp_path: Path, text: str, warning: str) -> None:
    found = config(tmp_path, INBOX + text)
    assert found.acl is None or found.acl == AclSettings(told=False)
    assert any(warning in told for told in found.warnings)
