"""docs/spec.md and docs/parameters.md are true: every key stands there, with its default, and none that is none."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mailstack.postfix_parameters import HONOURED, PARAMETERS
from mailstack.postfix_refusals import REFUSED
from mailstack.spec import loads
from mailstack.spec.postfix_keys import FIXED, OWNED, key_problem
from mailstack.spec.schema import json_schema

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGE = (DOCS / "spec.md").read_text()
SECTIONS = {
    "The whole file": ("", "Stack"),
    "`domains.DOMAIN`": ("domains.DOMAIN.", "Domain"),
    "`domains.DOMAIN.users.USER`": ("domains.DOMAIN.users.USER.", "User"),
    "`mta`": ("mta.", "Mta"),
    "`mta.queue`": ("mta.queue.", "Queue"),
    "`mailbox`": ("mailbox.", "Mailbox"),
    "`dns`": ("dns.", "Dns"),
    "`sasl`": ("sasl.", "Sasl"),
    "`tls`": ("tls.", "Tls"),
    "`network`": ("network.", "Network"),
}
"""Heading -> (what stands before its keys, the model that they belong to)."""
IN_WORDS = {
    "project": "the name of the spec's folder",
    "domains": "*needed*",
    "domains.DOMAIN.hostname": "`mail.DOMAIN`",
    "domains.DOMAIN.address": "the stack's own",
}
"""Defaults that depend on something."""
BASE: dict[str, Any] = {"domains": {"base.test": {"users": {"anna": {}}}}}


def sections() -> dict[str, str]:
    parts = re.split(r"^## (.+)\n", PAGE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(text: str) -> dict[str, list[str]]:
    """Key -> the other cells of its row."""
    found = {}
    for line in text.splitlines():
        if line.startswith("| `"):
            key, *cells = (cell.strip() for cell in line.strip("|").split(" | "))
            assert key not in found, f"{key} stands twice"
            found[key.strip("` ")] = cells
    return found


def models() -> dict[str, dict[str, Any]]:
    schema = json_schema()
    return {
        "Stack": schema["properties"],
        **{name: model["properties"] for name, model in schema["$defs"].items()},
    }


def default_text(field: dict[str, Any]) -> str:
    match field.get("default", {}):
        case list(items):
            return f"`[{', '.join(items)}]`"
        case bool(value):
            return f"`{str(value).lower()}`"
        case None:
            return "`null`"
        case value:
            return f"`{value}`"


def examples() -> Iterator[str]:
    return (match[1] for match in re.finditer(r"```yaml\n(.*?)```", PAGE, re.DOTALL))


def keys_of(value: object, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Every key of an example in the page's spelling."""
    if isinstance(value, dict):
        for key, item in value.items():
            name = {("domains",): "DOMAIN", ("domains", "DOMAIN", "users"): "USER"}.get(path, str(key))
            yield ".".join((*path, name))
            yield from keys_of(item, (*path, name))


def test_the_page_has_a_section_for_every_mapping() -> None:
    assert list(sections()) == list(SECTIONS)
    assert {model for _, model in SECTIONS.values()} == set(models())


@pytest.mark.parametrize("heading", SECTIONS)
def test_every_key_stands_there_with_its_default(heading: str) -> None:
    prefix, model = SECTIONS[heading]
    fields = models()[model]
    written = rows(sections()[heading])
    assert list(written) == list(fields)
    for key, (value, default, meaning) in written.items():
        assert value and meaning
        assert default == IN_WORDS.get(prefix + key, default_text(fields[key])), key


def test_words_of_a_choice_are_all_named() -> None:
    for heading, (_, model) in SECTIONS.items():
        written = rows(sections()[heading])
        for key, field in models()[model].items():
            words = field.get("enum", []) or field.get("items", {}).get("enum", [])
            assert all(f"`{word}`" in written[key][0] for word in words), key


def test_links_lead_somewhere() -> None:
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in sections()}
    assert set(re.findall(r"\(#([^)]+)\)", PAGE)) <= anchors


def test_examples_are_accepted_and_show_every_key() -> None:
    shown: set[str] = set()
    for text in examples():
        value = yaml.safe_load(text)
        loads(yaml.safe_dump(value if "domains" in value else BASE | value, sort_keys=False))
        shown |= set(keys_of(value))
    wanted = {prefix + key for prefix, model in SECTIONS.values() for key in models()[model]}
    assert wanted <= shown


# ---- docs/parameters.md


def parameters_page() -> str:
    """The page, from the one table of parameters."""
    lines = [
        "# Parameters of main.cf under `mta.postfix`",
        "",
        "Made from `mailstack/postfix_parameters.py` by `make golden`: every parameter that a spec may set, with its",
        "type, Postfix's default and who acts on it. What the rendered main.cf sets by itself `mailstack render` shows.",
        "",
        "| parameter | type | default | for | meaning |",
        "|---|---|---|---|---|",
    ]
    for name in sorted(HONOURED - FIXED - OWNED.keys()):
        parameter = PARAMETERS[name]
        kind = parameter.kind.value
        if parameter.choices:
            kind = ", ".join(choice or "(empty)" for choice in parameter.choices)
        default = f"`{parameter.default}`" if parameter.default else "(empty)"
        users = ", ".join(parameter.used_by)
        lines.append(f"| `{name}` | {kind} | {default} | {users} | {parameter.doc} |")
    lines += ["", "These are decided by other keys of the spec:", "", "| parameter | key |", "|---|---|"]
    lines += [f"| `{name}` | `{key}` |" for name, key in sorted(OWNED.items())]
    fixed = ", ".join(f"`{name}`" for name in sorted(FIXED))
    lines += ["", f"These are fixed, because the services agree on them: {fixed}.", ""]
    lines += [
        "## Not honoured",
        "",
        "Parameters of Postfix 3.7 that nothing acts on here. A spec may not set them; a main.cf that does is read, and",
        "the log says so at start. What a transport of master.cf has, `TRANSPORT_destination_concurrency_limit` and its",
        "like, works for every transport, whatever its name.",
        "",
        "| reason | parameters |",
        "|---|---|",
    ]
    reasons: dict[str, list[str]] = {}
    for name, reason in REFUSED.items():
        reasons.setdefault(reason, []).append(f"`{name}`")
    lines += [f"| {reason} | {' '.join(names)} |" for reason, names in reasons.items()]
    lines.append("")
    return "\n".join(lines)


def test_parameters_page_is_the_table() -> None:
    path = DOCS / "parameters.md"
    if os.environ.get("MAILSTACK_UPDATE_GOLDEN"):
        path.write_text(parameters_page())
    assert path.read_text() == parameters_page(), "make golden writes it anew"
    for name in re.findall(r"^\| `(\w+)` \|.*\|.*\|.*\|.*\|$", parameters_page(), re.MULTILINE):
        assert key_problem(name) is None
