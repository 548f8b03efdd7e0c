"""postcat(1): what is in a queue file.

    python -m mailstack.mta.postcat --config DIR [-beh] -q ID

`-e` shows the envelope, `-h` the header, `-b` the body; none of them: everything, with a heading for each
part, as Postfix has it. The content comes with the line ends that it has on this system.

Exit status: 0; 1 where there is no such message, or it cannot be read; 64 (EX_USAGE); 78 (EX_CONFIG).
"""

from __future__ import annotations

import getopt
import sys
import time

from mailstack.config.errors import EX_CONFIG, ConfigError
from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.postsuper import is_queue_id
from mailstack.storage.queue import DamagedFile, Message, Queue

USAGE = "usage: postcat [-beh] [-c config_dir] -q queue_id"
EX_USAGE = 64


def main(arguments: list[str]) -> int:
    """Run the command; return its exit status."""
    try:
        # `-q` says that queue ids follow; it has no value of its own.
        pairs, rest = getopt.gnu_getopt(arguments, "c:behq", ["config="])
    except getopt.GetoptError as error:
        return _fatal(f"{error}; {USAGE}", EX_USAGE)
    options = dict(pairs)
    config = options.get("--config", options.get("-c", ""))
    if not config or "-q" not in options or len(rest) != 1:
        return _fatal(USAGE, EX_USAGE)
    try:
        conf = MainCf.load(config)
        queue = Queue(conf.str("queue_directory"), hash_depth=conf.int("hash_queue_depth"))
    except ConfigError as error:
        return _fatal(str(error), EX_CONFIG)
    parts = {option[1] for option in options if option in ("-b", "-e", "-h")}
    if not is_queue_id(rest[0]):
        return _fatal(f"bad mail queue ID: {rest[0]}", 1)
    try:
        name = queue.find(rest[0])
        if name is None:
            return _fatal(f"open queue file {rest[0]}: No such file or directory", 1)
        message = queue.read(name, rest[0])
        content = queue.read_content(message)
    except (OSError, DamagedFile) as error:
        return _fatal(f"{rest[0]}: {error}", 1)
    out = sys.stdout.buffer
    out.write(_show(message, content, parts))
    out.flush()
    return 0


def _show(message: Message, content: bytes, parts: set[str]) -> bytes:
    """The parts that are wanted; all of them, with headings, where none is named."""
    content = content.replace(b"\r\n", b"\n")
    head, separator, body = content.partition(b"\n\n")
    head += separator[:1]
    envelope = _envelope(message).encode("utf-8", "surrogateescape")
    if not parts:
        where = f"{message.queue}/{message.queue_id}"
        return b"".join(
            (
                f"*** ENVELOPE RECORDS {where} ***\n".encode(),
                envelope,
                f"*** MESSAGE CONTENTS {where} ***\n".encode(),
                content,
                f"*** MESSAGE FILE END {where} ***\n".encode(),
            )
        )
    shown = [envelope] if "e" in parts else []
    if "h" in parts:
        shown.append(head)
    if "b" in parts:
        shown.append(separator[1:] + body if "h" in parts else body)
    return b"".join(shown)


def _envelope(message: Message) -> str:
    envelope = message.envelope
    lines = [
        f"message_size: {envelope.size}",
        f"message_arrival_time: {time.ctime(envelope.arrival)}",
        f"sender: {envelope.sender}",
    ]
    attributes = {
        "log_client_name": envelope.client_name,
        "log_client_address": envelope.client_address,
        "log_helo_name": envelope.helo_name,
        "log_protocol_name": envelope.protocol,
        "sasl_method": envelope.sasl_method,
        "sasl_username": envelope.sasl_username,
        **envelope.attributes,
    }
    lines += [f"named_attribute: {name}={value}" for name, value in attributes.items() if value]
    for index, recipient in enumerate(envelope.recipients):
        if recipient.original:
            lines.append(f"original_recipient: {recipient.original}")
        word = "recipient" if index in message.pending else "done_recipient"
        lines.append(f"{word}: {recipient.address}")
    return "\n".join(lines) + "\n"


def _fatal(text: str, status: int) -> int:
    sys.stderr.write(f"postcat: fatal: {text}\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
