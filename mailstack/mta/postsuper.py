"""postsuper(1): what an administrator does with queued messages.

    python -m mailstack.mta.postsuper --config DIR [-d ID] [-h ID] [-H ID] [-r ID] [-s] [-p] [QUEUE…]

`-d` removes a message, `-h` sets it aside in hold/, `-H` releases it from there, `-r` queues it anew: as if
it had just come in, without a memory of earlier attempts. An ID may be `ALL` (every message of the queues),
or `-` (ids from standard input, one a line); the options may be given several times. `-s` puts files that are
in the wrong folder where they belong, `-p` removes temporary files older than a day; no option means both.

Queues are those named, or for `-d` and `-r` hold, incoming, active and deferred, for `-h` the same without
hold, for `-H` hold. What was done is told on standard error, in Postfix's words; an id that no queue has is
no error. Exit status: 0; 1 for anything that cannot be done; 78 (EX_CONFIG).

A message that is being delivered at this moment may be delivered all the same.
"""

from __future__ import annotations

import getopt
import os
import sys
import time
from collections.abc import Iterator, Sequence

from mailstack.config.errors import EX_CONFIG, ConfigError
from mailstack.config.postfix.main_cf import MainCf
from mailstack.mta.maillog import command_log
from mailstack.net.log import Log
from mailstack.storage.queue import DamagedFile, Queue

USAGE = (
    "usage: postsuper [-c config_dir] [-d queue_id (delete)] [-h queue_id (hold)] [-H queue_id (un-hold)] "
    "[-p (purge temporary files)] [-r queue_id (requeue)] [-s (structure fix)] [queue...]"
)
LIVE = ("hold", "incoming", "active", "deferred")
DEFAULT_QUEUES = {"-d": LIVE, "-h": LIVE[1:], "-H": LIVE[:1], "-r": LIVE}
NAMED = ("maildrop", "incoming", "active", "deferred", "hold", "corrupt")
"""What may be named as a queue."""
DONE = {"-d": "removed", "-h": "placed on hold", "-H": "released from hold", "-r": "requeued"}
SUMMARY = {"-r": "Requeued", "-d": "Deleted", "-h": "Placed on hold", "-H": "Released from hold"}
"""In the order in which they are told."""
TEMPORARY_AGE = 86_400.0
"""Seconds after which a temporary file belongs to nobody any more."""


def main(arguments: list[str]) -> int:
    """Run the command; return its exit status."""
    try:
        options, queues = getopt.getopt(arguments, "c:d:h:H:r:sp", ["config="])
    except getopt.GetoptError as error:
        _say(str(error))
        return _fatal(USAGE)
    config = next((value for name, value in options if name in ("-c", "--config")), "")
    wrong = next((name for name in queues if name not in NAMED), None)
    if not config:
        return _fatal(USAGE)
    if wrong is not None:
        return _fatal(f"invalid directory name: {wrong}")
    global _log
    try:
        conf = MainCf.load(config)
        _log = command_log(conf, "postsuper")
        queue = Queue(conf.str("queue_directory"), hash_depth=conf.int("hash_queue_depth"))
    except ConfigError as error:
        _say(f"fatal: {error}")
        return EX_CONFIG
    actions = [(name, value) for name, value in options if name not in ("-c", "--config")]
    try:
        _work(queue, actions or [("-s", ""), ("-p", "")], queues)
    except OSError as error:
        return _fatal(f"{error.filename or queue.directory}: {error.strerror or error}")
    return 0


def _work(queue: Queue, actions: Sequence[tuple[str, str]], queues: Sequence[str]) -> None:
    counts: dict[str, int] = {}
    for action, value in actions:
        if action == "-s":
            _repair(queue, queues or NAMED)
        elif action == "-p":
            _purge(queue)
        else:
            operation = Operation(queue, action, queues or DEFAULT_QUEUES[action])
            counts[action] = counts.get(action, 0) + operation.all_of(value)
    for action, word in SUMMARY.items():
        if action in counts:
            count = counts[action]
            _say(f"{word}: {count} message{'' if count == 1 else 's'}")
    if counts.keys() & {"-H", "-r"}:
        _wake(queue)


class Operation:
    """One of `-d`, `-h`, `-H`, `-r` on messages of some queues. Methods raise `OSError`."""

    def __init__(self, queue: Queue, action: str, queues: Sequence[str]) -> None:
        self._queue = queue
        self._action = action
        self._queues = queues

    def all_of(self, value: str) -> int:
        """Do it to what an option's value names; return to how many messages."""
        if value == "ALL":
            return sum(self._one(name, queue_id) for name in self._queues for queue_id in self._ids(name))
        ids = filter(None, (line.strip() for line in sys.stdin)) if value == "-" else [value]
        count = 0
        for queue_id in ids:
            if not is_queue_id(queue_id):
                _say(f"warning: invalid mail queue id: {queue_id}")
            elif any(self._one(name, queue_id) for name in self._queues):
                count += 1
                _say(f"{queue_id}: {DONE[self._action]}")
        return count

    def _ids(self, name: str) -> Iterator[str]:
        """The messages of a queue, all of them found before the first is touched."""
        try:
            yield from [entry.queue_id for entry in self._queue.scan(name)]
        except FileNotFoundError:
            return

    def _one(self, name: str, queue_id: str) -> bool:
        """Do it to one message; False when it is not in that queue (any more)."""
        try:
            match self._action:
                case "-d":
                    # Not emptied, as qmgr does with a file: somebody may be reading it.
                    os.unlink(self._queue.path(name, queue_id))
                case "-h" if name == "hold":
                    return False
                case "-H" if name != "hold":
                    return False
                case "-h":
                    self._queue.move(queue_id, name, "hold")
                case "-H":
                    self._queue.reset(name, queue_id)
                    self._queue.move(queue_id, name, "deferred")
                case _:
                    self._queue.reset(name, queue_id, attempts=True)
                    self._queue.move(queue_id, name, "incoming")
        except FileNotFoundError:
            return False
        except DamagedFile as error:
            _say(f"warning: {queue_id}: damaged queue file in {name}: {error}")
            return False
        return True


def is_queue_id(text: str) -> bool:
    """Whether a message may be called that: letters and digits of ASCII only."""
    return text.isascii() and text.isalnum()


def _repair(queue: Queue, queues: Sequence[str]) -> None:
    """Put files where `hash_queue_depth` wants them."""
    for name in queues:
        root = os.path.join(queue.directory, name)
        for folder, _, files in list(os.walk(root)):
            for file in files:
                old = os.path.join(folder, file)
                if not is_queue_id(file):
                    _say(f"warning: bogus file name: {os.path.relpath(old, queue.directory)}")
                    continue
                new = queue.path(name, file)
                if old == new:
                    continue
                os.makedirs(os.path.dirname(new), mode=0o700, exist_ok=True)
                if os.path.lexists(new):
                    _say(f"warning: {os.path.relpath(old, queue.directory)}: {new} is there already")
                    continue
                os.rename(old, new)
                _say(
                    f"renamed file {os.path.relpath(old, queue.directory)} "
                    f"as {os.path.relpath(new, queue.directory)}"
                )


def _purge(queue: Queue) -> None:
    """Remove what writers left behind when they were killed."""
    oldest = time.time() - TEMPORARY_AGE
    for entry in queue.scan("tmp"):
        if entry.mtime < oldest:
            path = os.path.join(queue.directory, "tmp", entry.queue_id)
            os.unlink(path)
            _say(f"removed file {os.path.relpath(path, queue.directory)}")


def _wake(queue: Queue) -> None:
    """Have what was released or queued anew looked at now, if somebody is there to do it."""
    from mailstack.mta.trigger import SCAN_DEFERRED, SCAN_INCOMING, send_now

    try:
        send_now(queue.directory, SCAN_INCOMING)
        send_now(queue.directory, SCAN_DEFERRED)
    except OSError:
        pass  # qmgr looks at both when it starts


_log: Log | None = None
"""Where main.cf names a log file: what is said goes there too."""


def _say(text: str) -> None:
    sys.stderr.write(f"postsuper: {text}\n")
    if _log is not None:
        _log.info(text)


def _fatal(text: str) -> int:
    _say(f"fatal: {text}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
