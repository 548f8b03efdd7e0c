"""`mailstack queue`: what waits in the MTA."""

from __future__ import annotations

import time
from typing import Any

import typer

from mailstack.cli.options import Command, Group, Invocation
from mailstack.cli.output import Console, Result
from mailstack.cli.projects import running
from mailstack.cli.status import queue_counts

app = typer.Typer(cls=Group, add_completion=False, rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def group() -> None:
    """Look into the mail queue."""


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
            ("QUEUE ID", "QUEUE", "SIZE", "ARRIVED", "SENDER", "RECIPIENT", "REASON"),
            [row for message in messages for row in _rows(message)],
        )

    data = {"project": project.name, "counts": queue_counts(messages), "messages": messages}
    return Result(data, text)


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
