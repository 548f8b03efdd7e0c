"""Our smtp(8) and lmtp(8) and the real Postfix's, each against the same scripted servers.

Every scenario has a server of its own and a transport in master.cf with its parameters. Compared: what the
server was told (commands, credentials, content) and what the log says of each recipient.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mailstack.net.listen import bind_tcp
from tests.interop.delivery import SERVICES, reply
from tests.interop.real_postfix import start_postfix, stop_postfix, wait_for
from tests.ports import free_port
from tests.unit.mta_deliver.certificates import certificate

pytestmark = pytest.mark.real

MAIN_CF = """\
compatibility_level = 3.6
maillog_file_prefixes = /tmp
inet_protocols = ipv4
inet_interfaces = 127.0.0.1
myhostname = mail.x.test
mydomain = x.test
mydestination =
mynetworks = 127.0.0.0/8
local_recipient_maps =
alias_maps =
queue_directory = {dir}/queue
transport_maps = texthash:{dir}/transport
smtp_dns_support_level = disabled
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
smtpd_error_sleep_time = 0
smtp_helo_timeout = 5s
smtp_mail_timeout = 5s
smtp_data_init_timeout = 5s
smtp_data_done_timeout = 5s
notify_classes =
smtp_tls_loglevel = 1
lmtp_tls_loglevel = 1
lmtp_connection_cache_on_demand = no
"""
CHECKS = """\
/^Subject: x/ REPLACE Subject: y
/^Subject:/ WARN a subject
/^To:/ PREPEND X-Before: to
/^X-Gone:/ IGNORE
/^X-Stripped:/ STRIP of no use
/^Content-Type: text/ PREPEND X-Mime: yes
/^X-Told:/ INFO
/^X-Rejected:/ REJECT no
/^secret/ REPLACE public
/^gone/ IGNORE
/^before/ PREPEND and
"""
REPLIES = """\
/^550 5(.1.1|.7.1) / 450 4$1 not yet
/^250-SIZE/ 250-X-NOTHING
"""
STATUSES = """\
/^4(\\.1\\.1 .*)/ 5$1
/^2\\.0\\.0 (.*Fine.*)/ 2.6.0 very $1
/^2\\.0\\.0 (.*Turned.*)/ 5.0.0 $1
"""
MIME = (
    b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"
    b"Content-Type: text/plain\r\nX-Gone: in a part\r\n\r\nsecret\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n"
    b"Subject: x\r\nX-Gone: inside\r\n\r\nbefore\r\n--b--\r\n"
)
MORE = b"X-Gone: 1\r\nX-Stripped: 1\r\nX-Told: 1\r\nX-Rejected: 1\r\n"
CONTENT = (
    b"Date: Sun, 22 Nov 2026 10:00:00 +0000\r\nFrom: <zs@x.test>\r\nTo: <a@to.test>\r\n"
    b"Message-ID: <1@x.test>\r\nSubject: x\r\n"
)
BODY = b"\r\n.dot\r\nbody\r\n"
EIGHT = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"
FULL = ("PIPELINING", "SIZE 1000000", "ENHANCEDSTATUSCODES", "8BITMIME", "SMTPUTF8")
CRAM = "PDEyMzRAcGVlci50ZXN0Pg=="


@dataclass
class Scenario:
    """A server's part, the client's parameters, and a message."""

    extensions: tuple[str, ...] = FULL
    replies: dict[str, str] = field(default_factory=dict)
    hang_up_after: str = ""
    silent_after: str = ""
    options: dict[str, str] = field(default_factory=dict)
    recipients: tuple[str, ...] = ("a",)
    parameters: str = ""
    """Of MAIL FROM, where the message is handed in."""
    content: bytes = CONTENT + BODY
    tls: str = ""
    """`good`: TLS for peer.test; `broken`: no handshake succeeds; `wrapped`: from the first octet."""
    fragile: bool = False
    """It hangs up, or is silent, in TLS only."""
    waits: bool = False
    """The message has waited for minimal_backoff_time (1 s) before its first attempt."""
    agent: str = "smtp"
    nexthop: str = "[127.0.0.1]:PORT"


AUTH = ("PIPELINING", "AUTH PLAIN LOGIN CRAM-MD5")
SASL = {
    "smtp_sasl_auth_enable": "yes",
    "smtp_sasl_password_maps": "static:joe:secret",
    "smtp_sasl_security_options": "noanonymous",
}
TLS = ("PIPELINING", "STARTTLS")
FALLBACK = {"smtp_tls_security_level": "may", "minimal_backoff_time": "1s"}
SCENARIOS = {
    "plain": Scenario(),
    "no pipelining": Scenario(extensions=("SIZE",), recipients=("a", "b")),
    "two recipients": Scenario(recipients=("a", "b")),
    "one of two refused": Scenario(recipients=("a", "b"), replies={"RCPT TO:<b@": "550 5.1.1 unknown"}),
    "one of two later": Scenario(recipients=("a", "b"), replies={"RCPT TO:<b@": "450 4.2.0 later"}),
    "both refused": Scenario(recipients=("a", "b"), replies={"RCPT": "550 5.1.1 unknown"}),
    "both refused one by one": Scenario(
        extensions=(), recipients=("a", "b"), replies={"RCPT": "550 5.1.1 unknown"}
    ),
    "no code": Scenario(replies={"RCPT": "550 unknown"}),
    "refused on two lines": Scenario(replies={"RCPT": "550-5.1.1 no\r\n550 5.1.1 such user"}),
    "sender refused": Scenario(replies={"MAIL": "550 5.7.1 not you"}),
    "sender later": Scenario(replies={"MAIL": "451 4.7.1 not yet"}),
    "sender refused one by one": Scenario(extensions=(), replies={"MAIL": "550 5.7.1 not you"}),
    "data refused": Scenario(replies={"DATA": "554 5.5.1 no data"}),
    "data later": Scenario(replies={"DATA": "451 4.3.0 later"}),
    "content refused": Scenario(replies={"END": "554 5.6.0 not this"}),
    "content later": Scenario(replies={"END": "452 4.2.2 full"}),
    "greeting 554": Scenario(replies={"GREETING": "554 5.3.2 go away"}),
    "greeting 554 meant": Scenario(
        replies={"GREETING": "554 5.3.2 go away"}, options={"smtp_skip_5xx_greeting": "no"}
    ),
    "greeting 421": Scenario(replies={"GREETING": "421 4.3.2 busy"}),
    "old server": Scenario(replies={"EHLO": "502 5.5.1 unknown"}),
    "no hello": Scenario(replies={"EHLO": "550 5.7.1 no", "HELO": "550 5.7.1 no"}),
    "hello later": Scenario(replies={"EHLO": "450 4.7.1 no", "HELO": "450 4.7.1 no"}),
    "never ehlo": Scenario(options={"smtp_never_send_ehlo": "yes"}),
    "no esmtp": Scenario(options={"smtp_always_send_ehlo": "no"}, replies={"GREETING": "220 peer.test"}),
    "esmtp": Scenario(options={"smtp_always_send_ehlo": "no"}),
    "helo name": Scenario(options={"smtp_helo_name": "other.test"}),
    "discard": Scenario(options={"smtp_discard_ehlo_keywords": "pipelining,size"}),
    "discard by address": Scenario(
        options={"smtp_discard_ehlo_keyword_address_maps": "inline:{127.0.0.1=size}"}
    ),
    "too big": Scenario(extensions=("SIZE 100",)),
    **{
        f"tls lost after {verb.lower()}": Scenario(
            extensions=("STARTTLS",),
            tls="good",
            fragile=True,
            hang_up_after=verb,
            waits=True,
            recipients=("a", "b"),
            options=FALLBACK,
        )
        for verb in ("EHLO", "MAIL", "RCPT", "DATA", "END")
    },
    "tls silent after mail": Scenario(
        extensions=("STARTTLS",),
        tls="good",
        fragile=True,
        silent_after="MAIL",
        waits=True,
        options=FALLBACK,
    ),
    "tls 421 after mail": Scenario(
        extensions=("STARTTLS",), tls="good", replies={"MAIL": "421 4.3.2 bye"}, waits=True, options=FALLBACK
    ),
    "tls lost, and no plain text yet": Scenario(
        extensions=("STARTTLS",), tls="good", fragile=True, hang_up_after="MAIL", options=FALLBACK
    ),
    "tls lost, and no plain text ever": Scenario(
        extensions=("STARTTLS",),
        tls="good",
        fragile=True,
        hang_up_after="MAIL",
        waits=True,
        options=FALLBACK | {"smtp_tls_security_level": "encrypt"},
    ),
    "tls broken, then plain": Scenario(extensions=("STARTTLS",), tls="broken", waits=True, options=FALLBACK),
    "lost at greeting": Scenario(hang_up_after="GREETING"),
    "lost at ehlo": Scenario(hang_up_after="EHLO"),
    "lost at mail": Scenario(extensions=(), hang_up_after="MAIL"),
    "lost at rcpt": Scenario(extensions=(), hang_up_after="RCPT"),
    "lost at data": Scenario(extensions=(), hang_up_after="DATA"),
    "lost at end": Scenario(hang_up_after="END"),
    "silent at mail": Scenario(extensions=(), silent_after="MAIL"),
    "silent at ehlo": Scenario(silent_after="EHLO"),
    "nobody there": Scenario(hang_up_after="CONNECT"),
    "fallback": Scenario(
        replies={"GREETING": "421 4.3.2 busy"}, options={"smtp_fallback_relay": "[127.0.0.1]:FALLBACK"}
    ),
    "8 bits": Scenario(parameters=" BODY=8BITMIME", content=CONTENT + EIGHT + "\r\ngrün\r\n".encode()),
    "8 bits to 7": Scenario(
        extensions=("PIPELINING",),
        parameters=" BODY=8BITMIME",
        content=CONTENT + EIGHT + "\r\ngrün\r\n".encode(),
    ),
    "8 bits left": Scenario(
        extensions=("PIPELINING",),
        parameters=" BODY=8BITMIME",
        options={"disable_mime_output_conversion": "yes"},
        content=CONTENT + EIGHT + "\r\ngrün\r\n".encode(),
    ),
    "long lines": Scenario(
        content=CONTENT + b"\r\n" + b"x" * 998 + b"\r\n" + b"y" * 2500 + b"\r\n.\x20z\r\n"
    ),
    "line limit": Scenario(
        content=CONTENT + b"\r\n" + b"abc" * 20 + b"\r\n", options={"smtp_line_length_limit": "80"}
    ),
    "generic": Scenario(
        options={"smtp_generic_maps": "inline:{zs@x.test=out@y.test, a@generic.test=b@y.test}"}
    ),
    "utf8": Scenario(
        parameters=" SMTPUTF8", content=CONTENT + "X-Name: grün\r\n".encode() + BODY, recipients=("grün",)
    ),
    "no utf8": Scenario(
        extensions=("PIPELINING", "8BITMIME"),
        parameters=" SMTPUTF8",
        content=CONTENT + "X-Name: grün\r\n".encode() + BODY,
        recipients=("grün",),
    ),
    "xforward": Scenario(
        extensions=("XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE",),
        options={"smtp_send_xforward_command": "yes"},
    ),
    "xforward in part": Scenario(
        extensions=("XFORWARD NAME ADDR",), options={"smtp_send_xforward_command": "yes"}
    ),
    "auth": Scenario(extensions=AUTH, options=SASL),
    "auth plain": Scenario(extensions=("AUTH PLAIN",), options=SASL),
    "auth login": Scenario(extensions=("AUTH LOGIN",), options=SASL),
    "auth filtered": Scenario(
        extensions=AUTH, options={**SASL, "smtp_sasl_mechanism_filter": "!cram-md5, plain"}
    ),
    "auth nothing left": Scenario(
        extensions=AUTH, options={**SASL, "smtp_sasl_mechanism_filter": "digest-md5"}
    ),
    "auth not offered": Scenario(options=SASL),
    "auth no credentials": Scenario(
        extensions=AUTH, options={**SASL, "smtp_sasl_password_maps": "inline:{other.test=joe:secret}"}
    ),
    "auth by sender": Scenario(
        extensions=("AUTH PLAIN",),
        options={
            **SASL,
            "smtp_sender_dependent_authentication": "yes",
            "smtp_sasl_password_maps": "inline:{zs@x.test=zs:mine, 127.0.0.1=joe:secret}",
        },
    ),
    "auth refused": Scenario(
        extensions=("AUTH PLAIN",), options=SASL, replies={"AUTH": "535 5.7.8 authentication failed"}
    ),
    "auth refused for good": Scenario(
        extensions=("AUTH PLAIN",),
        options={**SASL, "smtp_sasl_auth_soft_bounce": "no"},
        replies={"AUTH": "535 5.7.8 authentication failed"},
    ),
    "no plain text": Scenario(
        extensions=("AUTH PLAIN LOGIN",), options={**SASL, "smtp_sasl_security_options": "noplaintext"}
    ),
    "tls may": Scenario(extensions=TLS, tls="good", options={"smtp_tls_security_level": "may"}),
    "tls not offered": Scenario(options={"smtp_tls_security_level": "encrypt"}),
    "tls refused": Scenario(
        extensions=TLS, replies={"STARTTLS": "454 4.7.0 not now"}, options={"smtp_tls_security_level": "may"}
    ),
    "tls refused and needed": Scenario(
        extensions=TLS,
        replies={"STARTTLS": "454 4.7.0 not now"},
        options={"smtp_tls_security_level": "encrypt"},
    ),
    "tls encrypt": Scenario(extensions=TLS, tls="good", options={"smtp_tls_security_level": "encrypt"}),
    "tls broken": Scenario(extensions=TLS, tls="broken", options={"smtp_tls_security_level": "may"}),
    "tls untrusted": Scenario(
        extensions=TLS,
        tls="good",
        options={
            "smtp_tls_security_level": "verify",
            "smtp_tls_CAfile": "/etc/ssl/certs/ca-certificates.crt",
        },
    ),
    "tls verified": Scenario(
        extensions=TLS,
        tls="good",
        options={
            "smtp_tls_security_level": "secure",
            "smtp_tls_CAfile": "CERT",
            "smtp_tls_secure_cert_match": "peer.test",
        },
    ),
    "tls wrong name": Scenario(
        extensions=TLS, tls="good", options={"smtp_tls_security_level": "verify", "smtp_tls_CAfile": "CERT"}
    ),
    "tls fingerprint": Scenario(
        extensions=TLS,
        tls="good",
        options={"smtp_tls_security_level": "fingerprint", "smtp_tls_fingerprint_cert_match": "MARK"},
    ),
    "tls wrong fingerprint": Scenario(
        extensions=TLS,
        tls="good",
        options={"smtp_tls_security_level": "fingerprint", "smtp_tls_fingerprint_cert_match": "AA:BB"},
    ),
    "tls policy": Scenario(
        extensions=TLS, tls="good", options={"smtp_tls_policy_maps": "static:{encrypt protocols=TLSv1.2}"}
    ),
    "tls bad policy": Scenario(
        extensions=TLS, tls="good", options={"smtp_tls_policy_maps": "static:{encrypt nonsense=1}"}
    ),
    "tls wrapped": Scenario(
        tls="wrapped", options={"smtp_tls_security_level": "encrypt", "smtp_tls_wrappermode": "yes"}
    ),
    "tls and auth": Scenario(
        extensions=(*TLS, "AUTH PLAIN"),
        tls="good",
        options={
            **SASL,
            "smtp_tls_security_level": "encrypt",
            "smtp_sasl_security_options": "noplaintext",
            "smtp_sasl_tls_security_options": "noanonymous",
        },
    ),
    "quit waited for": Scenario(options={"smtp_skip_quit_response": "no"}),
    "quit waited for in vain": Scenario(
        options={"smtp_skip_quit_response": "no", "smtp_quit_timeout": "1s"}, silent_after="QUIT"
    ),
    "bound": Scenario(options={"smtp_bind_address": "127.0.0.1"}),
    "header checks": Scenario(
        options={"smtp_header_checks": "regexp:DIR/checks"}, content=CONTENT + MORE + MIME
    ),
    "mime header checks": Scenario(
        options={"smtp_mime_header_checks": "regexp:DIR/checks"}, content=CONTENT + MORE + MIME
    ),
    "nested header checks": Scenario(
        options={"smtp_nested_header_checks": "regexp:DIR/checks"}, content=CONTENT + MORE + MIME
    ),
    "body checks": Scenario(
        options={"smtp_body_checks": "regexp:DIR/checks"},
        content=CONTENT + b"\r\nsecret\r\ngone\r\nbefore\r\n.dot\r\n",
    ),
    "checks and generic": Scenario(
        options={
            "smtp_header_checks": "regexp:DIR/checks",
            "smtp_generic_maps": "inline:{zs@x.test=out@y.test}",
        }
    ),
    "checks and 8 bits": Scenario(
        extensions=("PIPELINING",),
        parameters=" BODY=8BITMIME",
        options={"smtp_header_checks": "regexp:DIR/checks", "smtp_body_checks": "regexp:DIR/checks"},
        content=CONTENT + EIGHT + "\r\nsecret\r\ngrün\r\n".encode(),
    ),
    "reply filter": Scenario(
        replies={"RCPT": "550 5.1.1 unknown"},
        options={"smtp_reply_filter": "regexp:DIR/replies"},
    ),
    "reply filter and extensions": Scenario(options={"smtp_reply_filter": "regexp:DIR/replies"}),
    "status filter": Scenario(
        replies={"RCPT": "450 4.1.1 later"},
        options={"smtp_delivery_status_filter": "regexp:DIR/statuses"},
    ),
    "status filter of success": Scenario(
        options={"smtp_delivery_status_filter": "regexp:DIR/statuses"}, replies={"END": "250 2.0.0 Fine"}
    ),
    "status filter that turns round": Scenario(
        options={"default_delivery_status_filter": "regexp:DIR/statuses"},
        replies={"END": "250 2.0.0 Turned"},
    ),
    "dummy auth": Scenario(extensions=("AUTH PLAIN",), options={**SASL, "smtp_send_dummy_mail_auth": "yes"}),
    "dummy auth of a stranger": Scenario(options={"smtp_send_dummy_mail_auth": "yes"}),
    "quoted": Scenario(recipients=('"a b"',)),
    "not quoted": Scenario(recipients=('"a b"',), options={"smtp_quote_rfc821_envelope": "no"}),
    "list of hosts": Scenario(nexthop="[127.0.0.1]:1, [127.0.0.1]:PORT"),
    "per request": Scenario(options={"smtp_per_request_deadline": "yes"}),
    "per request and slow": Scenario(
        extensions=(),
        silent_after="MAIL",
        options={"smtp_per_request_deadline": "yes", "smtp_mail_timeout": "2s"},
    ),
    "tls trust anchor": Scenario(
        extensions=TLS,
        tls="good",
        options={
            "smtp_tls_security_level": "secure",
            "smtp_tls_trust_anchor_file": "CERT",
            "smtp_tls_secure_cert_match": "peer.test",
        },
    ),
    "tls trust anchor of a policy": Scenario(
        extensions=TLS,
        tls="good",
        options={"smtp_tls_policy_maps": "static:{secure match=peer.test tafile=CERT}"},
    ),
    "tls anchor of nobody": Scenario(
        extensions=TLS,
        tls="good",
        options={"smtp_tls_policy_maps": "static:{encrypt tafile=CERT}"},
    ),
    "tls site": Scenario(
        extensions=TLS, tls="good", options={"smtp_tls_per_site": "inline:{127.0.0.1=MUST_NOPEERMATCH}"}
    ),
    "tls site that may not": Scenario(
        extensions=TLS,
        tls="good",
        options={"smtp_tls_security_level": "may", "smtp_tls_per_site": "static:NONE"},
    ),
    "tls site that must": Scenario(options={"smtp_tls_per_site": "static:MUST_NOPEERMATCH"}),
    "tls chain files": Scenario(
        extensions=TLS,
        tls="asking",
        options={"smtp_tls_security_level": "encrypt", "smtp_tls_chain_files": "CHAIN"},
    ),
    "tls other certificate": Scenario(
        extensions=TLS,
        tls="asking",
        options={"smtp_tls_security_level": "encrypt", "smtp_tls_eccert_file": "CERT"},
    ),
    "dane without dnssec": Scenario(extensions=TLS, tls="good", options={"smtp_tls_security_level": "dane"}),
    "dane-only without dnssec": Scenario(
        extensions=TLS, tls="good", options={"smtp_tls_security_level": "dane-only"}
    ),
    "lmtp": Scenario(agent="lmtp", recipients=("a", "b")),
    "lmtp one by one": Scenario(agent="lmtp", extensions=("SIZE",), recipients=("a", "b")),
    "lmtp inet": Scenario(agent="lmtp", nexthop="inet:127.0.0.1:PORT"),
    "lmtp list of hosts": Scenario(agent="lmtp", nexthop="inet:127.0.0.1:1, [127.0.0.1]:PORT"),
    "lmtp one of two": Scenario(agent="lmtp", recipients=("a", "b"), replies={"END 1": "452 4.2.2 full"}),
    "lmtp one refused": Scenario(
        agent="lmtp", recipients=("a", "b"), replies={"RCPT TO:<b@": "550 5.1.1 unknown"}
    ),
    "lmtp fallback": Scenario(
        agent="lmtp",
        replies={"GREETING": "421 4.3.2 busy"},
        options={"lmtp_fallback_relay": "127.0.0.1:FALLBACK"},
    ),
    "lmtp tls": Scenario(
        agent="lmtp", extensions=TLS, tls="good", options={"lmtp_tls_security_level": "encrypt"}
    ),
    "lmtp tls verified": Scenario(
        agent="lmtp",
        extensions=TLS,
        tls="good",
        options={
            "lmtp_tls_security_level": "verify",
            "lmtp_tls_CAfile": "CERT",
            "lmtp_tls_verify_cert_match": "peer.test",
        },
    ),
    "lmtp tls missing": Scenario(agent="lmtp", options={"lmtp_tls_security_level": "encrypt"}),
    "lmtp tls policy": Scenario(
        agent="lmtp", extensions=TLS, tls="good", options={"lmtp_tls_policy_maps": "static:encrypt"}
    ),
    "lmtp auth": Scenario(
        agent="lmtp",
        extensions=("AUTH PLAIN",),
        options={key.replace("smtp_", "lmtp_"): value for key, value in SASL.items()},
    ),
    "lmtp generic": Scenario(agent="lmtp", options={"lmtp_generic_maps": "inline:{zs@x.test=out@y.test}"}),
    "lmtp header checks": Scenario(agent="lmtp", options={"lmtp_header_checks": "regexp:DIR/checks"}),
    "lmtp body checks": Scenario(
        agent="lmtp",
        options={"lmtp_body_checks": "regexp:DIR/checks"},
        content=CONTENT + b"\r\nsecret\r\ngone\r\n",
    ),
    "lmtp reply filter": Scenario(
        agent="lmtp",
        replies={"END": "550 5.7.1 no"},
        options={"lmtp_reply_filter": "regexp:DIR/replies"},
    ),
    "lmtp status filter": Scenario(
        agent="lmtp",
        replies={"RCPT": "450 4.1.1 later"},
        options={"lmtp_delivery_status_filter": "regexp:DIR/statuses"},
    ),
    "lmtp 8 bits to 7": Scenario(
        agent="lmtp",
        extensions=("PIPELINING",),
        parameters=" BODY=8BITMIME",
        content=CONTENT + EIGHT + "\r\ngrün\r\n".encode(),
    ),
    "lmtp line limit": Scenario(
        agent="lmtp",
        content=CONTENT + b"\r\n" + b"abc" * 20 + b"\r\n",
        options={"lmtp_line_length_limit": "80"},
    ),
    "lmtp discard": Scenario(agent="lmtp", options={"lmtp_discard_lhlo_keywords": "pipelining,size"}),
    "lmtp name": Scenario(agent="lmtp", options={"lmtp_lhlo_name": "other.test"}),
    "lmtp bound": Scenario(agent="lmtp", options={"lmtp_bind_address": "127.0.0.1"}),
    "lmtp greeting meant": Scenario(
        agent="lmtp",
        replies={"GREETING": "554 5.3.2 go away"},
        options={"lmtp_skip_5xx_greeting": "no"},
    ),
    "lmtp quit not waited for": Scenario(agent="lmtp", options={"lmtp_skip_quit_response": "yes"}),
    "lmtp too big": Scenario(agent="lmtp", extensions=("SIZE 100",)),
    "lmtp lost at end": Scenario(agent="lmtp", hang_up_after="END"),
    "lmtp nobody there": Scenario(agent="lmtp", hang_up_after="CONNECT"),
}
DIFFERENT = {
    "lmtp one by one": ("(MAIL FROM:<[^>]*>)", r"\1 SIZE=N"),
    "lmtp too big": (r"\Z", "\0QUIT"),
    "lmtp fallback": ("QUIT", ""),
    "no pipelining": ("(MAIL FROM:<[^>]*>)", r"\1 SIZE=N"),
    "greeting 421": ("QUIT", ""),
    "tls 421 after mail": ("\0RSET\0QUIT", ""),
    "fallback": ("QUIT", ""),
    "tls untrusted": ("\0QUIT", ""),
    "too big": (r"\Z", "\0QUIT"),
    "utf8": ("SMTPUTF8", "BODY=8BITMIME SMTPUTF8"),
}
"""What our client says otherwise (docs/differences.md): a pattern in Postfix's words, and ours."""


class Server:
    """The server's part of a scenario, once."""

    def __init__(self, scenario: Scenario, context: ssl.SSLContext, asking: ssl.SSLContext) -> None:
        self._asking = asking
        self.scenario = scenario
        self.heard: list[str] = []
        self._context = context
        self._sock = bind_tcp("127.0.0.1", 0)
        self._sock.setblocking(True)
        self.port = int(self._sock.getsockname()[1])
        if scenario.hang_up_after == "CONNECT":
            self._sock.close()
            return
        self._sock.listen(20)
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._sock.close()

    def _serve(self) -> None:
        while True:
            try:
                conn, _ = self._sock.accept()
            except OSError:
                return
            threading.Thread(target=self._guarded, args=(conn,), daemon=True).start()

    def _guarded(self, conn: socket.socket) -> None:
        try:
            if self.scenario.tls == "wrapped":
                conn = self._context.wrap_socket(conn, server_side=True)
            with ExitStack() as open_sockets:
                self._talk(open_sockets.enter_context(conn), open_sockets)
        except OSError:
            pass

    def _talk(self, conn: socket.socket, open_sockets: ExitStack) -> None:
        scenario = self.scenario
        buffer = b""
        secured: ssl.SSLSocket | None = None

        def line() -> str:
            nonlocal buffer
            while b"\n" not in buffer:
                data = conn.recv(65536)
                if not data:
                    raise ConnectionError
                buffer += data
            text, _, buffer = buffer.partition(b"\n")
            return text.decode("latin-1").rstrip("\r")

        def say(verb: str, default: str, command: str = "") -> str:
            there = secured is not None or not scenario.fragile
            if scenario.hang_up_after == verb and there:
                raise ConnectionError
            if scenario.silent_after == verb and there:
                time.sleep(8)
                raise ConnectionError
            text = next((v for k, v in scenario.replies.items() if " " in k and command.startswith(k)), None)
            text = text or scenario.replies.get(verb, default)
            conn.sendall(text.encode() + b"\r\n")
            return text

        accepted = 0
        say("GREETING", "220 peer.test ESMTP")
        while True:
            command = line()
            self.heard.append(command)
            verb = command.split(" ")[0].upper()
            if verb == "EHLO" or verb == "LHLO":
                lines = ["peer.test", *scenario.extensions]
                say(verb, "\r\n".join([*(f"250-{x}" for x in lines[:-1]), f"250 {lines[-1]}"]))
            elif verb == "MAIL":
                accepted = 0
                say(verb, "250 2.0.0 Ok", command)
            elif verb == "RCPT":
                accepted += say(verb, "250 2.1.5 Ok", command).startswith("2")
            elif verb == "DATA":
                if say(verb, "354 go" if accepted else "554 5.5.1 no valid recipients").startswith("354"):
                    lines = []
                    while (text := line()) != ".":
                        lines.append(text)
                    self.heard.append(_without_received("\n".join(lines)))
                    for number in range(accepted if scenario.agent == "lmtp" else 1):
                        text = scenario.replies.get(f"END {number}", "250 2.0.0 Ok: queued as X")
                        say("END", text)
            elif verb == "STARTTLS":
                if say(verb, "220 2.0.0 go").startswith("220"):
                    if scenario.tls == "broken":
                        conn.sendall(b"this is no TLS\r\n")
                        raise ConnectionError
                    context = self._asking if scenario.tls == "asking" else self._context
                    secured = open_sockets.enter_context(context.wrap_socket(conn, server_side=True))
                    conn, buffer = secured, b""
                    if scenario.tls == "asking":
                        self.heard.append(f"certificate: {secured.getpeercert() != {}}")
            elif verb == "AUTH":
                mechanism = command.split(" ")[1]
                if "AUTH" not in scenario.replies:
                    for challenge in {"CRAM-MD5": [CRAM], "LOGIN": ["VXNlcm5hbWU6", "UGFzc3dvcmQ6"]}.get(
                        mechanism, []
                    ):
                        conn.sendall(f"334 {challenge}\r\n".encode())
                        self.heard.append(line())
                say(verb, "235 2.7.0 welcome")
            elif verb == "QUIT":
                say(verb, "221 2.0.0 Bye")
                return
            else:
                say(verb, "250 2.0.0 Ok", command)


def _without_received(text: str) -> str:
    return re.sub(r"^Received:.*\n(?:[ \t].*\n)*", "", text)


@dataclass
class World:
    """One MTA, and the servers around it."""

    directory: Path
    port: int
    servers: dict[str, Server]

    def send(self, name: str) -> None:
        scenario = SCENARIOS[name]
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=20) as sock,
            sock.makefile("rb") as stream,
        ):
            reply(stream)
            rcpts = [f"RCPT TO:<{user}@{_domain(name)}>" for user in scenario.recipients]
            for text in ["EHLO client.test", f"MAIL FROM:<zs@x.test>{scenario.parameters}", *rcpts, "DATA"]:
                sock.sendall(text.encode() + b"\r\n")
                assert reply(stream)[:1] in b"23", text
            if scenario.waits:
                time.sleep(2.1)  # Postfix counts whole seconds
            sock.sendall(scenario.content.replace(b"\r\n.", b"\r\n..") + b".\r\nQUIT\r\n")
            assert reply(stream)[:3] == b"250"

    def outcome(self, name: str) -> list[str]:
        """What the log says of each recipient, or nothing yet."""
        found = re.findall(
            rf"to=<([^>]*)@{_domain(name)}>(.*)", (self.directory / "log").read_text("utf-8", "replace")
        )
        lines = []
        for user, rest in found:
            told = re.search(r", relay=(\S+), .*dsn=(\S+), status=(\w+) \((.*)\)$", rest)
            assert told is not None, rest
            text = re.sub(r"message size \d+", "message size N", ":".join(told.groups()))
            lines.append(f"{user} {re.sub(r'(127.0.0.1]|connect to 127.0.0.1.*):[0-9]+', r'1:PORT', text)}")
        return sorted(lines)

    def trust(self, name: str) -> list[str]:
        """What the log says of TLS connections: how far the server is trusted."""
        port = self.servers[name].port
        log = (self.directory / "log").read_text("utf-8", "replace")
        return re.findall(rf"(\w+) TLS connection established to 127.0.0.1\[127.0.0.1]:{port}: TLSv1", log)

    def heard(self, name: str) -> list[str]:
        """What the server was told, what varies taken out; its order counts."""
        return [_normal(text) for text in self.servers[name].heard]


def _normal(command: str) -> str:
    command = re.sub(r"SIZE=\d+", "SIZE=N", command)
    return re.sub(r"(IDENT|PORT)=\w+", r"\1=X", command)


def _domain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name) + ".test"


def _prepare(directory: Path, owner: int) -> tuple[dict[str, Server], str]:
    context, path = certificate(directory, "peer.test")
    mark = ssl.PEM_cert_to_DER_cert(path.read_text().partition("-----BEGIN PRIVATE")[0])
    import hashlib

    fingerprint = hashlib.sha256(mark).digest().hex(":").upper()
    os.chmod(path, 0o644)
    pem = path.read_text()
    certificate_text, begin, key = pem.partition("-----BEGIN PRIVATE")
    (directory / "chain.pem").write_text(begin + key + certificate_text)
    (directory / "checks").write_text(CHECKS)
    (directory / "statuses").write_text(STATUSES)
    (directory / "replies").write_text(REPLIES)
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    asking.load_cert_chain(path)
    asking.load_verify_locations(path)
    asking.verify_mode = ssl.CERT_REQUIRED
    servers = {name: Server(scenario, context, asking) for name, scenario in SCENARIOS.items()}
    fallbacks = {agent: Server(Scenario(agent=agent), context, asking) for agent in ("smtp", "lmtp")}
    routes, services = [], []
    for number, (name, scenario) in enumerate(SCENARIOS.items()):
        nexthop = scenario.nexthop.replace("PORT", str(servers[name].port))
        routes.append(f"{_domain(name)} s{number}:{nexthop}\n")
        services.append(f"s{number} unix - - n - - {scenario.agent}")
        for key, value in scenario.options.items():
            text = value.replace("FALLBACK", str(fallbacks[scenario.agent].port)).replace("MARK", fingerprint)
            text = text.replace("DIR", str(directory)).replace("CHAIN", str(directory / "chain.pem"))
            services.append(f"  -o {{ {key} = {text.replace('CERT', str(path))} }}")
    (directory / "transport").write_text("".join(routes))
    (directory / "main.cf").write_text(MAIN_CF.format(dir=directory))
    services += ["tlsmgr unix - - n 1000? 1 tlsmgr", ""]
    return servers, SERVICES + "\n".join(services)


@contextmanager
def postfix(directory: Path) -> Iterator[World]:
    servers, services = _prepare(directory, 0)
    with (directory / "main.cf").open("a") as file:
        file.write(f"data_directory = {directory}/data\nmaillog_file = {directory}/log\n")
    (directory / "queue").mkdir()
    (directory / "data").mkdir()
    shutil.chown(directory / "data", "postfix")
    port = free_port()
    (directory / "master.cf").write_text(f"127.0.0.1:{port} inet n - n - - smtpd\n{services}")
    start_postfix(directory)
    try:
        wait_for(port)
        yield World(directory, port, servers)
    finally:
        stop_postfix(directory)
        for server in servers.values():
            server.close()


@contextmanager
def ours(directory: Path) -> Iterator[World]:
    servers, services = _prepare(directory, 0)
    port = free_port()
    (directory / "master.cf").write_text(f"127.0.0.1:{port} inet n - n - 1 smtpd\n{services}")
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mailstack.mta", "--config", str(directory)],
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
    try:
        wait_for(port)
        yield World(directory, port, servers)
    finally:
        process.terminate()
        process.wait(30)
        for server in servers.values():
            server.close()


Answer = dict[str, tuple[list[str], list[str], list[str]]]


def run(world: World) -> Answer:
    """Every scenario: (what the server was told, what became of the recipients, trust)."""
    slow = [name for name, scenario in SCENARIOS.items() if scenario.waits]
    with ThreadPoolExecutor(len(slow)) as pool:
        sent = [pool.submit(world.send, name) for name in slow]
        for name in SCENARIOS:
            if name not in slow:
                world.send(name)
        for one in sent:
            one.result()
    end = time.monotonic() + 40
    waiting = set(SCENARIOS)
    while waiting and time.monotonic() < end:
        waiting = {name for name in waiting if len(world.outcome(name)) < len(SCENARIOS[name].recipients)}
        time.sleep(0.1)
    time.sleep(1.5)  # for the last QUIT
    return {name: (world.heard(name), world.outcome(name), world.trust(name)) for name in SCENARIOS}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Answer, Answer]:
    if shutil.which("postfix") is None or os.geteuid() != 0:
        pytest.skip("needs Postfix and root")
    theirs = tmp_path_factory.mktemp("postfix")
    for folder in (theirs, *theirs.parents):
        if folder != Path("/") and folder != Path("/tmp"):
            folder.chmod(0o755)
    with postfix(theirs) as world:
        reference = run(world)
    with ours(tmp_path_factory.mktemp("ours")) as world:
        return reference, run(world)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_same_on_the_wire_and_in_the_log(answers: tuple[Answer, Answer], name: str) -> None:
    theirs, mine = answers
    assert theirs[name][1], "Postfix has not delivered"
    told = "\0".join(theirs[name][0])
    if name in DIFFERENT:
        pattern, ours = DIFFERENT[name]
        other = re.sub(pattern, ours, told, count=1, flags=re.DOTALL)
        assert other != told, "the difference is gone"
        told = other
    assert "\0".join(mine[name][0]) == told
    assert mine[name][1] == theirs[name][1]
    if name != "tls untrusted":  # here the handshake is broken off
        assert mine[name][2] == theirs[name][2]
