"""`sendmail -bs`: a session with smtpd on standard input and output.

The session is smtpd's own, with main.cf's settings and a client called localhost[127.0.0.1]; there is no TLS
and no AUTH on a pipe. As in Postfix, the account that owns the mail system meets the usual restrictions, and
root, whose rights are given up for that account's, may send anywhere. Log lines go nowhere: standard error
belongs to the program that speaks.

The octets go through a connection to this very process, for a pipe or a file is nothing that an event loop
can wait for on every system.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.command import Fatal
from mailstack.mta.lookup import opener
from mailstack.mta.site import load_resolver
from mailstack.mta.smtpd.peer import ClientNames
from mailstack.mta.smtpd.settings import Settings, load_settings
from mailstack.mta.smtpd.worker import Shared, make_server
from mailstack.net import loop
from mailstack.net.listen import bind_tcp
from mailstack.net.log import Log
from mailstack.net.resolver import Resolver
from mailstack.net.tasks import TaskSet
from mailstack.storage.durable import GroupCommit
from mailstack.storage.queue import Queue

PIECE = 64 * 1024
_PLAIN = {"smtpd_tls_security_level": "none", "smtpd_tls_wrappermode": "no", "smtpd_sasl_auth_enable": "no"}
_FREE = {
    **dict.fromkeys(
        (
            "smtpd_client_restrictions",
            "smtpd_helo_restrictions",
            "smtpd_sender_restrictions",
            "smtpd_data_restrictions",
            "smtpd_end_of_data_restrictions",
        ),
        "",
    ),
    # The last word is for the check that some list closes the relay, which does not look beyond a `permit`;
    # it is never reached.
    "smtpd_relay_restrictions": "check_client_access static:OK, reject",
    "smtpd_recipient_restrictions": "check_client_access static:OK, reject",
}


class _Here(Shared):
    """A worker's common things, for a client that needs no look-up."""

    async def client_names(self, address: str, timeout: float) -> ClientNames:
        return ClientNames("localhost", "localhost")


def serve(config_dir: Path) -> int:
    """Hold one session; return the exit status. Raises `Fatal`, `ConfigError`."""
    conf = MainCf.load(config_dir)
    directory = conf.str("queue_directory")
    free = os.geteuid() == 0 and _give_up_root(directory)
    if not os.access(os.path.join(directory, "incoming"), os.W_OK | os.X_OK):
        raise Fatal(
            f"{directory}/incoming cannot be written: only the mail system's account and root may do this"
        )
    log = Log("postfix/smtpd", conf.str("myhostname"), fd=-1)
    resolver = load_resolver(config_dir)
    settings = load_settings(
        "sendmail",
        conf.with_overrides(_PLAIN | (_FREE if free else {})),
        config_dir,
        resolver=resolver,
        open_table=opener(),
        log=log,
    )
    queue = Queue(
        directory, hash_depth=conf.int("hash_queue_depth"), long_ids=conf.bool("enable_long_queue_ids")
    )
    return loop.run(_session(settings, queue, resolver, log))


def _give_up_root(directory: str) -> bool:
    """Become the queue's owner. False when that is root itself."""
    try:
        owner = os.stat(directory)
    except OSError as error:
        raise Fatal(f"{directory}: {error.strerror}: start the mail system first") from None
    if owner.st_uid:
        os.setgroups([])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)
    return True


async def _session(settings: Settings, queue: Queue, resolver: Resolver, log: Log) -> int:
    listening = bind_tcp("127.0.0.1", 0, backlog=1)
    shared = _Here(queue, GroupCommit(), resolver, log)
    tasks = TaskSet(lambda name, error: log.exception(name, error))
    server = make_server(listening, settings, shared, tasks)
    client = socket.create_connection(listening.getsockname())
    running = asyncio.get_running_loop()
    over = asyncio.Event()
    try:
        await server.start()
        threading.Thread(target=_copy_in, args=(client,), daemon=True).start()
        threading.Thread(
            target=_copy_out, args=(client, lambda: running.call_soon_threadsafe(over.set)), daemon=True
        ).start()
        await over.wait()
    finally:
        server.stop()
        await tasks.drain(5.0)
        client.close()
        settings.compiler.close()
        await resolver.close()
        shared.close()
    return 0


def _copy_in(client: socket.socket) -> None:
    try:
        while data := os.read(0, PIECE):
            client.sendall(data)
        client.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the session is over


def _copy_out(client: socket.socket, done: Callable[[], object]) -> None:
    try:
        while data := client.recv(PIECE):
            left = memoryview(data)
            while left:
                left = left[os.write(1, left) :]
    except OSError:
        pass  # nobody reads us any more
    done()
