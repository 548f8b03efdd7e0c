"""Messages of every shape under our service and under the real Dovecot: FETCH answers with the same octets.

What is known to differ stands in docs/differences.md; the generator makes none of it.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mailstack.wire.mime.binary import DamagedError, UnknownEncodingError, decoded, is_coded
from mailstack.wire.mime.structure import Part, parse
from tests.interop.dovecot_imap import BINARY, ask, maildir
from tests.interop.message_maker import Maker
from tests.mailbox import Mailbox, running

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not os.path.exists(BINARY), reason="dovecot-imapd is missing"),
]

MESSAGES = 1200
SEED = 46
WHOLE = (
    b"RFC822.SIZE ENVELOPE BODY BODYSTRUCTURE BODY.PEEK[HEADER] BODY.PEEK[TEXT] "
    b"BODY.PEEK[HEADER.FIELDS (SUBJECT FROM)] BODY.PEEK[HEADER.FIELDS.NOT (SUBJECT FROM)] "
    b"BODY.PEEK[TEXT]<3.20> BODY.PEEK[]<7.1000000> BODY.PEEK[HEADER]<100000.5>"
)
OF_PART = b"BODY.PEEK[%b] BODY.PEEK[%b.MIME] BODY.PEEK[%b.HEADER] BODY.PEEK[%b.TEXT]<1.50>"
PARTS = 14
_LITERAL = re.compile(rb"\{(\d+)\}\r\n\Z")
DAMAGED = (
    b"Content-Type: x/y\nContent-Transfer-Encoding: base64\n\naGVs!!bG8K\n",
    b"Content-Type: x/y\nContent-Transfer-Encoding: base64\n\naGVsbG8=\nd29ybGQK\n",
    b"Content-Type: x/y\nContent-Transfer-Encoding: quoted-printable\n\na=ZZ\n",
    b"Content-Type: x/y\nContent-Transfer-Encoding: x-uuencode\n\nabc\n",
)


def numbers(part: Part, prefix: str = "") -> Iterator[tuple[str, Part]]:
    """The parts as FETCH numbers them."""
    if part.kind == "multipart":
        for number, child in enumerate(part.children, 1):
            yield f"{prefix}{number}", child
            yield from numbers(child, f"{prefix}{number}.")
    elif part.kind == "rfc822":
        if not prefix:
            yield "1", part
        yield from numbers(part.children[0], prefix or "1.")
    else:
        yield f"{prefix}1", part


def place(root: Path, messages: Sequence[bytes]) -> None:
    for number, message in enumerate(messages):
        name = f"{1_700_000_000 + number}.M{number}P1.host:2,S"
        (root / "mail" / "cur" / name).write_bytes(message)


async def converse(mailbox: Mailbox, commands: Sequence[bytes]) -> list[bytes]:
    """What `ask` does, with our service."""
    stream = await mailbox.connect("imap")
    buffer = b""
    answers = []
    for number, command in enumerate([b"LOGIN zs secret", *commands]):
        tag = b"t%d " % number
        stream.write(tag + command + b"\r\n")
        answer, at_start = b"", True
        while True:
            end = buffer.find(b"\n") + 1
            if not end:
                data = await stream.read(20)
                assert data, answer
                buffer += data
                continue
            line, buffer = buffer[:end], buffer[end:]
            answer += line
            if at_start and line.startswith(tag):
                break
            found = _LITERAL.search(line)
            at_start = found is None
            if found:
                size = int(found[1])
                while len(buffer) < size:
                    buffer += await stream.read(20)
                answer, buffer = answer + buffer[:size], buffer[size:]
        answers.append(answer)
    stream.close()
    return answers[1:]


def both(
    tmp_path: Path, messages: Sequence[bytes], commands: Sequence[bytes]
) -> Iterator[tuple[bytes, bytes]]:
    """Dovecot's and our answers to FETCH commands, without their beginnings and completions."""

    async def ours() -> list[bytes]:
        async with running(tmp_path) as mailbox:
            return await converse(mailbox, [b"SELECT INBOX", *commands])

    with maildir() as root:
        place(root, messages)
        theirs = ask(root, [b"SELECT INBOX", *commands])[1:]
        (tmp_path / "mail" / "mail.test").mkdir(parents=True)
        (tmp_path / "mail" / "mail.test" / "zs").symlink_to(root / "mail")
        answers = asyncio.run(ours())[1:]
    for them, us in zip(theirs, answers, strict=True):
        yield outcome(them), outcome(us)


def outcome(answer: bytes) -> bytes:
    """The items of the one message that was asked for, or the response code of a refusal."""
    end = answer.rindex(b"t", 0, answer.rindex(b"\r\n"))
    end = max(answer.rfind(b"\r\nt"), 0) or (0 if answer.startswith(b"t") else end)
    status = answer[end:].lstrip()
    if b" OK " not in status[:12]:
        code = re.search(rb"\[[A-Z-]+\]", status)
        return code[0] if code else status
    return answer[answer.index(b"(") + 1 : end - 1]


def test_bodies_and_structures_agree(tmp_path: Path) -> None:
    maker = Maker(SEED)
    messages = [maker.message() for _ in range(MESSAGES)]
    commands = []
    for number, message in enumerate(messages, 1):
        parts = list(dict.fromkeys([*[name for name, _ in numbers(parse(message))][:PARTS], "2", "9"]))
        items = [OF_PART.replace(b"%b", part.encode()) for part in parts]
        commands.append(b"FETCH %d (%b)" % (number, b" ".join([WHOLE, *items])))
    wrong = {
        number: (messages[number], them, us)
        for number, (them, us) in enumerate(both(tmp_path, messages, commands))
        if them != us
    }
    assert not wrong, f"{len(wrong)} differ: {next(iter(wrong.items()))}"


def test_decoded_parts_agree(tmp_path: Path) -> None:
    maker = Maker(SEED)
    messages: list[bytes] = list(DAMAGED)
    commands = [b"FETCH %d (BINARY.PEEK[1])" % number for number in range(1, len(DAMAGED) + 1)]
    while len(messages) < MESSAGES // 3:
        message = maker.message()
        root = parse(message)
        if not all(sound(part, message) for part in every(root)):
            continue
        messages.append(message)
        for name, part in list(numbers(root))[:PARTS]:
            if part.kind:
                continue
            item = name.encode()
            text = b"BINARY.PEEK[%b] BINARY.PEEK[%b]<1.20>" % (item, item)
            commands.append(b"FETCH %d (%b)" % (len(messages), text))
    assert len(commands) > 300
    for command, (them, us) in zip(commands, both(tmp_path, messages, commands), strict=True):
        us, them = us.replace(b"~{", b"{"), them.replace(b"~{", b"{")
        assert us == them, (command, them[-300:], us[-300:], messages[int(command.split()[1]) - 1])


def every(part: Part) -> Iterator[Part]:
    """The part and all in it."""
    yield part
    for child in part.children:
        yield from every(child)


def sound(part: Part, message: bytes) -> bool:
    """Whether it can be decoded; Dovecot dies of base64 and of a soft line break that end in the middle."""
    if message[: part.end].endswith(b"="):
        return False
    value = part.field(b"content-transfer-encoding") or b""
    if value != value.rstrip():
        return False  # unknown to Dovecot
    try:
        is_coded(part)
        for _ in decoded(part, message):
            pass
    except (DamagedError, UnknownEncodingError):
        return False
    return True
