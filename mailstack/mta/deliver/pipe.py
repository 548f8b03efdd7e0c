"""pipe(8): hand messages to a command, without a shell.

    mailman unix - n n - - pipe flags=FRX user=list argv=/usr/lib/mailman/mail-in ${nexthop} ${user}

| attribute | means |
|---|---|
| `user=name[:group]` | who the command runs as; never root, nor Postfix's own account |
| `argv=command…` | the command; an argument with a recipient macro is repeated for every recipient |
| `flags=` | `B` empty line at the end, `D` Delivered-To, `F` From line, `O` X-Original-To, `R` Return-Path, |
| | `X` final delivery, `h` `u` `q` lower-case domain, lower-case user, quoted addresses in macros, |
| | `.` and `>` quote lines that begin with a dot, or `From ` |
| `directory=` | working folder |
| `eol=` | line end, with C escapes |
| `size=` | octets at most |
| `null_sender=` | `${sender}` of mail from `<>` |

`chroot=` is refused. The whole request is one command, and its recipients share the result
(TRANSPORT_destination_recipient_limit = 1 where they should not); TRANSPORT_time_limit bounds it. See
`deliver.command` for what results mean.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mailstack.config.errors import ConfigError
from mailstack.config.postfix.main_cf import MainCf
from mailstack.config.postfix.master_cf import MasterService
from mailstack.mta.address_maps import split_extension
from mailstack.mta.deliver.apart import content
from mailstack.mta.deliver.command import PATH, Command, export, run_apart
from mailstack.mta.deliver.loops import delivered_to
from mailstack.mta.deliver.request import Bounced, Deferred, Outcome, Request, Result, Sent, Target
from mailstack.mta.verify import is_probe
from mailstack.net.clock import Clock
from mailstack.storage import mbox
from mailstack.storage.identity import Identity
from mailstack.storage.queue import Message, Queue
from mailstack.wire.smtp import quote, split_address

_MACRO = re.compile(r"\$(?:(\w+)|\{(\w+)\}|\((\w+)\)|\$|)")
_RECIPIENT = frozenset(("recipient", "original_recipient", "user", "extension", "mailbox", "domain"))
_MESSAGE = frozenset((
    "sender", "nexthop", "size", "queue_id", "envid", "client_address", "client_helo", "client_hostname",
    "client_port", "client_protocol", "sasl_method", "sasl_sender", "sasl_username",
))  # fmt: skip
_DOT = re.compile(rb"^\.", re.M)
_FROM = re.compile(rb"^From ", re.M)
_FLAGS = frozenset("BDFORXhqu.>")
_ESCAPES = {
    "r": "\r",
    "n": "\n",
    "t": "\t",
    "0": "\0",
    "\\": "\\",
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "v": "\v",
}


@dataclass(frozen=True, slots=True)
class PipeLine:
    """What a line of master.cf says to pipe."""

    argv: tuple[str, ...]
    identity: Identity
    groups: tuple[int, ...]
    flags: frozenset[str] = frozenset()
    directory: str = ""
    eol: bytes = b"\n"
    size: int = 0
    null_sender: str = "MAILER-DAEMON"


def read_line(service: MasterService, conf: MainCf) -> PipeLine:
    """Read the arguments of a pipe service. Raises `ConfigError`."""

    def bad(text: str) -> ConfigError:
        return ConfigError(service.origin.path, service.origin.line, f"{service.name}: {text}")

    values: dict[str, str] = {}
    argv: tuple[str, ...] = ()
    for position, word in enumerate(service.arguments):
        name, equals, value = word.partition("=")
        if not equals or name not in (
            "flags",
            "user",
            "argv",
            "directory",
            "eol",
            "size",
            "null_sender",
            "chroot",
        ):
            raise bad(f"unknown attribute name: {word}")
        if name == "argv":
            argv = (value, *service.arguments[position + 1 :])
            break
        values[name] = value
    if "chroot" in values:
        raise bad("chroot= is not supported")
    if "user" not in values:
        raise bad("missing user= command-line attribute")
    if not argv or not argv[0]:
        raise bad("missing argv= command-line attribute")
    flags = frozenset(values.get("flags", ""))
    if flags - _FLAGS:
        raise bad(f"unknown flag: {min(flags - _FLAGS)}")
    for flag in ("D", "O"):
        limit = f"{service.name}_destination_recipient_limit"
        if (
            flag in flags
            and conf.int(limit if conf.knows(limit) else "default_destination_recipient_limit") != 1
        ):
            raise bad(f"pipe flag `{flag}' requires {limit} = 1")
    size = values.get("size", "0")
    if not (size.isascii() and size.isdecimal()):
        raise bad(f"bad size= value: {size}")
    for word in argv:
        for name in _names(word):
            if name not in _RECIPIENT and name not in _MESSAGE:
                raise bad(f'unknown macro name: "{name}"')
    try:
        identity, groups = _account(values["user"], conf)
    except ValueError as error:
        raise bad(str(error)) from None
    return PipeLine(
        argv,
        identity,
        groups,
        flags,
        values.get("directory", ""),
        _unescape(values.get("eol", "\\n")).encode(),
        int(size),
        values.get("null_sender", "MAILER-DAEMON"),
    )


def _account(text: str, conf: MainCf) -> tuple[Identity, tuple[int, ...]]:
    """Ids and supplementary groups of `user` or `user:group`. Raises `ValueError`."""
    user, _, group = text.partition(":")
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise ValueError(f"unknown username: {user}") from None
    try:
        gid = grp.getgrnam(group).gr_gid if group else account.pw_gid
    except KeyError:
        raise ValueError(f"unknown group: {group}") from None
    if account.pw_uid == 0:
        raise ValueError("user= command-line attribute specifies root privileges")
    if user == conf.str("mail_owner"):
        raise ValueError(f"user= command-line attribute specifies mail system owner {user}")
    if gid == 0:
        raise ValueError("user= command-line attribute specifies privileged group id 0")
    groups = (gid,) if group else tuple(os.getgrouplist(user, gid))
    return Identity(account.pw_uid, gid), groups


class PipeAgent:
    """The pipe daemon for one line of master.cf."""

    daemon = "pipe"

    def __init__(
        self,
        service: MasterService,
        conf: MainCf,
        queue: Queue,
        clock: Clock,
    ) -> None:
        self._name = service.name
        self._line = read_line(service, conf)
        self._queue = queue
        self._clock = clock
        self._delimiters = conf.str("recipient_delimiter")
        limit = f"{service.name}_time_limit"
        self._time_limit = conf.time(limit if conf.knows(limit) else "command_time_limit")
        self._environment = {**export(conf.list("export_environment")), "PATH": PATH}

    async def deliver(self, request: Request) -> Sequence[Result]:
        try:
            outcome = await self._outcome(request)
        except OSError as error:
            outcome = Deferred(f"unable to deliver: {error.strerror or error}", "4.3.0")
        return request.all(outcome, self._name)

    async def _outcome(self, request: Request) -> Outcome:
        line, message = self._line, request.message
        if line.size and message.envelope.size > line.size:
            return Bounced("message too large", "5.2.3")
        if is_probe(message):
            return Sent(f"delivers to command: {line.argv[0]}")
        if "D" in line.flags:
            seen = delivered_to(message, self._queue)
            for target in request.targets:
                if target.address.lower().encode("utf-8", "surrogateescape") in seen:
                    return Bounced(f"mail forwarding loop for {target.address}", "5.4.6")
        argv = self._argv(request)
        command = Command(
            argv,
            line.argv[0],
            "pipe: fatal: pipe_command: execvp",
            self._environment,
            self._time_limit,
            line.identity,
            () if line.identity.ours else line.groups,
            line.directory or self._queue.directory,
        )
        outcome, output = await run_apart(command, self._content(request))
        if isinstance(outcome, Sent):
            text = f"delivered via {self._name} service" + (f" ({output[:100]})" if output else "")
            return Sent(text, action="delivered" if "X" in line.flags else "relayed")
        return outcome

    # ---- the command's arguments

    def _argv(self, request: Request) -> list[str]:
        envelope, null = request.message.envelope, self._line.null_sender
        common = {
            "sender": self._sender(request.message) if "q" in self._line.flags else envelope.sender or null,
            "nexthop": request.nexthop.lower() if "h" in self._line.flags else request.nexthop,
            "size": str(envelope.size),
            "queue_id": request.message.queue_id,
            "client_address": envelope.client_address,
            "client_helo": envelope.helo_name,
            "client_hostname": envelope.client_name,
            "client_port": envelope.attributes.get("client_port", ""),
            "client_protocol": envelope.protocol,
            "sasl_method": envelope.sasl_method,
            "sasl_sender": envelope.attributes.get("sasl_sender", ""),
            "sasl_username": envelope.sasl_username,
            "envid": envelope.envid,
        }
        each = [common | self._of(target) for target in request.targets]
        argv: list[str] = []
        for word in self._line.argv:
            values = each if not _RECIPIENT.isdisjoint(_names(word)) else [common]
            argv += [_expand(word, value) for value in values]
        # No argument may be taken for another one: a NUL ends a string.
        return [word.replace("\0", "") for word in argv]

    def _of(self, target: Target) -> dict[str, str]:
        """The macros that depend on the recipient."""
        local, domain = split_address(target.address)
        flags = self._line.flags
        if "u" in flags:
            local = local.lower()
        if "h" in flags:
            domain = domain.lower()
        user, extension = split_extension(local, self._delimiters)
        return {
            "recipient": self._address(target.address),
            "original_recipient": self._address(target.original or target.address),
            "user": user,
            "extension": extension[1:],
            "mailbox": local,
            "domain": domain,
        }

    def _sender(self, message: Message) -> str:
        """The sender as it stands in headers, or what null_sender= has in his place."""
        return quote(message.envelope.sender) or self._line.null_sender

    def _address(self, address: str) -> str:
        """A recipient as the flags h, u and q want him."""
        local, domain = split_address(address)
        flags = self._line.flags
        if "u" in flags:
            local = local.lower()
        if "h" in flags:
            domain = domain.lower()
        whole = f"{local}@{domain}" if domain else local
        return quote(whole) if "q" in flags else whole

    # ---- the command's input

    def _content(self, request: Request) -> Iterator[bytes]:
        """The message in the form that the flags ask for. Raises `OSError`."""
        flags, eol = self._line.flags, self._line.eol
        if "F" in flags:
            first = mbox.from_line(self._sender(request.message), self._clock.time())
            yield first.replace(b"\n", eol)
        for part, starts in self._lines(request):
            head, part = (b"", part) if starts else _rest_of_line(part)
            if "." in flags:
                part = _DOT.sub(b"..", part)
            if ">" in flags:
                part = _FROM.sub(b">From ", part)
            part = head + part
            yield part if eol == b"\n" else part.replace(b"\n", eol)
        if "B" in flags:
            yield eol

    def _lines(self, request: Request) -> Iterator[tuple[bytes, bool]]:
        """Lines with LF ends, whole but for very long ones; and whether each part begins a line."""
        flags, message, target = self._line.flags, request.message, request.targets[0]
        head = ""
        if "R" in flags:
            head += f"Return-Path: <{self._sender(message)}>\n"
        if "O" in flags:
            head += f"X-Original-To: {quote(target.original or target.address)}\n"
        if "D" in flags:
            head += f"Delivered-To: {quote(target.address)}\n"
        if head:
            yield head.encode("utf-8", "surrogateescape"), True
        yield from mbox.whole_lines(content(self._queue, message))

    async def close(self) -> None:
        """There is nothing to let go of."""


def _rest_of_line(part: bytes) -> tuple[bytes, bytes]:
    """A part that goes on with a line: what belongs to that line, and the lines behind it."""
    end = part.find(b"\n") + 1 or len(part)
    return part[:end], part[end:]


def _names(word: str) -> list[str]:
    return [
        first or second or third for first, second, third in _MACRO.findall(word) if first or second or third
    ]


def _expand(word: str, values: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2] or found[3]
        return values[name] if name else "$"

    return _MACRO.sub(value, word)


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), text)
