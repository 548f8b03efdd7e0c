"""From the tree of dovecot.conf to a `DovecotConfig`: defaults, types, warnings for what has no effect."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from mailstack.config.dovecot import converters, templates, values
from mailstack.config.dovecot.databases import read_database
from mailstack.config.dovecot.listeners import read_listeners
from mailstack.config.dovecot.location import parse_location
from mailstack.config.dovecot.model import (
    AclSettings,
    Database,
    DovecotConfig,
    MailLocation,
    NamespaceSettings,
)
from mailstack.config.dovecot.namespaces import read_acl, read_namespaces
from mailstack.config.dovecot.own import read_own
from mailstack.config.dovecot.syntax import Origin, Section, Setting, parse
from mailstack.config.errors import ConfigError
from mailstack.dovecot_settings import BUILT_IN, PLUGIN, SETTINGS

T = TypeVar("T")

DEFAULTS: Mapping[str, str] = {name: setting.default for name, setting in SETTINGS.items()}
"""Dovecot 2.3's, of everything."""

PROTOCOLS = ("imap", "pop3", "lmtp")
_OTHER_PROTOCOLS = {
    "sieve": "there is no ManageSieve, and no script is run",
    "submission": "submission is the MTA's: smtpd on port 587",
}
"""What Dovecot's packages beside these add; their sections and settings are told of by name."""
_MECHANISMS = (
    "PLAIN",
    "LOGIN",
    "CRAM-MD5",
    "SCRAM-SHA-1",
    "SCRAM-SHA-256",
    "SCRAM-SHA-1-PLUS",
    "SCRAM-SHA-256-PLUS",
    "EXTERNAL",
    "XOAUTH2",
    "OAUTHBEARER",
    "ANONYMOUS",
)
_SYSTEM_DRIVERS = frozenset(("pam", "shadow", "passwd", "bsdauth", "nss"))
_WITHIN = {
    "local_name": {"ssl_cert", "ssl_key"},
    "remote": {"disable_plaintext_auth", "mail_max_userip_connections"},
    "local": {"disable_plaintext_auth", "mail_max_userip_connections"},
}
"""What sections for some clients may hold."""
_DELETE_TYPES = ("default", "expunge", "flag")
_TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")


def load(directory: Path) -> DovecotConfig:
    """Read `directory/dovecot.conf`. Raises `ConfigError`."""
    root = parse(directory / "dovecot.conf", DEFAULTS)
    return _Loader(root, directory).config()


class _Loader:
    def __init__(self, root: Section, directory: Path) -> None:
        self.root = root
        self.directory = directory
        self.warnings: list[str] = []
        self._asked: set[tuple[str, str]] = set()
        """Settings that a `protocol` section may have, each with the protocol."""

    def config(self) -> DovecotConfig:
        protocols = self._protocols()
        self._warn_about_the_rest()
        ssl = self.value("ssl", lambda s: values.choice(s, "no", "yes", "required"))
        base_dir = Path(self.value("base_dir", Setting.content))
        listen = self.value("listen", values.words)
        inet, unix, limits, warnings = read_listeners(
            self.root, self._origin("listen"), listen, base_dir, protocols, tls=ssl != "no"
        )
        self.warnings += warnings
        cert, key = (self._file("ssl_cert"), self._file("ssl_key")) if ssl != "no" else (None, None)
        verify = ssl != "no" and self.value("ssl_verify_client_cert", values.boolean)
        authority = self._file("ssl_ca") if verify else None
        own = read_own(self.directory)
        location = self._mail_location(protocols)
        acl = self._acl(protocols)
        namespaces = self._namespaces(acl)
        flag = self.value("pop3_deleted_flag", Setting.content, "pop3")
        kind = self.value("pop3_delete_type", lambda s: values.choice(s, *_DELETE_TYPES), "pop3")
        if kind == "flag" and not flag:
            raise self._origin("pop3_delete_type").error("pop3_delete_type = flag needs pop3_deleted_flag")
        config = DovecotConfig(
            path=self.root.origin.path,
            protocols=protocols,
            inet_listeners=inet,
            unix_listeners=unix,
            saslauthd=own.saslauthd,
            hostname=self.value("hostname", Setting.content) or socket.gethostname(),
            ssl=ssl,
            ssl_cert=cert,
            ssl_key=key,
            ssl_min_protocol=self.value("ssl_min_protocol", lambda s: values.choice(s, *_TLS_VERSIONS)),
            ssl_cipher_list=self._set("ssl_cipher_list") if ssl != "no" else "",
            ssl_dh=self._file("ssl_dh") if ssl != "no" and self._set("ssl_dh") else None,
            ssl_names=self._local_names() if ssl != "no" else {},
            disable_plaintext_auth=self.value("disable_plaintext_auth", values.boolean),
            auth_anonymous_username=self.value("auth_anonymous_username", Setting.content),
            auth_mechanisms=self.value("auth_mechanisms", self._mechanisms),
            auth_username_format=self.value("auth_username_format", converters.variables),
            auth_default_realm=self.value("auth_default_realm", Setting.content),
            auth_username_translation=self.value("auth_username_translation", converters.translation),
            auth_master_user_separator=self.value("auth_master_user_separator", Setting.content)[:1],
            auth_ssl_username_from_cert=self.value("auth_ssl_username_from_cert", values.boolean),
            auth_ssl_require_client_cert=self._needs_verified("auth_ssl_require_client_cert", verify),
            ssl_ca=authority,
            ssl_verify_client_cert=verify,
            ssl_require_crl=self.value("ssl_require_crl", values.boolean),
            ssl_cert_username_field=self.value("ssl_cert_username_field", Setting.content),
            haproxy_trusted_networks=self.value("haproxy_trusted_networks", converters.networks),
            haproxy_timeout=self.value("haproxy_timeout", values.seconds),
            session_limits=limits,
            login_trusted_networks=self.value("login_trusted_networks", converters.networks),
            auth_username_chars=frozenset(self.value("auth_username_chars", Setting.content)),
            auth_failure_delay=self.value("auth_failure_delay", values.seconds),
            auth_verbose=self.value("auth_verbose", values.boolean),
            passdbs=self._databases("passdb"),
            userdbs=self._databases("userdb"),
            mail_location=location.path,
            mail_layout=location,
            mail_home=self.value("mail_home", lambda s: values.template(s, "und")),
            namespaces=namespaces,
            mailboxes=tuple(mailbox for space in namespaces for mailbox in space.mailboxes),
            acl=acl,
            login_greeting={
                name: self.value("login_greeting", Setting.content, name) for name in ("imap", "pop3", "lmtp")
            },
            log_formats=self._log_formats(),
            lmtp_hostname=self.value("hostname", Setting.content, "lmtp") or socket.gethostname(),
            lmtp_username_format=self.value("auth_username_format", converters.variables, "lmtp"),
            recipient_delimiter=self.value("recipient_delimiter", Setting.content, "lmtp"),
            lmtp_add_received_header=self.value("lmtp_add_received_header", values.boolean, "lmtp"),
            lmtp_hdr_delivery_address=self.value(
                "lmtp_hdr_delivery_address", lambda s: values.choice(s, "none", "final", "original"), "lmtp"
            ),
            lmtp_save_to_detail_mailbox=self.value("lmtp_save_to_detail_mailbox", values.boolean, "lmtp"),
            lmtp_user_concurrency_limit=self.value("lmtp_user_concurrency_limit", values.number, "lmtp"),
            lmtp_rcpt_check_quota=self.value("lmtp_rcpt_check_quota", values.boolean, "lmtp"),
            lmtp_verbose_replies=self.value("lmtp_verbose_replies", values.boolean, "lmtp"),
            mail_server_comment=self.value("mail_server_comment", Setting.content, "imap"),
            mail_server_admin=self.value("mail_server_admin", Setting.content, "imap"),
            quota_full_tempfail=self.value("quota_full_tempfail", values.boolean, "lmtp"),
            lda_mailbox_autocreate=self.value("lda_mailbox_autocreate", values.boolean, "lmtp"),
            lda_mailbox_autosubscribe=self.value("lda_mailbox_autosubscribe", values.boolean, "lmtp"),
            mail_max_userip_connections={
                name: self.value("mail_max_userip_connections", values.number, name)
                for name in ("imap", "pop3")
            },
            networks=converters.read_networks(self.root),
            imap_idle_notify_interval=self.value("imap_idle_notify_interval", values.seconds, "imap"),
            imap_capability=self.value("imap_capability", Setting.content, "imap"),
            imap_id_send=self.value("imap_id_send", converters.pairs, "imap"),
            imap_id_log=self.value("imap_id_log", values.words, "imap"),
            imap_max_line_length=self.value("imap_max_line_length", values.size, "imap"),
            imap_urlauth_host=self.value("imap_urlauth_host", Setting.content, "imap"),
            imap_urlauth_port=self.value("imap_urlauth_port", values.port, "imap"),
            pop3_uidl_format=self.value("pop3_uidl_format", self._uidl, "pop3"),
            pop3_no_flag_updates=self.value("pop3_no_flag_updates", values.boolean, "pop3"),
            pop3_deleted_flag=flag,
            pop3_flags_deleted=kind == "flag" or (kind == "default" and bool(flag)),
            pop3_enable_last=self.value("pop3_enable_last", values.boolean, "pop3"),
            pop3_client_workarounds=self.value("pop3_client_workarounds", converters.workarounds, "pop3"),
            pop3_logout_format=self.value(
                "pop3_logout_format", lambda s: values.template(s, "tprbdmsio"), "pop3"
            ),
            pop3_login_delay=own.login_delay,
            plugin=self._plugin(),
            warnings=(),
        )
        self._warn_about_protocols()
        return replace(config, warnings=tuple(self.warnings))

    def value(self, key: str, convert: Callable[[Setting], T], protocol: str = "") -> T:
        """A setting as it holds for `protocol`: its `protocol` section, else the file, else the default."""
        setting = self.root.get(key)
        self._asked.add((key, protocol))
        for section in self.root.all("protocol"):
            negative = section.name.startswith("!")
            if protocol and (section.name[1:] != protocol if negative else section.name == protocol):
                setting = section.get(key) or setting
        return convert(setting or Setting(key, DEFAULTS[key], self.root.origin))

    def _origin(self, key: str) -> Origin:
        setting = self.root.get(key)
        return setting.origin if setting else self.root.origin

    def _log_formats(self) -> templates.LogFormats:
        prefix = self.value("mail_log_prefix", lambda s: templates.template(s, templates.PREFIX))
        if self.root.get("mail_log_prefix") is None:
            prefix = replace(prefix, text=f"{prefix.text} ")  # a default's last blank is cut off
        return templates.LogFormats(
            login=self.value("login_log_format", templates.login_format),
            elements=self.value("login_log_format_elements", templates.elements),
            prefix=prefix,
            logout=self.value(
                "imap_logout_format", lambda s: templates.template(s, templates.LOGOUT), "imap"
            ),
        )

    # ---- single settings

    def _protocols(self) -> frozenset[str]:
        def convert(setting: Setting) -> frozenset[str]:
            names = values.words(setting)
            for name in names:
                if name in _OTHER_PROTOCOLS:
                    reason = _OTHER_PROTOCOLS[name]
                    self.warnings.append(f"{setting.origin}: protocols: {name} has no effect: {reason}")
                elif name not in (*PROTOCOLS, "none"):
                    raise setting.origin.error(f"protocols: Unknown protocol: {name}")
            return frozenset(names) & frozenset(PROTOCOLS)

        return self.value("protocols", convert)

    def _mechanisms(self, setting: Setting) -> tuple[str, ...]:
        names = tuple(name.upper() for name in values.words(setting))
        for name in names:
            if name not in _MECHANISMS:
                known = ", ".join(_MECHANISMS).lower()
                raise setting.origin.error(f"auth_mechanisms: unsupported mechanism {name} ({known})")
        if not names:
            raise setting.origin.error("auth_mechanisms: no mechanism is named")
        return names

    def _needs_verified(self, key: str, verify: bool) -> bool:
        wanted = self.value(key, values.boolean)
        if wanted and not verify:
            raise self._origin(key).error(f"{key} needs ssl_verify_client_cert = yes")
        return wanted

    def _uidl(self, setting: Setting) -> str:
        text = values.template(setting, "uvf")
        if "u" not in text and "f" not in text:
            raise setting.origin.error("pop3_uidl_format needs %u or %f, or messages would share an id")
        return text

    def _set(self, key: str) -> str:
        """A setting's text where the file has it, else nothing, whatever the default."""
        setting = self.root.get(key)
        return setting.text if setting is not None else ""

    def _local_names(self) -> Mapping[str, tuple[Path, Path]]:
        """`local_name HOST… { ssl_cert ssl_key }`."""
        found: dict[str, tuple[Path, Path]] = {}
        for section in self.root.all("local_name"):
            if "ssl_cert" not in section.settings and "ssl_key" not in section.settings:
                continue
            files = self._file("ssl_cert", section), self._file("ssl_key", section)
            if files[0] is not None and files[1] is not None:
                found |= {name.lower(): (files[0], files[1]) for name in section.name.split()}
        return found

    def _databases(self, kind: str) -> tuple[Database, ...]:
        """All but those that ask for the machine's own accounts, where they only say who may come in."""
        found = []
        for section in self.root.all(kind):
            driver = section.get("driver")
            plain = section.settings.keys() <= {"driver", "args", "name", "override_fields", "default_fields"}
            if driver is not None and driver.text in _SYSTEM_DRIVERS and plain:
                self.warnings.append(
                    f"{driver.origin}: {kind} {{ driver = {driver.text} has no effect: the machine's own "
                    "accounts are not asked (use passwd-file, static or sql)"
                )
                continue
            found.append(read_database(section))
        return tuple(found)

    def _file(self, key: str, section: Section | None = None) -> Path | None:
        setting = (section or self.root).get(key)
        if setting is None or not setting.text:
            raise ConfigError(self.root.origin.path, 0, f"ssl is not no, but {key} is not set")
        if not setting.file:
            raise setting.origin.error(f"{key}: write it as <file")
        if not os.access(setting.text, os.R_OK):
            raise setting.origin.error(f"{key}: Can't open file {setting.text}")
        return Path(setting.text)

    def _mail_location(self, protocols: frozenset[str]) -> MailLocation:
        def convert(setting: Setting) -> MailLocation:
            text = values.template(setting, "undh")
            if not text and not protocols:
                return MailLocation("~/Maildir")
            try:
                return parse_location(text)
            except ValueError as error:
                raise setting.origin.error(f"mail_location: {error}") from None

        return self.value("mail_location", convert)

    # ---- sections

    def _namespaces(self, acl: AclSettings | None) -> tuple[NamespaceSettings, ...]:
        return read_namespaces(
            self.root.all("namespace"),
            self.warnings.append,
            acl=acl is not None,
            explicit_inbox=self.value("mail_shared_explicit_inbox", values.boolean),
        )

    def _acl(self, protocols: frozenset[str]) -> AclSettings | None:
        plugins = {
            name: self.value("mail_plugins", lambda setting: setting, name) for name in ("imap", "lmtp")
        }
        settings = {
            setting.key: setting
            for section in self.root.all("plugin")
            for setting in section.settings.values()
        }
        return read_acl(plugins, protocols, settings, self.warnings.append)

    def _plugin(self) -> Mapping[str, str]:
        """The settings of all `plugin` sections."""
        return {
            setting.key: setting.content()
            for section in self.root.all("plugin")
            for setting in section.settings.values()
        }

    def _warn_about_the_rest(self) -> None:
        """Everything that is there and has no effect, whatever its section."""
        for setting in self.root.settings.values():
            self._warn(setting)
        for section in self.root.sections:
            if section.type == "protocol":
                for setting in section.settings.values():
                    self._warn(setting)
                self.warnings += [
                    f"{part.origin}: protocol {section.name} {{ {part.type} has no effect here; "
                    f"write {part.type} {{ … }} outside of protocol"
                    for part in section.sections
                ]
            elif section.type == "plugin":
                self.warnings += [
                    f"{setting.origin}: plugin {{ {setting.key} has no effect: there is no such plugin here"
                    for setting in section.settings.values()
                    if setting.key not in PLUGIN
                ]
            elif section.type in ("local", "local_name", "remote", "dict"):
                known = _WITHIN.get(section.type, set())
                self.warnings += [
                    f"{setting.origin}: {section.type} {{ {setting.key} has no effect here"
                    for setting in section.settings.values()
                    if setting.key not in known
                ]
                self.warnings += [
                    f"{part.origin}: {section.type} {{ {part.type} has no effect here"
                    for part in section.sections
                ]
            elif section.type in ("metric", "event_exporter"):
                name = f"{section.type} {section.name}"
                self.warnings.append(f"{section.origin}: {name} has no effect: there is no stats process")
            elif section.type not in ("passdb", "userdb", "namespace", "service"):
                raise section.origin.error(f"Unknown section {section.type}")

    def _warn(self, setting: Setting) -> None:
        known = SETTINGS.get(setting.key)
        if known is None:
            self.warnings.append(f"{setting.origin}: setting {setting.key} is unknown here and has no effect")
        elif setting.key == "mail_plugins":
            for word in setting.content().replace(",", " ").split():
                if word not in BUILT_IN:
                    self.warnings.append(f"{setting.origin}: mail_plugins: {word} has no effect: {known.doc}")
        elif known.values:
            value = f"<{setting.text}" if setting.file else setting.content()
            if not any(values.same(value, allowed) for allowed in (*known.values, known.default)):
                self.warnings.append(f"{setting.origin}: setting {setting.key} has no effect: {known.doc}")

    def _warn_about_protocols(self) -> None:
        """Settings that work, in a `protocol` section where they do not."""
        for section in self.root.all("protocol"):
            name = section.name.removeprefix("!")
            for setting in section.settings.values():
                known = SETTINGS.get(setting.key)
                if known is None or not known.works:
                    continue
                asked = {protocol for key, protocol in self._asked if key == setting.key}
                if name not in asked and not (section.name.startswith("!") and asked - {""}):
                    self.warnings.append(
                        f"{setting.origin}: setting {setting.key} has no effect in protocol {section.name}"
                    )
