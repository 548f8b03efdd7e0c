"""Footers of refusals; tests/interop/test_restrictions_differential.py compares them with Postfix's."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mailstack.config.errors import ConfigError
from mailstack.mta.lookup import opener
from mailstack.mta.smtpd.templates import Footers
from mailstack.wire.smtp.reply import Reply
from tests.unit.mta_smtpd.serving import write_config

UNKNOWN = Reply(500, "5.5.2", "Error: command not recognized")
NOW = 1_795_000_000.0
STAMP = time.strftime("%b %d %H:%M:%S", time.localtime(NOW))


@pytest.mark.parametrize(
    ("conf", "text", "warnings"),
    [
        ("smtpd_reject_footer = at $localtime", f"{UNKNOWN.text}\nat {STAMP}", 0),
        ("smtpd_reject_footer = \\c on $server_name", f"{UNKNOWN.text} on mail.dgtlinux.com", 0),
        ("smtpd_reject_footer = one\\ntwo", f"{UNKNOWN.text}\none\ntwo", 0),
        ("smtpd_reject_footer = $client_name", f"{UNKNOWN.text}\n__x", 0),
        ("smtpd_reject_footer = odd $", UNKNOWN.text, 1),
        ("smtpd_reject_footer = x\nsmtpd_reject_footer_maps = static:y", f"{UNKNOWN.text}\ny", 0),
        ("smtpd_reject_footer_maps = fail:no", UNKNOWN.text, 1),
    ],
)
def test_footers(tmp_path: Path, conf: str, text: str, warnings: int) -> None:
    footers = Footers.load(write_config(tmp_path, conf + "\n"), opener())
    assert footers is not None
    told: list[str] = []
    reply = footers.add(UNKNOWN, {"client_name": "\n\u00e9x"}, NOW, told.append)
    assert (reply.code, reply.enhanced, reply.text) == (500, "5.5.2", text)
    assert len(told) == warnings, told


def test_without_a_footer_there_is_nothing_to_add(tmp_path: Path) -> None:
    assert Footers.load(write_config(tmp_path), opener()) is None


def test_a_reply_waits_for_no_server(tmp_path: Path) -> None:
    conf = write_config(tmp_path, "smtpd_reject_footer_maps = tcp:127.0.0.1:9\n")
    with pytest.raises(ConfigError, match="a reply waits for no server"):
        Footers.load(conf, opener())
