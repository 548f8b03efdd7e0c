"""What all tests share: in CI nothing may be skipped, and no test touches the user's own state folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

_skipped: list[str] = []


def pytest_configure() -> None:
    """How long an example of hypothesis takes depends on what else the machine does: 200 ms are no limit here."""
    from hypothesis import settings

    settings.register_profile("patient", settings(), deadline=None)
    settings.load_profile("patient")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _skipped.append(f"{report.nodeid}: {reason}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A skip in CI means that the machine lacks something a user would have: that is a failure."""
    if os.environ.get("CI") == "true" and _skipped and not hasattr(session.config, "workerinput"):
        print("\nskipped in CI, which counts as failed:")
        for line in _skipped:
            print(f"  {line}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def _own_state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Projects of a test live below its own temporary folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("MAILSTACK_FILE", "MAILSTACK_PROJECT", "MAILSTACK_RUNTIME"):
        monkeypatch.delenv(name, raising=False)
    yield
