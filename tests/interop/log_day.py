"""A day of mail: every kind of line that an MTA writes into its log, made by the same traffic.

`postfix` and `ours` each start a mail system with the same main.cf in a folder of its own; `day` has it take,
refuse, deliver, return, delay, hold and lose mail. Both ask the name server of `restrictions_world`.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.golden.trees import certificate
from tests.interop.delivery import Sink, reply
from tests.interop.real_postfix import make_aliases, start_postfix, stop_postfix
from tests.interop.restrictions_world import CLIENT, NAMELESS, PolicyServer
from tests.ports import free_port, free_ports

NAME_SERVER = "127.0.53.26"
TRUSTED, PUBLIC, LOGIN, WRAPPED, STRICT, LIMITED, CHECKED, LISTED = range(8)
"""The smtpd services, by what they are for."""
OPTIONS = (
    "-o smtpd_client_port_logging=no",
    "-o mynetworks=",
    "-o mynetworks= -o smtpd_sasl_auth_enable=yes -o smtpd_tls_security_level=may",
    "-o smtpd_tls_wrappermode=yes -o smtpd_tls_security_level=may",
    "-o smtpd_timeout=2s -o smtpd_hard_error_limit=3",
    (
        "-o smtpd_client_connection_rate_limit=5 -o smtpd_client_message_rate_limit=1"
        " -o smtpd_client_recipient_rate_limit=3 -o smtpd_client_connection_count_limit=2"
        " -o smtpd_client_event_limit_exceptions="
    ),
    (
        "-o mynetworks= -o smtpd_helo_required=yes"
        " -o smtpd_client_restrictions=$checked_client -o smtpd_helo_restrictions=$checked_helo"
        " -o smtpd_sender_restrictions=$checked_sender -o smtpd_recipient_restrictions=$checked_recipient"
        " -o smtpd_data_restrictions=$checked_data -o smtpd_end_of_data_restrictions=$checked_end"
    ),
    "-o mynetworks= -o smtpd_client_restrictions=$checked_lists",
)
MAIN_CF = """\
compatibility_level = 3.6
maillog_file_prefixes = /tmp
inet_protocols = ipv4
inet_interfaces = 127.0.0.1
myhostname = mail.x.test
mydomain = x.test
myorigin = $mydomain
mydestination = $myhostname, $mydomain
mynetworks = 127.0.0.0/8
queue_directory = {dir}/queue
local_recipient_maps = static:all
alias_maps = {aliases}:{dir}/aliases
alias_database =
mailbox_transport =
mail_spool_directory = {dir}/spool/
relay_domains = relay.test
virtual_alias_domains = gone.test
virtual_mailbox_domains = box.test
virtual_mailbox_base = {dir}/mail
virtual_mailbox_maps = texthash:{dir}/boxes
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
virtual_minimum_uid = 1
virtual_alias_maps = texthash:{dir}/virtual
transport_maps = texthash:{dir}/transport
relocated_maps = inline:{{ {{old@box.test = new@elsewhere.test}} }}
recipient_delimiter = +
smtpd_relay_restrictions = permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination
smtpd_error_sleep_time = 0
smtp_dns_support_level = disabled
disable_dns_lookups = yes
notify_classes = bounce, 2bounce, delay, data, policy, protocol, resource, software
bounce_notice_recipient = notices@box.test
2bounce_notice_recipient = double@box.test
delay_notice_recipient = delays@box.test
error_notice_recipient = errors@box.test
message_size_limit = 100000
bounce_size_limit = 3000
delay_warning_time = 3s
minimal_backoff_time = 1000s
maximal_backoff_time = 1000s
queue_run_delay = 1000s
maximal_queue_lifetime = 1000s
smtp_connect_timeout = 5s
smtp_tls_security_level = none
lmtp_tls_security_level = none
header_checks = pcre:{dir}/header_checks
body_checks = pcre:{dir}/body_checks
enable_long_queue_ids = yes
smtpd_forbid_bare_newline = normalize
smtpd_sasl_type = dovecot
smtpd_sasl_path = private/auth
smtpd_sasl_local_domain = x.test
smtpd_tls_cert_file = {dir}/cert.pem
smtpd_tls_key_file = {dir}/key.pem
smtpd_tls_loglevel = 1
smtpd_tls_auth_only = no
smtpd_policy_service_retry_delay = 1s
checked_client = check_client_access inline:{{ {{{nameless}=REJECT nameless}} }},
    reject_rbl_client bl.test=127.0.0.77, warn_if_reject reject_unknown_client_hostname
checked_lists = reject_rbl_client bl.test, reject_rhsbl_reverse_client bl.test
checked_helo = check_helo_access inline:{{ {{bad.helo.test=554 5.7.1 not you}} {{warn.test=WARN look}} }},
    reject_invalid_helo_hostname, reject_non_fqdn_helo_hostname
checked_sender = reject_non_fqdn_sender, reject_unknown_sender_domain,
    reject_rhsbl_sender bl.test=127.0.0.6, check_sender_access texthash:{dir}/senders
checked_recipient = reject_non_fqdn_recipient, reject_unlisted_recipient, reject_unauth_destination,
    check_policy_service inet:127.0.0.1:{policy}, check_recipient_access texthash:{dir}/recipients
checked_data = reject_unauth_pipelining, check_sender_access inline:{{ {{data@good.test=REJECT no data}} }},
    reject_multi_recipient_bounce
checked_end = check_sender_access inline:{{ {{end@good.test=450 4.7.0 later}} }}
"""
POSTFIX_CF = "data_directory = {dir}/data\nmaillog_file = {dir}/log\n"
SERVICES = """\
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
local unix - n n - - local
virtual unix - n n - - virtual
smtp unix - - n - - smtp
relay unix - - n - - smtp
lmtp unix - - n - - lmtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
showq unix n - n - - showq
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
filter unix - n n - - pipe flags=Rq user=nobody argv=/bin/cat ${recipient}
"""
HEADER_CHECKS = r"""
/^Subject: reject/ REJECT bad subject
/^Subject: plainly/ REJECT
/^Subject: discard/ DISCARD thrown away
/^Subject: hold/ HOLD for a look
/^Subject: warn/ WARN have a look
/^Subject: info/ INFO just so
/^Subject: prepend/ PREPEND X-Checked: yes
/^Subject: replace/ REPLACE Subject: replaced
/^Subject: ignore/ IGNORE
/^Subject: redirect/ REDIRECT all@box.test
/^Subject: bcc/ BCC copy@box.test
/^Subject: filter/ FILTER filter:dummy
"""
BODY_CHECKS = "/^bad body/ REJECT bad words\n/^warn body/ WARN words\n/^throw body/ DISCARD\n"
HEAD = (
    "From: s@box.test\r\nTo: someone\r\nDate: Sun, 22 Nov 2026 10:00:00 +0000\r\nMessage-Id: <{id}@day>\r\n"
)


NO_BASE64 = "Invalid base64 data in initial response"


class Authority:
    """An authentication server of Dovecot's protocol that knows zs with the password secret."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        path.chmod(0o666)
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, sock.makefile("rwb", buffering=0) as stream, suppress(OSError):
            cookie = "0" * 32
            stream.write(
                "VERSION\t1\t1\nMECH\tPLAIN\tplaintext\nMECH\tLOGIN\tplaintext\n"
                f"SPID\t1\nCUID\t1\nCOOKIE\t{cookie}\nDONE\n".encode()
            )
            waiting: dict[str, list[str]] = {}
            for raw in stream:
                words = raw.decode().rstrip("\n").split("\t")
                if words[0] == "AUTH" and words[2] == "LOGIN":
                    waiting[words[1]] = []
                    stream.write(f"CONT\t{words[1]}\tVXNlcm5hbWU6\n".encode())
                elif words[0] == "CONT":
                    said = waiting[words[1]]
                    said.append(base64.b64decode(words[2]).decode())
                    if len(said) == 1:
                        stream.write(f"CONT\t{words[1]}\tUGFzc3dvcmQ6\n".encode())
                    else:
                        stream.write(self._verdict(words[1], *said))
                elif words[0] == "AUTH":
                    response = next((word[5:] for word in words if word.startswith("resp=")), "")
                    said = base64.b64decode(response).decode().split("\0")
                    if len(said) == 3:
                        stream.write(self._verdict(words[1], said[1], said[2]))
                    else:
                        stream.write(f"FAIL\t{words[1]}\treason={NO_BASE64}\n".encode())

    def _verdict(self, number: str, user: str, password: str) -> bytes:
        if user == "slow":
            return f"FAIL\t{number}\tuser={user}\ttemp\n".encode()
        good = (user, password) == ("zs", "secret")
        return f"{'OK' if good else 'FAIL'}\t{number}\tuser={user}\n".encode()

    def close(self) -> None:
        self._listener.close()


@dataclass
class World:
    """One mail system."""

    directory: Path
    ports: list[int]
    commands: dict[str, list[str]]
    """How its postsuper, postqueue, sendmail are called, and how it is reloaded."""
    sinks: dict[str, Sink] = field(default_factory=dict)
    count: int = 0
    """Mails sent by SMTP."""

    def connect(self, service: int, source: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(
            ("127.0.0.1", self.ports[service]), timeout=20, source_address=(source, 0)
        )

    def talk(self, service: int, lines: Sequence[str | bytes], source: str = "127.0.0.1") -> list[bytes]:
        """The greeting and the reply to each line; `!` as the last line hangs up without QUIT."""
        with self.connect(service, source) as sock:
            return _converse(sock, lines)

    def mail(
        self,
        service: int,
        sender: str,
        recipients: list[str],
        content: str = "Subject: hi\r\n\r\nbody\r\n",
        *,
        source: str = "127.0.0.1",
        helo: str = "client.test",
    ) -> list[bytes]:
        """One transaction from its EHLO to QUIT; the replies."""
        self.count += 1
        text = HEAD.format(id=f"m{self.count}") + content
        lines: list[str | bytes] = [f"EHLO {helo}", f"MAIL FROM:{sender}"]
        lines += [f"RCPT TO:{to}" if "<" in to else f"RCPT TO:<{to}>" for to in recipients]
        lines += ["DATA", text.encode() + b".", "QUIT"]
        return self.talk(service, lines, source)

    def run(self, command: str, *words: str, text: str = "") -> str:
        done = subprocess.run(
            [*self.commands[command], *words],
            input=text,
            text=True,
            capture_output=True,
            check=False,
            timeout=60,
            env={**os.environ, "MAIL_CONFIG": str(self.directory)},
        )
        return done.stdout + done.stderr

    def log(self) -> str:
        return (self.directory / "log").read_text()

    def settle(self) -> None:
        """Until nothing new has been logged for a second and a half."""
        before, end = "", time.monotonic() + 60
        while before != (before := self.log()):
            assert time.monotonic() < end
            time.sleep(1.5)

    def wait_for(self, text: str, count: int = 1) -> None:
        end = time.monotonic() + 30
        while len(re.findall(text, self.log())) < count:
            assert time.monotonic() < end, f"no {text!r} in the log"
            time.sleep(0.05)


def _converse(sock: socket.socket, lines: Sequence[str | bytes], *, greeting: bool = True) -> list[bytes]:
    stream = sock.makefile("rb")
    replies = [reply(stream)] if greeting else []
    content = False
    for line in lines:
        if line == "!":
            break
        data = line.encode() if isinstance(line, str) else line
        if isinstance(line, bytes) and not content:
            break  # DATA has been refused
        with suppress(ConnectionError):
            sock.sendall(data + b"\r\n")
        try:
            replies.append(reply(stream))
        except ConnectionError:
            replies.append(b"")
        if not replies[-1]:
            break
        content = replies[-1].startswith(b"354")
    return replies


# ---- the day


def day(world: World) -> None:
    """Everything that happens; returns when all is over but the end of the mail system."""
    deliveries(world)
    refusals(world)
    checks(world)
    sessions(world)
    logins(world)
    limits(world)
    by_hand(world)
    world.settle()
    old(world)


def deliveries(world: World) -> None:
    mail = world.mail
    mail(TRUSTED, "<s1@box.test>", ["a@box.test"])
    mail(
        TRUSTED,
        "<s1@box.test>",
        ["a@box.test", "b@box.test", "all@x.test"],
        "Subject: two\r\n\r\n" + "x\r\n" * 900,
    )
    mail(TRUSTED, "<s2@box.test>", ["nobody@x.test"])
    mail(TRUSTED, "<s2@box.test>", ["nobody+ext@x.test", "piped@x.test", "filed@x.test"])
    mail(TRUSTED, "<s2@box.test>", ["list@x.test"])
    mail(TRUSTED, "<s3@box.test>", ["u@lmtp.test"])
    mail(TRUSTED, "<s3@box.test>", ["u@dsn.test", "v@dsn.test"])
    mail(TRUSTED, "<s3@box.test>", ["u@plain.test"])
    mail(TRUSTED, "<s4@box.test>", ["u@pipe.test"])
    mail(TRUSTED, "<s4@box.test>", ["u@error.test"])
    mail(TRUSTED, "<s4@box.test>", ["u@discard.test"])
    mail(TRUSTED, "<s5@box.test>", ["u@refuse.test", "a@box.test"])
    mail(TRUSTED, "<s5@box.test>", ["u@reject.test"])
    mail(TRUSTED, "<>", ["u@refuse.test"])
    mail(TRUSTED, "<>", ["a@box.test"])
    mail(TRUSTED, "<s6@box.test>", ["u@later.test"])
    mail(TRUSTED, "<s6@box.test>", ["u@dead.test"])
    mail(TRUSTED, "<s6@box.test>", ["u@relay.test"])
    mail(TRUSTED, "<s7@box.test> RET=HDRS", ["<a@box.test> NOTIFY=SUCCESS ORCPT=rfc822;x@y.test"])
    mail(TRUSTED, "<s8@box.test>", ["many@x.test"])
    mail(TRUSTED, '<"a b"@box.test>', ['"c d"@box.test', "A@BOX.test"])
    mail(TRUSTED, "<s\u00fc@box.test> SMTPUTF8", ["a@box.test"], "Subject: h\u00fc\r\n\r\n\u00fc\r\n")
    world.talk(
        TRUSTED,
        ["HELO old.test", "MAIL FROM:<s@box.test>", "RCPT TO:<a@box.test>", "DATA", b"x\r\n.", "QUIT"],
    )
    world.settle()


def refusals(world: World) -> None:
    mail = world.mail
    mail(PUBLIC, "<s@far.test>", ["u@elsewhere.test"])
    mail(PUBLIC, "<s@far.test>", ["nobody@box.test", "unknown@box.test"])
    mail(PUBLIC, '<"s t"@far.test>', ['"x y"@box.test'])
    mail(PUBLIC, "<s@far.test>", ["old@box.test"])
    mail(PUBLIC, "<s@far.test>", ["u@gone.test"])
    good = "<s@good.test>"
    box = ["a@box.test"]
    mail(CHECKED, good, box, source=CLIENT)
    mail(CHECKED, good, box, source=NAMELESS)
    mail(LISTED, good, box, source=CLIENT)
    mail(CHECKED, good, box, source="127.0.0.13")
    mail(CHECKED, good, box, source=CLIENT, helo="bad.helo.test")
    mail(CHECKED, good, box, source=CLIENT, helo="warn.test")
    mail(CHECKED, good, box, source=CLIENT, helo="short")
    mail(CHECKED, good, box, source=CLIENT, helo="-bad-.test")
    mail(CHECKED, "<short>", box, source=CLIENT)
    mail(CHECKED, "<s@nothere.test>", box, source=CLIENT)
    mail(CHECKED, "<s@far.test>", box, source=CLIENT)
    for name in (
        "reject",
        "defer",
        "discard",
        "hold",
        "redirect",
        "bcc",
        "prepend",
        "info",
        "filter",
        "warn",
    ):
        mail(CHECKED, f"<{name}@good.test>", box, source=CLIENT)
    mail(CHECKED, good, ["short"], source=CLIENT)
    mail(CHECKED, good, ["unknown@box.test"], source=CLIENT)
    mail(CHECKED, good, ["u@elsewhere.test"], source=CLIENT)
    for name in ("reject", "defer", "code", "prepend"):
        mail(CHECKED, good, [f"{name}@box.test"], source=CLIENT)
    mail(CHECKED, "<data@good.test>", box, source=CLIENT)
    mail(CHECKED, "<end@good.test>", box, source=CLIENT)
    mail(CHECKED, "<>", ["a@box.test", "b@box.test"], source=CLIENT)
    mail(CHECKED, good, ["four@box.test"], source=CLIENT)
    world.settle()


def checks(world: World) -> None:
    actions = [
        "reject",
        "plainly",
        "discard",
        "hold",
        "warn",
        "info",
        "prepend",
        "replace",
        "ignore",
        "redirect",
        "bcc",
        "filter",
    ]
    for name in actions:
        world.mail(TRUSTED, "<s@box.test>", ["a@box.test"], f"Subject: {name} me\r\n\r\nbody\r\n")
    for name in ("bad", "warn", "throw"):
        world.mail(TRUSTED, "<s@box.test>", ["a@box.test"], f"Subject: b\r\n\r\n{name} body\r\n")
    world.mail(TRUSTED, "<s@box.test>", ["a@box.test"], "Subject: big\r\n\r\n" + "0123456789\r\n" * 9000)
    world.mail(TRUSTED, "<s@box.test> SIZE=1000000", ["a@box.test"])
    hops = "".join(f"Received: from h{n}.test\r\n" for n in range(60))
    world.mail(TRUSTED, "<s@box.test>", ["a@box.test"], hops + "Subject: hops\r\n\r\nbody\r\n")
    world.settle()


def sessions(world: World) -> None:
    to = ["EHLO client.test", "MAIL FROM:<s@box.test>", "RCPT TO:<a@box.test>"]
    world.talk(TRUSTED, ["!"])
    world.talk(TRUSTED, ["QUIT"])
    for last in (["EHLO x.test", "!"], [*to, "!"], [*to[:2], "!"], ["NOOP", "RSET", "!"]):
        world.talk(TRUSTED, list(last))
    with world.connect(TRUSTED) as sock:
        _converse(sock, [*to, "DATA"])
        sock.sendall(b"Subject: half\r\n\r\nhalf a")
    world.talk(
        TRUSTED, ["FOO", "MAIL", "RCPT TO:<x>", "DATA", "VRFY a@box.test", "ETRN x.test", "HELP", "QUIT"]
    )
    world.talk(TRUSTED, ["EHLO x.test", "VRFY nobody@elsewhere.test", "MAIL FROM:<a b@c>", "QUIT"])
    world.talk(TRUSTED, ["GET / HTTP/1.1", "!"])
    world.talk(TRUSTED, ["EHLO x.test", "XCLIENT NAME=x.test", "AUTH PLAIN AAAA", "STARTTLS", "QUIT"])
    world.talk(STRICT, ["A", "B", "C", "D", "E"])
    with world.connect(STRICT) as sock:
        _converse(sock, ["EHLO x.test"])
        reply(sock.makefile("rb"))
    with world.connect(STRICT) as sock:
        _converse(sock, [*to, "DATA"])
        reply(sock.makefile("rb"))
    with world.connect(TRUSTED) as sock:
        _converse(sock, ["EHLO x.test"])
        sock.sendall(b"MAIL FROM:<s@box.test>\r\nRCPT TO:<a@box.test>\r\nDATA\r\n")
        stream = sock.makefile("rb")
        for _ in range(3):
            reply(stream)
        sock.sendall(b"Subject: pipelined\r\n\r\nx\r\n.\r\nQUIT\r\n")
        reply(stream), reply(stream)
    body = b"Subject: chunks\r\n\r\nbody\r\n"
    with world.connect(TRUSTED) as sock:
        _converse(sock, to)
        sock.sendall(b"BDAT %d LAST\r\n" % len(body) + body)
        stream = sock.makefile("rb")
        reply(stream)
        sock.sendall(b"QUIT\r\n")
        reply(stream)
    world.settle()


def logins(world: World) -> None:
    def plain(user: str, password: str) -> str:
        return "AUTH PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode()).decode()

    to: list[str | bytes] = [
        "MAIL FROM:<zs@x.test>",
        "RCPT TO:<a@box.test>",
        "DATA",
        b"Subject: in\r\n\r\nx\r\n.",
        "QUIT",
    ]
    world.talk(LOGIN, ["EHLO x.test", plain("zs", "secret"), *to])
    world.talk(LOGIN, ["EHLO x.test", plain("zs", "wrong"), "QUIT"])
    world.talk(LOGIN, ["EHLO x.test", plain("zs", "wrong"), "!"])
    world.talk(LOGIN, ["EHLO x.test", plain("slow", "x"), "QUIT"])
    world.talk(LOGIN, ["EHLO x.test", "AUTH LOGIN", "enM=", "d3Jvbmc=", "QUIT"])
    world.talk(LOGIN, ["EHLO x.test", "AUTH LOGIN", "enM=", "c2VjcmV0", *to])
    world.talk(LOGIN, ["EHLO x.test", "AUTH LOGIN", "*", "QUIT"])
    world.talk(LOGIN, ["EHLO x.test", "AUTH PLAIN ====", "QUIT"])
    world.talk(LOGIN, ["EHLO x.test", "AUTH NONE", "QUIT"])
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with world.connect(LOGIN) as sock:
        _converse(sock, ["EHLO x.test", "STARTTLS"])
        with context.wrap_socket(sock) as secured:
            _converse(secured, ["EHLO x.test", plain("zs", "secret"), *to], greeting=False)
    with world.connect(WRAPPED) as sock, context.wrap_socket(sock) as secured:
        _converse(secured, ["EHLO x.test", "MAIL FROM:<zs@x.test>", "RCPT TO:<a@box.test>", "QUIT"])
    with world.connect(LOGIN) as sock:
        _converse(sock, ["EHLO x.test", "STARTTLS"])
        sock.sendall(b"this is no TLS\r\n")
        with suppress(OSError):
            sock.recv(100)
    world.settle()


def limits(world: World) -> None:
    world.mail(LIMITED, "<s@box.test>", ["a@box.test"])
    world.mail(LIMITED, "<s@box.test>", ["a@box.test"])
    world.settle()
    with world.connect(LIMITED) as one, world.connect(LIMITED) as two:
        _converse(one, ["EHLO x.test"])
        _converse(two, ["EHLO x.test"])
        world.talk(LIMITED, ["QUIT"])
        for sock in (one, two):
            _converse(sock, ["QUIT"], greeting=False)
    world.talk(LIMITED, ["QUIT"])
    world.talk(LIMITED, ["QUIT"])
    world.settle()


def by_hand(world: World) -> None:
    world.run("sendmail", "-f", "me@x.test", "a@box.test", text="Subject: by hand\n\nbody\n")
    world.run("sendmail", "-t", "-f", "me@x.test", text="To: a@box.test, b@box.test\nSubject: t\n\nbody\n")
    world.run("sendmail", "-f", "me@x.test", "u@refuse.test", text="Subject: back\n\nbody\n")
    world.run("sendmail", "-f", "me@x.test", "a@box.test", text="Subject: reject me\n\nbody\n")
    world.run("sendmail", "-f", "me@x.test", "a@box.test", text="Subject: discard me\n\nbody\n")
    world.run("sendmail", "-f", "me@x.test", "a@box.test", text="Subject: hold me\n\nbody\n")
    world.settle()
    held = re.findall(r": (\w+): hold: header", world.log())
    assert len(held) == 2
    world.run("postsuper", "-H", held[0])
    world.run("postsuper", "-d", held[1])
    world.mail(TRUSTED, "<s@box.test>", ["again@later.test"])
    world.wait_for("<again@later.test>.*deferred")
    again = re.findall(r": (\w+): to=<again@later.test>", world.log())[-1]
    world.settle()
    world.run("postsuper", "-h", again)
    world.settle()
    world.run("postsuper", "-d", again)
    world.run("postqueue", "-i", held[0])


def old(world: World) -> None:
    """What is left gets late, and then too old."""
    world.run("postqueue", "-f")
    world.settle()
    text = (world.directory / "main.cf").read_text()
    (world.directory / "main.cf").write_text(text.replace("queue_lifetime = 1000s", "queue_lifetime = 0"))
    world.run("reload")
    time.sleep(1)
    world.run("postqueue", "-f")
    world.settle()


# ---- the mail systems


def _prepare(directory: Path, policy: int, *, aliases: str) -> tuple[dict[str, Sink], Authority]:
    extensions = ("PIPELINING", "SIZE", "ENHANCEDSTATUSCODES", "8BITMIME", "SMTPUTF8")
    sinks = {
        "dsn.test": Sink((*extensions, "DSN"), "250 2.1.5 Ok"),
        "plain.test": Sink((), "250 2.1.5 Ok"),
        "relay.test": Sink(extensions, "250 2.1.5 Ok", "250 2.0.0 Ok: queued as ABCDEF12"),
        "lmtp.test": Sink(extensions, "250 2.1.5 Ok"),
        "refuse.test": Sink((*extensions, "DSN"), "550 5.1.1 <x>: Recipient address rejected: User unknown"),
        "reject.test": Sink(extensions, "250 2.1.5 Ok", "554 5.7.1 Content is not welcome here"),
        "later.test": Sink(extensions, "450 4.2.0 try again"),
    }
    routes = [
        f"{domain} {'lmtp:inet' if domain == 'lmtp.test' else 'smtp'}:[127.0.0.1]:{sink.port}".replace(
            "inet:[127.0.0.1]", "inet:127.0.0.1"
        )
        for domain, sink in sinks.items()
    ]
    routes += ["error.test error:5.7.1 not here", "discard.test discard:thrown away", "pipe.test filter:"]
    routes += [f"dead.test smtp:[127.0.0.1]:{free_port()}", "x.test local:", "elsewhere.test error:no way"]
    names = ("reject REJECT go away", "defer DEFER_IF_PERMIT later", "discard DISCARD gone", "hold HOLD on",
             "redirect REDIRECT all@box.test", "bcc BCC copy@box.test", "prepend PREPEND X-Access: yes",
             "info INFO noted", "filter FILTER filter:dummy", "warn WARN noted")  # fmt: skip
    boxes = [
        "a",
        "b",
        "all",
        "copy",
        "notices",
        "double",
        "delays",
        "errors",
        "reject",
        "defer",
        "code",
        "prepend",
        "four",
    ]
    tables = {
        "boxes": "".join(f"{box}@box.test all/\n" for box in [*boxes, *(f"s{n}" for n in range(9)), "s"])
        + '"c d"@box.test all/\n',
        "aliases": (
            'all: a@box.test, b@box.test\npiped: "|exit 0"\nfiled: /dev/null\nlist: a@box.test, u@refuse.test\n'
            "owner-list: owner@box.test\npostmaster: a@box.test\nme: a@box.test\nmany: a@box.test, u@dsn.test\n"
        ),
        "virtual": "postmaster@x.test a@box.test\nme@x.test a@box.test\nzs@x.test a@box.test\n",
        "transport": "\n".join([*routes, ""]),
        "senders": "".join(f"{line.split(' ', 1)[0]}@good.test {line.split(' ', 1)[1]}\n" for line in names),
        "recipients": "four@box.test 421 4.3.2 closing\n",
        "header_checks": HEADER_CHECKS,
        "body_checks": BODY_CHECKS,
    }
    for name, text in tables.items():
        (directory / name).write_text(text)
    for name in ("mail", "spool"):
        (directory / name).mkdir()
    os.chown(directory / "mail", 65534, 65534)
    (directory / "spool").chmod(0o1777)
    certificate(directory, "mail.x.test")
    (directory / "main.cf").write_text(
        MAIN_CF.format(dir=directory, aliases=aliases, policy=policy, nameless=NAMELESS)
    )
    for name in ("queue", "queue/private", "queue/etc"):
        (directory / name).mkdir()
    for name, text in (
        ("resolv.conf", f"nameserver {NAME_SERVER}\n"),
        ("hosts", "127.0.0.1 localhost\n"),
        ("nsswitch.conf", "hosts: files dns\n"),
    ):
        (directory / "queue/etc" / name).write_text(text)
    return sinks, Authority(directory / "queue/private/auth")


def _smtpd(ports: list[int], chroot: str) -> str:
    """Lines of master.cf."""
    return "".join(
        f"127.0.0.1:{port} inet n - {chroot} - - smtpd {options}\n"
        for port, options in zip(ports, OPTIONS, strict=True)
    )


def _wait(ports: list[int]) -> None:
    """Until the ports are bound: nobody connects, for that is a line in the log."""
    end = time.monotonic() + 30
    for port in ports:
        while (
            f"127.0.0.1:{port} "
            not in subprocess.run(["ss", "-ltnH"], capture_output=True, text=True, check=True).stdout
        ):
            assert time.monotonic() < end
            time.sleep(0.05)


@contextmanager
def postfix(directory: Path, policy: PolicyServer) -> Iterator[World]:
    """A real Postfix; needs root."""
    sinks, authority = _prepare(directory, policy.port, aliases="hash")
    with (directory / "main.cf").open("a") as file:
        file.write(POSTFIX_CF.format(dir=directory))
    (directory / "data").mkdir()
    shutil.chown(directory / "data", "postfix")
    ports = free_ports(len(OPTIONS))
    (directory / "master.cf").write_text(_smtpd(ports, "y") + SERVICES)
    command = ["postfix", "-c", str(directory)]
    make_aliases(directory)
    shutil.chown(directory / "queue/private", "postfix")
    start_postfix(directory)
    commands = {
        name: [f"/usr/sbin/{name}", *(["-c", str(directory)] if name != "sendmail" else [])]
        for name in ("postsuper", "postqueue", "sendmail")
    } | {"reload": [*command, "reload"]}
    try:
        _wait(ports)
        yield World(directory, ports, commands, sinks)
    finally:
        stop_postfix(directory)
        authority.close()
        for sink in sinks.values():
            sink.close()


@contextmanager
def ours(directory: Path, policy: PolicyServer) -> Iterator[World]:
    """Our MTA."""
    sinks, authority = _prepare(directory, policy.port, aliases="hash")
    (directory / "mailstack.toml").write_text(f'[resolver]\nnameservers = ["{NAME_SERVER}:53"]\n')
    with (directory / "main.cf").open("a") as file:
        file.write(f"maillog_file = {directory}/log\n")
    ports = free_ports(len(OPTIONS))
    (directory / "master.cf").write_text(_smtpd(ports, "n") + SERVICES)
    with (directory / "stderr").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "mailstack.mta", "--config", str(directory)],
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
    commands = {
        name: [
            sys.executable,
            "-m",
            f"mailstack.mta.{name}",
            *(["-c", str(directory)] if name != "sendmail" else []),
        ]
        for name in ("postsuper", "postqueue", "sendmail")
    } | {"reload": ["kill", "-HUP", str(process.pid)]}
    try:
        _wait(ports)
        yield World(directory, ports, commands, sinks)
    finally:
        process.terminate()
        process.wait(30)
        authority.close()
        for sink in sinks.values():
            sink.close()
