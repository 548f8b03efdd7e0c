"""`dovecot-acl` and acl_shared_dict: what the files say, and whom it means."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailstack.storage.maildir import acl, acl_global, subscriptions, tree
from mailstack.storage.maildir.acl import ALL, AclError, Entry, Guard, Identifier, Kind
from mailstack.storage.maildir.roots import Account, MailRoot, Namespace


@pytest.mark.parametrize(
    ("text", "owner", "rights"),
    [
        ("", False, ""),
        ("", True, ALL),
        ("anyone lr\n", False, "lr"),
        ("anyone lr\n", True, ALL),
        ("owner lr\n", True, "lr"),
        ("owner lr\n", False, ""),
        ("# a comment\n\nauthenticated l :read write-seen\n", False, "lrs"),
        ("anyone lr\nuser=bob s\n", False, "s"),
        ("user=bob s\nanyone lr\n", False, "s"),
        ("user=bob s\ngroup-override=staff lr\n", False, "lr"),
        ("group=staff l\ngroup=all r\ngroup=others s\nanyone t\n", False, "lr"),
        ("anyone lrwst\n-user=bob w\n", False, "lrst"),
        ("anyone lr\n-anyone r\nuser=bob r\n", False, ""),
        ("-user=bob r\n", True, ALL.replace("r", "")),
        ('"user=bob" lr\n', False, "lr"),
        ("user=alice lr\nuser=bo l\n", False, ""),
    ],
)
def test_rights(text: str, owner: bool, rights: str) -> None:
    assert acl.rights_by(acl.parse(text), "bob", ("staff", "all"), owner=owner) == rights


@pytest.mark.parametrize("text", ["bob lr\n", "anyone lz\n", "anyone :look\n", '"user=bob lr\n'])
def test_a_file_that_cannot_be_understood_is_an_error(text: str) -> None:
    with pytest.raises(AclError):
        acl.parse(text)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    wanted = {
        Identifier(Kind.USER, 'odd "name" \\ here'): Entry("lr", "a"),
        Identifier(Kind.USER, "group=x"): Entry("", None),
        Identifier(Kind.GROUP, "staff"): Entry(None, "r"),
        Identifier(Kind.OWNER): Entry("akxeilprwts", None),
    }
    for identifier, entry in wanted.items():
        acl.change(str(tmp_path), identifier, entry, {})
    assert acl.read(str(tmp_path)) == wanted
    for identifier in wanted:
        acl.change(str(tmp_path), identifier, None, {})
    assert acl.read(str(tmp_path)) == {}


def test_the_dictionary_of_shared_mailboxes_is_dovecots(tmp_path: Path) -> None:
    path = tmp_path / "shared.db"
    path.write_text(
        "shared/shared-boxes/user/bob/carol\n1\nshared/shared-boxes/user/bob/alice\n1\nother\nx\n"
    )
    guard = Guard(("staff",), shared=str(path))
    assert acl.shared_with(guard, "bob") == ["alice", "carol"]
    acl.share(
        guard, "alice", [acl.parse("group=staff l\nuser=dave r\nuser=alice l\n"), acl.parse("anyone r\n")]
    )
    assert path.read_text() == (
        "other\nx\nshared/shared-boxes/group/staff/alice\n1\nshared/shared-boxes/user/bob/carol\n1\n"
    )
    assert acl.shared_with(guard, "dave") == ["alice"]
    assert acl.shared_with(Guard(), "dave") == []


def account(folder: Path, separator: str = "/", guard: Guard | None = None) -> Account:
    bob = MailRoot(str(folder / "bob"))
    spaces = (
        Namespace("private", "", separator, MailRoot(str(folder / "ann")), inbox=True),
        Namespace(
            "public",
            f"Public{separator}",
            separator,
            MailRoot(str(folder / "pub"), inboxless=True),
            subscriptions=False,
        ),
        Namespace(
            "shared", f"shared{separator}%n{separator}%d{separator}", separator, None, subscriptions=False
        ),
    )
    return Account.of("ann@x.test", spaces, {"bob@y.test": bob}.get, guard)


def test_a_name_means_one_place(tmp_path: Path) -> None:
    root = account(tmp_path)
    for name, path in {
        "inbox": "ann",
        "Work/A": "ann/.Work.A",
        "Public/A/B": "pub/.A.B",
        "Public": "pub",
        "Public/INBOX": "pub/.INBOX",
        "shared/bob/y.test/Work/A": "bob/.Work.A",
        "shared/bob/y.test/INBOX": "bob",
        "Publican": "ann/.Publican",
    }.items():
        assert tree.path_of(root, name) == str(tmp_path / path)
    for name in (
        "shared",
        "shared/bob",
        "shared/bob/y.test",
        "shared/no/y.test/x",
        "shared/ann/x.test/x",
    ):
        with pytest.raises(FileNotFoundError):
            tree.path_of(root, name)
        assert not tree.exists(root, name)
    for name in ("a.b", "Public/a.b", "Public//x", "/x"):
        with pytest.raises(tree.MailboxNameError):
            tree.path_of(root, name)
    assert not tree.exists(root, "Public")


def test_what_is_subscribed_elsewhere_stands_in_the_namespace_around(tmp_path: Path) -> None:
    root = account(tmp_path)
    (tmp_path / "ann").mkdir()
    for name in ("Work/A", "Public/A/B", "shared/bob/y.test/Work"):
        assert subscriptions.change(root, name, subscribed=True)
    text = (tmp_path / "ann/subscriptions").read_text()
    assert text == "V\t2\n\nWork\tA\nPublic/A/B\nshared/bob/y\ttest/Work\n"
    assert subscriptions.read(root) == ["Work/A", "Public/A/B", "shared/bob/y.test/Work"]
    assert subscriptions.change(root, "Public/A/B", subscribed=False)
    assert subscriptions.read(root) == ["Work/A", "shared/bob/y.test/Work"]


def test_a_file_that_cannot_be_read_gives_nobody_rights_and_is_told(tmp_path: Path) -> None:
    root = account(tmp_path, guard=Guard())
    told: list[str] = []
    root.report = told.append
    tree.create(MailRoot(str(tmp_path / "pub"), inboxless=True), "x")
    (tmp_path / "pub/.x/dovecot-acl").write_text("frob\n")
    assert tree.rights(root, "Public/x") == ""
    assert "Unknown ID 'frob'" in told[0]
    assert tree.names(root) == ["INBOX"]


GLOBAL = """\
# for all
* user=bob l
Public/* user=bob :read
"Sent ?ail" owner lr
Public/[a]* -user=bob l
"""


@pytest.mark.parametrize(
    ("name", "owner", "rights"),
    [
        ("INBOX", False, "l"),
        ("INBOX", True, "l"),
        ("", False, "l"),
        ("Public/x/y", False, "lr"),
        ("Public", False, "l"),
        ("Public/a", False, "lr"),
        ("Public/[a]b", False, "r"),
        ("Sent Mail", True, "l"),
    ],
)
def test_global_entries_count_more_than_a_mailboxs_own(
    tmp_path: Path, name: str, owner: bool, rights: str
) -> None:
    (tmp_path / "acls").write_text(GLOBAL)
    entries = acl_global.read(str(tmp_path / "acls"), name)
    own = acl.parse("user=bob lrwst\n")
    assert acl.rights_by(own, "bob", (), owner=owner, everywhere=entries) == rights


def test_a_changed_global_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "acls"
    assert acl_global.read(str(path), "x") == {}
    path.write_text("x user=bob l\n")
    assert acl_global.read(str(path), "x") == {Identifier(Kind.USER, "bob"): Entry("l")}
    path.write_text("x user=bob lrs\n")
    assert acl_global.read(str(path), "x") == {Identifier(Kind.USER, "bob"): Entry(acl.ordered("lrs"))}


def test_a_global_directory_has_a_file_for_each_mailbox(tmp_path: Path) -> None:
    (tmp_path / "acls" / "Work").mkdir(parents=True)
    for name, right in ((".DEFAULT", "l"), ("Work/.DEFAULT", "r"), ("Work/a", "s")):
        (tmp_path / "acls" / name).write_text(f"anyone {right}\n")
    (tmp_path / "outside").write_text("anyone a\n")
    found = {
        name: acl_global.read(str(tmp_path / "acls"), name)
        for name in ("", "Work", "Work/a", "Work/a/b", "nothing", "../outside")
    }
    anyone = Identifier(Kind.ANYONE)
    assert found == {
        "": {anyone: Entry("l")},
        "Work": {anyone: Entry("r")},
        "Work/a": {anyone: Entry("s")},
        "Work/a/b": {},
        "nothing": {},
        "../outside": {},
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Work", "Missing ACL pattern or rights"),
        (" anyone l", "Missing ACL pattern or rights"),
        ('"Work anyone l', "Missing '\"'"),
        ("Work bob l", "Unknown ID 'bob'"),
    ],
)
def test_a_global_line_that_cannot_be_understood_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "acls").write_text(f"# first\n{line}\n")
    with pytest.raises(AclError, match=r"acls line 2: ") as caught:
        acl_global.read(str(tmp_path / "acls"), "x")
    assert message in str(caught.value)
