"""`mailstack dns records` and `dns check`: what is entered at a registrar, and whether it has arrived."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interop.dns_servers import configure, ours
from tests.interop.test_dns_server import wait_for
from tests.ports import free_port

pytestmark = pytest.mark.real

SPEC = """\
project: shop
domains:
  shop.test:
    address: 192.0.2.25
    users: {anna: {password: secret}}
"""
APEX = """\
$TTL 60
@ IN SOA ns.elsewhere.example. hostmaster.elsewhere.example. 1 60 60 60 60
@ IN NS ns.elsewhere.example.
@ IN TXT "some-verification=1"
"""


def mailstack(folder: Path, *arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "mailstack", "-f", str(folder / "mailstack.yaml"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=folder)
    return done.returncode, done.stdout, done.stderr


def test_a_registrar_with_all_of_it_and_with_less(tmp_path: Path) -> None:
    (tmp_path / "mailstack.yaml").write_text(SPEC)
    status, zone, told_beside = mailstack(tmp_path, "dns", "records", "--form", "zone")
    assert status == 0
    assert "25.2.0.192.in-addr.arpa. 86400 IN PTR mail.shop.test." in told_beside
    assert "https://mta-sts.shop.test/.well-known/mta-sts.txt" in told_beside
    assert "shop.test.\t86400\tIN\tMX\t10 mail.shop.test." in zone.splitlines()
    port = free_port()
    root = configure(tmp_path / "named", port, zones='zone "shop.test" { type primary; file "shop.zone"; };')
    (root / "shop.zone").write_text(APEX + zone)
    check = ("dns", "check", "--server", f"127.0.0.1:{port}")
    with ours(root, port) as process:
        status, out, err = mailstack(tmp_path, *check)
        assert (status, {line.split()[0] for line in out.splitlines()}) == (0, {"ok"})
        assert len(out.splitlines()) == len(zone.splitlines())
        assert "25.2.0.192.in-addr.arpa. PTR: ask a resolver" in " ".join(err.split())

        less = [line for line in zone.splitlines() if "\tSRV\t" not in line]
        less = [line.replace("\t10 mail.shop.test.", "\t10 old.shop.test.") for line in less]
        less += ['shop.test. 60 IN TXT "v=spf1 a " "-all"']
        # an alias that a registrar has flattened, one that leads elsewhere, an authority that nobody forbade
        less = [line for line in less if not line.startswith("auto")]
        less += ["autoconfig.shop.test. 60 IN A 192.0.2.25", "autodiscover.shop.test. 60 IN A 192.0.2.99"]
        less += ['shop.test. 60 IN CAA 0 issue "letsencrypt.org"']
        (root / "shop.zone").write_text(APEX + "\n".join(less) + "\n")
        process.send_signal(signal.SIGHUP)
        wait_for(root, "reloading configuration succeeded")
        status, out, err = mailstack(tmp_path, *check)
        assert status == 1
        assert "missing add: shop.test.\t86400\tIN\tMX\t10 mail.shop.test." in out
        assert "wrong   remove: shop.test.\t86400\tIN\tMX\t10 old.shop.test." in out
        assert 'wrong   remove: shop.test.\t60\tIN\tTXT\t"v=spf1 a " "-all"' in out
        assert "some-verification" not in out
        assert "letsencrypt" not in out
        assert "ok      autoconfig.shop.test.\t86400\tIN\tCNAME\tmail.shop.test." in out
        assert "wrong   remove: autodiscover.shop.test.\t60\tIN\tA\t192.0.2.99" in out
        added = [line.split("add: ", 1)[1] for line in out.splitlines() if "add: " in line]
        assert sum("\tSRV\t" in line for line in added) == sum(
            "\tSRV\t" in line for line in zone.splitlines()
        )
        assert "records missing, 3 wrong" in err
        status, out, _ = mailstack(tmp_path, "-o", "json", *check)
        told = json.loads(out)
        assert (status, told["status"], told["error"]["code"]) == (1, "error", "dns-differs")
        states = [record["state"] for record in told["data"]["records"]]
        assert states.count("wrong") == 3


def test_records_as_data(tmp_path: Path) -> None:
    (tmp_path / "mailstack.yaml").write_text(SPEC)
    status, out, _ = mailstack(tmp_path, "-o", "json", "dns", "records")
    told = json.loads(out)
    assert (status, told["status"]) == (0, "ok")
    kinds = {record["type"] for record in told["data"]["records"]}
    assert kinds == {"A", "CAA", "CNAME", "MX", "PTR", "SRV", "TXT"}  # TLSA: there is no certificate yet
    assert "TLSA" in told["warnings"][-1]
    assert told["data"]["policies"] == [
        {
            "domain": "shop.test",
            "url": "https://mta-sts.shop.test/.well-known/mta-sts.txt",
            "text": "version: STSv1\nmode: testing\nmx: mail.shop.test\nmax_age: 604800\n",
        }
    ]


def test_nobody_there_and_bad_servers(tmp_path: Path) -> None:
    (tmp_path / "mailstack.yaml").write_text(SPEC)
    port = free_port()
    status, _, err = mailstack(tmp_path, "dns", "check", "--server", f"127.0.0.1:{port}", "--timeout", "1s")
    assert status == 3
    assert f"dns at 127.0.0.1 port {port}" in err
    for server, wanted in (
        ("127.0.0.1:0", "'0' is not a port"),
        ("[::1", "is not [ADDRESS]:PORT"),
        ("no-such-host.invalid", "'no-such-host.invalid' is not an address"),
    ):
        status, _, err = mailstack(tmp_path, "dns", "check", "--server", server)
        assert (status, wanted in err.replace("\n", " ")) == (2, True), err
