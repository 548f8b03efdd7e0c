"""smtpd's side of TLS: versions, ciphers, curves, certificates and authorities, as main.cf has them.

`make_context` gives one context for a service. Where TLS is demanded the `smtpd_tls_mandatory_…` parameters
count, else those without that word, as in Postfix. A client that names a host by SNI is shown the chain that
`tls_server_sni_maps` has for it (`host`, then `.parent.domain` and so on), else the service's own.

Certificates, keys and authorities that are missing or cannot be used are no reason not to start: TLS is
disabled for the service, with Postfix's warning, until the configuration is read again. Raises `ConfigError`
for what else cannot be used. Logs what is wrong with an entry of the SNI tables; the handshake fails then.
Standards: RFC 3207, RFC 6066 §3 (SNI), RFC 7468 (PEM),
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
    ("RSA", "smtpd_tls_cert_file", "smtpd_tls_key_file"),
    ("ECDSA", "smtpd_tls_eccert_file", "smtpd_tls_eckey_file"),
    ("DSA", "smtpd_tls_dcert_file", "smtpd_tls_dkey_file"),
)


_OTHER_KEY = ("KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"""What OpenSSL calls a key that is not the certificate's: another one, or one of another type."""


class _Disabled(Exception):  # noqa: N818 - what follows from it, not what it is
    """TLS cannot be had with these certificates; the lines for the log."""


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


def make_context(conf: MainCf, config_dir: Path, open_table: OpenTable, log: Log) -> ssl.SSLContext | None:
    """The context of one service; None, with the reason in the log, where its certificates cannot be used.

    Raises `ConfigError` and `TableError`.
    """
    mandatory = level(conf) == "encrypt" or conf.bool("smtpd_tls_wrappermode")
    context = _bare(conf, mandatory, log)
    demanded = mandatory and conf.bool("smtpd_tls_req_ccert")
    asked = demanded or conf.bool("smtpd_tls_ask_ccert")
    _set_ciphers(context, conf, mandatory, asked)
    try:
        _load_chains(context, conf, config_dir)
        if asked:
            _load_authorities(context, conf, config_dir)
            context.verify_mode = ssl.CERT_REQUIRED if demanded else ssl.CERT_OPTIONAL
    except _Disabled as error:
        for line in error.args:
            log.warning(line)
        return None
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
    _set_dh(context, conf, log)
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


def _set_dh(context: ssl.SSLContext, conf: MainCf, log: Log) -> None:
    """smtpd_tls_dh1024_param_file; without, with `auto` and with `none` a known group of 2048 bits."""
    file = conf.str("smtpd_tls_dh1024_param_file")
    try:
        if file not in ("", "auto", "none"):
            open(file, "rb").close()
    except OSError as error:
        compiled = "-- using compiled-in defaults"
        log.warning(f'error opening DH parameter file "{file}": {error.strerror} {compiled}')
        file = ""
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
            what = f'CAfile="{file}"' if file else f'CApath="{folder}"'
            raise _Disabled(
                f"cannot load Certification Authority data, {what}: disabling TLS support",
                f"TLS library problem: {error}",
            ) from None


# ---- certificates


def _load_chains(context: ssl.SSLContext, conf: MainCf, config_dir: Path) -> None:
    """Give a context the certificates of a service. Raises `_Disabled`, and `ConfigError` for `none`."""
    files = conf.list("smtpd_tls_chain_files")
    if files:
        _load_chain_files(context, [config_dir / name for name in files])
        return
    named = [(kind, conf.str(cert), conf.str(key)) for kind, cert, key in _PAIRS]
    used = [(kind, cert, key) for kind, cert, key in named if cert not in ("", "none")]
    if not used:
        if any(cert == "none" for _, cert, _ in named):
            raise conf.error("smtpd_tls_cert_file", "TLS needs a certificate")
        raise _Disabled("No server certs available. TLS won't be enabled")
    for kind, cert, key in used:
        if cert == key:
            _load_chain_files(context, [config_dir / cert])
        else:
            _load_pair(context, kind, config_dir / cert, config_dir / key)


def _load_chain_files(context: ssl.SSLContext, paths: Sequence[Path]) -> None:
    """Give a context the keys and certificates of files that hold both."""
    text = b""
    for path in paths:
        try:
            one = path.read_bytes()
        except OSError as error:
            raise _Disabled(f"error opening chain file: {path}: {error.strerror}") from None
        if not _BLOCK.search(one):
            raise _Disabled(f"No PEM data in {path}", _unloaded(paths))
        text += one + b"\n"
    try:
        try:
            load_pem(context, text)
        except ValueError as error:
            if len(paths) != 1 or b"PRIVATE KEY-----" not in text or b"CERTIFICATE-----" not in text:
                raise _Disabled(f"TLS library problem: {error}", _unloaded(paths)) from None
            context.load_cert_chain(paths[0])  # the certificate before its key
    except (OSError, ssl.SSLError) as error:
        raise _Disabled(f"TLS library problem: {error}", _unloaded(paths)) from None


def _unloaded(paths: Sequence[Path]) -> str:
    names = ", ".join(map(str, paths))
    return f"error loading private keys and certificates from: {names}: disabling TLS support"


def _load_pair(context: ssl.SSLContext, kind: str, cert: Path, key: Path) -> None:
    """Give a context a certificate and its key, each in a file of its own."""
    for path, what, mark in ((cert, "certificate", b"CERTIFICATE-----"), (key, "private key", b"KEY-----")):
        failed = f'cannot get {kind} {what} from file "{path}": disabling TLS support'
        try:
            if mark not in path.read_bytes():
                raise _Disabled(failed)
        except OSError as error:
            raise _Disabled(failed, f"TLS library problem: {path}: {error.strerror}") from None
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        if getattr(error, "reason", "") in _OTHER_KEY:
            text = f"{kind} private key in {key} does not match public key in {cert}: disabling TLS support"
            raise _Disabled(text) from None
        text = f'cannot get {kind} certificate from file "{cert}": disabling TLS support'
        raise _Disabled(text, f"TLS library problem: {error}") from None


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
