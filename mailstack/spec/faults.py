"""A faults file of a spec, read as the name server will read it (docs/dns.md, "Wrong on purpose")."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mailstack.spec.fields import printable


def problem(text: str) -> tuple[int, str] | None:
    """What is wrong with a faults file's content: the line (0: all of it) and the message; None: nothing."""
    from mailstack.config.errors import ConfigError
    from mailstack.config.named.faults import load_faults

    with tempfile.TemporaryDirectory(prefix="mailstack-") as folder:
        path = Path(folder) / "faults.conf"
        path.write_text(text, encoding="utf-8")
        try:
            if not load_faults(path):
                return 0, 'there is no fault in it; write fault "NAME" { answer servfail; };'
        except ConfigError as error:
            return error.line, printable(error.message.replace(f"{folder}/", ""))
    return None
