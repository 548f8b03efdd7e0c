"""Restriction lists: what each word says, in Postfix's words."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mailstack.config.errors import ConfigError
from mailstack.mta.smtpd.networks import NetworkList
from mailstack.mta.smtpd.verdicts import PERMIT, Phase, Rejection
from tests.unit.mta_smtpd.clients import Client
from tests.unit.mta_smtpd.serving import settings_of


def judge(directory: Path, words: str, client: Client, phase: Phase = Phase.RECIPIENT) -> str:
    names = {
        Phase.CLIENT: "smtpd_client_restrictions",
        Phase.HELO: "smtpd_helo_restrictions",
        Phase.SENDER: "smtpd_sender_restrictions",
        Phase.RECIPIENT: "smtpd_recipient_restrictions",
        Phase.DATA: "smtpd_data_restrictions",
    }
    settings = settings_of(directory, f"{names[phase]} = {words}\n")
    verdict = asyncio.run(settings.restrictions[phase].evaluate(client))
    if verdict is PERMIT:
        return "permit"
    return str(verdict.reply) if isinstance(verdict, Rejection) else "dunno"


RELAY_DENIED = "554 5.7.1 <x@far.test>: Relay access denied"
CASES: list[tuple[str, Client, Phase, str]] = [
    ("permit", Client(), Phase.RECIPIENT, "permit"),
    ("reject", Client(), Phase.RECIPIENT, "554 5.7.1 <x@far.test>: Recipient address rejected: Access denied"),
    ("reject", Client(), Phase.CLIENT, "554 5.7.1 <unknown[198.51.100.1]>: Client host rejected: Access denied"),
    ("reject", Client(), Phase.HELO, "554 5.7.1 <client.test>: Helo command rejected: Access denied"),
    ("defer", Client(), Phase.SENDER, "450 4.3.2 <a@b.test>: Sender address rejected: Try again later"),
    ("permit_mynetworks, reject", Client(client_address="192.0.2.7"), Phase.CLIENT, "permit"),
    ("permit_sasl_authenticated", Client(sasl_user="zs"), Phase.CLIENT, "permit"),
    ("permit_sasl_authenticated", Client(), Phase.CLIENT, "dunno"),
    ("reject_unauth_destination", Client(), Phase.RECIPIENT, RELAY_DENIED),
    ("reject_unauth_destination", Client(recipient="zs@dgtlinux.com"), Phase.RECIPIENT, "dunno"),
    ("permit_auth_destination", Client(recipient="r@relay.test"), Phase.RECIPIENT, "permit"),
    ("defer_unauth_destination", Client(), Phase.RECIPIENT, "454 4.7.1 <x@far.test>: Relay access denied"),
    ("reject_non_fqdn_sender", Client(sender="a@host"), Phase.SENDER,
     "504 5.5.2 <a@host>: Sender address rejected: need fully-qualified address"),
    ("reject_non_fqdn_sender", Client(sender=""), Phase.SENDER, "dunno"),
    ("reject_non_fqdn_recipient", Client(recipient="x"), Phase.RECIPIENT,
     "504 5.5.2 <x>: Recipient address rejected: need fully-qualified address"),
    ("reject_non_fqdn_helo_hostname", Client(helo="host"), Phase.HELO,
     "504 5.5.2 <host>: Helo command rejected: need fully-qualified hostname"),
    ("reject_non_fqdn_helo_hostname", Client(helo="[192.0.2.1]"), Phase.HELO, "dunno"),
    ("reject_invalid_helo_hostname", Client(helo="a?b"), Phase.HELO,
     "501 5.5.2 <a?b>: Helo command rejected: Invalid name"),
    ("reject_unauth_pipelining", Client(pipelined=True), Phase.DATA,
     "503 5.5.0 <DATA>: Data command rejected: Improper use of SMTP command pipelining"),
    ("reject_unlisted_recipient", Client(recipient="no@other.test"), Phase.RECIPIENT,
     "550 5.1.1 <no@other.test>: Recipient address rejected: User unknown in virtual mailbox table"),
    ("reject_unlisted_sender", Client(sender="no@dgtlinux.com"), Phase.SENDER,
     "550 5.1.0 <no@dgtlinux.com>: Sender address rejected: User unknown in local recipient table"),
    ("reject_plaintext_session", Client(), Phase.CLIENT, "450 4.7.1 Session encryption is required"),
    ("reject_multi_recipient_bounce", Client(sender="", recipient_count=2, where="DATA"), Phase.DATA,
     "550 5.5.3 <DATA>: Data command rejected: Multi-recipient bounce"),
    ("reject_unknown_client_hostname", Client(), Phase.CLIENT,
     "450 4.7.25 Client host rejected: cannot find your hostname, [198.51.100.1]"),
    ("check_sender_access inline:{ b.test=REJECT }", Client(), Phase.SENDER,
     "554 5.7.1 <a@b.test>: Sender address rejected: Access denied"),
    ("check_client_access inline:{ {198.51=450 4.7.9 go slow} }", Client(), Phase.CLIENT,
     "450 4.7.9 <unknown[198.51.100.1]>: Client host rejected: go slow"),
    ("check_recipient_access inline:{ far.test=OK }, reject", Client(), Phase.RECIPIENT, "permit"),
    ("check_recipient_access inline:{ far.test=DUNNO }, reject_unauth_destination", Client(), Phase.RECIPIENT,
     RELAY_DENIED),
]  # fmt: skip


@pytest.mark.parametrize("words, client, phase, expected", CASES)
def test_words(tmp_path: Path, words: str, client: Client, phase: Phase, expected: str) -> None:
    assert judge(tmp_path, words, client, phase) == expected


def test_warn_if_reject_only_warns(tmp_path: Path) -> None:
    client = Client()
    assert judge(tmp_path, "warn_if_reject reject_unauth_destination, permit", client) == "permit"
    assert [str(reply) for reply in client.rejected] == [RELAY_DENIED]


@pytest.mark.parametrize(
    "extra, message",
    [
        ("smtpd_client_restrictions = permit_everybody", "smtpd_client_restrictions: unknown smtpd restriction"),
        ("smtpd_helo_restrictions = check_helo_access", "smtpd_helo_restrictions: check_helo_access needs a table"),
        ("smtpd_data_restrictions = hash:/x", "smtpd_data_restrictions: 'hash:/x': say which look-up"),
        ("smtpd_relay_restrictions =\nsmtpd_recipient_restrictions = permit", "specify at least one working instance"),
        ("smtpd_relay_restrictions =\nsmtpd_recipient_restrictions = permit, reject", "at least one working instance"),
        ("smtpd_relay_restrictions =\nsmtpd_recipient_restrictions = warn_if_reject reject", "one working instance"),
        ("mynetworks = 300.1.1.1", "mynetworks:"),
        ("smtpd_tls_security_level = may\nsmtpd_tls_cert_file = none", "smtpd_tls_cert_file: TLS needs a certificate"),
        ("virtual_alias_maps = mysql:/x", "unsupported dictionary type"),
        ("smtpd_discard_ehlo_keywords = nonsense", "unknown EHLO keyword"),
        ("local_header_rewrite_clients = everybody", "unknown or unsupported: everybody"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_a_configuration_error(tmp_path: Path, extra: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r".*main\.cf.*") as caught:
        settings_of(tmp_path, extra + "\n")
    assert message in str(caught.value)


def test_a_restriction_class_may_keep_the_relay_closed(tmp_path: Path) -> None:
    extra = "smtpd_restriction_classes = closed\nclosed = reject_unauth_destination\n"
    settings_of(tmp_path, f"{extra}smtpd_relay_restrictions =\nsmtpd_recipient_restrictions = closed\n")


def test_a_list_out_of_a_table_judges_what_the_table_was_asked_for(tmp_path: Path) -> None:
    words = "check_sender_access inline:{ {b.test=reject} }"
    assert judge(tmp_path, words, Client(), Phase.RECIPIENT) == (
        "554 5.7.1 <a@b.test>: Sender address rejected: Access denied"
    )


def test_networks() -> None:
    networks = NetworkList(["!192.0.2.5", "192.0.2.0/24", "[2001:db8::]/32", "127.0.0.1"])
    assert networks.match("192.0.2.1") and networks.match("2001:db8::7") and networks.match("127.0.0.1")
    assert not networks.match("192.0.2.5") and not networks.match("unknown") and not networks.match("::1")
