"""dig against the running stack: the records of a mail domain, as a client or another MTA asks for them."""

from __future__ import annotations

import ipaddress

import pytest

from benchmarks.stack import Stack
from tests.interop.conftest import need, sh


def dig(stack: Stack, *question: str) -> list[str]:
    answer = sh(
        need("dig"),
        f"@{stack.host}",
        "-p",
        str(stack.port("dns")),
        "+short",
        "+time=2",
        "+tries=2",
        *question,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout.split("\n")[:-1]


@pytest.mark.parametrize("domain", ["dgtlinux.com", "other.test"])
def test_mx_leads_to_an_address_whose_ptr_leads_back(stack: Stack, domain: str) -> None:
    assert dig(stack, "MX", domain) == [f"10 mail.{domain}."]
    (address,) = dig(stack, "A", f"mail.{domain}")
    ipaddress.IPv4Address(address)
    (name,) = dig(stack, "-x", address)
    assert address in dig(stack, "A", name)


@pytest.mark.parametrize("service", ["_submission", "_submissions", "_imap", "_imaps", "_pop3", "_pop3s"])
def test_srv_names_a_host_that_exists(stack: Stack, service: str) -> None:
    (answer,) = dig(stack, "SRV", f"{service}._tcp.dgtlinux.com")
    _priority, _weight, port, target = answer.split()
    assert int(port) > 0
    assert dig(stack, "A", target)


def test_spf(stack: Stack) -> None:
    (text,) = dig(stack, "TXT", "dgtlinux.com")
    assert text.startswith('"v=spf1 ')


def test_extra_record(stack: Stack) -> None:
    assert dig(stack, "A", "www.dgtlinux.com") == ["192.0.2.80"]


def test_every_address_of_the_network_has_a_name(stack: Stack) -> None:
    (mail,) = dig(stack, "A", "mail.dgtlinux.com")
    network = ipaddress.ip_network(f"{mail}/24", strict=False)
    for host in (1, 9, 200, 254):
        assert len(dig(stack, "-x", str(network[host]))) == 1, host


def test_tcp_and_authority(stack: Stack) -> None:
    answer = sh(need("dig"), f"@{stack.host}", "-p", str(stack.port("dns")), "+tcp", "SOA", "dgtlinux.com")
    assert "flags: qr aa" in answer.stdout
    refused = sh(need("dig"), f"@{stack.host}", "-p", str(stack.port("dns")), "A", "example.org")
    assert "status: REFUSED" in refused.stdout
    missing = sh(need("dig"), f"@{stack.host}", "-p", str(stack.port("dns")), "A", "nothing.dgtlinux.com")
    assert "status: NXDOMAIN" in missing.stdout
    assert "SOA" in missing.stdout
