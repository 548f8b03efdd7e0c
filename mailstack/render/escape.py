"""One function per format: a value in, the text that the format's own parser reads back as that value out.

Each returns `Escaped`, the only thing that a template may print, or raises `RenderError` when the format has
no way to write the value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

from mailstack.render.errors import RenderError


class Escaped(str):
    """Text that is ready for the format it was made for."""

    __slots__ = ()


_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
_BLANK_OR_COMMA = re.compile(r"[\s,]")
_PARAMETER = re.compile(r"[A-Za-z0-9_]+\Z")
_TABLE_KEY = re.compile(r"[^\s#\"\\][^\s\"\\]*\Z")
_ALIAS_NAME = re.compile(r"[A-Za-z0-9_+.=&'~-]+\Z")
_ALIAS_ADDRESS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+.=&'~-]*(?:@[a-z0-9.-]+)?\Z")
_OWNER = re.compile(r"(?:[A-Za-z0-9_*/+.,:=!&%#?<>|~^{}\[\]'`-]|\\[0-9]{3}|\\[.\\@$();\"])+\Z")
_LABEL_CHARACTER = re.compile(r"[A-Za-z0-9_*/+-]")


def _line(value: object, what: str) -> str:
    text = str(value)
    if _CONTROL.search(text):
        raise RenderError(f"{what} cannot hold a control character: {text!r}")
    return text


def main_cf(value: object) -> Escaped:
    """A literal value of main.cf: `$` doubled, so that nothing is expanded."""
    return main_cf_raw(str(value).replace("$", "$$"))


def main_cf_raw(value: object) -> Escaped:
    """A value in main.cf's own language, `$name` references included."""
    text = _line(value, "a main.cf value")
    if text != text.strip():
        raise RenderError(f"a main.cf value cannot begin or end with a blank: {text!r}")
    return Escaped(text)


def main_cf_words(values: Iterable[object]) -> Escaped:
    """A list of main.cf, each element a literal word."""
    words = [str(value) for value in values]
    for word in words:
        if not word or _BLANK_OR_COMMA.search(word) or word[0] in "{}":
            raise RenderError(f"not an element of a list in main.cf: {word!r}")
    return main_cf(", ".join(words))


def parameter_name(value: object) -> Escaped:
    """The name of a main.cf parameter."""
    if not _PARAMETER.match(str(value)):
        raise RenderError(f"not the name of a parameter: {value!r}")
    return Escaped(value)


def master_cf(value: object) -> Escaped:
    """A word of master.cf: a service's name, a command, an option without blanks."""
    text = _line(value, "a word of master.cf")
    if not text or text[0] in "#{}" or re.search(r"\s", text):
        raise RenderError(f"not a word of master.cf: {text!r}")
    return Escaped(text)


def table_key(value: object) -> Escaped:
    """A key of a texthash table (postmap(1)'s source form)."""
    text = _line(value, "a key of a table")
    if not _TABLE_KEY.match(text):
        raise RenderError(f"not a key of a table: {text!r}")
    return Escaped(text)


def table_value(value: object) -> Escaped:
    """A value of a texthash table: the rest of its line."""
    text = _line(value, "a value of a table")
    if not text or text != text.strip():
        raise RenderError(f"not a value of a table: {text!r}")
    return Escaped(text)


def alias_name(value: object) -> Escaped:
    """What stands before the colon in aliases(5)."""
    if not _ALIAS_NAME.match(str(value)):
        raise RenderError(f"not the name of an alias: {value!r}")
    return Escaped(value)


def alias_addresses(values: Iterable[object]) -> Escaped:
    """What stands after it: addresses only, never a command, a file or an :include: list."""
    words = [str(value) for value in values]
    for word in words:
        if not _ALIAS_ADDRESS.match(word):
            raise RenderError(f"not an address for an alias: {word!r}")
    if not words:
        raise RenderError("an alias needs an address")
    return Escaped(", ".join(words))


def dovecot(value: object) -> Escaped:
    """A literal value of dovecot.conf, in quotes where it needs them; `%` doubled: it is no variable."""
    return dovecot_raw(str(value).replace("%", "%%"))


def dovecot_raw(value: object) -> Escaped:
    """A value of dovecot.conf in which `%u` and the like have their meaning."""
    text = _line(value, "a dovecot.conf value")
    plain = text and text == text.strip() and not re.search(r"[#$\"'\\{}<]", text)
    if plain:
        return Escaped(text)
    return Escaped('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"')


def passwd_field(value: object) -> Escaped:
    """A field of a passwd-file."""
    text = _line(value, "a field of a passwd-file")
    if ":" in text:
        raise RenderError(f"a field of a passwd-file cannot hold a colon: {text!r}")
    return Escaped(text)


def named(value: object) -> Escaped:
    """A quoted string of named.conf, quotes included."""
    text = _line(value, "a string of named.conf")
    return Escaped('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"')


def named_word(value: object) -> Escaped:
    """An address, a number or a keyword of named.conf."""
    text = str(value)
    if not re.match(r"[A-Za-z0-9.:/_-]+\Z", text):
        raise RenderError(f"not a word of named.conf: {text!r}")
    return Escaped(text)


def zone_name(value: object) -> Escaped:
    """An absolute domain name, given without its final dot; special characters as `\\DDD` (RFC 1035 §5.1)."""
    labels = str(value).split(".")
    if not all(0 < len(label) <= 63 for label in labels) or len(str(value)) > 253 or not str(value).isascii():
        raise RenderError(f"not a domain name: {value!r}")
    return Escaped(".".join("".join(map(_label_character, label)) for label in labels) + ".")


def _label_character(char: str) -> str:
    return char if _LABEL_CHARACTER.match(char) else f"\\{ord(char):03d}"


def zone_owner(value: object, origin: str) -> Escaped:
    """A record's owner (presentation form, no final dot) as the zone `origin` writes it: relative."""
    text = str(value)
    if not _OWNER.match(text):
        raise RenderError(f"not the owner of a record: {text!r}")
    if text == origin:
        return Escaped("@")
    if not text.endswith(f".{origin}"):
        raise RenderError(f"{text} does not lie in the zone {origin}")
    return Escaped(text.removesuffix(f".{origin}"))


def zone_text(value: object) -> Escaped:
    """Character strings of at most 255 octets each (a TXT record's data), in quotes."""
    octets = str(value).encode()
    parts = [octets[at : at + 255] for at in range(0, len(octets), 255)] or [b""]
    return Escaped(" ".join('"' + "".join(map(_text_octet, part)) + '"' for part in parts))


def _text_octet(octet: int) -> str:
    if octet in b'"\\':
        return f"\\{chr(octet)}"
    return chr(octet) if 32 <= octet < 127 else f"\\{octet:03d}"


def zone_data(value: object) -> Escaped:
    """A record's data that is in canonical presentation form already (dnspython's, or an address)."""
    text = _line(value, "a record's data")
    if not text or not text.isascii():
        raise RenderError(f"not a record's data: {text!r}")
    return Escaped(text)


def smtpd_conf(value: object) -> Escaped:
    """A value of Cyrus SASL's NAME.conf: the rest of its line, taken as it stands."""
    text = _line(value, "a value of smtpd.conf")
    if not text or text != text.strip():
        raise RenderError(f"not a value of smtpd.conf: {text!r}")
    return Escaped(text)


def toml(value: object) -> Escaped:
    """A value of a sidecar: a basic string, a whole number, or a list of them (TOML 1.0)."""
    if isinstance(value, int):
        return Escaped(value)
    if isinstance(value, (list, tuple)):
        return Escaped("[" + ", ".join(toml(item) for item in value) + "]")
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return Escaped('"' + _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + '"')


def comment(value: object) -> Escaped:
    """Text in a `#` or `;` comment."""
    return Escaped(_line(value, "a comment"))


def number(value: object) -> Escaped:
    """A whole number, in any format."""
    if type(value) is not int:
        raise RenderError(f"not a whole number: {value!r}")
    return Escaped(value)


def path(value: object) -> Escaped:
    """A path of a `Site`, which holds only characters that no format gives a meaning to."""
    if not isinstance(value, PurePosixPath):
        raise RenderError(f"not a path of the site: {value!r}")
    return Escaped(value)


FILTERS: dict[str, Callable[..., Escaped]] = {
    function.__name__: function
    for function in (
        main_cf, main_cf_raw, main_cf_words, parameter_name, master_cf, table_key, table_value, alias_name,
        alias_addresses, dovecot, dovecot_raw, passwd_field, named, named_word, zone_name, zone_owner,
        zone_text, zone_data, smtpd_conf, toml, comment, number, path,
    )
}  # fmt: skip
