"""`mailstack schema`: the JSON schema of the spec."""

from __future__ import annotations

import json

import typer

from mailstack.cli.options import Command
from mailstack.cli.output import Result

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(cls=Command)
def schema() -> Result:
    """Print the JSON schema of the spec, for editors and checkers.

    For completion in an editor: mailstack schema > mailstack.schema.json
    """
    from mailstack.spec.schema import json_schema

    document = json_schema()
    return Result(document, json.dumps(document, indent=2, ensure_ascii=False))
