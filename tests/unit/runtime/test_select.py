"""Which runtime `auto` takes, and what it says about it."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from mailstack.runtime import daemon, image, native, select
from mailstack.runtime.errors import MachineLacks, NoDocker, UsageProblem
from mailstack.runtime.model import RuntimeKind, RuntimeWish
from mailstack.runtime.state import Record


@pytest.fixture(autouse=True)
def _no_daemon_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "SOCKET", "/nonexistent/docker.sock")


def test_what_is_up_stays_where_it_is() -> None:
    record = Record("one", runtime="docker")
    assert select.choose("auto", record, {}).kind == "docker"
    with pytest.raises(UsageProblem, match="one is up in the docker runtime"):
        select.choose("process", record, {})


@pytest.mark.parametrize("wish", ["process", "docker"])
def test_a_wish_is_followed(wish: RuntimeWish) -> None:
    assert select.choose(wish, Record("one"), {}) == select.Choice(wish, "it was asked for")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({}, "there is no Docker daemon"),
        ({"DOCKER_HOST": "unix:///nonexistent/s"}, "no Docker daemon answers at /nonexistent/s"),
        ({"DOCKER_HOST": "tcp://build.test:2375"}, "on another machine (tcp://build.test:2375)"),
    ],
)
def test_processes_where_there_is_no_daemon(environ: dict[str, str], reason: str) -> None:
    choice = select.choose("auto", Record("one"), environ)
    assert choice.kind == "process"
    assert reason in choice.reason


@pytest.mark.parametrize(
    ("lacks", "kind", "reason"),
    [
        ("", "docker", "the image is there"),
        ("the base cannot be pulled", "process", "the base cannot be pulled"),
    ],
)
def test_docker_where_it_answers_and_has_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: str, kind: RuntimeKind, reason: str
) -> None:
    monkeypatch.setattr(image, "why_not_available", lambda _: lacks)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        thread = threading.Thread(target=_answer, args=(listener, b"HTTP/1.0 200 OK\r\n\r\nOK"))
        thread.start()
        choice = select.choose("auto", Record("one"), {"DOCKER_HOST": f"unix://{tmp_path}/s"})
        thread.join()
    assert choice.kind == kind
    assert reason in choice.reason


def test_real_servers_run_where_they_are_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "why_not_available", lambda _: "")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        thread = threading.Thread(target=_answer, args=(listener, b"HTTP/1.0 200 OK\r\n\r\nOK"))
        thread.start()
        environ = {"DOCKER_HOST": f"unix://{tmp_path}/s"}
        choice = select.choose("auto", Record("one"), environ, lambda: ("bind", "dovecot"))
        thread.join()
    assert choice == select.Choice("process", "bind and dovecot would run as a process of this machine only")
    assert select.choose("docker", Record("one"), environ, lambda: ("bind",)).kind == "docker"


def test_something_else_at_the_socket_is_not_a_daemon(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        thread = threading.Thread(target=_answer, args=(listener, b"220 smtp\r\n"))
        thread.start()
        with pytest.raises(NoDocker, match="it says '220 smtp'"):
            daemon.connect({"DOCKER_HOST": f"unix://{tmp_path}/s"})
        thread.join()


def _answer(listener: socket.socket, answer: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(answer)


def test_postfix_is_for_root_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "find", lambda *_: "/usr/sbin/postfix")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(MachineLacks, match="root only") as caught:
        native.command("mta", "postfix", {})
    assert "engine: python" in str(caught.value.hint)
