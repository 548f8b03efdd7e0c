"""Against the real doveconf: the settings table is whole, and its defaults are Dovecot 2.3's."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from mailstack.dovecot_settings import SETTINGS

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("doveconf") is None, reason="doveconf is not installed"),
]
COMPUTED = {"login_greeting": "Debian has its name in there"}


def test_every_setting_stands_in_the_table_with_its_default() -> None:
    done = subprocess.run(["doveconf", "-d"], capture_output=True, text=True, check=True)
    found = dict(re.findall(r"^(\w+) = ?(.*)$", done.stdout, re.MULTILINE))
    assert len(found) > 250
    assert found.keys() == SETTINGS.keys()
    for name in found.keys() - COMPUTED.keys():
        assert SETTINGS[name].default == found[name].strip('"').strip(), name
