"""Wrong input against a running stack: each gets its documented answer, nobody else notices, nothing dies."""

from __future__ import annotations

import re
import socket
import ssl

import pytest

from benchmarks.stack import Stack


def converse(
    stack: Stack, service: str, sent: list[bytes], *, tls: bool = False, half_close: bool = False
) -> str:
    """Send everything at once, then read to the end (or until the peer is silent for a second)."""
    received = bytearray()
    with socket.create_connection((stack.host, stack.port(service)), 10) as plain:
        connection: socket.socket = plain
        if tls:
            context = ssl.create_default_context(cafile=stack.ca_file)
            connection = context.wrap_socket(plain, server_hostname=stack.host)
        received += connection.recv(4096)
        try:
            connection.sendall(b"".join(sent))
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass
        connection.settimeout(2)
        try:
            while piece := connection.recv(65536):
                received += piece
        except (TimeoutError, ConnectionResetError):
            pass
    return received.decode("utf-8", "replace")


OPEN = b"EHLO client.example\r\nMAIL FROM:<zs@dgtlinux.com>\r\nRCPT TO:<support@dgtlinux.com>\r\n"
QUIT = b"QUIT\r\n"

SMTP: dict[str, tuple[list[bytes], str]] = {
    "unknown command": ([b"FROB\r\n", QUIT], r"50[02] 5\.5\.2 Error: command not recognized"),
    "empty line": ([b"\r\n", QUIT], r"500 5\.5\.2 Error: bad syntax"),
    "over-long line": ([b"NOOP " + b"x" * 5000 + b"\r\n", QUIT], r"500 5\.5\.2 "),
    "binary noise": ([bytes(range(256)) * 4 + b"\r\n", QUIT], r"50[02] 5\.5\.2 "),
    "1 GiB SIZE": ([b"EHLO x.example\r\nMAIL FROM:<a@b.example> SIZE=1073741824\r\n", QUIT], r"552 5\.3\.4 "),
    "bad SIZE": ([b"EHLO x.example\r\nMAIL FROM:<a@b.example> SIZE=many\r\n", QUIT], r"501 5\.5\.4 "),
    "RCPT before MAIL": ([b"EHLO x.example\r\nRCPT TO:<zs@dgtlinux.com>\r\n", QUIT], r"503 5\.5\.1 Error: need MAIL"),
    "DATA before RCPT": ([b"EHLO x.example\r\nMAIL FROM:<a@b.example>\r\nDATA\r\n", QUIT], r"554 5\.5\.1 |503 5\.5\.1 "),
    "nested MAIL": ([b"EHLO x.example\r\nMAIL FROM:<>\r\nMAIL FROM:<>\r\n", QUIT], r"503 5\.5\.1 Error: nested MAIL"),
    "broken address": ([b"EHLO x.example\r\nMAIL FROM:<a@b\r\n", QUIT], r"501 5\.1\.7 |501 5\.5\.4 "),
    "unknown parameter": ([b"EHLO x.example\r\nMAIL FROM:<a@b.example> FROB=1\r\n", QUIT], r"555 5\.5\.4 "),
    "HTTP": ([b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"], r"221 2\.7\.0 Error: I can break rules, too\. Goodbye\."),
    "AUTH before TLS": ([b"EHLO x.example\r\nAUTH PLAIN AHpzAHNlY3JldA==\r\n", QUIT], r"530 5\.7\.0 |503 5\.5\.1 "),
    "no EHLO argument": ([b"EHLO\r\n", QUIT], r"501 5?\.?5?\.?4? ?Syntax: EHLO hostname"),
    "half-closed in DATA": ([OPEN, b"DATA\r\nSubject: torn\r\n\r\nno end"], r"354 "),
    "smuggling by bare LF": ([OPEN, b"DATA\r\nSubject: s\r\n\r\nx\n.\nMAIL FROM:<evil@b.example>\r\n.\r\n", QUIT], r"354 "),
}  # fmt: skip

IMAP: dict[str, tuple[list[bytes], str]] = {
    "unknown command": ([b"a FROB\r\n", b"b LOGOUT\r\n"], r"a BAD "),
    "no tag": ([b"\r\n", b"b LOGOUT\r\n"], r"\* BAD |BAD "),
    "over-long line": ([b"a NOOP " + b"x" * 200_000 + b"\r\n"], r"BAD |BYE "),
    "bad literal": ([b"a LOGIN {x}\r\n", b"b LOGOUT\r\n"], r"a BAD "),
    "1 GiB literal": ([b"a LOGIN {1073741824}\r\n", b"b LOGOUT\r\n"], r"a (BAD|NO) |BYE"),
    "negative literal": ([b"a LOGIN {-1}\r\n", b"b LOGOUT\r\n"], r"a BAD "),
    "select before login": ([b"a SELECT INBOX\r\n", b"b LOGOUT\r\n"], r"a (BAD|NO) "),
    "binary noise": ([bytes(range(256)) * 4 + b"\r\n", b"b LOGOUT\r\n"], r"BAD |BYE "),
    "login in plain text": (
        [b"a LOGIN zs@dgtlinux.com secret\r\n", b"b LOGOUT\r\n"],
        r"a NO \[PRIVACYREQUIRED\]",
    ),
    "bad base64": ([b"a AUTHENTICATE PLAIN ***\r\n", b"b LOGOUT\r\n"], r"a (BAD|NO) "),
}

POP3: dict[str, tuple[list[bytes], str]] = {
    "unknown command": ([b"FROB\r\n", QUIT], r"-ERR "),
    "RETR before login": ([b"RETR 1\r\n", QUIT], r"-ERR "),
    "PASS before USER": ([b"PASS x\r\n", QUIT], r"-ERR "),
    "over-long line": ([b"USER " + b"x" * 20_000 + b"\r\n", QUIT], r"-ERR "),
    "binary noise": ([bytes(range(256)) + b"\r\n", QUIT], r"-ERR "),
    "plain-text password": ([b"USER zs@dgtlinux.com\r\nPASS secret\r\n", QUIT], r"-ERR "),
}

LMTP: dict[str, tuple[list[bytes], str]] = {
    "HELO": ([b"EHLO x.example\r\n", QUIT], r"50[02] "),
    "unknown user": ([b"LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<no@dgtlinux.com>\r\n", QUIT], r"550 5\.1\.1 "),
    "over-long line": ([b"LHLO " + b"x" * 50_000 + b"\r\n", QUIT], r"50[0-9] "),
}


def still_alive(stack: Stack) -> None:
    assert converse(stack, "smtp", [b"EHLO x.example\r\n", QUIT]).endswith("221 2.0.0 Bye\r\n")
    assert "b OK" in converse(stack, "imap", [b"b LOGOUT\r\n"])
    assert "+OK" in converse(stack, "pop3", [QUIT])


@pytest.mark.parametrize(
    ("service", "case"),
    [(service, case) for service, cases in (("smtp", SMTP), ("imap", IMAP), ("pop3", POP3), ("lmtp", LMTP)) for case in cases],
)  # fmt: skip
def test_wrong_input(stack: Stack, service: str, case: str) -> None:
    sent, expected = {"smtp": SMTP, "imap": IMAP, "pop3": POP3, "lmtp": LMTP}[service][case]
    answer = converse(stack, service, sent, half_close=case.startswith("half-closed"))
    assert re.search(expected, answer), answer
    if "smuggling" in case:
        assert answer.count("queued as") <= 1
        assert "evil" not in answer
    still_alive(stack)


def test_commands_behind_starttls_are_dropped(stack: Stack) -> None:
    """What was sent in plain text behind STARTTLS must not be read as if it had come inside TLS."""
    with socket.create_connection((stack.host, stack.port("submission")), 10) as plain:
        plain.recv(4096)
        plain.sendall(b"EHLO x.example\r\n")
        assert b"STARTTLS" in plain.recv(4096)
        plain.sendall(b"STARTTLS\r\nMAIL FROM:<evil@b.example>\r\n")
        assert plain.recv(4096).startswith(b"220 ")
        context = ssl.create_default_context(cafile=stack.ca_file)
        with context.wrap_socket(plain, server_hostname=stack.host) as secured:
            secured.settimeout(5)
            secured.sendall(b"QUIT\r\n")
            answer = secured.recv(4096)
            assert answer == b"221 2.0.0 Bye\r\n"


def test_a_crowd_of_silent_connections_disturbs_nobody(stack: Stack) -> None:
    crowd = [
        socket.create_connection((stack.host, stack.port(name)), 10) for name in ("smtp", "imap", "pop3") * 30
    ]
    try:
        still_alive(stack)
    finally:
        for connection in crowd:
            connection.close()
