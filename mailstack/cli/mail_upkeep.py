"""`mailstack mail verify` and `mail reindex`: is a mailbox in order, and what to do when it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mailstack.cli.exits import Failure
from mailstack.cli.options import Invocation
from mailstack.cli.output import Console, Result
from mailstack.cli.projects import address_of, client_endpoints, running

if TYPE_CHECKING:
    from mailstack.client.verify import Problem

User = Annotated[
    str, typer.Argument(metavar="USER@DOMAIN", help="Whose; without @DOMAIN of the primary domain.")
]
Which = Annotated[
    str | None,
    typer.Option("--mailbox", metavar="NAME", help="Only this folder. [default: all of them]"),
]


def verify(ctx: typer.Context, user: User, mailbox: Which = None) -> Result:
    """Read every message over IMAP and look at the files: is all of it readable, and does it agree?

    Sizes, headers and structure are what each message's octets say; the UID list, the flags in the files'
    names, the keywords, the index and the cache agree with each other. Nothing is changed, and the service
    goes on. Exit status 1 when there is a problem.
    """
    from mailstack.client.account import Account
    from mailstack.client.verify import Problem, problems

    invocation: Invocation = ctx.obj
    project = running(invocation.options)
    endpoints = client_endpoints(project)
    address = address_of(user, endpoints)
    found: list[Problem] = []
    counts: dict[str, int] = {}
    with invocation.console.progress("verifying") as progress, Account.open(endpoints, address) as account:
        names = account.mailboxes()[0] if mailbox is None else [mailbox]
        for name in names:
            counts[name] = 0

            def told(done: int, count: int, name: str = name) -> None:
                counts[name] = done
                progress.far(f"{name}: {done} of {count} messages")

            found += problems(account, name, structure=True, told=told)
        progress.step("the files")
        for line in project.verify_mailboxes(address, mailbox):
            found.append(Problem(line["mailbox"], line["uid"], line["problem"]))
    total = sum(counts.values())
    data: dict[str, object] = {
        "user": address,
        "messages": total,
        "mailboxes": counts,
        "problems": [{"mailbox": one.mailbox, "uid": one.uid, "problem": one.text} for one in found],
    }

    def text(console: Console) -> None:
        rows = [(one.mailbox, "" if one.uid is None else str(one.uid), one.text) for one in found]
        console.table(("MAILBOX", "UID", "PROBLEM"), rows)
        if not found:
            console.print(f"{_count(total, 'message')} in {_count(len(counts), 'mailbox')}: no problem")

    failure = None
    if found:
        hint = "'mailstack mail reindex' makes index and cache anew; the rest is in the files themselves"
        failure = Failure("mailbox-damaged", _count(len(found), "problem"), hint=hint)
    return Result(data, text, failure=failure)


def reindex(ctx: typer.Context, user: User, mailbox: Which = None) -> Result:
    """Remove index and cache of a mailbox, or of all, and have them made anew from the messages.

    The running service does it, and sessions go on: messages, UIDs and flags stay as they are.
    """
    invocation: Invocation = ctx.obj
    project = running(invocation.options)
    address = address_of(user, client_endpoints(project))
    done = {line["mailbox"]: line["messages"] for line in project.reindex_mailboxes(address, mailbox)}
    data = {"user": address, "messages": sum(done.values()), "mailboxes": done}
    text = f"{_count(sum(done.values()), 'message')} in {_count(len(done), 'mailbox')} indexed anew"
    return Result(data, text, notice=True)


def _count(number: int, what: str) -> str:
    plural = what + ("es" if what.endswith("x") else "s")
    return f"{number} {what if number == 1 else plural}"
