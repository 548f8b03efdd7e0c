"""`mailstack mail import` and `mail export`: between mailboxes and files."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailstack.cli.exits import Failure
from mailstack.cli.options import Invocation, one_of
from mailstack.cli.output import Progress, Result
from mailstack.cli.projects import address_of, client_endpoints, running

if TYPE_CHECKING:
    from mailstack.client.account import Account
    from mailstack.client.mailwrite import Writer
    from mailstack.client.stored import Stored

User = Annotated[
    str, typer.Argument(metavar="USER@DOMAIN", help="Whose; without @DOMAIN of the primary domain.")
]
FORMATS = ("mbox", "maildir", "eml")
SHOWN = 20
"""Messages that are named of those that were refused."""


def import_(
    ctx: typer.Context,
    user: User,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="FROM...", help="mbox files, Maildirs, .eml files, folders of them; '-': standard input."
        ),
    ],
    mailbox: Annotated[
        str,
        typer.Option(
            "--mailbox",
            metavar="NAME",
            show_default=False,
            help="Where what has no folder of its own goes. [default: INBOX]",
        ),
    ] = "INBOX",
    skip_duplicates: Annotated[
        bool,
        typer.Option("--skip-duplicates", help="Leave out what is there already; goes on after an end."),
    ] = False,
) -> Result:
    """Put messages from files into mailboxes, with flags, keywords, dates and folders.

    mbox, Maildir and .eml are told apart by what they hold. Folders that are missing are made.
    """
    from mailstack.client.account import Account
    from mailstack.client.mailfiles import NoMailError, read, read_stream

    for source in sources:
        if source != "-" and not Path(source).exists():
            raise typer.BadParameter(f"{source}: No such file or directory", param_hint="'FROM'")
    invocation: Invocation = ctx.obj
    endpoints = client_endpoints(running(invocation.options))
    address = address_of(user, endpoints)

    def messages() -> Iterator[Stored]:
        for source in sources:
            yield from read_stream(sys.stdin.buffer, "standard input") if source == "-" else read(source)

    with invocation.console.progress("importing") as progress, Account.open(endpoints, address) as account:
        job = _Import(account, mailbox, skip_duplicates, progress)
        try:
            job.run(messages())
        except NoMailError as error:
            raise Failure("no-mail", str(error), data=job.data()) from None
    text = f"{_messages(job.total)} imported" + (f", {job.skipped} skipped" if job.skipped else "")
    failure = None
    if job.refused:
        failure = Failure(
            "message-refused",
            f"{_messages(len(job.refused))} refused",
            details=[f"{name}: {reason}" for name, reason in job.refused[:SHOWN]],
        )
    return Result(job.data(), text, notice=True, failure=failure)


class _Import:
    """Messages into the mailboxes of one user; neighbours for the same mailbox go in one stream."""

    def __init__(self, account: Account, mailbox: str, skip: bool, progress: Progress) -> None:
        self.skipped = 0
        self.refused: list[tuple[str, str]] = []
        self.counts: dict[str, int] = {}
        self._account = account
        self._default = mailbox
        self._skip = skip
        self._progress = progress
        names, self._separator = account.mailboxes()
        self._there = {("INBOX" if name.upper() == "INBOX" else name) for name in names}
        self._known: dict[str, set[tuple[int, bytes]]] = {}

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def run(self, messages: Iterator[Stored]) -> None:
        """Take them all. Raises `ClientError`, `OSError`, `NoMailError`."""
        following = next(messages, None)
        while following is not None:
            levels = following.mailbox
            name = self._name(levels)
            self._provide(name)

            def same(
                first: Stored = following, levels: tuple[str, ...] = levels, name: str = name
            ) -> Iterator[Stored]:
                nonlocal following
                following = None
                yield from self._wanted([first], name)
                for message in messages:
                    if message.mailbox != levels:
                        following = message
                        return
                    yield from self._wanted([message], name)

            for message, reason in self._account.append(name, same()):
                if reason:
                    self.refused.append((message.source, reason))
                    continue
                self.counts[name] = self.counts.get(name, 0) + 1
                self._progress.far(f"{_messages(self.total)}, now {message.source}")

    def data(self) -> dict[str, object]:
        return {
            "user": self._account.user,
            "imported": self.total,
            "skipped": self.skipped,
            "mailboxes": dict(self.counts),
            "refused": [{"source": name, "reason": reason} for name, reason in self.refused],
        }

    def _name(self, levels: tuple[str, ...]) -> str:
        separator = self._separator or "."
        if not levels or levels == ("INBOX",):
            return self._default
        return separator.join(level.replace(separator, "_") for level in levels)

    def _provide(self, name: str) -> None:
        if name.upper() != "INBOX" and name not in self._there:
            self._account.create(name)
            self._there.add(name)
        if self._skip and name not in self._known:
            self._known[name] = self._account.known(name)

    def _wanted(self, messages: Iterable[Stored], name: str) -> Iterator[Stored]:
        from mailstack.client.stored import keys_of

        for message in messages:
            if self._skip:
                keys = keys_of(message.raw)
                known = self._known[name]
                if known.intersection(keys):
                    self.skipped += 1
                    continue
                known.add(keys[0])
            yield message


def export(
    ctx: typer.Context,
    user: User,
    target: Annotated[
        str, typer.Argument(metavar="TO", help="A file or folder to write; '-': an mbox on standard output.")
    ],
    mailboxes: Annotated[
        list[str] | None,
        typer.Option("--mailbox", metavar="NAME", help="Which; may be repeated. [default: INBOX]"),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All mailboxes of the user.")] = False,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="mbox|maildir|eml",
            callback=one_of(*FORMATS),
            help="[default: mbox for '-' and NAME.mbox, else maildir]",
        ),
    ] = None,
    skip_duplicates: Annotated[
        bool,
        typer.Option("--skip-duplicates", help="Add what is missing to what is there; goes on after an end."),
    ] = False,
) -> Result:
    """Write the messages of mailboxes into files, with flags, keywords, dates and folders.

    An mbox is mboxrd, with flags in Status:, X-Status: and X-Keywords:. With several mailboxes TO is a folder
    with an mbox for each, a Maildir++, or a folder of .eml files with one below it for each mailbox. Messages
    are not marked as read.
    """
    from mailstack.client.account import Account

    invocation: Invocation = ctx.obj
    if mailboxes and everything:
        raise typer.BadParameter("give names, or --all", param_hint="'--mailbox'")
    if target == "-" and invocation.console.json:
        raise typer.BadParameter("standard output is the JSON's", param_hint="'TO'")
    several = everything or len(mailboxes or ()) > 1
    writer = _writer(target, form, several, skip_duplicates)
    endpoints = client_endpoints(running(invocation.options))
    address = address_of(user, endpoints)
    counts: dict[str, int] = {}
    skipped = 0
    with invocation.console.progress("exporting") as progress, Account.open(endpoints, address) as account:
        names, separator = account.mailboxes()
        for name in names if everything else mailboxes or ["INBOX"]:
            messages = account.read(name)
            writer.begin(name, separator)
            try:
                written, left = _write(messages, writer, skip_duplicates, name, progress)
                writer.end()
            except BaseException:
                writer.abandon()
                raise
            counts[name] = written
            skipped += left
    for flag in sorted(writer.lost):
        invocation.console.warn(f"the keyword {flag} has no place there: a Maildir has room for 26")
    data = {
        "user": address,
        "target": target,
        "exported": sum(counts.values()),
        "skipped": skipped,
        "mailboxes": counts,
    }
    text = f"{_messages(sum(counts.values()))} exported" + (f", {skipped} skipped" if skipped else "")
    if target == "-":
        invocation.console.say(text)
        return Result(data, "", notice=True)
    return Result(data, text, notice=True)


def _write(
    messages: Iterator[Stored], writer: Writer, skip: bool, name: str, progress: Progress
) -> tuple[int, int]:
    """How many were written, and how many were there already."""
    from mailstack.client.stored import keys_of

    known = writer.known() if skip else set()
    written = skipped = 0
    for message in messages:
        if known.intersection(keys_of(message.raw)):
            skipped += 1
        else:
            writer.write(message)
            written += 1
        progress.far(f"{name}: {_messages(written + skipped)}")
    return written, skipped


def _writer(target: str, form: str | None, several: bool, skip: bool) -> Writer:
    """What writes there. Raises usage errors and `Failure` for what is there already."""
    from mailstack.client.mailwrite import EmlWriter, MaildirWriter, MboxWriter, StreamWriter

    path = Path(target)
    chosen = form or ("mbox" if target == "-" or path.suffix in (".mbox", ".mbx") else "maildir")
    if target == "-":
        if chosen != "mbox" or skip:
            raise typer.BadParameter("standard output takes a new mbox only", param_hint="'TO'")
        return StreamWriter(sys.stdout.buffer)
    if chosen == "mbox" and not several:
        if path.is_dir():
            raise typer.BadParameter(f"{target}: is a folder", param_hint="'TO'")
        taken = path.exists() and path.stat().st_size > 0
    else:
        if path.exists() and not path.is_dir():
            raise typer.BadParameter(f"{target}: is not a folder", param_hint="'TO'")
        taken = path.is_dir() and any(path.iterdir())
    if taken and not skip:
        raise Failure(
            "exists", f"{target} is there already", hint="--skip-duplicates adds to it what it does not have"
        )
    if chosen == "mbox":
        return MboxWriter(path, folder=several)
    return MaildirWriter(path, folders=several) if chosen == "maildir" else EmlWriter(path, folders=several)


def _messages(count: int) -> str:
    return f"{count} message{'' if count == 1 else 's'}"
