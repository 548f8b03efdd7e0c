"""Whose headers are completed: local_header_rewrite_clients."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.unit.mta_smtpd.serving import running

OPEN = "mynetworks = 127.0.0.0/8\n"


@pytest.mark.parametrize(
    ("clients", "completed"),
    [
        ("", False),
        ("permit_inet_interfaces", True),
        ("permit_tls_clientcerts, permit_tls_all_clientcerts", False),
        ("inline:{ 127.0.0.1=whatever }", True),
        ("check_address_map inline:{ 127.0.0.1=whatever }", True),
        ("check_address_map cidr:{dir}/nets", True),
        ("inline:{ 192.0.2.1=x }", False),
        ("fail:broken", False),
    ],
)
def test_clients_that_are_ours(tmp_path: Path, clients: str, completed: bool) -> None:
    (tmp_path / "nets").write_text("127.0.0.0/8 yes\n")

    async def main() -> bytes:
        extra = f"{OPEN}local_header_rewrite_clients = {clients.replace('{dir}', str(tmp_path))}\n"
        async with running(tmp_path, extra) as smtpd:
            stream = await smtpd.connect()
            await stream.read(5)
            content = b"To: somebody\r\n\r\nx\r\n."
            for command in (
                b"EHLO x",
                b"MAIL FROM:<b@y.test>",
                b"RCPT TO:<zs@dgtlinux.com>",
                b"DATA",
                content,
            ):
                stream.write(command + b"\r\n")
                await stream.read(5)
            [message] = smtpd.messages()
            return smtpd.queue.read_content(message)

    assert (b"To: somebody@dgtlinux.com" in asyncio.run(main())) is completed
