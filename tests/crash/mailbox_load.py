"""Clients that use one mailbox together and remember what they have been promised."""

from __future__ import annotations

import itertools
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

BOXES = (b"INBOX", b"Kept", b"Moved")
FLAGS = (b"\\Seen", b"\\Flagged", b"\\Answered", b"$One", b"$Two")
PAUSE = 0.005
"""Seconds between two commands of a client, so that the mailboxes stay small."""
_MESSAGE = re.compile(
    rb"\* \d+ FETCH \((?=[^\r]*UID (\d+))(?=[^\r]*MODSEQ \((\d+)\))(?=[^\r]*FLAGS \(([^)]*)\))"
    rb"(?:[^\r]*\r\nX-Mark: (\w+))?"
)
_VANISHED = re.compile(rb"\* VANISHED \(EARLIER\) ([\d,:]+)")


CONFIG = """\
base_dir = {root}/run
log_path = {root}/log
ssl = no
protocols = imap lmtp
disable_plaintext_auth = no
auth_mechanisms = plain
first_valid_uid = 0
mail_location = maildir:~/
mail_max_userip_connections = 0
passdb {{
  driver = passwd-file
  args = {root}/users
}}
userdb {{
  driver = passwd-file
  args = {root}/users
}}
service imap-login {{
  inet_listener imap {{
    address = 127.0.0.1
    port = {imap}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {lmtp}
  }}
}}
"""


class BrokenPromiseError(Exception):
    """A promise that has been broken."""


@dataclass(slots=True)
class Shown:
    """A mailbox as a client sees it. `flags` and `sequences` by UID; `names` are the messages' marks."""

    validity: int
    next_uid: int
    highest: int
    flags: dict[int, frozenset[bytes]] = field(default_factory=dict)
    sequences: dict[int, int] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)

    def marks(self) -> Counter[str]:
        return Counter(self.names.values())

    def take(self, answer: bytes) -> None:
        """Read FETCH responses."""
        for uid, sequence, flags, mark in _MESSAGE.findall(answer):
            self.flags[int(uid)] = frozenset(flags.split()) - {b"\\Recent"}
            self.sequences[int(uid)] = int(sequence)
            if mark:
                self.names[int(uid)] = mark.decode()


class Client:
    """An IMAP connection. Raises `EOFError`, `OSError` when the server is gone."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 20)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._numbers = itertools.count(1)
        try:
            self._until(b"* OK")
        except (EOFError, OSError):
            self._socket.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def _until(self, start: bytes) -> bytes:
        data = b""
        while not data.endswith(b"\r\n") or not data[data.rfind(b"\n", 0, -1) + 1 :].startswith(start):
            piece = self._socket.recv(1 << 16)
            if not piece:
                raise EOFError(data[-200:])
            data += piece
        return data

    def ask(self, command: bytes) -> bytes:
        """Everything that is said until the command is answered OK. Raises `BrokenPromiseError` for NO and BAD."""
        tag = b"t%d" % next(self._numbers)
        self._socket.sendall(tag + b" " + command + b"\r\n")
        answer = self._until(tag + b" ")
        if tag + b" OK" not in answer:
            raise BrokenPromiseError(f"{command[:80]!r}: {answer[-200:]!r}")
        return answer

    def login(self) -> None:
        self.ask(b"LOGIN u x")

    def select(self, box: bytes) -> Shown:
        """Open a mailbox and read everything."""
        found = self._shown(self.ask(b"SELECT " + box))
        if found.next_uid > 1:
            found.take(self.ask(b"UID FETCH 1:* (UID FLAGS MODSEQ BODY.PEEK[HEADER.FIELDS (X-Mark)])"))
        return found

    def resynchronize(self, box: bytes, known: Shown) -> Shown:
        """Open a mailbox and read only what is otherwise than `known`."""
        command = b"SELECT %b (QRESYNC (%d %d))" % (box, known.validity, known.highest)
        answer = self.ask(command)
        found = self._shown(answer)
        found.flags = dict(known.flags)
        for ranges in _VANISHED.findall(answer):
            for part in ranges.split(b","):
                low, _, high = part.partition(b":")
                for uid in [uid for uid in found.flags if int(low) <= uid <= int(high or low)]:
                    del found.flags[uid]
        found.take(answer)
        return found

    def _shown(self, answer: bytes) -> Shown:
        codes = [
            re.search(rb"\[%b (\d+)\]" % name, answer)
            for name in (b"UIDVALIDITY", b"UIDNEXT", b"HIGHESTMODSEQ")
        ]
        if None in codes:
            raise BrokenPromiseError(f"SELECT says {answer!r}")
        validity, next_uid, highest = (int(code[1]) for code in codes if code is not None)
        return Shown(validity, next_uid, highest)


class Service:
    """The process, started anew as often as is wanted on the same ports and files."""

    def __init__(self, root: Path, more: str = "") -> None:
        """`more`: further lines of its dovecot.conf."""
        self.root = root
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
            self.imap, self.lmtp = one.getsockname()[1], other.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        (root / "users").write_text(f"u:{{PLAIN}}x:{os.getuid()}:{os.getgid()}::{root}/mail::\n")
        (root / "dovecot.conf").write_text(CONFIG.format(root=root, imap=self.imap, lmtp=self.lmtp) + more)

    def start(self) -> None:
        with open(self.root / "log", "ab") as log:
            command = [sys.executable, "-m", "mailstack.mailbox", "--config", str(self.root)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def wait(self) -> None:
        """Return when it answers."""
        deadline = time.monotonic() + 20
        while True:
            try:
                Client(self.imap).close()
                return
            except (OSError, EOFError):
                assert time.monotonic() < deadline, (self.root / "log").read_text()[-3000:]
                time.sleep(0.01)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self, number: int = signal.SIGKILL) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(20)


class Observed:
    """What any client has ever seen, to be held against what it sees next."""

    def __init__(self) -> None:
        self._last: dict[bytes, Shown] = {}
        self._means: dict[tuple[bytes, int], str] = {}
        self._state: dict[tuple[bytes, int, int], frozenset[bytes]] = {}
        self._gone: set[tuple[bytes, int]] = set()

    def add(self, box: bytes, now: Shown) -> None:
        """Raises `BrokenPromiseError` when something has changed that never may."""
        last = self._last.get(box)
        if last is not None:
            if now.validity != last.validity:
                raise BrokenPromiseError(f"{box!r}: UIDVALIDITY was {last.validity}, is {now.validity}")
            if now.next_uid < last.next_uid or now.highest < last.highest:
                raise BrokenPromiseError(f"{box!r}: UIDNEXT or HIGHESTMODSEQ fell: {last} {now}")
            for uid, sequence in last.sequences.items():
                if now.sequences.get(uid, sequence) < sequence:
                    raise BrokenPromiseError(f"{box!r}: the sequence of UID {uid} fell from {sequence}")
            self._gone |= {(box, uid) for uid in last.flags.keys() - now.flags.keys()}
        if max(now.flags, default=0) >= now.next_uid or max(now.sequences.values(), default=0) > now.highest:
            raise BrokenPromiseError(f"{box!r}: UIDNEXT or HIGHESTMODSEQ too low: {now}")
        for uid, flags in now.flags.items():
            if self._means.setdefault((box, uid), now.names[uid]) != now.names[uid]:
                raise BrokenPromiseError(
                    f"{box!r}: UID {uid} meant {self._means[box, uid]}, now {now.names[uid]}"
                )
            if self._state.setdefault((box, uid, now.sequences[uid]), flags) != flags:
                raise BrokenPromiseError(
                    f"{box!r}: UID {uid} has changed under its sequence {now.sequences[uid]}"
                )
            if (box, uid) in self._gone:
                raise BrokenPromiseError(f"{box!r}: UID {uid} has come back")
        self._last[box] = now


@dataclass(slots=True)
class Message:
    """One message of a client, in the mailbox where it was put. `wanted`: flags that may or may not be set
    since the command was not answered; None: it may or may not be there."""

    mark: str
    box: bytes
    uid: int
    flags: frozenset[bytes]
    wanted: frozenset[bytes] | None = None


class Load:
    """Some clients, each in a thread, on messages of their own; they begin anew with each `with`.

    Of each mark's copies the client knows one place for certain; `doubt` are marks whose last command was not
    answered, with the mailboxes where the message may be then.
    """

    def __init__(self, imap: int, lmtp: int, seed: int, clients: int = 4) -> None:
        self._ports = imap, lmtp
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._seed = seed
        self._clients = clients
        self.messages: dict[tuple[str, bytes], Message] = {}
        self.gone: set[tuple[str, bytes]] = set()
        self.doubt: dict[str, tuple[bytes, ...]] = {}
        self.done: Counter[str] = Counter()
        self.failed: list[BaseException] = []
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Load:
        self._stop.clear()
        works: list[Callable[[random.Random], None]] = [self._client] * self._clients
        works.append(self._deliver)
        self._threads = [
            threading.Thread(
                target=self._run, args=(work, random.Random(f"{self._seed} {index} {self._mark()}"))
            )
            for index, work in enumerate(works)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        if self.failed:
            raise self.failed[0]

    def _mark(self) -> str:
        with self._lock:
            return f"m{next(self._numbers)}"

    def _run(self, work: Callable[[random.Random], None], chance: random.Random) -> None:
        while not self._stop.is_set():
            try:
                work(chance)
            except (OSError, EOFError):
                time.sleep(0.02)
            except BrokenPromiseError as lost:
                self.failed.append(lost)
                return

    # ---- clients

    def _deliver(self, chance: random.Random) -> None:
        with socket.create_connection(("127.0.0.1", self._ports[1]), 20) as connection:
            answers = connection.makefile("rb")
            _expect(answers.readline())
            connection.sendall(b"LHLO x\r\n")
            while (line := answers.readline())[3:4] == b"-":
                pass
            _expect(line)
            while not self._stop.is_set():
                mark = self._mark()
                self.doubt[mark] = (b"INBOX",)
                connection.sendall(b"MAIL FROM:<>\r\nRCPT TO:<u>\r\nDATA\r\n")
                for _ in range(3):
                    _expect(answers.readline())
                connection.sendall(_content(mark).replace(b"\n", b"\r\n") + b".\r\n")
                _expect(answers.readline())
                del self.doubt[mark]
                self.messages[mark, b"INBOX"] = Message(mark, b"INBOX", 0, frozenset())
                self.done["lmtp"] += 1
                time.sleep(PAUSE * 5)

    def _client(self, chance: random.Random) -> None:
        with Client(self._ports[0]) as client:
            client.login()
            client.ask(b"SELECT INBOX")
            mine: list[Message] = []
            while not self._stop.is_set():
                kinds = ("append", "store", "store", "copy", "move", "expunge")
                kind = "append" if len(mine) < 5 else chance.choice(kinds)
                getattr(self, f"_{kind}")(client, chance, mine)
                self.done[kind] += 1
                time.sleep(PAUSE)

    def _append(self, client: Client, chance: random.Random, mine: list[Message]) -> None:
        mark = self._mark()
        content = _content(mark).replace(b"\n", b"\r\n")
        flags = frozenset(chance.sample(FLAGS, chance.randrange(3)))
        self.doubt[mark] = (b"INBOX",)
        command = b"APPEND INBOX (%b) {%d+}\r\n%b" % (b" ".join(flags), len(content), content)
        self._came(client.ask(command), rb"APPENDUID \d+ (\d+)\]", Message(mark, b"INBOX", 0, flags), mine)
        del self.doubt[mark]

    def _came(self, answer: bytes, code: bytes, message: Message, mine: list[Message] | None) -> None:
        found = re.search(code, answer)
        if found is None:
            raise BrokenPromiseError(f"{answer!r} names no UID")
        message.uid = int(found[1])
        self.messages[message.mark, message.box] = message
        if mine is not None:
            mine.append(message)

    def _store(self, client: Client, chance: random.Random, mine: list[Message]) -> None:
        message = chance.choice(mine)
        message.wanted = frozenset(chance.sample(FLAGS, chance.randrange(4)))
        client.ask(b"UID STORE %d FLAGS (%b)" % (message.uid, b" ".join(message.wanted)))
        message.flags, message.wanted = message.wanted, None

    def _copy(self, client: Client, chance: random.Random, mine: list[Message]) -> None:
        message = chance.choice(mine)
        if (message.mark, b"Kept") in self.messages:
            return
        self.doubt[message.mark] = (b"Kept",)
        copy = Message(message.mark, b"Kept", 0, message.flags)
        self._came(client.ask(b"UID COPY %d Kept" % message.uid), rb"COPYUID \d+ \d+ (\d+)\]", copy, None)
        del self.doubt[message.mark]

    def _move(self, client: Client, chance: random.Random, mine: list[Message]) -> None:
        message = mine.pop(chance.randrange(len(mine)))
        del self.messages[message.mark, b"INBOX"]
        self.doubt[message.mark] = (b"INBOX", b"Moved")
        moved = Message(message.mark, b"Moved", 0, message.flags)
        self._came(client.ask(b"UID MOVE %d Moved" % message.uid), rb"COPYUID \d+ \d+ (\d+)\]", moved, None)
        self.gone.add((message.mark, b"INBOX"))
        del self.doubt[message.mark]

    def _expunge(self, client: Client, chance: random.Random, mine: list[Message]) -> None:
        message = mine.pop(chance.randrange(len(mine)))
        del self.messages[message.mark, b"INBOX"]
        self.doubt[message.mark] = (b"INBOX",)
        client.ask(b"UID STORE %d +FLAGS.SILENT (\\Deleted)" % message.uid)
        client.ask(b"UID EXPUNGE %d" % message.uid)
        self.gone.add((message.mark, b"INBOX"))
        del self.doubt[message.mark]

    # ---- what is true now

    def settle(self, found: Mapping[bytes, Counter[str]], shown: Mapping[bytes, Shown]) -> Counter[str]:
        """Hold the promises against what there is; what was in doubt is then known. Raises `BrokenPromiseError`."""
        for (mark, box), message in self.messages.items():
            if found[box][mark] != 1:
                raise BrokenPromiseError(f"{mark} is {found[box][mark]} times in {box!r}")
            uid = next(uid for uid, name in shown[box].names.items() if name == mark)
            if message.uid not in (0, uid):
                raise BrokenPromiseError(f"{mark} in {box!r} had UID {message.uid}, has {uid}")
            message.uid = uid
            flags = shown[box].flags[uid] - {b"\\Deleted"}
            if flags not in (message.flags, message.wanted):
                raise BrokenPromiseError(
                    f"{mark} in {box!r} has {flags}, not {message.flags} or {message.wanted}"
                )
            message.flags, message.wanted = flags, None
        for mark, box in self.gone:
            if found[box][mark]:
                raise BrokenPromiseError(f"{mark} has come back in {box!r}")
        self._resolve(found, shown)
        known: Set[tuple[str, bytes]] = self.messages.keys()
        for box, marks in found.items():
            for mark, count in marks.items():
                if count > 1 or (mark, box) not in known:
                    raise BrokenPromiseError(
                        f"{mark} is {count} times in {box!r}, and nobody has put it there"
                    )
        done, self.done = self.done, Counter()
        return done

    def _resolve(self, found: Mapping[bytes, Counter[str]], shown: Mapping[bytes, Shown]) -> None:
        for mark, boxes in self.doubt.items():
            places = [box for box in boxes if found[box][mark]]
            if len(boxes) == 2 and len(places) != 1:
                raise BrokenPromiseError(f"{mark} was being moved and is in {places}")
            for box in places:
                uid = next(uid for uid, name in shown[box].names.items() if name == mark)
                flags = shown[box].flags[uid] - {b"\\Deleted"}
                self.messages[mark, box] = Message(mark, box, uid, flags)
            self.gone |= {(mark, box) for box in boxes if box not in places}
        self.doubt.clear()


def _content(mark: str) -> bytes:
    lines = 2000 if mark.endswith("7") else 10
    return b"Subject: crash\nX-Mark: %b\n\n" % mark.encode() + b"x" * 60 + b"\n" * lines


def _expect(line: bytes) -> None:
    """Raises `EOFError` when there is no answer, `BrokenPromiseError` for an error that is not temporary."""
    if not line:
        raise EOFError
    if line[:1] not in b"23":
        if line[:1] == b"4":
            raise EOFError(line)
        raise BrokenPromiseError(line.decode())
