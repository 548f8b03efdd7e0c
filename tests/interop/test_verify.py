"""Address verification, our MTA and the real Postfix on the same main.cf and master.cf.

Compared: what clients are told at RCPT TO, the first time and from the cache; what the servers that are asked are
told; the log's word on each probe; the cache, as the real postmap lists it; and what `sendmail -bv` reports.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.interop.delivery import SERVICES, reply
from tests.interop.real_postfix import make_aliases, start_postfix, stop_postfix, wait_for
from tests.ports import free_ports

pytestmark = pytest.mark.real


@dataclass(frozen=True)
class Scenario:
    """What a server says: replies by the beginning of a command."""

    extensions: tuple[str, ...] = (
        "PIPELINING",
        "SIZE 1000000",
        "ENHANCEDSTATUSCODES",
        "8BITMIME",
        "SMTPUTF8",
    )
    replies: dict[str, str] = field(default_factory=dict)
    silent: bool = False
    """Nothing is said to RCPT."""


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
local_recipient_maps =
alias_maps = {aliases}:{dir}/aliases
recipient_delimiter = +
forward_path = {dir}/forward-$user
relay_domains = relay.test
virtual_mailbox_domains = box.test
virtual_mailbox_base = {dir}/mail
virtual_mailbox_maps = texthash:{dir}/boxes
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
virtual_alias_maps = texthash:{dir}/virtual
relocated_maps = inline:{{ moved@x.test=new@y.test }}
queue_directory = {dir}/queue
data_directory = {dir}/data
transport_maps = texthash:{dir}/transport
disable_dns_lookups = yes
smtp_dns_support_level = disabled
smtp_helo_timeout = 30s
smtpd_reject_unlisted_recipient = no
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
smtpd_recipient_restrictions = reject_unverified_recipient
smtpd_error_sleep_time = 0
smtpd_hard_error_limit = 1000
notify_classes =
address_verify_poll_count = 4
address_verify_poll_delay = 1s
{extra}
"""
ROUTES = """\
plain.test smtp:[127.0.0.1]:{plain}
small.test smtp:[127.0.0.1]:{small}
down.test smtp:[127.0.0.1]:1
bye.test smtp:[127.0.0.1]:{bye}
from.test smtp:[127.0.0.1]:{from}
late.test smtp:[127.0.0.1]:{late}
target.test target:[127.0.0.1]:{target}
nodata.test target:[127.0.0.1]:{nodata}
lmtp.test lmtp:inet:127.0.0.1:{lmtp}
pipe.test piped:
error.test error:5.1.2 no such place
retry.test retry:4.3.1 come back
discard.test discard:thrown away
other.test lost:
"""
TABLES = {
    "boxes": "maildir@box.test all/\nfile@box.test file\n",
    "aliases": (
        "one: a@plain.test\ntwo: a@plain.test, b@plain.test\nrun: |/bin/true\nfile: /tmp/not-written\n"
        "lists: :include:{dir}/members\nown: a@plain.test, b@plain.test\nowner-own: root@x.test\n"
        "deep: one\nuser: nobody\nbad: no@plain.test\nmixed: |/bin/true, a@plain.test\npostmaster: nobody\n"
    ),
    "virtual": "single@x.test a@plain.test\nmany@x.test a@plain.test, b@plain.test\nsame@x.test nobody@x.test\n",
    "forward-daemon": "a@plain.test\n",
    "forward-bin": "/tmp/not-written, |/bin/true, \\\\bin\n",
    "members": "a@plain.test\nb@plain.test\n",
}
ASKED = Scenario(
    replies={
        "RCPT TO:<no@": "550 5.1.1 no such user",
        "RCPT TO:<later@": "450 4.2.1 come back",
        "RCPT TO:<lines@": "550-5.1.1 no\r\n550 5.1.1 such user",
        "RCPT TO:<nocode@": "550 nobody",
        "RCPT TO:<full@": "552 5.2.2 full",
        "RCPT TO:<bye@": "421 4.3.2 bye",
    }
)
SERVERS = {
    "plain": ASKED,
    "small": Scenario(extensions=()),
    "bye": Scenario(replies={"GREETING": "554 5.3.2 go away"}),
    "from": Scenario(replies={"MAIL": "550 5.7.1 not you"}),
    "late": Scenario(silent=True),
    "target": ASKED,
    "nodata": Scenario(replies={"DATA": "554 5.5.1 no data"}),
    "lmtp": ASKED,
}
RECIPIENTS = [
    *(f"{user}@plain.test" for user in ("ok", "no", "later", "lines", "nocode", "full", "bye", "Ok+x")),
    *(f"{user}@target.test" for user in ("ok", "no")),
    *(f"{user}@lmtp.test" for user in ("ok", "no", "later")),
    "a@small.test", "a@down.test", "a@bye.test", "a@from.test", "a@late.test", "a@nodata.test",
    "a@pipe.test", "a@error.test", "a@retry.test", "a@discard.test", "a@other.test",
    "maildir@box.test", "file@box.test", "nobody@box.test",
    "nobody", "nobody+x@x.test", "unknown@x.test", "daemon@x.test", "bin@x.test", "one@x.test", "two@x.test", "run@x.test",
    "file@x.test", "lists@x.test", "own@x.test", "deep@x.test", "user@x.test", "bad@x.test", "mixed@x.test",
    "single@x.test", "many@x.test", "same@x.test", "moved@x.test", "double-bounce@x.test", "postmaster",
    "postmaster@x.test", '"a b"@plain.test', "a:b@plain.test",
]  # fmt: skip
REASONS = {
    "unverified_recipient_reject_code": "550",
    "unverified_recipient_defer_code": "451",
    "unverified_recipient_reject_reason": "not here",
    "unverified_recipient_tempfail_action": "defer",
    "unverified_sender_reject_code": "553",
    "unverified_sender_defer_code": "452",
    "unverified_sender_tempfail_action": "defer_if_permit",
}
SERVICE_CASES = {
    "codes": (REASONS, ["ok@plain.test", "no@plain.test", "later@plain.test"], "s@plain.test"),
    "sender": (
        {"smtpd_sender_restrictions": "reject_unverified_sender", "smtpd_recipient_restrictions": ""},
        ["x@plain.test"],
        "no@plain.test",
    ),
    "sender later": (
        {"smtpd_sender_restrictions": "reject_unverified_sender", "smtpd_recipient_restrictions": ""},
        ["x@plain.test"],
        "later@plain.test",
    ),
    "sender codes": (
        {**REASONS, "smtpd_sender_restrictions": "reject_unverified_sender"},
        ["x@plain.test", "no@plain.test"],
        "no@plain.test",
    ),
    "sender later codes": (
        {**REASONS, "smtpd_sender_restrictions": "reject_unverified_sender"},
        ["x@plain.test", "no@plain.test"],
        "later@plain.test",
    ),
    "null sender": ({"smtpd_sender_restrictions": "reject_unverified_sender"}, ["ok@plain.test"], ""),
    "sender at once": (
        {"smtpd_sender_restrictions": "reject_unverified_sender", "smtpd_delay_reject": "no"},
        ["ok@plain.test"],
        "no@plain.test",
    ),
    "recipient in the wrong place": (
        {"smtpd_sender_restrictions": "reject_unverified_recipient", "smtpd_delay_reject": "no"},
        ["no@plain.test"],
        "s@plain.test",
    ),
    "only a warning": (
        {"smtpd_recipient_restrictions": "warn_if_reject, reject_unverified_recipient"},
        ["no@plain.test", "later@plain.test"],
        "s@plain.test",
    ),
    "out of a table": (
        {
            "smtpd_recipient_restrictions": "check_recipient_access inline:{plain.test=reject_unverified_recipient}"
        },
        ["no@plain.test", "no@box.test"],
        "s@plain.test",
    ),
    "taken all the same": (
        {"unverified_recipient_reject_code": "250", "unverified_recipient_defer_code": "250"},
        ["no@plain.test", "later@plain.test"],
        "s@plain.test",
    ),
    "no waiting": ({"address_verify_poll_count": "1"}, ["fresh@plain.test"], "s@plain.test"),
    "tempfail": (
        {
            "smtpd_recipient_restrictions": "reject_unverified_recipient, permit",
            "reject_tempfail_action": "defer",
        },
        ["later@plain.test"],
        "s@plain.test",
    ),
    "own probe": (
        {"smtpd_client_restrictions": "reject"},
        ["double-bounce@x.test", "DOUBLE-BOUNCE@X.test", "double-bounce@mail.x.test", "other@x.test"],
        "s@plain.test",
    ),
}


class Server:
    """An SMTP or LMTP server that takes no mail, and remembers what it has been asked."""

    def __init__(self, scenario: Scenario) -> None:
        self.heard: list[str] = []
        self._scenario = scenario
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._sock.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._sock.close()

    def _accept(self) -> None:
        while True:
            try:
                conn, _ = self._sock.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(conn,), daemon=True).start()

    def _talk(self, conn: socket.socket) -> None:
        scenario, accepted = self._scenario, 0
        with conn, conn.makefile("rb") as stream:
            try:
                self._say(conn, scenario.replies.get("GREETING", "220 peer.test ESMTP"))
                while line := stream.readline():
                    command = line.decode().rstrip()
                    self.heard.append(command)
                    verb = command.split(" ")[0]
                    default = {"RCPT": "250 2.1.5 Ok", "QUIT": "221 2.0.0 Bye"}.get(verb, "250 2.0.0 Ok")
                    if verb == "EHLO":
                        lines = ["peer.test", *scenario.extensions]
                        default = "\r\n".join([*(f"250-{one}" for one in lines[:-1]), f"250 {lines[-1]}"])
                    elif verb == "DATA":
                        default = "354 go" if accepted else "554 5.5.1 no valid recipients"
                        default = scenario.replies.get("DATA", default)
                    elif verb == "RCPT" and scenario.silent:
                        time.sleep(8)
                        return
                    text = next((v for k, v in scenario.replies.items() if command.startswith(k)), default)
                    accepted += verb == "RCPT" and text.startswith("2")
                    self._say(conn, text)
                    if verb == "QUIT":
                        return
            except OSError:
                pass

    @staticmethod
    def _say(conn: socket.socket, text: str) -> None:
        conn.sendall(text.encode() + b"\r\n")


@dataclass
class World:
    """One MTA, and the servers around it."""

    directory: Path
    ports: dict[str, int]
    servers: dict[str, Server]
    sendmail: list[str] = field(default_factory=list)

    def ask(self, service: str, sender: str, recipients: list[str]) -> list[str]:
        """The replies to MAIL and to each RCPT."""
        with (
            socket.create_connection(("127.0.0.1", self.ports[service]), timeout=60) as sock,
            sock.makefile("rb") as stream,
        ):
            reply(stream)
            replies = []
            for line in (
                "EHLO client.test",
                f"MAIL FROM:<{sender}>",
                *(f"RCPT TO:<{to}>" for to in recipients),
            ):
                sock.sendall(line.encode() + b"\r\n")
                replies.append(_tidy(reply(stream).decode()))
            sock.sendall(b"QUIT\r\n")
            reply(stream)
            return replies[1:]

    def log(self) -> str:
        return (self.directory / "log").read_text("utf-8", "replace")

    def probes(self, address: str) -> list[str]:
        """What the log says of the probes of an address."""
        found = re.findall(rf"(postfix/[\w-]+)\[\d+\]: \w+: to=<{re.escape(address)}>,(.*)", self.log())
        return sorted(
            _tidy(re.sub(r" (conn_use|delays?)=[^ ]+", "", f"{daemon}{rest}")) for daemon, rest in found
        )

    def rejects(self) -> list[str]:
        """The log's word on refusals."""
        found = re.findall(r"NOQUEUE: (?:reject|reject_warning): .*", self.log())
        return [_tidy(re.sub(r"from \S+\[127.0.0.1\]", "from CLIENT", line)) for line in found]

    def cache(self) -> dict[str, str]:
        """The cache as postmap lists it: addresses, their states and texts."""
        copy = self.directory / "copy"
        shutil.copy(self.directory / "data" / "verify_cache.db", f"{copy}.db")
        listed = subprocess.run(
            ["postmap", "-s", f"btree:{copy}"], capture_output=True, check=True, timeout=30
        )
        records = dict(line.split("\t", 1) for line in listed.stdout.decode().splitlines())
        return {
            key: _tidy(re.sub(r"^(\d):(\d+):(\d+):", _when, value))
            for key, value in records.items()
            if not key.startswith("_LAST_CACHE")
        }

    def heard(self, name: str) -> list[str]:
        return sorted({re.sub(r"SIZE=\d+", "SIZE=N", text) for text in self.servers[name].heard})


def _when(match: re.Match[str]) -> str:
    return f"{match[1]}:{'then' if match[2] != '0' else 0}:{'then' if match[3] != '0' else 0}:"


def _tidy(text: str) -> str:
    text = re.sub(r"(127\.0\.0\.1\]?):\d\d+", r"\1:PORT", text)
    return re.sub(r"/tmp/[^ ]*?(ours|theirs)\d+", "DIR", text)


def _prepare(directory: Path, extra: str, *, aliases: str) -> tuple[dict[str, Server], dict[str, int], str]:
    servers = {name: Server(scenario) for name, scenario in SERVERS.items()}
    ports = {name: server.port for name, server in servers.items()}
    (directory / "transport").write_text(ROUTES.format(**ports))
    for name, text in TABLES.items():
        (directory / name).write_text(text.format(dir=directory))
    (directory / "main.cf").write_text(MAIN_CF.format(dir=directory, aliases=aliases, extra=extra))
    for folder in ("queue", "data", "mail"):
        (directory / folder).mkdir()
    shutil.chown(directory / "data", "postfix")
    shutil.chown(directory / "mail", 65534, 65534)
    services = dict(zip(("main", *SERVICE_CASES), free_ports(1 + len(SERVICE_CASES)), strict=True))
    lines = []
    for name, port in services.items():
        lines.append(f"127.0.0.1:{port} inet n - n - - smtpd")
        options = SERVICE_CASES[name][0] if name != "main" else {}
        lines += [f"  -o {{ {key} = {value} }}" for key, value in options.items()]
    lines += [
        "verify unix - - n - 1 verify",
        "target unix - - n - - smtp -o smtp_address_verify_target=data",
        "piped unix - n n - - pipe user=nobody argv=/bin/cat ${recipient}",
    ]
    return servers, services, SERVICES + "\n".join(lines) + "\n"


@contextmanager
def postfix(directory: Path, extra: str = "") -> Iterator[World]:
    servers, ports, services = _prepare(directory, f"maillog_file = {directory}/log\n{extra}", aliases="hash")
    try:
        (directory / "master.cf").write_text(services)
        make_aliases(directory)
        start_postfix(directory)
        wait_for(ports["main"])
        yield World(directory, ports, servers, ["/usr/sbin/sendmail", "-C", str(directory)])
    finally:
        stop_postfix(directory)
        for server in servers.values():
            server.close()


@contextmanager
def ours(directory: Path, extra: str = "") -> Iterator[World]:
    servers, ports, services = _prepare(directory, extra, aliases="hash")
    (directory / "aliases").write_text(TABLES["aliases"].format(dir=directory))
    main_cf = directory / "main.cf"
    main_cf.write_text(
        main_cf.read_text().replace("texthash:" + str(directory / "aliases"), f"hash:{directory}/aliases")
    )
    (directory / "master.cf").write_text(services)
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mailstack.mta", "--config", str(directory)],
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
    try:
        wait_for(ports["main"])
        command = [sys.executable, "-m", "mailstack.mta.sendmail", "--config", str(directory)]
        yield World(directory, ports, servers, command)
    finally:
        process.terminate()
        process.wait(30)
        for server in servers.values():
            server.close()


@dataclass
class Found:
    """What one MTA has done."""

    replies: dict[str, list[str]]
    again: dict[str, list[str]]
    services: dict[str, list[str]]
    probes: dict[str, list[str]]
    rejects: list[str]
    cache: dict[str, str]
    heard: dict[str, list[str]]


def run(world: World) -> Found:
    """Every recipient, twice; then the services one after the other."""

    def ask(recipient: str) -> list[str]:
        return world.ask("main", "s@plain.test", [recipient])

    with ThreadPoolExecutor(24) as pool:
        replies = dict(zip(RECIPIENTS, pool.map(ask, RECIPIENTS), strict=True))
        known = [recipient for recipient in RECIPIENTS if recipient != "a@late.test"]
        again = dict(zip(known, pool.map(ask, known), strict=True))
    services = {
        name: world.ask(name, sender, recipients) for name, (_, recipients, sender) in SERVICE_CASES.items()
    }
    end = time.monotonic() + 10
    while "to=<fresh@plain.test>" not in world.log().partition("status=")[2] and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(1)
    return Found(
        replies,
        again,
        services,
        {recipient: world.probes(recipient) for recipient in [*RECIPIENTS, "a@plain.test"]},
        world.rejects(),
        world.cache(),
        {name: world.heard(name) for name in SERVERS},
    )


def _readable(folder: Path) -> Path:
    """A folder that Postfix's accounts may enter."""
    for one in (folder, *folder.parents):
        if one not in (Path("/"), Path("/tmp")):
            one.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Found, Found]:
    if shutil.which("postfix") is None or os.geteuid() != 0:
        pytest.skip("needs Postfix and root")
    with postfix(_readable(tmp_path_factory.mktemp("theirs"))) as world:
        reference = run(world)
    with ours(_readable(tmp_path_factory.mktemp("ours"))) as world:
        return reference, run(world)


@pytest.mark.parametrize("recipient", RECIPIENTS)
def test_the_same_is_found_out(answers: tuple[Found, Found], recipient: str) -> None:
    theirs, mine = answers
    assert mine.replies[recipient] == theirs.replies[recipient]
    assert mine.again.get(recipient) == theirs.again.get(recipient)
    assert mine.probes[recipient] == theirs.probes[recipient]


@pytest.mark.parametrize("name", SERVICE_CASES)
def test_the_same_is_answered(answers: tuple[Found, Found], name: str) -> None:
    theirs, mine = answers
    assert mine.services[name] == theirs.services[name]


@pytest.mark.parametrize("name", SERVERS)
def test_the_same_is_asked(answers: tuple[Found, Found], name: str) -> None:
    theirs, mine = answers
    told = theirs.heard[name]
    if name == "plain":  # a probe of a:b@plain.test goes to that address here
        told = sorted({text.replace("a_b@", '"a:b"@') for text in told})
    if name == "from":  # commands of a probe are not sent together
        told = [text for text in told if not text.startswith("RCPT")]
    assert mine.heard[name] == told


def test_the_same_is_remembered_and_logged(answers: tuple[Found, Found]) -> None:
    theirs, mine = answers
    assert mine.cache == theirs.cache
    assert sorted(mine.rejects) == sorted(theirs.rejects)


OTHER = """\
address_verify_negative_cache = no
address_verify_sender = probe@x.test
address_verify_sender_ttl = 1d
address_verify_transport_maps = inline:{ late.test=discard:late }
address_verify_virtual_transport = error:5.2.1 not for probes
address_verify_local_transport = retry:4.2.0 not now
address_verify_default_transport = discard
address_verify_poll_count = 2
unverified_recipient_reject_reason = ${reasons}
reasons = nothing known
mailbox_command = /bin/cat
home_mailbox = Maildir/
"""
ELSEWHERE = ["a@late.test", "no@plain.test", "maildir@box.test", "nobody@x.test", "a@far.test", "many@x.test"]
QUESTIONS = [
    "ok@plain.test", "no@plain.test", "later@plain.test", "nobody@x.test", "daemon@x.test", "unknown@x.test",
    "bin@x.test", "run@x.test", "two@x.test", "single@x.test", "many@x.test", "maildir@box.test", "a@error.test", "a@retry.test",
]  # fmt: skip


@dataclass
class Report:
    """What two MTAs with other parameters have done."""

    replies: list[list[str]]
    own: list[str]
    cache: dict[str, str]
    senders: list[str]
    said: bytes
    report: str


def _other(world: World) -> Report:
    with ThreadPoolExecutor(24) as pool:
        replies = list(pool.map(lambda to: world.ask("main", "s@plain.test", [to]), ELSEWHERE))
    senders = sorted(set(re.findall(r"from=<(probe[^>]*)>", world.log())))
    own = world.ask("own probe", "s@plain.test", [*senders, "probe@x.test", "double-bounce@x.test"])
    command = [*world.sendmail, "-bv", "-f", "maildir@box.test", *QUESTIONS]
    said = subprocess.run(command, capture_output=True, timeout=30, check=True).stdout
    folder = world.directory / "mail" / "all" / "new"
    end = time.monotonic() + 20
    while time.monotonic() < end and not (folder.is_dir() and any(folder.iterdir())):
        time.sleep(0.1)
    [path] = folder.iterdir()
    return Report(replies, own, world.cache(), senders, said, path.read_text("utf-8"))


def _plain(report: str) -> list[str]:
    """The paragraphs of a report, without what differs from time to time."""
    text = re.sub(r"127\.0\.0\.1\]:\d+", "127.0.0.1]:PORT", report.replace("\r\n", "\n"))
    text = re.sub(r"(?m)^((?:Arrival-)?Date:|Received:.*;).*$", r"\1", re.sub(r"\n[ \t]+", " ", text))
    text = re.sub(r"<\d{14}\.\w+@|\b[0-9A-F]{9,}\b(\.\d+)?", "ID", text)
    return sorted(paragraph.strip("\n") for paragraph in text.split("\n\n"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Report]:
    if shutil.which("postfix") is None or os.geteuid() != 0:
        pytest.skip("needs Postfix and root")
    found = []
    for name, start in (("theirs", postfix), ("ours", ours)):
        directory = _readable(tmp_path_factory.mktemp(name))
        with start(directory, OTHER.replace("{dir}", str(directory))) as world:
            found.append(_other(world))
    return found[0], found[1]


def test_the_same_with_other_parameters(others: tuple[Report, Report]) -> None:
    theirs, mine = others
    assert mine.replies == theirs.replies
    assert mine.cache == theirs.cache
    assert mine.senders == theirs.senders
    assert mine.own == theirs.own


def test_the_same_is_reported_to_who_asks(others: tuple[Report, Report]) -> None:
    theirs, mine = others
    assert mine.said == theirs.said
    assert _plain(mine.report) == _plain(theirs.report)
