"""From the tree of dovecot.conf to a `DovecotConfig`: defaults, types, warnings for what has no effect."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from mailstack.config.dovecot import values
from mailstack.config.dovecot.listeners import read_listeners
from mailstack.config.dovecot.model import Database, DovecotConfig, Mailbox, Saslauthd
from mailstack.config.dovecot.syntax import Origin, Section, Setting, parse
from mailstack.config.errors import ConfigError
from mailstack.dovecot_settings import PLUGIN, SETTINGS

T = TypeVar("T")

DEFAULTS: Mapping[str, str] = {name: setting.default for name, setting in SETTINGS.items()}
"""Dovecot 2.3's, of everything."""

PROTOCOLS = ("imap", "pop3", "lmtp")
_DATABASE_KEYS = {"name", "driver", "args", "default_fields", "override_fields"}
_REFUSED_DATABASE_KEYS = {
    "deny",
    "master",
    "pass",
    "mechanisms",
    "username_filter",
    "skip",
    "result_success",
    "result_failure",
    "result_internalfail",
    "auth_verbose",
}
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
        inet, unix, warnings = read_listeners(
            self.root, self._origin("listen"), listen, base_dir, protocols, tls=ssl != "no"
        )
        self.warnings += warnings
        cert, key = (self._file("ssl_cert"), self._file("ssl_key")) if ssl != "no" else (None, None)
        config = DovecotConfig(
            path=self.root.origin.path,
            protocols=protocols,
            inet_listeners=inet,
            unix_listeners=unix,
            saslauthd=self._saslauthd(),
            hostname=self.value("hostname", Setting.content) or socket.gethostname(),
            ssl=ssl,
            ssl_cert=cert,
            ssl_key=key,
            ssl_min_protocol=self.value("ssl_min_protocol", lambda s: values.choice(s, *_TLS_VERSIONS)),
            disable_plaintext_auth=self.value("disable_plaintext_auth", values.boolean),
            auth_anonymous_username=self.value("auth_anonymous_username", Setting.content),
            auth_mechanisms=self.value("auth_mechanisms", self._mechanisms),
            auth_username_format=self.value("auth_username_format", lambda s: values.template(s, "und")),
            auth_default_realm=self.value("auth_default_realm", Setting.content),
            auth_username_chars=frozenset(self.value("auth_username_chars", Setting.content)),
            auth_failure_delay=self.value("auth_failure_delay", values.seconds),
            auth_verbose=self.value("auth_verbose", values.boolean),
            passdbs=tuple(self._database(section) for section in self.root.all("passdb")),
            userdbs=tuple(self._database(section) for section in self.root.all("userdb")),
            mail_location=self._mail_location(protocols),
            mail_home=self.value("mail_home", lambda s: values.template(s, "und")),
            mailboxes=self._mailboxes(),
            login_greeting=self.value("login_greeting", Setting.content),
            recipient_delimiter=self.value("recipient_delimiter", Setting.content, "lmtp"),
            lmtp_add_received_header=self.value("lmtp_add_received_header", values.boolean, "lmtp"),
            lmtp_hdr_delivery_address=self.value(
                "lmtp_hdr_delivery_address", lambda s: values.choice(s, "none", "final", "original"), "lmtp"
            ),
            mail_max_userip_connections={
                name: self.value("mail_max_userip_connections", values.number, name)
                for name in ("imap", "pop3")
            },
            imap_idle_notify_interval=self.value("imap_idle_notify_interval", values.seconds, "imap"),
            imap_max_line_length=self.value("imap_max_line_length", values.size, "imap"),
            pop3_uidl_format=self.value("pop3_uidl_format", self._uidl, "pop3"),
            pop3_no_flag_updates=self.value("pop3_no_flag_updates", values.boolean, "pop3"),
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

    # ---- single settings

    def _protocols(self) -> frozenset[str]:
        def convert(setting: Setting) -> frozenset[str]:
            names = values.words(setting)
            for name in names:
                if name not in (*PROTOCOLS, "none"):
                    raise setting.origin.error(f"protocols: Unknown protocol: {name}")
            return frozenset(names) - {"none"}

        return self.value("protocols", convert)

    def _mechanisms(self, setting: Setting) -> tuple[str, ...]:
        names = tuple(name.upper() for name in values.words(setting))
        for name in names:
            if name not in ("PLAIN", "LOGIN"):
                raise setting.origin.error(f"auth_mechanisms: unsupported mechanism {name} (plain, login)")
        if not names:
            raise setting.origin.error("auth_mechanisms: no mechanism is named")
        return names

    def _uidl(self, setting: Setting) -> str:
        text = values.template(setting, "uvf")
        if "u" not in text and "f" not in text:
            raise setting.origin.error("pop3_uidl_format needs %u or %f, or messages would share an id")
        return text

    def _file(self, key: str) -> Path | None:
        setting = self.root.get(key)
        if setting is None or not setting.text:
            raise ConfigError(self.root.origin.path, 0, f"ssl is not no, but {key} is not set")
        if not setting.file:
            raise setting.origin.error(f"{key}: write it as <file")
        if not os.access(setting.text, os.R_OK):
            raise setting.origin.error(f"{key}: Can't open file {setting.text}")
        return Path(setting.text)

    def _mail_location(self, protocols: frozenset[str]) -> str:
        def convert(setting: Setting) -> str:
            text = values.template(setting, "undh")
            if not text and not protocols:
                return "~/Maildir"
            kind, colon, rest = text.partition(":")
            if kind != "maildir" or not colon or not rest:
                raise setting.origin.error(f"mail_location: only maildir:PATH is supported, not {text!r}")
            path, *options = rest.split(":")
            if options:
                raise setting.origin.error(f"mail_location: unsupported option {options[0]}")
            if not path.startswith(("/", "~/", "%h")) and path != "~":
                raise setting.origin.error("mail_location: the path must begin with / or ~/")
            return path.rstrip("/") or "/"

        return self.value("mail_location", convert)

    def _saslauthd(self) -> Saslauthd | None:
        path = self.directory / "mailstack.toml"
        if not path.exists():
            return None
        import tomllib  # only where the file is there: it costs start-up time

        try:
            table = tomllib.loads(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(path, 0, str(error)) from None
        unknown = [key for key in table if key != "saslauthd"]
        section = table.get("saslauthd", {})
        unknown += [f"saslauthd.{key}" for key in section if key not in ("path", "mode")]
        if unknown:
            raise ConfigError(path, 0, f"unknown key {unknown[0]}")
        if "path" not in section:
            return None
        mode = section.get("mode", 0o666)
        if not isinstance(section["path"], str) or not isinstance(mode, int):
            raise ConfigError(
                path, 0, "saslauthd.path is a string and saslauthd.mode an octal number (0o666)"
            )
        return Saslauthd(Path(self.directory, section["path"]), mode)

    # ---- sections

    def _mailboxes(self) -> tuple[Mailbox, ...]:
        found: list[Mailbox] = []
        for namespace in self.root.all("namespace"):
            for setting in namespace.settings.values():
                self._namespace_setting(setting)
            for section in namespace.sections:
                if section.type != "mailbox":
                    raise section.origin.error(f"Unknown setting: namespace {{ {section.type}")
                found.append(self._mailbox(section))
        return tuple(found)

    def _namespace_setting(self, setting: Setting) -> None:
        """One namespace is what we have: the inbox, with `.` between names and nothing before them."""
        allowed = {
            "inbox": ("yes",),
            "separator": ("", "."),
            "prefix": ("",),
            "type": ("private",),
            "location": ("",),
            "hidden": ("no",),
            "list": ("yes",),
            "subscriptions": ("yes",),
            "disabled": ("no",),
            "ignore_on_failure": ("no",),
        }
        if setting.key not in allowed:
            self.warnings.append(f"{setting.origin}: namespace {{ {setting.key} has no effect here")
        elif setting.text not in allowed[setting.key]:
            raise setting.origin.error(f"namespace {{ {setting.key} = {setting.text} is not supported")

    def _mailbox(self, section: Section) -> Mailbox:
        special: tuple[str, ...] = ()
        auto = "no"
        for setting in section.settings.values():
            if setting.key == "special_use":
                special = values.words(setting)
                if not all(word.startswith("\\") for word in special):
                    raise setting.origin.error(f"special_use: {setting.text} does not begin with a backslash")
            elif setting.key == "auto":
                auto = values.choice(setting, "no", "create", "subscribe")
            else:
                self.warnings.append(f"{setting.origin}: mailbox {{ {setting.key} is not supported")
        return Mailbox(section.name, special, auto)

    def _database(self, section: Section) -> Database:
        where = f"{section.type} at {section.origin}"
        for setting in section.settings.values():
            if setting.key in _REFUSED_DATABASE_KEYS:
                raise setting.origin.error(f"{section.type} {{ {setting.key} is not supported")
            if setting.key not in _DATABASE_KEYS:
                raise setting.origin.error(f"Unknown setting: {section.type} {{ {setting.key}")
        driver, args = section.get("driver"), section.get("args")
        if driver is None or not driver.text:
            raise section.origin.error(f"{section.type} is missing driver")
        fields = _fields(section.get("default_fields"))
        override = _fields(section.get("override_fields"))
        words = (args.content() if args else "").split()
        if driver.text == "static":
            static = dict(word.partition("=")[::2] for word in words)
            return Database("static", where, fields={**fields, **static}, override=override)
        if driver.text != "passwd-file":
            raise driver.origin.error(
                f"{section.type}: driver {driver.text} is not supported (passwd-file, static)"
            )
        scheme, username_format = "CRYPT", ""
        while words and "=" in words[0] and not words[0].startswith("/"):
            name, _, value = words.pop(0).partition("=")
            if name == "scheme":
                scheme = value.upper()
            elif name == "username_format" and args is not None:
                checked = Setting("username_format", value, args.origin)
                username_format = values.template(checked, "und")
            elif args is not None:
                raise args.origin.error(f"{section.type}: unknown argument {name}")
        if args is None or len(words) != 1:
            raise section.origin.error(f"{section.type}: args has to name one file")
        file = Path(args.origin.path.parent, words[0])
        return Database("passwd-file", where, file, scheme, username_format, fields, override)

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
            elif section.type == "plugin":
                self.warnings += [
                    f"{setting.origin}: plugin {{ {setting.key} has no effect: there is no such plugin here"
                    for setting in section.settings.values()
                    if setting.key not in PLUGIN
                ]
            elif section.type in ("local", "local_name", "remote", "dict"):
                if section.settings or section.sections:
                    self.warnings.append(f"{section.origin}: section {section.type} has no effect here")
            elif section.type not in ("passdb", "userdb", "namespace", "service"):
                raise section.origin.error(f"Unknown section {section.type}")

    def _warn(self, setting: Setting) -> None:
        known = SETTINGS.get(setting.key)
        if known is None:
            self.warnings.append(f"{setting.origin}: setting {setting.key} is unknown here and has no effect")
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


def _fields(setting: Setting | None) -> dict[str, str]:
    words = setting.content().split() if setting else []
    return {name: value for name, _, value in (word.partition("=") for word in words)}
