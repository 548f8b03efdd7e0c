"""`passdb { … }` and `userdb { … }`, with the files that their `args` name.

Drivers: passwd-file, static, sql (with sqlite), oauth2 (tokens validated here, with keys on disk), and of
userdbs prefetch. What is not known is a `ConfigError` with file and line.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mailstack.config.dovecot import values, variables
from mailstack.config.dovecot.model import Database, OAuth2, Sql
from mailstack.config.dovecot.syntax import Origin, Section, Setting

RULES = ("return-ok", "return-fail", "return", "continue", "continue-ok", "continue-fail")
_COMMON = {
    "name",
    "driver",
    "args",
    "default_fields",
    "override_fields",
    "skip",
    "result_success",
    "result_failure",
    "result_internalfail",
    "auth_verbose",
}
_PASSDB_ONLY = {"deny", "master", "pass", "mechanisms", "username_filter"}
_SQL_KEYS = {
    "driver",
    "connect",
    "default_pass_scheme",
    "password_query",
    "user_query",
    "iterate_query",
    "userdb_warning_disable",
}
_OAUTH2_KEYS = {
    "introspection_mode",
    "local_validation_key_dict",
    "issuers",
    "client_id",
    "scope",
    "username_attribute",
    "username_format",
    "active_attribute",
    "active_value",
    "openid_configuration_url",
}
_KEY_DICT = "fs:posix:prefix="


def read_database(section: Section) -> Database:
    """One section. Raises `ConfigError`."""
    kind = section.type
    known = _COMMON | (_PASSDB_ONLY if kind == "passdb" else set())
    for setting in section.settings.values():
        if setting.key not in known:
            raise setting.origin.error(f"Unknown setting: {kind} {{ {setting.key}")
    driver = section.get("driver")
    if driver is None or not driver.text:
        raise section.origin.error(f"{kind} is missing driver")
    base = _rules(section)
    base = replace(
        base,
        driver=driver.text,
        where=f"{kind} at {section.origin}",
        fields=_fields(section.get("default_fields")),
        override=_fields(section.get("override_fields")),
    )
    match driver.text:
        case "static":
            own = _static(section)
            return replace(base, fields={**(base.fields or {}), **own})
        case "passwd-file":
            return _passwd_file(section, base)
        case "sql":
            return _sql(section, base)
        case "oauth2" if kind == "passdb":
            return _oauth2(section, base)
        case "prefetch" if kind == "userdb":
            return base
    names = "passwd-file, static, sql, " + ("oauth2" if kind == "passdb" else "prefetch")
    raise driver.origin.error(f"{kind}: driver {driver.text} is not supported ({names})")


def _rules(section: Section) -> Database:
    """Which part the database has in the chain (doc.dovecot.org, Password Databases)."""

    def flag(key: str) -> bool:
        setting = section.get(key)
        return setting is not None and values.boolean(setting)

    def rule(key: str, default: str) -> str:
        setting = section.get(key)
        return default if setting is None else values.choice(setting, *RULES)

    def chosen(key: str, *choices: str) -> str:
        setting = section.get(key)
        return choices[0] if setting is None else values.choice(setting, *choices)

    deny, passing = flag("deny"), flag("pass")
    success = section.get("result_success")
    if success is not None and (deny or passing):
        raise success.origin.error("result_success does not go together with deny = yes or pass = yes")
    mechanisms = section.get("mechanisms")
    names = section.get("username_filter")
    if "auth_verbose" in section.settings:
        chosen("auth_verbose", "default", "yes", "no")
    verbose = section.get("auth_verbose")
    return Database(
        "",
        "",
        deny=deny,
        master=flag("master"),
        result_success=rule("result_success", "continue" if passing else "return-ok"),
        result_failure=rule("result_failure", "continue"),
        result_internalfail=rule("result_internalfail", "continue"),
        skip=chosen("skip", "never", "authenticated", "unauthenticated"),
        mechanisms=tuple(name.upper() for name in values.words(mechanisms)) if mechanisms else (),
        username_filter=tuple(values.words(names)) if names else (),
        auth_verbose=None if verbose is None or verbose.text == "default" else values.boolean(verbose),
    )


def _static(section: Section) -> dict[str, str]:
    args = section.get("args")
    own: dict[str, str] = {}
    for word in (args.content() if args else "").split():
        name, equals, value = word.partition("=")
        own[name] = value if equals else "yes"
    for value in own.values():
        _checked(value, args)
    return own


def _passwd_file(section: Section, base: Database) -> Database:
    args = section.get("args")
    words = (args.content() if args else "").split()
    scheme, username_format = "CRYPT", ""
    while words and "=" in words[0] and not words[0].startswith("/"):
        name, _, value = words.pop(0).partition("=")
        if name == "scheme":
            scheme = value.upper()
        elif name == "username_format" and args is not None:
            username_format = _checked(value, args)
        elif args is not None:
            raise args.origin.error(f"{section.type}: unknown argument {name}")
    if args is None or len(words) != 1:
        raise section.origin.error(f"{section.type}: args has to name one file")
    _checked(words[0], args)
    file = Path(args.origin.path.parent, words[0])
    return replace(base, file=file, scheme=scheme, username_format=username_format)


def _sql(section: Section, base: Database) -> Database:
    found = _extra_file(section, _SQL_KEYS)
    query = "password_query" if section.type == "passdb" else "user_query"
    for key in ("driver", "connect", query):
        if key not in found:
            raise section.origin.error(f"{section.type}: the file that args names lacks {key}")
    driver = found["driver"]
    if driver.text != "sqlite":
        raise driver.origin.error(f"driver {driver.text} is not supported (sqlite)")
    connect = found["connect"]
    path = connect.text.removeprefix("path=").split()[0] if connect.text else ""
    if not path.startswith("/") or len(connect.text.split()) != 1:
        raise connect.origin.error("connect: an absolute path of a SQLite database is needed")
    scheme = found.get("default_pass_scheme")
    statement = _checked(found[query].text, found[query])
    return replace(
        base, scheme=scheme.text.upper() if scheme else "PLAIN-MD5", sql=Sql(Path(path), statement)
    )


def _oauth2(section: Section, base: Database) -> Database:
    found = _extra_file(section, _OAUTH2_KEYS)
    mode = found.get("introspection_mode")
    if mode is None or mode.text != "local":
        at = mode.origin if mode else section.origin
        raise at.error("introspection_mode: only local is supported (tokens are JWTs, keys are on disk)")
    keys = found.get("local_validation_key_dict")
    if keys is None or not keys.text.startswith(_KEY_DICT):
        at = keys.origin if keys else section.origin
        raise at.error(f"local_validation_key_dict: {_KEY_DICT}/folder/ is needed")

    def text(key: str, default: str = "") -> str:
        return found[key].text if key in found else default

    return replace(
        base,
        oauth2=OAuth2(
            keys=Path(keys.text.removeprefix(_KEY_DICT)),
            issuers=tuple(text("issuers").split()),
            client_id=text("client_id"),
            scope=tuple(text("scope").split()),
            username_attribute=text("username_attribute", "email"),
            username_format=_checked(text("username_format", "%Lu"), section.get("args")),
            active_attribute=text("active_attribute"),
            active_value=text("active_value"),
            openid_configuration_url=text("openid_configuration_url"),
        ),
    )


def _extra_file(section: Section, known: set[str]) -> Mapping[str, Setting]:
    """The `key = value` lines of the file that `args` names."""
    args = section.get("args")
    if args is None or not args.text or args.file:
        raise section.origin.error(f"{section.type}: args has to name the driver's configuration file")
    path = Path(os.path.join(args.origin.path.parent, args.text.strip()))
    try:
        lines = path.read_text("utf-8", "surrogateescape").split("\n")
    except OSError as error:
        raise args.origin.error(f"{path}: {error.strerror}") from None
    found: dict[str, Setting] = {}
    held, start = "", 0
    for number, line in enumerate(lines, 1):
        stripped = line.strip()
        if stripped.startswith("#"):
            continue
        start = start or number
        held += stripped
        if held.endswith("\\"):
            held = held[:-1]
            continue
        if held:
            key, equals, value = held.partition("=")
            key, value, origin = key.strip(), value.strip(), Origin(path, start)
            if not equals:
                raise origin.error("expected key = value")
            if key not in known:
                raise origin.error(f"setting {key} is not supported")
            if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
                value = value[1:-1]
            found[key] = Setting(key, value, origin)
        held, start = "", 0
    return found


def _fields(setting: Setting | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in setting.content().split() if setting else []:
        name, equals, value = word.partition("=")
        found[name] = _checked(value, setting) if equals else "yes"
    return found


def _checked(text: str, setting: Setting | None) -> str:
    """A text whose `%` variables all exist."""
    wrong = variables.unknown(text)
    if wrong and setting is not None:
        raise setting.origin.error(f"{setting.key}: unknown variable {wrong}")
    return text
