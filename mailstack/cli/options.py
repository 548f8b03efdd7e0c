"""The options that every command takes, before or after its name.

They are declared once, as parameters of the root callback in `main`; `Command` and `Group` copy them, leaving
out what a command uses for itself (`logs -f`, `send --file`). A value given after the command wins.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from mailstack.cli.output import Console


def one_of(*words: str) -> Callable[[str | None], str | None]:
    """A callback for an option that takes one of some words; typer's own choices would load pydantic."""

    def check(value: str | None) -> str | None:
        if value is not None and value not in words:
            raise typer.BadParameter(f"'{value}' is not one of {', '.join(words)}")
        return value

    return check


@dataclass(frozen=True, slots=True)
class Options:
    """The global options as given; `None` means not given."""

    file: str | None = None
    project: str | None = None
    runtime: str | None = None
    output: str | None = None
    quiet: bool = False
    verbose: bool = False

    def merged(self, given: dict[str, Any]) -> Options:
        """With what was given further right on the command line."""
        return replace(self, **{name: value for name, value in given.items() if value})


@dataclass(slots=True)
class Invocation:
    """One run of the program: the options so far and the console. It is the `obj` of every context."""

    options: Options = field(default_factory=Options)
    console: Console = field(default_factory=Console)

    def take(self, given: dict[str, Any]) -> None:
        """Apply options found at one place of the command line."""
        self.options = self.options.merged(given)
        self.console.json = self.options.output == "json"
        self.console.quiet = self.options.quiet
        self.console.verbose = self.options.verbose


SHARED = ("file", "project", "runtime", "output", "quiet", "verbose")
_templates: list[Any] = []  # typer's own option objects; their class has no public name in all versions


def declare(params: Sequence[Any]) -> None:
    """Remember the root's parameters as the ones that every command shares."""
    _templates[:] = [param for param in params if param.name in SHARED]


def _shared_params(own: Sequence[Any]) -> list[Any]:
    """Copies of the global options for a command that has the parameters `own`."""
    taken = {option for param in own for option in (*param.opts, *param.secondary_opts)}
    names = {param.name for param in own}
    copies = []
    for template in _templates:
        free = [option for option in template.opts if option not in taken]
        if not free:
            continue
        param = copy.copy(template)
        param.opts = free
        param.envvar = None  # the root has looked at the environment already
        param.name = f"global_{template.name}"
        assert param.name not in names
        copies.append(param)
    return copies


class _AsTyped:
    """Takes text as it stands: what typer's own conversion of text comes to, without pydantic."""

    def coerce(self, value: Any, *, param: Any, ctx: Any) -> Any:
        if param.multiple or param.nargs == -1:
            return tuple(value or ())
        return value


def keep_text(params: list[Any]) -> list[Any]:
    """Spare text and flags typer's conversion, which takes longer than most commands.

    Newer versions of typer convert through pydantic; older ones have no such attribute and are left alone.
    """
    for param in params:
        kind = getattr(getattr(param, "type_descriptor", None), "annotation", None)
        if kind in (str, list[str], bool) and getattr(param, "_runtime_param", ...) is None:
            param._runtime_param = _AsTyped()
    return params


def _take_shared(ctx: Any) -> None:
    """Move the shared options of a context to the invocation, so that the command does not see them."""
    given = {name: ctx.params.pop(f"global_{name}") for name in SHARED if f"global_{name}" in ctx.params}
    invocation: Invocation = ctx.find_object(Invocation)
    invocation.take(given)


class Command(TyperCommand):
    """A command that also takes the global options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params = [*self.params, *_shared_params(self.params)]

    def get_params(self, ctx: Any) -> list[Any]:
        return keep_text(super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        _take_shared(ctx)
        ctx.find_object(Invocation).console.command = command_name(ctx)
        return super().invoke(ctx)


class Group(TyperGroup):
    """A command group that also takes the global options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params = [*self.params, *_shared_params(self.params)]

    def get_params(self, ctx: Any) -> list[Any]:
        return keep_text(super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        _take_shared(ctx)
        return super().invoke(ctx)


def command_name(ctx: Any) -> str:
    """`mail ls` for the context of that command; `mailstack` for the root."""
    names: list[str] = []
    while ctx is not None and ctx.parent is not None:
        names.insert(0, str(ctx.info_name))
        ctx = ctx.parent
    return " ".join(names) or "mailstack"
