"""`key` statements: the secrets that messages are signed with (TSIG, RFC 8945)."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping
from typing import Final

from mailstack.config.named.acl import key_name
from mailstack.config.named.model import SessionKey, TsigKey
from mailstack.config.named.syntax import Block, Statement, Word
from mailstack.config.named.values import one_text

ALGORITHMS: Final = ("hmac-md5", "hmac-sha1", "hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512")


def read_keys(statements: Iterable[Statement]) -> dict[str, TsigKey]:
    """The keys by name. Raises `ConfigError`."""
    found: dict[str, TsigKey] = {}
    for statement in statements:
        key = _key(statement)
        if key.name in found:
            raise statement.error(f"key '{key.name}' is already defined")
        found[key.name] = key
    return found


def read_session_key(options: Mapping[str, Statement], directory: str) -> SessionKey:
    """The key of `update-policy local`, with BIND's own defaults. Raises `ConfigError`."""
    file, name, algorithm = "/run/named/session.key", "local-ddns", "hmac-sha256"
    if "session-keyfile" in options:
        text = one_text(options["session-keyfile"])
        file = "" if text == "none" else os.path.join(directory, text)
    if "session-keyname" in options:
        name = key_name(one_text(options["session-keyname"]))
    if "session-keyalg" in options:
        algorithm = one_text(options["session-keyalg"]).lower()
        if algorithm not in ALGORITHMS:
            known = ", ".join(ALGORITHMS)
            raise options["session-keyalg"].error(f"unknown algorithm '{algorithm}': {known} are known")
    return SessionKey(file, name, algorithm)


def _key(statement: Statement) -> TsigKey:
    match statement.items[1:]:
        case (Word(text=name), Block() as body):
            pass
        case _:
            raise statement.error("key takes a name and a { block }")
    values: dict[str, Statement] = {}
    for one in body.statements:
        if one.keyword not in ("algorithm", "secret"):
            raise one.error(f"unknown option '{one.keyword}'")
        values[one.keyword] = one
    if len(values) != 2:
        raise statement.error(f"key '{name}' must have both 'secret' and 'algorithm' defined")
    algorithm = one_text(values["algorithm"]).lower().removesuffix(".sig-alg.reg.int").rstrip(".")
    if algorithm not in ALGORITHMS:
        raise values["algorithm"].error(f"unknown algorithm '{algorithm}': {', '.join(ALGORITHMS)} are known")
    try:
        secret = base64.b64decode(one_text(values["secret"]), validate=True)
    except ValueError:  # binascii.Error is one
        raise values["secret"].error("bad secret: base64 is wanted") from None
    if not secret:
        raise values["secret"].error("bad secret: it is empty")
    return TsigKey(key_name(name), algorithm, secret)
