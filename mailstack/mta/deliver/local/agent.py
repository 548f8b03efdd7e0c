"""Carry out what `LocalRouter` says: commands, files, forward files, mailboxes, new messages.

A mailbox is `mailbox_command_maps`'s or `mailbox_command`'s command, else `home_mailbox` below the
user's home (a Maildir when it ends in `/`), else the mbox file of that name in `mail_spool_directory` (a
Maildir where that ends in `/`).
Everything a user decides (commands, files, forward files) is done with his rights: commands by setting
the child's ids, files by `acting_as`. A process that is not root serves its own user only; mail for
others is deferred, and the log says why.

One recipient gets one result: the worst of its steps. Forwarding comes last, and only when nothing
before it has to be tried again, so that a new attempt does not forward twice; commands and files may see
the message again, as in Postfix.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Callable, Sequence
from typing import TypeVar

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.deliver.apart import in_thread
from mailstack.mta.deliver.command import PATH, Command, export, run_apart, split_command
from mailstack.mta.deliver.local.decision import (
    EXPANDED,
    NOBODY,
    Action,
    Decision,
    Deliver,
    Direct,
    Forward,
    ForwardMail,
    Mailbox,
    Problem,
)
from mailstack.mta.deliver.local.environment import found_by
from mailstack.mta.deliver.local.router import Found, LocalRouter, lookup
from mailstack.mta.deliver.local.users import expand_template
from mailstack.mta.deliver.request import Agent, Bounced, Deferred, Outcome, Request, Result, Sent, Target
from mailstack.mta.deliver.store import Store, read_locking
from mailstack.mta.lookup import Pending, settled
from mailstack.mta.verify import MTA, PROBE, is_probe
from mailstack.net.clock import Clock
from mailstack.net.log import Log
from mailstack.storage.durable import GroupCommit
from mailstack.storage.identity import Identity
from mailstack.storage.queue import Message, Queue
from mailstack.storage.tables import Table, TableError

T = TypeVar("T")
_SOURCES = ("alias", "forward", "include")
_HEADERS = ("command", "file", "forward")
CONFIGURATION = Deferred("mail system configuration error", "4.3.5")


class LocalAgent:
    """The local daemon under one configuration; the nexthop is the address."""

    daemon = "local"

    def __init__(
        self,
        conf: MainCf,
        router: LocalRouter,
        forward: ForwardMail,
        queue: Queue,
        commit: GroupCommit,
        open_table: Callable[[str], Table],
        clock: Clock,
        log: Log,
        transport: Callable[[str], Agent],
    ) -> None:
        self._router = router
        self._forward = forward
        self._queue = queue
        self._log = log
        self._transport = transport
        self._conf = conf
        limit, message_limit = conf.size("mailbox_size_limit"), conf.size("message_size_limit")
        if limit and (not message_limit or message_limit > limit):
            raise conf.error("mailbox_size_limit", "must not be smaller than message_size_limit")
        self._store = Store(conf, queue, commit, clock, read_locking(conf, "mailbox_delivery_lock"), limit)
        self._command_sources = _words(conf, "allow_mail_to_commands", _SOURCES)
        self._file_sources = _words(conf, "allow_mail_to_files", _SOURCES)
        self._headers = _words(conf, "prepend_delivered_header", _HEADERS)
        self._command_maps = [open_table(name) for name in conf.list("mailbox_command_maps")]
        self._command = conf.raw("mailbox_command")
        self._home_mailbox = conf.str("home_mailbox")
        self._spool = conf.str("mail_spool_directory")
        self._need_home = conf.bool("require_home_directory")
        self._strict = conf.bool("strict_mailbox_ownership")
        self._time_limit = conf.time("command_time_limit")
        self._shell = conf.str("local_command_shell")
        self._command_filter = conf.str("command_expansion_filter")
        self._directory = conf.raw("command_execution_directory")
        self._directory_filter = conf.str("execution_directory_expansion_filter")
        self._privileges = conf.str("default_privs")
        self._exported = export(conf.list("export_environment"))

    async def deliver(self, request: Request) -> Sequence[Result]:
        if is_probe(request.message):
            return [one for target in request.targets for one in await self._asked(request, target)]
        return [await self._one(request, target) for target in request.targets]

    async def _asked(self, request: Request, target: Target) -> list[Result]:
        try:
            return await self._probed(request, target)
        except (OSError, TableError) as error:
            self._log.warning(f"{request.message.queue_id}: {error}")
            return [Result(target, Deferred(f"unable to deliver: {_why(error)}", "4.3.0"), "local")]
        except Problem as problem:
            return [Result(target, problem.outcome, "local")]

    async def _one(self, request: Request, target: Target) -> Result:
        message = request.message
        expanded = EXPANDED in message.envelope.attributes
        try:
            looped = self._router.looped(target.address, message, self._queue, expanded=expanded)
            decision = await self._known(
                lambda: self._router.route(target.address, expanded=expanded, looped=looped)
            )
            return await self._carry_out(decision, request, target)
        except (OSError, TableError) as error:
            self._log.warning(f"{message.queue_id}: {error}")
            return Result(target, Deferred(f"unable to deliver: {_why(error)}", "4.3.0"), "local")
        except Problem as problem:
            return Result(target, problem.outcome, "local")

    async def _probed(self, request: Request, target: Target) -> list[Result]:
        """What would become of mail for an address (verify(8)): for `sendmail -bv` every result of it, for
        smtpd that there is an alias, as far as it is followed."""
        address = target.address
        asked = request.message.envelope.attributes[PROBE]
        if asked == MTA:
            alias = await self._known(lambda: self._router.alias(address))
            if alias is not None:
                return [Result(target, Sent(f"aliased to {alias}"), "local")]
        decision = await self._known(lambda: self._router.route(address, expanded=asked == MTA))
        if isinstance(decision, Direct):
            return [await self._pass_on(decision, request, target)]
        if isinstance(decision, Forward):
            return _forwards(target, decision.addresses)
        if not isinstance(decision, Deliver):
            return [Result(target, decision, "local")]
        results: list[Result] = []
        for step in decision.steps:
            if isinstance(step, Mailbox):
                results += await self._probed_user(step, target, asked)
            else:
                results.append(_acts(target, step))
        return results + [
            one for forward in decision.forwards for one in _forwards(target, forward.addresses)
        ]

    async def _probed_user(self, step: Mailbox, target: Target, asked: str) -> list[Result]:
        users = self._router.users
        user = users.split(step.address)[1]
        account = await self._known(lambda: users.find(user))
        if account is None:
            return [Result(target, Bounced(f'unknown user: "{user}"', "5.1.1"), "local")]
        if self._need_home and not await in_thread(lambda: _there(account.pw_dir)):
            text = f"cannot access home directory {account.pw_dir}"
            return [Result(target, Deferred(text, "4.3.0"), "local")]
        if step.forward and users.forward:
            if asked == MTA:
                path = await in_thread(lambda: users.forward_path(step.address, account))
                if path:
                    return [Result(target, Sent(f"forward via file: {path}"), "local")]
            targets, _ = await in_thread(lambda: users.forward_targets(step.address, account))
            if targets:
                found = await self._known(lambda: self._expanded(targets, step.address, "", user))
                results: list[Result] = []
                for one in found.steps:
                    if isinstance(one, Mailbox):
                        results.append(await self._stores(target, account))
                    else:
                        results.append(_acts(target, one))
                return results + _forwards(target, tuple(found.addresses))
        return [await self._stores(target, account)]

    async def _stores(self, target: Target, account: pwd.struct_passwd) -> Result:
        """A user's mailbox, or his command, would get it."""
        text = f"delivers to {'maildir' if self._home_mailbox.endswith('/') else 'mailbox'}"
        command = await self._known(lambda: lookup(self._command_maps, account.pw_name)) or self._command
        if command:
            text = f"delivers to command: {command}"
        return Result(target, Sent(text), "local")

    async def _known(self, function: Callable[[], T]) -> T:
        """What a function says that looks into tables, some of which may have to be waited for."""
        try:
            return function()
        except Pending:
            return await settled(function)

    async def _carry_out(self, decision: Decision, request: Request, target: Target) -> Result:
        match decision:
            case Direct():
                return await self._pass_on(decision, request, target)
            case Forward():
                return Result(target, await self._send_on(decision, request.message, target), "local")
            case Deliver():
                return await self._steps(decision, request, target)
            case _:
                return Result(target, decision, "local")

    async def _pass_on(self, decision: Direct, request: Request, target: Target) -> Result:
        """Let another transport deliver."""
        nexthop = decision.nexthop or decision.address.rpartition("@")[2].lower()
        passed = Target(target.index, decision.address, target.original or target.address)
        inner = Request(request.message, nexthop, [passed], request.entered, request.started)
        [result] = await self._transport(decision.transport).deliver(inner)
        return result

    async def _send_on(self, forward: Forward, message: Message, target: Target) -> Outcome:
        try:
            queue_id = await self._forward(message, target.address, forward)
        except OSError as error:
            return Deferred(f"unable to forward message: {_why(error)}", "4.3.0")
        action = "expanded" if forward.sender is None else "delivered"
        return Sent(f"forwarded as {queue_id}", action=action, report="alias expanded")

    async def _steps(self, deliver: Deliver, request: Request, target: Target) -> Result:
        results: list[Result] = []
        for step in deliver.steps:
            if isinstance(step, Mailbox):
                results.append(await self._mailbox(step, request, target))
            else:
                outcome = await self._action(step, request.message, target)
                results.append(Result(target, outcome, "local"))
        later = any(isinstance(result.outcome, Deferred) for result in results)
        for forward in () if later else deliver.forwards:
            outcome = await self._send_on(forward, request.message, target)
            results.append(Result(target, outcome, "local"))
        if not results:
            return Result(target, NOBODY, "local")
        return min(results, key=lambda result: _BADNESS[type(result.outcome)])

    # ---- users

    async def _mailbox(self, step: Mailbox, request: Request, target: Target) -> Result:
        """A user: his forward file, else his mailbox."""
        users = self._router.users
        account = await self._known(lambda: users.find(users.split(step.address)[1]))
        if account is not None and self._need_home and not await in_thread(lambda: _there(account.pw_dir)):
            text = f"cannot access home directory {account.pw_dir}"
            return Result(target, Deferred(text, "4.3.0"), "local")
        if account is not None and step.forward and users.forward:
            targets, matched = await in_thread(lambda: users.forward_targets(step.address, account))
            if targets:
                local, user, _ = users.split(step.address)
                extension = "" if matched else local[len(user) :]
                return await self._forwarded(targets, step.address, extension, request, target)
        decision = await self._known(lambda: self._router.mailbox(step.address))
        if isinstance(decision, Deliver) and account is not None and _is_account(decision):
            outcome = await self._into(account, step.address, request.message, target)
            return Result(target, outcome, "local")
        return await self._carry_out(decision, request, target)

    async def _forwarded(
        self, targets: Sequence[str], address: str, extension: str, request: Request, target: Target
    ) -> Result:
        """Do what a forward file says."""
        user = self._router.users.split(address)[1]

        found = await self._known(lambda: self._expanded(targets, address, extension, user))
        forwards = found.forwards(self._router.by, final=False)
        return await self._steps(Deliver(tuple(found.steps), forwards), request, target)

    def _expanded(self, targets: Sequence[str], address: str, extension: str, user: str) -> Found:
        """What the targets of a user's forward file stand for."""
        found = Found()
        for word in targets:
            self._router.target(word, found, "forward", user, self_address=address, extension=extension)
        return found

    async def _into(
        self, account: pwd.struct_passwd, address: str, message: Message, target: Target
    ) -> Outcome:
        """Put a message into a user's mailbox."""
        command = await self._known(lambda: lookup(self._command_maps, account.pw_name)) or self._command
        if command:
            return await self._run(command, account, address, message, target)
        identity = Identity(account.pw_uid, account.pw_gid)
        head = self._head("file", message, target)
        if self._home_mailbox.endswith("/"):
            folder = os.path.join(account.pw_dir, self._home_mailbox).rstrip("/")
            return await self._store.maildir(folder, message, head, identity)
        if not self._home_mailbox and self._spool.endswith("/"):
            folder = os.path.join(self._spool, account.pw_name)
            return await self._store.maildir(folder, message, head, identity)
        prefix = f"user {account.pw_name}. "
        if self._home_mailbox:
            path = os.path.join(account.pw_dir, self._home_mailbox)
        else:
            path = os.path.join(self._spool, account.pw_name)
            identity = _spool_identity(self._spool, identity)
        outcome = await self._store.mbox(
            path,
            message,
            head,
            identity,
            owner=(account.pw_uid, account.pw_gid),
            must_own=account.pw_uid if self._strict else None,
        )
        if isinstance(outcome, Sent):
            return outcome
        return type(outcome)(f"cannot update mailbox {path} for {prefix}{outcome.text}", outcome.dsn)

    # ---- commands and files

    async def _action(self, action: Action, message: Message, target: Target) -> Outcome:
        account = None
        if action.user:
            account = await self._known(lambda: self._router.users.find(action.user))
            if account is None:
                return CONFIGURATION
        if action.target.startswith("|"):
            if action.source not in self._command_sources:
                return Bounced("mail to command is restricted", "5.7.1")
            return await self._run(action.target[1:].strip(), account, target.address, message, target)
        if action.source not in self._file_sources:
            return Bounced("mail to file is restricted", "5.7.1")
        identity = await self._known(lambda: self._identity(account))
        head = self._head("file", message, target)
        path = action.target
        if path.endswith("/"):
            return await self._store.maildir(path.rstrip("/"), message, head, identity)
        outcome = await self._store.mbox(path, message, head, identity, any_file=True)
        if isinstance(outcome, Sent):
            return Sent(f"delivered to file: {path}")
        return type(outcome)(f"cannot append message to file {path}: {outcome.text}", outcome.dsn)

    def _identity(self, account: pwd.struct_passwd | None) -> Identity:
        """A user's ids; default_privs' for nobody in particular, and for root. Raises `Problem`."""
        if account is None or account.pw_uid == 0:
            account = self._router.users.find(self._privileges)
        if account is None or account.pw_uid == 0:
            self._log.warning(f"default_privs: {self._privileges}: no such user, or root")
            raise Problem(CONFIGURATION)
        return Identity(account.pw_uid, account.pw_gid)

    async def _run(
        self,
        text: str,
        account: pwd.struct_passwd | None,
        address: str,
        message: Message,
        target: Target,
    ) -> Outcome:
        identity = await self._known(lambda: self._identity(account))
        names = self._router.users.names(address, account)
        directory = self._queue.directory
        if self._directory:
            # Where $home has no value (commands that belong to nobody), there is no such directory.
            directory = expand_template(self._directory, names, self._directory_filter) or directory
        groups: Sequence[int] = ()
        if account is not None and identity.uid == account.pw_uid and not identity.ours:
            name, group = account.pw_name, account.pw_gid
            groups = await in_thread(lambda: os.getgrouplist(name, group))
        command = Command(
            split_command(text, self._shell),
            text,
            "local: fatal: execvp",
            {
                **self._exported,
                "PATH": PATH,
                **found_by(names, account, message, target, self._command_filter),
            },
            self._time_limit,
            identity,
            groups,
            directory,
        )
        head = self._head("command", message, target, from_line=True)
        outcome, _ = await run_apart(command, self._store.whole(head, message))
        if isinstance(outcome, Sent):
            return Sent(f"delivered to command: {text}")
        return outcome

    def _head(self, where: str, message: Message, target: Target, *, from_line: bool = False) -> bytes:
        return self._store.head(message, target, delivered=where in self._headers, from_line=from_line)

    async def close(self) -> None:
        """There is nothing to let go of."""


def _forwards(target: Target, addresses: Sequence[str]) -> list[Result]:
    """A new message would go to each of these."""
    given = target.original or target.address
    return [
        Result(Target(target.index, address, given), Sent(f"forwards to {address}"), "local")
        for address in addresses
    ]


def _acts(target: Target, action: Action) -> Result:
    """A command or a file would get it."""
    command = action.target.startswith("|")
    text = f"command: {action.target[1:].strip()}" if command else f"file: {action.target}"
    return Result(target, Sent(f"delivers to {text}"), "local")


_BADNESS: dict[type, int] = {Deferred: 0, Bounced: 1, Sent: 2}


def _words(conf: MainCf, name: str, known: Sequence[str]) -> frozenset[str]:
    words = frozenset(conf.list(name))
    for word in words - frozenset(known):
        raise conf.error(name, f"{word!r} is not one of {', '.join(known)}")
    return words


def _is_account(decision: Deliver) -> bool:
    step = decision.steps[0]
    return len(decision.steps) == 1 and isinstance(step, Mailbox) and not step.forward


def _there(path: str) -> bool:
    try:
        os.stat(path)
    except OSError:
        return False
    return True


def _spool_identity(directory: str, user: Identity) -> Identity:
    """Whose rights make a mailbox in the spool directory: the user's where it lets him, else root's."""
    if os.geteuid() != 0:
        return user
    try:
        found = os.stat(directory)
    except OSError:
        return user
    if found.st_mode & stat.S_IWOTH:
        return user
    if found.st_mode & stat.S_IWGRP:
        return Identity(user.uid, found.st_gid)
    return Identity(0, 0)


def _why(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
