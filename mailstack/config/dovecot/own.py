"""mailstack.toml beside dovecot.conf: what Dovecot's own syntax has no word for.

    [saslauthd]
    path = "/run/saslauthd/mux"   # the saslauthd protocol, at this socket
    mode = 0o666

    [pop3]
    login_delay = 60              # seconds between two logins of a user (RFC 2449 §6.5: LOGIN-DELAY)

Raises `ConfigError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mailstack.config.dovecot.model import Saslauthd
from mailstack.config.errors import ConfigError

FILE = "mailstack.toml"
_KEYS = {"saslauthd": ("path", "mode"), "pop3": ("login_delay",)}


@dataclass(frozen=True, slots=True)
class Own:
    """What the file says; `login_delay` in seconds."""

    saslauthd: Saslauthd | None = None
    login_delay: float = 0.0


def read_own(directory: Path) -> Own:
    """Read the file in this folder; it need not be there."""
    path = directory / FILE
    if not path.exists():
        return Own()
    import tomllib  # only where the file is there: it costs start-up time

    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(path, 0, str(error)) from None
    for name, section in table.items():
        if name not in _KEYS or not isinstance(section, dict):
            raise ConfigError(path, 0, f"unknown key {name}")
        for key in section:
            if key not in _KEYS[name]:
                raise ConfigError(path, 0, f"unknown key {name}.{key}")
    delay = table.get("pop3", {}).get("login_delay", 0)
    if not isinstance(delay, int) or delay < 0:
        raise ConfigError(path, 0, "pop3.login_delay is a number of seconds")
    socket = table.get("saslauthd", {})
    if "path" not in socket:
        return Own(None, float(delay))
    mode = socket.get("mode", 0o666)
    if not isinstance(socket["path"], str) or not isinstance(mode, int):
        raise ConfigError(path, 0, "saslauthd.path is a string and saslauthd.mode an octal number (0o666)")
    return Own(Saslauthd(Path(directory, socket["path"]), mode), float(delay))
