"""Certificates by name, ciphers: what TLS settings do on the wire, and after a reload."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from mailstack.config.dovecot import load
from mailstack.mailbox.service import tls_context
from tests.mailbox import certificate, running


async def peer(port: int, name: str, ciphers: str = "") -> tuple[bytes, str]:
    """The certificate and the cipher that a client gets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    if ciphers:
        context.set_ciphers(ciphers)
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    found: ssl.SSLObject = writer.get_extra_info("ssl_object")
    der, cipher = found.getpeercert(binary_form=True), found.cipher()
    writer.transport.abort()
    assert der is not None
    assert cipher is not None
    return der, cipher[0]


def test_each_name_has_its_certificate_before_and_after_a_reload(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    certificate(other)
    files = "ssl_cert = <other/cert.pem\n  ssl_key = <other/key.pem"
    block = f'local_name "MAIL.example.org *.sub.test" {{\n  {files}\n}}\n'
    extra = block + "ssl_cipher_list = ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256\n"

    async def check() -> None:
        async with running(tmp_path, extra, tls=True) as mailbox:
            assert mailbox.service.config.warnings == ()
            own = ssl.PEM_cert_to_DER_cert((tmp_path / "cert.pem").read_text())
            theirs = ssl.PEM_cert_to_DER_cert((other / "cert.pem").read_text())
            for _ in range(2):
                port = mailbox.port("pop3s")
                assert (await peer(port, "mail.example.org"))[0] == theirs
                assert (await peer(port, "a.sub.test"))[0] == theirs
                assert (await peer(port, "localhost"))[0] == own
                both = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384"
                assert (await peer(port, "localhost", both))[1] == "ECDHE-ECDSA-AES256-GCM-SHA384"
                context = tls_context(load(tmp_path))
                assert context is not None
                mailbox.servers["pop3s"].replace_tls(context)

    asyncio.run(check())
