"""`mailstack dns`: the records of the domains, whether a server has them, the running one's answers."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from mailstack.cli import dns_change
from mailstack.cli.durations import seconds
from mailstack.cli.exits import Failure
from mailstack.cli.options import Command, Group, Invocation
from mailstack.cli.output import Console, Result
from mailstack.cli.projects import client_endpoints, running, with_spec

if TYPE_CHECKING:
    from mailstack.cli.zones import ZoneRecord
    from mailstack.client.dns_check import Wanted
    from mailstack.render import Facts
    from mailstack.runtime.api import Project
    from mailstack.spec import Stack


class Form(StrEnum):
    """How `records` prints."""

    TABLE = "table"
    ZONE = "zone"


app = typer.Typer(cls=Group, add_completion=False, rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def group() -> None:
    """Show the domain's records, see whether a server has them, ask or change the running DNS server."""


@app.command("records", cls=Command)
def records(
    ctx: typer.Context,
    form: Annotated[
        Form, typer.Option("--form", help="As a table, or as lines of a zone file.", show_default=False)
    ] = Form.TABLE,
) -> Result:
    """Print the records to give a registrar, for a server that uses the standard ports.

    They are what the rendered zones hold, without SOA and NS, which the registrar's own servers have. PTR
    records are for whoever gave you the addresses, DS records for the registrar of a signed zone.
    """
    from mailstack.cli import zones

    invocation: Invocation = ctx.obj
    project = with_spec(invocation.options)
    stack, facts = project.stack, project.facts()
    rows = zones.published_records(stack, facts)
    _warn_of_gaps(invocation.console, stack, facts)
    others = zones.pointers(stack)
    if stack.dns.dnssec:
        others += _delegations(invocation, project)
    policies = zones.policies(stack)

    def text(console: Console) -> None:
        if form is Form.ZONE:
            for r in rows:
                console.print(r.line())
            for r in others:
                console.say(f"for the zone {r.zone}: {r.line().expandtabs(1)}")
        else:
            columns = ("NAME", "TTL", "TYPE", "DATA")
            console.table(columns, [(r.name, str(r.ttl), r.type, r.data) for r in (*rows, *others)])
        for policy in policies:
            say = console.say if form is Form.ZONE else console.print
            say(f"\n{policy.url} has to be served by a web server of yours, with this text:")
            say(policy.text.rstrip("\n"))

    data = {
        "records": [_json(r) | {"zone": r.zone} for r in (*rows, *others)],
        "policies": [{"domain": p.domain, "url": p.url, "text": p.text} for p in policies],
    }
    return Result(data, text)


def _json(record: ZoneRecord | Wanted) -> dict[str, object]:
    return {"name": record.name, "ttl": record.ttl, "type": record.type, "data": record.data}


def _warn_of_gaps(console: Console, stack: Stack, facts: Facts) -> None:
    for name, domain in stack.domains.items():
        if domain.address is None:
            console.warn(f"domains.{name}.address is not set: its A records are left out")
    if stack.tls.mode != "off" and facts.key_digest is None:
        console.warn(
            "there is no certificate yet: the TLSA records are left out until 'mailstack up' has made it"
        )


def _delegations(invocation: Invocation, project: Project) -> list[ZoneRecord]:
    """The DS records, as far as the server that has the keys can be asked for them."""
    from mailstack.cli import zones
    from mailstack.client.errors import ClientError
    from mailstack.runtime.errors import NotUp

    try:
        return zones.delegations(project.stack, client_endpoints(project))
    except (ClientError, NotUp) as error:
        invocation.console.warn(f"the DS records are left out: the name server makes the keys, and {error}")
        return []


@app.command("check", cls=Command)
def check(
    ctx: typer.Context,
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="ADDR[:PORT]",
            show_default=False,
            help="Who is asked. [default: this machine's resolver]",
        ),
    ] = None,
    timeout: Annotated[
        str,
        typer.Option(
            "--timeout", metavar="DURATION", show_default=False, help="For each answer. [default: 5s]"
        ),
    ] = "5s",
) -> Result:
    """See whether a name server has the records that the domain needs.

    For each one that is missing, the record to add; for each one in the way, the record to remove. Exit
    status 1 when there is any, 3 when the server does not answer.
    """
    from mailstack.cli import zones
    from mailstack.client import dns_check

    limit = seconds(timeout, "--timeout")
    invocation: Invocation = ctx.obj
    project = with_spec(invocation.options)
    stack, facts = project.stack, project.facts()
    try:
        host, port = dns_check.system_server() if server is None else dns_check.address(server)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="'--server'") from None
    _warn_of_gaps(invocation.console, stack, facts)
    rows_wanted = zones.published_records(stack, facts) + zones.pointers(stack)
    if stack.dns.dnssec:
        rows_wanted += _delegations(invocation, project)
    wanted = [dns_check.Wanted(r.name, r.ttl, r.type, r.data) for r in rows_wanted]
    with invocation.console.progress(f"asking {host} port {port}"):
        findings = dns_check.check(wanted, dns_check.asker(host, port, limit))
    for finding in findings:
        if finding.state == "elsewhere":
            r = finding.record
            invocation.console.warn(f"{host} knows nothing of {r.name} {r.type}: ask a resolver for it")
    advice = {"ok": "", "missing": "add", "wrong": "remove"}
    rows = [(f.state, advice[f.state], f.record) for f in findings if f.state in advice]
    data = {
        "server": f"{host}:{port}",
        "records": [{"state": state} | _json(r) for state, _, r in rows],
    }

    def text(console: Console) -> None:
        for state, what, record in rows:
            console.print(f"{state:8}{what + ': ' if what else ''}{_line(record)}")

    bad = [state for state, _, _ in rows if state != "ok"]
    failure = None
    if bad:
        asked = sum(state != "wrong" for state, _, _ in rows)
        missing, wrong = bad.count("missing"), bad.count("wrong")
        told = f"{host} port {port}: {missing} of {asked} records missing, {wrong} wrong"
        failure = Failure("dns-differs", told)
    return Result(data, text, failure=failure)


def _line(record: ZoneRecord | Wanted) -> str:
    return f"{record.name}\t{record.ttl}\tIN\t{record.type}\t{record.data}"


app.command("set", cls=Command)(dns_change.set_)
app.command("unset", cls=Command)(dns_change.unset)


@app.command("stats", cls=Command)
def stats(ctx: typer.Context) -> Result:
    """Show what the running DNS server was asked and what it answered, since it started."""
    invocation: Invocation = ctx.obj
    found = running(invocation.options).dns_statistics()

    def text(console: Console) -> None:
        rows = [
            (section, name, str(count))
            for section in ("requests", "queries", "rcodes", "server")
            for name, count in found[section].items()
        ]
        rows += [
            (zone, name, str(count))
            for zone in found["zones"]
            for name, count in found["zones"][zone].items()
        ]
        console.table(("WHAT", "OF", "COUNT"), rows)

    return Result(found, text)


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
        if invocation.options.verbose:
            took = f"{answer.seconds * 1000:.1f} ms"
            console.say(f"{answer.server}: {answer.rcode}, flags {' '.join(answer.flags)}, {took}")
        for r in answer.answers:
            console.print(f"{r.name}\t{r.ttl}\tIN\t{r.type}\t{r.data}")
        for section in (answer.authority, answer.additional) if invocation.options.verbose else ():
            for r in section:
                console.say(f"{r.name}\t{r.ttl}\tIN\t{r.type}\t{r.data}")
        if answer.rcode == "NOERROR" and not answer.answers:
            console.say(f"{answer.name} has no {answer.type} record")

    failure = None
    if answer.rcode != "NOERROR":
        failure = Failure(f"dns-{answer.rcode.lower()}", f"{answer.name} {answer.type}: {answer.rcode}")
    return Result(data, text, failure=failure)
