"""A throwaway authority for the servers that the client talks to."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

import pytest

from mailstack.runtime.tls import ensure
from tests.unit.client.scripted import HOSTNAME


@pytest.fixture(scope="package")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CA file; the leaf is for `HOSTNAME`."""
    folder = tmp_path_factory.mktemp("tls")
    certificates = ensure(folder, "test", [HOSTNAME, "127.0.0.1"], time.time())
    assert certificates.ca is not None
    return certificates.ca


@pytest.fixture(scope="package")
def server_tls(authority: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.parent / "cert.pem", authority.parent / "key.pem")
    return context
