"""Where mail for a local address goes, in Postfix's order (local(8)).

`LocalRouter.route` is what the queue manager asks while it resolves a recipient. It looks for a
forwarding loop (a Delivered-To: with the recipient's address), expands aliases(5), also nested ones,
`:include:` files and `owner-` aliases, then asks mailbox_transport_maps, mailbox_transport, the accounts
of this machine, fallback_transport_maps, fallback_transport and luser_relay. It says

- `Direct`: the mail goes straight on to another transport (its concurrency limits apply);
- `Forward`: several addresses, or one that is not local; the mail becomes a new message to them, so that
  each has a status of its own; its sender is the owner of the innermost alias that has one;
- `Deliver`: there are commands, files or a user's mailbox to serve, and perhaps addresses to forward to;
- an `Outcome` for what ends here.

`LocalAgent` carries out what is not direct. An alias that names itself means the user of that name.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Callable, Sequence
from functools import lru_cache

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import split_extension
from mailstack.mta.deliver.local.decision import (
    NOBODY,
    Action,
    Decision,
    Deliver,
    Direct,
    Forward,
    Mailbox,
    Problem,
)
from mailstack.mta.deliver.local.targets import lines_of, split_targets
from mailstack.mta.deliver.local.users import Users, ask, expand_template
from mailstack.mta.deliver.loops import delivered_to
from mailstack.mta.deliver.request import Bounced, Deferred, Sent
from mailstack.mta.lookup import Pending, accounts_are_remote
from mailstack.mta.rewrite import AddressClass, Rewriter
from mailstack.net.clock import Clock, SystemClock
from mailstack.net.log import Log
from mailstack.storage.queue import Message, Queue
from mailstack.storage.tables import Table, TableError
from mailstack.wire.smtp import split_address

DEPTH = 20
"""How deep aliases may nest."""
INCLUDE_LIMIT = 16 * 1024 * 1024
"""Octets of an :include: file that are read."""
_CONFIGURATION = Bounced("mail system configuration error", "5.3.5")
_RESERVED = ("postmaster", "mailer-daemon")


class Found:
    """What an alias has become so far."""

    def __init__(self) -> None:
        self.addresses: dict[str, str | None] = {}
        """Who is forwarded to, and with which sender; None: the message's own."""
        self.steps: dict[Action | Mailbox, None] = {}
        self.included: set[str] = set()
        """The :include: files that have been read: each counts once."""

    def forwards(self, by: str, *, final: bool = True) -> tuple[Forward, ...]:
        """The new messages: one for each sender."""
        groups: dict[str | None, list[str]] = {}
        for address, sender in self.addresses.items():
            groups.setdefault(sender, []).append(address)
        return tuple(Forward(tuple(group), sender, final=final, by=by) for sender, group in groups.items())


class LocalRouter:
    """Alias expansion under one configuration."""

    def __init__(
        self,
        conf: MainCf,
        rewriter: Rewriter,
        open_table: Callable[[str], Table],
        log: Log,
        *,
        clock: Clock | None = None,
        users: Users | None = None,
    ) -> None:
        self._rewriter = rewriter
        self._log = log
        # A directory service may be slow: then it is asked, as any slow table, while others go on.
        find = ask(open_table("unix:passwd.byname")) if accounts_are_remote() else pwd.getpwnam
        self.users = users or Users(conf, clock or SystemClock(), log, find)
        self._tables = self._open("alias_maps", conf.list("alias_maps"), open_table)
        self._transport_maps = self._open_maps(conf, "mailbox_transport_maps", open_table)
        self._fallback_maps = self._open_maps(conf, "fallback_transport_maps", open_table)
        self._mailbox_transport = conf.str("mailbox_transport")
        self._fallback = conf.str("fallback_transport")
        self._relay = conf.raw("luser_relay")
        self._propagate = frozenset(conf.list("propagate_unmatched_extensions"))
        self.by = f"{conf.str('myhostname')} ({conf.str('mail_name')})"
        self._owners = conf.bool("owner_request_special")
        self._expand_owner = conf.bool("expand_owner_alias")
        self._limit = conf.int("duplicate_filter_limit")
        self._filter = conf.str("forward_expansion_filter")

    def _open(
        self, parameter: str, names: Sequence[str], open_table: Callable[[str], Table]
    ) -> list[tuple[str, Table]]:
        """The alias tables; one of a kind that we do not have (nis:) is left out, with a warning."""
        tables = []
        for name in names:
            try:
                tables.append((name, open_table(name)))
            except TableError as error:
                self._log.warning(f"{parameter}: {error}")
        return tables

    def _open_maps(self, conf: MainCf, name: str, open_table: Callable[[str], Table]) -> list[Table]:
        return [table for _, table in self._open(name, conf.list(name), open_table)]

    # ---- routing

    def route(self, address: str, *, expanded: bool = False, looped: bool = False) -> Decision:
        """Where a local address goes.

        `expanded`: aliases have been applied already; `looped`: the message has been here.
        """
        if looped:
            return Bounced(f"mail forwarding loop for {address}", "5.4.6")
        try:
            if expanded:
                return self._user(address)
            found = Found()
            self._expand(address, found, (), 0, None)
            if len(found.addresses) == 1 and not found.steps:
                [(only, owner)] = found.addresses.items()
                # The address itself may be of a domain that a transport table gives to local.
                if owner is None and (only == address or self._is_local(only)):
                    return self._user(only)
        except Problem as problem:
            return problem.outcome
        except Pending:
            raise
        except (OSError, TableError) as error:
            self._log.warning(f"alias lookup of {address}: {error}")
            return Deferred("alias database unavailable", "4.3.0")
        steps = tuple(found.steps)
        if len(steps) == 1 and not found.addresses and isinstance(steps[0], Mailbox):
            return self.mailbox(steps[0].address)
        return self._found(found)

    def _found(self, found: Found) -> Decision:
        forwards = found.forwards(self.by)
        if not found.steps and len(forwards) < 2:
            return forwards[0] if forwards else NOBODY
        return Deliver(tuple(found.steps), forwards)

    def alias(self, address: str) -> str | None:
        """What aliases(5) says of an address, as it is written there; None: nothing.

        Raises `OSError`, `TableError`.
        """
        return self._alias(self.users.split(address)[0])[1]

    def looped(self, address: str, message: Message, queue: Queue, *, expanded: bool) -> bool:
        """Whether a message has a Delivered-To: with this address. Raises `OSError`.

        The first of an alias's own message is the alias's, and is left aside.
        """
        names = delivered_to(message, queue)
        return address.lower().encode("utf-8", "surrogateescape") in (names[1:] if expanded else names)

    def _user(self, address: str) -> Decision:
        """A user: his forward file, if he may have one, and then his mailbox."""
        if self.users.forward and self.users.find(self.users.split(address)[1]) is not None:
            return Deliver((Mailbox(address),))
        return self.mailbox(address)

    def mailbox(self, address: str) -> Decision:
        """Where mail goes that neither an alias nor a forward file has anything to say of."""
        user = self.users.split(address)[1]
        transport = lookup(self._transport_maps, user) or self._mailbox_transport
        if transport:
            return _direct(transport, address)
        account = self.users.find(user)
        if account is not None:
            return Deliver((Mailbox(address, forward=False),))
        transport = lookup(self._fallback_maps, user) or self._fallback
        if transport:
            return _direct(transport, address)
        if self._relay:
            names = self.users.names(address, account)
            relay = expand_template(self._relay, names, self._filter, partly=True)
            if relay:
                found = Found()
                for target in split_targets(relay):
                    self.target(target, found, "forward", "")
                return self._found(found) if found.steps or found.addresses else _nobody(user)
        if user in _RESERVED:
            self._log.warning(f"required alias not found: {user}")
            return Sent("discarded")
        return _nobody(user)

    # ---- aliases

    def _expand(
        self, address: str, found: Found, seen: tuple[str, ...], depth: int, sender: str | None
    ) -> None:
        """Add to `found` what an address stands for.

        `seen`: the aliases that have led here. One that names itself means the user. `sender`: the owner of
        the innermost of them that has one.
        """
        local = self.users.split(address)[0]
        if len(local) < len(split_address(address)[0]):
            self._log.warning(f"address with illegal extension: {split_address(address)[0].lower()}")
        name, value, table = self._alias(local)
        if depth > DEPTH or (name in seen and name != seen[-1]):
            self._log.warning(f"alias database loop for {name}")
            raise Problem(Bounced(f"alias database loop for {name}", "5.4.6"))
        if value is None or name in seen:
            found.addresses.setdefault(address, sender)
            if self._limit and len(found.addresses) > self._limit * 10:
                raise Problem(Bounced(f"alias expansion of {address} has too many addresses", "5.4.6"))
            return
        seen = (*seen, name)
        extension = local[len(name) :]
        targets = split_targets(value)
        if not targets:
            raise TableError(f"no recipient in alias lookup result for {name}")
        rights = self._table_owner(table) if any(_rights_matter(target) for target in targets) else ""
        owner = self._owner(name)
        sender = sender if owner is None else owner
        for target in targets:
            self.target(target, found, "alias", rights, seen, depth, extension=extension, sender=sender)

    def _owner(self, name: str) -> str | None:
        """The owner of an alias: the sender of what it makes; None where it has none."""
        owner = f"owner-{name}"
        if not self._owners or name.startswith("owner-") or name.endswith("-request"):
            return None
        owner_value = self._alias(owner)[1]
        if owner_value is None:
            return None
        if self._expand_owner:
            owner = next(iter(split_targets(owner_value)), "")
        return self._rewriter.complete(owner) if owner else ""

    def target(
        self,
        target: str,
        found: Found,
        source: str,
        user: str,
        seen: tuple[str, ...] = (),
        depth: int = 0,
        self_address: str = "",
        extension: str = "",
        sender: str | None = None,
    ) -> None:
        """Add one target of an alias or a forward file to `found`.

        `user`: whose rights commands and files have. `self_address`: whose forward file it is; its
        user's name means his mailbox, and other local addresses are left to the new message's own
        delivery. `extension` (with its delimiter) goes on to addresses where
        propagate_unmatched_extensions says so. `sender`: of what is forwarded, None for the message's own.
        Raises `Problem`, `OSError`, `TableError`.
        """
        if target.startswith(("|", "/")):
            found.steps[Action(target, user, source)] = None
            return
        if target.startswith("~"):
            found.steps[Action(self._at_home(target, user), user, source)] = None
            return
        if target[:9].lower() == ":include:":
            if target[9:] in found.included:
                return
            found.included.add(target[9:])
            text, owner = self._include(target[9:])
            for line in lines_of(text):
                self.target(line, found, "include", owner, seen, depth + 1, self_address, extension, sender)
            return
        direct = target.startswith("\\")
        address = self._rewriter.complete(target.removeprefix("\\"))
        if extension and source in self._propagate:
            name, domain = split_address(address)
            address = f"{name}{extension}@{domain}" if domain else name + extension
        if not self._is_local(address):
            found.addresses.setdefault(address, sender)
        elif direct or (self_address and self._same_user(address, self_address)):
            found.steps[Mailbox(address, forward=False)] = None
        elif self_address:
            found.addresses.setdefault(address, sender)
        else:
            self._expand(address, found, seen, depth + 1, sender)

    def _at_home(self, target: str, user: str) -> str:
        """The file that `~/file` means in a list of a user's. Raises `Problem`, `OSError`."""
        if not target.startswith("~/"):
            self._log.warning(f"bad home directory syntax for: {target}")
            raise Problem(_CONFIGURATION)
        account = self.users.find(user)
        if account is None or not account.pw_dir:
            self._log.warning(f"unknown home directory for: {target}")
            raise Problem(_CONFIGURATION)
        return account.pw_dir + target[1:]

    def _same_user(self, first: str, second: str) -> bool:
        return self.users.split(first)[1] == self.users.split(second)[1]

    def _alias(self, local: str) -> tuple[str, str | None, str]:
        """The alias that a local part names (with its extension, then without), its value and its table."""
        names = [local.lower()]
        user = split_extension(names[0], self._rewriter.delimiters)[0]
        if user != names[0]:
            names.append(user)
        for name in names:
            for table_name, table in self._tables:
                value = table.lookup(name)
                if value is not None:
                    return name, value, table_name
        return names[0], None, ""

    def _table_owner(self, table: str) -> str:
        """The user with whose rights a table's commands and files are served; "" for default_privs.

        It is the owner of the table's file, or nobody in particular where root owns it.
        """
        path = table.removeprefix("proxy:").partition(":")[2]
        found = None
        for suffix in (".db", ".lmdb", ".cdb", ""):
            try:
                found = os.stat(path + suffix)
                break
            except OSError:
                continue
        if found is None or not path.startswith("/"):
            self._log.warning(f"no owner UID for alias database {table}")
            raise Problem(Deferred("cannot find alias database owner", "4.3.0"))
        user = _name_of(found.st_uid)
        if user is None:
            self._log.warning(f"cannot find alias database owner for {table}")
            raise Problem(Deferred("cannot find alias database owner", "4.3.0"))
        return user

    def _include(self, path: str) -> tuple[str, str]:
        """The text of an :include: file, and the user with whose rights its commands and files are served.

        Raises `Problem`.
        """
        problem = ""
        if not os.path.isabs(path):
            raise self._bad_include(f":include:{path} uses a relative path")
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise self._bad_include(f"unable to lookup :include: file {path}: {error.strerror}") from None
        with os.fdopen(fd, "rb") as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                problem = "is not a regular file"
            elif found.st_mode & 0o002:
                problem = "is world writable"
            if problem:
                raise self._bad_include(f":include: file {path} {problem}")
            text = file.read(INCLUDE_LIMIT).decode("utf-8", "surrogateescape")
        user = _name_of(found.st_uid)
        if user is None:
            raise self._bad_include(f"{path}: cannot find :include: file owner username")
        return text, user

    def _bad_include(self, text: str) -> Problem:
        self._log.warning(text)
        return Problem(_CONFIGURATION)

    def _is_local(self, address: str) -> bool:
        return self._rewriter.resolve(address).address_class is AddressClass.LOCAL


@lru_cache(100)  # whoever answers may be slow
def _name_of(uid: int) -> str | None:
    """The user of that number; "" for root, whose files have the rights of default_privs."""
    if uid == 0:
        return ""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def _rights_matter(target: str) -> bool:
    return target.startswith(("|", "/"))


def _nobody(user: str) -> Bounced:
    return Bounced(f'unknown user: "{user}"', "5.1.1")


def _direct(transport: str, address: str) -> Direct:
    name, _, nexthop = transport.partition(":")
    return Direct(name.strip(), nexthop.strip(), address)


def lookup(tables: Sequence[Table], user: str) -> str:
    """The first table's value for a user, or `""`. Raises what a table raises."""
    for table in tables:
        value = table.lookup(user)
        if value is not None:
            return value
    return ""
