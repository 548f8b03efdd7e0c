"""Which runtime `auto` means, and why, in words.

Docker is taken where a daemon answers and the image is there or can be built without asking anybody; plain
processes otherwise. A stack that is up stays with what it runs on. The daemon is first asked over its socket
by hand: loading the SDK only to learn that there is none would take longer than starting the processes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from mailstack.runtime.daemon import daemon_socket, silence
from mailstack.runtime.errors import UsageProblem
from mailstack.runtime.model import RuntimeKind, RuntimeWish
from mailstack.runtime.state import Record


@dataclass(frozen=True, slots=True)
class Choice:
    """A runtime and the reason for it."""

    kind: RuntimeKind
    reason: str


def choose(
    wish: RuntimeWish,
    record: Record,
    environ: Mapping[str, str],
    real_servers: Callable[[], Collection[str]] = tuple,
) -> Choice:
    """The runtime for `up` and `plan`. Raises `UsageProblem` when the stack is up in another one.

    `real_servers`: names those that the spec asks for, which containers do not have; asked when it matters.
    """
    if record.runtime is not None:
        if wish not in ("auto", record.runtime):
            raise UsageProblem(
                f"{record.project} is up in the {record.runtime} runtime",
                hint=f"`mailstack -p {record.project} down` first; its mail stays in that runtime",
            )
        return Choice(record.runtime, f"{record.project} is up in it")
    if wish != "auto":
        return Choice(wish, "it was asked for")
    choice = _automatic(environ)
    if choice.kind == "docker" and (programs := real_servers()):
        return Choice("process", f"{' and '.join(programs)} would run as a process of this machine only")
    return choice


def _automatic(environ: Mapping[str, str]) -> Choice:
    socket_path, remote = daemon_socket(environ)
    if remote:
        return Choice(
            "process", f"the Docker daemon is on another machine ({remote}); --runtime docker uses it"
        )
    if socket_path is None:
        return Choice("process", "there is no Docker daemon")
    if silence(socket_path):
        return Choice("process", f"no Docker daemon answers at {socket_path}")
    from mailstack.runtime import image

    why_not = image.why_not_available(environ)
    if why_not:
        return Choice("process", f"there is a Docker daemon, but {why_not}")
    return Choice("docker", "a Docker daemon answers, and the image is there or can be built")
