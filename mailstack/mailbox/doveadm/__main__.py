"""NAME: doveadm - look after the mailboxes of a user

SYNOPSIS:
    python -m mailstack.mailbox.doveadm --config DIR verify -u USER [MAILBOX]
    python -m mailstack.mailbox.doveadm --config DIR force-resync -u USER [MAILBOX]

`verify` reads every file of one or all mailboxes and prints what is wrong, a JSON object a line: `mailbox`,
`uid` (null: of the whole mailbox), `problem`. Nothing is changed; the service may go on.

`force-resync` has the running service remove index and cache of one or all mailboxes and write the index
anew; it prints `mailbox` and `messages` of each. It asks on the socket `doveadm-server` of dovecot.conf.

DIAGNOSTICS: exit status 0; 1 when `verify` has found something; 64 wrong usage; 67 no such user; 68 no such
mailbox; 75 when the service cannot be asked; 78 (EX_CONFIG). One line on standard error says why.
"""

from __future__ import annotations

import getopt
import json
import socket
import sys
import time
from pathlib import Path

from mailstack.config.dovecot import DovecotConfig, load
from mailstack.config.errors import EX_CONFIG, ConfigError
from mailstack.mailbox.auth.rows import Unavailable
from mailstack.mailbox.auth.users import Directory
from mailstack.storage.maildir import tree, verify
from mailstack.storage.maildir.listing import read_listing
from mailstack.storage.maildir.tree import MailboxNameError

USAGE = "usage: doveadm --config DIR verify|force-resync -u USER [MAILBOX]"
EX_USAGE, EX_NOUSER, EX_NOTFOUND, EX_TEMPFAIL = 64, 67, 68, 75
SECOND_LOOK = 0.3
"""Seconds until what looks wrong is looked at again: a rename under way is over then."""
ANSWER_TIMEOUT = 600.0
_STATUSES = {"-NOUSER": EX_NOUSER, "-NOTFOUND": EX_NOTFOUND}


class CommandError(Exception):
    """What ends the command, with its exit status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def main(arguments: list[str]) -> int:
    """Run the command; return its exit status."""
    try:
        options, rest = getopt.gnu_getopt(arguments, "u:", ["config="])
    except getopt.GetoptError:
        options, rest = [], []
    given = dict(options)
    if not {"--config", "-u"} <= given.keys() or len(rest) not in (1, 2) or rest[0] not in _COMMANDS:
        sys.stderr.write(USAGE + "\n")
        return EX_USAGE
    try:
        config = load(Path(given["--config"]).absolute())
        return _COMMANDS[rest[0]](config, given["-u"], rest[1] if len(rest) == 2 else "*")
    except ConfigError as error:
        sys.stderr.write(f"doveadm: fatal: {error}\n")
        return EX_CONFIG
    except CommandError as error:
        sys.stderr.write(f"doveadm: {error}\n")
        return error.status
    except (OSError, Unavailable) as error:
        sys.stderr.write(f"doveadm: {error}\n")
        return EX_TEMPFAIL


def _root(config: DovecotConfig, name: str) -> str:
    directory = Directory(config)
    canonical = directory.canonical(name)
    user = None if canonical is None else directory.find(canonical)
    if user is None:
        raise CommandError(EX_NOUSER, f"{name}: no such user")
    return user.mail_root


def _verify(config: DovecotConfig, user: str, mailbox: str) -> int:
    root = _root(config, user)
    if mailbox != "*" and not tree.exists(root, mailbox):
        raise CommandError(EX_NOTFOUND, f"{mailbox}: no such mailbox")
    status = 0
    for name in tree.names(root) if mailbox == "*" else [mailbox]:
        try:
            found = verify.lasting(tree.path_of(root, name), lambda: time.sleep(SECOND_LOOK))
        except MailboxNameError as error:
            raise CommandError(EX_NOTFOUND, str(error)) from None
        for finding in found:
            status = 1
            line = {"mailbox": name, "uid": finding.uid or None, "problem": finding.text}
            sys.stdout.write(json.dumps(line) + "\n")
    return status


def _force_resync(config: DovecotConfig, user: str, mailbox: str) -> int:
    paths = [listener.path for listener in config.unix_listeners if listener.service == "doveadm"]
    if not paths:
        raise CommandError(EX_TEMPFAIL, f"{config.path}: service doveadm has no unix_listener")
    root = _root(config, user)
    try:
        names = tree.names(root) if mailbox == "*" else [mailbox]
        for name in names:
            _resync(str(paths[0]), user, name)
            listing = read_listing(tree.path_of(root, name))
            line = {"mailbox": name, "messages": len(listing.new) + len(listing.cur)}
            sys.stdout.write(json.dumps(line) + "\n")
    except MailboxNameError as error:
        raise CommandError(EX_NOTFOUND, str(error)) from None
    return 0


def _resync(path: str, user: str, mailbox: str) -> None:
    """Have the service index one mailbox anew. Raises `CommandError`, `OSError`."""
    if any(char in user + mailbox for char in "\t\n\r"):
        raise CommandError(EX_USAGE, "a control character in a name")
    reply = _ask(path, f"VERSION\tdoveadm-server\t1\t0\n\t{user}\tforce-resync\t{mailbox}\n")
    said = reply.rpartition("\n\n")[2].strip()
    if said != "+":
        reasons = {"-NOUSER": f"{user}: no such user", "-NOTFOUND": f"{mailbox}: no such mailbox"}
        raise CommandError(
            _STATUSES.get(said, EX_TEMPFAIL), reasons.get(said, f"the service answers {said or 'nothing'}")
        )


def _ask(path: str, question: str) -> str:
    """Everything the service says until the end of its answer. Raises `OSError`."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(ANSWER_TIMEOUT)
        sock.connect(path)
        sock.sendall(question.encode())
        reply = b""
        while data := sock.recv(65536):
            reply += data
            if reply.rpartition(b"\n\n")[2].endswith(b"\n") and b"\n\n" in reply:
                break
    return reply.decode("utf-8", "replace")


_COMMANDS = {"verify": _verify, "force-resync": _force_resync}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
