"""Fixtures of the command line's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailstack.runtime import api
from tests.unit.cli.support import SPEC, FakeProject, Shell


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    path = tmp_path / "work"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


@pytest.fixture
def shell(folder: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


@pytest.fixture
def project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakeProject:
    """What every command finds, whichever project it asks for; `calls` begins with how it was asked for."""
    (folder / "mailstack.yaml").write_text(SPEC)
    fake = FakeProject()

    def open_project(spec_path: Path | None, name: str | None, *, runtime: str = "auto") -> FakeProject:
        spec = spec_path.name if spec_path else None
        fake.calls.append(f"open {spec} {name} {runtime}")
        if name is not None:
            fake.name = name
        return fake

    monkeypatch.setattr(api, "open_project", open_project)
    return fake
