"""Every parameter that the real Postfix has either works here or is refused with a reason."""

from __future__ import annotations

import subprocess

import pytest

from mailstack.postfix_parameters import HONOURED, parameter
from mailstack.postfix_refusals import REFUSED

pytestmark = pytest.mark.real
TRANSPORTS = frozenset(
    ("smtp", "lmtp", "relay", "local", "virtual", "error", "retry", "bsmtp", "ifmail", "maildrop", "mailman",
     "scalemail-backend", "uucp")
)  # fmt: skip
"""Those of Debian's master.cf, for which postconf lists parameters of their own."""


def test_every_parameter_works_or_has_a_reason() -> None:
    text = subprocess.run(["postconf", "-d"], capture_output=True, text=True, check=True).stdout
    names = {line.partition(" =")[0] for line in text.splitlines() if " =" in line}
    assert len(names) > 900
    works = {name for name in names if (found := parameter(name, TRANSPORTS)) is not None and found.honoured}
    assert not works & REFUSED.keys()
    assert names - works == REFUSED.keys() & names
    assert not REFUSED.keys() & HONOURED
