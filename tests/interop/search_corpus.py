"""A thousand messages to search, sort and thread: every charset, encoding and shape that matters for it."""

from __future__ import annotations

import base64
import quopri
import random
from email.header import Header
from pathlib import Path

from tests.unit.wire_mime.corpus import MESSAGES

WORDS = ("alpha", "Bravo", "charlie", "Delta", "echo", "Foxtrot", "golf", "hotel", "India", "juliett")
TEXTS = {
    "us-ascii": "plain words of ASCII, soft = signs",
    "utf-8": "Grüße aus Köln, naïve café, Привет мир, 日本語 テスト, Ω",
    "iso-8859-1": "Grüße aus Köln, naïve café, señor",
    "iso-8859-15": "Preis 5 €, Œuvre",
    "windows-1252": "„Zitat“ – 5 € café",
    "koi8-r": "Привет мир",
    "windows-1251": "Привет, мир и дружба",
    "iso-2022-jp": "日本語 テスト",
    "shift_jis": "日本語 テスト",
    "euc-kr": "한국어 시험",
    "gb2312": "中文 测试",
    "big5": "中文 測試",
    "utf-16": "sixteen bits é",
    "utf-7": "seven bits é",
}
ENCODINGS = ("7bit", "8bit", "base64", "quoted-printable")
PREFIXES = (
    "",
    "Re: ",
    "RE:",
    "Fwd: ",
    "fw: ",
    "[list] ",
    "Re: [list] ",
    "[list] Re: ",
    "Re[2]: ",
    "Re: Re: ",
)
NAMES = ("Jürgen Müller", "Ann Example", "Bob", "Zoë", "Иван", "山田", '"Quoted, Name"', "", "_under", "[br]")
ZONES = ("+0000", "-1200", "+1400", "EST", "GMT", "+0130", "")
DAYS = ("Mon, ", "", "Tue, ", "Xyz, ")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def messages(count: int = 1000) -> list[bytes]:
    """The same messages each time; the last ones are those of the MIME corpus."""
    chance = random.Random(5256)
    made = [_message(number, chance) for number in range(count)]
    return [*made, *MESSAGES.values()]


def place(root: Path, count: int = 1000) -> int:
    """Put them into the Maildir at `root`/mail, with flags and keywords; how many."""
    found = messages(count)
    (root / "mail" / "dovecot-keywords").write_text("0 $Forwarded\n1 work\n2 $x\n")
    for number, message in enumerate(found):
        flags = "".join(
            flag for index, flag in enumerate("DFRSTabc") if number % (index + 2) == 0 or not number % 7
        )
        name = f"{1_600_000_000 + number * 86_400 // 3}.M{number}P1.host:2,{flags}"
        (root / "mail" / "cur" / name).write_bytes(message)
    return len(found)


def _subject(number: int, chance: random.Random) -> str:
    word = f"{chance.choice(WORDS)} {chance.choice(WORDS)} {number % 37}"
    if number % 11 == 0:
        word = (
            chance.choice(("Grüße", "привет", "日本語", "Ärger_x", "Straße", "  two  blanks "))
            + f" {number % 5}"
        )
    if number % 53 == 0:
        word = ""
    trailer = " (fwd)" if number % 17 == 0 else ""
    text = f"{chance.choice(PREFIXES)}{word}{trailer}"
    return f"[Fwd: {text}]" if number % 41 == 0 else text


def _encoded(text: str, number: int, chance: random.Random) -> bytes:
    if text.isascii():
        return text.encode()
    if number % 5 == 0:
        return text.encode()  # raw, in UTF-8
    for charset in (chance.choice(("iso-8859-1", "koi8-r", "iso-2022-jp", "utf-8")), "utf-8"):
        try:
            return Header(text, charset, maxlinelen=60).encode().encode()
        except (UnicodeError, LookupError):
            continue
    return text.encode()


def _address(number: int, chance: random.Random) -> bytes:
    name = chance.choice(NAMES)
    box = (
        f"{chance.choice(WORDS)}{number % 13}@{chance.choice(('example.org', 'Example.COM', '[192.0.2.1]'))}"
    )
    match number % 9:
        case 0:
            return box.encode()
        case 1:
            return f"{box} ({name or 'comment'})".encode() if name.isascii() else box.encode()
        case 2:
            return f"Group {number % 3}: {box}, other@example.net;".encode()
        case 3:
            return f'"Esc\\"aped {number % 4}" <{box}>'.encode()
    return (_encoded(name, number, chance) + b" <" + box.encode() + b">").strip()


def _date(number: int, chance: random.Random) -> str:
    return (
        f"{chance.choice(DAYS)}{1 + number % 28} {chance.choice(MONTHS)} {2000 + number % 24} "
        f"{chance.randint(0, 23):02}:{chance.randint(0, 59):02}:{chance.randint(0, 59):02} {chance.choice(ZONES)}"
    ).rstrip()


def _message(number: int, chance: random.Random) -> bytes:
    end = b"\r\n" if number % 10 == 0 else b"\n"
    fields = [
        b"Received: from a.example (a.example [192.0.2.9])\n\tby b.example with ESMTP id %d;\n  now" % number,
        b"From: " + _address(number, chance),
        b"To: " + b",\n\t".join(_address(number + at, chance) for at in range(1 + number % 3)),
    ]
    if number % 4 == 0:
        fields.append(b"CC: " + _address(number + 5, chance))
    if number % 19:
        fields.append(
            b"Subject: " + _encoded(_subject(number, chance), number, chance).replace(b"\n", b"\n ")
        )
    if number % 23:
        fields.append(b"Date: " + _date(number, chance).encode())
    elif number % 2:
        fields.append(b"Date: once upon a time")
    if number % 29:
        fields.append(b"Message-ID: <m%d@Example.org>" % (number if number % 31 else number - 1))
    if number % 3 == 0 and number > 10:
        old = [chance.randint(max(0, number - 40), number - 1) for _ in range(chance.randint(1, 4))]
        fields.append(b"References: " + b"\n\t".join(b"<m%d@Example.org>" % at for at in old))
    elif number % 3 == 1 and number > 10:
        fields.append(b"In-Reply-To: <m%d@Example.org> from someone" % chance.randint(0, number - 1))
    if number % 6 == 0:
        fields.append(b"X-Folded: one\n two\n\t three   four")
        fields.append(b"X-Many: a%d" % (number % 7))
        fields.append(b"x-many: b%d" % (number % 5))
    kind, body = _body(number, chance)
    header = b"\n".join([*fields, *kind]).replace(b"\n", end)
    return header + end * 2 + body.replace(b"\n", end)


def _body(number: int, chance: random.Random) -> tuple[list[bytes], bytes]:
    match number % 8:
        case 0 | 1 | 2 | 3:
            return _text(number, chance, "plain")
        case 4:
            return _multipart(number, [_text(number, chance, "plain"), _text(number + 1, chance, "html")])
        case 5:
            attached = [b"Content-Type: application/octet-stream", b"Content-Transfer-Encoding: base64"]
            data = base64.encodebytes(b"hidden attachment words" + chance.randbytes(100))
            return _multipart(number, [_text(number, chance, "plain"), (attached, data)])
        case 6:
            kind, body = _text(number + 3, chance, "plain")
            inner = b"\n".join(
                [b"Subject: inner subject %d" % number, b"From: inner@example.org", *kind, b"", body]
            )
            return _multipart(
                number, [([b"Content-Type: message/rfc822"], inner), ([], b"plain epilogue part\n")]
            )
        case _:
            return [b"Content-Type: multipart/mixed; boundary=none"], b"no boundary at all\nwords\n"


def _text(number: int, chance: random.Random, subtype: str) -> tuple[list[bytes], bytes]:
    charset = list(TEXTS)[number % len(TEXTS)]
    words = " ".join(chance.choices(WORDS, k=8))
    text = f"{words}\nline two of {number}: {TEXTS[charset]}\n" + "z" * (number % 90) + " end of it\n"
    if subtype == "html":
        text = f"<html><p>{text}</p></html>\n"
    raw = text.encode(charset, "replace")
    encoding = ENCODINGS[chance.randrange(4)]
    if charset in ("utf-16",):
        encoding = "base64"
    if encoding == "base64":
        raw = base64.encodebytes(raw)
    elif encoding == "quoted-printable":
        raw = quopri.encodestring(raw)
    fields = [f"Content-Type: text/{subtype}; charset={charset}".encode()]
    if encoding != "7bit" or number % 2:
        fields.append(b"Content-Transfer-Encoding: " + encoding.encode())
    return fields, raw


def _multipart(number: int, parts: list[tuple[list[bytes], bytes]]) -> tuple[list[bytes], bytes]:
    boundary = b"b%d=_x" % number
    pieces = [b"preamble words\n"]
    for fields, body in parts:
        pieces.append(b"--" + boundary + b"\n" + b"\n".join([*fields, b"", body]) + b"\n")
    pieces.append(b"--" + boundary + b"--\nepilogue words\n")
    return [b'Content-Type: multipart/mixed; boundary="' + boundary + b'"'], b"".join(pieces)
