"""The users of this machine, and what their forward files say."""

from __future__ import annotations

import os
import pwd
import re
import stat
from collections.abc import Callable, Mapping

from mailstack.config.postfix.expand import ExpansionError, expand
from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import split_extension
from mailstack.mta.deliver.local.targets import lines_of
from mailstack.net.clock import Clock
from mailstack.net.log import Log
from mailstack.storage.identity import Identity, acting_as
from mailstack.storage.tables import Table
from mailstack.wire.smtp import split_address

REMEMBERED = 1000
"""Names whose accounts are remembered at most."""
LIFETIME = 5.0
"""Seconds for which they are."""
FORWARD_LIMIT = 1024 * 1024
"""Octets of a forward file that are read."""

_TESTED = re.compile(r"\$[{(]\s*(\w+)\s*[?:]")
"""`${name?text}` and `${name:text}`: the name need not have a value."""

Find = Callable[[str], "pwd.struct_passwd"]


def ask(table: Table) -> Find:
    """How accounts are found in `unix:passwd.byname`, which may have to be waited for (`mta.lookup`)."""

    def find(name: str) -> pwd.struct_passwd:
        text = table.lookup(name)
        if text is None:
            raise KeyError(name)
        user, password, uid, gid, gecos, home, shell = text.split(":", 6)
        return pwd.struct_passwd((user, password, int(uid), int(gid), gecos, home, shell))

    return find


class Users:
    """Accounts under one configuration."""

    def __init__(self, conf: MainCf, clock: Clock, log: Log, find: Find = pwd.getpwnam) -> None:
        self._clock = clock
        self._log = log
        self._find = find
        self._known: dict[str, pwd.struct_passwd | None] = {}
        self._filled = 0.0
        self.delimiters = conf.str("recipient_delimiter")
        self._paths = conf.raw("forward_path").replace(",", " ").split()
        self._filter = conf.str("forward_expansion_filter")

    @property
    def forward(self) -> bool:
        """Whether users have forward files."""
        return bool(self._paths)

    def find(self, name: str) -> pwd.struct_passwd | None:
        """The account of that name (lower case), or None. Raises `OSError`, and what its table raises."""
        now = self._clock.monotonic()
        if now - self._filled >= LIFETIME or len(self._known) >= REMEMBERED:
            self._known.clear()
            self._filled = now
        try:
            return self._known[name]
        except KeyError:
            pass
        try:
            found = self._find(name) if name and "\0" not in name else None
        except KeyError:
            found = None
        self._known[name] = found
        return found

    def split(self, address: str) -> tuple[str, str, str]:
        """(local part, user, extension without its delimiter) of an address, all in lower case.

        An extension with a `/` counts for nothing: it may become part of a path.
        """
        local = split_address(address)[0].lower()
        user, extension = split_extension(local, self.delimiters)
        return (user, user, "") if "/" in extension else (local, user, extension[1:])

    def names(self, address: str, account: pwd.struct_passwd | None) -> dict[str, str]:
        """What templates (forward_path, luser_relay…) may refer to; what has no value is missing."""
        local, user, extension = self.split(address)
        values = {
            "user": user,
            "local": local,
            "domain": split_address(address)[1].lower(),
            "recipient": address,
            "extension": extension,
            "recipient_delimiter": local[len(user) : len(user) + 1] if extension else "",
            "home": account.pw_dir if account is not None else "",
            "shell": account.pw_shell if account is not None else "",
        }
        return {name: value for name, value in values.items() if value}

    def forward_targets(self, address: str, account: pwd.struct_passwd) -> tuple[list[str], bool]:
        """The targets in a user's forward file, none where no file counts; and whether it is the extension's.

        Reads files: call it on a thread. What is wrong with a file is a warning, and the mailbox gets
        the mail.
        """
        path, text, template = self._forward_file(address, account)
        return (lines_of(text), "extension" in template) if path else ([], False)

    def forward_path(self, address: str, account: pwd.struct_passwd) -> str:
        """The forward file that counts for a user, or `""`. Reads files, as `forward_targets`."""
        return self._forward_file(address, account)[0]

    def _forward_file(self, address: str, account: pwd.struct_passwd) -> tuple[str, str, str]:
        """Path, text and template of the forward file that counts; nothing where none does."""
        names = self.names(address, account)
        identity = Identity(account.pw_uid, account.pw_gid)
        for template in self._paths:
            path = expand_template(template, names, self._filter)
            if path is None or not path.startswith("/"):
                continue
            try:
                with acting_as(identity):
                    text = self._read(path, account)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                self._log.warning(f"cannot open file {path}: {error.strerror or error}")
                continue
            if text is None:
                break
            return path, text, template
        return "", "", ""

    def _read(self, path: str, account: pwd.struct_passwd) -> str | None:
        """The text of a forward file that is safe, or None. Raises `OSError`."""
        found = os.lstat(path)
        problem = ""
        if not stat.S_ISREG(found.st_mode):
            problem = "is not a regular file"
        elif found.st_uid not in (0, account.pw_uid):
            problem = f"has bad owner uid {found.st_uid}"
        elif found.st_mode & 0o002:
            problem = "is world writable"
        if problem:
            self._log.warning(f"file {path} {problem}")
            return None
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            if not os.path.samestat(os.fstat(fd), found):
                self._log.warning(f"file {path} has changed while it was being read")
                return None
            return file.read(FORWARD_LIMIT).decode("utf-8", "surrogateescape")


def expand_template(
    template: str, names: Mapping[str, str], allowed: str, *, partly: bool = False
) -> str | None:
    """A template with its `$names` replaced, characters that are not `allowed` by `_`.

    None where it refers to a name that has no value, unless `partly` has that be nothing. Raises nothing.
    """
    missing = False
    tested = frozenset(_TESTED.findall(template))

    def lookup(name: str) -> str | None:
        nonlocal missing
        value = names.get(name)
        if value is None:
            missing = missing or name not in tested
            return None
        return censor(value, allowed).replace("$", "$$")

    try:
        text = expand(template, lookup)
    except ExpansionError:
        return None
    return None if missing and not partly else text


def censor(value: str, allowed: str) -> str:
    """`value` with every character that is not `allowed` replaced by `_`."""
    return "".join(char if char in allowed else "_" for char in value) if allowed else value
