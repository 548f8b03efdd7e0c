"""Session ids as Dovecot prints them (`session=<…>`): short, unique on the machine, safe in a log line."""

from __future__ import annotations

import itertools
import os
from base64 import b64encode

_BASE = os.urandom(6)
_numbers = itertools.count(1)


def session_id() -> str:
    """Sixteen characters, different every time."""
    return b64encode(_BASE + next(_numbers).to_bytes(6, "big")).decode()
