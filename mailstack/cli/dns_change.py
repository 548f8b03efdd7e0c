"""`mailstack dns set` and `unset`: change a running zone."""

from __future__ import annotations

from typing import Annotated

import typer

from mailstack.cli.durations import seconds
from mailstack.cli.options import Invocation
from mailstack.cli.output import Console, Result
from mailstack.cli.projects import client_endpoints, running

LONGEST_TTL = 0x7FFFFFFF
"""Seconds (RFC 2181 §8)."""

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A name in one of the zones; with PTR also an address.")
]
Timeout = Annotated[
    str,
    typer.Option("--timeout", metavar="DURATION", show_default=False, help="For each answer. [default: 5s]"),
]


def set_(
    ctx: typer.Context,
    name: Name,
    kind: Annotated[str, typer.Argument(metavar="TYPE", help="A, MX, TXT, …")],
    value: Annotated[
        list[str],
        typer.Argument(metavar="VALUE", help="The data of each record, in quotes: '10 mail.x.test'."),
    ],
    ttl: Annotated[
        str | None,
        typer.Option(
            "--ttl",
            metavar="DURATION",
            show_default=False,
            help="How long others may keep it. [default: as what it replaces, or as the zone]",
        ),
    ] = None,
    timeout: Timeout = "5s",
) -> Result:
    """Change a running zone: NAME has these records of TYPE from now on, and no others.

    The change survives a restart; the next 'mailstack up' with a spec that changes the zone drops it.
    """
    life = _ttl(ttl)
    return _change(ctx.obj, name, kind, value, remove=False, ttl=life, timeout=timeout)


def unset(
    ctx: typer.Context,
    name: Name,
    kind: Annotated[
        str | None, typer.Argument(metavar="[TYPE]", help="A, MX, TXT, …; default: all types.")
    ] = None,
    value: Annotated[
        list[str] | None, typer.Argument(metavar="[VALUE]", help="Only these records; default: all of TYPE.")
    ] = None,
    timeout: Timeout = "5s",
) -> Result:
    """Remove records from a running zone, as 'dns set' adds them.

    Exit status 1 when there is no such record.
    """
    return _change(ctx.obj, name, kind, value or (), remove=True, ttl=None, timeout=timeout)


def _ttl(text: str | None) -> int | None:
    if text is None:
        return None
    value = seconds(text, "--ttl")
    if value != int(value) or value > LONGEST_TTL:
        raise typer.BadParameter(
            f"'{text}' is not a whole number of seconds up to {LONGEST_TTL}", param_hint="'--ttl'"
        )
    return int(value)


def _change(
    invocation: Invocation,
    name: str,
    kind: str | None,
    values: list[str] | tuple[()],
    *,
    remove: bool,
    ttl: int | None,
    timeout: str,
) -> Result:
    from mailstack.client import dns_update

    limit = seconds(timeout, "--timeout")
    project = running(invocation.options)
    endpoints, zones = client_endpoints(project), project.zones()
    try:
        wanted = dns_update.change(name, kind, values, zones)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="'NAME TYPE VALUE'") from None
    life = dns_update.send(endpoints, project.update_secret(), wanted, remove=remove, ttl=ttl, timeout=limit)
    project.remember_change(wanted.zone)
    data = {
        "zone": wanted.zone,
        "name": wanted.name,
        "type": wanted.type,
        "ttl": None if remove else life,
        "records": list(wanted.records),
    }

    def text(console: Console) -> None:
        if remove:
            what = " ".join(filter(None, (wanted.name, wanted.type, ", ".join(wanted.records))))
            console.print(f"removed: {what}")
        for record in () if remove else wanted.records:
            console.print(f"{wanted.name}\t{life}\tIN\t{wanted.type}\t{record}")

    return Result(data, text, notice=True)
