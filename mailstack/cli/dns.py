"""`mailstack dns`: the records of the domains, and questions to the running server."""

from __future__ import annotations

from typing import Annotated

import typer

from mailstack.cli.durations import seconds
from mailstack.cli.exits import Failure
from mailstack.cli.options import Command, Group, Invocation
from mailstack.cli.output import Console, Result
from mailstack.cli.projects import client_endpoints, running, with_spec

app = typer.Typer(cls=Group, add_completion=False, rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def group() -> None:
    """Show the domain's records, or ask the running DNS server."""


@app.command("records", cls=Command)
def records(ctx: typer.Context) -> Result:
    """Print the records to give a registrar, for a server that uses the standard ports.

    They are what the rendered zones hold, without SOA and NS, which the registrar's own servers have.
    """
    from mailstack.cli.zones import published_records

    invocation: Invocation = ctx.obj
    stack = with_spec(invocation.options).stack
    rows = published_records(stack)
    for name, domain in stack.domains.items():
        if domain.address is None:
            invocation.console.warn(f"domains.{name}.address is not set: its A records are left out")

    def text(console: Console) -> None:
        console.table(("NAME", "TTL", "TYPE", "DATA"), [(r.name, str(r.ttl), r.type, r.data) for r in rows])

    data = {
        "records": [
            {"zone": r.zone, "name": r.name, "ttl": r.ttl, "type": r.type, "data": r.data} for r in rows
        ]
    }
    return Result(data, text)


@app.command("query", cls=Command)
def query(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name; with PTR also an address.")],
    kind: Annotated[str | None, typer.Argument(metavar="[TYPE]", help="A, MX, TXT, …; default: A.")] = None,
    tcp: Annotated[bool, typer.Option("--tcp", help="Over TCP.")] = False,
    timeout: Annotated[
        str,
        typer.Option(
            "--timeout", metavar="DURATION", show_default=False, help="How long to wait. [default: 5s]"
        ),
    ] = "5s",
) -> Result:
    """Ask the running DNS server.

    Exit status 1 when it answers with an error (NXDOMAIN, REFUSED, …), 3 when it does not answer.
    """
    from mailstack.client import dns

    limit = seconds(timeout, "--timeout")
    invocation: Invocation = ctx.obj
    name, kind = dns.in_order(name, kind or "A")
    try:
        question = dns.question(name, kind)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="'NAME TYPE'") from None
    endpoints = client_endpoints(running(invocation.options))
    answer = dns.ask(endpoints, question, timeout=limit, tcp=tcp)
    data: dict[str, object] = {
        "name": answer.name,
        "type": answer.type,
        "server": answer.server,
        "rcode": answer.rcode,
        "flags": list(answer.flags),
        "answers": [{"name": r.name, "ttl": r.ttl, "type": r.type, "data": r.data} for r in answer.answers],
        "authority": [
            {"name": r.name, "ttl": r.ttl, "type": r.type, "data": r.data} for r in answer.authority
        ],
        "additional": [
            {"name": r.name, "ttl": r.ttl, "type": r.type, "data": r.data} for r in answer.additional
        ],
        "milliseconds": round(answer.seconds * 1000, 2),
    }

    def text(console: Console) -> None:
        for r in answer.answers:
            console.print(f"{r.name}\t{r.ttl}\tIN\t{r.type}\t{r.data}")
        if answer.rcode == "NOERROR" and not answer.answers:
            console.say(f"{answer.name} has no {answer.type} record")

    failure = None
    if answer.rcode != "NOERROR":
        failure = Failure(f"dns-{answer.rcode.lower()}", f"{answer.name} {answer.type}: {answer.rcode}")
    return Result(data, text, failure=failure)
