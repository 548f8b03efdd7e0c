"""Every tree that we render is read without a warning, and means what it was rendered from."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailstack.config.dovecot import load
from mailstack.mailbox.auth import Directory

GOLDEN = Path(__file__).parents[2] / "golden"
TREES = sorted(path.parent for path in GOLDEN.glob("*/*/dovecot/dovecot.conf"))


@pytest.mark.parametrize("tree", TREES, ids=lambda path: f"{path.parts[-3]}-{path.parts[-2]}")
def test_a_rendered_tree(tmp_path: Path, tree: Path) -> None:
    kind = tree.parts[-2]
    for path in tree.rglob("*"):
        if path.is_file():
            target = tmp_path / path.relative_to(tree)
            target.parent.mkdir(parents=True, exist_ok=True)
            text = path.read_text().replace("/srv/mailstack/tls", str(tmp_path))
            text = text.replace("/srv/mailstack/rendered/dovecot", str(tmp_path))
            target.write_text(text.replace("/etc/dovecot", str(tmp_path)))
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).touch()
    if kind == "host":
        config_text = (tmp_path / "conf.d/10-ssl.conf").read_text()
        words = [word[1:] for word in config_text.split() if word.startswith("</")]
        for word in words:
            (tmp_path / "conf.d/10-ssl.conf").write_text(
                config_text := config_text.replace(word, str(tmp_path / "cert.pem"))
            )
    config = load(tmp_path)
    if kind != "host":
        assert config.warnings == ()
    assert {listener.service for listener in config.inet_listeners} >= set(config.protocols)
    assert any(listener.service == "auth" for listener in config.unix_listeners)
    assert {box.name for box in config.mailboxes} >= {"Drafts", "Junk", "Sent", "Trash", "Archive"}
    directory = Directory(config)
    directory.check()
    assert config.passdbs[0].file is not None
    users = [
        line.split(":")[0]
        for line in config.passdbs[0].file.read_text().split("\n")
        if line[:1] not in ("", "#")
    ]
    assert users
    for user in users:
        name, _, domain = user.partition("@")
        found = directory.find(user)
        assert found is not None
        assert found.mail_root.endswith(f"/{domain}/{name}")
        assert directory.canonical(user) == user
