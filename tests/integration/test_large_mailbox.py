"""Large messages are read, searched and stored without being held in memory, whatever their shape;
`benchmarks.large_mailbox` measures every way at 100 MiB."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.large_mailbox import SHAPES, Service, measure
from benchmarks.large_rig import MIB

SIZE = 24 * MIB
LIMIT = 8.0
"""MiB that the service may grow by."""
LIMITS = {"parts": 16.0, "nested": 20.0}
"""Ten thousand parts have to be told of."""
WAYS = {
    "text": (
        "body",
        "text",
        "partial",
        "tls:body",
        "deflate:body",
        "pop3-retr",
        "append",
        "lmtp-five",
        "copy",
    ),
    "line": ("1", "binary", "pop3-top-all", "append-binary"),
    "non_ascii": ("search-text",),
    "attachment": ("binary", "binary-all", "structure", "search-text"),
    "encoded": ("preview", "search-words"),
    "quoted": ("binary", "search-body"),
    "header": ("header", "fields", "envelope", "search-header", "sort"),
    "headers": ("not", "envelope", "thread"),
    "subject": ("envelope", "search-subject"),
    "recipients": ("envelope", "pop3-top"),
    "part_header": ("1-mime", "structure"),
    "inner": ("structure", "1-fields"),
    "parts": ("structure", "search-body"),
    "nested": ("size", "search-found"),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_large_message_stays_on_disk(shape: str, tmp_path: Path) -> None:
    service = Service(tmp_path, shape, SIZE)
    grown = {way: measure(service, way) for way in WAYS[shape]}
    assert max(grown.values()) <= LIMITS.get(shape, LIMIT), grown
