"""NAME: postfix_master, a project's Postfix in the foreground.

    python -m mailstack.runtime.postfix_master CONFIG

DESCRIPTION
    CONFIG is the folder with main.cf, master.cf and the indexed tables. Makes the queue directory and what
    the daemons need in it when it has become their root, takes the log lines of all of them, waits until the
    authentication service answers (an smtpd that does not find it gives up), and then starts master(8).

    Postfix asks name servers at port 53 only. Where the stack's has another port, this process passes on
    what is asked at port 53 of the address `[resolver] relay` in CONFIG/mailstack.toml.

    SIGTERM ends Postfix with all its daemons, SIGHUP has it read its configuration again.

DIAGNOSTICS
    Postfix's log lines, on standard output. Exit status 0 after SIGTERM, 1 when the master has ended by
    itself, 78 (EX_CONFIG) when it cannot be started.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import time
import tomllib
from pathlib import Path

from mailstack.runtime import postfix
from mailstack.runtime.errors import RuntimeFailure

EX_CONFIG = 78
JAIL = ("hosts", "services", "nsswitch.conf", "localtime")
"""Files of /etc that a daemon looks into after it has changed its root, beside resolv.conf."""
AUTH_POLL = 0.02
RECEIVE_BUFFER = 1 << 20


class Master:
    """The master and what it leans on."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.env = dict(os.environ)
        self.spool = Path(self._parameter("queue_directory"))
        self.program = f"{self._parameter('daemon_directory')}/master"
        self.process: asyncio.subprocess.Process | None = None
        self.ended = asyncio.Event()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def _parameter(self, name: str) -> str:
        return postfix.run(("postconf", "-c", str(self.config), "-xh", name), self.env)

    async def run(self) -> int:
        """Until it is told to end, or the master ends. The exit status."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.ended.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        if postfix.end_master(self.spool):
            self._say("a master that had lost its parent has been ended")
        postfix.make_spool(self.spool)
        self._take_logs(loop)
        ending = asyncio.create_task(self.ended.wait())
        working = asyncio.create_task(self._work())
        await asyncio.wait((ending, working), return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if not working.done():
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await working
        await self._end()
        return 0 if working.cancelled() else working.result()

    async def _work(self) -> int:
        await self._prepare_names()
        await self._until_authenticating()
        env = {
            **self.env,
            # from the first line on, not only when main.cf has been read (maillog_client_init)
            "POSTLOG_SERVICE": f"{self.spool}/public/postlog",
            "POSTLOG_HOSTNAME": os.uname().nodename,
        }
        check = await asyncio.create_subprocess_exec(
            postfix.program("postsuper", env), "-c", str(self.config), "-s", env=env
        )
        if await check.wait():
            return EX_CONFIG
        self.process = await asyncio.create_subprocess_exec(
            self.program, "-c", str(self.config), "-s", stdin=asyncio.subprocess.DEVNULL, env=env
        )
        code = await self.process.wait()
        how = f"signal {-code}" if code < 0 else f"status {code}"
        self._say(f"the master has ended ({how})")
        return 1

    async def _end(self) -> None:
        """End the master and its daemons, which are a process group of their own."""
        if self.process is None:
            return
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            await self.process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self._log()

    def _reload(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGHUP)

    # ---- the log

    def _take_logs(self, loop: asyncio.AbstractEventLoop) -> None:
        """Be postlogd(8), which the master would start only after it has written to it."""
        path = self.spool / "public" / "postlog"
        path.unlink(missing_ok=True)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self.socket.bind(str(path))
        path.chmod(0o666)
        loop.add_reader(self.socket.fileno(), self._log)

    def _log(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                line = self.socket.recv(65536)
                os.write(1, line.rstrip(b"\n") + b"\n")

    def _say(self, text: str) -> None:
        stamp = time.strftime("%b %e %H:%M:%S")
        os.write(1, f"{stamp} {os.uname().nodename} postfix[{os.getpid()}]: {text}\n".encode())

    # ---- what Postfix leans on

    async def _prepare_names(self) -> None:
        etc = self.spool / "etc"
        for name in JAIL:
            with contextlib.suppress(OSError):
                shutil.copyfile(f"/etc/{name}", etc / name)
        settings = tomllib.loads((self.config / "mailstack.toml").read_text())["resolver"]
        host, _, port = settings["nameservers"][0].rpartition(":")
        if "relay" in settings:
            from mailstack.runtime.dns_relay import serve

            try:
                await serve(settings["relay"], (host, int(port)))
            except OSError as error:
                raise RuntimeFailure(f"port 53 of {settings['relay']}: {error.strerror}") from error
            host = settings["relay"]
        (etc / "resolv.conf").write_text(f"nameserver {host}\n")

    async def _until_authenticating(self) -> None:
        path = str(self.spool / "private" / "auth")
        said = False
        while True:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                try:
                    client.connect(path)
                    return
                except OSError:
                    pass
            if not said:
                said = True
                self._say("waiting for the authentication service")
            await asyncio.sleep(AUTH_POLL)


async def _main(config: Path) -> int:
    try:
        return await Master(config).run()
    except (RuntimeFailure, OSError, ValueError, KeyError) as error:
        os.write(2, f"fatal: {config}: {error}\n".encode())
        return EX_CONFIG


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(asyncio.run(_main(Path(sys.argv[1]))))
