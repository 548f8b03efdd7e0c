"""Mailboxes in and out of files, verified and indexed anew, while the service runs: in each runtime."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailstack.cli.main import main
from mailstack.runtime.api import Project
from tests.integration.conftest import Projects

MBOX = b"""\
From anna@alpha.test Sat Nov  1 10:00:00 2025
Subject: one
Status: RO
X-Keywords: $Label1

>From the beginning

From anna@alpha.test Sun Nov  2 10:00:00 2025
Subject: two
Content-Type: multipart/mixed; boundary=b
X-Status: F

--b
Content-Type: text/plain

part
--b--

"""
Shell = Callable[..., dict[str, Any]]


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    """Runs `mailstack -o json …`; the object that it prints, whose status is `status`."""

    def run(project: Project, *args: str, status: int = 0) -> dict[str, Any]:
        capsys.readouterr()
        assert main(["-p", project.name, "-o", "json", *args]) == status, capsys.readouterr()
        printed: dict[str, Any] = json.loads(capsys.readouterr().out)
        for message in printed["data"].get("messages", []) if args[1] == "ls" else []:
            message["flags"] = sorted(set(message["flags"]) - {"\\Recent"})  # a session's own
        return printed

    return run


def test_files_and_back(projects: Projects, tmp_path: Path, shell: Shell) -> None:
    project = projects.open()
    project.up()
    source = tmp_path / "in.mbox"
    source.write_bytes(MBOX)
    assert shell(project, "mail", "import", "zs", str(source))["data"]["imported"] == 2
    again = shell(project, "mail", "import", "zs", str(source), "--skip-duplicates")["data"]
    assert (again["imported"], again["skipped"]) == (0, 2)
    shell(project, "mail", "import", "zs", str(source), "--mailbox", "Old.Grüße")
    listed = shell(project, "mail", "ls", "zs")["data"]
    assert [(m["subject"], m["flags"], m["internalDate"]) for m in listed["messages"]] == [
        ("one", ["$Label1", "\\Seen"], "2025-11-01T10:00:00+00:00"),
        ("two", ["\\Flagged"], "2025-11-02T10:00:00+00:00"),
    ]

    maildir = tmp_path / "md"
    assert shell(project, "mail", "export", "zs", str(maildir), "--all")["data"]["exported"] == 4
    refused = shell(project, "mail", "export", "zs", str(maildir), "--all", status=1)
    assert refused["error"]["code"] == "exists"
    more = shell(project, "mail", "export", "zs", str(maildir), "--all", "--skip-duplicates")["data"]
    assert (more["exported"], more["skipped"]) == (0, 4)
    carried = shell(project, "mail", "import", "anna", str(maildir))["data"]
    assert carried["mailboxes"] == {"INBOX": 2, "Old.Grüße": 2}
    theirs = shell(project, "mail", "ls", "anna", "--mailbox", "Old.Grüße")["data"]
    kept = ("subject", "flags", "internalDate", "size")
    assert [[m[key] for key in kept] for m in theirs["messages"]] == [
        [m[key] for key in kept] for m in listed["messages"]
    ]
    shell(project, "mail", "export", "anna", str(tmp_path / "out.mbox"), "--mailbox", "Old.Grüße")
    assert (tmp_path / "out.mbox").read_bytes() == MBOX.replace(
        b"X-Status: F", b"Status: O\nX-Status: F"
    ).replace(b"From anna@alpha.test", b"From MAILER-DAEMON")
    checked = shell(project, "mail", "verify", "anna")["data"]
    assert (checked["messages"], checked["problems"]) == (4, [])
    made = shell(project, "mail", "reindex", "anna", "--mailbox", "Old.Grüße")["data"]
    assert made["mailboxes"] == {"Old.Grüße": 2}
    assert shell(project, "mail", "reindex", "anna", "--mailbox", "nix", status=1)["error"][
        "message"
    ].endswith("no such mailbox")


def test_damage_is_told_and_an_index_made_anew(
    process_projects: Projects, tmp_path: Path, shell: Shell
) -> None:
    project = process_projects.open()
    project.up()
    source = tmp_path / "in.mbox"
    source.write_bytes(MBOX)
    shell(project, "mail", "import", "zs", str(source))
    before = shell(project, "mail", "ls", "zs")["data"]
    box = project.state_dir / "mail" / "alpha.test" / "zs"
    shell(project, "mail", "reindex", "zs")
    index = box / "mailstack.index"
    index.write_bytes(index.read_bytes()[:-9] + b"x" * 9)
    two = next(path for path in (box / "cur").iterdir() if "F" in path.name.partition(":2,")[2])
    date = two.stat().st_mtime
    with two.open("ab") as file:
        file.write(b"more\n")
    two.rename(two.with_name(two.name + "z"))
    found = shell(project, "mail", "verify", "zs", status=1)
    assert found["error"]["code"] == "mailbox-damaged"
    said = [(one["mailbox"], one["uid"], one["problem"]) for one in found["data"]["problems"]]
    texts = [text for mailbox, _, text in said if mailbox == "INBOX"]
    assert any("its name says S=" in text for text in texts), said
    assert any("what the letter z means" in text for text in texts), said
    assert any("mailstack.index: its checksum is wrong" in text for text in texts), said
    assert any(uid == 2 and "RFC822.SIZE" in text for _, uid, text in said), said

    with two.with_name(two.name + "z").open("r+b") as file:
        file.truncate(os.path.getsize(file.fileno()) - 5)
    os.utime(two.with_name(two.name + "z"), (date, date))
    two.with_name(two.name + "z").rename(two)
    assert shell(project, "mail", "reindex", "zs")["data"]["mailboxes"]["INBOX"] == 2
    assert shell(project, "mail", "verify", "zs")["data"]["problems"] == []
    after = shell(project, "mail", "ls", "zs")["data"]
    assert after == before, "messages, UIDs, flags and cursor are what they were"


def test_standard_input_and_output(
    process_projects: Projects, monkeypatch: pytest.MonkeyPatch, capfdbinary: Any
) -> None:
    project = process_projects.open()
    project.up()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Subject: \xe9\n\nbody")))
    assert main(["-p", project.name, "mail", "import", "zs", "-"]) == 0
    capfdbinary.readouterr()
    assert main(["-p", project.name, "mail", "export", "zs", "-"]) == 0
    out, err = capfdbinary.readouterr()
    assert out.endswith(b"\nSubject: \xe9\nStatus: O\n\nbody\n\n")
    assert err == b"1 message exported\n"
    assert main(["-p", project.name, "mail", "show", "zs", "--raw"]) == 0
    assert capfdbinary.readouterr()[0] == b"Subject: \xe9\n\nbody\n"
    assert main(["-p", project.name, "-o", "json", "mail", "export", "zs", "-"]) == 2


DOVECOT = """\
base_dir = {folder}/run
state_dir = {folder}/state
log_path = /dev/stderr
ssl = no
first_valid_uid = 0
mail_location = maildir:~/
userdb {{
  driver = static
  args = uid=root gid=root home={folder}/home/%u
}}
"""


@pytest.mark.real
@pytest.mark.skipif(shutil.which("doveadm") is None, reason="doveadm is missing")
@pytest.mark.parametrize(
    ("user", "mailbox", "status"),
    [("zs@alpha.test", "INBOX", 0), ("nobody@alpha.test", "INBOX", 67), ("zs@alpha.test", "Nix", 68)],
)
def test_dovecots_own_doveadm(
    user: str, mailbox: str, status: int, process_projects: Projects, tmp_path: Path
) -> None:
    project = process_projects.open()
    project.up()
    rendered = project.rendered()["dovecot/conf.d/10-master.conf"].decode()
    found = re.search(r"unix_listener (\S+/doveadm-server)", rendered)
    assert found is not None
    (tmp_path / "dovecot.conf").write_text(DOVECOT.format(folder=tmp_path))
    command = [
        "doveadm",
        "-c",
        str(tmp_path / "dovecot.conf"),
        "force-resync",
        "-S",
        found[1],
        "-u",
        user,
        mailbox,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == status, done.stderr
    if status == 0:
        assert (project.state_dir / "mail" / "alpha.test" / "zs" / "mailstack.index").exists()
