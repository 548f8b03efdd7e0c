"""The settings table: its page, and that a default asks for nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailstack.config.dovecot import load
from mailstack.dovecot_settings import SETTINGS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "dovecot-settings.md"


def page() -> str:
    """docs/dovecot-settings.md, from the table."""
    lines = [
        "# Settings of dovecot.conf",
        "",
        "Made from `mailstack/dovecot_settings.py` by `make golden`: every setting of Dovecot 2.3, as `doveconf -d` lists",
        "them, and what becomes of it. Nothing is ignored in silence: what asks for something that does not happen is named",
        "in a warning at start, with the reason that stands here. Setting Dovecot's own default asks for nothing.",
        "",
        "## Works",
        "",
        "| setting | default | what it does |",
        "|---|---|---|",
    ]
    settings = sorted(SETTINGS.values())
    lines += [f"| `{one.name}` | {_code(one.default)} | {one.doc} |" for one in settings if one.works]
    lines += [
        "",
        "## As it is",
        "",
        "These need nothing of ours: the service behaves in the one way that is named. No value given: any will do.",
        "",
        "| setting | value | reason |",
        "|---|---|---|",
    ]
    for one in settings:
        if one.values is not None and one.values != (one.default,):
            value = ", ".join(map(_code, one.values))
            lines.append(f"| `{one.name}` | {value} | {one.doc} |")
    lines += ["", "## Refused", "", "| reason | settings |", "|---|---|"]
    reasons: dict[str, list[str]] = {}
    for one in SETTINGS.values():
        if one.values is not None and one.values == (one.default,):
            reasons.setdefault(one.doc, []).append(f"`{one.name}`")
    lines += [f"| {reason} | {' '.join(names)} |" for reason, names in reasons.items()]
    return "\n".join([*lines, ""])


def _code(text: str) -> str:
    return f"`{text}`" if text else "(empty)"


def test_the_page_is_the_table() -> None:
    if os.environ.get("MAILSTACK_UPDATE_GOLDEN"):
        PAGE.write_text(page())
    assert PAGE.read_text() == page(), "make golden writes it anew"


def warned() -> Iterator[tuple[str, str]]:
    for one in SETTINGS.values():
        if one.values:
            yield one.name, "yes" if one.default == "no" and "no" in one.values else "17 weeks"


@pytest.mark.parametrize(("name", "value"), list(warned()))
def test_what_is_not_honoured_is_named_with_its_reason(tmp_path: Path, name: str, value: str) -> None:
    path = tmp_path / "dovecot.conf"
    path.write_text(f"ssl = no\n{name} = {value}\n")
    assert load(tmp_path).warnings == (f"{path}:2: setting {name} has no effect: {SETTINGS[name].doc}",)


def test_defaults_and_what_is_so_in_any_case_give_no_warning(tmp_path: Path) -> None:
    lines = [
        f'{one.name} = "{value}"'
        for one in SETTINGS.values()
        for value in {one.default, *(one.values or ())}
        if one.name not in ("ssl", "ssl_cert", "ssl_key", "mail_location")
    ]
    (tmp_path / "dovecot.conf").write_text("\n".join(["ssl = no", *lines, ""]))
    assert load(tmp_path).warnings == ()
