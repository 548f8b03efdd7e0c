"""The name server's files of a spec: served by our server and by BIND, changed while they are, and signed."""

from __future__ import annotations

import base64
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from mailstack.client import dns, dns_update
from mailstack.client.endpoints import Endpoints
from mailstack.render import Facts, Listener, render
from mailstack.spec import loads
from tests.golden.trees import SECRET, need, stack_site, write
from tests.interop.dns_servers import bind, ours
from tests.ports import free_port

pytestmark = pytest.mark.real

SPEC = """\
project: shop
domains:
  shop.test:
    address: 192.0.2.25
    address6: 2001:db8::25
    mta_sts: enforce
    caa: [letsencrypt.org]
    users: {anna: {password: secret}}
  lab.shop.test: {}
mailbox: {protocols: [imap, lmtp]}
dns: {dnssec: true}
"""
Server = Callable[[Path, int], AbstractContextManager[object]]


def lay_out(folder: Path, text: str, port: int) -> Path:
    """Write the tree of a spec; returns its bind/."""
    stack = loads(text)
    site = replace(
        stack_site(stack, PurePosixPath(folder)),
        facts=Facts(key_digest="ab" * 32, dkim={("shop.test", "s1"): "v=DKIM1; k=rsa; p=" + "QUJD" * 90}),
    )
    site = replace(site, listeners={**site.listeners, "dns": (Listener("127.0.0.1", port),)})
    write(render(stack, site), folder / "rendered")
    (folder / "dns").mkdir(exist_ok=True)
    conf = folder / "rendered" / "bind" / "named.conf"
    # where several run on one machine; ours takes these, too
    alone = f'lock-file none; session-keyfile "{folder}/session.key"; notify no;'
    conf.write_text(conf.read_text().replace("options {", "controls { };\noptions { " + alone, 1))
    return conf.parent


def endpoints(port: int) -> Endpoints:
    return Endpoints(
        domain="shop.test", hostname="mail.shop.test", host="127.0.0.1", ports={"dns": port}, ca_file=None,
        tls=False, users={},
    )  # fmt: skip


def found(port: int, name: str, kind: str) -> list[str]:
    return [record.data for record in dns.ask(endpoints(port), dns.question(name, kind)).answers]


def change(port: int, name: str, kind: str | None, *values: str, remove: bool = False) -> None:
    wanted = dns_update.change(name, kind, values, ["shop.test", "lab.shop.test", "12.90.127.in-addr.arpa"])
    secret = base64.b64encode(SECRET).decode()
    dns_update.send(endpoints(port), secret, wanted, remove=remove, ttl=60, timeout=30)


def test_bind_takes_the_zones_as_they_are(tmp_path: Path) -> None:
    need("named-checkzone", "named-checkconf")
    root = lay_out(tmp_path, SPEC, free_port())
    for zone in ("shop.test", "lab.shop.test", "12.90.127.in-addr.arpa"):
        command = ["named-checkzone", "-i", "full", "-k", "fail", zone, str(root / "zones" / f"{zone}.zone")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "OK"), done.stdout
    done = subprocess.run(
        ["named-checkconf", str(root / "named.conf")], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("server", [ours, bind])
def test_changes_are_kept_and_everything_is_signed(server: Server, tmp_path: Path) -> None:
    need("delv")
    port = free_port()
    root = lay_out(tmp_path, SPEC, port)
    zones = ("shop.test", "lab.shop.test", "12.90.127.in-addr.arpa")
    with server(root, port):
        for zone in zones:
            until(partial(found, port, zone, "SOA"))
        change(port, "www.shop.test", "A", "192.0.2.7", "192.0.2.8")
        change(port, "www.shop.test", "A", "192.0.2.9")
        change(port, "shop.test", "TXT", "v=spf1 a -all")
        change(port, "_pop3._tcp.shop.test", None, remove=True)
        change(port, "127.90.12.7", "PTR", "www.shop.test")
    with server(root, port):
        for zone in zones:
            until(partial(found, port, zone, "SOA"))
        # BIND answers from the signed zone, which follows the changed one in a moment
        until(lambda: found(port, "www.shop.test", "A") == ["192.0.2.9"])
        until(lambda: found(port, "shop.test", "TXT") == ['"v=spf1 a -all"'])
        until(lambda: found(port, "_pop3._tcp.shop.test", "SRV") == [])
        until(lambda: found(port, "127.90.12.7", "PTR") == ["www.shop.test."])
        assert found(port, "_pop3s._tcp.shop.test", "SRV") == ["0 0 0 ."]
        anchor = tmp_path / "anchor"
        keys = until(lambda: [key for key in found(port, "shop.test", "DNSKEY") if key.startswith("257 ")])
        flags, protocol, algorithm, key = keys[0].split(" ", 3)
        anchor.write_text(
            f'trust-anchors {{ shop.test static-key {flags} {protocol} {algorithm} "{key}"; }};\n'
        )
        for name, kind in (("_25._tcp.mail.shop.test", "TLSA"), ("www.shop.test", "A"), ("shop.test", "MX")):
            command = [
                "delv",
                "@127.0.0.1",
                "-p",
                str(port),
                "-a",
                str(anchor),
                "+root=shop.test",
                name,
                kind,
            ]
            until(partial(validated, command))


def validated(command: list[str]) -> bool:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return "; fully validated" in done.stdout


def until(look: Callable[[], Any]) -> Any:
    """What `look` gives, once it is something."""
    deadline = time.monotonic() + 30
    while not (value := look()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value
