"""The JSON schema of `mailstack.yaml`, for editors and other programs."""

from __future__ import annotations

from typing import Any

from mailstack.spec.model import Stack

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The schema as plain values (draft 2020-12)."""
    schema = Stack.model_json_schema(mode="validation")
    return {
        "$schema": DIALECT,
        "title": "mailstack.yaml",
        **{key: value for key, value in schema.items() if key != "title"},
    }
