"""A mail domain for the test session, and a customer's mailbox to look into."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SPEC = Path(__file__).with_name("mailstack.yaml")
PROJECT = f"signup-{os.getpid()}"  # runs side by side do not meet


def mailstack(*words: str) -> dict[str, Any]:
    """What a command says, as in docs/cli.md: `status`, `data`, `error`."""
    command = ["mailstack", "-f", str(SPEC), "-p", PROJECT, "-o", "json", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    return json.loads(done.stdout)


@pytest.fixture(scope="session", autouse=True)
def mail_domain() -> Iterator[None]:
    """Up in a second, gone at the end; the application finds it in its environment."""
    try:
        up = mailstack("up")
        assert up["status"] == "ok", up["error"]
        os.environ.update(mailstack("env")["data"]["env"])
        yield
    finally:
        mailstack("down", "--volumes")


class Mailbox:
    """What a user gets from now on."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.cursor = mailstack("mail", "ls", user)["data"]["cursor"]

    def next(self, subject: str, timeout: str = "20s") -> dict[str, Any]:
        """The next message with this subject: `from`, `headers`, `text`, `html`, `attachments` and so on."""
        found = mailstack(
            "mail", "wait", self.user, "--after", self.cursor, "--subject", subject, "--timeout", timeout
        )
        assert found["status"] == "ok", found["error"]
        self.cursor = found["data"]["cursor"]
        return found["data"]

    def stays_empty(self, timeout: str = "1s") -> bool:
        """Whether nothing at all comes within this time."""
        words = ("mail", "wait", self.user, "--after", self.cursor, "--none", "--timeout", timeout)
        return mailstack(*words)["status"] == "ok"


@pytest.fixture
def alice() -> Mailbox:
    return Mailbox("alice@shop.test")


@pytest.fixture
def noreply() -> Mailbox:
    return Mailbox("noreply@shop.test")
