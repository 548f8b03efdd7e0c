"""Reaching the Docker daemon, and saying clearly when that cannot work.

Every answer of the daemon is untyped JSON; this module and `image`, `docker` are the edge at which it becomes
values of ours.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from mailstack.runtime.errors import MachineLacks, NoDocker, RuntimeFailure

if TYPE_CHECKING:
    import docker

T = TypeVar("T")
SOCKET = "/var/run/docker.sock"
PING_TIMEOUT = 2.0
TIMEOUT = 60
"""Seconds for one answer of the daemon; stopping a container takes up to ten."""
PROCESS_RUNTIME = "use --runtime process, which needs no daemon"


@dataclass(frozen=True, slots=True)
class Daemon:
    """A daemon that answers and can be used."""

    api: docker.APIClient
    where: str
    """Its address, for messages."""
    remote: str
    """The host name of a daemon on another machine; empty for one on this machine."""
    limits: bool
    """It can limit memory (a rootless one without delegated controllers cannot)."""
    pids: bool

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the object is of no use afterwards."""
        self.api.close()


def daemon_socket(environ: Mapping[str, str]) -> tuple[str | None, str]:
    """`(path of the daemon's unix socket, address of a remote daemon)`; at most one of them is given."""
    host = environ.get("DOCKER_HOST", "")
    if host.startswith("unix://"):
        return host[7:], ""
    if host:
        return None, host
    runtime = environ.get("XDG_RUNTIME_DIR")
    places = [SOCKET]
    if runtime:
        places.append(f"{runtime}/docker.sock")  # rootless
    return next((place for place in places if os.path.exists(place)), None), ""


def silence(path: str) -> str:
    """Why no daemon says OK to `GET /_ping` (Docker Engine API) at a unix socket; empty when one does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PING_TIMEOUT)
        try:
            connection.connect(path)
            connection.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            status = connection.recv(4096).split(b"\r\n", 1)[0]
        except OSError as error:
            return error.strerror or str(error)
    return "" if b" 200 " in status else f"it says {status.decode(errors='replace')!r}"


def connect(environ: Mapping[str, str]) -> Daemon:
    """The daemon of `DOCKER_HOST` or of the usual sockets. Raises `NoDocker` with what to do."""
    path, remote = daemon_socket(environ)
    if path is None and not remote:
        raise NoDocker(
            "there is no Docker daemon on this machine",
            hint=f"start one (`sudo systemctl start docker`) or set DOCKER_HOST; or {PROCESS_RUNTIME}",
        )
    where = f"unix://{path}" if path else remote
    # asked by hand first: the SDK leaves a socket open when nobody answers
    trouble = "" if path is None else silence(path)
    if trouble:
        denied = os.path.exists(where[7:]) and not os.access(where[7:], os.R_OK | os.W_OK)
        raise NoDocker(
            f"no Docker daemon answers at {where}: {trouble}",
            hint=f"this user may not open {path}: add it to the group docker, or {PROCESS_RUNTIME}"
            if denied
            else f"start it (`sudo systemctl start docker`), or {PROCESS_RUNTIME}",
        )
    try:
        import docker
        from docker.errors import DockerException
        from docker.utils import kwargs_from_env
    except ImportError as error:
        raise NoDocker(f"the Docker SDK cannot be loaded: {error}", hint="pip install docker") from error
    try:
        options: dict[str, Any] = dict(kwargs_from_env(environment=dict(environ))) if remote else {}
        options |= {"version": "auto", "timeout": TIMEOUT}
        if path:
            options["base_url"] = where
        api = docker.APIClient(**options)
        info = api.info()
    except (DockerException, OSError, ValueError) as error:
        raise NoDocker(
            f"no Docker daemon answers at {where}: {_reason(error)}",
            hint=f"see DOCKER_HOST, or {PROCESS_RUNTIME}",
        ) from error
    try:
        _refuse_others(info, where)
    except NoDocker:
        api.close()
        raise
    return Daemon(
        api,
        where,
        (urlsplit(remote).hostname or "") if remote else "",
        bool(info.get("MemoryLimit")),
        bool(info.get("PidsLimit")),
    )


def _refuse_others(info: Mapping[str, Any], where: str) -> None:
    if info.get("OSType") != "linux":
        raise NoDocker(
            f"the daemon at {where} runs {info.get('OSType')} containers",
            hint="switch it to Linux containers",
        )
    if "podman" in str(info.get("ServerVersion", "")).lower() or "buildahVersion" in info.get("host", {}):
        raise NoDocker(f"{where} is Podman, which is not supported", hint=PROCESS_RUNTIME)


def call(what: str, function: Callable[[], T]) -> T:
    """Ask the daemon; its refusals become `RuntimeFailure` or `MachineLacks` that say what was being done."""
    from docker.errors import APIError, DockerException
    from requests.exceptions import RequestException

    try:
        return function()
    except APIError as error:
        text = str(error.explanation or error)
        if "port is already allocated" in text or "address already in use" in text:
            raise MachineLacks(
                f"{what}: {text.strip()}", hint="set network.publish to other ports, or to auto"
            ) from error
        raise RuntimeFailure(f"{what}: {text.strip()}") from error
    except (DockerException, RequestException) as error:
        raise RuntimeFailure(f"{what}: {_reason(error)}") from error


def job(function: Callable[..., object], *arguments: Any, **keywords: Any) -> Callable[[], Any]:
    """The call, to be made later."""
    return lambda: function(*arguments, **keywords)


def in_parallel(jobs: Sequence[Callable[[], object]]) -> None:
    """Run every job on a thread of its own, wait for all, then raise what the first of them raised."""
    import threading

    errors: list[BaseException | None] = [None] * len(jobs)

    def run(index: int) -> None:
        try:
            jobs[index]()
        except BaseException as error:
            errors[index] = error

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(1, len(jobs))]
    for thread in threads:
        thread.start()
    if jobs:
        run(0)
    for thread in threads:
        thread.join()
    for error in errors:
        if error is not None:
            raise error


def _reason(error: Exception) -> str:
    """The innermost cause: the SDK wraps a refused connection three times."""
    cause: BaseException = error
    while cause.__cause__ is not None or cause.__context__ is not None:
        cause = cause.__cause__ or cause.__context__ or cause
    return str(cause) or type(cause).__name__
