"""What one smtpd line of master.cf means: main.cf with its `-o` overrides, typed and compiled once.

Raises `ConfigError` for whatever a session could not work with: an unknown restriction, a table or a
certificate that cannot be read, TLS demanded without a certificate.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mailstack.config.errors import ConfigError
from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.address_maps import DomainList, OpenTable, Table
from mailstack.mta.bounce.transcript import Notices
from mailstack.mta.cleanup import Cleanup
from mailstack.mta.lines import Show, show_addresses
from mailstack.mta.lookup import SlowTable
from mailstack.mta.milter import Milters, load_milters
from mailstack.mta.rewrite import Rewriter
from mailstack.mta.sasl import Authenticator, make_authenticator
from mailstack.mta.smtpd import tls
from mailstack.mta.smtpd.anvil import EventLimits
from mailstack.mta.smtpd.keywords import KEYWORDS, KeywordMaps, Oddities, keywords
from mailstack.mta.smtpd.networks import ClientList, NetworkList
from mailstack.mta.smtpd.recipients import Recipients
from mailstack.mta.smtpd.restrictions import Compiler, Restrictions
from mailstack.mta.smtpd.templates import Footers
from mailstack.mta.smtpd.verdicts import PERMIT, Check, Client, Phase, Verdict
from mailstack.mta.verify.sender import ProbeSender
from mailstack.mta.verp import default_delimiters
from mailstack.net.log import Log
from mailstack.net.resolver import Resolver
from mailstack.storage.tables import TableError
from mailstack.wire.smtp.address import NOTHING_ODD, Allowed

if TYPE_CHECKING:
    from mailstack.mta.smtpd.proxy import ProxyFilter

_REWRITE_CLIENTS = frozenset({"permit_inet_interfaces", "permit_mynetworks", "permit_sasl_authenticated"})
_REWRITE_CERTIFICATES = frozenset({"permit_tls_clientcerts", "permit_tls_all_clientcerts"})
_PLAINTEXT = frozenset({"PLAIN", "LOGIN"})


@dataclass(frozen=True, slots=True)
class Settings:
    """The compiled configuration of one service. Times in seconds, sizes in octets."""

    service: str
    conf: MainCf
    host: str
    mail_name: str
    banner: str
    queue_directory: str
    restrictions: dict[Phase, Restrictions]
    footers: Footers | None
    """What refusals end with."""
    recipient_phases: tuple[Phase, ...]
    """The restriction lists that a recipient is put before, in order."""
    delay_reject: bool
    reject_unlisted_recipient: bool
    reject_unlisted_sender: bool
    rewriter: Rewriter
    recipients: Recipients
    cleanup: Cleanup
    networks: NetworkList
    authenticator: Authenticator | None
    auth_exceptions: NetworkList
    auth_only_in_tls: bool
    auth_header: bool
    broken_auth: bool
    tls: ssl.SSLContext | None
    tls_wanted: bool
    """TLS is offered; where `tls` is None all the same, its certificates cannot be used."""
    tls_required: bool
    tls_wrapper: bool
    tls_header: bool
    tls_log: bool
    timeout: float
    tls_timeout: float
    message_limit: int
    minimum_free: int
    in_flow_delay: float
    line_limit: int
    auth_line_limit: int
    recipient_limit: int
    recipient_overshoot: int
    soft_errors: int
    hard_errors: int
    junk_commands: int
    error_sleep: float
    event_limits: EventLimits | None
    """None: no client is limited."""
    limit_exceptions: NetworkList
    log_ports: bool
    show: Show
    """How addresses stand in log lines."""
    xclient_hosts: ClientList | None
    xforward_hosts: ClientList | None
    verp_clients: ClientList | None
    """None: nobody."""
    verp: tuple[str, str]
    """XVERP's delimiters, and the characters that they may be."""
    proxy_timeout: float
    """Seconds that the PROXY header may take; 0: there is no proxy."""
    request_deadline: bool
    data_rate: int
    """Octets a second that content has to come at, where `request_deadline`."""
    compiler: Compiler
    """Of the restrictions; it has the connections that they need."""
    probe_sender: ProbeSender
    fingerprint: str
    """The digest of certificates' fingerprints."""
    under_stress: bool
    stressed: Settings | None
    """What holds for sessions that begin under stress; None where nothing is different."""
    lookup_names: bool
    helo_required: bool
    vrfy_disabled: bool
    strict_envelopes: bool
    odd_addresses: Allowed
    utf8: bool
    strict_utf8: bool
    dsn: bool
    milters: Milters | None
    """None: there are none, and nothing is done for them."""
    port_wanted: bool
    """Some delivery agent tells others of a client's port (XFORWARD, pipe's ${client_port})."""
    notices: Notices | None
    """Whom to tell of sessions that go wrong; None: nobody."""
    forbid_pipelining: bool
    discarded_keywords: frozenset[str]
    keyword_maps: KeywordMaps | None
    """smtpd_discard_ehlo_keyword_address_maps."""
    oddities: Oddities | None
    """None: commands are what they are."""
    proxy: ProxyFilter | None
    """The before-queue filter; None: messages are queued here."""
    history_limit: int
    """Lines of a transcript after which a postmaster is told of what is in it."""
    mechanism_filter: DomainList
    header_clients: frozenset[str]
    header_checks: tuple[Check, ...]
    """What else makes a client's headers ours to complete; nearly always nothing."""
    flush_domains: DomainList
    soft_bounce: bool
    bare_newline_code: int
    """Reply code for content with a bare newline; 0: it is repaired."""
    bare_newline_exclusions: NetworkList

    def mechanisms(self, offered: Sequence[str], *, secured: bool) -> tuple[str, ...]:
        """Of the mechanisms that the authenticator offers, those that the security options leave."""
        name = "smtpd_sasl_tls_security_options" if secured else "smtpd_sasl_security_options"
        options = self.conf.list(name)
        return tuple(
            mechanism
            for mechanism in offered
            if self.mechanism_filter.match(mechanism.lower())
            and not ("noanonymous" in options and mechanism == "ANONYMOUS")
            and not ("noplaintext" in options and mechanism in _PLAINTEXT)
        )


def load_settings(
    service: str,
    conf: MainCf,
    config_dir: Path,
    *,
    resolver: Resolver,
    open_table: OpenTable,
    log: Log,
) -> Settings:
    """Compile `conf`. Raises `ConfigError`."""
    try:
        return _load(service, conf, config_dir, resolver, open_table, log)
    except TableError as error:
        raise ConfigError(conf.path, 0, str(error)) from None


def _port_wanted(conf: MainCf, config_dir: Path) -> bool:
    """Whether it has to go into the queue file: few configurations have a use for it."""
    if conf.bool("smtp_send_xforward_command") or conf.bool("lmtp_send_xforward_command"):
        return True
    try:
        text = (config_dir / "master.cf").read_text("utf-8", "replace")
    except OSError:
        return False
    return "send_xforward_command" in text or "client_port" in text


def _load(
    service: str, conf: MainCf, config_dir: Path, resolver: Resolver, open_table: OpenTable, log: Log
) -> Settings:
    rewriter = Rewriter(conf, open_table)
    cleanup = Cleanup(conf, rewriter, open_table)
    recipients = Recipients(conf, rewriter, cleanup.aliases, open_table)
    compiler = Compiler(conf, rewriter, recipients, resolver, open_table)
    lists = {
        Phase.CLIENT: "smtpd_client_restrictions",
        Phase.HELO: "smtpd_helo_restrictions",
        Phase.SENDER: "smtpd_sender_restrictions",
        Phase.RELAY: "smtpd_relay_restrictions",
        Phase.RECIPIENT: "smtpd_recipient_restrictions",
        Phase.DATA: "smtpd_data_restrictions",
        Phase.END_OF_DATA: "smtpd_end_of_data_restrictions",
        Phase.ETRN: "smtpd_etrn_restrictions",
    }
    _demand_relay_control(conf)
    wrapper = conf.bool("smtpd_tls_wrappermode")
    auth = conf.bool("smtpd_sasl_auth_enable")
    header_clients, header_checks = _header_clients(conf, compiler, open_table)
    utf8 = conf.bool("smtputf8_enable")
    settings = Settings(
        service=service,
        conf=conf,
        host=conf.str("myhostname"),
        mail_name=conf.str("mail_name"),
        banner=conf.str("smtpd_banner"),
        queue_directory=conf.str("queue_directory"),
        restrictions={phase: compiler.compile(name, phase) for phase, name in lists.items()},
        footers=Footers.load(conf, open_table),
        recipient_phases=_recipient_phases(conf),
        delay_reject=conf.bool("smtpd_delay_reject"),
        reject_unlisted_recipient=conf.bool("smtpd_reject_unlisted_recipient"),
        reject_unlisted_sender=conf.bool("smtpd_reject_unlisted_sender"),
        rewriter=rewriter,
        recipients=recipients,
        cleanup=cleanup,
        networks=compiler.networks,
        authenticator=make_authenticator(conf, config_dir, log) if auth else None,
        auth_exceptions=_networks(conf, "smtpd_sasl_exceptions_networks"),
        auth_only_in_tls=conf.bool("smtpd_tls_auth_only"),
        auth_header=conf.bool("smtpd_sasl_authenticated_header"),
        broken_auth=conf.bool("broken_sasl_auth_clients"),
        tls=tls.make_context(conf, config_dir, open_table, log) if tls.is_wanted(conf) else None,
        tls_wanted=tls.is_wanted(conf),
        tls_required=tls.level(conf) == "encrypt",
        tls_wrapper=wrapper,
        tls_header=conf.bool("smtpd_tls_received_header"),
        tls_log=conf.int("smtpd_tls_loglevel") > 0,
        timeout=conf.time("smtpd_timeout"),
        tls_timeout=conf.time("smtpd_starttls_timeout"),
        message_limit=conf.size("message_size_limit"),
        minimum_free=conf.size("queue_minfree"),
        in_flow_delay=conf.time("in_flow_delay"),
        line_limit=conf.int("line_length_limit"),
        auth_line_limit=conf.int("smtpd_sasl_response_limit"),
        recipient_limit=conf.int("smtpd_recipient_limit"),
        recipient_overshoot=conf.int("smtpd_recipient_overshoot_limit"),
        soft_errors=conf.int("smtpd_soft_error_limit"),
        hard_errors=conf.int("smtpd_hard_error_limit"),
        junk_commands=conf.int("smtpd_junk_command_limit"),
        error_sleep=conf.time("smtpd_error_sleep_time"),
        event_limits=_event_limits(conf),
        limit_exceptions=_networks(conf, "smtpd_client_event_limit_exceptions"),
        log_ports=conf.bool("smtpd_client_port_logging"),
        show=show_addresses(conf),
        xclient_hosts=_clients(conf, "smtpd_authorized_xclient_hosts", open_table),
        xforward_hosts=_clients(conf, "smtpd_authorized_xforward_hosts", open_table),
        verp_clients=_clients(conf, "smtpd_authorized_verp_clients", open_table),
        verp=(default_delimiters(conf), conf.str("verp_delimiter_filter")),
        proxy_timeout=_proxy_timeout(conf, wrapper),
        request_deadline=conf.bool("smtpd_per_request_deadline"),
        data_rate=conf.int("smtpd_min_data_rate"),
        compiler=compiler,
        probe_sender=ProbeSender(conf, rewriter),
        fingerprint=conf.str("smtpd_tls_fingerprint_digest"),
        under_stress=False,
        stressed=None,
        lookup_names=conf.bool("smtpd_peername_lookup"),
        helo_required=conf.bool("smtpd_helo_required"),
        vrfy_disabled=conf.bool("disable_vrfy_command"),
        strict_envelopes=conf.bool("strict_rfc821_envelopes"),
        odd_addresses=_odd_addresses(conf),
        utf8=utf8,
        strict_utf8=conf.bool("strict_smtputf8"),
        dsn="dsn" not in _discarded(conf),
        milters=load_milters(conf, "smtpd_milters", open_table, resolver, maps=True),
        port_wanted=_port_wanted(conf, config_dir),
        notices=Notices.read(conf, rewriter, cleanup, open_table, resolver),
        forbid_pipelining=conf.bool("smtpd_forbid_unauth_pipelining"),
        discarded_keywords=_discarded(conf),
        keyword_maps=KeywordMaps.load(conf, open_table),
        oddities=Oddities.load(conf, open_table),
        proxy=_proxy(conf, resolver),
        history_limit=conf.int("smtpd_history_flush_threshold"),
        mechanism_filter=DomainList(conf.list("smtpd_sasl_mechanism_filter"), open_table),
        header_clients=header_clients,
        header_checks=header_checks,
        flush_domains=DomainList(conf.list("relay_domains"), open_table, parents=True),
        soft_bounce=conf.bool("soft_bounce"),
        bare_newline_code=(
            conf.int("smtpd_forbid_bare_newline_reject_code")
            if conf.str("smtpd_forbid_bare_newline") == "reject"
            else 0
        ),
        bare_newline_exclusions=_networks(conf, "smtpd_forbid_bare_newline_exclusions"),
    )
    return replace(settings, stressed=_stressed(settings, conf))


def _odd_addresses(conf: MainCf) -> Allowed:
    found = Allowed(
        conf.bool("allow_min_user"), conf.bool("resolve_numeric_domain"), conf.bool("resolve_null_domain")
    )
    return found if any(found) else NOTHING_ODD


def _header_clients(
    conf: MainCf, compiler: Compiler, open_table: OpenTable
) -> tuple[frozenset[str], tuple[Check, ...]]:
    """local_header_rewrite_clients: the words that every session knows, and the rest as checks.

    Raises `ConfigError` and `TableError`.
    """
    name = "local_header_rewrite_clients"
    words = [word for word in conf.list(name) if word.lower() != "check_address_map"]
    checks: list[Check] = []
    for word in words:
        if word in _REWRITE_CERTIFICATES:
            checks.append(compiler.simple(word))
        elif ":" in word:
            table = open_table(word)
            if isinstance(table, SlowTable):
                raise conf.error(name, f"{word}: a table that has to be waited for")
            checks.append(partial(_listed, table))
        elif word not in _REWRITE_CLIENTS:
            raise conf.error(name, f"unknown or unsupported: {word}")
    return frozenset(words) & _REWRITE_CLIENTS, tuple(checks)


def _listed(table: Table, client: Client) -> Verdict:
    """Whether a table has the client's address, whatever it says of it."""
    return None if table.lookup(client.client_address) is None else PERMIT


def _stressed(settings: Settings, conf: MainCf) -> Settings | None:
    """The settings with `stress = yes`, where main.cf has `${stress?…}` for something that a session uses."""
    under = conf.with_overrides({"stress": "yes"})
    other = replace(
        settings,
        conf=under,
        under_stress=True,
        timeout=under.time("smtpd_timeout"),
        tls_timeout=under.time("smtpd_starttls_timeout"),
        soft_errors=under.int("smtpd_soft_error_limit"),
        hard_errors=under.int("smtpd_hard_error_limit"),
        junk_commands=under.int("smtpd_junk_command_limit"),
        error_sleep=under.time("smtpd_error_sleep_time"),
        recipient_limit=under.int("smtpd_recipient_limit"),
        request_deadline=under.bool("smtpd_per_request_deadline"),
        data_rate=under.int("smtpd_min_data_rate"),
    )
    polls = "address_verify_poll_count"
    if replace(other, conf=conf, under_stress=False) == settings and under.int(polls) == conf.int(polls):
        return None
    return other


def _event_limits(conf: MainCf) -> EventLimits | None:
    limits = EventLimits(
        conf.time("anvil_rate_time_unit"),
        conf.int("smtpd_client_connection_count_limit"),
        (
            conf.int("smtpd_client_connection_rate_limit"),
            conf.int("smtpd_client_message_rate_limit"),
            conf.int("smtpd_client_recipient_rate_limit"),
            conf.int("smtpd_client_new_tls_session_rate_limit"),
            conf.int("smtpd_client_auth_rate_limit"),
        ),
    )
    return limits if limits.connections or any(limits.rates) else None


def _clients(conf: MainCf, name: str, open_table: OpenTable) -> ClientList | None:
    words = conf.list(name)
    try:
        return ClientList(words, open_table) if words else None
    except (ValueError, OSError) as error:
        raise conf.error(name, str(error)) from None


def _proxy_timeout(conf: MainCf, wrapper: bool) -> float:
    if not conf.str("smtpd_upstream_proxy_protocol"):
        return 0.0
    if wrapper:
        raise conf.error("smtpd_upstream_proxy_protocol", "not together with smtpd_tls_wrappermode")
    return conf.time("smtpd_upstream_proxy_timeout")


def _networks(conf: MainCf, name: str) -> NetworkList:
    try:
        return NetworkList(conf.list(name))
    except (ValueError, OSError) as error:
        raise conf.error(name, str(error)) from None


def _recipient_phases(conf: MainCf) -> tuple[Phase, ...]:
    before = (Phase.CLIENT, Phase.HELO, Phase.SENDER) if conf.bool("smtpd_delay_reject") else ()
    if conf.bool("smtpd_relay_before_recipient_restrictions"):
        return (*before, Phase.RELAY, Phase.RECIPIENT)
    return (*before, Phase.RECIPIENT, Phase.RELAY)


def _demand_relay_control(conf: MainCf) -> None:
    """Refuse to run as an open relay, as Postfix does: one of the two lists must hold a word against it."""
    stops = {"reject_unauth_destination", "defer_unauth_destination", "reject", "defer", "defer_if_permit"}
    classes = {name.lower(): name for name in conf.list("smtpd_restriction_classes")}

    def stopping(name: str, opening: tuple[str, ...] = ()) -> bool:
        """Whether a list has one of them, in a class of its own perhaps, before everybody is let in."""
        skipped = False
        for word in map(str.lower, conf.list(name)):
            if word == "permit" and not skipped:
                return False
            if not skipped and word in stops:
                return True
            inner = classes.get(word, "")
            if inner and not skipped and inner not in opening and stopping(inner, (*opening, inner)):
                return True
            skipped = word == "warn_if_reject"
        return False

    if not any(map(stopping, ("smtpd_relay_restrictions", "smtpd_recipient_restrictions"))):
        message = f"specify at least one working instance of: {', '.join(sorted(stops))}"
        raise conf.error("smtpd_relay_restrictions", f"or smtpd_recipient_restrictions: {message}")


def _proxy(conf: MainCf, resolver: Resolver) -> ProxyFilter | None:
    if not conf.str("smtpd_proxy_filter"):
        return None
    from mailstack.mta.smtpd.proxy import ProxyFilter  # seldom wanted

    return ProxyFilter.load(conf, resolver)


def _discarded(conf: MainCf) -> frozenset[str]:
    found = keywords(conf.list("smtpd_discard_ehlo_keywords"))
    unknown = ", ".join(sorted(found - KEYWORDS))
    if unknown:
        raise conf.error("smtpd_discard_ehlo_keywords", f"unknown EHLO keyword: {unknown}")
    return found
