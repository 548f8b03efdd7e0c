"""Keywords that are hidden from some clients, commands that are not what they seem, mechanisms that are left.

tests/interop/test_restrictions_differential.py has the same conversations with Postfix.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from mailstack.config.errors import ConfigError
from mailstack.mta.lookup import opener
from mailstack.mta.smtpd.keywords import Oddities
from tests.unit.mta_smtpd.serving import Smtpd, settings_of, write_config
from tests.unit.mta_smtpd.test_session import Client, session


def test_commands_that_do_nothing_are_counted_as_junk_only(tmp_path: Path) -> None:
    async def check(smtpd: Smtpd, client: Client) -> None:
        assert await client.say("FOO bar") == "250 2.0.0 Ok"
        assert await client.say("etrn far.test") == "250 2.0.0 Ok"
        assert await client.say("BAR") == "500 5.5.2 Error: command not recognized"
        await client.say("QUIT")
        assert smtpd.log()[-1].endswith("[127.0.0.1] quit=1 unknown=0/1 commands=1/2")

    session(tmp_path, check, "smtpd_noop_commands = foo, ETRN\n")


def test_a_filter_changes_commands_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "filter").write_text("/^HELP/ NOOP\n")

    async def check(smtpd: Smtpd, client: Client) -> None:
        assert await client.say(" help me") == "250 2.0.0 Ok"
        assert smtpd.log()[-1].endswith('[127.0.0.1]: replacing client command "help me" with "NOOP"')

    session(tmp_path, check, f"smtpd_command_filter = regexp:{tmp_path}/filter\n")


def test_keywords_by_address(tmp_path: Path) -> None:
    async def check(smtpd: Smtpd, client: Client) -> None:
        reply = await client.say("EHLO x")
        assert "VRFY" in reply
        assert "SIZE" not in reply
        assert "CHUNKING" not in reply

    extra = "smtpd_discard_ehlo_keywords = vrfy\n"
    extra += "smtpd_discard_ehlo_keyword_address_maps = inline:{ {127.0.0.1=size, chunking} }\n"
    session(tmp_path, check, extra)


def test_a_transcript_goes_to_the_postmaster_in_parts(tmp_path: Path) -> None:
    async def check(smtpd: Smtpd, client: Client) -> None:
        await client.say("EHLO x", "NOOP", "FOO", "MAIL FROM:<a@b.test>", "RSET")
        assert len(smtpd.messages()) == 1
        assert b"FOO" in smtpd.content(smtpd.messages()[0])

    session(tmp_path, check, "notify_classes = protocol\nsmtpd_history_flush_threshold = 3\n")


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (None, ("PLAIN", "LOGIN", "CRAM-MD5")),
        ("!plain, !external, static:rest", ("LOGIN", "CRAM-MD5")),
        ("login", ("LOGIN",)),
        ("inline:{ {cram-md5=x} }", ("CRAM-MD5",)),
    ],
)
def test_mechanisms_that_are_left(tmp_path: Path, words: str | None, left: tuple[str, ...]) -> None:
    extra = "" if words is None else f"smtpd_sasl_mechanism_filter = {words}\n"
    settings = settings_of(tmp_path, extra)
    assert settings.mechanisms(("PLAIN", "EXTERNAL", "LOGIN", "CRAM-MD5"), secured=True) == left


def test_what_cannot_be_used_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"smtpd_noop_commands: hash:/x: commands by their names only"):
        settings_of(tmp_path, "smtpd_noop_commands = hash:/x\n")
    with pytest.raises(
        ConfigError, match=r"smtpd_forbidden_commands: tcp:h:1: a command waits for no server"
    ):
        Oddities.load(write_config(tmp_path, "smtpd_forbidden_commands = tcp:h:1\n"), opener())
