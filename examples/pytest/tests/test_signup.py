from __future__ import annotations

import smtplib

import pytest
from conftest import Mailbox
from signup import ask_for_confirmation


def test_a_customer_gets_the_link(alice: Mailbox) -> None:
    ask_for_confirmation("alice@shop.test", "4711")
    message = alice.next("Confirm your address")
    assert message["from"] == "noreply@shop.test"
    assert "https://shop.test/confirm/4711" in message["text"]


def test_a_customer_gets_one_message_only(alice: Mailbox) -> None:
    ask_for_confirmation("alice@shop.test", "4712")
    alice.next("Confirm your address")
    assert alice.stays_empty()


def test_an_address_that_does_not_exist_is_refused() -> None:
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        ask_for_confirmation("nobody@shop.test", "4713")


def test_mail_for_a_domain_that_does_not_exist_comes_back(noreply: Mailbox) -> None:
    """The application does not hear of it; the mailbox that it sends from does."""
    ask_for_confirmation("customer@nowhere.shop.test", "4714")
    assert "<customer@nowhere.shop.test>" in noreply.next("Undelivered Mail")["text"]
