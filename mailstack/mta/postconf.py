"""postconf(1): what main.cf and master.cf say, and small changes of main.cf.

    python -m mailstack.mta.postconf --config DIR [-dfhHnpx] [-C CLASS] [-o NAME=VALUE] [NAME…]
    …                                          [-e] NAME=VALUE…   |  -# NAME…  |  -X NAME…
    …                                          -M [-f] [SERVICE[/TYPE]…]
    …                                          -F | -P [-hHx] [SERVICE[/TYPE[/NAME]]…]
    …                                          -a | -A | -m

Prints as Postfix's does, but knows the parameters of our own table only (docs/parameters.md). Values are not
checked: that is `python -m mailstack.mta`'s business. Exit status 0, or 1 with the reason on standard error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mailstack.config.errors import ConfigError
from mailstack.config.postfix.expand import references
from mailstack.config.postfix.lines import logical_lines, read_text, words
from mailstack.config.postfix.main_cf import MainCf, Origin
from mailstack.mta.command import Fatal, fail, take_config, warn
from mailstack.mta.postconf_master import fold, overrides, parts, read_services
from mailstack.postfix_parameters import PARAMETERS, parameter

NAME = "postconf"
USAGE = """\
usage: python -m mailstack.mta.postconf --config DIR [-dfhHnpx] [-C CLASS] [-o NAME=VALUE] [NAME...]
       ... [-e] NAME=VALUE... | -# NAME... | -X NAME...      change main.cf
       ... -M|-F|-P [-fhHx] [SERVICE[/TYPE[/NAME]]...]       master.cf
       ... -a|-A|-m                                          SASL types of server and client, table types
"""
TABLE_TYPES = (
    "btree", "cdb", "cidr", "dbm", "environ", "fail", "hash", "inline", "internal", "ldap", "lmdb",
    "memcache", "mysql", "nis", "nisplus", "pcre", "pgsql", "pipemap", "proxy", "randmap", "regexp", "sdbm",
    "socketmap", "sqlite", "static", "tcp", "texthash", "unionmap", "unix",
)  # fmt: skip
"""Every type that a Postfix may have."""
_CLASSES = ("builtin", "service", "user", "all")
_AGENTS = frozenset(("smtp", "lmtp", "local", "virtual", "pipe", "error", "discard"))
"""Daemons whose services have parameters of their own (`SERVICE_destination_…`)."""


@dataclass(slots=True)
class Options:
    flags: set[str] = field(default_factory=set)
    classes: set[str] = field(default_factory=set)
    overrides: dict[str, str] = field(default_factory=dict)
    config: str = ""
    names: list[str] = field(default_factory=list)


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit status."""
    if list(arguments) in (["--help"], []):
        sys.stdout.write(USAGE)
        return 0
    try:
        config_dir, rest = take_config(arguments)
        options = parse(rest)
        if options.config:
            config_dir = Path(options.config).absolute()
        _run(config_dir, options)
        sys.stdout.flush()
    except Fatal as error:
        return fail(NAME, error)
    except ConfigError as error:
        return fail(NAME, Fatal(str(error), 1))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0


def parse(arguments: Sequence[str]) -> Options:
    """Read the command line. Raises `Fatal`."""
    options = Options()
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        while word := word[1:]:
            letter = word[0]
            if letter in "cCo":
                if not word[1:] and not rest:
                    raise Fatal(f"option requires an argument -- {letter!r}; {USAGE.strip()}", 1)
                value = word[1:] or rest.pop(0)
                _valued(options, letter, value)
                break
            if letter not in "aAdefFhHmMnpPxX#":
                raise Fatal(f"invalid option -- {letter!r}; {USAGE.strip()}", 1)
            options.flags.add(letter)
    options.names = rest
    if {"d", "n"} <= options.flags:
        raise Fatal("specify one of -d -n", 1)
    if {"M", "h"} <= options.flags:
        raise Fatal("with option -M, do not specify -h", 1)
    for one_of in ("aAFmMP", "eX#"):
        chosen = sorted(options.flags & set(one_of))
        if len(chosen) > 1:
            raise Fatal(f"specify one of {' '.join('-' + letter for letter in chosen)}", 1)
    return options


def _valued(options: Options, letter: str, value: str) -> None:
    if letter == "c":
        options.config = value
    elif letter == "C":
        for name in words(value):
            if name not in _CLASSES:
                raise Fatal(f'unknown -C option value "{name}" in "{value}"', 1)
            options.classes.add(name)
    else:
        name, equals, text = value.partition("=")
        if not equals:
            raise Fatal(f"-o needs name=value, not {value!r}", 1)
        options.overrides[name.strip()] = text.strip()


def _run(config_dir: Path, options: Options) -> None:
    flags = options.flags
    if flags & set("MFP"):
        if flags & set("eX#") or any("=" in name for name in options.names):
            raise Fatal("master.cf is not changed by this program: use an editor", 1)
        _master(config_dir, options)
    elif flags & set("aAm"):
        _capabilities(flags)
    elif flags & set("eX#") or any("=" in name for name in options.names):
        edit(config_dir / "main.cf", options)
    else:
        _parameters(config_dir, options)


def _capabilities(flags: set[str]) -> None:
    if "a" in flags:
        print_lines(["cyrus", "dovecot"])
    elif "A" in flags:
        known = PARAMETERS.get("smtp_sasl_type")
        print_lines(["cyrus"] if known is not None and known.honoured else [])
    else:
        print_lines(kind for kind in TABLE_TYPES if _is_table_type(kind))


def _is_table_type(kind: str) -> bool:
    from mailstack.mta.lookup import opener
    from mailstack.storage.tables import TableError

    try:
        opener()(f"{kind}:")
    except TableError as error:
        return "unsupported" not in str(error)
    return True


def print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        sys.stdout.write(line.encode("utf-8", "surrogateescape").decode("utf-8", "replace") + "\n")


# ---- main.cf


def _parameters(config_dir: Path, options: Options) -> None:
    """Print main.cf's parameters."""
    flags = options.flags
    defaults = "d" in flags
    path = config_dir / "main.cf"
    raw, origins = ({}, {}) if defaults else read_main(path)
    raw |= options.overrides
    services = read_services(config_dir / "master.cf", missing_ok=True)
    transports = frozenset(one[0] for one in services if one[7] in _AGENTS)
    conf = MainCf(path, raw, origins, transports=transports)
    of_services = _service_parameters(transports, raw)
    used = {name for value in raw.values() for name in references(value)}
    used |= {name for one in services for _, value in overrides(one) for name in references(value)}
    used.update(words(raw.get("smtpd_restriction_classes", "")))
    users = {name for name in raw if name in used and name not in PARAMETERS and name not in of_services}
    builtin = set(PARAMETERS) | {"config_directory"}
    classes = options.classes or {"all"}
    known: set[str] = set()
    for label, names in (("builtin", builtin), ("service", of_services), ("user", users)):
        if "all" in classes or label in classes:
            known |= names

    def value(name: str) -> str:
        if name == "config_directory":
            return "/etc/postfix" if defaults else str(config_dir)
        if "x" in flags or (name in _COMPUTED and name not in raw):
            return conf.str(name)
        if name in raw:
            return raw[name]
        found = parameter(name, transports)
        return found.default if found is not None else ""

    wanted = options.names or sorted(known)
    if "n" in flags:
        wanted = [name for name in wanted if name in raw or name == "config_directory"]
    for name in wanted:
        if name not in known:
            warn(NAME, f"{name}: unknown parameter")
            continue
        print_lines([_formatted(name, value(name), flags)])
    if not defaults:
        from mailstack.postfix_refusals import REFUSED

        for name, text in raw.items():
            if name not in builtin | of_services | users and name not in REFUSED:
                warn(NAME, f"{path}: unused parameter: {name}={text}")


_COMPUTED = ("myhostname", "mydomain", "mynetworks")


def _service_parameters(transports: Iterable[str], raw: Mapping[str, str]) -> set[str]:
    """The names that master.cf's delivery services give to parameters, where none of the table's own is."""
    probe = frozenset(("\0",))
    suffixes = {
        suffix
        for name in PARAMETERS
        for prefix in ("default", "lmtp", "smtp", "local", "virtual")
        if name.startswith(f"{prefix}_") and parameter("\0" + (suffix := name.removeprefix(prefix)), probe)
    }
    found = {service + suffix for service in transports for suffix in suffixes}
    found |= {name for name in raw if parameter(name, frozenset(transports)) is not None}
    return found - set(PARAMETERS)


def _formatted(name: str, value: str, flags: set[str]) -> str:
    """One line of output, or several with -f."""
    if "H" in flags:
        return name
    text = value if "h" in flags else f"{name} = {value}"
    return fold(text.split(), "f" in flags)


def read_main(path: Path) -> tuple[dict[str, str], dict[str, Origin]]:
    """main.cf as it is written. Raises `ConfigError`."""
    raw: dict[str, str] = {}
    origins: dict[str, Origin] = {}
    for line, logical in logical_lines(read_text(path), path):
        name, equals, value = logical.partition("=")
        name = name.strip()
        if not equals or not name:
            raise ConfigError(
                path, line, f"missing {'name' if equals else repr('=')}: {logical.strip()[:60]!r}"
            )
        if name in raw:
            warn(NAME, f"{path}, line {line}: overriding earlier entry: {name}={raw[name]}")
        raw[name] = value.strip()
        origins[name] = Origin(path, line)
    return raw, origins


def edit(path: Path, options: Options) -> None:
    """Change main.cf: the file is written anew beside itself and renamed. Raises `Fatal`, `ConfigError`."""
    changes: dict[str, str | None] = {}
    comment = "#" in options.flags
    for word in options.names:
        name, equals, value = word.partition("=")
        if options.flags & set("X#"):
            if equals:
                raise Fatal(f'-{"X" if not comment else "#"} needs a name without a value: "{word}"', 1)
            changes[name.strip()] = None
        elif not equals or not name.strip() or len(name.split()) > 1 or "\n" in word:
            raise Fatal(f"missing '=' after attribute name: \"{word}\"", 1)
        else:
            changes[name.strip()] = value.strip()
    if not changes:
        raise Fatal("-e, -X and -# need a parameter", 1)
    text = changed(read_text(path), changes, comment=comment)
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        mode = path.stat().st_mode & 0o777
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise Fatal(f"{path}: {error.strerror or error}", 1) from None


def changed(text: str, changes: Mapping[str, str | None], *, comment: bool) -> str:
    """main.cf with `changes` made: a new value, or None to take the entry out or make it a comment.

    An entry keeps its place, each one where there are several; names that are new come at the end.
    """
    out: list[str] = []
    done: set[str] = set()
    dropping = commenting = False
    for line in text.splitlines(keepends=True):
        if not line.endswith("\n"):
            line += "\n"
        bare = line.strip()
        if bare and bare[0] != "#" and line[0] not in " \t":
            name = line.partition("=")[0].strip()
            dropping = commenting = False
            if name in changes:
                value = changes[name]
                commenting = value is None and comment
                dropping = not commenting
                if value is not None:
                    out.append(f"{name} = {value}\n")
                done.add(name)
        entry = bool(bare) and bare[0] != "#"
        if commenting and entry:
            out.append("#" + line)
        elif not (dropping and entry):
            out.append(line)
    out += [
        f"{name} = {value}\n" for name, value in changes.items() if value is not None and name not in done
    ]
    return "".join(out)


# ---- master.cf


def _master(config_dir: Path, options: Options) -> None:
    """Print master.cf: whole lines, their fields, or their `-o` settings."""
    flags = options.flags
    services = read_services(config_dir / "master.cf")
    raw, origins = read_main(config_dir / "main.cf") if "x" in flags else ({}, {})
    conf = MainCf(config_dir / "main.cf", raw | options.overrides, origins)
    wanted = [[*name.split("/"), "*", "*"][:3] for name in options.names] or [["*", "*", "*"]]
    matched: set[int] = set()
    for entry in services:
        given = {"service_name": entry[0], **dict(overrides(entry))}
        view = conf.with_overrides(given) if "x" in flags else conf
        for name, lines in parts(entry, flags, view.str if "x" in flags else None):
            hits = [
                index
                for index, pattern in enumerate(wanted)
                if all(
                    want in ("*", have)
                    for want, have in zip(pattern, (entry[0], entry[1], name or "*"), strict=True)
                )
            ]
            if hits:
                matched.update(hits)
                print_lines([lines])
    for index, name in enumerate(options.names):
        if index not in matched:
            warn(NAME, f'unmatched request: "{name}"')


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
