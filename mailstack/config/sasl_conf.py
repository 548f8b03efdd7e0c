"""The Cyrus SASL application file (`smtpd.conf`): `name: value` lines, `#` comments.

Only what an SMTP server that asks saslauthd needs: `pwcheck_method: saslauthd`, `mech_list`, `log_level` and
`saslauthd_path`. Another way to check passwords is a `ConfigError`, and so is a line that is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mailstack.config.errors import ConfigError

DEFAULT_PATH = "/var/run/saslauthd/mux"
KNOWN = frozenset({"pwcheck_method", "mech_list", "log_level", "saslauthd_path"})


@dataclass(frozen=True, slots=True)
class SaslConf:
    """What the file says. `mech_list`: upper case; empty means every mechanism that works."""

    pwcheck_method: str = "saslauthd"
    mech_list: tuple[str, ...] = ()
    log_level: int = 1
    saslauthd_path: str = DEFAULT_PATH
    warnings: tuple[str, ...] = ()


def read_sasl_conf(path: Path) -> SaslConf:
    """Read `path`. Raises `ConfigError`."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(path, 0, f"open: {reason}") from None
    values: dict[str, str] = {}
    warnings: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, colon, value = stripped.partition(":")
        name, value = name.strip(), value.strip()
        if not colon or not name:
            raise ConfigError(path, number, f"expected 'name: value', not {stripped[:60]!r}")
        if name not in KNOWN:
            warnings.append(f"{path}, line {number}: unused option: {name}: {value}")
        problem = _problem(name, value)
        if problem:
            raise ConfigError(path, number, f"{name}: {problem}")
        values[name] = value
    if "pwcheck_method" not in values:
        raise ConfigError(path, 0, "pwcheck_method is missing: only saslauthd is supported")
    return SaslConf(
        values["pwcheck_method"],
        tuple(values.get("mech_list", "").upper().split()),
        int(values.get("log_level", "1")),
        values.get("saslauthd_path", DEFAULT_PATH),
        tuple(warnings),
    )


def _problem(name: str, value: str) -> str:
    if name == "pwcheck_method" and value != "saslauthd":
        return f"only saslauthd is supported, not {value!r}"
    if name == "log_level" and not (value.isascii() and value.isdigit() and int(value) <= 7):
        return f"expected a number from 0 to 7, not {value!r}"
    if name == "saslauthd_path" and not value.startswith("/"):
        return f"expected an absolute path, not {value!r}"
    return ""
