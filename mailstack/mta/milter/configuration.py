"""smtpd_milters, non_smtpd_milters and the parameters beside them, compiled once.

`load_milters` gives None where there are none: nothing is done for milters then. Raises `ConfigError` for an
address that cannot be one, an unknown action or version of the protocol, and what a table raises.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

from mailstack.config.postfix.lines import words as split_words
from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import OpenTable, Table
from mailstack.mta.cleanup.milter_checks import MilterChecks
from mailstack.net.resolver import Resolver
from mailstack.postfix_parameters import parse_time
from mailstack.wire.milter import Terms, offered_events
from mailstack.wire.milter.connection import FAILURES
from mailstack.wire.milter.protocol import Stage

_SPACE = ", \t\r\n"
_LISTS = {
    Stage.CONNECT: "milter_connect_macros",
    Stage.HELO: "milter_helo_macros",
    Stage.MAIL: "milter_mail_macros",
    Stage.RCPT: "milter_rcpt_macros",
    Stage.DATA: "milter_data_macros",
    Stage.END_OF_HEADER: "milter_end_of_header_macros",
    Stage.END_OF_MESSAGE: "milter_end_of_data_macros",
    Stage.UNKNOWN: "milter_unknown_command_macros",
}


@dataclass(frozen=True, slots=True)
class Milter:
    """One milter: where it is and how it is spoken to; times in seconds."""

    name: str
    """As main.cf has it, for log lines."""
    kind: str
    """`inet` or `unix`."""
    host: str
    """The host, or the socket's path."""
    port: int
    connect_timeout: float
    command_timeout: float
    content_timeout: float
    terms: Terms


@dataclass(frozen=True, slots=True)
class Macros:
    """What milters are told beside each event."""

    names: dict[Stage, tuple[str, ...]]
    defaults: dict[str, str]
    """By name with braces."""
    daemon_name: str
    version: str
    host: str


class Milters:
    """The milters of one service."""

    def __init__(
        self, conf: MainCf, parameter: str, open_table: OpenTable, resolver: Resolver, *, maps: bool
    ) -> None:
        self._conf = conf
        self.resolver = resolver
        self.macros = Macros(
            {stage: tuple(conf.list(name)) for stage, name in _LISTS.items()},
            _defaults(conf),
            conf.str("milter_macro_daemon_name"),
            conf.str("milter_macro_v"),
            conf.str("myhostname"),
        )
        self.checks = MilterChecks.load(conf, open_table)
        """milter_header_checks; None: nobody looks at what milters add."""
        self.list = self._parse(parameter, conf.str(parameter))
        names = conf.list("smtpd_milter_maps") if maps else []
        self._maps: list[Table] = [open_table(name) for name in names]
        self._mapped: dict[str, tuple[Milter, ...]] = {}

    def __bool__(self) -> bool:
        return bool(self.list or self._maps)

    def of(self, address: str) -> tuple[Milter, ...]:
        """The milters of a client: smtpd_milter_maps may name others, or DISABLE them.

        Raises what a table raises.
        """
        for table in self._maps:
            value = table.lookup(address)
            if value is not None:
                if value.strip().upper() == "DISABLE":
                    return ()
                if value not in self._mapped:
                    self._mapped[value] = self._parse("smtpd_milter_maps", value)
                return self._mapped[value]
        return self.list

    def _parse(self, parameter: str, text: str) -> tuple[Milter, ...]:
        return tuple(self._milter(parameter, word) for word in split_words(text, _SPACE))

    def _milter(self, parameter: str, word: str) -> Milter:
        """`inet:host:port`, `unix:path`, or one of them in braces with options. Raises `ConfigError`."""
        conf = self._conf
        name, options = word, dict[str, str]()
        if word.startswith("{"):
            if not word.endswith("}"):
                raise conf.error(parameter, f"milter service syntax error: missing '}}' in {word!r}")
            parts = split_words(word[1:-1], _SPACE)
            if not parts:
                raise conf.error(parameter, f'empty milter definition: "{word}"')
            name, options = parts[0], self._options(parameter, parts[1:])
        kind, _, endpoint = name.partition(":")
        host, port = endpoint, 0
        if not endpoint:
            raise conf.error(parameter, f'Milter service needs transport:endpoint instead of "{name}"')
        if kind == "inet":
            host, port = self._inet(parameter, name, endpoint)
        elif kind in ("unix", "local"):
            kind = "unix"
            if not host.startswith("/"):
                host = f"{conf.str('queue_directory')}/{host}"
        else:
            raise conf.error(parameter, f"invalid transport name: {kind} in Milter service: {name}")

        def seconds(option: str) -> float:
            full = f"milter_{option}"
            if option not in options:
                return conf.time(full)
            value = parse_time(options[option])
            if value is None or value < 1:
                raise conf.error(parameter, f"milter {name}: {option} is no time: {options[option]!r}")
            return value

        action = options.get("default_action", conf.str("milter_default_action")).lower()
        if action not in FAILURES:
            raise conf.error(parameter, f"milter {name}: unrecognized default action: {action}")
        try:
            version, events = offered_events(
                options.get("protocol", conf.str("milter_protocol")).replace(",", " ").split()
            )
        except ValueError as error:
            raise conf.error(parameter, f"milter {name}: {error}") from None
        return Milter(
            name,
            kind,
            host,
            port,
            seconds("connect_timeout"),
            seconds("command_timeout"),
            seconds("content_timeout"),
            Terms(version, events, action, conf.bool("soft_bounce")),
        )

    def _options(self, parameter: str, parts: list[str]) -> dict[str, str]:
        options = {}
        for part in parts:
            text = part[1:-1].strip() if part.startswith("{") and part.endswith("}") else part
            option, equals, value = text.partition("=")
            option = option.strip()
            known = ("connect_timeout", "command_timeout", "content_timeout", "default_action", "protocol")
            if not equals or option not in known:
                raise self._conf.error(parameter, f"milter service syntax error: {text!r}")
            options[option] = value.strip()
        return options

    def _inet(self, parameter: str, name: str, endpoint: str) -> tuple[str, int]:
        host, _, service = endpoint.rpartition(":")
        try:
            port = int(service) if service.isdecimal() else socket.getservbyname(service, "tcp")
        except OSError:
            port = 0
        if not 0 < port < 65536:
            raise self._conf.error(parameter, f"milter {name}: no such port: {service!r}")
        return host.strip("[]") or "localhost", port


def load_milters(
    conf: MainCf, parameter: str, open_table: OpenTable, resolver: Resolver, *, maps: bool = False
) -> Milters | None:
    """The milters that `parameter` names, with smtpd_milter_maps where `maps`; None where there are none."""
    if "no_milters" in conf.list("receive_override_options"):
        return None
    if not conf.str(parameter).strip() and not (maps and conf.str("smtpd_milter_maps").strip()):
        return None
    return Milters(conf, parameter, open_table, resolver, maps=maps) or None


def _defaults(conf: MainCf) -> dict[str, str]:
    """milter_macro_defaults: `name = value`, in braces where there is white space. Raises `ConfigError`."""
    found = {}
    for word in conf.list("milter_macro_defaults"):
        text = word[1:-1].strip() if word.startswith("{") and word.endswith("}") else word
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name:
            raise conf.error("milter_macro_defaults", f"missing '=' after attribute name: {text!r}")
        found[name if name.startswith("{") else f"{{{name}}}"] = value.strip()
    return found
