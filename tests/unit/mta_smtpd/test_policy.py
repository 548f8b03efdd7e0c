"""Policy services and DNS lists: what is asked, what answers mean, and what happens without one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from mailstack.config.errors import ConfigError
from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.smtpd.dnsbl import DnsLists, matches, parse_pattern, reversed_address
from mailstack.mta.smtpd.policy import encode
from mailstack.mta.smtpd.settings import Settings
from mailstack.mta.smtpd.verdicts import Phase, Rejection
from mailstack.net.listen import Server, bind_unix
from mailstack.net.stream import Stream
from mailstack.net.tasks import TaskSet
from mailstack.storage.tables import open_table
from tests.unit.mta_smtpd.clients import Client
from tests.unit.mta_smtpd.serving import TLS_CF, make_certificate, settings_of

WORDS = "smtpd_recipient_restrictions = check_policy_service {}\nsmtpd_policy_service_retry_delay = 0s\n"


class PolicyServer:
    """Answers with `answers`, one after the other; an empty answer hangs up."""

    def __init__(self, answers: list[bytes]) -> None:
        self.answers = answers
        self.connections = 0
        self.asked: list[dict[str, str]] = []

    async def serve(self, stream: Stream) -> None:
        self.connections += 1
        buffer = b""
        while True:
            data = await stream.read(5.0)
            if not data:
                return
            buffer += data
            while b"\n\n" in buffer:
                request, _, buffer = buffer.partition(b"\n\n")
                lines = request.decode().splitlines()
                self.asked.append({line.split("=", 1)[0]: line.split("=", 1)[1] for line in lines})
                answer = self.answers.pop(0)
                if not answer:
                    return
                stream.write(answer)


@asynccontextmanager
async def policy_server(path: Path, *answers: bytes) -> AsyncIterator[PolicyServer]:
    policy = PolicyServer(list(answers))
    tasks = TaskSet(lambda name, error: None)
    server = Server(bind_unix(path), policy.serve, tasks, name="policy")
    await server.start()
    try:
        yield policy
    finally:
        server.stop()
        await tasks.drain(0)
        await asyncio.sleep(0)


async def judge(settings: Settings, client: Client) -> str:
    verdict = await settings.restrictions[Phase.RECIPIENT].evaluate(client)
    return str(verdict.reply) if isinstance(verdict, Rejection) else str(verdict and verdict.value)


def test_one_connection_serves_many_requests(tmp_path: Path) -> None:
    async def run() -> None:
        async with policy_server(
            tmp_path / "queue/private/policy",
            b"action=DUNNO\n\n",
            b"action=REJECT no\0pe\n\n",
            b"action=OK\n\n",
        ) as policy:
            client = Client()
            assert await judge(settings, client) == "None"
            assert await judge(settings, client) == "554 5.7.1 <x@far.test>: Recipient address rejected: no"
            assert await judge(settings, client) == "permit"
            assert (policy.connections, len(policy.asked)) == (1, 3)
            assert policy.asked[0]["recipient"] == "x@far.test"
            settings.compiler.close()
            assert client.warnings == []

    settings = settings_of(tmp_path, WORDS.format("unix:private/policy"))
    (tmp_path / "queue/private").mkdir(exist_ok=True)
    asyncio.run(run())


def test_a_request_limit_ends_a_connection(tmp_path: Path) -> None:
    async def run() -> None:
        async with policy_server(tmp_path / "policy", *[b"action=DUNNO\n\n"] * 3) as policy:
            for _ in range(3):
                assert await judge(settings, Client()) == "None"
            assert policy.connections == 3

    extra = f"check_policy_service {{ unix:{tmp_path}/policy, request_limit = 1 }}"
    settings = settings_of(tmp_path, f"smtpd_recipient_restrictions = {extra}\n")
    asyncio.run(run())


@pytest.mark.parametrize("answers", [(b"", b""), (b"nonsense\n\n", b"what=DUNNO\n\n")])
def test_no_answer_is_the_default_action(tmp_path: Path, answers: tuple[bytes, ...]) -> None:
    async def run() -> None:
        async with policy_server(tmp_path / "policy", *answers) as policy:
            client = Client()
            reply = "451 4.3.5 <x@far.test>: Recipient address rejected: Server configuration problem"
            assert await judge(settings, client) == reply
            assert policy.connections == 2
            assert len(client.warnings) == 2
            assert client.warnings[0].startswith(f"problem talking to server unix:{tmp_path}/policy: ")

    settings = settings_of(tmp_path, WORDS.format(f"unix:{tmp_path}/policy"))
    asyncio.run(run())


def test_a_server_that_is_not_there_is_the_default_action(tmp_path: Path) -> None:
    settings = settings_of(
        tmp_path, WORDS.format(f"{{ unix:{tmp_path}/none, default_action=DUNNO, try_limit=1 }}")
    )
    client = Client()
    assert asyncio.run(judge(settings, client)) == "None"
    assert client.warnings == [f"problem talking to server unix:{tmp_path}/none: No such file or directory"]


def test_a_list_may_be_written_with_a_dot_at_the_end() -> None:
    class Lists:
        asked: ClassVar[list[str]] = []

        async def listed(self, name: str, *, timeout: float) -> list[str]:
            self.asked.append(name)
            return []

    conf = MainCf.parse("", Path("main.cf"))
    lists = DnsLists(conf, Lists(), open_table, lambda client: True)  # type: ignore[arg-type]
    for name in ("bl.test", "bl.test."):
        check = lists.check("reject_rbl_client", name)
        assert check is not None
        assert asyncio.run(check(Client())) is None  # type: ignore[arg-type]
    assert len(set(Lists.asked)) == 1


def test_a_value_cannot_forge_an_attribute() -> None:
    assert encode({"sender": "a\naction=OK\n\n", "size": "1"}) == b"sender=a action=OK  \nsize=1\n\n"


@pytest.mark.parametrize(
    "words, message",
    [
        ("check_policy_service", "check_policy_service needs a server"),
        ("check_policy_service hash:/x", "unix:path or inet:host:port"),
        ("check_policy_service inet:host:smtp", "names no port number"),
        ("check_policy_service { inet:h:1, colour=red }", "policy service syntax error: 'colour=red'"),
        ("check_policy_service { inet:h:1, timeout=soon }", "timeout is no time"),
        ("reject_rbl_client", "reject_rbl_client needs a domain name"),
        ("reject_rbl_client bl.test=127.0.0", "bad DNS list or reply pattern"),
        ("reject_rbl_client bl.test=127.0.0.[9..2]", "bad DNS list or reply pattern"),
        ("sleep soon", "restriction sleep must be followed by number"),
        ("warn_if_reject check_sasl_access", "check_sasl_access needs a table"),
    ],
)
def test_what_cannot_be_asked_is_a_configuration_error(tmp_path: Path, words: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings_of(tmp_path, f"smtpd_data_restrictions = {words}\n")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "extra, message",
    [
        ("smtpd_restriction_classes = a", "restriction class `a' needs a definition"),
        ("smtpd_restriction_classes = a\na = reject, a\nsmtpd_data_restrictions = a", "contains itself"),
        ("smtpd_authorized_xclient_hosts = 300.1.1.1", "smtpd_authorized_xclient_hosts:"),
        (f"{TLS_CF}smtpd_upstream_proxy_protocol = haproxy\nsmtpd_tls_wrappermode = yes",
         "not together with smtpd_tls_wrappermode"),
        (f"{TLS_CF}smtpd_tls_ask_ccert = yes", "smtpd_tls_CAfile: client certificates need an authority"),
    ],
)  # fmt: skip
def test_other_configuration_errors(tmp_path: Path, extra: str, message: str) -> None:
    make_certificate(tmp_path)
    with pytest.raises(ConfigError) as caught:
        settings_of(tmp_path, extra.replace("{dir}", str(tmp_path)) + "\n")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "pattern, good, bad",
    [
        ("127.0.0.2", "127.0.0.2", "127.0.0.3"),
        ("127.0.0.[2..4]", "127.0.0.4", "127.0.0.5"),
        ("127.0.0.[1;3;5..7]", "127.0.0.6", "127.0.0.2"),
        ("127.[0..1].0.[0..255]", "127.1.0.9", "127.2.0.9"),
    ],
)
def test_reply_patterns(pattern: str, good: str, bad: str) -> None:
    parsed = parse_pattern(pattern)
    assert parsed is not None
    assert matches(parsed, good) and not matches(parsed, bad)


def test_addresses_are_turned_round() -> None:
    assert reversed_address("192.0.2.99") == "99.2.0.192"
    assert reversed_address("2001:db8::1") == "1." + "0." * 23 + "8.b.d.0.1.0.0.2"
    assert reversed_address("unknown") == ""
