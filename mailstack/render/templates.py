"""The templates: found, compiled, and held to printing escaped values only.

In a checkout they are the repository's `templates/`; in an installed package they are `mailstack/_templates`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from mailstack.render.errors import RenderError
from mailstack.render.escape import FILTERS, Escaped


def folder() -> Path:
    """Where the templates are. Raises `RenderError` when the installation has none."""
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / "_templates", package.parent / "templates"):
        if (candidate / "postfix" / "main.cf.j2").is_file():
            return candidate
    raise RenderError("the templates are missing from this installation; install mailstack again")


def text(template: str, **context: Any) -> str:
    """Fill `template` (its path below the folder, without `.j2`). Raises `RenderError`."""
    try:
        return _environment().get_template(f"{template}.j2").render(context)
    except jinja2.UndefinedError as error:
        raise RenderError(f"templates/{template}.j2: {error.message}") from None


def _only_escaped(value: object) -> Escaped:
    """What every printed expression must be: a template cannot forget to escape."""
    if not isinstance(value, Escaped):
        raise RenderError(f"a template prints a value that no filter has escaped: {value!r}")
    return value


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder()),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - these are not web pages; `_only_escaped` is stricter
        finalize=_only_escaped,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
    )
    environment.filters.update(FILTERS)
    return environment
