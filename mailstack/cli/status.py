"""`mailstack status`: services, health, addresses, ports, queue length, mailbox counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from mailstack.cli.exits import Exit, Failure
from mailstack.cli.options import Command, Invocation
from mailstack.cli.output import Console, Result
from mailstack.cli.projects import client_endpoints, running
from mailstack.cli.views import services_table, status_data

if TYPE_CHECKING:
    from mailstack.runtime.api import Project
    from mailstack.runtime.model import StackStatus

app = typer.Typer(add_completion=False, rich_markup_mode=None)

MAILBOXES_SHOWN = 20
"""Mailboxes in the text; JSON has all."""


@app.command(cls=Command)
def status(ctx: typer.Context) -> Result:
    """Show services, health, addresses, ports, queue length and mailbox counts.

    Exit status 3 when the stack does not run or a service does not answer its own protocol.
    """
    invocation: Invocation = ctx.obj
    console = invocation.console
    project = running(invocation.options)
    found = project.status()
    queue = _queue(project, found, console)
    mailboxes = _mailboxes(project, found, console)
    failure = None
    if not found.ready:
        failing = [service for service in found.services if service.health != "ready"]
        stopped = found.health == "stopped" and all(service.health == "stopped" for service in failing)
        what = "is not running" if stopped else f"is {found.health}"
        failure = Failure(
            "not-running" if stopped else "not-ready",
            f"{found.project} {what}",
            hint="start it with 'mailstack up'" if stopped else "see 'mailstack logs'",
            exit=Exit.NOT_READY,
        )

    def text(console: Console) -> None:
        where = f" at {found.endpoints.host}" if found.endpoints else ""
        console.print(
            f"{found.project}: {found.health}"
            + (f" ({found.runtime} runtime{where})" if found.runtime else "")
        )
        services_table(console, found.services)
        if queue is not None:
            parts = ", ".join(f"{count} {name}" for name, count in queue.items() if name != "total" and count)
            console.print(f"queue: {queue['total']}" + (f" ({parts})" if parts else ""))
        if mailboxes:
            rows = [
                (address, str(counts["messages"]), str(counts["unseen"]))
                for address, counts in list(mailboxes.items())[:MAILBOXES_SHOWN]
            ]
            console.table(("MAILBOX", "MESSAGES", "UNSEEN"), rows)
            if len(mailboxes) > MAILBOXES_SHOWN:
                console.print(f"… and {len(mailboxes) - MAILBOXES_SHOWN} more")

    data = {**status_data(found), "queue": queue, "mailboxes": mailboxes}
    return Result(data, text, failure=failure)


def _answers(found: StackStatus, name: str) -> bool:
    return any(service.service == name and service.health == "ready" for service in found.services)


def _queue(project: Project, found: StackStatus, console: Console) -> dict[str, int] | None:
    """Messages per queue and in all; None when the MTA does not answer."""
    from mailstack.runtime.errors import RuntimeFailure

    if not _answers(found, "mta"):
        return None
    try:
        messages = project.queue()
    except RuntimeFailure as error:
        console.warn(f"the queue cannot be read: {error}")
        return None
    return queue_counts(messages)


def queue_counts(messages: list[dict[str, Any]]) -> dict[str, int]:
    """Messages per queue and in all."""
    counts = {"total": len(messages)}
    for message in messages:
        name = str(message.get("queue_name", ""))
        counts[name] = counts.get(name, 0) + 1
    return counts


def _mailboxes(project: Project, found: StackStatus, console: Console) -> dict[str, dict[str, int]] | None:
    """INBOX counts per user, asked over IMAP; None when that is not possible."""
    from mailstack.client.errors import ClientError

    if not _answers(found, "mailbox") or found.endpoints is None:
        return None
    from mailstack.client import imap

    endpoints = client_endpoints(project)
    if not {"imap", "imaps"} & set(endpoints.ports):
        return None
    try:
        return {
            user: {"messages": counts.messages, "unseen": counts.unseen}
            for user, counts in imap.counts(endpoints, endpoints.users)
        }
    except ClientError as error:
        console.warn(f"the mailboxes cannot be counted: {error}")
        return None
