"""One mailbox, served by ours and by the real Dovecot in turn: no client notices.

Each of the two delivers, appends, flags, copies, moves, expunges, makes and subscribes mailboxes; behind each
swap everything is as it was, and mbsync, fetchmail and offlineimap, which have kept their state, fetch nothing
anew.
"""

from __future__ import annotations

import imaplib
import os
import re
import shutil
import smtplib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mailstack.storage.maildir.folder import Folder

MISSING = [name for name in ("dovecot", "mbsync", "fetchmail", "offlineimap") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} is missing"),
    pytest.mark.skipif(os.geteuid() != 0, reason="a real Dovecot starts only as root"),
    pytest.mark.timeout(180),
]
NOBODY = 65534
CONFIG = """\
base_dir = {root}/run
state_dir = {root}/run
log_path = {root}/log
ssl = no
protocols = imap pop3 lmtp
disable_plaintext_auth = no
auth_mechanisms = plain login
mail_location = maildir:~/mail
first_valid_uid = 0
first_valid_gid = 0
postmaster_address = postmaster@mail.test
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
service pop3-login {{
  inet_listener pop3 {{
    address = 127.0.0.1
    port = {pop3}
  }}
  inet_listener pop3s {{
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
MBSYNCRC = """\
IMAPAccount far
Host 127.0.0.1
Port {imap}
User zs
Pass x
SSLType None
AuthMechs LOGIN

IMAPStore far
Account far

MaildirStore near
Path {root}/near/
Inbox {root}/near/INBOX
SubFolders Verbatim

Channel all
Far :far:
Near :near:
Patterns *
Sync Pull
Create Near
Expunge None
SyncState *
"""
FETCHMAILRC = """\
poll 127.0.0.1 protocol POP3 port {pop3} uidl
  user "zs" password "x" sslproto "" keep
  mda "cat >> {root}/fetched"
"""
OFFLINEIMAPRC = """\
[general]
accounts = a
metadata = {root}/offline-state
ui = quiet
[Account a]
localrepository = near
remoterepository = far
[Repository near]
type = Maildir
localfolders = {root}/offline
[Repository far]
type = IMAP
readonly = True
remotehost = 127.0.0.1
remoteport = {imap}
remoteuser = zs
remotepass = x
ssl = no
starttls = no
auth_mechanisms = LOGIN
"""


@dataclass(frozen=True)
class Seen:
    """An account as an IMAP client sees it: by mailbox UIDVALIDITY and by UID flags and Message-ID."""

    subscribed: frozenset[bytes]
    validities: dict[str, str] = field(default_factory=dict)
    messages: dict[tuple[str, int], tuple[frozenset[str], str]] = field(default_factory=dict)


class House:
    """The account's folder, and one of the two that serves it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.count = 0
        self._process: subprocess.Popen[bytes] | None = None
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        self.imap, self.pop3, self.lmtp = (sock.getsockname()[1] for sock in sockets)
        for sock in sockets:
            sock.close()
        values = {"root": root, "imap": self.imap, "pop3": self.pop3, "lmtp": self.lmtp}
        for name, text in (
            ("dovecot.conf", CONFIG),
            ("mbsyncrc", MBSYNCRC),
            ("fetchmailrc", FETCHMAILRC),
            ("offlineimaprc", OFFLINEIMAPRC),
        ):
            (root / name).write_text(text.format(**values))
            (root / name).chmod(0o600)
        (root / "users").write_text(f"zs:{{PLAIN}}x:{NOBODY}:{NOBODY}::{root}/home::\n")
        (root / "users").chmod(0o644)
        for name in ("run", "home", "near", "offline"):
            (root / name).mkdir()

    def serve(self, engine: str) -> None:
        """End whoever serves now and let `engine` do so."""
        self.stop()
        for path in (self.root / "home", *(self.root / "home").rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        ours = [sys.executable, "-m", "mailstack.mailbox", "--config", str(self.root)]
        theirs = ["dovecot", "-F", "-c", str(self.root / "dovecot.conf")]
        with open(self.root / "log", "ab") as log:
            self._process = subprocess.Popen(theirs if engine == "dovecot" else ours, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        for port in (self.imap, self.pop3, self.lmtp):
            while True:
                try:
                    with socket.create_connection(("127.0.0.1", port), 5) as connection:
                        assert connection.recv(1)
                    break
                except OSError:
                    assert time.monotonic() < deadline, (self.root / "log").read_text()[-3000:]
                    time.sleep(0.05)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait(20)

    # ---- looking

    def connect(self) -> imaplib.IMAP4:
        client = imaplib.IMAP4("127.0.0.1", self.imap, timeout=20)
        client.login("zs", "x")
        return client

    def look(self) -> Seen:
        with self.connect() as client:
            names, subscribed = (_last_words(answer) for answer in (client.list()[1], client.lsub()[1]))
            found = Seen(frozenset(subscribed))
            for name in sorted(names):
                box = name.decode()
                client.select(box, readonly=True)
                found.validities[box] = str(client.response("UIDVALIDITY")[1])
                _, rows = client.uid("FETCH", "1:*", "(UID FLAGS BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])")
                for row in rows:
                    if isinstance(row, tuple):
                        uid = int(re.findall(rb"UID (\d+)", row[0])[0])
                        flags = re.findall(rb"FLAGS \(([^)]*)\)", row[0])[0].decode().split()
                        found.messages[box, uid] = (frozenset(flags) - {"\\Recent"}, row[1].decode().strip())
            return found

    def guids(self) -> dict[tuple[str, int], str]:
        """What the files say of the messages' GUIDs, and the mailboxes' (under UID 0)."""
        found = {}
        for path in (self.root / "home/mail", *(self.root / "home/mail").glob(".*/")):
            folder = Folder(str(path))
            folder.load(lambda: 1)
            assert folder.problems == []
            found[path.name, 0] = folder.guid
            for index, uid in enumerate(folder.uids):
                found[path.name, uid] = folder.message_guid(index)
        return found

    def synchronize(self) -> dict[str, list[str]]:
        """Run the clients that keep a state of their own; what each has fetched until now."""
        fetchmail = ["-f", str(self.root / "fetchmailrc"), "-i", str(self.root / "ids"), "--nosyslog"]
        for command, statuses in (
            (["mbsync", "-q", "-c", str(self.root / "mbsyncrc"), "all"], (0,)),
            (["fetchmail", *fetchmail, "--pidfile", str(self.root / "pid")], (0, 1)),
            (["offlineimap", "-o", "-c", str(self.root / "offlineimaprc")], (0,)),
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
            assert done.returncode in statuses, (command[0], done.stdout[-2000:], done.stderr[-2000:])
        fetched = self.root / "fetched"
        return {
            "mbsync": _messages(self.root / "near"),
            "fetchmail": sorted(re.findall(r"(?im)^Message-ID: (.*)$", fetched.read_text())),
            "offlineimap": _messages(self.root / "offline"),
        }

    # ---- working

    def work(self) -> None:
        """Everything that changes a mailbox; the first round makes the mailboxes."""
        with smtplib.LMTP("127.0.0.1", self.lmtp) as lmtp:
            for _ in range(3):
                lmtp.sendmail("a@mail.test", ["zs"], self.message())
        with self.connect() as client:
            box = f"Round{self.count}"
            _ok(client.create(box))
            _ok(client.subscribe(box))
            if "Kept" not in str(client.list()):
                _ok(client.create("Kept"))
                _ok(client.subscribe("Kept"))
            for flags in ("(\\Seen $Label)", "(\\Flagged)", "()", f"(Key{self.count})"):
                _ok(client.append("INBOX", flags, "", self.message()))
            client.select("INBOX")
            uids = client.uid("SEARCH", "ALL")[1][0].split()
            new = [uid.decode() for uid in uids[-7:]]
            _ok(client.uid("STORE", new[0], "+FLAGS", "(\\Answered $Label)"))
            _ok(client.uid("STORE", uids[0].decode(), "+FLAGS", f"(Later{self.count})"))
            _ok(client.uid("COPY", f"{new[0]},{new[3]}", "Kept"))
            _ok(client.uid("COPY", uids[0].decode(), box))
            _ok(client.uid("MOVE", new[1], "Kept"))
            _ok(client.uid("STORE", f"{new[2]},{new[6]}", "+FLAGS.SILENT", "(\\Deleted)"))
            _ok(client.expunge())

    def message(self) -> bytes:
        self.count += 1
        return b"From: a@mail.test\r\nSubject: s\r\nMessage-ID: <m%d@mail.test>\r\n\r\nbody\r\n" % self.count


def _ok(answer: tuple[str, object]) -> None:
    assert answer[0] == "OK", answer


def _last_words(lines: Sequence[bytes | tuple[bytes, bytes] | None]) -> list[bytes]:
    return [line.rpartition(b" ")[2].strip(b'"') for line in lines if isinstance(line, bytes)]


def _messages(root: Path) -> list[str]:
    """Mailbox and Message-ID of each file."""
    found = []
    for path in (*root.rglob("cur/*"), *root.rglob("new/*")):
        mark = re.search(r"(?im)^Message-ID: (.*)$", path.read_text())
        found.append(f"{path.parent.parent.name} {mark[1] if mark else path}")
    return sorted(found)


@pytest.fixture
def house() -> Iterator[House]:
    root = Path(tempfile.mkdtemp(prefix="mailstack-swap-"))
    root.chmod(0o755)
    house = House(root)
    yield house
    house.stop()
    shutil.rmtree(root)


@pytest.mark.parametrize(
    "engines", [("ours", "dovecot", "ours", "dovecot"), ("dovecot", "ours", "dovecot", "ours")]
)
def test_no_client_notices_the_swap(house: House, engines: tuple[str, ...]) -> None:
    house.serve(engines[0])
    for engine in engines[1:]:
        house.work()
        seen, fetched = house.look(), house.synchronize()
        assert len(fetched["mbsync"]) == len(set(fetched["mbsync"])) > 5
        assert len(fetched["fetchmail"]) == len(set(fetched["fetchmail"])) > 3
        house.stop()
        guids = house.guids()
        house.serve(engine)
        again = house.look()
        assert again.subscribed == seen.subscribed, engine
        assert again.validities == seen.validities, engine
        assert again.messages == seen.messages, engine
        assert house.synchronize() == fetched, engine
        house.stop()
        assert house.guids() == guids, engine
        house.serve(engine)
