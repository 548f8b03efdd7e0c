"""Ports: free ones are chosen, taken ones are reported with their holder."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailstack.runtime import ports
from mailstack.runtime.errors import MachineLacks, NoPrivilege, PortTaken


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def test_taken_port_names_process_pid_and_fix(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with pytest.raises(PortTaken) as caught:
        ports.require_free("imap", "127.0.0.1", port)
    assert f"pid {os.getpid()}" in str(caught.value)
    assert ports.command_line(os.getpid()) in str(caught.value)
    assert "network.publish.imap" in caught.value.hint
    assert caught.value.status == 4


@pytest.mark.parametrize(
    ("family", "kind", "address"),
    [
        (socket.AF_INET, socket.SOCK_DGRAM, "127.0.0.1"),
        (socket.AF_INET, socket.SOCK_DGRAM, "0.0.0.0"),
        (socket.AF_INET6, socket.SOCK_STREAM, "::"),
    ],
)
def test_holder_is_found_over_udp_and_all_addresses(
    family: socket.AddressFamily, kind: socket.SocketKind, address: str
) -> None:
    with socket.socket(family, kind) as sock:
        sock.bind((address, 0))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        found = ports.holder("127.0.0.1", sock.getsockname()[1])
    assert found is not None
    assert (found.pid, found.address) == (os.getpid(), address)


def test_holder_is_another_process() -> None:
    code = (
        "import socket,sys; s=socket.create_server(('127.0.0.1',0))\n"
        "print(s.getsockname()[1],flush=True); input('\x1b[2J')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        found = ports.holder("127.0.0.1", int(child.stdout.readline()))
        assert found is not None
        assert found.pid == child.pid
        # the program without its directory, so that the arguments are seen wherever it is installed
        assert found.command.startswith(f"{Path(sys.executable).name} -c import socket")
        assert "create_server" in found.command
        assert found.command.isprintable()
        child.communicate("\n")


def test_nobody_holds_a_free_port(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()
    assert ports.holder("127.0.0.1", port) is None
    ports.require_free("dns", "127.0.0.1", port)


def test_address_of_another_machine() -> None:
    with pytest.raises(MachineLacks, match="does not have the address"):
        ports.require_free("smtp", "198.51.100.7", 25025)


def test_no_privilege_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "bind_error", lambda *_args, **_kw: 13)
    with pytest.raises(NoPrivilege) as caught:
        ports.require_free("smtp", "127.0.0.1", 25)
    assert "ip_unprivileged_port_start=25" in caught.value.hint


def test_choice_is_stable_and_keeps_clear_of_others() -> None:
    def choose(seed: str, avoid: set[int] = set(), **fixed: int) -> dict[str, int]:  # noqa: B006 never changed
        return ports.choose(
            ("smtp", "dns"), bind="127.0.0.1", seed=seed, remembered={}, fixed=fixed, avoid=avoid
        )

    first = choose("one")
    assert first == choose("one")
    assert set(first.values()).isdisjoint(choose("one", avoid=set(first.values())).values())
    assert choose("one", smtp=2525)["smtp"] == 2525
    assert all(ports.LOWEST <= port <= ports.HIGHEST for port in first.values())


def test_remembered_port_is_given_up_when_it_is_taken(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    options = {"bind": "127.0.0.1", "seed": "x", "fixed": {}}
    taken = ports.choose(("smtp",), remembered={"smtp": port}, **options)  # type: ignore[arg-type]
    assert taken["smtp"] != port
    assert ports.choose(("smtp",), remembered=taken, **options) == taken  # type: ignore[arg-type]
