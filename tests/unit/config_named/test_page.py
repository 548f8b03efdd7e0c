"""docs/named-conf.md is made from the table of statements."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from mailstack.config.named import grammar
from mailstack.config.named.policy import WITHOUT_EFFECT, WORKS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "named-conf.md"
HEAD = """\
# Statements of named.conf

Made from `mailstack/config/named/grammar.py` by `make golden`: every statement of BIND 9.18, and what becomes of it. One
that works is honoured; one without effect is accepted, with a warning that names file and line; one that is refused
is an error, for it would change answers or the protection of a zone: `engine: bind` has it.
"""


def page() -> str:
    return "\n".join([HEAD, *_parts()])


def _parts() -> Iterator[str]:
    yield from _table("Outside of blocks", grammar.TOP_WORKS, grammar.TOP_IGNORED, grammar.TOP_REFUSED)
    yield from _table("`options`", grammar.OPTIONS_WORK, grammar.OPTIONS_IGNORED, grammar.OPTIONS_REFUSED)
    yield from _table("`zone`", grammar.ZONE_WORKS, grammar.ZONE_IGNORED, grammar.ZONE_REFUSED)
    yield from _table("`server`", grammar.SERVER_WORKS, grammar.SERVER_IGNORED, grammar.SERVER_REFUSED)
    types = dict.fromkeys(grammar.ZONE_TYPES, "works")
    types |= dict.fromkeys(grammar.ZONE_TYPES_REFUSED, "refused")
    yield "## Types of zones\n\n| type | |\n|---|---|"
    yield from (f"| `{kind}` | {what} |" for kind, what in sorted(types.items()))
    yield ""
    nothing = dict.fromkeys(WITHOUT_EFFECT, "keys are not rolled over")
    yield from _table("`dnssec-policy`", WORKS, nothing, {})


def _table(
    title: str, works: frozenset[str], ignored: Mapping[str, str], refused: Mapping[str, str]
) -> Iterator[str]:
    assert not works & ignored.keys() and not works & refused.keys() and not ignored.keys() & refused.keys()
    yield f"## {title}\n\n| statement | | why |\n|---|---|---|"
    for name in sorted({*works, *ignored, *refused}):
        if name in works:
            yield f"| `{name}` | works | |"
        elif name in ignored:
            yield f"| `{name}` | without effect | {ignored[name]} |"
        else:
            yield f"| `{name}` | refused | {refused[name]} |"
    yield ""


def test_the_page_is_what_the_table_says() -> None:
    if os.environ.get("MAILSTACK_UPDATE_GOLDEN"):
        PAGE.write_text(page())
    assert PAGE.read_text() == page(), "run 'make golden'"
