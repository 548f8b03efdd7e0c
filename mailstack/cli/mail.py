"""`mailstack mail`: read a mailbox, over IMAP."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from mailstack.cli import mail_files, mail_upkeep
from mailstack.cli.durations import seconds
from mailstack.cli.exits import Exit, Failure
from mailstack.cli.options import Command, Group, Invocation
from mailstack.cli.output import Console, Result
from mailstack.cli.projects import address_of, client_endpoints, running

if TYPE_CHECKING:
    from mailstack.client.imap import Session
    from mailstack.client.message import Message, Summary

app = typer.Typer(cls=Group, add_completion=False, rich_markup_mode=None, no_args_is_help=True)

User = Annotated[
    str, typer.Argument(metavar="USER@DOMAIN", help="Whose; without @DOMAIN of the primary domain.")
]
Mailbox = Annotated[
    str, typer.Option("--mailbox", metavar="NAME", show_default=False, help="The folder. [default: INBOX]")
]


@app.callback()
def group() -> None:
    """List, show, wait for, remove, import and export messages of a mailbox; verify and reindex it."""


@app.command("ls", cls=Command)
def ls(ctx: typer.Context, user: User, mailbox: Mailbox = "INBOX") -> Result:
    """List the messages of a mailbox.

    The JSON has a cursor: 'mail wait --after CURSOR' sees only what arrives after this listing.
    """
    with _open(ctx, user, mailbox) as session:
        messages = session.messages()
        cursor = session.cursor

    def text(console: Console) -> None:
        if not messages:
            console.print("no messages")
        rows = [
            (
                str(m.uid),
                "" if "\\Seen" in m.flags else "new",
                m.date or m.internal_date,
                m.sender,
                m.subject,
                str(m.size),
            )
            for m in messages
        ]
        console.table(("UID", "", "DATE", "FROM", "SUBJECT", "SIZE"), rows)

    data = {
        "user": session.user,
        "mailbox": mailbox,
        "cursor": str(cursor),
        "count": len(messages),
        "messages": [summary_data(message) for message in messages],
    }
    return Result(data, text)


@app.command("show", cls=Command)
def show(
    ctx: typer.Context,
    user: User,
    uid: Annotated[str | None, typer.Argument(metavar="[UID]", help="Which; default: the newest.")] = None,
    mailbox: Mailbox = "INBOX",
    raw: Annotated[bool, typer.Option("--raw", help="The message as it is stored.")] = False,
) -> Result:
    """Show one message; it is not marked as read."""
    wanted = None if uid is None else _uid(uid)
    with _open(ctx, user, mailbox) as session:
        message = session.fetch(wanted)
    if message is None:
        what = "there is no message" if uid is None else f"there is no message {uid}"
        raise Failure(
            "no-such-message", f"{what} in {mailbox} of {session.user}", hint="see 'mailstack mail ls'"
        )
    data = message_data(session, message)
    if raw:
        octets = message.raw.replace(b"\r\n", b"\n")
        data["raw"] = message.raw.decode("utf-8", "surrogateescape").encode("utf-8", "replace").decode()
        return Result(data, lambda console: console.write(octets))
    return Result(data, lambda console: _print_message(console, message))


@app.command("wait", cls=Command)
def wait(
    ctx: typer.Context,
    user: User,
    subject: Annotated[
        str | None, typer.Option("--subject", metavar="REGEX", help="Only a message whose subject matches.")
    ] = None,
    sender: Annotated[
        str | None, typer.Option("--from", metavar="REGEX", help="Only a message whose From: matches.")
    ] = None,
    after: Annotated[
        str | None,
        typer.Option(
            "--after",
            metavar="CURSOR",
            help="Only messages after a cursor, which 'mail ls' and 'mail wait' give in JSON; now: new ones.",
        ),
    ] = None,
    timeout: Annotated[
        str,
        typer.Option(
            "--timeout", metavar="DURATION", show_default=False, help="How long to wait. [default: 10s]"
        ),
    ] = "10s",
    none: Annotated[
        bool, typer.Option("--none", help="Succeed when no such message arrives in that time.")
    ] = False,
    mailbox: Mailbox = "INBOX",
) -> Result:
    """Wait for a message, told by the server (IMAP IDLE), and print it.

    Without --after a message that is there already counts, the oldest first; with it, only later ones. The
    cursor in the JSON stands behind the message that was found: passed to the next wait, no message is seen
    twice or missed.
    Regular expressions are Python's, found anywhere, upper and lower case alike.

    Exit status 0 with the message, or 3 when none came in time; with --none 0 when none came, else 3.
    """
    from mailstack.client.imap import Cursor

    limit = seconds(timeout, "--timeout")
    wanted = {"subject": _pattern(subject, "--subject"), "sender": _pattern(sender, "--from")}
    start: Cursor | None = None
    if after is not None and after != "now":
        try:
            start = Cursor.parse(after)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="'--after'") from None
    invocation: Invocation = ctx.obj
    with _open(ctx, user, mailbox) as session:
        if start is not None and start.uidvalidity != session.cursor.uidvalidity:
            invocation.console.warn(
                "the cursor is of an earlier mailbox of that name; every message counts as new"
            )
        if after == "now":
            start = session.cursor
        message = session.wait(start, limit, **wanted)
        cursor = session.cursor if message is None else session.cursor.after(message.uid)
    where: dict[str, object] = {"user": session.user, "mailbox": mailbox, "cursor": str(cursor)}
    failure = None
    if message is None and not none:
        failure = Failure(
            "no-message",
            f"no such message for {session.user} within {timeout}",
            hint="see 'mailstack mail ls', 'mailstack queue ls' and 'mailstack logs mta'",
            exit=Exit.NOT_READY,
        )
    elif message is not None and none:
        failure = Failure(
            "unwanted-message",
            f"a message arrived for {session.user}: {message.subject}",
            exit=Exit.NOT_READY,
        )
    if message is None:
        return Result(
            where, "" if failure else f"no such message within {timeout}", notice=True, failure=failure
        )
    return Result(
        {**message_data(session, message), **where},
        lambda console: _print_message(console, message),
        failure=failure,
    )


@app.command("rm", cls=Command)
def rm(
    ctx: typer.Context,
    user: User,
    uids: Annotated[list[str] | None, typer.Argument(metavar="[UID]...", help="Which messages.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All messages of the folder.")] = False,
    mailbox: Mailbox = "INBOX",
) -> Result:
    """Remove messages from a mailbox for good."""
    if bool(uids) == everything:
        raise typer.BadParameter("give UIDs, or --all", param_hint="'UID'")
    wanted = [_uid(uid) for uid in uids or []]
    with _open(ctx, user, mailbox, writable=True) as session:
        removed = session.remove(None if everything else wanted)
    gone = set(wanted) - set(removed)
    data: dict[str, object] = {"user": session.user, "mailbox": mailbox, "removed": removed}
    count = f"{len(removed)} message{'' if len(removed) == 1 else 's'} removed"
    failure = None
    if gone:
        names = ", ".join(map(str, sorted(gone)))
        failure = Failure("no-such-message", f"not in {mailbox}: {names}", hint="see 'mailstack mail ls'")
    return Result(data, count, notice=True, failure=failure)


app.command("import", cls=Command)(mail_files.import_)
app.command("export", cls=Command)(mail_files.export)
app.command("verify", cls=Command)(mail_upkeep.verify)
app.command("reindex", cls=Command)(mail_upkeep.reindex)


def _open(ctx: typer.Context, user: str, mailbox: str, *, writable: bool = False) -> Session:
    from mailstack.client.imap import open_mailbox

    invocation: Invocation = ctx.obj
    endpoints = client_endpoints(running(invocation.options))
    return open_mailbox(endpoints, address_of(user, endpoints), mailbox, writable=writable)


def _uid(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 32):
        raise typer.BadParameter(
            f"'{text}' is not a UID, which 'mailstack mail ls' shows", param_hint="'UID'"
        )
    return int(text)


def _pattern(text: str | None, option: str) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        return re.compile(text, re.IGNORECASE)
    except re.error as error:
        raise typer.BadParameter(f"not a regular expression: {error}", param_hint=f"'{option}'") from None


def summary_data(message: Summary) -> dict[str, object]:
    """What a listing says of a message."""
    return {
        "uid": message.uid,
        "subject": message.subject,
        "from": message.sender,
        "to": list(message.recipients),
        "date": message.date,
        "messageId": message.message_id,
        "internalDate": message.internal_date,
        "size": message.size,
        "flags": list(message.flags),
    }


def message_data(session: Session, message: Message) -> dict[str, object]:
    """A whole message, decoded."""
    return {
        "user": session.user,
        "mailbox": session.mailbox,
        **summary_data(message.summary),
        "headers": [{"name": name, "value": value} for name, value in message.headers],
        "text": message.text,
        "html": message.html,
        "attachments": [
            {"name": part.name, "type": part.content_type, "size": part.size} for part in message.attachments
        ],
    }


def _print_message(console: Console, message: Message) -> None:
    for name in ("From", "To", "Cc", "Date", "Subject"):
        for header, value in message.headers:
            if header.lower() == name.lower():
                console.print(f"{name}: {value}")
    console.print()
    console.print((message.text if message.text is not None else message.html or "").rstrip("\n"))
    for part in message.attachments:
        console.print(f"[attachment: {part.name or 'unnamed'}, {part.content_type}, {part.size} octets]")
