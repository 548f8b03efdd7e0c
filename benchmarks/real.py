"""The real Postfix in a folder of its own, for comparison in the same minute on the same disk. Needs root."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import socket
import subprocess
import time
from pathlib import Path

MASTER_CF = """\
{listen} inet n - n - 100 smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""

MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {root}/queue
data_directory = {root}/data
maillog_file = {root}/maillog
maillog_file_prefixes = {root}
mydomain = bench.test
myhostname = mail.bench.test
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
virtual_mailbox_domains = bench.test
virtual_mailbox_base = {root}/mail
virtual_mailbox_maps = texthash:{root}/etc/vmailbox
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_minimum_uid = 1
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
"""


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def available() -> str | None:
    """None, or what is missing for a comparison with Postfix."""
    if os.geteuid() != 0:
        return "root"
    for tool in ("postfix", "smtp-source"):
        if shutil.which(tool) is None:
            return tool
    return None


def let_pass(folder: Path, *sockets: Path) -> None:
    """Let Postfix's own user pass through our folders down to `folder`, and use `sockets` in it."""
    for place in (folder, *folder.parents, *(parent for one in sockets for parent in one.parents)):
        if place.stat().st_uid == os.geteuid() and not place.stat().st_mode & 0o001:
            place.chmod(place.stat().st_mode | 0o011)
    for one in sockets:
        one.chmod(0o666)


def make_folders(root: Path) -> None:
    """`queue/` and `data/` of a Postfix, below a folder that its own user may pass."""
    for name in ("queue", "data"):
        (root / name).mkdir()
    os.chown(root / "data", pwd.getpwnam("postfix").pw_uid, grp.getgrnam("postfix").gr_gid)
    let_pass(root)


class Postfix:
    """A Postfix that accepts for `<user>@bench.test` and delivers to Maildirs; started and stopped here."""

    def __init__(self, root: Path, users: list[str], extra: str = "") -> None:
        """`extra`: further lines of main.cf."""
        self.root = root
        self.port = free_port()
        owner = pwd.getpwnam("nobody")
        for name in ("etc", "mail"):
            (root / name).mkdir(parents=True)
        make_folders(root)
        os.chown(root / "mail", owner.pw_uid, owner.pw_gid)
        for user in users:
            self._maildir(root / "mail" / user, owner.pw_uid, owner.pw_gid)
        etc = root / "etc"
        (etc / "vmailbox").write_text("".join(f"{user}@bench.test {user}/\n" for user in users))
        (etc / "main.cf").write_text(MAIN_CF.format(root=root, uid=owner.pw_uid, gid=owner.pw_gid) + extra)
        (etc / "master.cf").write_text(MASTER_CF.format(listen=f"127.0.0.1:{self.port}"))

    @staticmethod
    def _maildir(path: Path, uid: int, gid: int) -> None:
        for folder in (path, path / "new", path / "cur", path / "tmp"):
            folder.mkdir()
            os.chown(folder, uid, gid)

    def __enter__(self) -> Postfix:
        subprocess.run(["postfix", "-c", str(self.root / "etc"), "start"], check=True, capture_output=True)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return self
        raise RuntimeError("Postfix does not answer")

    def __exit__(self, *_: object) -> None:
        subprocess.run(["postfix", "-c", str(self.root / "etc"), "stop"], check=False, capture_output=True)

    def maildirs(self) -> list[Path]:
        return sorted((self.root / "mail").iterdir())
