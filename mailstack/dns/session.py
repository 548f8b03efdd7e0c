"""The session key of `update-policy local`: who may read its file may change the zones, from this machine.

`nsupdate -l` reads it. It is made when the server starts, and goes on with a reload that does not change its
name, algorithm or file.

Standards: BIND 9.18's named.conf(5).
"""

from __future__ import annotations

import base64
import os
from dataclasses import replace
from pathlib import Path

from mailstack.config.errors import ConfigError
from mailstack.config.named.model import NamedConf, SessionKey, TsigKey

OCTETS = {"hmac-sha384": 48, "hmac-sha512": 64}
"""Of the secret, where it is not 32."""


class Session:
    """The key of one process."""

    def __init__(self) -> None:
        self._made: tuple[SessionKey, TsigKey] | None = None

    def with_key(self, conf: NamedConf) -> NamedConf:
        """A configuration with the session key among its keys, if it wants one; the key is then in its file.

        Raises `ConfigError`.
        """
        wanted = conf.session_key
        if wanted is None:
            return conf
        if any(key.name == wanted.name for key in conf.keys):
            raise ConfigError(conf.path, 0, f"key '{wanted.name}' is the session key of update-policy local")
        if self._made is None or self._made[0] != wanted:
            secret = os.urandom(OCTETS.get(wanted.algorithm, 32))
            key = TsigKey(wanted.name, wanted.algorithm, secret)
            if wanted.file:
                _write(conf, wanted.file, key)
            self._made = wanted, key
        return replace(conf, keys=(*conf.keys, self._made[1]))


def _write(conf: NamedConf, file: str, key: TsigKey) -> None:
    text = f'key "{key.name}" {{\n\talgorithm {key.algorithm};\n'
    text += f'\tsecret "{base64.b64encode(key.secret).decode()}";\n}};\n'
    path = Path(file)
    temporary = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="ascii") as stream:
            stream.write(text)
        os.rename(temporary, path)
    except OSError as error:
        raise ConfigError(conf.path, 0, f"session-keyfile '{file}': {error.strerror}") from error
