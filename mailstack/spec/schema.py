"""The JSON schema of `mailstack.yaml`, for editors and other programs."""

from __future__ import annotations

from typing import Any

from mailstack.spec.fields import duration_text
from mailstack.spec.model import DURATION_PATTERN, SIZE_PATTERN, Stack

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The schema as plain values (draft 2020-12)."""
    schema = Stack.model_json_schema(mode="validation")
    for model in (schema, *schema["$defs"].values()):
        for field in model["properties"].values():
            _write_default(field)
    return {
        "$schema": DIALECT,
        "title": "mailstack.yaml",
        **{key: value for key, value in schema.items() if key != "title"},
    }


def _write_default(field: dict[str, Any]) -> None:
    """A default as the file would have it: the models hold seconds and octets."""
    default = field.get("default")
    if field.get("pattern") == DURATION_PATTERN and isinstance(default, int):
        field["default"] = duration_text(default)
    elif field.get("pattern") == SIZE_PATTERN and isinstance(default, int):
        field["default"] = f"{default >> 20}MiB"
