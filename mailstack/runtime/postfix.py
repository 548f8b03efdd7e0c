"""The machine's own Postfix in the place of our MTA: its queue directory, its tables, its commands.

Everything lies in the project's folder: neither /etc/postfix nor /var/spool/postfix is looked at or touched.
That folder is for root's eyes only. Postfix's daemons, which are not root, get along with it because they
find everything from the queue directory, in which they start (master(8), and chroot in master.cf).
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import pwd
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from mailstack.runtime import commands, native
from mailstack.runtime.errors import MachineLacks, RuntimeFailure

MAPS = ("vmailbox", "virtual", "relocated", "transport")
"""Tables that postmap(1) makes indexes of; the index of `aliases` is postalias(1)'s."""
INDEX = ".db"
GROUP = "postdrop"
_PRIVATE = (
    "active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "lib", "private",
    "saved", "trace",
)  # fmt: skip
_SHARED = {"maildrop": 0o730, "public": 0o710}
_KILL_WAIT = 10.0


def make_spool(spool: Path) -> None:
    """Make the queue directory with the folders, owners and modes of postfix-files(5).

    Raises `MachineLacks` where Postfix's user or group is missing.
    """
    try:
        owner, group = pwd.getpwnam(native.MAIL_OWNER).pw_uid, grp.getgrnam(GROUP).gr_gid
    except KeyError as error:
        raise MachineLacks(
            f"mta.engine is postfix, and this machine lacks its user or group: {error.args[0]}",
            hint="install postfix (Debian: apt-get install postfix), or write engine: python",
        ) from None
    folders = dict.fromkeys(("", "pid", "etc"), (0, 0, 0o755))
    folders |= dict.fromkeys(_PRIVATE, (owner, 0, 0o700))
    folders |= {name: (owner, group, mode) for name, mode in _SHARED.items()}
    for name, (uid, gid, mode) in folders.items():
        folder = spool / name
        folder.mkdir(exist_ok=True)
        os.chown(folder, uid, gid)
        folder.chmod(mode)


def index(config: Path, env: Mapping[str, str]) -> None:
    """Make the indexes of the tables anew. Raises `RuntimeFailure` with what the command says.

    Each one is put in place as a whole: a daemon sees that the one it has open is gone, and asks the new one
    from its next client on. None is ever seen half written, or taken for the old one.
    """
    with tempfile.TemporaryDirectory(dir=config) as name:
        folder = Path(name)
        for table in (*MAPS, "aliases"):
            shutil.copyfile(config / table, folder / table)
        run(("postmap", "-c", str(config), *(f"hash:{folder / table}" for table in MAPS)), env)
        run(("postalias", "-c", str(config), f"hash:{folder / 'aliases'}"), env)
        for made in folder.glob(f"*{INDEX}"):
            made.rename(config / made.name)


def drop_indexes(config: Path) -> None:
    """Remove the indexes: our own MTA reads the tables, and would read an index that lies beside one."""
    for table in (*MAPS, "aliases"):
        (config / f"{table}{INDEX}").unlink(missing_ok=True)


def run(command: Sequence[str], env: Mapping[str, str]) -> str:
    """What one of Postfix's commands prints. Raises `RuntimeFailure` with its complaint."""
    done = commands.run(command[0], [program(command[0], env), *command[1:]], env)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise RuntimeFailure(f"{command[0]}: {said or f'status {done.returncode}'}")
    return done.stdout.decode(errors="replace").strip()


def program(name: str, env: Mapping[str, str]) -> str:
    """Where a command is; its bare name when it is not found."""
    path = f"{env.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin:/usr/bin"
    return shutil.which(name, path=path) or name


def end_master(spool: Path) -> bool:
    """End a master(8) that its parent has not ended, with its daemons; whether there was one.

    Its lock tells: as long as it is held, the process id in the file is the master's.
    """
    try:
        file = open(spool / "pid" / "master.pid", "rb")  # noqa: SIM115
    except OSError:
        return False
    with file:
        deadline = time.monotonic() + _KILL_WAIT
        found = False
        while not _lock(file.fileno()) and time.monotonic() < deadline:
            file.seek(0)
            text = file.read().strip()
            if not found and text.isdigit():
                found = True
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(int(text), signal.SIGKILL)
            time.sleep(0.01)
        return found


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
