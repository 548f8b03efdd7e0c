"""What a project leaves on this machine: its state folder, its lock, its record and its secrets.

    $XDG_STATE_HOME/mailstack/<project>/      0700
        rendered/ tls/ run/ log/ queue/ mail/ dns/
        state.json      what is deployed: runtime, addresses, ports, digests, zone serials
        secrets.json    0600: generated passwords, the passwords in use, the salt's secret

Both files are replaced as a whole, so a reader sees the old or the new one. Whoever changes a project holds
its lock (`flock` on the folder itself, so that no lock file is left behind and a dead holder holds nothing);
whoever chooses addresses or ports holds the lock of the parent folder meanwhile.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mailstack.runtime.errors import Locked, MachineLacks, NoPrivilege, RuntimeFailure, UsageProblem
from mailstack.runtime.model import RuntimeKind

SCHEMA = 1
FOLDERS = ("rendered", "tls", "run", "log", "queue", "mail", "dns")
PROJECT_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
SOCKET_BASE_LIMIT = 70
"""Octets of a folder's path under which sockets fit in `sun_path` (108 octets; the longest name has 36)."""
_POLL = 0.02


@dataclass(frozen=True, slots=True)
class Deployed:
    """What one service was started from: digests by which drift is found."""

    shape: Mapping[str, str]
    """What is outside the files (`listeners`, `image`, `limits` …) -> its digest or text."""
    files: Mapping[str, str]
    """Path in the rendered tree -> sha256 hex."""


@dataclass(frozen=True, slots=True)
class Record:
    """`state.json`. Every field has the value that the last successful (or running) `up` gave it."""

    project: str
    spec: str | None = None
    spec_stamp: str = ""
    """Which version of that file gave the project its name; empty when the name was given otherwise."""
    docker: bool = False
    """It has been up in Docker, so that volumes may be left there."""
    runtime: RuntimeKind | None = None
    """Of the stack that is up; None after `down`."""
    network: str = ""
    addresses: Mapping[str, str] = field(default_factory=dict)
    """Service -> address; also `gateway`."""
    own: tuple[str, ...] = ()
    """Protocols that are served at the service's own address on the standard port."""
    bind: str = "127.0.0.1"
    host: str = "127.0.0.1"
    ports: Mapping[str, int] = field(default_factory=dict)
    """Published ports; kept after `down`, so that the next `up` has the same."""
    domain: str = ""
    hostname: str = ""
    users: tuple[str, ...] = ()
    tls: str = "off"
    """ca, files or off."""
    serials: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    """Zone name -> (serial, sha256 of the content it was given for)."""
    served: Mapping[str, int] = field(default_factory=dict)
    """Zone name -> the serial it was last seen with while it was served: updates had raised it."""
    changed: tuple[str, ...] = ()
    """Zones that `dns set` or `unset` has changed since the spec did."""
    services: Mapping[str, Deployed] = field(default_factory=dict)
    socket_base: str = ""
    """A short path to the state folder, where its own is too long for unix sockets."""

    def to_json(self) -> str:
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Raises `ValueError` when it is not a record of this version."""
        data = json.loads(text)
        if not isinstance(data, dict) or data.pop("schema", None) != SCHEMA:
            raise ValueError("not a state file of this version")
        known = {item.name for item in fields(cls)}
        values: dict[str, Any] = {name: value for name, value in data.items() if name in known}
        for name in ("own", "users", "changed"):
            values[name] = tuple(values.get(name, ()))
        values["serials"] = {zone: (int(s), str(d)) for zone, (s, d) in values.get("serials", {}).items()}
        values["served"] = {zone: int(serial) for zone, serial in values.get("served", {}).items()}
        values["services"] = {
            name: Deployed(item["shape"], item["files"]) for name, item in values.get("services", {}).items()
        }
        return cls(**values)

    def but(self, **changes: Any) -> Record:
        """A copy with other values."""
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Secrets:
    """`secrets.json`."""

    salt: str = ""
    """Hex; what password hashes derive their salts from, so that rendering is reproducible."""
    generated: Mapping[str, str] = field(default_factory=dict)
    """user@domain -> password, for users to whom the spec gives none; kept once made."""
    users: Mapping[str, str] = field(default_factory=dict)
    """user@domain -> password of the running stack, in the spec's order."""


def update_secret(salt: str) -> str:
    """The key that changes the running zones, base64; of its own for each project. `salt`: see `Secrets`."""
    return base64.b64encode(hmac.digest(bytes.fromhex(salt), b"dynamic update", "sha256")).decode()


def state_home(environ: Mapping[str, str]) -> Path:
    """`$XDG_STATE_HOME/mailstack`; a relative value is ignored, as the XDG specification asks."""
    base = environ.get("XDG_STATE_HOME", "")
    if not base.startswith("/"):
        base = os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".local/state")
    return Path(base) / "mailstack"


class StateDir:
    """One project's folder. Constructing it touches nothing."""

    def __init__(self, home: Path, project: str) -> None:
        if not PROJECT_NAME.fullmatch(project):
            raise UsageProblem(
                f"{project!r} is not a project name",
                hint="use lower-case letters, digits, '-', '_' and '.', beginning with a letter or digit",
            )
        self.home = home
        self.project = project
        self.path = home / project
        self.rendered = self.path / "rendered"
        self.tls = self.path / "tls"
        self.run = self.path / "run"
        self.log = self.path / "log"
        self.queue = self.path / "queue"
        self.mail = self.path / "mail"

    def __repr__(self) -> str:
        return f"StateDir({str(self.path)!r})"

    # ---- the folder

    def exists(self) -> bool:
        return (self.path / "state.json").exists()

    def make(self) -> None:
        """Make the folder and those in it. Raises `MachineLacks` naming what cannot be made."""
        try:
            self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
            for folder in (self.path, *(self.path / name for name in FOLDERS)):
                folder.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise _unusable(error) from error

    def remove(self) -> None:
        """Remove the folder with everything in it, and the parent when it was the last. Missing: no error."""
        record = self.load_quietly()
        if record is not None:
            remove_socket_base(record)
        try:
            _remove_tree(str(self.path))
        except OSError as error:
            raise RuntimeFailure(
                f"{error.filename or self.path} cannot be removed: {error.strerror}",
                hint="remove it by hand as the user it belongs to",
            ) from error
        with contextlib.suppress(OSError):
            self.home.rmdir()

    # ---- locks

    @contextlib.contextmanager
    def lock(self, timeout: float) -> Iterator[None]:
        """Hold the project. Makes a missing folder, and removes it again if nothing was put in it.

        Raises `Locked` after `timeout` seconds, `MachineLacks` when the folder cannot be made.
        """
        deadline = time.monotonic() + timeout
        while (fd := self._lock_folder(deadline)) < 0:
            pass  # somebody has removed the folder, or the one above it, meanwhile
        try:
            yield
        finally:
            os.close(fd)
            for folder in (self.path, self.home):
                with contextlib.suppress(OSError):
                    folder.rmdir()  # only succeeds on an empty one

    def _lock_folder(self, deadline: float) -> int:
        """A descriptor that holds the lock; -1 when the folder went away under it."""
        try:
            self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise _unusable(error) from error
        fd = -1
        try:
            self.path.mkdir(exist_ok=True, mode=0o700)
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            _flock(fd, deadline, self.project)
            # `down --volumes` of another process may have removed the folder while we waited for it
            if os.fstat(fd).st_ino == os.stat(self.path).st_ino:
                held, fd = fd, -1
                return held
        except FileNotFoundError:
            pass
        except OSError as error:
            raise _unusable(error) from error
        finally:
            if fd >= 0:
                os.close(fd)
        return -1

    @contextlib.contextmanager
    def lock_home(self, timeout: float = 10.0) -> Iterator[None]:
        """Hold the choice of addresses and ports against this user's other projects."""
        fd = os.open(self.home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _flock(fd, time.monotonic() + timeout, "the state folder")
            yield
        finally:
            os.close(fd)

    # ---- the two files

    def load(self) -> Record:
        """The record; a new one when there is none. Raises `RuntimeFailure` when it is damaged."""
        path = self.path / "state.json"
        try:
            return Record.from_json(path.read_text())
        except FileNotFoundError:
            return Record(project=self.project)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise RuntimeFailure(
                f"{path} cannot be used: {error}",
                hint="it is rewritten by `mailstack up` once you remove it; the mail stays",
            ) from error

    def load_quietly(self) -> Record | None:
        """The record, or None when there is none that can be read."""
        try:
            return self.load() if self.exists() else None
        except RuntimeFailure:
            return None

    def save(self, record: Record) -> None:
        """Replace the record."""
        _replace_file(self.path / "state.json", record.to_json(), 0o600)

    def load_secrets(self) -> Secrets:
        """The secrets; where there are none, a new salt. Raises `RuntimeFailure` when the file is damaged."""
        path = self.path / "secrets.json"
        try:
            data = json.loads(path.read_text())
            return Secrets(str(data["salt"]), dict(data["generated"]), dict(data["users"]))
        except FileNotFoundError:
            return Secrets(salt=secrets.token_hex(32))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RuntimeFailure(f"{path} cannot be used: {error}") from error

    def save_secrets(self, value: Secrets) -> None:
        """Replace the secrets (0600). Key order is kept: the first user is the first of the spec."""
        text = json.dumps(
            {"salt": value.salt, "generated": dict(value.generated), "users": dict(value.users)}, indent=1
        )
        _replace_file(self.path / "secrets.json", text + "\n", 0o600)

    # ---- sockets

    def socket_base(self, record: Record, temporary: str = "/tmp") -> str:  # noqa: S108 a 0700 folder is made in it
        """A short path to this folder where its own is too long for unix sockets under it; else empty.

        It is a symbolic link in a fresh 0700 folder under `temporary`, made when it is missing. Raises
        `RuntimeFailure` when it cannot be made.
        """
        own = str(self.path)
        if len(os.fsencode(own)) <= SOCKET_BASE_LIMIT:
            return ""
        link = record.socket_base
        if link:
            try:
                if os.readlink(link) == own and os.lstat(os.path.dirname(link)).st_uid == os.geteuid():
                    return link
            except OSError:
                pass  # a reboot empties the temporary folder
        folder = os.path.join(temporary, f"mailstack-{secrets.token_hex(4)}")
        try:
            os.mkdir(folder, 0o700)
            link = os.path.join(folder, "s")
            os.symlink(own, link)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.rmdir(folder)
            raise RuntimeFailure(
                f"{error.filename}: {error.strerror}",
                hint=f"{own} is too long for the names of sockets: set XDG_STATE_HOME to a shorter path",
            ) from error
        return link


def list_states(home: Path) -> list[StateDir]:
    """The projects that have a record under `home`, by name."""
    try:
        names = sorted(entry.name for entry in os.scandir(home) if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unusable(error) from error
    return [
        state for name in names if PROJECT_NAME.fullmatch(name) and (state := StateDir(home, name)).exists()
    ]


def generate_password() -> str:
    """96 random bits in characters that no shell, URL or configuration format gives a meaning to."""
    return secrets.token_hex(12)


def _flock(fd: int, deadline: float, what: str) -> None:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
        if time.monotonic() >= deadline:
            raise Locked(
                f"another mailstack command is working on {what}", hint="wait for it to end, or end it"
            )
        time.sleep(_POLL)


def _replace_file(path: Path, text: str, mode: int) -> None:
    temporary = f"{path}.{os.getpid()}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "w") as file:
            file.write(text)
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _remove_tree(path: str) -> None:
    """`rm -r`, without importing shutil (which costs a third of a cold `mailstack status`)."""
    try:
        entries = list(os.scandir(path))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            _remove_tree(entry.path)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry.path)
    os.rmdir(path)


def remove_tree(path: Path) -> None:
    """Remove a folder with everything in it; missing: no error. Raises `OSError`."""
    _remove_tree(str(path))


def remove_socket_base(record: Record) -> None:
    """Remove the short path to the state folder, where the record has one."""
    if record.socket_base:
        with contextlib.suppress(OSError):
            os.unlink(record.socket_base)
        with contextlib.suppress(OSError):
            _remove_tree(os.path.join(os.path.dirname(record.socket_base), "dovecot"))
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(record.socket_base))


def _unusable(error: OSError) -> MachineLacks:
    kind = NoPrivilege if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else MachineLacks
    return kind(
        f"{error.filename}: {error.strerror}",
        hint="set XDG_STATE_HOME to a folder that you may write to",
    )
