"""bounce_template_file: texts of notifications in bounce(5)'s form, and the expansion of `$name` in them.

    failure_template = <<EOF
    Charset: us-ascii
    From: Mail Delivery System <MAILER-DAEMON>
    Subject: Undelivered Mail Returned to Sender
    Postmaster-Subject: Postmaster Copy: Undelivered Mail

    This is the mail system at host $myhostname.
    EOF

Header lines that are missing are those built in. A template with a header line that is not known or not
ASCII, or with text that its character set does not allow, is left out with a warning, as in Postfix; a
`$name` that main.cf does not know is a `ConfigError`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mailstack.config.errors import ConfigError
from mailstack.config.postfix.expand import ExpansionError, expand
from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.bounce.templates import BUILT_IN, Template

_TIMES = ("delay_warning_time", "maximal_queue_lifetime")
_UNITS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86_400, "weeks": 604_800}
_FIELDS = {"charset": "charset", "from": "author", "subject": "subject"}

Warn = Callable[[str], None]


def read_templates(conf: MainCf, warn: Warn) -> dict[str, Template]:
    """The templates by name (`failure`, `delay`, `success`, `verify`), their texts expanded.

    Raises `ConfigError`.
    """
    templates = dict(BUILT_IN)
    path = conf.str("bounce_template_file")
    if path:
        try:
            text = Path(path).read_text("utf-8", "surrogateescape")
        except OSError as error:
            raise conf.error("bounce_template_file", f"open {path}: {error.strerror}") from None
        for line, name, lines in _blocks(Path(path), text):
            kind = name.removesuffix("_template")
            if not name.endswith("_template") or kind not in templates:
                warn(f"{path}, line {line}: unknown template name: {name}")
                continue
            found = _parse(lines, templates[kind])
            if isinstance(found, Template):
                templates[kind] = replace(found, origin=path)
            else:
                warn(f"{path}: {found} in {kind} template -- ignoring this template")
    return {kind: _expanded(conf, kind, template) for kind, template in templates.items()}


def _blocks(path: Path, text: str) -> list[tuple[int, str, list[str]]]:
    """(line number, name, lines) of each `name = <<END … END`."""
    blocks: list[tuple[int, str, list[str]]] = []
    lines = text.split("\n")
    number = 0
    while number < len(lines):
        line = lines[number].strip()
        number += 1
        if not line or line.startswith("#"):
            continue
        name, equals, value = (word.strip() for word in line.partition("="))
        if not equals or not value.startswith("<<") or not value[2:].strip():
            raise ConfigError(path, number, f"expected NAME = <<END, not {line[:60]!r}")
        end, start = value[2:].strip(), number
        while number < len(lines) and lines[number].rstrip("\r") != end:
            number += 1
        if number == len(lines):
            raise ConfigError(path, start, f'missing "{end}" end marker')
        blocks.append((start, name, [part.rstrip("\r") for part in lines[start:number]]))
        number += 1
    return blocks


def _parse(lines: list[str], template: Template) -> Template | str:
    """The template with what the lines say, or why they say nothing."""
    values: dict[str, str] = {}
    start = 0
    for number, line in enumerate(lines):
        start = number
        if not line.strip():
            start += 1
            break
        label, colon, value = line.partition(":")
        if not colon or label != label.strip():
            break
        if not value.isascii():
            return f'non-ASCII "{label}" header value'
        field = "postmaster_subject" if label.lower() == "postmaster-subject" else _FIELDS.get(label.lower())
        if field is None:
            return f'unknown "{label}" header label'
        values[field] = value.strip()
    else:
        start = len(lines)
    text = "".join(f"{line}\n" for line in lines[start:])
    if not text:
        return "missing message text"
    if not text.isascii() and values.get("charset", "us-ascii").lower() == "us-ascii":
        return "8-bit message text without a charset value other than us-ascii"
    return replace(
        template,
        subject=values.get("subject", template.subject),
        postmaster_subject=values.get("postmaster_subject", template.postmaster_subject),
        charset=values.get("charset", template.charset),
        author=values.get("author", ""),
        text=text,
    )


def _expanded(conf: MainCf, kind: str, template: Template) -> Template:
    """The template with its `$name`s replaced, and what is to be warned of when it is used."""
    origin = template.origin or "[built-in]"
    warnings: list[str] = []
    unknown: list[str] = []

    def lookup(name: str) -> str | None:
        for parameter in _TIMES:
            unit = name.removeprefix(f"{parameter}_")
            if unit in _UNITS and unit != name:
                seconds = int(conf.time(parameter))
                number = seconds // _UNITS[unit]
                if (number == 0 and seconds) or (number > 999 and _UNITS[unit] < 86_400):
                    what, how = ("zero result", "reduce") if number == 0 else ("excessive result", "increase")
                    detail = what if number == 0 else f'{what} "{number}"'
                    warnings.append(f'{origin}: {detail} in {kind} template conversion of parameter "{name}"')
                    warnings.append(f'please {how} time unit "{unit}" of "{name}" in {kind} template')
                    warnings.append("for instructions see the bounce(5) manual")
                return str(number)
        if not conf.knows(name) and not conf.is_set(name):
            unknown.append(name)
            return None
        return conf.str(name).replace("$", "$$")

    try:
        text = expand(template.text, lookup)
    except ExpansionError as error:
        raise conf.error("bounce_template_file", f"{origin}: {error} in {kind} template") from None
    if unknown:
        raise conf.error("bounce_template_file", f"{origin}: undefined ${unknown[0]} in {kind} template")
    return replace(template, text=text, warnings=tuple(warnings))
