"""Threads by reference and subject, in the cases where RFC 5256 is read in more than one way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from mailstack.mailbox.imap.thread import ids_of
from mailstack.mailbox.imap.thread_tree import Node, Tree, ordered_subject, written
from mailstack.wire.imap.sort import base_subject
from mailstack.wire.mime.text import fold_case
from tests.mailbox import running

Message = tuple[str, str, str]
"""Message-ID, References, subject; sent one after the other."""


def nodes(messages: Sequence[Message]) -> list[Node]:
    found = []
    for at, (_, _, subject) in enumerate(messages):
        base, answered = base_subject(fold_case(subject))
        found.append(Node(at, at, base.encode(), answered))
    return found


def threads(messages: Sequence[Message], algorithm: str) -> str:
    tree = Tree()
    for node, (own, references, _) in zip(nodes(messages), messages, strict=True):
        tree.add(node, own.encode(), references.encode().split())
    roots = tree.references() if algorithm == "REFERENCES" else tree.refs()
    return "".join(written(root, None) for root in roots)


@pytest.mark.parametrize(
    ("messages", "references", "refs"),
    [
        ([("a", "", "x"), ("b", "a", "Re: x"), ("c", "a b", "Re: x")], "(1 2 3)", "(1 2 3)"),
        ([("a", "", "x"), ("b", "a", ""), ("c", "a", "")], "(1 (2)(3))", "(1 (2)(3))"),
        ([("b", "gone", "x"), ("c", "gone", "y")], "((1)(2))", "((1)(2))"),
        ([("b", "gone", "x"), ("z", "", "y")], "(1)(2)", "(1)(2)"),
        ([("a", "", "x"), ("b", "", "Re: x")], "(1 2)", "(1)(2)"),
        ([("a", "", "Re: x"), ("b", "", "Re: x")], "((1)(2))", "(1)(2)"),
        ([("a", "", "Re: x"), ("b", "", "x")], "(2 1)", "(1)(2)"),
        ([("a", "b", "x"), ("b", "a", "y")], "(2 1)", "(2 1)"),
        ([("a", "", "x"), ("a", "", "y"), ("b", "a", "z")], "(1 3)(2)", "(2)(1 3)"),
        ([("", "", ""), ("", "", "")], "(1)(2)", "(1)(2)"),
        ([("a", "a", "x")], "(1)", "(1)"),
        ([("c", "a b", "x"), ("a", "", "y"), ("b", "", "z")], "(2)(3 1)", "(2)(3 1)"),
    ],
)
def test_references(messages: list[Message], references: str, refs: str) -> None:
    assert threads(messages, "REFERENCES") == references
    assert threads(messages, "REFS") == refs


def test_ordered_subject() -> None:
    found = ordered_subject(nodes([("", "", "b"), ("", "", "a"), ("", "", "Re: b"), ("", "", "Fwd: b")]))
    assert "".join(written(root, None) for root in found) == "(1 (3)(4))(2)"


def test_a_long_thread_is_written_without_end_of_the_stack() -> None:
    messages = [(f"m{number}", f"m{number - 1}" if number else "", "x") for number in range(5000)]
    assert threads(messages, "REFS") == "(" + " ".join(map(str, range(1, 5001))) + ")"


@pytest.mark.parametrize(
    ("header", "ids"),
    [
        (b"Message-ID: <a@b>\nReferences: <c@d>\n\t<e@f>\nIn-Reply-To: <g@h>\n", b"a@b\nc@d\ne@f"),
        (b"Message-ID: <a@b>\nIn-Reply-To: <g@h> <i@j>\n", b"a@b\ng@h"),
        (b"References: nothing\nIn-Reply-To: your mail of <g@h>\n", b"\ng@h"),
        (b'Message-ID: <"a b"@c>\n', b'"a b"@c'),
        (b"Message-ID: <no-domain>\n", b""),
    ],
)
def test_identifiers(header: bytes, ids: bytes) -> None:
    assert ids_of(header) == ids


@pytest.mark.parametrize(
    ("subject", "base", "answered"),
    [
        ("Re: a", "A", True),
        ("re[2]: [list] fwd: a  b (fwd) ", "A B", True),
        ("[list] a", "A", False),
        ("[only]", "[ONLY]", False),
        ("[Fwd: Re: a]", "A", True),
        ("[a] re: [b]: c", ": C", True),
        ("Reply: a", "REPLY: A", False),
        ("re :a", "A", True),
        ("", "", False),
    ],
)
def test_base_subjects(subject: str, base: str, answered: bool) -> None:
    assert base_subject(fold_case(subject)) == (base, answered)


def test_what_has_changed_is_threaded_anew(tmp_path: Path) -> None:
    """The same question again, between messages that come and go."""
    root = tmp_path / "mail/mail.test/zs"

    async def main() -> None:
        async with running(tmp_path) as mailbox:
            stream = await mailbox.connect("imap")
            await stream.read(5)

            async def ask(command: str) -> list[str]:
                stream.write(f"t {command}\r\n".encode())
                answer = b""
                while b"t OK" not in answer:
                    answer += await stream.read(30)
                return [line for line in answer.decode().split("\r\n") if line.startswith("* THREAD")]

            await ask("LOGIN zs secret")
            await ask("SELECT INBOX")
            for number, above in ((1, 0), (2, 1), (3, 0), (4, 1)):
                text = f"Message-ID: <{number}@x>\nReferences: <{above}@x>\nSubject: {number}\n\n"
                (root / f"new/{number}.M1.other").write_text(text)
            await ask("NOOP")
            for _ in range(2):
                assert await ask("THREAD REFERENCES UTF-8 ALL") == ["* THREAD ((1 (2)(4))(3))"]
                assert await ask("UID THREAD REFERENCES UTF-8 ALL") == ["* THREAD ((1 (2)(4))(3))"]
                assert await ask("THREAD REFS UTF-8 ALL") == ["* THREAD ((1 (2)(4))(3))"]
                assert await ask("THREAD REFERENCES UTF-8 2:4") == ["* THREAD ((2)(4))(3)"]
            (root / "new/5.M1.other").write_text("References: <3@x>\nSubject: 5\n\n")
            await ask("NOOP")
            assert await ask("THREAD REFERENCES UTF-8 ALL") == ["* THREAD ((1 (2)(4))(3 5))"]
            await ask("STORE 1 +FLAGS (\\Deleted)")
            await ask("EXPUNGE")
            assert await ask("UID THREAD REFERENCES UTF-8 ALL") == ["* THREAD ((2)(4))(3 5)"]

    asyncio.run(main())
