"""Commands that take a message on their standard input: what local's `|command` and pipe(8) have in common.

A command runs in a process group of its own, with the ids, the environment and the folder that it is
told, and only descriptors 0, 1 and 2. What it writes (the first `OUTPUT` octets) goes into the result's
text. `run` blocks: call it on a thread. A command that is still there when its time is over is killed
with its whole group.

The result is read as Postfix's pipe_command does: an exit status of 0 is success; output that begins with an
enhanced status code speaks for itself; the codes of sysexits.h have their meanings (75 and a few others: try
again); any other status, and a time limit that has been exceeded, are failures for good; a signal is not.
"""

from __future__ import annotations

import asyncio
import os
import re
import selectors
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mailstack.mta.deliver.apart import in_thread
from mailstack.mta.deliver.request import Bounced, Deferred, Sent
from mailstack.storage.identity import Identity

OUTPUT = 4096
"""Octets of a command's output that are kept."""
PATH = "/usr/bin:/bin"
"""The search path of commands (Postfix's _PATH_DEFPATH)."""
_CODED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})[ \t]*(.*)\Z", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z0-9!@%\-_=+:,./ \t]*[A-Za-z0-9!@%\-_=+:,./][A-Za-z0-9!@%\-_=+:,./ \t]*\Z")
_BUILTINS = frozenset(
    ("alias", "cd", "command", "eval", "exec", "exit", "export", "set", "umask", "if", "for", ".")
)

EXITS: Mapping[int, tuple[str, str]] = {
    64: ("5.3.0", "command line usage error"),
    65: ("5.6.0", "data format error"),
    66: ("5.3.0", "cannot open input"),
    67: ("5.1.1", "user unknown"),
    68: ("5.1.2", "host name unknown"),
    69: ("5.3.0", "service unavailable"),
    70: ("5.3.0", "internal software error"),
    71: ("4.3.0", "system resource problem"),
    72: ("5.3.0", "critical OS file missing"),
    73: ("5.2.0", "can't create user output file"),
    74: ("5.3.0", "input/output error"),
    75: ("4.3.0", "temporary failure"),
    76: ("5.5.0", "remote error in protocol"),
    77: ("5.7.0", "permission denied"),
    78: ("5.3.5", "local configuration error"),
}
"""sysexits.h: what each exit status means."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to run. `argv` is run as it is; `text` is how messages call it.

    `complaint` is how Postfix's program begins to say that it cannot; local's has a shell look for names.
    """

    argv: Sequence[str]
    text: str
    complaint: str
    environment: Mapping[str, str]
    time_limit: float
    identity: Identity
    groups: Sequence[int] = ()
    """Supplementary groups, used when the ids are not our own."""
    directory: str = "/"


def export(words: Sequence[str]) -> dict[str, str]:
    """`export_environment`: names of our own environment, and `name=value`."""
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if equals:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def split_command(text: str, shell: str = "") -> list[str]:
    """The arguments for a command line, as Postfix's exec_command makes them.

    A line without characters that mean something to a shell is run directly; others by /bin/sh, all by
    `shell` where one is configured (local_command_shell).
    """
    if shell:
        return [*shlex.split(shell), text]
    if _PLAIN.match(text):
        words = text.split()
        if "=" not in words[0] and words[0] not in _BUILTINS:
            return words
    return ["sh", "-c", text]


def run(
    command: Command, parts: Iterable[bytes], started: Callable[[int], None] | None = None
) -> tuple[Sent | Bounced | Deferred, str]:
    """Run a command with `parts` on its standard input; what came of it, and its output on one line.

    The text of a `Sent` is for the caller to choose. `started` is told the process group. Raises
    `OSError` when `parts` does.
    """
    limit = time.monotonic() + command.time_limit
    ids: dict[str, object] = {}
    if not command.identity.ours:
        if not command.identity.possible:
            text = f"cannot run a command as user {command.identity.uid} without being root"
            return Deferred(f"mail system configuration error: {text}", "4.3.5"), ""
        ids = {
            "user": command.identity.uid,
            "group": command.identity.gid,
            "extra_groups": list(command.groups),
        }
    try:
        process = subprocess.Popen(  # noqa: S603 - what the administrator or the user wants
            command.argv,
            executable="/bin/sh" if command.argv[0] == "sh" else None,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            env=dict(command.environment),
            cwd=command.directory,
            start_new_session=True,
            umask=0o077,
            **ids,  # type: ignore[call-overload]
        )
    except OSError as error:
        if isinstance(error, FileNotFoundError) and "/" not in command.argv[0] != "sh":
            return run(replace(command, argv=["sh", "-c", command.text]), parts, started)
        if error.filename == command.directory:
            said = f'cannot change directory to "{command.directory}": {error.strerror} '
        else:
            said = f"{command.complaint} {error.filename or command.argv[0]}: {error.strerror} "
        return judge(75, said, command.text)
    except (ValueError, subprocess.SubprocessError) as error:
        return judge(75, f"{command.complaint} {command.argv[0]}: {error} ", command.text)
    if started is not None:
        started(process.pid)
    status: int | None = None
    try:
        output = _converse(process, filter(None, parts), limit)
        status = process.wait(max(0.0, limit - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass
    finally:
        _end(process)
    text = output.decode("utf-8", "surrogateescape")
    return judge(status, _printable(text), command.text)


def judge(status: int | None, output: str, text: str) -> tuple[Sent | Bounced | Deferred, str]:
    """The outcome of a command called `text` that ended with `status` (-N: a signal; None: not in time)."""
    tail = f'"{text}"' + (f". Command output: {output}" if output else "")
    if status is None:
        return Bounced(f"Command time limit exceeded: {tail}", "5.3.0"), output
    if status == 0:
        return Sent("delivered"), output
    if status < 0:
        return Deferred(f"Command died with signal {-status}: {tail}", "4.3.0"), output
    found = _CODED.match(output)
    if found is not None:
        code, said = found[1], found[2]
        return (Deferred if code[0] == "4" else Bounced)(said, code), output
    if status in EXITS:
        code, meaning = EXITS[status]
        said = f"{meaning}. Command output: {output}" if output else meaning
        return (Deferred if code[0] == "4" else Bounced)(said, code), output
    return Bounced(f"Command died with status {status}: {tail}", "5.3.0"), output


def _printable(text: str) -> str:
    """Output as Postfix logs it: on one line."""
    return "".join(char if char.isprintable() else " " if char in "\r\n" else "_" for char in text)


def _converse(process: subprocess.Popen[bytes], parts: Iterator[bytes], limit: float) -> bytes:
    """Feed a command and hear what it says, until it closes its output or the time is over.

    A command need not read its input, as long as it says that it is content.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    output = bytearray()
    left = memoryview(b"")
    os.set_blocking(process.stdin.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        selector.register(process.stdin, selectors.EVENT_WRITE)
        while selector.get_map():
            ready = selector.select(max(0.0, limit - time.monotonic()))
            if not ready and time.monotonic() >= limit:
                break
            for key, _ in ready:
                if key.fileobj is process.stdout:
                    data = os.read(process.stdout.fileno(), 65536)
                    output += data[: OUTPUT - len(output)]
                    if not data:
                        selector.unregister(process.stdout)
                    continue
                try:
                    left = left or memoryview(next(parts, b""))
                    written = os.write(process.stdin.fileno(), left) if left else 0
                    left = left[written:]
                    over = not written
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    over = True
                if over:
                    selector.unregister(process.stdin)
                    process.stdin.close()
    return bytes(output)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave neither a descriptor nor a zombie; a command that is still there is killed with its group."""
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    process.wait()


async def run_apart(command: Command, parts: Iterable[bytes]) -> tuple[Sent | Bounced | Deferred, str]:
    """The same as `run`, on a thread; the command is killed when the waiting task is cancelled."""
    groups: list[int] = []
    cancelled = False

    def kill() -> None:
        for group in groups:
            try:
                os.killpg(group, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass

    def started(group: int) -> None:
        groups.append(group)
        if cancelled:  # just before this, when nobody could know whom to kill
            kill()

    try:
        return await in_thread(lambda: run(command, parts, started))
    except asyncio.CancelledError:
        cancelled = True
        kill()
        raise
