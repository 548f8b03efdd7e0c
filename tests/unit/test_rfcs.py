"""docs/rfcs.md is true: what the code cites stands there, what stands there exists and is cited."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
CITATION = re.compile(r"\bRFCs? ?(\d{3,5})\b")


class Row(NamedTuple):
    number: str
    title: str
    kept: str
    code: list[str]
    tests: list[str]


def rows() -> list[Row]:
    found = []
    for line in (ROOT / "docs" / "rfcs.md").read_text().splitlines():
        if line.startswith("| RFC ") and not line.startswith("| RFC |"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            number, title, kept, code, tests = cells
            found.append(
                Row(
                    number.removeprefix("RFC "),
                    title,
                    kept,
                    re.findall(r"`(.+?)`", code),
                    re.findall(r"`(.+?)`", tests),
                )
            )
    return found


def cited(path: Path) -> set[str]:
    files = [path] if path.is_file() else path.rglob("*.py")
    return {number for file in files for number in CITATION.findall(file.read_text())}


def test_what_the_code_cites_is_listed() -> None:
    missing = cited(ROOT / "mailstack") - {row.number for row in rows()}
    assert not missing, f"docs/rfcs.md lacks RFC {', '.join(sorted(missing))}"


def test_no_standard_stands_twice() -> None:
    numbers = [row.number for row in rows()]
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.number)
def test_row(row: Row) -> None:
    assert re.match(r"(Yes|Partial|No)\b", row.kept), row.kept
    for path in row.code + row.tests:
        assert (ROOT / path).exists(), path
    if row.kept.startswith("No"):
        return
    assert row.code and row.tests, "what is kept has code and tests"
    assert any(row.number in cited(ROOT / path) for path in row.code), "the code does not cite it"
