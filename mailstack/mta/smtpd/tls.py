"""smtpd's side of TLS: versions, ciphers, curves, certificates and authorities, as main.cf has them.

`make_context` gives one context for a service. Where TLS is demanded the `smtpd_tls_mandatory_…` parameters
count, else those without that word, as in Postfix. A client that names a host by SNI is shown the chain that
`tls_server_sni_maps` has for it (`host`, then `.parent.domain` and so on), else the service's own.

Raises `ConfigError` for what cannot be used. Logs what is wrong with an entry of the SNI tables; the
handshake fails then. Standards: RFC 3207, RFC 6066 §3 (SNI), RFC 7468 (PEM),
RFC 7919, RFC 8996, TLS_README.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import OpenTable, Table
from mailstack.mta.ciphers import cipher_list, set_options
from mailstack.mta.lookup import SlowTable
from mailstack.net.log import Log
from mailstack.net.tls import parse_protocols
from mailstack.storage.tables import TableError

_BLOCK = re.compile(
    rb"-----BEGIN ([A-Z0-9 ]+)-----\r?\n.*?\r?\n-----END \1-----[ \t]*(?:\r?\n|\Z)", re.DOTALL
)
_KEPT = 200
"""Chains of SNI tables that are kept ready."""
_OWN_CURVES = "X25519 X448 prime256v1 secp521r1 secp384r1"
"""tls_eecdh_auto_curves as it is by default: OpenSSL's own choice."""
FFDHE2048 = b"""\
-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
"""
"""A finite field group that clients know (RFC 7919 §A.1)."""
_PAIRS = (
    ("smtpd_tls_cert_file", "smtpd_tls_key_file"),
    ("smtpd_tls_eccert_file", "smtpd_tls_eckey_file"),
    ("smtpd_tls_dcert_file", "smtpd_tls_dkey_file"),
)


def is_wanted(conf: MainCf) -> bool:
    """Whether a service offers or demands TLS."""
    return level(conf) in ("may", "encrypt") or conf.bool("smtpd_tls_wrappermode")


def level(conf: MainCf) -> str:
    """smtpd_tls_security_level, or what the old smtpd_enforce_tls and smtpd_use_tls say in its place."""
    name = conf.str("smtpd_tls_security_level")
    if not name:
        name = "may" if conf.bool("smtpd_use_tls") else ""
        if conf.bool("smtpd_enforce_tls"):
            name = "encrypt"
    return name


def make_context(conf: MainCf, config_dir: Path, open_table: OpenTable, log: Log) -> ssl.SSLContext:
    """The context of one service. Raises `ConfigError` and `TableError`."""
    mandatory = level(conf) == "encrypt" or conf.bool("smtpd_tls_wrappermode")
    context = _bare(conf, mandatory, log)
    _load_chains(context, conf, config_dir)
    demanded = mandatory and conf.bool("smtpd_tls_req_ccert")
    asked = demanded or conf.bool("smtpd_tls_ask_ccert")
    _set_ciphers(context, conf, mandatory, asked)
    if asked:
        _load_authorities(context, conf, config_dir)
        context.verify_mode = ssl.CERT_REQUIRED if demanded else ssl.CERT_OPTIONAL
    names = conf.list("tls_server_sni_maps")
    if names:
        tables = [open_table(name) for name in names]
        for table, name in zip(tables, names, strict=True):
            if isinstance(table, SlowTable):
                raise conf.error("tls_server_sni_maps", f"{name}: a handshake waits for no server")
        context.sni_callback = _Names(tables, config_dir, log).choose
    return context


def _bare(conf: MainCf, mandatory: bool, log: Log) -> ssl.SSLContext:
    """Versions, options, curves and parameters."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    name = "smtpd_tls_mandatory_protocols" if mandatory else "smtpd_tls_protocols"
    try:
        # TLS 1.0 and 1.1 (RFC 8996) only where somebody has asked for them.
        oldest = "TLSv1" if conf.is_set(name) else "TLSv1.2"
        parse_protocols(conf.str(name).replace(":", " "), oldest).limit(context)
    except ValueError as error:
        raise conf.error(name, str(error)) from None
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if not conf.bool("tls_preempt_cipherlist"):
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    set_options(context, conf)
    _set_curves(context, conf, log)
    _set_dh(context, conf)
    return context


def _set_curves(context: ssl.SSLContext, conf: MainCf, log: Log) -> None:
    curves = conf.str("tls_eecdh_auto_curves").replace(":", " ").split()
    if not curves or curves == _OWN_CURVES.split():
        return
    if len(curves) > 1:
        log.warning(f"tls_eecdh_auto_curves: more than one curve; OpenSSL's list counts: {_OWN_CURVES}")
        return
    try:
        context.set_ecdh_curve(curves[0])
    except (ValueError, ssl.SSLError):
        raise conf.error("tls_eecdh_auto_curves", f"unknown curve {curves[0]!r}") from None


def _set_dh(context: ssl.SSLContext, conf: MainCf) -> None:
    """smtpd_tls_dh1024_param_file; without, with `auto` and with `none` a known group of 2048 bits."""
    file = conf.str("smtpd_tls_dh1024_param_file")
    try:
        if file in ("", "auto", "none"):
            with _in_memory(FFDHE2048) as path:
                context.load_dh_params(path)
        else:
            context.load_dh_params(file)
    except (OSError, ssl.SSLError) as error:
        raise conf.error("smtpd_tls_dh1024_param_file", f"{file}: {error}") from None


def _set_ciphers(context: ssl.SSLContext, conf: MainCf, mandatory: bool, asked: bool) -> None:
    grade = "smtpd_tls_mandatory_ciphers" if mandatory else "smtpd_tls_ciphers"
    excluded = conf.list("smtpd_tls_exclude_ciphers")
    if mandatory:
        excluded = excluded + conf.list("smtpd_tls_mandatory_exclude_ciphers")
    if asked:
        excluded.append("aNULL")  # who has no certificate asks for none
    ciphers = cipher_list(conf, conf.str(grade), excluded)
    try:
        context.set_ciphers(ciphers)
    except ssl.SSLError:
        raise conf.error(grade, f"no cipher is left of {ciphers}") from None


def _load_authorities(context: ssl.SSLContext, conf: MainCf, config_dir: Path) -> None:
    file, folder = conf.str("smtpd_tls_CAfile"), conf.str("smtpd_tls_CApath")
    append = conf.bool("tls_append_default_CA")
    if not file and not folder and not append:
        raise conf.error("smtpd_tls_CAfile", "client certificates need an authority to verify them")
    if append:
        context.set_default_verify_paths()
    if file or folder:
        try:
            context.load_verify_locations(
                config_dir / file if file else None, config_dir / folder if folder else None
            )
        except (OSError, ssl.SSLError) as error:
            name = "smtpd_tls_CAfile" if file else "smtpd_tls_CApath"
            raise conf.error(name, f"{file or folder}: {error}") from None


# ---- certificates


def _load_chains(context: ssl.SSLContext, conf: MainCf, config_dir: Path) -> None:
    files = conf.list("smtpd_tls_chain_files")
    if files:
        try:
            load_pem(context, b"\n".join((config_dir / name).read_bytes() for name in files))
        except (OSError, ssl.SSLError, ValueError) as error:
            raise conf.error("smtpd_tls_chain_files", str(error)) from None
        return
    loaded = False
    for cert_name, key_name in _PAIRS:
        cert, key = conf.str(cert_name), conf.str(key_name)
        if cert in ("", "none"):
            continue
        try:
            context.load_cert_chain(config_dir / cert, config_dir / key)
        except (OSError, ssl.SSLError) as error:
            raise conf.error(cert_name, f"{cert}: {error}") from None
        loaded = True
    if not loaded:
        raise conf.error("smtpd_tls_cert_file", "TLS needs a certificate")


def load_pem(context: ssl.SSLContext, text: bytes) -> None:
    """Give a context every key of `text` with the certificates behind it: one set for each type of key.

    Raises `ValueError` where certificates have no key before them, or a key has none behind it, and
    `ssl.SSLError` for those that do not fit.
    """
    sets: list[list[bytes]] = []
    for block in _BLOCK.finditer(text):
        if block[1].endswith(b"PRIVATE KEY"):
            sets.append([block[0]])
        elif block[1] in (b"CERTIFICATE", b"X509 CERTIFICATE", b"TRUSTED CERTIFICATE"):
            if not sets:
                raise ValueError("a certificate without a private key before it")
            sets[-1].append(block[0])
    if not sets:
        raise ValueError("no private key found")
    for one in sets:
        if len(one) == 1:
            raise ValueError("a private key without a certificate behind it")
        with _in_memory(b"\n".join(one)) as path:
            context.load_cert_chain(path)


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """The path of a file that is nowhere but in memory: the ssl module reads files only."""
    with open(os.memfd_create("pem", os.MFD_CLOEXEC), "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


class _Names:
    """tls_server_sni_maps: chains by the name that the client asks for."""

    def __init__(self, tables: Sequence[Table], config_dir: Path, log: Log) -> None:
        self._tables = tables
        self._config_dir = config_dir
        self._log = log
        self._contexts: dict[str, ssl.SSLContext] = {}

    def choose(self, session: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
        """Have the session show the chain for `name`; the number of a TLS alert when it cannot be had."""
        if not name:
            return None
        try:
            value = self._find(name.lower())
            if value is not None:
                session.context = self._context(value)
        except (OSError, TableError, ssl.SSLError, ValueError) as error:
            self._log.warning(f"tls_server_sni_maps: {name}: {error}")
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        return None

    def _find(self, key: str) -> str | None:
        while key:
            for table in self._tables:
                value = table.lookup(key)
                if value is not None:
                    return value
            dot = key.find(".", 1)
            key = key[dot:] if dot > 0 else ""
        return None

    def _context(self, value: str) -> ssl.SSLContext:
        """The context with a table's chain: files' names, or (postmap -F) their content in BASE64."""
        found = self._contexts.get(value)
        if found is None:
            if value.startswith("/"):
                names = value.replace(",", " ").split()
                text = b"\n".join((self._config_dir / name).read_bytes() for name in names)
            else:
                try:
                    text = base64.b64decode(value, validate=True)
                except binascii.Error:
                    raise ValueError("neither files nor what postmap -F makes of them") from None
            found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            load_pem(found, text)
            if len(self._contexts) >= _KEPT:
                self._contexts.clear()
            self._contexts[value] = found
        return found
