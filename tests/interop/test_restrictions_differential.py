"""Restriction lists, client by client, our smtpd and the real Postfix on the same main.cf and master.cf.

Every case is a service of its own, with its own `-o`; both servers ask the same name server and the same policy
server. What may differ is in docs/differences.md, and `DIFFERENT` holds us to it.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from mailstack.net.listen import bind_tcp
from tests.interop.real_postfix import (
    let_daemons_in,
    make_aliases,
    need_postfix,
    start_postfix,
    stop_postfix,
    wait_for,
)
from tests.interop.restrictions_world import (
    CLIENT,
    FORGED,
    NAMELESS,
    SILENT,
    PolicyServer,
    name_server,
)
from tests.interop.test_smtp_differential import BOTH, POSTFIX, SERVICES, _reply
from tests.ports import free_ports
from tests.unit.mta_smtpd.serving import write_config
from tests.unit.mta_smtpd.test_worker import SCRIPT

pytestmark = pytest.mark.real

NAME_SERVER = "127.0.53.25"
EXTRA = """\
smtpd_discard_ehlo_keywords = dsn
smtpd_relay_restrictions = reject_unauth_destination
smtpd_recipient_restrictions =
smtpd_restriction_classes = strict, lenient
strict = reject_unauth_destination, check_sender_access inline:{ {b.test=REJECT strict} }
lenient = permit_auth_destination
permit_mx_backup_networks = 127.0.0.60/32
maps_rbl_reject_code = 550
rbl_reply_maps = inline:{ {own.bl.test=521 5.7.1 own words for $rbl_what} }
smtpd_policy_service_retry_delay = 1s
smtpd_policy_service_timeout = 5s
"""


@dataclass(frozen=True)
class Case:
    settings: dict[str, str]
    lines: Sequence[bytes | str] = ()
    source: str = CLIENT
    sender: str = "a@b.test"
    recipients: tuple[str, ...] = ("x@far.test", "zs@dgtlinux.com")

    def dialogue(self) -> Sequence[bytes | str]:
        if self.lines:
            return self.lines
        recipients = [f"RCPT TO:<{recipient}>" for recipient in self.recipients]
        return [
            "EHLO helo.test",
            f"MAIL FROM:<{self.sender}>",
            *recipients,
            "DATA",
            "Subject: x\r\n\r\nx\r\n.",
        ]


def client(words: str, **more: object) -> Case:
    return Case({"smtpd_client_restrictions": words}, **more)  # type: ignore[arg-type]


def helo(words: str, name: str = "helo.test", **more: object) -> Case:
    lines = [f"EHLO {name}", "MAIL FROM:<a@b.test>", "RCPT TO:<zs@dgtlinux.com>"]
    return Case({"smtpd_helo_restrictions": words}, lines, **more)  # type: ignore[arg-type]


def sender(words: str, address: str = "a@b.test", **more: object) -> Case:
    return Case({"smtpd_sender_restrictions": words}, sender=address, **more)  # type: ignore[arg-type]


def rcpt(words: str, *recipients: str, **more: object) -> Case:
    some = recipients or ("x@far.test", "zs@dgtlinux.com")
    return Case({"smtpd_recipient_restrictions": words}, recipients=some, **more)  # type: ignore[arg-type]


def relay(words: str, *recipients: str, **more: object) -> Case:
    some = recipients or ("x@far.test", "zs@dgtlinux.com")
    return Case({"smtpd_relay_restrictions": words}, recipients=some, **more)  # type: ignore[arg-type]


def data(words: str, phase: str = "data", **more: object) -> Case:
    return Case({f"smtpd_{phase}_restrictions": words}, recipients=("zs@dgtlinux.com",), **more)  # type: ignore[arg-type]


def table(action: str) -> str:
    return f"check_client_access inline:{{ {{127.0.0={action}}} }}"


def early(case: Case) -> Case:
    """The same with smtpd_delay_reject = no."""
    return Case(
        {**case.settings, "smtpd_delay_reject": "no"}, case.lines, case.source, case.sender, case.recipients
    )


PIPELINED: list[bytes | str] = [
    "EHLO helo.test",
    b"MAIL FROM:<a@b.test>\r\nRCPT TO:<zs@dgtlinux.com>\r\nDATA\r\nx\r\n.\r\n",
    "", "", "",
]  # fmt: skip
CASES: list[Case] = [
    # Client names and addresses.
    *(client(words, source=source)
      for words in ("reject_unknown_client_hostname", "reject_unknown_reverse_client_hostname")
      for source in (CLIENT, FORGED, NAMELESS)),
    client("reject_unknown_reverse_client_hostname", source=SILENT),
    client("check_client_access inline:{ client.test=REJECT }"),
    client("check_client_access inline:{ test=REJECT }"),
    client("check_client_access inline:{ forged.test=REJECT }", source=FORGED),
    client("check_client_access regexp:{dir}/patterns"),
    client("check_client_access cidr:{dir}/networks"),
    client("inline:{ client.test=REJECT }"),
    client("check_reverse_client_hostname_access inline:{ forged.test=REJECT }", source=FORGED),
    client("check_reverse_client_hostname_access inline:{ forged.test=OK }", source=FORGED),
    client("check_client_mx_access inline:{ mx.client.test=REJECT }"),
    client("check_client_ns_access inline:{ 127.0.0.61=REJECT }"),
    client("check_client_a_access inline:{ 127.0.0.9=REJECT }"),
    client("check_reverse_client_hostname_a_access inline:{ 127.0.0.99=REJECT }", source=FORGED),
    client("permit_mynetworks, reject"), client("permit_inet_interfaces, reject"),
    client("permit_tls_all_clientcerts, reject"), client("reject_plaintext_session"),
    client("permit_naked_ip_address, reject"), client("sleep 1, reject"),
    early(client("reject")), early(client(table("REJECT"))), early(client(table("HOLD"))),
    # Actions.
    *(client(table(action)) for action in (
        "OK", "DUNNO", "REJECT", "REJECT no", "REJECT 5.1.1 no", "REJECT 4.7.9 no", "DEFER", "DEFER wait",
        "DEFER 4.1.7 wait", "450", "450 wait", "550 5.7.5 never", "454 5.7.5 never", "521 5.7.1 closed",
        "421 4.3.2 later", "55", "20260101", "INFO seen", "WARN beware", "HOLD", "HOLD why", "DISCARD",
        "DISCARD quietly", "PREPEND X-A: b", "PREPEND nonsense", "REDIRECT zs@dgtlinux.com", "REDIRECT nobody",
        "BCC bob@other.test", "DEFER_IF_PERMIT", "DEFER_IF_PERMIT hm", "DEFER_IF_REJECT", "DEFER_IF_REJECT 4.2.1 hm",
        "permit", "reject", "reject_unauth_destination", "permit_auth_destination, reject", "strict", "lenient",
        "nonsense", "hash:/x", "RELAY",
    )),
    *(sender(f"check_sender_access inline:{{ {{b.test={action}}} }}") for action in (
        "REJECT 5.1.1 no", "REJECT 5.1.3 no", "550 5.1.8 no", "DEFER 4.1.2 no", "REJECT 5.1.99 no", "REJECT 5.1.4 no", "550 5.1.5 no", "REJECT 5.1.6 no", "REJECT 5.1.7 no", "REJECT 5.2.1 no")),
    *(rcpt(f"check_recipient_access inline:{{ {{far.test={action}}} }}") for action in (
        "REJECT 5.1.7 no", "REJECT 5.1.8 no", "550 5.1.0 no", "550 5.1.1 no", "550 5.1.4 no", "550 5.1.5 no", "550 5.1.6 no", "550 5.1.3 no")),
    # HELO.
    helo("check_helo_access inline:{ helo.test=REJECT }"), helo("check_helo_access inline:{ test=REJECT }"),
    helo("check_helo_mx_access inline:{ mx.good.test=REJECT }", "good.test"),
    helo("check_helo_a_access inline:{ 127.0.0.63=OK }"),
    helo("check_helo_a_access inline:{ 127.0.0.63=REJECT }"),
    helo("check_helo_mx_access inline:{ 127.0.0.63=REJECT }", "[127.0.0.63]"),
    helo("check_helo_ns_access inline:{ ns.good.test=REJECT }", "sub.good.test"),
    helo("reject_rhsbl_helo bl.test"), helo("reject_unknown_helo_hostname", "nx.test"),
    helo("reject_unknown_helo_hostname"), helo("reject_unknown_helo_hostname", "good.test"),
    helo("reject_unknown_helo_hostname", "x.fail.test"), helo("reject_invalid_helo_hostname", "a..b"),
    helo("reject_invalid_helo_hostname", "[1.2.3]"), helo("reject_invalid_hostname", "-a"),
    helo("reject_non_fqdn_helo_hostname", "short"), helo("reject_non_fqdn_hostname", "[x]"),
    helo("permit_naked_ip_address, reject", "127.0.0.1"), early(helo("reject_non_fqdn_helo_hostname", "short")),
    # Senders.
    sender("check_sender_access inline:{ a@b.test=REJECT }"), sender("check_sender_access inline:{ a@=REJECT }"),
    sender("check_sender_access inline:{ a@b.test=REJECT }", "a+x@b.test"),
    sender("check_sender_access inline:{ a@=REJECT }", "a+x@b.test"),
    sender("check_sender_access inline:{ {<>=REJECT} }", ""), sender("inline:{ b.test=REJECT }"),
    sender("check_sender_access inline:{ dgtlinux.com=REJECT }", "a"),
    sender("check_sender_mx_access inline:{ 127.0.0.60=REJECT }", "a@good.test"),
    sender("check_sender_mx_access inline:{ mx.good.test=OK }", "a@good.test"),
    sender("check_sender_ns_access inline:{ ns.good.test=REJECT }", "a@sub.good.test"),
    sender("check_sender_a_access inline:{ 127.0.0.64=REJECT }"),
    sender("check_sender_mx_access inline:{ mx.good.test=strict }", "a@good.test"),
    sender("reject_unknown_sender_domain"), sender("reject_unknown_sender_domain", "a@nx.test"),
    sender("reject_unknown_sender_domain", "a@null.test"), sender("reject_unknown_sender_domain", "a@x.fail.test"),
    sender("reject_unknown_sender_domain, reject", "a@x.fail.test"), sender("reject_rhsbl_sender bl.test", "a@good.test"),
    sender("reject_non_fqdn_sender", "a@b"), early(sender("reject_unknown_sender_domain", "a@x.fail.test")),
    early(sender("check_sender_access inline:{ b.test=REJECT }")), sender("reject_unlisted_sender", "x@dgtlinux.com"),
    sender("reject_sender_login_mismatch"), sender("check_sasl_access inline:{ zs=REJECT }"),
    sender("check_ccert_access inline:{ zs=REJECT }"),
    # Recipients and relaying.
    rcpt("reject_unknown_recipient_domain", "x@nx.test", "x@null.test", "zs@dgtlinux.com"),
    rcpt("check_recipient_access inline:{ zs@dgtlinux.com=REJECT }"), rcpt("check_recipient_access inline:{ zs@=REJECT }", "zs+x@dgtlinux.com"),
    rcpt("check_recipient_mx_access inline:{ mx.good.test=REJECT }", "x@good.test", "zs@dgtlinux.com"),
    rcpt("reject_rhsbl_recipient bl.test"), rcpt("reject_unlisted_recipient, permit", "nobody@dgtlinux.com"),
    rcpt("strict"), rcpt("lenient, reject"), rcpt("inline:{ zs@dgtlinux.com=REJECT }"),
    rcpt("check_recipient_access inline:{ far.test=OK }, reject"),
    rcpt("reject_multi_recipient_bounce", "zs@dgtlinux.com", "bob@other.test", sender=""),
    relay("permit_mx_backup, reject_unauth_destination", "x@backup.test", "x@primary.test", "x@good.test", "x@nx.test"),
    relay("permit_auth_destination, reject"), relay("defer_unauth_destination"),
    relay("check_client_access inline:{ client.test=OK }, reject_unauth_destination"),
    relay("permit_dnswl_client wl.test, reject_unauth_destination"),
    rcpt("permit_dnswl_client wl.test, reject"), rcpt("permit_rhswl_client wl.test, reject"),
    rcpt("permit_dnswl_client wl.test=127.0.1.[3..9], reject"),
    # DNS lists.
    *(client(f"reject_rbl_client {name}") for name in (
        "bl.test", "bl.test=127.0.0.3", "bl.test=127.0.0.[1..3]", "bl.test=127.0.0.[4..7]",
        "bl.test=127.0.0.[1;3;5]", "bl.test=127.[0..1].0.3", "fail.test",
        "bl.test=127.0.0.[2..11;13]", "bl.test=127.0.0.[1;2;4..11]", "bl.test=[127..127].[0].[0..255].[3]")),
    sender("reject_rhsbl_sender bl.test=127.0.0.[2..11;13]", "a@good.test"), sender("reject_rhsbl_sender bl.test", ""),
    rcpt("reject_rhsbl_recipient bl.test=127.0.0.[1..5;7]"), helo("reject_rhsbl_helo bl.test=127.0.0.[4..6]", "[127.0.0.1]"),
    # Who may use which sender, and which list comes first.
    *(Case({"smtpd_sender_login_maps": "inline:{ a@b.test=joe, {@c.test=joe, ann} }", "smtpd_sender_restrictions": words}, sender=address)
      for words in ("reject_sender_login_mismatch", "reject_unauthenticated_sender_login_mismatch",
                    "reject_authenticated_sender_login_mismatch", "reject_known_sender_login_mismatch")
      for address in ("a@b.test", "A+ext@B.test", "x@c.test", "")),
    *(Case({"smtpd_relay_before_recipient_restrictions": how, "smtpd_delay_reject": delayed,
            "smtpd_relay_restrictions": "check_recipient_access inline:{ {far.test=554 relay} }, permit_mynetworks, reject_unauth_destination",
            "smtpd_recipient_restrictions": "check_recipient_access inline:{ {far.test=450 rcpt}, {dgtlinux.com=DEFER_IF_REJECT} }"})
      for how in ("yes", "no") for delayed in ("yes", "no")),
    client("reject_rbl_client bl.test", source=NAMELESS), client("reject_rhsbl_client bl.test"),
    client("reject_rhsbl_reverse_client bl.test", source=FORGED), client("reject_rhsbl_client bl.test", source=FORGED),
    client("warn_if_reject reject_rbl_client bl.test, permit"),
    Case({"smtpd_client_restrictions": "reject_rbl_client bl.test", "default_rbl_reply": "$rbl_code 5.7.9 $rbl_class $rbl_what by $rbl_domain: ${rbl_reason?{$rbl_reason}:{none}} $client_address"}),
    Case({"smtpd_client_restrictions": "reject_rbl_client bl.test", "default_rbl_reply": "no code"}),
    # Deferrals.
    rcpt("defer_if_permit"), rcpt("defer_if_permit, reject"), rcpt("defer_if_reject"), rcpt("defer_if_reject, reject"),
    rcpt("defer_if_permit, defer_if_reject, permit"), client("defer_if_permit, permit"), client("defer_if_reject, reject"),
    client("warn_if_reject defer_if_permit, permit"), client("defer"), rcpt("warn_if_reject reject, permit"),
    early(client("defer_if_permit")), early(helo("defer_if_permit")),
    # DATA, end of data, ETRN.
    data("reject"), data("reject_unauth_pipelining"), Case({"smtpd_data_restrictions": "reject_unauth_pipelining"}, PIPELINED),
    data("check_client_access inline:{ client.test=REJECT }"), data("check_sender_access inline:{ {b.test=450 wait} }"),
    data("reject_multi_recipient_bounce", sender=""), data("defer_if_permit"), data("reject", "end_of_data"),
    data("check_recipient_access inline:{ zs@=HOLD }", "end_of_data"), data("defer_if_permit", "end_of_data"),
    data("check_client_access inline:{ {client.test=PREPEND X-A: b} }", "end_of_data"),
    Case({"smtpd_data_restrictions": "reject_multi_recipient_bounce"}, sender="", recipients=("zs@dgtlinux.com", "bob@other.test")),
    Case({"smtpd_etrn_restrictions": "reject"}, ["ETRN relay.test"]),
    Case({"smtpd_etrn_restrictions": "check_etrn_access inline:{ relay.test=REJECT }, permit"}, ["ETRN relay.test", "ETRN deep.relay.test", "ETRN far.test"]),
    Case({"smtpd_etrn_restrictions": "inline:{ relay.test=REJECT }"}, ["ETRN relay.test"]),
    Case({"smtpd_client_restrictions": "reject"}, ["ETRN relay.test", "VRFY zs@dgtlinux.com"]),
    # Policy services.
    rcpt("check_policy_service inet:127.0.0.1:{policy}, permit", *(f"{name}@dgtlinux.com" for name in PolicyServer.actions), "zs@dgtlinux.com"),
    data("check_policy_service inet:127.0.0.1:{policy}"), data("check_policy_service inet:127.0.0.1:{policy}", "end_of_data"),
    client("check_policy_service { inet:127.0.0.1:{policy}, timeout=3s, policy_context=here }"),
    Case({"smtpd_etrn_restrictions": "check_policy_service inet:127.0.0.1:{policy}"}, ["HELO h.test", "ETRN far.test"]),
    Case({"smtpd_client_restrictions": "check_policy_service inet:127.0.0.1:1"}), Case({"smtpd_client_restrictions": "check_policy_service { inet:127.0.0.1:1, default_action=DUNNO, try_limit=1 }"}),
    # What a client may do.
    Case({"smtpd_client_connection_count_limit": "0"}), Case({"smtpd_client_message_rate_limit": "1"}, [*["EHLO x", "MAIL FROM:<a@b.test>", "RSET"] * 2, "QUIT"]),
    Case({"smtpd_client_recipient_rate_limit": "2"}, ["EHLO x", "MAIL FROM:<a@b.test>", *["RCPT TO:<zs@dgtlinux.com>"] * 3]),
    Case({"smtpd_client_connection_rate_limit": "1"}, ["NOOP"]), Case({"smtpd_hard_error_limit": "2"}, ["XX", "XX", "XX"]),
    Case({"smtpd_junk_command_limit": "1", "smtpd_hard_error_limit": "2"}, ["NOOP"] * 6),
    # Trusted hosts.
    *(Case({"smtpd_authorized_xclient_hosts": hosts, "smtpd_client_restrictions": "check_client_access inline:{ {198.51.100=REJECT} other.test=REJECT }"}, lines)
      for hosts, lines in (
        ("127.0.0.9", ["EHLO x", "XCLIENT ADDR=198.51.100.7 NAME=a.other.test", "EHLO y", "MAIL FROM:<a@b.test>", "RCPT TO:<zs@dgtlinux.com>"]),
        ("client.test", ["XCLIENT NAME=ok.test ADDR=192.0.2.1 HELO=z PROTO=SMTP PORT=5 REVERSE_NAME=[UNAVAILABLE]", "MAIL FROM:<a@b.test>", "RCPT TO:<zs@dgtlinux.com>", "XCLIENT NAME=x"]),
        ("127.0.0.0/8", ["XCLIENT", "XCLIENT NAME", "XCLIENT FOO=x", "XCLIENT NAME=a+2Eb", "XCLIENT ADDR=300.1.1.1", "XCLIENT NAME=-", "XCLIENT PORT=x", "XCLIENT PROTO=X", "XCLIENT NAME=+", "XCLIENT LOGIN=zs DESTADDR=127.0.0.1 DESTPORT=25", "EHLO x"]),
        ("192.0.2.1", ["EHLO x", "XCLIENT NAME=a.test", "XCLIENT", "XFORWARD NAME=a.test", "XFORWARD"]),
        ("!127.0.0.9, 127.0.0.0/8", ["EHLO x", "XCLIENT NAME=a.test"]))),
    Case({"smtpd_authorized_xforward_hosts": "127.0.0.9"}, ["EHLO x", "XFORWARD NAME=a.test ADDR=192.0.2.1 SOURCE=REMOTE IDENT=1 PROTO=ESMTP HELO=x PORT=5", "XFORWARD", "XFORWARD NAME", "XFORWARD FOO=1", "XFORWARD ADDR=x", "XFORWARD PORT=x", "XFORWARD SOURCE=X", "MAIL FROM:<a@b.test>", "XFORWARD NAME=x", "RCPT TO:<zs@dgtlinux.com>"]),
]  # fmt: skip
BARE: list[bytes | str] = [
    "EHLO x", "MAIL FROM:<a@b.test>", "RCPT TO:<zs@dgtlinux.com>", "DATA",
    b"Subject: x\n\na\n.\nMAIL FROM:<evil@b.test>\n.\r\n\r\n.\r\n", "NOOP",
    "MAIL FROM:<a@b.test>", "RCPT TO:<zs@dgtlinux.com>", b"BDAT 4 LAST\r\na\nb\n" + b"NOOP\r\n", "", "NOOP\n",
]  # fmt: skip
EAGER: list[bytes | str] = ["EHLO x", b"VRFY zs\r\nNOOP\r\nNOOP\r\n", "", ""]
CASES += [
    *(Case({"smtpd_forbid_bare_newline": how, "smtpd_forbid_bare_newline_exclusions": ""}, BARE)
      for how in ("yes", "normalize", "reject")),
    Case({"smtpd_forbid_bare_newline": "reject", "smtpd_forbid_bare_newline_exclusions": "",
          "smtpd_forbid_bare_newline_reject_code": "521"}, BARE[:6]),
    Case({"smtpd_forbid_unauth_pipelining": "yes"}, EAGER),
    Case({"smtpd_forbid_unauth_pipelining": "yes"}, PIPELINED),
    Case({"smtpd_forbid_unauth_pipelining": "no"}, EAGER),
    Case({"stress": "yes"}, ["EHLO x", "XX", "NOOP"]),
    *(Case({"smtpd_reject_unlisted_sender": "yes", "smtpd_delay_reject": delayed}, sender=one)
      for delayed in ("yes", "no")
      for one in ("x@dgtlinux.com", "x@other.test", "x@alias.test", "old@dgtlinux.com", "zs@dgtlinux.com", "")),
    sender("reject_unlisted_sender", "x@alias.test"), sender("reject_unlisted_sender", "old@dgtlinux.com"),
    Case({"smtpd_helo_required": "yes"}, ["MAIL FROM:<a@b.test>", "RCPT TO:<zs@dgtlinux.com>", "DATA", b"BDAT 7 LAST\r\nhello\r\n", "ETRN relay.test", "HELO x", "MAIL FROM:<>"]),
    Case({"disable_vrfy_command": "yes", "smtpd_discard_ehlo_keywords": "dsn, chunking, etrn"}, ["EHLO x", "VRFY zs", "ETRN far.test"]),
    Case({"soft_bounce": "yes", "smtpd_client_restrictions": "reject"}),
    Case({"smtpd_recipient_limit": "2", "smtpd_recipient_overshoot_limit": "1"}, ["EHLO x", "MAIL FROM:<>", *["RCPT TO:<zs@dgtlinux.com>"] * 5]),
    Case({"smtpd_soft_error_limit": "1", "smtpd_hard_error_limit": "4"}, ["XX"] * 5),
    # Commands and keywords that are not what they seem.
    Case({"smtpd_noop_commands": "foo, ETRN"}, ["EHLO x", "FOO bar", "foo", "etrn far.test", "BAR", "NOOP"]),
    Case({"smtpd_noop_commands": "foo", "smtpd_junk_command_limit": "1", "smtpd_hard_error_limit": "2"},
         ["FOO"] * 6),
    *(Case({"smtpd_forbidden_commands": words}, [line, "NOOP"])
      for words in ("", "foo", "regexp:{ {/^B/ x} }", "!foo, static:all")
      for line in ("FOO x", "GET /", "X-Header: x", "bar", "{x", "noop")),
    Case({"smtpd_command_filter": "pcre:{dir}/commands"},
         ["EHLO x", "MAIL FROM:<a@b.test> NONSENSE=1", "HELP", "BAD RSET", "  HELP", "BADX", "QUIT"]),
    *(Case({"smtpd_discard_ehlo_keyword_address_maps": f"inline:{{ {{{address}=size, CHUNKING etrn}} }}",
            "smtpd_discard_ehlo_keywords": "vrfy"},
           ["EHLO x", "MAIL FROM:<a@b.test> SIZE=1", "RCPT TO:<zs@dgtlinux.com>", b"BDAT 3 LAST\r\nx\r\n"])
      for address in (CLIENT, "192.0.2.9")),
    *(Case({"allow_untrusted_routing": how, "smtpd_recipient_restrictions": words},
           recipients=("x%far.test@relay.test", "far.test!x@dgtlinux.com", "zs%dgtlinux.com@localhost", "x@far.test"))
      for how in ("no", "yes")
      for words in ("", "permit_auth_destination, reject", "check_recipient_access static:OK, reject",
                    "permit_mx_backup, reject")),
    Case({"smtpd_helo_required": "no"},
         recipients=("zs@", "x@", "zs@127.0.0.1", "x@192.0.2.1", "zs@127.0.0.1.", "zs@1.2.3", "x@[127.0.0.1]")),
    client("reject_maps_rbl"),
    *(Case({"smtpd_client_restrictions": "reject_maps_rbl", "maps_rbl_domains": names})
      for names in ("good.test, bl.test", "good.test")),
    # Footers, and what replies repeat.
    *(Case({"smtpd_reject_footer": footer, **more}, lines)
      for footer in ("call 555", "\\c; call 555", "one\\ntwo\\nthree", "\\c; one\\ntwo", "$client_address at $server_name",
                     "$client [$helo_name] <$sender> <$recipient> $recipient_domain", "${sender?{mail}:{none}}",
                     "$nosuch", "$myorigin", "100$$", "odd $", "", "a\\n", "\\c", "t\\tx")
      for more in ({}, {"soft_bounce": "yes"})
      for lines in (["NOOP", "FROB", "MAIL", "EHLO x$y`z", "MAIL FROM:<>", "RCPT TO:<nobody@dgtlinux.com>", "DATA",
                     "RCPT TO:<zs@dgtlinux.com>", "RCPT TO:<bob@other.test>", "RCPT TO:<a\"b@far.test>", "AUTH PLAIN", "BDAT x", "QUIT"],)),
    Case({"smtpd_reject_footer": "other", "smtpd_reject_footer_maps":
"pcre:{dir}/footers"},
         ["FROB", "RCPT TO:<x@y>", "EHLO", "DATA", "VRFY a", "QUIT"]),
    *(Case({"smtpd_hard_error_limit": "1", "smtpd_reject_footer": "bye $client_address"}, ["FROB", "FROB", "FROB"]),
      Case({"smtpd_client_restrictions": "reject", "smtpd_delay_reject": "no", "smtpd_reject_footer": "no"}, ["HELO x"]),
      *(Case({"smtpd_expansion_filter": allowed, "smtpd_reject_footer": "<$sender> $helo_name"},
             ["EHLO helo.test", "MAIL FROM:<a+b=c@d-e.test>", "RCPT TO:<x@far.test>"])
        for allowed in ("abc", "a-z", "\\141\\142@", "^]-\\\\", "."))),
]  # fmt: skip
CASES.append(Case({"smtpd_per_request_deadline": "yes", "smtpd_timeout": "2s"}))
DRIPPED = len(CASES) - 1


def permitted(words: str, by: str = "static:all", where: str = "recipient", **more: object) -> Case:
    """A case of which the log lines about permissions are compared, too."""
    settings = {
        f"smtpd_{where}_restrictions": words,
        "smtpd_log_access_permit_actions": by,
        "smtpd_client_port_logging": "yes",
        **more.pop("settings", {}),  # type: ignore[dict-item]
    }
    return Case(settings, **more)  # type: ignore[arg-type]


CASES += [
    rcpt("check_sender_access inline:{ {b.test=reject} }"), sender("check_helo_access inline:{ {helo.test=defer_if_permit} }"),
    rcpt("check_reverse_client_hostname_access inline:{ {client.test=reject_unauth_pipelining, defer} }"),
    data("check_recipient_access inline:{ {zs@=reject} }"), rcpt("check_client_access inline:{ {client.test=strict, reject} }"),
]  # fmt: skip
PERMITTED: list[Case] = [
    *(permitted(words) for words in (
        "permit", "permit_mynetworks, reject", "permit_inet_interfaces, reject", "permit_naked_ip_address, permit",
        "permit_auth_destination, reject", "reject_unauth_destination", "permit_sasl_authenticated, permit",
        "permit_mx_backup, permit", "lenient, reject", "warn_if_reject reject, permit", "defer_if_permit, permit",
        "defer_if_reject, permit", "permit_dnswl_client wl.test, reject", "permit_rhswl_client wl.test, reject",
        "permit_dnswl_client wl.test=127.0.1.[1..3], reject", "sleep 0, Permit", "warn_if_reject permit",
    )),
    *(permitted(f"check_{what}_access inline:{{ {{{key}={action}}} }}, permit")
      for what, key in (("client", "client.test"), ("helo", "helo.test"), ("sender", "b.test"),
                        ("recipient", "dgtlinux.com"), ("sender_mx", "127.0.0.64"), ("reverse_client_hostname", "test"))
      for action in ("OK", "ok fine", "RELAY", "1234", "DUNNO", "permit", "permit_auth_destination", "DISCARD quietly", "lenient")),
    *(permitted("inline:{ {client.test=OK} }, reject", where="client", settings={"smtpd_delay_reject": delayed})
      for delayed in ("yes", "no")),
    *(permitted("permit, reject" if where != "relay" else "permit_auth_destination, reject", by, where=where)
      for by in ("permit", "PERMIT_auth_destination", "!permit, static:all", "permit_mynetworks", "inline:{ permit=x }")
      for where in ("client", "helo", "sender", "relay", "data", "end_of_data")),
    permitted("check_policy_service inet:127.0.0.1:{policy}, permit",
              recipients=("ok@dgtlinux.com", "class@dgtlinux.com", "zs@dgtlinux.com")),
    permitted("check_recipient_access static:OK, reject", recipients=("x%far.test@relay.test", "x@relay.test")),
    permitted("permit", where="etrn", lines=["ETRN far.test", "VRFY zs@dgtlinux.com", "EHLO x", "ETRN far.test"]),
    permitted("permit", lines=["EHLO helo.test", "VRFY zs@dgtlinux.com"]),
    permitted("permit_naked_ip_address, permit", lines=["HELO 127.0.0.1", "MAIL FROM:<>", "RCPT TO:<zs@dgtlinux.com>"]),
    permitted("permit_inet_interfaces, reject", source="127.0.0.1", settings={"smtpd_peername_lookup": "no"}),
    permitted("permit_mynetworks, reject", lines=["XCLIENT ADDR=192.0.2.5", "HELO x", "MAIL FROM:<>", "RCPT TO:<zs@dgtlinux.com>"],
              settings={"smtpd_authorized_xclient_hosts": "127.0.0.9"}),
]  # fmt: skip
FIRST_PERMITTED = len(CASES)
CASES += PERMITTED
PROXY = {
    "smtpd_upstream_proxy_protocol": "haproxy",
    "smtpd_client_restrictions": "check_client_access inline:{ {198.51.100=REJECT v4} {2001:db8=REJECT v6} }",
}


@dataclass(frozen=True)
class Pair:
    theirs: list[int]
    ours: list[int]
    policy: PolicyServer
    logs: tuple[Path, Path]
    """Theirs, ours."""


def converse(
    port: int,
    lines: Sequence[bytes | str],
    source: str,
    ahead: bytes = b"",
    local: list[int] | None = None,
) -> list[bytes]:
    """Greeting and replies; stops where the server hangs up. `local` gets the client's port."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(source, 0)) as sock,
        sock.makefile("rb") as stream,
    ):
        if local is not None:
            local.append(sock.getsockname()[1])
        if ahead:
            sock.sendall(ahead)
        replies = [_reply(stream.readline)]
        for line in lines:
            raw = line.encode() if isinstance(line, str) else line
            try:
                if raw:
                    sock.sendall(raw if raw.endswith(b"\n") else raw + b"\r\n")
                reply = _reply(stream.readline)
            except OSError:
                reply = b""
            if not reply:
                break
            replies.append(re.sub(rb"queued as \w+", b"queued as ID", reply))
        return replies


def services(ports: list[str], chroot: str, directory: Path, policy: int) -> str:
    lines = []
    for port, case in zip(ports, [*CASES, Case(PROXY)], strict=True):
        lines.append(f"{port} inet n - {chroot} - - smtpd\n")
        for name, value in case.settings.items():
            text = value.replace("{dir}", str(directory)).replace("{policy}", str(policy))
            lines.append(f"  -o {{ {name} = {text} }}\n")
    return "".join(lines)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    need_postfix()
    with ExitStack() as stack:
        stack.enter_context(name_server(NAME_SERVER))
        policy = PolicyServer()
        policy.start()
        stack.callback(policy.stop)
        folders = [tmp_path_factory.mktemp(name) for name in ("postfix", "ours")]
        theirs = _start_postfix(folders[0], policy.port, stack)
        own = _start_ours(folders[1], policy.port, stack)
        yield Pair(theirs, own, policy, (folders[0] / "mail.log", folders[1] / "log"))


def _write(directory: Path, extra: str) -> None:
    write_config(
        directory,
        BOTH.replace("smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination\n", "")
        + EXTRA
        + extra,
    )
    text = (directory / "main.cf").read_text()
    # The last line of two counts, but Postfix warns of it.
    for name in ("smtpd_recipient_restrictions = permit", "smtpd_relay_restrictions = permit"):
        text = re.sub(rf"^{name}.*\n", "", text, flags=re.MULTILINE)
    (directory / "main.cf").write_text(text)
    (directory / "patterns").write_text("/^client\\.test$/ REJECT by pattern\n")
    (directory / "commands").write_text("/^(MAIL FROM:\\S+) .*$/ $1\n/^HELP/ NOOP\n/^BAD(.*)/ $1\n")
    (directory / "footers").write_text(
        "/^500 5.5.2 Error: command not recognized$/ \\c, and why?\n/^503 (.*)/ $1 $$client\n/^501/ a\\nb\n"
    )
    (directory / "networks").write_text("127.0.0.8/29 REJECT by network\n")


def _start_postfix(directory: Path, policy: int, stack: ExitStack) -> list[int]:
    let_daemons_in(directory)
    _write(directory, POSTFIX.format(dir=directory))
    shutil.rmtree(directory / "queue")
    (directory / "queue/etc").mkdir(parents=True)
    # The smtpd processes are chrooted, so that this is their resolv.conf.
    (directory / "queue/etc/resolv.conf").write_text(f"nameserver {NAME_SERVER}\n")
    (directory / "data").mkdir()
    shutil.chown(directory / "data", "postfix")
    ports = free_ports(len(CASES) + 1)
    master = services([f"127.0.0.1:{port}" for port in ports], "y", directory, policy) + SERVICES
    (directory / "master.cf").write_text(master)
    make_aliases(directory)
    start_postfix(directory)
    stack.callback(stop_postfix, directory)
    wait_for(ports[-1])
    return ports


def _start_ours(directory: Path, policy: int, stack: ExitStack) -> list[int]:
    _write(directory, "")
    (directory / "mailstack.toml").write_text(f'[resolver]\nnameservers = ["{NAME_SERVER}:53"]\n')
    socks = [bind_tcp("127.0.0.1", 0) for _ in range(len(CASES) + 1)]
    ports = [sock.getsockname()[1] for sock in socks]
    fds = [sock.fileno() for sock in socks]
    lines = services([str(number + 1) for number in range(len(socks))], "n", directory, policy)
    command = [sys.executable, "-c", SCRIPT, str(directory), lines, *map(str, fds)]
    log = stack.enter_context((directory / "log").open("w"))
    process = subprocess.Popen(command, pass_fds=fds, stdout=subprocess.DEVNULL, stderr=log)
    for sock in socks:
        sock.close()

    def stop() -> None:
        process.terminate()
        process.wait(30)
        assert "Traceback" not in (directory / "log").read_text()

    stack.callback(stop)
    return ports


@pytest.mark.parametrize(
    "number",
    range(len(CASES)),
    ids=lambda number: f"{number}-{next(iter(CASES[number].settings.values()))[:50]}",
)
def test_cases(pair: Pair, number: int) -> None:
    case = CASES[number]
    before = len(pair.policy.requests)
    wanted = converse(pair.theirs[number], case.dialogue(), case.source)
    between = len(pair.policy.requests)
    got = converse(pair.ours[number], case.dialogue(), case.source)
    said = ["(greeting)", *case.dialogue()]
    for line, theirs, own in zip(said, wanted, got, strict=False):
        assert own == theirs, f"{case.settings}: after {line!r}"
    assert len(got) == len(wanted), f"{case.settings}: {got!r} for {wanted!r}"
    asked = [_comparable(request) for request in pair.policy.requests[before:]]
    assert asked[between - before :] == asked[: between - before]
    assert bool(asked) == ("{policy}" in str(case.settings))


@pytest.mark.parametrize(
    "number",
    range(FIRST_PERMITTED, len(CASES)),
    ids=lambda number: f"{number}-{next(iter(CASES[number].settings.values()))[:50]}",
)
def test_permissions_are_logged_alike(pair: Pair, number: int) -> None:
    case = CASES[number]
    logged = []
    for ports, log in zip((pair.theirs, pair.ours), pair.logs, strict=True):
        local: list[int] = []
        begun = log.stat().st_size
        converse(ports[number], case.dialogue(), case.source, local=local)
        logged.append(_permissions(log, begun, local[0]))
    assert logged[1] == logged[0]


def _permissions(log: Path, begun: int, port: int) -> list[str]:
    """What is logged of the permissions of the client at `port`, when its session is over."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with log.open("rb") as stream:
            stream.seek(begun)
            lines = stream.read().decode().splitlines()
        lines = [line.partition("]: ")[2] for line in lines]
        if any(re.match(rf"disconnect from \S*:(?:{port}|unknown|0) ", line) for line in lines):
            said = [line for line in lines if "permit: " in line]
            return [re.sub(r"\]:\d+", "]:PORT", re.sub(r"^(?!NOQUEUE)\w+", "ID", line)) for line in said]
        time.sleep(0.02)
    raise AssertionError(f"no end of the session of port {port} in {log}")


def _comparable(request: dict[str, str]) -> list[tuple[str, str]]:
    """A policy request without what is another's in each server; the order counts."""
    own = ("instance", "queue_id", "client_port", "server_port")
    return [(name, "" if name in own else value) for name, value in request.items()]


V2 = b"\r\n\r\n\0\r\nQUIT\n"
ADDRESSES = bytes([198, 51, 100, 7, 192, 0, 2, 25, 0x12, 0x67, 0, 25])


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 198.51.100.7 192.0.2.25 4711 25\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.25 4711 25\r\n",
        V2 + b"\x21\x11\0\x0c" + ADDRESSES,
        V2 + b"\x21\x11\0\x10" + ADDRESSES + b"\x04\0\x01x",
        V2 + b"\x20\0\0\0",
        b"EHLO x\r\n",
        b"PROXY TCP4 x y 1 2\r\n",
        b"PROXY TCP4 198.51.100.7 192.0.2.25 4711 99999\r\n",
        V2 + b"\x31\x11\0\0",
        V2 + b"\x21\x12\0\x0c" + ADDRESSES,
        b"GET / HTTP/1.0\r\n\r\n",
    ],
)
def test_proxy_headers(pair: Pair, header: bytes) -> None:
    lines: list[bytes | str] = ["EHLO x", "MAIL FROM:<a@b.test>", "RCPT TO:<zs@dgtlinux.com>"]
    wanted, got = (converse(ports[-1], lines, CLIENT, header) for ports in (pair.theirs, pair.ours))
    assert got == wanted


def test_a_proxy_that_speaks_for_itself_is_understood(pair: Pair) -> None:
    # Postfix 3.7 refuses this; HAProxy sends it for connections that are no TCP connections.
    theirs, own = (
        converse(ports[-1], ["NOOP"], CLIENT, b"PROXY UNKNOWN\r\n") for ports in (pair.theirs, pair.ours)
    )
    assert theirs == [b"421 4.3.0 mail.dgtlinux.com Server local error\r\n"]
    assert own[1:] == [b"250 2.0.0 Ok\r\n"]


def test_a_command_that_never_ends_has_a_deadline(pair: Pair) -> None:
    """Slowloris: an octet now and then does not keep a session for ever."""
    for ports in (pair.theirs, pair.ours):
        with (
            socket.create_connection(("127.0.0.1", ports[DRIPPED]), timeout=20) as sock,
            sock.makefile("rb") as stream,
        ):
            assert _reply(stream.readline).startswith(b"220 ")
            begun = time.monotonic()
            sock.settimeout(0.2)
            answer = b""
            while not answer and time.monotonic() - begun < 10:
                sock.sendall(b"X")
                try:
                    answer = sock.recv(1000)
                except TimeoutError:
                    pass
            assert answer == b"421 4.4.2 mail.dgtlinux.com Error: timeout exceeded\r\n"
            assert 1.5 < time.monotonic() - begun < 4
