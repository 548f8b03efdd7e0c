"""The dialogue that the project began with: telnet to port 25, a message for a local user, in his mailbox."""

from __future__ import annotations

import imaplib
import re
import socket
import ssl
import time

from benchmarks.stack import Stack

DIALOGUE: list[tuple[str, str]] = [
    ("mail from: zs@dgtlinux.com.", r"250 2\.1\.0 Ok"),
    ("rcpt to: support@dgtlinux.com", r"250 2\.1\.5 Ok"),
    ("data", r"354 End data with <CR><LF>\.<CR><LF>"),
    ("lfglk'df;g\r\n.", r"250 2\.0\.0 Ok: queued as [0-9A-Za-z]{6,}"),
    ("quit", r"221 2\.0\.0 Bye"),
]


def test_the_seed_s_telnet_dialogue(stack: Stack) -> None:
    with socket.create_connection((stack.host, stack.port("smtp")), 10) as connection:
        reader = connection.makefile("r", encoding="ascii", newline="\r\n")
        assert reader.readline() == "220 Welcome to my mail.dgtlinux.com ESMTP!\r\n"
        for command, reply in DIALOGUE:
            connection.sendall(command.encode() + b"\r\n")
            answer = reader.readline().rstrip("\r\n")
            assert re.fullmatch(reply, answer), (command, answer)
        assert reader.readline() == ""

    context = ssl.create_default_context(cafile=stack.ca_file)
    with imaplib.IMAP4_SSL(stack.host, stack.port("imaps"), ssl_context=context) as imap:
        imap.login("support@dgtlinux.com", "hunter 2")
        deadline = time.monotonic() + 10
        while True:
            imap.select("INBOX")
            _, found = imap.search(None, "TEXT", '"lfglk\'df;g"')
            if found[0].split() or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        assert len(found[0].split()) == 1
        _, data = imap.fetch(found[0].split()[0].decode(), "(BODY[TEXT])")
        part = data[0]
        assert isinstance(part, tuple)
        assert part[1] == b"lfglk'df;g\r\n"
