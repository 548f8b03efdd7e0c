"""The examples are rendered as they lie in the repository, by the command a reader would type."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.trees import EXAMPLES, REPOSITORY
from tests.unit.cli.support import Shell


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_can_be_rendered(
    shell: Shell, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APP_MAIL_PASSWORD", "what the CI service keeps")
    spec = REPOSITORY / "examples" / name / "mailstack.yaml"
    ran = shell("-f", str(spec), "render", "--out", str(tmp_path / "tree"))
    assert ran.status == 0, ran.err
    assert (tmp_path / "tree" / "postfix" / "main.cf").is_file()
    assert (tmp_path / "tree" / "dovecot" / "dovecot.conf").is_file()
    assert (tmp_path / "tree" / "bind" / "named.conf").is_file()
