"""The before-queue filter's endpoint, and a message through one; tests/interop/test_proxy_filter.py has the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailstack.config.errors import ConfigError
from tests.interop.scripted_proxy import ScriptedProxy
from tests.unit.mta_smtpd.serving import Smtpd, settings_of
from tests.unit.mta_smtpd.test_session import Client, session


@pytest.mark.parametrize(
    ("value", "host", "port"),
    [
        ("127.0.0.1:10025", "127.0.0.1", "10025"),
        ("inet:filter.test:25", "filter.test", "25"),
        (":10025", "127.0.0.1", "10025"),
        ("10025", "127.0.0.1", "10025"),
        ("[::1]:25", "::1", "25"),
        ("unix:private/filter", "", "{dir}/queue/private/filter"),
        ("unix:/run/filter", "", "/run/filter"),
    ],
)
def test_endpoints(tmp_path: Path, value: str, host: str, port: str) -> None:
    proxy = settings_of(tmp_path, f"smtpd_proxy_filter = {value}\n").proxy
    assert proxy is not None
    assert (proxy.host, proxy.port) == (host, port.replace("{dir}", str(tmp_path)))


@pytest.mark.parametrize(
    "extra", ["smtpd_proxy_filter = host:smtp", "smtpd_proxy_filter = :1\nsmtpd_proxy_options = fast"]
)
def test_what_cannot_be_used_is_a_configuration_error(tmp_path: Path, extra: str) -> None:
    with pytest.raises(ConfigError, match="smtpd_proxy_"):
        settings_of(tmp_path, extra + "\n")


def test_nothing_is_queued_and_nothing_is_left_behind(tmp_path: Path) -> None:
    filter_ = ScriptedProxy({})
    body = "x" * 998 + "\r\n"

    async def check(smtpd: Smtpd, client: Client) -> None:
        await client.say("EHLO x", "MAIL FROM:<a@b.test>", "RCPT TO:<zs@dgtlinux.com>", "DATA")
        assert await client.say("Subject: x\r\n\r\n" + body * 400 + ".") == "250 2.0.0 filter has taken it"
        assert smtpd.messages() == []
        assert list((tmp_path / "queue/tmp").iterdir()) == []

    try:
        session(tmp_path, check, f"smtpd_proxy_filter = :{filter_.port}\nmessage_size_limit = 0\n")
        filter_.settle()
    finally:
        filter_.close()
    assert filter_.said[0][-2].endswith(f"Subject: x\r\n\r\n{body * 400}")
