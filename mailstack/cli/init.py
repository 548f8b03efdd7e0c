"""`mailstack init`: a commented spec to start from."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mailstack.cli.exits import Exit, Failure
from mailstack.cli.options import Command, Invocation
from mailstack.cli.output import Console, Result
from mailstack.cli.projects import SPEC_NAME

app = typer.Typer(add_completion=False, rich_markup_mode=None)

DEFAULT_DOMAIN = "mail.test"
"""Below `.test`, which never exists in the world's DNS (RFC 6761 §6.2)."""
DEFAULT_USERS = ("alice", "bob")
SCHEMA_NAME = "mailstack.schema.json"
IGNORED = (
    ("# written by 'mailstack init' and 'mailstack schema'; anyone can make it again", f"/{SCHEMA_NAME}"),
    ("# written by 'mailstack env --format dotenv > .env.mailstack'; holds a password", "/.env.mailstack"),
)
"""Comment and pattern of what git must not keep."""


@app.command(cls=Command)
def init(
    ctx: typer.Context,
    folder: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="Where; default: here.")] = None,
    domain: Annotated[
        str,
        typer.Option(
            "--domain",
            metavar="DOMAIN",
            show_default=False,
            help=f"The mail domain. [default: {DEFAULT_DOMAIN}]",
        ),
    ] = DEFAULT_DOMAIN,
    user: Annotated[
        list[str] | None,
        typer.Option(
            "--user",
            metavar="NAME",
            show_default=False,
            help="A mailbox; may be repeated. [default: alice, bob]",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help=f"Overwrite a {SPEC_NAME} that is there.")] = False,
) -> Result:
    """Write a commented mailstack.yaml, its JSON schema for editors, and what git must ignore."""
    from mailstack.spec import SpecErrors, loads
    from mailstack.spec.schema import json_schema

    invocation: Invocation = ctx.obj
    target = folder or Path()
    name = invocation.options.project
    users = list(dict.fromkeys(one.removesuffix(f"@{domain}") for one in user or DEFAULT_USERS))
    text = spec_text(domain, users, project=name)
    try:
        stack = loads(text, SPEC_NAME, project="mailstack")
    except SpecErrors as error:
        reasons = sorted({problem.message for problem in error.problems})
        raise Failure(
            "usage", "; ".join(reasons), hint="see 'mailstack init --help'", exit=Exit.USAGE
        ) from None
    spec = target / SPEC_NAME
    if os.path.lexists(spec) and not force:
        raise Failure(
            "exists", f"{spec} is there already", hint="--force overwrites it, or name another folder"
        )
    target.mkdir(parents=True, exist_ok=True)
    schema = target / SCHEMA_NAME
    _write(schema, json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n")
    ignore = target / ".gitignore"
    _ignore(ignore)
    _write(spec, text)

    def done(console: Console) -> None:
        console.print(f"{spec} written: {stack.primary} with {', '.join(users)}")
        where = "" if target.samefile(".") else f"cd {target} && "
        console.print(f"next: {where}mailstack up")

    data = {
        "spec": str(spec.absolute()),
        "domain": stack.primary,
        "users": [address for address, _ in stack.users()],
        "files": [str(path.absolute()) for path in (spec, schema, ignore)],
    }
    return Result(data, done, notice=True)


def _write(path: Path, text: str) -> None:
    """Whole or not at all, also when the disk is full. Raises `OSError`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _ignore(path: Path) -> None:
    """Add the patterns that a .gitignore does not have yet; the rest of it stays as it is."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    present = {line.strip() for line in before.splitlines()}
    wanted = [f"{comment}\n{pattern}\n" for comment, pattern in IGNORED if pattern not in present]
    if wanted:
        gap = "" if not before or before.endswith("\n") else "\n"
        _write(path, before + gap + "".join(wanted))


def spec_text(domain: str, users: Sequence[str], *, project: str | None = None) -> str:
    """A spec with every setting that people change most, explained; what is commented out is the default."""
    first = users[0]
    people = "".join(f"      {_scalar(user)}: {{}}\n" for user in users)
    project_line = (
        f"project: {_scalar(project)}"
        if project
        else "# project: name           # default: this folder's name"
    )
    return f"""\
# yaml-language-server: $schema=./{SCHEMA_NAME}
#
# One file, one mail domain. 'mailstack check' reports what is wrong with it, 'mailstack up' starts it,
# 'mailstack schema' has every key. A line that is commented out shows the default.

{project_line}

domains:                      # at least one; the first is the primary one
  {_scalar(domain)}:
    # hostname: mail.DOMAIN   # the mail host's name
    # address: 192.0.2.10     # published in the zone; default: the address that the stack itself has
    # catch_all: null         # a user or address that gets everything sent to nobody
    users:
      # Without a password one is generated and kept outside of this folder: see 'mailstack env'.
      # Else one of: password: secret | password_file: FILE | password_env: VARIABLE
{people}    aliases:
      postmaster: [{_scalar(first)}]
      abuse: [postmaster]
    # records:                # further DNS records, as in a zone file
    #   - "www IN A 192.0.2.10"
    # dmarc: quarantine       # none | quarantine | reject | off: what others do with forged mail
    # mta_sts: testing        # testing | enforce | off; 'mailstack dns records' prints the policy to serve
    # caa: []                 # who may issue certificates: [letsencrypt.org]
  # another.test:             # a second domain, which can mail the first
  #   users:
  #     carol: {{}}

# mta:
#   networks: [127.0.0.0/8]   # clients that may send anywhere without a password
#   relayhost: null           # "[smtp.example.net]:587": send everything else there
#   message_size_limit: 50MiB
#   queue: {{minimal_backoff: 5m, maximal_backoff: 4000s, lifetime: 5d}}
#   postfix: {{}}               # any further main.cf parameter, by its Postfix name

# mailbox:
#   protocols: [imap, pop3, lmtp]
#   allow_plaintext_auth: false

# dns:
#   ttl: 1d
#   forward: []               # resolvers for other names; none: only the stack's own zones exist
#   dnssec: false             # true: the zones are signed
#   faults: null              # a file that says which answers come out wrong, for tests

# tls: {{mode: ca}}             # ca: an own throwaway CA | files, with cert: and key: | off

# network:
#   publish: auto             # free ports of this machine | standard | {{smtp: 2525, imap: 1143}}
#   bind: 127.0.0.1
"""


_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-")


def _scalar(text: str) -> str:
    """A YAML scalar that is read back as this text, whatever it holds."""
    if (
        text[:1].isalpha()
        and set(text) <= _PLAIN
        and text not in ("yes", "no", "on", "off", "true", "false", "null")
    ):
        return text
    return json.dumps(text)
