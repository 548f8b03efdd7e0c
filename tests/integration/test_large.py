"""Large messages pass through without being held in memory; `benchmarks.large` measures every way at 100 MiB."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import large
from benchmarks.large_rig import MIB

SIZE = 24 * MIB
LIMIT = 8.0
"""MiB that any process may grow by."""
AS_ROOT = ("command", "pipe-line", "bounce", "local")


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "name",
    [
        *(
            "bdat",
            "bdat-small",
            "line",
            "headers",
            "header-line",
            "checks-line",
            "checks-mime",
            "slow-maps",
            "milter",
            "proxy-filter",
        ),
        *("sendmail-line", "lmtp", "smtp", "seven", "generic", "virtual", "mbox-line", "forward"),
        *(
            pytest.param(name, marks=pytest.mark.skipif(os.geteuid() != 0, reason="needs root"))
            for name in AS_ROOT
        ),
    ],
)
def test_a_large_message_stays_on_disk(name: str, tmp_path: Path) -> None:
    # Who is somebody else, in the name of aliases, has to get to his files.
    grown = large.measure(name, SIZE, None if name in AS_ROOT else str(tmp_path))
    assert max(grown.values()) <= LIMIT, grown


@pytest.mark.timeout(120)
def test_many_large_messages_at_once(tmp_path: Path) -> None:
    """Ten of them, which would be 240 MiB."""
    grown = large.measure("many", SIZE, str(tmp_path), 10)
    assert max(grown.values()) <= 3 * LIMIT, grown
