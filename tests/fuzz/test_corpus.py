"""Every input that the fuzzer has kept still holds what `targets` promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_kept_inputs(name: str) -> None:
    files = sorted((CORPUS / name).iterdir())
    assert files, f"no corpus for {name}"
    for file in files:
        try:
            TARGETS[name](file.read_bytes())
        except BaseException as error:
            raise AssertionError(f"{file.name}: {type(error).__name__}: {error}") from error


def test_every_folder_has_a_target() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} == set(TARGETS)
