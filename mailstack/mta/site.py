"""What our daemons need beyond Postfix's own syntax: `mailstack.toml` beside main.cf.

    [resolver]
    nameservers = ["172.28.5.2:53"]

Without the file or the section the system's resolver configuration is used.
"""

from __future__ import annotations

from pathlib import Path

from mailstack.config.errors import ConfigError
from mailstack.net.resolver import Resolver

NAME = "mailstack.toml"


def load_resolver(config_dir: Path) -> Resolver:
    """The resolver that this configuration wants. Raises `ConfigError`."""
    path = config_dir / NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Resolver.system()
    except OSError as error:
        raise ConfigError(path, 0, f"open: {error.strerror}") from None
    import tomllib  # costs start-up time, and not every configuration has the file

    try:
        content = tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(path, 0, str(error)) from None
    names = content.get("resolver", {}).get("nameservers", [])
    servers = [_server(path, name) for name in names]
    return Resolver(servers) if servers else Resolver.system()


def _server(path: Path, text: object) -> tuple[str, int]:
    host, _, port = str(text).rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(path, 0, f"resolver.nameservers: expected 'address:port', not {text!r}")
    return host.strip("[]"), int(port)
