"""Dovecot's doveadm-server protocol on a unix socket, with the one command that needs the running service.

    <- +                                        after the client's VERSION line: nobody has to log in here
    -> FLAGS\\tUSER\\tforce-resync\\tMAILBOX       `*` for all of the user's mailboxes
    <-                                          an empty line: force-resync has nothing to print; and
    <- +        or  -NOUSER, -NOTFOUND, -UNKNOWN or -TEMPFAIL

The socket's mode says who may ask. A client that breaks the protocol is dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailstack.mailbox.auth.rows import Unavailable
from mailstack.net.stream import Stream
from mailstack.storage.maildir import tree
from mailstack.storage.maildir.tree import MailboxNameError

if TYPE_CHECKING:
    from mailstack.mailbox.service import MailboxService

GREETING = b"VERSION\tdoveadm-server\t1\t"
TIMEOUT = 60.0
LINE_LIMIT = 8192
COMMAND = "force-resync"


async def serve_doveadm(stream: Stream, service: MailboxService) -> None:
    """Answer commands until the client goes."""
    buffer = b""
    greeted = False
    try:
        while data := await stream.read(TIMEOUT):
            buffer += data
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                if greeted:
                    stream.write(await _answer(line, service))
                elif line.startswith(GREETING):
                    greeted = True
                    stream.write(b"+\n")
                else:
                    return
            if len(buffer) > LINE_LIMIT:
                return
            await stream.drain(TIMEOUT)
    except (OSError, TimeoutError):
        pass


async def _answer(line: bytes, service: MailboxService) -> bytes:
    _, user, command, *arguments = [*line.decode("utf-8", "replace").split("\t"), "", ""]
    arguments = [argument for argument in arguments if argument]
    if arguments[:3] == ["-u", user, "--"]:
        del arguments[:3]  # so doveadm(1) says it
    if command != COMMAND or len(arguments) != 1:
        return b"\n-UNKNOWN\n"
    try:
        found = service.lookup(user)
        if found is None:
            return b"\n-NOUSER\n"
        root = found.mail_root
        names = tree.names(root) if arguments == ["*"] else arguments
        messages = 0
        for name in names:
            messages += await service.store.reindex(root, name)
    except (FileNotFoundError, MailboxNameError):
        return b"\n-NOTFOUND\n"
    except (OSError, Unavailable) as error:
        service.log.error(f"doveadm: {user}: {error}")
        return b"\n-TEMPFAIL\n"
    service.log.info(f"doveadm({user}): {COMMAND}: {len(names)} mailboxes indexed anew, {messages} messages")
    return b"\n+\n"
