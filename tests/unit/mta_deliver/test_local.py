"""local(8): what aliases, forward files and accounts make of mail. Users are the tests' own user, or nobody for root."""

from __future__ import annotations

import asyncio
import os
import pwd
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from mailstack.config.errors import ConfigError
from mailstack.mta.deliver.local import Direct, Forward, LocalAgent, LocalRouter
from mailstack.mta.deliver.local.users import Users, ask, expand_template
from mailstack.mta.deliver.request import Agent, Request, Result, Sent
from mailstack.mta.lookup import SlowTable, accounts_are_remote
from mailstack.mta.rewrite import Rewriter
from mailstack.net.clock import ManualClock
from mailstack.net.log import Log
from mailstack.storage.durable import GroupCommit
from mailstack.storage.queue import Message, Queue
from mailstack.storage.tables import open_table
from tests.unit.mta_deliver.support import CONTENT, configuration, request, summary

UID, GID = (os.geteuid(), os.getegid()) if os.geteuid() else (65534, 65534)
"""The users': our own, or, for root, somebody else's."""


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder of the users', where they can get to."""
    with TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield own(Path(name))


def own(path: Path) -> Path:
    os.chown(path, UID, GID)
    return path


class Elsewhere:
    """Another transport."""

    daemon = "elsewhere"

    def __init__(self) -> None:
        self.requests: list[Request] = []

    async def deliver(self, request: Request) -> Sequence[Result]:
        self.requests.append(request)
        return request.all(Sent("elsewhere"), "elsewhere")

    async def close(self) -> None:
        pass


class Machine:
    """One with the users zs and ls, whose homes are below `root`, and a local of its own."""

    def __init__(self, root: Path, conf: str = "", aliases: str = "") -> None:
        self.root = root
        self.elsewhere = Elsewhere()
        self.forwarded: list[tuple[str, Forward]] = []
        for name in ("zs", "ls", "spool"):
            (root / name).mkdir(exist_ok=True)
            own(root / name)
        (root / "aliases").write_text(aliases)
        self.conf = configuration(
            f"mydestination = x.test\nmyorigin = x.test\nrecipient_delimiter = +\n"
            f"alias_maps = hash:{root}/aliases\nmail_spool_directory = {root}/spool\n{conf}"
        )
        self._log_fd = os.open(root / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def find(self, name: str) -> pwd.struct_passwd:
        if name not in ("zs", "ls"):
            raise KeyError(name)
        return pwd.struct_passwd((name, "x", UID, GID, "", str(self.root / name), "/bin/sh"))

    async def _forward(self, message: Message, address: str, forward: Forward) -> str:
        self.forwarded.append((address, forward))
        return "ABC123"

    def forward(self, text: str, *, user: str = "zs", name: str = ".forward", mode: int = 0o644) -> None:
        path = self.root / user / name
        path.write_text(text.replace("ROOT", str(self.root)))
        path.chmod(mode)

    def deliver(self, address: str, content: bytes = CONTENT) -> tuple[str, str, str]:
        """(kind, dsn, text) of one delivery."""

        async def main() -> Sequence[Result]:
            queue = Queue(str(self.root / "queue"))
            queue.create()
            commit, clock = GroupCommit(), ManualClock()
            log = Log("postfix/local", "mail", self._log_fd)
            rewriter = Rewriter(self.conf, open_table)
            users = Users(self.conf, clock, log, self.find)
            router = LocalRouter(self.conf, rewriter, open_table, log, users=users)

            def transport(name: str) -> Agent:
                assert name == "elsewhere"
                return self.elsewhere

            agent = LocalAgent(
                self.conf, router, self._forward, queue, commit, open_table, clock, log, transport
            )
            results = await agent.deliver(await request(queue, address, address, content=content))
            await agent.close()
            commit.close()
            return results

        [(_, kind, dsn, text)] = summary(asyncio.run(main()))
        return kind, dsn, text.replace(str(self.root), "ROOT")

    def log(self) -> str:
        return (self.root / "log").read_text().replace(str(self.root), "ROOT")

    def text(self, name: str) -> str:
        return (self.root / name).read_text()


DELIVERED = ("Sent", "2.0.0", "delivered to mailbox")


def test_extensions_are_in_lower_case_and_no_paths(root: Path) -> None:
    machine = Machine(root, "propagate_unmatched_extensions = alias\n", aliases="far: a@far.test\n")
    machine.forward("one@other.test", name=".forward+one")
    (root / "zs" / ".forward+up").mkdir()
    (root / "zs" / "secret").write_text("stolen@other.test\n")
    for address in ("zs+ONE@x.test", "zs+up/../secret@x.test", "Far+Ext@x.test", "far+A/b@x.test"):
        machine.deliver(address)
    addresses = [list(forward.addresses) for _, forward in machine.forwarded]
    assert addresses == [["one@other.test"], ["a+ext@far.test"], ["a@far.test"]]
    assert "warning: address with illegal extension: zs+up/../secret\n" in machine.log()


@pytest.mark.parametrize(
    ("alias", "forwarded"),
    [
        ("a@far.test, kid", {None: ["a@far.test"], "owner-kid@x.test": ["b@far.test", "c@far.test"]}),
        ("kid, c@far.test", {"owner-kid@x.test": ["b@far.test", "c@far.test"]}),
        ("plain, a@far.test", {None: ["d@far.test", "a@far.test"]}),
        (
            "plain, kid\nowner-top: zs",
            {"owner-top@x.test": ["d@far.test"], "owner-kid@x.test": ["b@far.test", "c@far.test"]},
        ),
        (":include:ROOT/list\nowner-top: zs", {"owner-kid@x.test": ["b@far.test", "c@far.test"]}),
    ],
)
def test_owners_of_aliases_in_aliases(root: Path, alias: str, forwarded: dict[str | None, list[str]]) -> None:
    # The innermost alias with an owner counts; who is named twice gets one message.
    (root / "list").write_text("kid\n")
    others = "kid: b@far.test, c@far.test\nowner-kid: ls\nplain: d@far.test\n"
    machine = Machine(root, aliases=f"top: {alias}\n{others}".replace("ROOT", str(root)))
    assert machine.deliver("top@x.test") == ("Sent", "2.0.0", "forwarded as ABC123")
    assert {one.sender: list(one.addresses) for _, one in machine.forwarded} == forwarded


def test_lists_without_recipients(root: Path) -> None:
    (root / "list").write_text("# nobody yet\n")
    machine = Machine(root, aliases=f"all: :include:{root}/list\n")
    nobody = ("Sent", "2.0.0", "discarded: the list has no recipients")
    assert machine.deliver("all@x.test") == nobody
    machine.forward(":include:ROOT/list")
    assert machine.deliver("zs@x.test") == nobody
    assert not machine.forwarded


def test_accounts_that_have_to_be_waited_for(root: Path) -> None:
    class Slow(Machine):
        """Its accounts are a directory's."""

        def __init__(self, root: Path, aliases: str) -> None:
            super().__init__(root, aliases=aliases)
            near = super().find

            async def query(name: str) -> str | None:
                await asyncio.sleep(0)
                return ":".join(map(str, near(name))) if name in ("zs", "ls") else None

            found = ask(SlowTable("unix:passwd.byname", query))
            self.find = found  # type: ignore[method-assign,assignment]

    machine = Slow(root, "both: zs, ls\n")
    machine.forward('"|exit 0"\n', user="ls")
    assert machine.deliver("zs@x.test") == DELIVERED
    assert machine.deliver("ls@x.test") == ("Sent", "2.0.0", "delivered to command: exit 0")
    assert machine.deliver("no@x.test") == ("Bounced", "5.1.1", 'unknown user: "no"')


@pytest.mark.parametrize(
    "text, remote",
    [
        ("passwd: files systemd\ngroup: files\nhosts: dns\n", False),
        ("passwd: compat [NOTFOUND=return] mymachines # sss\n", False),
        ("passwd: files sss\n", True),
        ("passwd: files\ngroup: files ldap\n", True),
        ("", False),
    ],
)
def test_where_accounts_come_from(tmp_path: Path, text: str, remote: bool) -> None:
    (tmp_path / "nsswitch.conf").write_text(text)
    assert accounts_are_remote(tmp_path / "nsswitch.conf") is remote
    assert not accounts_are_remote(tmp_path / "absent")


def test_a_mailbox_in_the_spool_directory(root: Path) -> None:
    machine = Machine(root)
    assert machine.deliver("ZS+ext@x.test") == DELIVERED
    text = machine.text("spool/zs")
    assert text.startswith("From zs@x.test  ")
    assert text.partition("\n")[2] == (
        "Return-Path: <zs@x.test>\nX-Original-To: ZS+ext@x.test\nDelivered-To: ZS+ext@x.test\n"
        "Subject: x\n\n.dot\nbody\n\n"
    )
    assert machine.deliver("nobody@x.test") == ("Bounced", "5.1.1", 'unknown user: "nobody"')


@pytest.mark.parametrize(
    ("conf", "file"),
    [
        ("home_mailbox = Maildir/\n", "zs/Maildir/new/*"),
        ("home_mailbox = mail/inbox\n", "zs/mail/inbox"),
        ("mailbox_command = cat > ROOT/zs/seen\n", "zs/seen"),
        ("mailbox_command_maps = inline:{zs=cat>ROOT/zs/mapped}\n", "zs/mapped"),
    ],
)
def test_other_mailboxes(root: Path, conf: str, file: str) -> None:
    machine_mail = root / "zs" / "mail"
    machine_mail.mkdir(parents=True)
    own(machine_mail)
    machine = Machine(root, conf.replace("ROOT", str(root)))
    assert machine.deliver("zs@x.test")[0] == "Sent"
    [path] = root.glob(file)
    assert b"Delivered-To: zs@x.test\nSubject: x\n" in path.read_bytes()
    assert not (root / "spool" / "zs").exists()


@pytest.mark.parametrize(
    ("conf", "address", "passed"),
    [
        ("mailbox_transport = elsewhere:hop", "zs@x.test", ("hop", "zs@x.test")),
        ("mailbox_transport_maps = inline:{zs=elsewhere:}", "zs+a@x.test", ("x.test", "zs+a@x.test")),
        ("fallback_transport = elsewhere:hop", "who@x.test", ("hop", "who@x.test")),
        ("fallback_transport_maps = inline:{who=elsewhere:h}", "who@x.test", ("h", "who@x.test")),
        ("fallback_transport = elsewhere:hop", "zs@x.test", None),
    ],
)
def test_other_transports(root: Path, conf: str, address: str, passed: tuple[str, str] | None) -> None:
    machine = Machine(root, conf + "\n")
    assert machine.deliver(address)[2] == ("elsewhere" if passed else "delivered to mailbox")
    assert [(r.nexthop, r.targets[0].address) for r in machine.elsewhere.requests] == [passed] * bool(passed)


@pytest.mark.parametrize(
    ("text", "outcome", "addresses", "files"),
    [
        ("out@other.test\n", "forwarded as ABC123", ["out@other.test"], []),
        ("# only a comment\n\n", "delivered to mailbox", None, ["spool/zs"]),
        ("\\zs, out@other.test", "delivered to mailbox", ["out@other.test"], ["spool/zs"]),
        ("zs+copy\nout@other.test", "delivered to mailbox", ["out@other.test"], ["spool/zs"]),
        ("ls", "forwarded as ABC123", ["ls@x.test"], []),
        ("ROOT/zs/copy", "delivered to file: ROOT/zs/copy", None, ["zs/copy"]),
        ("ROOT/zs/box/", "delivered to maildir", None, ["zs/box"]),
        ('"|cat > ROOT/zs/got"', "delivered to command: cat > ROOT/zs/got", None, ["zs/got"]),
        (":include:ROOT/zs/more", "forwarded as ABC123", ["inc@other.test"], []),
        ('"|exit 75", out@other.test', "temporary failure", None, []),
    ],
)
def test_forward_files(
    root: Path, text: str, outcome: str, addresses: list[str] | None, files: list[str]
) -> None:
    machine = Machine(root)
    (root / "zs" / "more").write_text("inc@other.test\n")
    machine.forward(text)
    assert machine.deliver("zs@x.test")[2] == outcome
    forwards = [(address, list(forward.addresses), forward.sender, forward.final)
                for address, forward in machine.forwarded]  # fmt: skip
    assert forwards == ([("zs@x.test", addresses, None, False)] if addresses else [])
    assert [name for name in ("spool/zs", "zs/copy", "zs/box", "zs/got") if (root / name).exists()] == files


def test_a_forward_file_for_an_extension(root: Path) -> None:
    machine = Machine(root)
    machine.forward("all@other.test")
    machine.forward("one@other.test", name=".forward+one")
    machine.deliver("zs+one@x.test")
    machine.deliver("zs+two@x.test")
    machine.deliver("zs+../../etc@x.test")
    assert [forward.addresses for _, forward in machine.forwarded] == [
        ("one@other.test",),
        ("all@other.test",),
        ("all@other.test",),
    ]


@pytest.mark.parametrize(
    ("wanted", "one", "two"),
    [
        ("canonical", "a@other.test", "b@other.test"),
        ("alias, include", "a+x@other.test", "b@other.test"),
        ("forward", "a@other.test", "b+x@other.test"),
    ],
)
def test_extensions_go_on_where_they_are_wanted(root: Path, wanted: str, one: str, two: str) -> None:
    conf = f"propagate_unmatched_extensions = {wanted}\n"
    machine = Machine(root, conf, aliases=f"team: :include:{root}/list\n")
    (root / "list").write_text("a@other.test\n")
    machine.forward("b@other.test")
    machine.deliver("team+x@x.test")
    machine.deliver("zs+x@x.test")
    assert [forward.addresses for _, forward in machine.forwarded] == [(one,), (two,)]


def test_unsafe_forward_files_are_left_aside(root: Path) -> None:
    machine = Machine(root)
    machine.forward("out@other.test", mode=0o666)
    assert machine.deliver("zs@x.test") == DELIVERED
    (root / "zs" / ".forward").unlink()
    (root / "zs" / ".forward").mkdir()
    assert machine.deliver("zs@x.test") == DELIVERED
    assert machine.forwarded == []
    assert "warning: file ROOT/zs/.forward is world writable\n" in machine.log()
    assert "warning: file ROOT/zs/.forward is not a regular file\n" in machine.log()


def test_what_commands_and_files_are_allowed(root: Path) -> None:
    machine = Machine(root, "allow_mail_to_files = alias\nallow_mail_to_commands = alias\n")
    machine.forward("ROOT/zs/copy")
    assert machine.deliver("zs@x.test") == ("Bounced", "5.7.1", "mail to file is restricted")
    machine.forward("|/bin/cat")
    assert machine.deliver("zs@x.test") == ("Bounced", "5.7.1", "mail to command is restricted")
    with pytest.raises(
        ConfigError, match="allow_mail_to_files: 'root' is not one of alias, forward, include"
    ):
        Machine(root, "allow_mail_to_files = root\n").deliver("zs@x.test")


def test_the_environment_of_commands(root: Path) -> None:
    machine = Machine(root, "export_environment =\n")
    machine.forward('"|env > ROOT/zs/env"')
    machine.deliver("zs+a;b@x.test")
    found = dict(line.split("=", 1) for line in machine.text("zs/env").splitlines())
    found = {name: value for name, value in found.items() if name not in ("PWD", "_", "OLDPWD", "SHLVL")}
    assert found == {
        "PATH": "/usr/bin:/bin",
        "USER": "zs",
        "LOGNAME": "zs",
        "HOME": str(root / "zs"),
        "SHELL": "/bin/sh",
        "LOCAL": "zs+a_b",
        "EXTENSION": "a_b",
        "DOMAIN": "x.test",
        "RECIPIENT": "zs+a_b@x.test",
        "ORIGINAL_RECIPIENT": "zs+a_b@x.test",
        "SENDER": "zs@x.test",
    }


@pytest.mark.parametrize(
    ("address", "expected", "addresses"),
    [
        ("one@x.test", "delivered to mailbox", []),
        ("circle@x.test", "alias database loop for circle", []),
        ("none@x.test", "alias database unavailable", []),
        ("many@x.test", "forwarded as ABC123", ["zs@x.test", "out@other.test"]),
        ("bad@x.test", "mail system configuration error", []),
        ("open@x.test", "mail system configuration error", []),
    ],
)
def test_aliases(root: Path, address: str, expected: str, addresses: list[str]) -> None:
    (root / "list").write_text("zs\n# nobody\nout@other.test\n")
    (root / "open").write_text("zs\n")
    (root / "open").chmod(0o666)
    aliases = (
        f"one: ls\nmany: :include:{root}/list\nbad: :include:{root}/none\n"
        f"open: :include:{root}/open\ncircle: square\nsquare: circle\nnone: <>\n"
    )
    machine = Machine(root, aliases=aliases)
    machine.forward("away@other.test")
    assert machine.deliver(address)[2] == expected
    assert [name for _, forward in machine.forwarded for name in forward.addresses] == addresses
    assert all(forward.final for _, forward in machine.forwarded)


def test_a_loop_is_returned(root: Path) -> None:
    machine = Machine(root)
    content = b"Delivered-To: ZS@x.test\r\n" + CONTENT
    assert machine.deliver("zs@x.test", content) == ("Bounced", "5.4.6", "mail forwarding loop for zs@x.test")
    assert machine.deliver("zs@x.test", CONTENT + b"Delivered-To: zs@x.test\r\n") == DELIVERED
    large = b"X: " + b"x" * 70_000 + b"\r\n" + content
    assert machine.deliver("zs@x.test", large)[1] == "5.4.6"


@pytest.mark.parametrize(
    ("relay", "addresses"),
    [
        ("$user@other.test", ["who@other.test"]),
        ("$local@other.test", ["who+ext@other.test"]),
        ("admin+$extension", ["admin+ext@x.test"]),
        ("postmaster", ["postmaster@x.test"]),
    ],
)
def test_luser_relay(root: Path, relay: str, addresses: list[str]) -> None:
    machine = Machine(root, f"luser_relay = {relay}\n")
    assert machine.deliver("who+ext@x.test")[2] == "forwarded as ABC123"
    assert [list(forward.addresses) for _, forward in machine.forwarded] == [addresses]


def test_a_name_without_a_value_in_luser_relay_is_nothing(root: Path) -> None:
    machine = Machine(root, "luser_relay = nobody-$extension@other.test\n")
    assert machine.deliver("who@x.test")[2] == "forwarded as ABC123"
    assert [list(forward.addresses) for _, forward in machine.forwarded] == [["nobody-@other.test"]]


def test_mailboxes_that_cannot_be_written(root: Path) -> None:
    machine = Machine(root, "mailbox_size_limit = 11000000\nrequire_home_directory = yes\n")
    (root / "spool" / "zs").write_bytes(b"x" * 10_999_990)
    own(root / "spool" / "zs")
    assert machine.deliver("zs@x.test") == (
        "Bounced",
        "5.2.2",
        "cannot update mailbox ROOT/spool/zs for user zs. error writing message: File too large",
    )
    assert (root / "spool" / "zs").stat().st_size == 10_999_990
    (root / "ls").rmdir()
    kind, dsn, text = machine.deliver("ls@x.test")
    assert (kind, dsn) == ("Deferred", "4.3.0")
    assert text.startswith("cannot access home directory ROOT/ls")
    with pytest.raises(ConfigError, match="must not be smaller than message_size_limit"):
        Machine(root, "mailbox_size_limit = 1000\n").deliver("zs@x.test")
    with pytest.raises(ConfigError, match="'lockf' is no locking method"):
        Machine(root, "mailbox_delivery_lock = lockf\n").deliver("zs@x.test")


def test_without_root_only_our_own_mail(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(root)
    monkeypatch.setattr(os, "geteuid", lambda: UID + 1)
    for text in ("ROOT/zs/copy", "|/bin/cat", "ROOT/zs/box/", "\\zs"):
        machine.forward(text)
        kind, dsn, said = machine.deliver("zs@x.test")
        assert (kind, dsn) == ("Deferred", "4.3.5"), said
        assert f"as user {UID} without being root" in said


def test_direct_ways_need_no_agent(root: Path) -> None:
    """A user that the machine does not know, with mailbox_transport: qmgr hands the mail straight on."""
    machine = Machine(root, "mailbox_transport = elsewhere\n")
    log = Log("postfix/local", "mail", -1)
    users = Users(machine.conf, ManualClock(), log, machine.find)
    router = LocalRouter(machine.conf, Rewriter(machine.conf, open_table), open_table, log, users=users)
    assert router.route("who@x.test") == Direct("elsewhere", "", "who@x.test")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("$home/.forward", "/home/zs/.forward"),
        ("${home}/x$recipient_delimiter", None),
        ("${recipient_delimiter?{a}:{b}}", "b"),
        ("$user", "z_s"),
        ("$", "$"),
    ],
)
def test_templates(template: str, expected: str | None) -> None:
    assert (
        expand_template(template, {"home": "/home/zs", "user": "z$s"}, "/abcdefghijklmnopqrstuvwxyz.")
        == expected
    )
