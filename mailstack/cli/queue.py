"""`mailstack queue`: what waits in the MTA, and what an administrator does with it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mailstack.cli.exits import Failure
from mailstack.cli.options import Command, Group, Invocation
from mailstack.cli.output import Console, Result
from mailstack.cli.projects import running
from mailstack.cli.status import queue_counts

if TYPE_CHECKING:
    from mailstack.runtime.model import QueueOperation

Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Which messages.")]
COLUMNS = ("QUEUE ID", "QUEUE", "SIZE", "ARRIVED", "SENDER", "RECIPIENT", "REASON")
Everything = Annotated[bool, typer.Option("--all", help="All messages.")]

app = typer.Typer(cls=Group, add_completion=False, rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def group() -> None:
    """Look into the mail queue, and change it."""


@app.command("ls", cls=Command)
def ls(ctx: typer.Context) -> Result:
    """List the queued messages, as 'postqueue -p' does; in JSON with the fields of 'postqueue -j'."""
    invocation: Invocation = ctx.obj
    project = running(invocation.options)
    messages = project.queue()

    def text(console: Console) -> None:
        if not messages:
            console.print("Mail queue is empty")
            return
        console.table(
            COLUMNS,
            [row for message in messages for row in _rows(message)],
        )

    data = {"project": project.name, "counts": queue_counts(messages), "messages": messages}
    return Result(data, text)


@app.command("show", cls=Command)
def show(
    ctx: typer.Context,
    queue_id: Annotated[str, typer.Argument(metavar="ID", help="Which message.")],
) -> Result:
    """Show a queued message: where it stands, for whom it is, and its content."""
    invocation: Invocation = ctx.obj
    project = running(invocation.options)
    message = next((one for one in project.queue() if one["queue_id"] == queue_id), None)
    if message is None:
        raise _missing([queue_id], "in the queue")
    content = project.queue_content(queue_id).decode("utf-8", "replace")

    def text(console: Console) -> None:
        console.table(COLUMNS, _rows(message))
        console.print()
        console.print(content.rstrip("\n"))

    return Result({"project": project.name, "message": message, "content": content}, text)


@app.command("flush", cls=Command)
def flush(
    ctx: typer.Context,
    ids: Ids = None,
    domain: Annotated[
        str, typer.Option("--domain", metavar="DOMAIN", help="Only mail for that domain.")
    ] = "",
) -> Result:
    """Try deferred mail now: all of it, the messages named, or what is for a domain."""
    if ids and domain:
        raise typer.BadParameter("give messages or a domain, not both", param_hint="'--domain'")
    invocation: Invocation = ctx.obj
    project = running(invocation.options)
    if ids:
        there = _ids(project.queue())
        if absent := [queue_id for queue_id in ids if queue_id not in there]:
            raise _missing(absent, "in the queue")
    project.flush_queue(tuple(ids or ()), domain)
    data = {"project": project.name, "messages": list(ids or ()), "domain": domain or None}
    return Result(data, "deferred mail is being tried", notice=True)


@app.command("hold", cls=Command)
def hold(ctx: typer.Context, ids: Ids = None, everything: Everything = False) -> Result:
    """Set messages aside: they stay in the queue and are not tried."""
    return _change(ctx, "hold", ids, everything, "placed on hold")


@app.command("release", cls=Command)
def release(ctx: typer.Context, ids: Ids = None, everything: Everything = False) -> Result:
    """Let messages go that were placed on hold; they are tried at once."""
    return _change(ctx, "release", ids, everything, "released from hold")


@app.command("rm", cls=Command)
def rm(ctx: typer.Context, ids: Ids = None, everything: Everything = False) -> Result:
    """Remove messages from the queue for good; nobody is told."""
    return _change(ctx, "rm", ids, everything, "removed")


def _change(
    ctx: typer.Context, operation: QueueOperation, ids: list[str] | None, everything: bool, done: str
) -> Result:
    if bool(ids) == everything:
        raise typer.BadParameter("give message IDs, or --all", param_hint="'ID'")
    invocation: Invocation = ctx.obj
    project = running(invocation.options)
    wanted = list(dict.fromkeys(ids or ()))
    held = {"release": (True,), "hold": (False,), "rm": (True, False)}[operation]
    there = _ids(one for one in project.queue() if (one["queue_name"] == "hold") in held)
    absent = [queue_id for queue_id in wanted if queue_id not in there]
    present = [queue_id for queue_id in wanted if queue_id in there]
    count = project.change_queue(operation, present) if present or everything else 0
    data = {"project": project.name, "count": count, "messages": None if everything else present}
    where = {"release": "on hold", "hold": "in the queue, or on hold already", "rm": "in the queue"}
    return Result(
        data,
        f"{count} message{'' if count == 1 else 's'} {done}",
        notice=True,
        failure=_missing(absent, where[operation]) if absent else None,
    )


def _ids(messages: Iterable[dict[str, Any]]) -> set[str]:
    return {str(message["queue_id"]) for message in messages}


def _missing(ids: list[str], where: str) -> Failure:
    return Failure("no-such-message", f"not {where}: {', '.join(ids)}", hint="see 'mailstack queue ls'")


def _rows(message: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row per recipient; what is the same for all stands in the first."""
    arrived = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(message["arrival_time"])))
    head = (
        str(message["queue_id"]),
        str(message["queue_name"]),
        str(message["message_size"]),
        arrived,
        str(message["sender"] or "MAILER-DAEMON"),
    )
    rows = []
    for index, recipient in enumerate(message["recipients"] or [{}]):
        reason = str(recipient.get("delay_reason") or "")
        rows.append(
            ((*head,) if index == 0 else ("",) * len(head)) + (str(recipient.get("address", "")), reason)
        )
    return rows
