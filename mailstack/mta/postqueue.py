"""postqueue(1): what is in the queue, and a nudge to the queue manager.

    python -m mailstack.mta.postqueue --config DIR -p          the listing that mailq prints
    python -m mailstack.mta.postqueue --config DIR -j          a JSON object per message, as Postfix prints it
    python -m mailstack.mta.postqueue --config DIR -f          try everything that is deferred now
    python -m mailstack.mta.postqueue --config DIR -i ID       try that deferred message now
    python -m mailstack.mta.postqueue --config DIR -s DOMAIN   try what is deferred for that domain now

Exit status: 0; 69 (EX_UNAVAILABLE) for wrong usage, as Postfix has it, and when no queue manager can be
woken; 78 (EX_CONFIG). A message that cannot be decoded is left out, with a warning on standard error.
"""

from __future__ import annotations

import getopt
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from mailstack.config.errors import EX_CONFIG, ConfigError
from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.command import Fatal
from mailstack.storage.queue import DamagedFile, Message, Queue

USAGE = "usage: postqueue -f | postqueue -i queueid | postqueue -j | postqueue -p | postqueue -s site"
EX_UNAVAILABLE = 69
LISTED = ("maildrop", "hold", "incoming", "active", "deferred")
_DOMAIN = re.compile(r"(\[[\w.:%-]+\]|[\w-]+(\.[\w-]+)*\.?)\Z")


@dataclass(frozen=True, slots=True)
class Columns:
    """How a listing is laid out: first line, a message (id, size, date, sender), what indents recipients."""

    heading: str
    message: str
    indent: int


SHORT = Columns(
    "-Queue ID-  --Size-- ----Arrival Time---- -Sender/Recipient-------", "{:<11} {:7d} {:<20} {}", 41
)
LONG = Columns(
    "----Queue ID----- --Size-- ---Arrival Time---- --Sender/Recipient------", "{:<17} {:8d} {:<19} {}", 47
)
_MARKS = {"active": "*", "hold": "!", "maildrop": "#"}


def main(arguments: list[str]) -> int:
    """Run the command; return its exit status."""
    try:
        options, rest = getopt.getopt(arguments, "c:fi:jps:", ["config="])
    except getopt.GetoptError:
        options, rest = [], ["?"]
    config = next((value for name, value in options if name in ("-c", "--config")), "")
    actions = [(name, value) for name, value in options if name not in ("-c", "--config")]
    if not config or rest or len(actions) != 1:
        return _fatal(USAGE)
    try:
        conf = MainCf.load(config)
        queue = Queue(conf.str("queue_directory"), hash_depth=conf.int("hash_queue_depth"))
        _authorize(conf, queue, actions[0][0])
    except Fatal as error:
        return _fatal(str(error))
    except ConfigError as error:
        return _fatal(str(error), EX_CONFIG)
    try:
        return _act(queue, *actions[0], long_ids=conf.bool("enable_long_queue_ids"))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


def _authorize(conf: MainCf, queue: Queue, action: str) -> None:
    """authorized_mailq_users and authorized_flush_users; root and the queue's owner may do everything.

    Raises `Fatal`.
    """
    view = action in ("-p", "-j")
    parameter = "authorized_mailq_users" if view else "authorized_flush_users"
    if os.getuid() == 0 or conf.list(parameter) == ["static:anyone"]:
        return
    from mailstack.mta.authorized import check_user

    try:
        owner = os.stat(queue.directory).st_uid
    except OSError:
        owner = 0
    if os.getuid() != owner:
        doing = "view the mail queue" if view else "flush the mail queue"
        check_user(conf, parameter, doing, status=EX_UNAVAILABLE)


def _act(queue: Queue, action: str, value: str, *, long_ids: bool) -> int:
    match action:
        case "-j":
            for message in messages(queue):
                sys.stdout.write(as_json(message) + "\n")
        case "-p":
            listing(queue, long_ids=long_ids)
        case "-i":
            if not (value.isascii() and value.isalnum()):
                return _fatal(f'Cannot flush queue ID - invalid name: "{value}"')
            return _ask(queue, f"deliver {value}")
        case "-s":
            domain = value.lower().removeprefix("@")
            if not _DOMAIN.match(domain):
                return _fatal(f'Cannot flush mail queue - invalid destination: "{value}"')
            return _ask(queue, f"flush {domain}")
        case _:
            return _ask(queue, "F")
    sys.stdout.flush()
    return 0


def messages(queue: Queue) -> Iterator[Message]:
    """Every message that can be read, queue by queue, oldest id first within each."""
    for name in LISTED:
        try:
            entries = sorted(queue.scan(name))
        except FileNotFoundError:
            continue
        for entry in entries:
            try:
                yield queue.read(name, entry.queue_id)
            except FileNotFoundError:
                continue  # it has moved on meanwhile
            except (DamagedFile, OSError) as error:
                sys.stderr.write(f"postqueue: warning: {entry.queue_id} in {name}: {error}\n")


def as_json(message: Message) -> str:
    """One message as Postfix's `postqueue -j` prints it (postqueue(1), JSON OBJECT FORMAT)."""
    import json

    envelope = message.envelope
    recipients = []
    for index in message.pending:
        entry = {"address": envelope.recipients[index].address}
        reason = message.reasons.get(index)
        if reason is not None:
            entry["delay_reason"] = reason.text
        recipients.append(entry)
    return json.dumps(
        {
            "queue_name": message.queue,
            "queue_id": message.queue_id,
            "arrival_time": int(envelope.arrival),
            "message_size": envelope.size,
            "forced_expire": False,
            "sender": envelope.sender or "MAILER-DAEMON",
            "recipients": recipients,
        }
    )


def listing(queue: Queue, *, long_ids: bool = False) -> None:
    """Print the queue as mailq does; `long_ids`: in the columns of enable_long_queue_ids."""
    columns = LONG if long_ids else SHORT
    count = octets = 0
    for message in messages(queue):
        if not count:
            sys.stdout.write(f"{columns.heading}\n")
        else:
            sys.stdout.write("\n")
        count += 1
        octets += message.envelope.size
        sys.stdout.write(_paragraph(message, columns))
    if count:
        plural = "" if count == 1 else "s"
        sys.stdout.write(f"\n-- {octets // 1024} Kbytes in {count} Request{plural}.\n")
    else:
        sys.stdout.write("Mail queue is empty\n")


def _paragraph(message: Message, columns: Columns) -> str:
    envelope = message.envelope
    name = message.queue_id + _MARKS.get(message.queue, " ")
    when = time.strftime("%a %b %e %H:%M:%S", time.localtime(envelope.arrival))
    lines = [columns.message.format(name, envelope.size, when, envelope.sender or "MAILER-DAEMON")]
    shown = ""
    for index in message.pending:
        reason = message.reasons.get(index)
        if reason is not None and reason.text != shown:
            shown = reason.text
            lines.append(f"{'':{max(0, 76 - len(shown))}}({shown})")
        lines.append(f"{'':{columns.indent}}{envelope.recipients[index].address}")
    return "\n".join(lines) + "\n"


def _ask(queue: Queue, request: str) -> int:
    """Ask the queue manager for something; see `mta.trigger`."""
    from mailstack.mta.trigger import send_now

    try:
        send_now(queue.directory, request)
    except OSError as error:
        return _fatal(f"queue manager: {error.strerror or error}")
    return 0


def _fatal(text: str, status: int = EX_UNAVAILABLE) -> int:
    sys.stderr.write(f"postqueue: fatal: {text}\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
