"""The real Dovecot's IMAP process on a Maildir, spoken to over a pipe: no daemon, no port.

It will not work for root, so that root lets it work as another user (in a folder that this user may reach).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

BINARY = "/usr/lib/dovecot/imap"
NOBODY = 65534
CONFIG = """\
base_dir = {run}
state_dir = {run}
log_path = {root}/log
ssl = no
protocols = imap
mail_location = maildir:{root}/mail
first_valid_uid = 0
first_valid_gid = 0
mail_uid = {uid}
mail_gid = {uid}
namespace inbox {{
  inbox = yes
}}
"""
_LITERAL = re.compile(rb"\{(\d+)\}\r\n\Z")


@contextmanager
def maildir() -> Iterator[Path]:
    """A folder with a Dovecot configuration; the Maildir is `mail` in it."""
    root = Path(tempfile.mkdtemp(prefix="mailstack-dovecot-"))
    try:
        root.chmod(0o755)
        (root / "run").mkdir()
        uid = os.getuid() or NOBODY
        (root / "log").touch(0o666)
        (root / "log").chmod(0o666)
        (root / "dovecot.conf").write_text(CONFIG.format(root=root, run=root / "run", uid=uid))
        for name in ("cur", "new", "tmp"):
            (root / "mail" / name).mkdir(parents=True)
        yield root
    finally:
        shutil.rmtree(root)


def ask(root: Path, commands: Sequence[bytes], user: str = "zs") -> list[bytes]:
    """Run commands (without tags); each one's untagged and tagged answers, literals included."""
    if os.getuid() == 0:
        for path in (root / "run", root / "mail", *(root / "mail").rglob("*")):
            os.chown(path, NOBODY, NOBODY)
    environment = {"USER": user, "HOME": str(root)}
    with subprocess.Popen(
        [BINARY, "-c", str(root / "dovecot.conf")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"* PREAUTH")
        answers = []
        for number, command in enumerate(commands):
            tag = b"t%d" % number
            process.stdin.write(tag + b" " + command + b"\r\n")
            process.stdin.flush()
            answer = b""
            at_start = True
            while True:
                line = process.stdout.readline()
                assert line, (root / "log").read_text()
                answer += line
                found = _LITERAL.search(line)
                if found:
                    answer += process.stdout.read(int(found[1]))
                elif at_start and line.startswith(tag + b" "):
                    break
                at_start = not found
            answers.append(answer)
        process.stdin.close()
        process.wait(10)
    return answers
