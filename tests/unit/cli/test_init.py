"""`mailstack init` and `check`."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from mailstack.spec import load
from tests.unit.cli.support import Shell


def test_init_writes_a_spec_that_is_valid_and_minds_what_is_there(shell: Shell, folder: Path) -> None:
    (folder / ".gitignore").write_text("*.log")
    ran = shell("init")
    assert ran.status == 0
    spec = folder / "mailstack.yaml"
    stack = load(spec)
    assert [address for address, _ in stack.users()] == ["alice@mail.test", "bob@mail.test"]
    assert spec.read_text().startswith("# yaml-language-server: $schema=./mailstack.schema.json\n")
    assert json.loads((folder / "mailstack.schema.json").read_text())["title"] == "mailstack.yaml"
    ignored = (folder / ".gitignore").read_text()
    assert ignored.startswith("*.log\n")
    assert "\n/mailstack.schema.json\n" in ignored

    spec.write_text(spec.read_text() + "# mine\n")
    again = shell("init", "-o", "json")
    assert (again.status, again.json["error"]["code"]) == (1, "exists")
    assert spec.read_text().endswith("# mine\n")
    assert shell("init", "--force").status == 0
    assert not spec.read_text().endswith("# mine\n")
    assert (folder / ".gitignore").read_text() == ignored
    assert sorted(path.name for path in folder.iterdir()) == [
        ".gitignore",
        "mailstack.schema.json",
        "mailstack.yaml",
    ]


def test_init_elsewhere_with_names(shell: Shell, folder: Path) -> None:
    ran = shell(
        "init", "new/place", "--domain", "dgtlinux.com", "--user", "zs", "--user", "on", "-p", "1x", "-o", "json"
    )  # fmt: skip
    assert ran.status == 0, ran.out
    assert ran.json["data"]["users"] == ["zs@dgtlinux.com", "on@dgtlinux.com"]
    stack = load(folder / "new" / "place" / "mailstack.yaml")
    assert (stack.project, stack.primary) == ("1x", "dgtlinux.com")


@pytest.mark.parametrize(
    "args",
    [
        ["--domain", "x"],
        ["--domain", 'a"b.test'],
        ["--user", "a b"],
        ["--user", "a\n  b: {}"],
        ["-p", "a\nb"],
    ],
)
def test_init_refuses_names_that_check_would_refuse(args: list[str], shell: Shell, folder: Path) -> None:
    ran = shell("init", *args, "-o", "json")
    assert (ran.status, ran.json["error"]["code"]) == (2, "usage")
    assert list(folder.iterdir()) == []


def test_init_does_not_follow_a_dangling_link(shell: Shell, folder: Path) -> None:
    (folder / "mailstack.yaml").symlink_to(folder / "nowhere")
    assert shell("init").status == 1
    assert not (folder / "nowhere").exists()


def test_init_without_permission(shell: Shell, folder: Path) -> None:
    (folder / "file").write_text("")
    ran = shell("init", "file/below")
    assert ran.status == 1
    assert "file" in ran.err
    assert "Traceback" not in ran.err


def test_check_reports_every_problem_at_its_place(shell: Shell, folder: Path) -> None:
    (folder / "mailstack.yaml").write_text(
        "domains:\n  mail.test:\n    users: {a: }\n    usrs: {}\ntsl: {}\n"
    )
    text = shell("check")
    assert (text.status, text.out) == (2, "")
    lines = text.err.splitlines()
    assert lines[0].startswith("mailstack.yaml:4:5: domains.mail.test.usrs: ")
    assert lines[1].startswith("mailstack.yaml:5:1: tsl: ")
    assert "users" in lines[0]
    assert "tls" in lines[1]
    told = shell("check", "-o", "json").json
    assert told["error"]["code"] == "spec-invalid"
    assert [(p["line"], p["column"], p["field"]) for p in told["data"]["problems"]] == [
        (4, 5, "domains.mail.test.usrs"),
        (5, 1, "tsl"),
    ]


def test_check_says_that_all_is_well(shell: Shell, folder: Path) -> None:
    shell("init")
    ran = shell("check")
    assert (ran.status, ran.out) == (0, "mailstack.yaml: ok (1 domain, 2 users)\n")
    assert shell("check", "-o", "json").json["data"]["problems"] == []


def test_a_spec_that_is_not_there(shell: Shell) -> None:
    assert shell("check").status == 2
    assert "no mailstack.yaml here" in shell("check").err
    assert "other.yaml is not there" in shell("check", "-f", "other.yaml").err
    assert "is a folder" in shell("check", "-f", "/").err


def test_schema(shell: Shell) -> None:
    schema = json.loads(shell("schema").out)
    assert schema == shell("schema", "-o", "json").json["data"]
    assert "domains" in schema["properties"]


def test_native_tools_are_asked_about_the_rendered_tree(
    shell: Shell, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tools that play a part: one accepts, one complains, one fails, one is not installed."""
    tools = folder / "bin"
    tools.mkdir()
    scripts = {
        "postconf": 'test -f "$2/main.cf" || test -f "$3/main.cf"',
        "doveconf": 'echo "doveconf: Warning: careful" >&2',
        "named-checkconf": 'echo "$2:3: unknown option"; exit 1',
    }
    for name, script in scripts.items():
        path = tools / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr("mailstack.cli.native.PLACES", "")
    monkeypatch.setenv("PATH", str(tools))
    shell("init")
    ran = shell("check", "--native", "-o", "json")
    assert ran.status == 1
    found = {report["tool"]: (report["status"], report["output"]) for report in ran.json["data"]["native"]}
    assert found["doveconf"] == ("warned", ["doveconf: Warning: careful"])
    assert found["named-checkconf"] == ("refused", ["bind/named.conf:3: unknown option"])
    assert found["postconf"] == ("accepted", [])
    (tools / "named-checkconf").unlink()
    again = shell("check", "--native")
    assert again.status == 0
    assert "warning: named-checkconf is not installed" in again.err
    assert "postconf: accepted" in again.out
