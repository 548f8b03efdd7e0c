"""`mailstack render`: the tree of native configuration files."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailstack.cli.options import Command, Invocation
from mailstack.cli.output import Console, Result
from mailstack.cli.projects import spec_path, with_spec

if TYPE_CHECKING:
    from mailstack.render import Tree
    from mailstack.runtime.api import Project

app = typer.Typer(add_completion=False, rich_markup_mode=None)

DEFAULT_ROOT = Path("/etc/mailstack")
"""Where the files think they are when they are only printed."""


@app.command(cls=Command)
def render(
    ctx: typer.Context,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write the files there; default: print them.")
    ] = None,
    diff: Annotated[
        bool, typer.Option("--diff", help="Only what would change in the stack that is running.")
    ] = False,
) -> Result:
    """Render the configuration of Postfix, Cyrus SASL, Dovecot and BIND.

    The files are for a machine of your own, on the standard ports: start Postfix on DIR/postfix, Dovecot on
    DIR/dovecot/dovecot.conf and named on DIR/bind/named.conf. They hold password hashes; keep them private.
    With --diff: the files of the running stack against what the spec says now.
    """
    invocation: Invocation = ctx.obj
    if diff:
        if out is not None:
            raise typer.BadParameter("--diff writes no files", param_hint="'--out'")
        return _diff(with_spec(invocation.options))
    from mailstack.runtime.api import render_host
    from mailstack.spec import load

    stack = load(spec_path(invocation.options))
    root = (out or DEFAULT_ROOT).absolute()
    tree = render_host(stack, root)
    for address, user in stack.users():
        if user.password is None and user.password_file is None and user.password_env is None:
            invocation.console.warn(
                f"{address} has no password in the spec; give it one before you use the files"
            )
    if out is None:
        return Result(
            {"project": stack.project, "digest": tree.digest, "files": _contents(tree)}, _printer(tree)
        )
    written = write_tree(tree, out)
    data = {
        "project": stack.project,
        "digest": tree.digest,
        "out": str(root),
        "written": [str(path) for path in written],
    }
    return Result(data, "\n".join(str(path) for path in written), notice=True)


def write_tree(tree: Tree, out: Path) -> list[Path]:
    """Write every file below `out` with its mode; files that are there otherwise stay. Raises `OSError`."""
    written = []
    for name, file in tree.files.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.new")
        temporary.unlink(missing_ok=True)
        temporary.touch(mode=0o600)
        temporary.write_bytes(file.data)
        temporary.chmod(file.mode)
        temporary.replace(path)
        written.append(path)
    return written


def _contents(tree: Tree) -> dict[str, dict[str, str]]:
    return {
        name: {"mode": f"{file.mode:04o}", "content": file.data.decode("utf-8", "replace")}
        for name, file in tree.files.items()
    }


def _printer(tree: Tree) -> str:
    """Every file under a heading, as tail(1) prints several."""
    return "\n".join(
        f"==> {name} <==\n{file.data.decode('utf-8', 'replace')}" for name, file in tree.files.items()
    ).rstrip("\n")


def _diff(project: Project) -> Result:
    before = project.rendered()
    after = {name: file.data for name, file in project.render().files.items()}
    changes = {
        name: list(unified(name, before.get(name), after.get(name)))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    }

    def text(console: Console) -> None:
        for lines in changes.values():
            for line in lines:
                console.print(line)
        if not changes:
            console.say("no difference")

    data: Mapping[str, object] = {
        "project": project.name,
        "changed": bool(changes),
        "files": {name: "\n".join(lines) for name, lines in changes.items()},
    }
    return Result(data, text)


def unified(name: str, before: bytes | None, after: bytes | None) -> Iterator[str]:
    """A unified diff of one file, as `patch` reads it; None: the file is not there."""
    yield from difflib.unified_diff(
        (before or b"").decode("utf-8", "replace").splitlines(),
        (after or b"").decode("utf-8", "replace").splitlines(),
        f"a/{name}" if before is not None else "/dev/null",
        f"b/{name}" if after is not None else "/dev/null",
        lineterm="",
    )
