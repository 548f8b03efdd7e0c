"""Cipher grades and OpenSSL's options as main.cf names them, for servers and clients (TLS_README).

A grade is an OpenSSL cipher list of its own parameter (`tls_medium_cipherlist`); what is excluded is taken
off it. Such lists count up to TLS 1.2: the suites of TLS 1.3 are always OpenSSL's own.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable

from mailstack.config.postfix.main_cf import MainCf

LISTS = {
    "high": "tls_high_cipherlist",
    "medium": "tls_medium_cipherlist",
    "low": "tls_low_cipherlist",
    "export": "tls_export_cipherlist",
    "null": "tls_null_cipherlist",
}
"""Grade -> the parameter that has its list."""
OPTIONS = {
    "LEGACY_SERVER_CONNECT": 1 << 2,
    "NO_TICKET": 1 << 14,
    "NO_SESSION_RESUMPTION_ON_RENEGOTIATION": 1 << 16,
    "NO_COMPRESSION": 1 << 17,
    "ENABLE_MIDDLEBOX_COMPAT": 1 << 20,
    "PRIORITIZE_CHACHA": 1 << 21,
    "NO_RENEGOTIATION": 1 << 30,
}
"""tls_ssl_options: name -> bit of SSL_CTX_set_options(3)."""
WORKAROUNDS = {
    "CRYPTOPRO_TLSEXT_BUG": 1 << 31,
    "DONT_INSERT_EMPTY_FRAGMENTS": 1 << 11,
    "LEGACY_SERVER_CONNECT": 1 << 2,
    "SAFARI_ECDHE_ECDSA_BUG": 1 << 6,
    "TLSEXT_PADDING": 1 << 4,
    # Of older libraries: nothing in them is left to turn off.
    **dict.fromkeys(
        ("MICROSOFT_SESS_ID_BUG", "NETSCAPE_CHALLENGE_BUG", "NETSCAPE_REUSE_CIPHER_CHANGE_BUG",
         "SSLREF2_REUSE_CERT_TYPE_BUG", "MICROSOFT_BIG_SSLV3_BUFFER", "MSIE_SSLV2_RSA_PADDING",
         "SSLEAY_080_CLIENT_DH_BUG", "TLS_D5_BUG", "TLS_BLOCK_PADDING_BUG"), 0),
}  # fmt: skip
"""tls_disable_workarounds: name -> bit."""
_MANAGED = 1 << 22 | 0b11111 << 25
"""The order of ciphers and the versions of the protocol: they have parameters of their own."""
_SEPARATE = str.maketrans(":,", "  ")


def cipher_list(conf: MainCf, grade: str, excluded: Iterable[str]) -> str:
    """What `SSLContext.set_ciphers` is given. Raises `ConfigError` for exclusions that name nothing."""
    name = LISTS[grade]
    # As Postfix has it: weak security is more than none. A list may say `@SECLEVEL=2` itself.
    words = ["@SECLEVEL=0", conf.str(name)]
    for value in excluded:
        for word in value.translate(_SEPARATE).split():
            if not word.replace("-", "").replace("_", "").replace("+", "").isalnum():
                raise conf.error(name, f"invalid character in the exclusion {word!r}")
            words.append(f"!{word}")
    return ":".join(words)


def set_options(context: ssl.SSLContext, conf: MainCf) -> None:
    """tls_ssl_options and tls_disable_workarounds. Raises `ConfigError`."""
    context.options |= _bits(conf, "tls_ssl_options", OPTIONS) & ~_MANAGED
    context.options &= ~_bits(conf, "tls_disable_workarounds", WORKAROUNDS)


def _bits(conf: MainCf, name: str, known: dict[str, int]) -> int:
    bits = 0
    for value in conf.list(name):
        for word in value.translate(_SEPARATE).split():
            if word.upper() in known:
                bits |= known[word.upper()]
                continue
            try:
                bits |= int(word, 16) if word[:2].lower() == "0x" else _unknown()
            except ValueError:
                raise conf.error(name, f"unknown name or number: {word!r}") from None
    return bits


def _unknown() -> int:
    raise ValueError
