"""crypt(3) of the system's libcrypt, in any thread (the standard library's module is on its way out).

What it does not know (an old libcrypt and `$2y$`, say) is a `SchemeError`, and so is a system without it.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

_DATA_SIZE = 131072
"""Octets for `struct crypt_data`: 32768 in libxcrypt, 131232 less some in glibc's old one."""


class CryptError(Exception):
    """It cannot be computed."""


@cache
def _function() -> Any:
    for name in ("libcrypt.so.1", "libcrypt.so.2", "libcrypt.so"):
        try:
            function = ctypes.CDLL(name).crypt_r
        except (OSError, AttributeError):
            continue
        function.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
        function.restype = ctypes.c_char_p
        return function
    raise CryptError("libcrypt is not installed")


def crypt(password: bytes, setting: bytes) -> bytes:
    """The hash of `password` with method and salt of `setting`. Raises `CryptError`. May take a second."""
    if b"\0" in password or b"\0" in setting:
        raise CryptError("a NUL cannot be in a password")
    data = ctypes.create_string_buffer(_DATA_SIZE + 4096)
    found: bytes | None = _function()(password, setting, data)
    if not found or found.startswith(b"*"):
        raise CryptError("the method is not known, or the salt is wrong")
    return found
