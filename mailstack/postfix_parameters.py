"""The parameter table: every main.cf parameter that this MTA knows, typed, with Postfix 3.7's default.

One table drives reading (`config.postfix`), checking of `mta.postfix:` keys (`spec`), rendering and the
manual. It is data: it imports no other room. A parameter is *honoured* when some daemon of ours acts on it
(`used_by`); the rest is here because a real Postfix needs it in the rendered file (paths of its own
installation, say), and means nothing to us. A name that is not in this table is unknown: the servers warn
about it at start and the spec refuses it.

Defaults are in main.cf's own language, `$name` references included, exactly as `postconf -d` prints them; the
four that Postfix computes from the machine (myhostname, mydomain, mynetworks, mail_version) say so.
Standards: postconf(5) of Postfix 3.7.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple


class Kind(Enum):
    """What a parameter's value is; `parse_time` and friends below say how each is written."""

    STR = "str"
    BOOL = "bool"
    INT = "int"
    SIZE = "size"
    """Octets, a plain decimal number; where `low` is 0, zero means no limit."""
    TIME = "time"
    """A number with an optional unit s, m, h, d or w; without one, `unit` counts."""
    LIST = "list"
    """Words separated by commas and white space; `{ … }` keeps white space together."""
    ENUM = "enum"


class Parameter(NamedTuple):
    """One main.cf parameter."""

    name: str
    kind: Kind
    default: str
    used_by: tuple[str, ...]
    doc: str
    low: int | None = None
    high: int | None = None
    choices: tuple[str, ...] = ()
    unit: str = "s"

    @property
    def honoured(self) -> bool:
        """Whether some daemon of ours acts on it."""
        return bool(self.used_by)

    def problem(self, value: str) -> str | None:
        """Why `value` (already expanded) is not a legal value, or None when it is."""
        match self.kind:
            case Kind.BOOL:
                return None if value in ("yes", "no") else f"expected yes or no, not {value!r}"
            case Kind.ENUM:
                if value in self.choices:
                    return None
                return f"expected one of {', '.join(c or '(empty)' for c in self.choices)}, not {value!r}"
            case Kind.INT | Kind.SIZE:
                if not _INTEGER.match(value):
                    return f"expected a number, not {value!r}"
                return self._bounds(float(value))
            case Kind.TIME:
                seconds = parse_time(value, self.unit)
                if seconds is None:
                    return f"expected a time such as 30s, 5m, 4h, 1d or 2w, not {value!r}"
                return self._bounds(seconds)
            case _:
                return None

    def _bounds(self, number: float) -> str | None:
        if self.low is not None and number < self.low:
            return f"must be at least {self.low}"
        if self.high is not None and number > self.high:
            return f"must be at most {self.high}"
        return None


_INTEGER = re.compile(r"-?\d{1,18}\Z")
_TIME = re.compile(r"(\d{1,9})([smhdw]?)\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_time(value: str, unit: str = "s") -> float | None:
    """Seconds of a main.cf time value (`300s`, `5d`; a bare number counts in `unit`), or None."""
    found = _TIME.match(value)
    if found is None:
        return None
    return float(int(found[1]) * _SECONDS[found[2] or unit])


_LEVELS = ("", "none", "may", "encrypt")
_CLIENT_LEVELS = ("", "none", "may", "encrypt", "dane", "dane-only", "fingerprint", "verify", "secure")
_GRADES = ("export", "low", "medium", "high")
_SERVER_GRADES = (*_GRADES, "null")
_P = Parameter
_S, _B, _I, _Z, _T, _L, _E = Kind.STR, Kind.BOOL, Kind.INT, Kind.SIZE, Kind.TIME, Kind.LIST, Kind.ENUM

_EVERY = ("master", "smtpd", "cleanup", "qmgr", "local", "virtual", "lmtp", "smtp", "bounce")
_SMTPD = ("smtpd",)
_CLEANUP = ("cleanup",)
_PICKUP = ("pickup",)
_MILTERS = ("smtpd", "pickup")
_REWRITE = ("smtpd", "cleanup", "qmgr")
_QMGR = ("qmgr",)
_LOCAL = ("local",)
_REPEATED = (
    "\\t\\40!\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    "[\\\\]^_`abcdefghijklmnopqrstuvwxyz{|}~"
)
_SAFE = "1234567890!@%-_=+:,./abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_VIRTUAL = ("virtual",)
_LMTP = ("lmtp",)
_SMTP = ("smtp",)
_CLIENTS = ("smtp", "lmtp")
_FILTERED = ("smtp", "lmtp", "local", "pipe", "virtual")
_BOUNCE = ("bounce",)
_VERIFY = ("verify",)
_NOBODY: tuple[str, ...] = ()
_RESTRICTIONS = "in the order given, first match wins"

_TABLE: tuple[Parameter, ...] = (
    # ---- who we are
    _P("compatibility_level", _S, "0", _EVERY, "the release whose defaults apply (${… <level …})"),
    _P("myhostname", _S, "", _EVERY, "this host's full name; default: the system's, with .localdomain"),
    _P("mydomain", _S, "", _EVERY, "the mail domain; default: $myhostname without its first label"),
    _P("myorigin", _S, "$myhostname", _REWRITE, "the domain added to an address that has none"),
    _P("mydestination", _L, "$myhostname, localhost.$mydomain, localhost", _REWRITE,
       "domains that $local_transport delivers"),
    _P("mynetworks", _L, "", _SMTPD,
       "clients that permit_mynetworks trusts; default: by mynetworks_style and inet_interfaces"),
    _P("mynetworks_style", _E, "${{$compatibility_level} <level {2} ? {subnet} : {host}}", _SMTPD,
       "which networks of this machine's interfaces those are", choices=("class", "host", "subnet")),
    _P("inet_interfaces", _L, "all", ("master", "smtp"), "addresses to bind: all, loopback-only or a list"),
    _P("inet_protocols", _L, "all", ("master", "smtp", "trivial-rewrite"), "all, ipv4, ipv6"),
    _P("proxy_interfaces", _L, "", _REWRITE, "addresses at which a proxy or translator reaches us"),
    _P("mail_name", _S, "Postfix", _EVERY, "the name in banners and Received: headers"),
    _P("mail_version", _S, "3.7.11", _EVERY, "the release whose behaviour this is; computed in Postfix"),
    _P("syslog_name", _S, "${multi_instance_name?{$multi_instance_name}:{postfix}}", _EVERY,
       "what log lines have before /daemon"),
    _P("multi_instance_name", _S, "", _EVERY, "an instance's name, for $syslog_name"),
    _P("queue_directory", _S, "/var/spool/postfix", _EVERY, "the mail queue's folder"),
    _P("process_id_directory", _S, "pid", ("master",), "lock files, below $queue_directory"),
    _P("default_process_limit", _I, "100", ("master",), "maxproc where master.cf says -", 1),
    _P("master_service_disable", _L, "", ("master", "qmgr"), "services that are off: name.type or type"),
    _P("max_use", _I, "100", ("smtpd",), "clients of one process; counts where it is set", 1),
    _P("max_idle", _T, "100s", ("smtpd",), "idle life of a process; counts where it is set", 1),
    _P("service_throttle_time", _T, "60s", ("master",), "the longest wait before a child is replaced", 1),
    # ---- reception
    _P("smtpd_banner", _S, "$myhostname ESMTP $mail_name", _SMTPD, "the text after 220"),
    _P("smtpd_helo_required", _B, "no", _SMTPD, "refuse MAIL before HELO"),
    _P("smtpd_delay_reject", _B, "yes", _SMTPD, "client, helo and sender restrictions count at RCPT TO"),
    _P("smtpd_client_restrictions", _L, "", _SMTPD, _RESTRICTIONS),
    _P("smtpd_helo_restrictions", _L, "", _SMTPD, _RESTRICTIONS),
    _P("smtpd_sender_restrictions", _L, "", _SMTPD, _RESTRICTIONS),
    _P("smtpd_relay_restrictions", _L,
       "${{$compatibility_level} <level {1} ? {} : {permit_mynetworks, permit_sasl_authenticated, "
       "defer_unauth_destination}}", _SMTPD, "who may relay; " + _RESTRICTIONS),
    _P("smtpd_recipient_restrictions", _L, "", _SMTPD, _RESTRICTIONS),
    _P("smtpd_relay_before_recipient_restrictions", _B,
       "${{$compatibility_level} <level {3.6} ? {no} : {yes}}", _SMTPD, "which of the two lists is first"),
    _P("smtpd_data_restrictions", _L, "", _SMTPD, _RESTRICTIONS),
    _P("smtpd_end_of_data_restrictions", _L, "", _SMTPD, _RESTRICTIONS),
    _P("smtpd_etrn_restrictions", _L, "", _SMTPD, _RESTRICTIONS),
    _P("smtpd_log_access_permit_actions", _L, "", _SMTPD,
       "permissions that are logged, by the word or the table's action that gives them"),
    _P("smtpd_reject_unlisted_recipient", _B, "yes", _SMTPD, "refuse recipients that no table knows"),
    _P("smtpd_reject_unlisted_sender", _B, "no", _SMTPD, "refuse senders that no table knows"),
    _P("smtpd_recipient_limit", _I, "1000", _SMTPD, "recipients of one message", 1),
    _P("smtpd_recipient_overshoot_limit", _I, "1000", _SMTPD,
       "recipients over the limit before each counts as an error", 1),
    _P("smtpd_error_sleep_time", _T, "1s", _SMTPD, "pause before an error reply, after the soft limit"),
    _P("smtpd_soft_error_limit", _I, "10", _SMTPD, "errors before replies are slowed down", 1),
    _P("smtpd_hard_error_limit", _I, "${stress?{1}:{20}}", _SMTPD, "errors before we hang up", 1),
    _P("smtpd_junk_command_limit", _I, "${stress?{1}:{100}}", _SMTPD,
       "NOOP, VRFY, ETRN and RSET before they count as errors", 1),
    _P("smtpd_timeout", _T, "${stress?{10}:{300}}s", _SMTPD, "silence before we hang up", 1),
    _P("smtpd_starttls_timeout", _T, "${stress?{10}:{300}}s", _SMTPD, "the TLS handshake's deadline", 1),
    _P("stress", _S, "", _SMTPD, "set under overload, for ${stress?…}"),
    _P("line_length_limit", _I, "2048", _SMTPD, "octets of a command line", 512),
    _P("message_size_limit", _Z, "10240000", ("smtpd", "cleanup"), "octets of a message", 0),
    _P("queue_minfree", _Z, "0", _SMTPD, "free octets that the queue's file system must keep", 0),
    _P("authorized_submit_users", _L, "static:anyone", ("sendmail",), "who may submit by sendmail(1)"),
    _P("local_login_sender_maps", _L, "static:*", ("sendmail",), "which senders a local user may write as"),
    _P("empty_address_local_login_sender_maps_lookup_key", _S, "<>", ("sendmail",), "what <> is there"),
    _P("authorized_flush_users", _L, "static:anyone", ("postqueue",), "who may flush the queue"),
    _P("authorized_mailq_users", _L, "static:anyone", ("postqueue",), "who may list the queue"),
    _P("disable_vrfy_command", _B, "no", _SMTPD, "answer VRFY with 502"),
    _P("allow_min_user", _B, "no", _SMTPD, "take addresses that begin with -"),
    _P("resolve_numeric_domain", _B, "no", _SMTPD, "take user@192.0.2.1, as user@[192.0.2.1]"),
    _P("resolve_null_domain", _B, "no", _SMTPD, "take user@, as a user of this host"),
    _P("strict_rfc821_envelopes", _B, "no", _SMTPD, "refuse addresses without <> and with comments"),
    _P("smtpd_client_connection_count_limit", _I, "50", _SMTPD, "sessions of one client at once", 0),
    _P("smtpd_client_event_limit_exceptions", _L,
       "${smtpd_client_connection_limit_exceptions:$mynetworks}", _SMTPD, "clients without such limits"),
    _P("smtpd_client_connection_rate_limit", _I, "0", _SMTPD,
       "connections of one client per $anvil_rate_time_unit; 0: any number", 0),
    _P("smtpd_client_message_rate_limit", _I, "0", _SMTPD, "its MAIL FROM commands; 0: any number", 0),
    _P("smtpd_client_recipient_rate_limit", _I, "0", _SMTPD, "its RCPT TO commands; 0: any number", 0),
    _P("smtpd_client_new_tls_session_rate_limit", _I, "0", _SMTPD, "its TLS handshakes; 0: any number", 0),
    _P("smtpd_client_auth_rate_limit", _I, "0", _SMTPD, "its AUTH commands; 0: any number", 0),
    _P("anvil_rate_time_unit", _T, "60s", _SMTPD, "the time that those rates are counted over", 1),
    _P("smtpd_client_port_logging", _B, "no", _SMTPD, "the client's port in log lines"),
    _P("smtpd_per_request_deadline", _B,
       "${smtpd_per_record_deadline?{$smtpd_per_record_deadline}:{${stress?{yes}:{no}}}}", _SMTPD,
       "smtpd_timeout is for a whole command or message, not for each silence"),
    _P("smtpd_min_data_rate", _I, "500", _SMTPD, "octets that win a second of that deadline", 1),
    _P("smtpd_authorized_xclient_hosts", _L, "", _SMTPD, "clients that may use XCLIENT"),
    _P("smtpd_authorized_xforward_hosts", _L, "", _SMTPD, "clients that may use XFORWARD"),
    _P("smtpd_upstream_proxy_protocol", _E, "", _SMTPD, "what a proxy in front of us speaks",
       choices=("", "haproxy")),
    _P("smtpd_upstream_proxy_timeout", _T, "5s", _SMTPD, "the deadline of its header", 1),
    _P("smtpd_peername_lookup", _B, "yes", _SMTPD, "look up the client's name"),
    _P("smtpd_discard_ehlo_keywords", _L, "", _SMTPD, "extensions that EHLO does not name"),
    _P("smtpd_discard_ehlo_keyword_address_maps", _L, "", _SMTPD, "the same by the client's address"),
    _P("smtpd_proxy_filter", _S, "", _SMTPD, "before-queue filter, host:port or unix:path"),
    _P("smtpd_proxy_ehlo", _S, "$myhostname", _SMTPD, "our name in EHLO to it"),
    _P("smtpd_proxy_options", _L, "", _SMTPD, "speed_adjust: it is called when the message is in"),
    _P("smtpd_proxy_timeout", _T, "100s", _SMTPD, "the deadline of its connection and of each answer", 1),
    _P("smtpd_command_filter", _S, "", _SMTPD, "a table: command line to the command that it becomes"),
    _P("smtpd_reject_footer", _S, "", _SMTPD, "what refusals end with; $localtime, $client_name…"),
    _P("smtpd_reject_footer_maps", _L, "", _SMTPD, "the same, by the whole of the reply"),
    _P("smtpd_expansion_filter", _S, _REPEATED, _SMTPD, "characters of foreign data that replies repeat"),
    _P("smtpd_noop_commands", _L, "", _SMTPD, "commands that are answered 250 and do nothing"),
    _P("smtpd_forbidden_commands", _L, "CONNECT GET POST regexp:{{/^[^A-Z]/ Bogus}}", _SMTPD,
       "commands that end the session"),
    _P("smtpd_history_flush_threshold", _I, "100", _SMTPD,
       "lines of a transcript after which the postmaster is told of what is in it", 1),
    _P("smtpd_forbid_bare_newline", _E, "no", _SMTPD,
       "a bare LF in a message: repaired (no, yes, normalize) or refused (reject); it never ends the message",
       choices=("no", "yes", "normalize", "reject")),
    _P("smtpd_forbid_bare_newline_exclusions", _L, "$mynetworks", _SMTPD, "clients that may send one"),
    _P("smtpd_forbid_bare_newline_reject_code", _I, "550", _SMTPD, "the reply code for it", 421, 599),
    _P("smtpd_forbid_unauth_pipelining", _B, "no", _SMTPD, "hang up on pipelining out of turn"),
    _P("smtputf8_enable", _B, "${{$compatibility_level} <level {1} ? {no} : {yes}}", _SMTPD, "SMTPUTF8"),
    _P("smtputf8_autodetect_classes", _L, "sendmail, verify", _PICKUP,
       "mail that asks for SMTPUTF8 by what is in it; of these only sendmail does"),
    _P("strict_smtputf8", _B, "no", _SMTPD, "UTF-8 in an envelope only after SMTPUTF8"),
    _P("access_map_reject_code", _I, "554", _SMTPD, "reply code of REJECT", 400, 599),
    _P("access_map_defer_code", _I, "450", _SMTPD, "reply code of DEFER", 400, 499),
    _P("reject_code", _I, "554", _SMTPD, "reply code of reject", 400, 599),
    _P("defer_code", _I, "450", _SMTPD, "reply code of defer", 400, 599),
    _P("relay_domains_reject_code", _I, "554", _SMTPD, "reply code of relay access denied", 400, 599),
    _P("invalid_hostname_reject_code", _I, "501", _SMTPD, "for reject_invalid_helo_hostname", 400, 599),
    _P("non_fqdn_reject_code", _I, "504", _SMTPD, "for the reject_non_fqdn_… words", 400, 599),
    _P("unknown_address_reject_code", _I, "450", _SMTPD, "for reject_unknown_…_domain", 400, 599),
    _P("unknown_client_reject_code", _I, "450", _SMTPD, "for reject_unknown_client_hostname", 400, 599),
    _P("unknown_hostname_reject_code", _I, "450", _SMTPD, "for reject_unknown_helo_hostname", 400, 599),
    _P("unknown_local_recipient_reject_code", _I, "550", _SMTPD, "unknown user in $mydestination", 400, 599),
    _P("unknown_relay_recipient_reject_code", _I, "550", _SMTPD, "unknown user in $relay_domains", 400, 599),
    _P("unknown_virtual_alias_reject_code", _I, "550", _SMTPD, "… in $virtual_alias_domains", 400, 599),
    _P("unknown_virtual_mailbox_reject_code", _I, "550", _SMTPD, "… in $virtual_mailbox_domains", 400, 599),
    _P("multi_recipient_bounce_reject_code", _I, "550", _SMTPD, "reject_multi_recipient_bounce", 400, 599),
    _P("smtpd_restriction_classes", _L, "", _SMTPD, "parameters that are lists of restrictions"),
    _P("smtpd_null_access_lookup_key", _S, "<>", _SMTPD, "the null sender in access tables"),
    _P("allow_untrusted_routing", _B, "no", _SMTPD, "let strangers route mail through us (user@remote@here)"),
    _P("permit_mx_backup_networks", _L, "", _SMTPD, "primary mail hosts of which we may be the backup"),
    _P("relay_clientcerts", _L, "", _SMTPD, "fingerprints that permit_tls_clientcerts takes"),
    _P("maps_rbl_reject_code", _I, "554", _SMTPD, "$rbl_code", 400, 599),
    _P("maps_rbl_domains", _L, "", _SMTPD, "block lists of the old word reject_maps_rbl"),
    _P("default_rbl_reply", _S,
       "$rbl_code Service unavailable; $rbl_class [$rbl_what] blocked using "
       "$rbl_domain${rbl_reason?; $rbl_reason}", _SMTPD, "what a client on a block list is told"),
    _P("rbl_reply_maps", _L, "", _SMTPD, "the same by block list"),
    _P("lmdb_map_size", _Z, "16777216", ("postmap", "verify"),
       "octets that a new lmdb: file may grow to at first; it is doubled when they are used up", 8192),
    # ---- address verification
    _P("address_verify_map", _S, "btree:$data_directory/verify_cache", _VERIFY,
       "where results are kept: btree:, hash: or lmdb:; empty: in memory"),
    _P("address_verify_positive_expire_time", _T, "31d", _VERIFY, "life of a good result", 1, unit="d"),
    _P("address_verify_positive_refresh_time", _T, "7d", _VERIFY, "age at which it is asked again", 1,
       unit="d"),
    _P("address_verify_negative_expire_time", _T, "3d", _VERIFY, "life of a bad result", 1, unit="d"),
    _P("address_verify_negative_refresh_time", _T, "3h", _VERIFY, "age at which it is asked again", 1,
       unit="h"),
    _P("address_verify_negative_cache", _B, "yes", _VERIFY, "remember bad results"),
    _P("address_verify_cache_cleanup_interval", _T, "12h", _VERIFY,
       "between two looks for what has expired; 0: none", 0, unit="h"),
    _P("address_verify_poll_count", _I, "${stress?{1}:{3}}", _SMTPD, "how often smtpd asks for a result", 1),
    _P("address_verify_poll_delay", _T, "3s", _SMTPD, "between two of those", 1),
    _P("address_verify_sender", _S, "$double_bounce_sender", ("verify", "smtpd"),
       "the probes' envelope sender; empty or <>: the null sender"),
    _P("address_verify_sender_ttl", _T, "0s", ("verify", "smtpd"),
       "how often the sender's name changes; 0: never", 0),
    _P("address_verify_pending_request_limit", _I, "5000", _QMGR, "probes under way at once", 1),
    _P("address_verify_local_transport", _S, "$local_transport", _QMGR, "in place of local_transport"),
    _P("address_verify_virtual_transport", _S, "$virtual_transport", _QMGR, "in place of virtual_transport"),
    _P("address_verify_relay_transport", _S, "$relay_transport", _QMGR, "in place of relay_transport"),
    _P("address_verify_default_transport", _S, "$default_transport", _QMGR, "in place of default_transport"),
    _P("address_verify_relayhost", _S, "$relayhost", _QMGR, "in place of relayhost"),
    _P("address_verify_transport_maps", _L, "$transport_maps", _QMGR, "in place of transport_maps"),
    _P("address_verify_sender_dependent_relayhost_maps", _L, "$sender_dependent_relayhost_maps", _QMGR,
       "in place of sender_dependent_relayhost_maps"),
    _P("address_verify_sender_dependent_default_transport_maps", _L,
       "$sender_dependent_default_transport_maps", _QMGR,
       "in place of sender_dependent_default_transport_maps"),
    _P("smtp_address_verify_target", _E, "rcpt", _SMTP, "the command that a probe ends with",
       choices=("rcpt", "data")),
    _P("lmtp_address_verify_target", _E, "rcpt", _LMTP, "the command that a probe ends with",
       choices=("rcpt", "data")),
    _P("unverified_recipient_defer_code", _I, "450", _SMTPD, "of reject_unverified_recipient, not known",
       200, 599),
    _P("unverified_recipient_reject_code", _I, "450", _SMTPD, "the same, undeliverable", 200, 599),
    _P("unverified_recipient_reject_reason", _S, "", _SMTPD, "words in place of the probe's result"),
    _P("unverified_recipient_tempfail_action", _E, "$reject_tempfail_action", _SMTPD,
       "defer at once, or only what would be permitted", choices=("defer", "defer_if_permit")),
    _P("unverified_sender_defer_code", _I, "450", _SMTPD, "of reject_unverified_sender, not known", 200, 599),
    _P("unverified_sender_reject_code", _I, "450", _SMTPD, "the same, undeliverable", 200, 599),
    _P("unverified_sender_reject_reason", _S, "", _SMTPD, "words in place of the probe's result"),
    _P("unverified_sender_tempfail_action", _E, "$reject_tempfail_action", _SMTPD,
       "defer at once, or only what would be permitted", choices=("defer", "defer_if_permit")),
    _P("reject_tempfail_action", _E, "defer_if_permit", _SMTPD, "when the DNS does not answer",
       choices=("defer", "defer_if_permit")),
    _P("unknown_address_tempfail_action", _E, "$reject_tempfail_action", _SMTPD,
       "the same for reject_unknown_…_domain", choices=("defer", "defer_if_permit")),
    _P("unknown_helo_hostname_tempfail_action", _E, "$reject_tempfail_action", _SMTPD,
       "the same for reject_unknown_helo_hostname", choices=("defer", "defer_if_permit")),
    _P("smtpd_policy_service_default_action", _S, "451 4.3.5 Server configuration problem", _SMTPD,
       "the answer of a policy server that gives none"),
    _P("smtpd_policy_service_max_idle", _T, "300s", _SMTPD, "how long an idle connection is kept", 0),
    _P("smtpd_policy_service_max_ttl", _T, "1000s", _SMTPD, "how long one is used at all", 1),
    _P("smtpd_policy_service_policy_context", _S, "", _SMTPD, "what the server is told as policy_context"),
    _P("smtpd_policy_service_request_limit", _I, "0", _SMTPD, "requests of one connection; 0: any number", 0),
    _P("smtpd_policy_service_retry_delay", _T, "1s", _SMTPD, "between two attempts", 0),
    _P("smtpd_policy_service_timeout", _T, "100s", _SMTPD, "the deadline of connection and answer", 1),
    _P("smtpd_policy_service_try_limit", _I, "2", _SMTPD, "attempts to get an answer", 1),
    # ---- milters
    _P("smtpd_milters", _L, "", _SMTPD,
       "milters for mail from the network: inet:HOST:PORT, unix:PATH, { one of them, option=value }"),
    _P("smtpd_milter_maps", _L, "", _SMTPD, "tables: a client's address, and its milters, or DISABLE"),
    _P("non_smtpd_milters", _L, "", _PICKUP, "milters for mail of local programs"),
    _P("milter_default_action", _E, "tempfail", _MILTERS, "what a milter that fails has decided",
       choices=("accept", "reject", "tempfail", "quarantine", "shutdown")),
    _P("milter_protocol", _S, "6", _MILTERS, "the protocol version: 2, 3, 4 or 6, and no_header_reply"),
    _P("milter_connect_timeout", _T, "30s", _MILTERS, "for a connection to a milter", 1),
    _P("milter_command_timeout", _T, "30s", _MILTERS, "for an answer to a command", 1),
    _P("milter_content_timeout", _T, "300s", _MILTERS, "for an answer to content", 1),
    _P("milter_connect_macros", _L, "j {daemon_name} {daemon_addr} v _", _MILTERS, "told with CONNECT"),
    _P("milter_helo_macros", _L, "{tls_version} {cipher} {cipher_bits} {cert_subject} {cert_issuer}",
       _MILTERS, "told with EHLO and HELO"),
    _P("milter_mail_macros", _L,
       "i {auth_type} {auth_authen} {auth_author} {mail_addr} {mail_host} {mail_mailer}", _MILTERS,
       "told with MAIL"),
    _P("milter_rcpt_macros", _L, "i {rcpt_addr} {rcpt_host} {rcpt_mailer}", _MILTERS, "told with RCPT"),
    _P("milter_data_macros", _L, "i", _MILTERS, "told with DATA"),
    _P("milter_end_of_header_macros", _L, "i", _MILTERS, "told with headers and their end"),
    _P("milter_end_of_data_macros", _L, "i", _MILTERS, "told with the body and the end of the message"),
    _P("milter_unknown_command_macros", _L, "", _MILTERS, "told with commands that are not known"),
    _P("milter_macro_daemon_name", _S, "$myhostname", _MILTERS, "the macro {daemon_name}"),
    _P("milter_macro_v", _S, "$mail_name $mail_version", _MILTERS, "the macro v"),
    _P("milter_macro_defaults", _L, "", _MILTERS, "NAME=VALUE for macros that have no value"),
    _P("milter_header_checks", _L, "", _MILTERS, "tables for the headers that milters add or change"),
    _P("plaintext_reject_code", _I, "450", _SMTPD, "for reject_plaintext_session", 400, 599),
    _P("show_user_unknown_table_name", _B, "yes", _SMTPD, "'in … recipient table' in the reply"),
    # ---- SASL and TLS at reception
    _P("smtpd_sasl_auth_enable", _B, "no", _SMTPD, "offer AUTH"),
    _P("smtpd_sasl_type", _E, "cyrus", _SMTPD, "how passwords are checked", choices=("cyrus", "dovecot")),
    _P("smtpd_sasl_path", _S, "smtpd", _SMTPD, "dovecot: the socket; cyrus: the name of NAME.conf"),
    _P("cyrus_sasl_config_path", _S, "", _SMTPD, "the folder of that file"),
    _P("smtpd_sasl_security_options", _L, "noanonymous", _SMTPD, "mechanisms that are not offered"),
    _P("smtpd_sasl_tls_security_options", _L, "$smtpd_sasl_security_options", _SMTPD, "the same inside TLS"),
    _P("smtpd_sasl_mechanism_filter", _L, "!external, static:rest", _SMTPD, "mechanisms that are offered"),
    _P("smtpd_sasl_local_domain", _S, "", _SMTPD, "the realm"),
    _P("smtpd_sasl_authenticated_header", _B, "no", _SMTPD, "the login name in Received:"),
    _P("smtpd_sasl_exceptions_networks", _L, "", _SMTPD, "clients that are not offered AUTH"),
    _P("smtpd_sasl_response_limit", _I, "12288", _SMTPD, "octets of a client's SASL response", 1024),
    _P("smtpd_sasl_service", _S, "smtp", _SMTPD, "the service name given to the authentication server"),
    _P("smtpd_sender_login_maps", _L, "", _SMTPD, "who may use which sender address"),
    _P("broken_sasl_auth_clients", _B, "no", _SMTPD, "also offer AUTH= for old clients"),
    _P("smtpd_tls_security_level", _E, "", _SMTPD, "offered (may) or demanded (encrypt)", choices=_LEVELS),
    _P("smtpd_tls_wrappermode", _B, "no", _SMTPD, "TLS from the first octet (port 465)"),
    _P("smtpd_tls_auth_only", _B, "no", _SMTPD, "AUTH only inside TLS"),
    _P("smtpd_tls_cert_file", _S, "", _SMTPD, "certificate chain, PEM"),
    _P("smtpd_tls_key_file", _S, "$smtpd_tls_cert_file", _SMTPD, "private key, PEM"),
    _P("smtpd_tls_CAfile", _S, "", _SMTPD, "authorities of client certificates, PEM"),
    _P("smtpd_tls_ask_ccert", _B, "no", _SMTPD, "ask for a client certificate"),
    _P("smtpd_tls_req_ccert", _B, "no", _SMTPD, "demand one, where TLS is demanded"),
    _P("smtpd_tls_fingerprint_digest", _E, "${{$compatibility_level} <level {3.6} ? {md5} : {sha256}}",
       _SMTPD, "how fingerprints are made", choices=("md5", "sha1", "sha224", "sha256", "sha384", "sha512")),
    _P("smtpd_tls_received_header", _B, "no", _SMTPD, "TLS details in Received:"),
    _P("smtpd_tls_loglevel", _I, "0", _SMTPD, "1: a log line per TLS session", 0, 4),
    _P("smtpd_use_tls", _B, "no", _SMTPD, "old: smtpd_tls_security_level = may"),
    _P("smtpd_enforce_tls", _B, "no", _SMTPD, "old: smtpd_tls_security_level = encrypt"),
    _P("smtpd_tls_chain_files", _L, "", _SMTPD,
       "keys, each with its certificates behind it, PEM; in place of the files below"),
    _P("smtpd_tls_eccert_file", _S, "", _SMTPD, "certificate chain of an elliptic curve key, PEM"),
    _P("smtpd_tls_eckey_file", _S, "$smtpd_tls_eccert_file", _SMTPD, "that key"),
    _P("smtpd_tls_dcert_file", _S, "", _SMTPD, "certificate chain of a DSA key, PEM"),
    _P("smtpd_tls_dkey_file", _S, "$smtpd_tls_dcert_file", _SMTPD, "that key"),
    _P("tls_server_sni_maps", _L, "", _SMTPD, "keys and certificates by the name that a client asks for"),
    _P("smtpd_tls_CApath", _S, "", _SMTPD, "a folder of authorities of client certificates, by hash"),
    _P("tls_append_default_CA", _B, "no", ("smtpd", "smtp"), "the system's authorities beside those"),
    _P("smtpd_tls_protocols", _S, ">=TLSv1", _SMTPD, "TLS versions where it is offered"),
    _P("smtpd_tls_mandatory_protocols", _S, ">=TLSv1", _SMTPD, "TLS versions where it is demanded"),
    _P("smtpd_tls_ciphers", _E, "medium", _SMTPD, "the least cipher grade where it is offered",
       choices=_SERVER_GRADES),
    _P("smtpd_tls_mandatory_ciphers", _E, "medium", _SMTPD, "the least cipher grade where it is demanded",
       choices=_SERVER_GRADES),
    _P("smtpd_tls_exclude_ciphers", _L, "", _SMTPD, "ciphers that are not taken"),
    _P("smtpd_tls_mandatory_exclude_ciphers", _L, "", _SMTPD, "the same where TLS is demanded, beside them"),
    _P("smtpd_tls_dh1024_param_file", _S, "", _SMTPD, "DH parameters, PEM; else a group of 2048 bits"),
    _P("tls_high_cipherlist", _S, "aNULL:-aNULL:HIGH:@STRENGTH", _SMTPD, "OpenSSL's list for the grade high"),
    _P("tls_medium_cipherlist", _S, "aNULL:-aNULL:HIGH:MEDIUM:+RC4:@STRENGTH", _SMTPD, "… medium"),
    _P("tls_low_cipherlist", _S, "aNULL:-aNULL:HIGH:MEDIUM:LOW:+RC4:@STRENGTH", _SMTPD, "… low"),
    _P("tls_export_cipherlist", _S, "aNULL:-aNULL:HIGH:MEDIUM:LOW:EXPORT:+RC4:@STRENGTH", _SMTPD, "… export"),
    _P("tls_null_cipherlist", _S, "eNULL:!aNULL", _SMTPD, "… null"),
    _P("tls_preempt_cipherlist", _B, "no", _SMTPD, "the server's order of ciphers counts"),
    _P("tls_eecdh_auto_curves", _S, "X25519 X448 prime256v1 secp521r1 secp384r1", _SMTPD,
       "curves: this list, which is OpenSSL's own, or a single one"),
    _P("tls_ssl_options", _L, "", _SMTPD, "OpenSSL's options that are set: names, or a number as 0x…"),
    _P("tls_disable_workarounds", _L, "", _SMTPD, "OpenSSL's workarounds that are turned off"),
    # ---- addresses and cleanup
    _P("relay_domains", _L, "${{$compatibility_level} <level {2} ? {$mydestination} : {}}", _REWRITE,
       "domains that $relay_transport delivers"),
    _P("relay_recipient_maps", _L, "", _SMTPD, "known recipients of $relay_domains; empty: all"),
    _P("local_recipient_maps", _L, "proxy:unix:passwd.byname $alias_maps", _SMTPD,
       "known recipients of $mydestination; empty: all"),
    _P("virtual_alias_maps", _L, "$virtual_maps", ("smtpd", "cleanup"), "address to addresses, every domain"),
    _P("virtual_alias_domains", _L, "$virtual_alias_maps", _REWRITE, "domains that have aliases only"),
    _P("virtual_alias_expansion_limit", _I, "1000", _CLEANUP, "addresses that one alias may become", 1),
    _P("virtual_alias_recursion_limit", _I, "1000", _CLEANUP, "depth of aliases of aliases", 1),
    _P("virtual_alias_address_length_limit", _I, "1000", _CLEANUP, "octets of an address made by them", 1),
    _P("virtual_mailbox_domains", _L, "$virtual_mailbox_maps", _REWRITE,
       "domains that $virtual_transport delivers"),
    _P("virtual_mailbox_maps", _L, "", ("smtpd", "virtual"), "mailbox path of an address"),
    _P("virtual_mailbox_base", _S, "", _VIRTUAL, "what those paths are below"),
    _P("virtual_transport", _S, "virtual", _QMGR, "transport[:nexthop] of $virtual_mailbox_domains"),
    _P("local_transport", _S, "local:$myhostname", _QMGR, "transport[:nexthop] of $mydestination"),
    _P("relay_transport", _S, "relay", _QMGR, "transport[:nexthop] of $relay_domains"),
    _P("default_transport", _S, "smtp", _QMGR, "transport[:nexthop] of everything else"),
    _P("transport_maps", _L, "", _QMGR, "address or domain to transport:nexthop"),
    _P("relayhost", _S, "", _QMGR, "where everything that is not ours goes"),
    _P("sender_dependent_relayhost_maps", _L, "", _QMGR, "sender to relayhost"),
    _P("empty_address_relayhost_maps_lookup_key", _S, "<>", _QMGR, "the key for the null sender in those"),
    _P("sender_dependent_default_transport_maps", _L, "", _QMGR, "sender to default transport:nexthop"),
    _P("empty_address_default_transport_maps_lookup_key", _S, "<>", _QMGR,
       "the key for the null sender in those"),
    _P("relocated_maps", _L, "", ("smtpd", "qmgr"), "users that have moved, and where to"),
    _P("recipient_delimiter", _S, "", _REWRITE, "what separates user and extension (user+ext)"),
    _P("propagate_unmatched_extensions", _L, "canonical, virtual", ("cleanup", "local"),
       "tables whose results keep the extension"),
    _P("append_at_myorigin", _B, "yes", _REWRITE, "complete user to user@$myorigin"),
    _P("append_dot_mydomain", _B, "${{$compatibility_level} <level {1} ? {yes} : {no}}", _REWRITE,
       "complete user@host to user@host.$mydomain"),
    _P("swap_bangpath", _B, "yes", _REWRITE, "site!user is user@site"),
    _P("allow_percent_hack", _B, "yes", _REWRITE, "user%domain is user@domain"),
    _P("resolve_dequoted_address", _B, "yes", _REWRITE, "an @ inside quotes counts too"),
    _P("local_header_rewrite_clients", _L, "permit_inet_interfaces", _SMTPD,
       "clients whose headers are completed"),
    _P("remote_header_rewrite_domain", _S, "", _CLEANUP, "completes headers of other clients; empty: never"),
    _P("always_add_missing_headers", _B, "no", _CLEANUP, "From, Date, Message-ID for every client"),
    _P("always_bcc", _S, "", _CLEANUP, "an address that gets a copy of everything"),
    _P("sender_bcc_maps", _L, "", _CLEANUP, "sender to an address that gets a copy"),
    _P("recipient_bcc_maps", _L, "", _CLEANUP, "recipient to an address that gets a copy"),
    _P("canonical_maps", _L, "", _CLEANUP, "address to address, in envelopes and headers"),
    _P("canonical_classes", _L, "envelope_sender, envelope_recipient, header_sender, header_recipient",
       _CLEANUP, "the addresses that canonical_maps are for"),
    _P("sender_canonical_maps", _L, "", _CLEANUP, "the same for senders"),
    _P("sender_canonical_classes", _L, "envelope_sender, header_sender", _CLEANUP,
       "the addresses that sender_canonical_maps are for"),
    _P("recipient_canonical_maps", _L, "", _CLEANUP, "the same for recipients"),
    _P("recipient_canonical_classes", _L, "envelope_recipient, header_recipient", _CLEANUP,
       "the addresses that recipient_canonical_maps are for"),
    _P("masquerade_domains", _L, "", _CLEANUP, "domains that hide the hosts below them"),
    _P("masquerade_classes", _L, "envelope_sender, header_sender, header_recipient", _CLEANUP,
       "the addresses that masquerade_domains are for"),
    _P("masquerade_exceptions", _L, "", _CLEANUP, "user names that are not masqueraded"),
    _P("header_checks", _L, "", _CLEANUP, "what headers decide (header_checks(5))"),
    _P("mime_header_checks", _L, "$header_checks", _CLEANUP, "the same for MIME headers"),
    _P("nested_header_checks", _L, "$header_checks", _CLEANUP, "the same for headers of enclosed messages"),
    _P("body_checks", _L, "", _CLEANUP, "what lines of a body decide"),
    _P("body_checks_size_limit", _Z, "51200", _CLEANUP, "octets of each part that body_checks see", 0),
    _P("message_reject_characters", _S, "", _CLEANUP, "octets that a message must not have"),
    _P("message_strip_characters", _S, "", _CLEANUP, "octets that are removed"),
    _P("strict_7bit_headers", _B, "no", _CLEANUP, "refuse 8-bit data in headers"),
    _P("strict_8bitmime", _B, "no", _CLEANUP, "strict_7bit_headers and strict_8bitmime_body"),
    _P("strict_8bitmime_body", _B, "no", _CLEANUP, "refuse 8-bit data in bodies that do not declare it"),
    _P("strict_mime_encoding_domain", _B, "no", _CLEANUP, "refuse encoded multiparts and messages"),
    _P("mime_nesting_limit", _I, "100", _CLEANUP, "multiparts in multiparts that are understood", 1),
    _P("mime_boundary_length_limit", _I, "2048", _CLEANUP, "octets of a boundary that count", 1),
    _P("disable_mime_input_processing", _B, "no", _CLEANUP, "a body is a body, whatever its type"),
    _P("internal_mail_filter_classes", _L, "", ("bounce", "smtpd", "smtp", "lmtp"),
       "mail of our own that checks and non_smtpd_milters see: bounce (notifications), notify (notices)"),
    _P("content_filter", _S, "", _CLEANUP, "transport:nexthop that gets all mail"),
    _P("default_filter_nexthop", _S, "", _QMGR, "the nexthop of a filter that names none"),
    _P("receive_override_options", _L, "", _CLEANUP, "what is not done to mail of this service"),
    _P("header_from_format", _E, "standard", ("cleanup", "bounce", "smtpd", "smtp", "lmtp"),
       "how a From: of ours is: Name <address>, or (obsolete) address (Name)",
       choices=("standard", "obsolete")),
    _P("undisclosed_recipients_header", _S, "", _CLEANUP, "the To: of a message without recipient headers"),
    _P("hopcount_limit", _I, "50", _CLEANUP, "Received: headers before a message loops", 1),
    _P("header_size_limit", _Z, "102400", _CLEANUP, "octets of one header", 1),
    _P("header_address_token_limit", _I, "10240", _CLEANUP, "tokens of an address header", 1),
    _P("message_drop_headers", _L, "bcc, content-length, resent-bcc, return-path", _CLEANUP,
       "headers that are removed"),
    _P("enable_original_recipient", _B, "yes", ("cleanup", "local", "virtual"),
       "keep orig_to and X-Original-To"),
    _P("duplicate_filter_limit", _I, "1000", ("cleanup", "local"), "addresses remembered against repeats", 0),
    _P("enable_long_queue_ids", _B, "no", ("smtpd", "bounce"), "queue ids that never repeat"),
    _P("parent_domain_matches_subdomains", _L,
       "debug_peer_list,fast_flush_domains,mynetworks,permit_mx_backup_networks,qmqpd_authorized_clients,"
       "relay_domains,smtpd_access_maps", _REWRITE, "lists in which a domain stands for what is below it"),
    # ---- queue
    _P("hash_queue_depth", _I, "1", _QMGR, "levels of folders in the hashed queues", 1, 3),
    _P("qmgr_message_active_limit", _I, "20000", _QMGR, "messages in the active queue", 1),
    _P("qmgr_message_recipient_limit", _I, "20000", _QMGR, "recipients held in memory", 1),
    _P("qmgr_message_recipient_minimum", _I, "10", _QMGR,
       "recipients of one message held in memory, whatever the limit", 1),
    _P("qmgr_clog_warn_time", _T, "300s", _QMGR,
       "between two warnings of a destination that fills the active queue; 0: none", 0),
    _P("in_flow_delay", _T, "1s", ("smtpd", "qmgr"),
       "how long a message is made to wait while new mail waits for the queue manager; 0: not", 0, 10),
    _P("queue_run_delay", _T, "300s", _QMGR, "between two scans of the deferred queue", 1),
    _P("minimal_backoff_time", _T, "300s", _QMGR, "the first delay of a deferred message", 1),
    _P("maximal_backoff_time", _T, "4000s", _QMGR, "the longest delay; each is twice the one before", 1),
    _P("maximal_queue_lifetime", _T, "5d", _QMGR, "age at which a message is returned", 0, unit="d"),
    _P("bounce_queue_lifetime", _T, "5d", _QMGR, "the same for messages from <>", 0, unit="d"),
    _P("default_destination_concurrency_limit", _I, "20", _QMGR, "deliveries to one destination at once", 0),
    _P("default_destination_recipient_limit", _I, "50", _QMGR, "recipients of one delivery", 0),
    _P("initial_destination_concurrency", _I, "5", _QMGR, "deliveries to one destination to begin with", 1),
    _P("default_destination_concurrency_positive_feedback", _S, "1", _QMGR,
       "what a success adds: number, number/concurrency, number/sqrt_concurrency"),
    _P("default_destination_concurrency_negative_feedback", _S, "1", _QMGR,
       "what a failure to reach the site takes away"),
    _P("default_destination_concurrency_failed_cohort_limit", _I, "1", _QMGR,
       "failures, in units of the concurrency, after which a site is dead; 0: never", 0),
    _P("default_destination_rate_delay", _T, "0s", _QMGR, "between two deliveries to one destination", 0),
    _P("local_destination_concurrency_limit", _I, "2", _QMGR, "the same for one local user", 0),
    _P("local_destination_recipient_limit", _I, "1", _QMGR, "recipients of one delivery", 0),
    _P("transport_retry_time", _T, "60s", _NOBODY, "how long a transport that fails is left alone", 1),
    _P("defer_transports", _L, "", _QMGR, "transports that deliver only on flush"),
    _P("soft_bounce", _B, "no", ("smtpd", "qmgr"), "5xx becomes 4xx: nothing is lost while testing"),
    _P("info_log_address_format", _E, "external", ("smtpd", "qmgr"),
       "addresses in log lines: quoted as in SMTP, or as they are", choices=("external", "internal")),
    _P("delay_logging_resolution_limit", _I, "2", _QMGR, "digits after the point in delays=", 0, 6),
    # ---- delivery
    _P("alias_maps", _L, "hash:/etc/aliases, nis:mail.aliases", _LOCAL, "aliases(5) tables of local"),
    _P("default_database_type", _S, "hash", ("postmap", "newaliases"), "the type of tables without one"),
    _P("alias_database", _L, "hash:/etc/aliases", ("newaliases",), "what newaliases builds"),
    _P("mailbox_transport", _S, "", _LOCAL, "transport:nexthop that delivers every local user's mail"),
    _P("mailbox_transport_maps", _L, "", _LOCAL, "user to transport:nexthop, asked before mailbox_transport"),
    _P("fallback_transport", _S, "", _LOCAL, "transport:nexthop for users that this machine does not know"),
    _P("fallback_transport_maps", _L, "", _LOCAL, "the same by user"),
    _P("mailbox_command", _S, "", _LOCAL, "command that takes every user's mail (procmail)"),
    _P("mailbox_command_maps", _L, "", _LOCAL, "the same by user"),
    _P("home_mailbox", _S, "", _LOCAL, "mailbox below a user's home; one that ends in / is a Maildir"),
    _P("mail_spool_directory", _S, "/var/mail", _LOCAL, "folder of the users' mbox files"),
    _P("mailbox_delivery_lock", _L, "fcntl, dotlock", _LOCAL,
       "how mbox files are locked: fcntl, flock, dotlock"),
    _P("mailbox_size_limit", _Z, "51200000", _LOCAL, "octets of a local mbox file; 0: any number", 0),
    _P("strict_mailbox_ownership", _B, "yes", ("local", "virtual"), "an mbox file must be its user's"),
    _P("deliver_lock_attempts", _I, "20", ("local", "virtual"), "attempts to lock a file", 1),
    _P("deliver_lock_delay", _T, "1s", ("local", "virtual"), "between two of them", 1),
    _P("stale_lock_time", _T, "500s", ("local", "virtual"), "age at which a dotlock is removed", 1),
    _P("luser_relay", _S, "", _LOCAL, "where mail for unknown local users goes"),
    _P("require_home_directory", _B, "no", _LOCAL, "mail waits until the user's home is there"),
    _P("forward_path", _L, "$home/.forward${recipient_delimiter}${extension}, $home/.forward", _LOCAL,
       "where users say what becomes of their mail"),
    _P("forward_expansion_filter", _S, _SAFE, _LOCAL, "characters that may stand in such a path's $names"),
    _P("allow_mail_to_commands", _L, "alias, forward", _LOCAL,
       "who may name a |command: alias, forward, include"),
    _P("allow_mail_to_files", _L, "alias, forward", _LOCAL, "who may name a /file: alias, forward, include"),
    _P("prepend_delivered_header", _L, "command, file, forward", _LOCAL, "who gets a Delivered-To: header"),
    _P("default_privs", _S, "nobody", _LOCAL, "the user of commands and files that root's aliases name"),
    _P("command_time_limit", _T, "1000s", ("local", "pipe"), "after which a command is killed", 1),
    _P("command_expansion_filter", _S, _SAFE, _LOCAL, "characters that may stand in a command's environment"),
    _P("command_execution_directory", _S, "", _LOCAL, "a command's folder, with $home and the like"),
    _P("execution_directory_expansion_filter", _S, _SAFE, _LOCAL, "characters that may stand in its $names"),
    _P("local_command_shell", _S, "", _LOCAL, "program that runs every command line of local"),
    _P("export_environment", _L, "TZ MAIL_CONFIG LANG", ("local", "pipe"),
       "what commands see of our environment"),
    _P("owner_request_special", _B, "yes", _LOCAL, "owner-list gets the errors of list"),
    _P("expand_owner_alias", _B, "no", _LOCAL, "the owner alias's own expansion is the sender"),
    _P("virtual_mailbox_limit", _Z, "51200000", _VIRTUAL,
       "octets of a message in a Maildir, or of an mbox file", 0),
    _P("virtual_mailbox_lock", _L, "fcntl, dotlock", _VIRTUAL, "how mbox files are locked"),
    _P("virtual_uid_maps", _L, "", _VIRTUAL, "the account that a mailbox belongs to"),
    _P("virtual_gid_maps", _L, "", _VIRTUAL, "the group that a mailbox belongs to"),
    _P("virtual_minimum_uid", _I, "100", _VIRTUAL, "the lowest account that virtual may use", 1),
    _P("lmtp_tcp_port", _S, "24", _LMTP, "the port where a nexthop names none"),
    _P("lmtp_lhlo_name", _S, "$myhostname", _LMTP, "our name in LHLO"),
    _P("lmtp_destination_concurrency_limit", _I, "$default_destination_concurrency_limit", _QMGR,
       "deliveries to one destination at once", 0),
    _P("lmtp_destination_recipient_limit", _I, "$default_destination_recipient_limit", _QMGR,
       "recipients of one delivery", 0),
    _P("lmtp_connect_timeout", _T, "0s", _LMTP, "the connection's deadline; 0: the system's"),
    _P("lmtp_lhlo_timeout", _T, "300s", _LMTP, "the deadline of greeting and LHLO", 1),
    _P("lmtp_mail_timeout", _T, "300s", _LMTP, "the deadline of MAIL FROM", 1),
    _P("lmtp_rcpt_timeout", _T, "300s", _LMTP, "the deadline of RCPT TO", 1),
    _P("lmtp_data_init_timeout", _T, "120s", _LMTP, "the deadline of DATA", 1),
    _P("lmtp_data_xfer_timeout", _T, "180s", _LMTP, "silence while the content is sent", 1),
    _P("lmtp_data_done_timeout", _T, "600s", _LMTP, "the deadline of the final reply", 1),
    _P("lmtp_connection_cache_time_limit", _T, "2s", _LMTP, "how long an idle connection is kept", 1),
    _P("lmtp_connection_reuse_time_limit", _T, "300s", _LMTP, "how long one connection is used at all", 1),
    _P("smtp_tcp_port", _S, "smtp", _SMTP, "the port where a nexthop names none"),
    _P("smtp_helo_name", _S, "$myhostname", _SMTP, "our name in EHLO"),
    _P("smtp_destination_concurrency_limit", _I, "$default_destination_concurrency_limit", _QMGR,
       "deliveries to one destination at once", 0),
    _P("smtp_destination_recipient_limit", _I, "$default_destination_recipient_limit", _QMGR,
       "recipients of one delivery", 0),
    _P("relay_destination_concurrency_limit", _I, "$default_destination_concurrency_limit", _QMGR,
       "deliveries to one destination at once", 0),
    _P("relay_destination_recipient_limit", _I, "$default_destination_recipient_limit", _QMGR,
       "recipients of one delivery", 0),
    _P("virtual_destination_concurrency_limit", _I, "$default_destination_concurrency_limit", _QMGR,
       "deliveries to one destination at once", 0),
    _P("virtual_destination_recipient_limit", _I, "$default_destination_recipient_limit", _QMGR,
       "recipients of one delivery", 0),
    _P("smtp_connect_timeout", _T, "30s", _SMTP, "the connection's deadline; 0: the system's"),
    _P("smtp_helo_timeout", _T, "300s", _SMTP, "the deadline of greeting and EHLO", 1),
    _P("smtp_mail_timeout", _T, "300s", _SMTP, "the deadline of MAIL FROM", 1),
    _P("smtp_rcpt_timeout", _T, "300s", _SMTP, "the deadline of RCPT TO", 1),
    _P("smtp_data_init_timeout", _T, "120s", _SMTP, "the deadline of DATA", 1),
    _P("smtp_data_xfer_timeout", _T, "180s", _SMTP, "silence while the content is sent", 1),
    _P("smtp_data_done_timeout", _T, "600s", _SMTP, "the deadline of the final reply", 1),
    _P("smtp_starttls_timeout", _T, "300s", _SMTP, "the TLS handshake's deadline", 1),
    _P("smtp_connection_cache_time_limit", _T, "2s", _SMTP, "how long an idle connection is kept", 1),
    _P("smtp_connection_reuse_time_limit", _T, "300s", _SMTP, "how long one connection is used at all", 1),
    _P("smtp_mx_address_limit", _I, "5", _SMTP, "addresses of MX hosts that are tried; 0: all", 0),
    _P("smtp_mx_session_limit", _I, "2", _SMTP, "sessions with them per delivery; 0: any number", 0),
    _P("smtp_randomize_addresses", _B, "yes", _SMTP, "shuffle hosts of equal preference"),
    _P("smtp_address_preference", _E, "any", _SMTP, "which family first", choices=("any", "ipv4", "ipv6")),
    _P("smtp_bind_address", _S, "", _SMTP, "the address that connections come from"),
    _P("smtp_fallback_relay", _L, "$fallback_relay", _SMTP, "hosts to try when no MX host can be reached"),
    _P("smtp_skip_5xx_greeting", _B, "yes", _SMTP, "a 5xx greeting means: try the next host"),
    _P("smtp_tls_security_level", _E, "", _SMTP, "TLS as the client", choices=_CLIENT_LEVELS),
    _P("smtp_tls_CAfile", _S, "", _SMTP, "authorities that verify and secure trust, PEM"),
    _P("smtp_tls_loglevel", _I, "0", _SMTP, "1: a log line per TLS session", 0, 4),
    _P("smtp_rset_timeout", _T, "20s", _SMTP, "the deadline of RSET", 1),
    _P("smtp_quit_timeout", _T, "300s", _SMTP, "the deadline of QUIT, where its reply is waited for", 1),
    _P("smtp_xforward_timeout", _T, "300s", _SMTP, "the deadline of XFORWARD", 1),
    _P("smtp_skip_quit_response", _B, "yes", _SMTP, "QUIT's reply is not waited for"),
    _P("smtp_balance_inet_protocols", _B, "yes", _SMTP,
       "smtp_mx_address_limit leaves room for both families"),
    _P("smtp_bind_address6", _S, "", _SMTP, "the IPv6 address that connections come from"),
    _P("smtp_bind_address_enforce", _B, "no", _SMTP, "defer where that address cannot be had"),
    _P("smtp_host_lookup", _L, "dns", _SMTP, "dns, native: how names become addresses"),
    _P("smtp_dns_support_level", _E, "", _SMTP,
       "disabled: no DNS look-ups at all", choices=("", "disabled", "enabled", "dnssec")),
    _P("disable_dns_lookups", _B, "no", _SMTP, "no DNS look-ups where smtp_dns_support_level is empty"),
    _P("ignore_mx_lookup_error", _B, "no", _SMTP, "a failed MX look-up means: the domain itself"),
    _P("smtp_defer_if_no_mx_address_found", _B, "no", _SMTP, "defer where no MX host has an address"),
    _P("best_mx_transport", _S, "", _SMTP,
       "transport:nexthop of mail whose best MX host is this one; empty: it bounces"),
    _P("smtp_always_send_ehlo", _B, "yes", _SMTP, "EHLO also to servers that do not say ESMTP"),
    _P("smtp_never_send_ehlo", _B, "no", _SMTP, "HELO, never EHLO"),
    _P("smtp_discard_ehlo_keywords", _L, "", _SMTP, "EHLO keywords of servers that are not seen"),
    _P("smtp_discard_ehlo_keyword_address_maps", _L, "", _SMTP, "the same by the server's address"),
    _P("smtp_send_xforward_command", _B, "no", _SMTP, "tell servers that know XFORWARD of the client"),
    _P("smtp_line_length_limit", _I, "998", _SMTP, "octets of a line; longer ones are folded; 0: any", 0),
    _P("smtp_connection_cache_on_demand", _B, "yes", _SMTP,
       "keep connections while a destination has more mail"),
    _P("smtp_connection_cache_destinations", _L, "", _SMTP, "destinations whose connections are always kept"),
    _P("smtp_connection_reuse_count_limit", _I, "0", _SMTP, "deliveries over one connection; 0: any", 0),
    _P("smtp_generic_maps", _L, "", _SMTP, "addresses as the outside may know them"),
    _P("disable_mime_output_conversion", _B, "no", _SMTP, "8-bit mail stays so for servers without 8BITMIME"),
    _P("smtp_use_tls", _B, "no", _SMTP, "old: smtp_tls_security_level = may"),
    _P("smtp_enforce_tls", _B, "no", _SMTP, "old: smtp_tls_security_level = verify or encrypt"),
    _P("smtp_tls_enforce_peername", _B, "yes", _SMTP, "old: smtp_enforce_tls means verify"),
    _P("smtp_tls_CApath", _S, "", _SMTP, "a folder of authorities, by hash"),
    _P("smtp_tls_cert_file", _S, "", _SMTP, "our certificate as a client, PEM"),
    _P("smtp_tls_key_file", _S, "$smtp_tls_cert_file", _SMTP, "its key"),
    _P("smtp_tls_ciphers", _E, "medium", _SMTP, "the least cipher grade, level may", choices=_GRADES),
    _P("smtp_tls_mandatory_ciphers", _E, "medium", _SMTP,
       "the least cipher grade, levels that demand TLS", choices=_GRADES),
    _P("smtp_tls_exclude_ciphers", _L, "", _SMTP, "ciphers that are not offered"),
    _P("smtp_tls_mandatory_exclude_ciphers", _L, "", _SMTP, "the same where TLS is demanded, beside them"),
    _P("smtp_tls_protocols", _S, ">=TLSv1", _SMTP, "TLS versions, level may; before 1.2 none is offered"),
    _P("smtp_tls_mandatory_protocols", _S, ">=TLSv1", _SMTP, "TLS versions, levels that demand TLS"),
    _P("smtp_tls_policy_maps", _L, "", _SMTP, "TLS policies by nexthop"),
    _P("smtp_tls_verify_cert_match", _L, "hostname", _SMTP, "names of certificates, level verify"),
    _P("smtp_tls_secure_cert_match", _L, "nexthop, dot-nexthop", _SMTP,
       "names of certificates, level secure"),
    _P("smtp_tls_fingerprint_cert_match", _L, "", _SMTP, "fingerprints, level fingerprint"),
    _P("smtp_tls_fingerprint_digest", _S, "${{$compatibility_level} <level {3.6} ? {md5} : {sha256}}", _SMTP,
       "their digest"),
    _P("smtp_tls_servername", _S, "", _SMTP, "the name in SNI: hostname, nexthop, or as it stands"),
    _P("smtp_tls_wrappermode", _B, "no", _SMTP, "TLS from the first octet (port 465)"),
    _P("smtp_tls_note_starttls_offer", _B, "no", _SMTP, "log hosts that offer STARTTLS where it is not used"),
    _P("smtp_sasl_auth_enable", _B, "no", _SMTP, "log in to servers that offer AUTH"),
    _P("smtp_sasl_type", _S, "cyrus", _SMTP,
       "the kind of SASL client; there is one, and it goes by this name"),
    _P("smtp_sasl_password_maps", _L, "", _SMTP, "user:password by sender, host or nexthop"),
    _P("smtp_sasl_security_options", _L, "noplaintext, noanonymous", _SMTP,
       "what mechanisms must be, in plain text"),
    _P("smtp_sasl_tls_security_options", _L, "$smtp_sasl_security_options", _SMTP, "the same inside TLS"),
    _P("smtp_sasl_tls_verified_security_options", _L, "$smtp_sasl_tls_security_options", _SMTP,
       "the same inside verified TLS"),
    _P("smtp_sasl_mechanism_filter", _L, "", _SMTP, "mechanisms that may be used"),
    _P("smtp_sasl_auth_soft_bounce", _B, "yes", _SMTP, "a login that is refused defers"),
    _P("smtp_sender_dependent_authentication", _B, "no", _SMTP, "look up logins by sender, too"),
    _P("lmtp_rset_timeout", _T, "20s", _LMTP, "the deadline of RSET", 1),
    _P("lmtp_xforward_timeout", _T, "300s", _LMTP, "the deadline of XFORWARD", 1),
    _P("lmtp_skip_5xx_greeting", _B, "yes", _LMTP, "a 5xx greeting defers"),
    _P("lmtp_line_length_limit", _I, "998", _LMTP, "octets of a line; longer ones are folded; 0: any", 0),
    _P("lmtp_send_xforward_command", _B, "no", _LMTP, "tell servers that know XFORWARD of the client"),
    _P("lmtp_discard_lhlo_keywords", _L, "", _LMTP, "LHLO keywords of servers that are not seen"),
    _P("lmtp_discard_lhlo_keyword_address_maps", _L, "", _LMTP, "the same by the server's address"),
    _P("lmtp_connection_reuse_count_limit", _I, "0", _LMTP, "deliveries over one connection; 0: any", 0),
    _P("smtp_header_checks", _L, "", _SMTP, "regexp and other tables that change headers on their way out"),
    _P("smtp_mime_header_checks", _L, "", _SMTP, "the same for headers of MIME"),
    _P("smtp_nested_header_checks", _L, "", _SMTP, "the same for those of messages in messages"),
    _P("smtp_body_checks", _L, "", _SMTP, "the same for lines of the body"),
    _P("smtp_reply_filter", _L, "", _SMTP, "what lines of a server's replies are taken for"),
    _P("smtp_dns_reply_filter", _L, "", _SMTP, "DNS records that are not seen: name. ttl IN type data"),
    _P("smtp_cname_overrides_servername", _B, "no", _SMTP, "a host goes by the name that its alias leads to"),
    _P("smtp_quote_rfc821_envelope", _B, "yes", _SMTP, "quote local parts where RFC 5321 asks for it"),
    _P("smtp_send_dummy_mail_auth", _B, "no", _SMTP, "MAIL FROM says AUTH=<> after a login"),
    _P("smtp_min_data_rate", _I, "500", _SMTP, "octets per second, with smtp_per_request_deadline", 1),
    _P("smtp_per_request_deadline", _B, "${smtp_per_record_deadline?{$smtp_per_record_deadline}:{no}}", _SMTP,
       "time-outs are those of whole requests, not of silence"),
    _P("smtp_sasl_auth_cache_name", _S, "", _SMTP,
       "not empty: logins that were refused for good are remembered, in memory"),
    _P("smtp_sasl_auth_cache_time", _T, "90d", _SMTP, "for so long", 1),
    _P("smtp_tls_chain_files", _L, "", _SMTP, "keys with certificates, in place of the files below"),
    _P("smtp_tls_eccert_file", _S, "", _SMTP, "another certificate (ECDSA)"),
    _P("smtp_tls_eckey_file", _S, "$smtp_tls_eccert_file", _SMTP, "its key"),
    _P("smtp_tls_dcert_file", _S, "", _SMTP, "another certificate (DSA)"),
    _P("smtp_tls_dkey_file", _S, "$smtp_tls_dcert_file", _SMTP, "its key"),
    _P("smtp_tls_trust_anchor_file", _L, "", _SMTP, "certificates that alone are trusted, PEM"),
    _P("smtp_tls_scert_verifydepth", _I, "9", _SMTP, "certificates above the server's, at most", 0),
    _P("smtp_tls_block_early_mail_reply", _B, "no", _SMTP,
       "hang up on a server that says more than its reply to STARTTLS"),
    _P("smtp_tls_per_site", _L, "", _SMTP, "old: TLS policies by nexthop and host"),
    _P("smtp_tls_connection_reuse", _B, "no", _SMTP, "keep connections with TLS, too"),
    _P("smtp_tls_force_insecure_host_tlsa_lookup", _B, "no", _SMTP,
       "look for TLSA records of hosts in zones without DNSSEC"),
    _P("smtp_tls_dane_insecure_mx_policy", _S, "${{$smtp_tls_security_level} == {dane} ? {dane} : {may}}",
       _SMTP, "dane, for exchangers that an insecure MX record names: dane, encrypt, may"),
    _P("tls_dane_digests", _L, "sha512 sha256", _CLIENTS, "digests of TLSA records, best first"),
    _P("tls_wildcard_matches_multiple_labels", _B, "yes", _CLIENTS,
       "* in a certificate's name stands for one label or more"),
    _P("dnssec_probe", _S, "ns:.", _CLIENTS, "a question that shows whether the resolver validates"),
    _P("default_transport_rate_delay", _T, "0s", _QMGR,
       "between two deliveries of a transport, whatever their destinations", 0),
    _P("default_delivery_status_filter", _L, "", _FILTERED, "what deliveries' statuses are taken for"),
    *(_P(f"{daemon}_delivery_status_filter", _L, "$default_delivery_status_filter", (daemon,),
         "the same for one agent") for daemon in _FILTERED),
    _P("lmtp_assume_final", _B, "no", _LMTP, "delivered, not relayed, by servers that do not know DSN"),
    # ---- bounces
    _P("bounce_size_limit", _Z, "50000", _BOUNCE, "octets of the original that a bounce returns", 1),
    _P("double_bounce_sender", _S, "double-bounce", _BOUNCE, "the sender whose bounces go nowhere"),
    _P("notify_classes", _L, "resource, software", ("smtpd", "bounce"),
       "what the postmaster is told: bounce, 2bounce, delay, data, policy, protocol, resource, software"),
    _P("bounce_notice_recipient", _S, "postmaster", ("smtpd", "bounce"), "gets copies of bounces"),
    _P("2bounce_notice_recipient", _S, "postmaster", _BOUNCE, "gets bounces that cannot be delivered"),
    _P("delay_notice_recipient", _S, "postmaster", _BOUNCE, "gets copies of delay warnings"),
    _P("error_notice_recipient", _S, "postmaster", ("smtpd",), "gets transcripts of sessions gone wrong"),
    _P("delay_warning_time", _T, "0h", ("qmgr", "bounce"),
       "after which the sender is told that mail is late; 0: never", 0, unit="h"),
    _P("empty_address_recipient", _S, "MAILER-DAEMON", _BOUNCE, "the name for <> in headers"),
    _P("bounce_template_file", _S, "", _BOUNCE, "texts of notifications, in bounce(5)'s form"),
    _P("enable_threaded_bounces", _B, "no", _BOUNCE, "notifications refer to the original's Message-ID"),
    _P("confirm_delay_cleared", _B, "no", ("qmgr", "bounce"),
       "tell of the delivery of what the sender knows to be late"),
    # ---- VERP
    _P("default_verp_delimiters", _S, "+=", ("smtpd", "sendmail"), "between sender and recipient, for @"),
    _P("verp_delimiter_filter", _S, "-=+", ("smtpd", "sendmail"), "what delimiters may be"),
    _P("disable_verp_bounces", _B, "no", _BOUNCE, "one notification for all recipients, to the sender"),
    _P("smtpd_authorized_verp_clients", _L, "$authorized_verp_clients", _SMTPD,
       "clients that may use XVERP"),
    # ---- for a real Postfix only
    _P("command_directory", _S, "/usr/sbin", _NOBODY, "Postfix's commands"),
    _P("daemon_directory", _S, "/usr/lib/postfix/sbin", ("master",), "Postfix's daemons; a name in the log"),
    _P("data_directory", _S, "/var/lib/postfix", _NOBODY, "Postfix's caches"),
    _P("meta_directory", _S, "/etc/postfix", _NOBODY, "Postfix's non-executable files"),
    _P("shlib_directory", _S, "/usr/lib/postfix", _NOBODY, "Postfix's libraries"),
    _P("mail_owner", _S, "postfix", ("pipe",), "Postfix's account; pipe runs no command as this user"),
    _P("setgid_group", _S, "postdrop", _NOBODY, "Postfix's submission group"),
    _P("maillog_file", _S, "", _EVERY, "where log lines go; empty: to standard error"),
    _P("maillog_file_prefixes", _L, "/var, /dev/stdout", ("master",), "what its name may begin with"),
    _P("biff", _B, "yes", _NOBODY, "tell comsat of new mail"),
    _P("readme_directory", _S, "/usr/share/doc/postfix", _NOBODY, "Postfix's own manual"),
    _P("html_directory", _S, "/usr/share/doc/postfix/html", _NOBODY, "the same as HTML"),
)  # fmt: skip

_OF_LMTP = {"fallback_relay": "", "skip_quit_response": "no", "tls_secure_cert_match": "nexthop"}
"""Where LMTP's default is another one."""
_NOT_OF_LMTP = frozenset(("always_send_ehlo", "never_send_ehlo", "tls_dane_insecure_mx_policy"))


def _of_lmtp() -> Iterator[Parameter]:
    """The parameters of smtp(8) that lmtp(8), the same program, has under its own name."""
    known = {parameter.name for parameter in _TABLE}
    for parameter in _TABLE:
        what = parameter.name.removeprefix("smtp_")
        name = f"lmtp_{what}"
        if parameter.used_by != _SMTP or what in _NOT_OF_LMTP or "_ehlo_" in what or "_helo_" in what:
            continue
        if what != parameter.name and name not in known and what not in ("helo_name", "helo_timeout"):
            default = _OF_LMTP.get(what, parameter.default.replace("smtp_", "lmtp_"))
            yield parameter._replace(name=name, default=default, used_by=_LMTP)


PARAMETERS = MappingProxyType({parameter.name: parameter for parameter in (*_TABLE, *_of_lmtp())})
"""Every parameter we know, by name."""

HONOURED = frozenset(parameter.name for parameter in PARAMETERS.values() if parameter.honoured)
"""Names that some daemon of ours acts on: what `mta.postfix:` of a spec may set."""

INSTALLATION = frozenset(
    ("command_directory", "data_directory", "debugger_command", "html_directory", "mailq_path",
     "manpage_directory", "meta_directory", "newaliases_path", "readme_directory", "sample_directory",
     "sendmail_path", "setgid_group", "shlib_directory")
)  # fmt: skip
"""Names that say where a Postfix is installed, and how it is debugged: every main.cf of some distribution has
them, and nothing follows from them here."""

_PER_TRANSPORT = {
    "destination_concurrency_limit": (_I, "deliveries to one destination at once"),
    "destination_recipient_limit": (_I, "recipients of one delivery"),
    "initial_destination_concurrency": (_I, "deliveries to one destination to begin with"),
    "destination_concurrency_positive_feedback": (_S, "what a success adds"),
    "destination_concurrency_negative_feedback": (_S, "what a failure to reach the site takes away"),
    "destination_concurrency_failed_cohort_limit": (_I, "failed cohorts after which a site is dead"),
    "destination_rate_delay": (_T, "between two deliveries to one destination"),
    "transport_rate_delay": (_T, "between two deliveries of the transport, whatever their destinations"),
    "time_limit": (_T, "after which a command of pipe is killed"),
}
"""What each transport has, after its name and `_`."""


def parameter(name: str, transports: frozenset[str] = frozenset()) -> Parameter | None:
    """The parameter `name`, also `TRANSPORT_destination_…` of a transport named in master.cf, or None."""
    known = PARAMETERS.get(name)
    if known is not None:
        return known
    for what, (kind, doc) in _PER_TRANSPORT.items():
        if name.endswith(f"_{what}") and name.removesuffix(f"_{what}") in transports:
            initial = what.startswith("initial_")
            if what == "time_limit":
                return Parameter(name, kind, "$command_time_limit", ("pipe",), doc, 1)
            low = None if kind is Kind.STR else int(initial)
            return Parameter(name, kind, f"${what}" if initial else f"$default_{what}", _QMGR, doc, low)
    return None
