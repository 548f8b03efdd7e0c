"""`mailstack send`: a message over submission."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from mailstack.cli.exits import Failure
from mailstack.cli.options import Command, Invocation
from mailstack.cli.output import Result
from mailstack.cli.projects import client_endpoints, running

app = typer.Typer(add_completion=False, rich_markup_mode=None)

DEFAULT_SUBJECT = "A message from mailstack"
DEFAULT_BODY = "Sent with 'mailstack send'.\n"


@app.command(cls=Command)
def send(
    ctx: typer.Context,
    to: Annotated[
        list[str],
        typer.Option(
            "--to",
            metavar="ADDRESS",
            help="A recipient; may be repeated; without @DOMAIN of the primary domain.",
        ),
    ],
    sender: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="ADDRESS",
            show_default=False,
            help="The sender; '' for none. [default: the first user]",
        ),
    ] = None,
    subject: Annotated[str | None, typer.Option("--subject", metavar="TEXT", help="The subject.")] = None,
    body: Annotated[
        str | None, typer.Option("--body", metavar="TEXT", help="The text; '-' reads it from standard input.")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file", metavar="FILE.eml", help="A whole message, sent as it is ('-': standard input)."
        ),
    ] = None,
    attach: Annotated[
        list[str] | None, typer.Option("--attach", metavar="FILE", help="A file to attach; may be repeated.")
    ] = None,
) -> Result:
    """Send a message over submission, with verified TLS and AUTH as the first user.

    Done when the MTA has taken it ("queued as …"); 'mailstack mail wait' tells when it has arrived.
    """
    from mailstack.client import send as client

    invocation: Invocation = ctx.obj
    if file is not None and (body is not None or subject is not None or attach):
        raise typer.BadParameter(
            "a whole message takes no --subject, --body or --attach", param_hint="'--file'"
        )
    if sender == "" and file is None:
        raise typer.BadParameter("the null sender takes a whole message, with --file", param_hint="'--from'")
    endpoints = client_endpoints(running(invocation.options))
    sender = endpoints.user if sender is None else sender
    to = [address if "@" in address else f"{address}@{endpoints.domain}" for address in to]
    if file is not None:
        message = client.stored(_read(file, "--file"))
    else:
        text = DEFAULT_BODY if body is None else sys.stdin.read() if body == "-" else body
        message = client.compose(
            sender=sender,
            recipients=to,
            subject=DEFAULT_SUBJECT if subject is None else subject,
            text=text,
            attachments=[(os.path.basename(path), _read(path, "--attach")) for path in attach or []],
        )
    receipt = client.send(endpoints, sender, to, message.octets)
    refused = [{"recipient": recipient, "reply": reply} for recipient, reply in receipt.refused]
    data: dict[str, object] = {
        "from": sender,
        "to": to,
        "subject": message.subject,
        "messageId": message.message_id,
        "size": len(message.octets),
        "queueId": receipt.queue_id,
        "reply": receipt.reply,
        "tls": receipt.tls,
        "refused": refused,
    }
    if refused:
        failure = Failure(
            "recipient-refused",
            f"{len(refused)} of {len(to)} recipients refused",
            details=[f"{recipient}: {reply}" for recipient, reply in receipt.refused],
            data=data,
        )
        return Result(data, receipt.reply, notice=True, failure=failure)
    return Result(data, receipt.reply, notice=True)


def _read(path: str, option: str) -> bytes:
    try:
        if path == "-":
            return sys.stdin.buffer.read()
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}", param_hint=f"'{option}'") from None
