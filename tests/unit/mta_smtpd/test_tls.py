"""What main.cf makes of smtpd's TLS; tests/interop/test_smtpd_tls_differential.py shakes hands with it."""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
import subprocess
from pathlib import Path

import pytest

from mailstack.config.errors import ConfigError
from mailstack.net.stream import Stream
from mailstack.net.tls import Protocols, parse_protocols
from tests.unit.mta_smtpd.serving import TLS_CF, make_certificate, running, settings_of

V = ssl.TLSVersion


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        (">=TLSv1", V.TLSv1_2, V.TLSv1_3),
        ("<=TLSv1.2", V.TLSv1_2, V.TLSv1_2),
        (">=0304", V.TLSv1_3, V.TLSv1_3),
        ("!SSLv2, !SSLv3, !TLSv1.3", V.TLSv1_2, V.TLSv1_2),
        ("tlsv1.3 TLSv1", V.TLSv1_3, V.TLSv1_3),
    ],
)
def test_protocols_that_clients_offer(text: str, low: ssl.TLSVersion, high: ssl.TLSVersion) -> None:
    assert parse_protocols(text) == Protocols(low, high)


def test_protocols_in_between_can_be_left_out() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    parse_protocols("!TLSv1.1, !TLSv1.2", "TLSv1").limit(context)
    assert (context.minimum_version, context.maximum_version) == (V(0x0301), V.TLSv1_3)
    assert context.options & (1 << 28) and context.options & (1 << 27)


@pytest.mark.parametrize("text", ["<=TLSv1.1", "!TLSv1.2 !TLSv1.3", "0303", ">=nothing", "TLSv9"])
def test_protocols_that_cannot_be_spoken(text: str) -> None:
    with pytest.raises(ValueError, match="TLS protocol"):
        parse_protocols(text)


def test_versions_before_1_2_are_spoken_only_where_they_are_asked_for(tmp_path: Path) -> None:
    make_certificate(tmp_path)
    plain = TLS_CF.format(dir=tmp_path)
    for extra, lowest in (
        ("", V.TLSv1_2),
        ("smtpd_tls_protocols = >=TLSv1\n", V(0x0301)),
        ("smtpd_tls_mandatory_protocols = >=TLSv1\n", V.TLSv1_2),
        ("smtpd_tls_mandatory_protocols = >=TLSv1\nsmtpd_tls_wrappermode = yes\n", V(0x0301)),
    ):
        context = settings_of(tmp_path, plain + extra).tls
        assert context is not None
        assert context.minimum_version == lowest, extra


@pytest.mark.parametrize(
    ("extra", "problem"),
    [
        ("smtpd_tls_protocols = SSLv3", "smtpd_tls_protocols: no TLS protocol is left"),
        ("smtpd_tls_ciphers = strong", "smtpd_tls_ciphers: expected one of export, low, medium, high, null"),
        ("tls_medium_cipherlist = NOSUCH", "smtpd_tls_ciphers: no cipher is left of @SECLEVEL=0:NOSUCH"),
        ("smtpd_tls_exclude_ciphers = a@b", "tls_medium_cipherlist: invalid character in the exclusion 'a@b'"),
        ("tls_eecdh_auto_curves = nosuch", "tls_eecdh_auto_curves: unknown curve 'nosuch'"),
        ("tls_ssl_options = NO_SUCH", "tls_ssl_options: unknown name or number: 'NO_SUCH'"),
        ("tls_disable_workarounds = 0xzz", "tls_disable_workarounds: unknown name or number: '0xzz'"),
        ("smtpd_tls_dh1024_param_file = {dir}/main.cf", "smtpd_tls_dh1024_param_file: {dir}/main.cf: "),
        ("smtpd_tls_cert_file = none", "smtpd_tls_cert_file: TLS needs a certificate"),
        ("tls_server_sni_maps = tcp:127.0.0.1:1", "tls_server_sni_maps: tcp:127.0.0.1:1: a handshake waits for no"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_a_configuration_error(tmp_path: Path, extra: str, problem: str) -> None:
    from mailstack.mta.lookup import opener
    from mailstack.mta.smtpd.tls import make_context
    from mailstack.net.log import Log
    from tests.unit.mta_smtpd.serving import write_config

    make_certificate(tmp_path)
    with pytest.raises(ConfigError) as caught:
        conf = write_config(tmp_path, (TLS_CF + extra + "\n").replace("{dir}", str(tmp_path)))
        make_context(conf, tmp_path, opener(), Log("postfix/smtpd", "mail", fd=-1))
    assert problem.replace("{dir}", str(tmp_path)) in str(caught.value)


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        ("smtpd_tls_chain_files = {dir}/cert.pem", "TLS library problem: a certificate without a private key"),
        ("smtpd_tls_chain_files = {dir}/key.pem", "TLS library problem: a private key without a certificate"),
        ("smtpd_tls_chain_files = {dir}/main.cf", "No PEM data in {dir}/main.cf"),
        ("smtpd_tls_key_file = {dir}/main.cf", 'cannot get RSA private key from file "{dir}/main.cf": disabling'),
        ("smtpd_tls_eccert_file = {dir}/none.pem", "error opening chain file: {dir}/none.pem: No such file or dir"),
        ("smtpd_tls_ask_ccert = yes\nsmtpd_tls_CAfile = /no", 'Certification Authority data, CAfile="/no": disab'),
    ],
)  # fmt: skip
def test_certificates_that_cannot_be_used_disable_tls(tmp_path: Path, extra: str, why: str) -> None:
    make_certificate(tmp_path)

    async def client() -> tuple[list[bytes], list[str]]:
        conf = (TLS_CF + extra + "\nsmtpd_sasl_auth_enable = no\n").replace("{dir}", str(tmp_path))
        async with running(tmp_path, conf) as smtpd:
            stream = await smtpd.connect()
            stream.write(b"EHLO x\r\nSTARTTLS\r\nMAIL FROM:<>\r\nQUIT\r\n")
            said = b""
            while data := await stream.read(5.0):
                said += data
            return said.splitlines(), smtpd.log()

    replies, log = asyncio.run(client())
    assert b"250-STARTTLS" in replies  # Postfix offers it all the same
    assert b"454 4.7.0 TLS not available due to local problem" in replies and b"250 2.1.0 Ok" in replies
    assert any(why.replace("{dir}", str(tmp_path)) in line for line in log), log


def test_a_port_that_begins_with_tls_is_closed_without_a_certificate(tmp_path: Path) -> None:
    async def client() -> tuple[bytes, list[str]]:
        async with running(tmp_path, "smtpd_tls_wrappermode = yes\n") as smtpd:
            stream = await smtpd.connect()
            return await stream.read(5.0), smtpd.log()

    said, log = asyncio.run(client())
    assert said == b""
    assert log[0] == "smtpd: warning: No server certs available. TLS won't be enabled"
    assert log[2].startswith(
        "smtpd: warning: Wrapper-mode request dropped from localhost[127.0.0.1] for service smtp"
    )


WRAPPED = TLS_CF + "smtpd_tls_wrappermode = yes\nsmtpd_client_connection_count_limit = 1\n"


async def _until_closed(stream: Stream) -> bytes:
    try:
        return await stream.read(30.0)
    except ConnectionError:
        return b""


def test_who_never_begins_the_handshake_is_told_of_and_limited_and_hurried(tmp_path: Path) -> None:
    """As Postfix logs it; the limit on connections counts him, which Postfix's does only after the handshake."""
    make_certificate(tmp_path)

    async def client() -> list[str]:
        conf = WRAPPED.replace("{dir}", str(tmp_path)) + "smtpd_starttls_timeout = ${stress?{1s}:{300s}}\n"
        async with running(tmp_path, conf) as smtpd:
            silent, second = await smtpd.connect(), await smtpd.connect()
            assert await _until_closed(second) == b""
            smtpd.shared.hurry()  # as a worker does that has hardly room for another session
            assert await _until_closed(silent) == b""
            await smtpd.until(lambda log: sum("disconnect from" in line for line in log) == 2)
            return smtpd.log()

    name = "localhost[127.0.0.1]"
    assert asyncio.run(client()) == [
        f"smtpd: connect from {name}",
        f"smtpd: connect from {name}",
        f"smtpd: warning: Connection concurrency limit exceeded: 2 from {name} for service smtp",
        f"smtpd: disconnect from {name} commands=0/0",
        f"smtpd: SSL_accept error from {name}: Connection timed out",
        f"smtpd: lost connection after CONNECT from {name}",
        f"smtpd: disconnect from {name} commands=0/0",
    ]


@pytest.mark.parametrize("words", [b"", b"EHLO in.plain.text\r\n"])
def test_who_leaves_or_talks_instead_of_a_handshake(tmp_path: Path, words: bytes) -> None:
    make_certificate(tmp_path)

    async def client() -> list[str]:
        async with running(tmp_path, WRAPPED.replace("{dir}", str(tmp_path))) as smtpd:
            stream = await smtpd.connect()
            stream.write(words)
            if not words:
                stream.close()
            await smtpd.until(lambda log: any("disconnect from" in line for line in log))
            return smtpd.log()

    log = asyncio.run(client())
    assert ("SSL_accept error" in log[1], log[-2].partition(" from")[0]) == (
        True,
        "smtpd: lost connection after CONNECT",
    )
    assert log[1].endswith(": -1" if words else ": lost connection")


def test_a_worker_that_stops_waits_for_no_handshake(tmp_path: Path) -> None:
    make_certificate(tmp_path)

    async def client() -> None:
        async with running(tmp_path, WRAPPED.replace("{dir}", str(tmp_path))) as smtpd:
            stream = await smtpd.connect()
            await smtpd.until(lambda log: any("connect from" in line for line in log))
            for session in list(smtpd.shared.sessions):
                session.stop()
            assert await _until_closed(stream) == b""
            assert not smtpd.shared.sessions

    asyncio.run(client())


@pytest.mark.parametrize(
    ("level", "more", "required"),
    [("", "smtpd_use_tls", False), ("", "smtpd_enforce_tls", True), ("none", "smtpd_enforce_tls", None)],
)
def test_old_names(tmp_path: Path, level: str, more: str, required: bool | None) -> None:
    make_certificate(tmp_path)
    extra = TLS_CF.format(dir=tmp_path) + f"smtpd_tls_security_level = {level}\n{more} = yes\n"
    settings = settings_of(tmp_path, extra)
    assert (settings.tls_required if settings.tls is not None else None) is required


def test_a_folder_of_authorities(tmp_path: Path) -> None:
    make_certificate(tmp_path)
    (tmp_path / "ca").mkdir()
    name = subprocess.run(
        ["openssl", "x509", "-hash", "-noout", "-in", str(tmp_path / "cert.pem")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    os.symlink(tmp_path / "cert.pem", tmp_path / "ca" / f"{name}.0")
    extra = (
        TLS_CF
        + "smtpd_tls_security_level = encrypt\nsmtpd_tls_req_ccert = yes\nsmtpd_tls_CApath = {dir}/ca\n"
    )
    assert asyncio.run(_subject(tmp_path, extra, certificate=True)) == "localhost"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        asyncio.run(_subject(tmp_path, extra, certificate=False))


def test_a_chain_out_of_a_table_and_what_is_wrong_with_one(tmp_path: Path) -> None:
    make_certificate(tmp_path)
    chain = (tmp_path / "key.pem").read_bytes() + (tmp_path / "cert.pem").read_bytes()
    code = base64.b64encode(chain).decode()
    extra = TLS_CF + f"tls_server_sni_maps = inline:{{ {{a.test={code}}} {{b.test=?}} }}\n"
    assert asyncio.run(_subject(tmp_path, extra, name="a.test")) == "localhost"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        asyncio.run(_subject(tmp_path, extra, name="b.test"))
    wrong = "tls_server_sni_maps: b.test: neither files nor what postmap -F makes of them"
    assert wrong in (tmp_path / "log").read_text()


async def _subject(directory: Path, extra: str, *, certificate: bool = False, name: str = "localhost") -> str:
    """The name in the certificate that a client is shown, once the server has taken the client's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(directory / "cert.pem")
    context.check_hostname = False
    if certificate:
        context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    async with running(directory, extra.replace("{dir}", str(directory))) as smtpd:
        client = await smtpd.connect()
        for line in (b"", b"EHLO x\r\n", b"STARTTLS\r\n"):
            client.write(line)
            await client.read(10.0)
        await client.start_tls(context, 10.0, server_side=False, server_hostname=name)
        client.write(b"NOOP\r\n")
        if not await client.read(10.0):  # in TLS 1.3 a server says no only now
            raise ConnectionResetError
        assert client.tls is not None
        found = client.tls.getpeercert() or {}
        return dict(pair for group in found["subject"] for pair in group)["commonName"]  # type: ignore[misc]
