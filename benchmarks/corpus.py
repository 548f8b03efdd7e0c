"""Maildirs full of mail for measurements: the same messages each time they are made."""

from __future__ import annotations

import base64
import random
from pathlib import Path

EPOCH = 1_700_000_000


def fill(path: Path, count: int, *, alike: bool = False) -> None:
    """Make a Maildir at `path` with `count` seen messages in `cur/`; `alike`: all of them small and plain."""
    for name in ("cur", "new", "tmp"):
        (path / name).mkdir(parents=True)
    chance = random.Random(77)
    for number in range(count):
        content = plain(number, chance, 1) if alike else message(number, chance)
        wire = len(content) + content.count(b"\n")
        name = f"{EPOCH + number}.M{number}P1.bench,S={len(content)},W={wire}:2,S"
        (path / "cur" / name).write_bytes(content)


def message(number: int, chance: random.Random) -> bytes:
    """One of four kinds, 1 to 60 KB: plain text, text with HTML, an attachment, a forwarded message."""
    match number % 8:
        case 0 | 1 | 2 | 3:
            return plain(number, chance, chance.randint(5, 60))
        case 4 | 5:
            return alternative(number, chance)
        case 6:
            return attachment(number, chance)
        case _:
            return forwarded(number, chance)


def header(number: int, chance: random.Random, content_type: str) -> str:
    word = chance.choice(
        ("Report", "Invoice", "Meeting", "Re: lunch", "Fwd: plans", "=?utf-8?q?Gr=C3=BC=C3=9Fe?=")
    )
    day = 1 + number % 28
    return (
        f"Return-Path: <sender{number % 50}@example.com>\n"
        f"Received: from mx{number % 7}.example.net (mx{number % 7}.example.net [192.0.2.{number % 250}])\n"
        f"\tby mail.example.org (Postfix) with ESMTPS id {number:012X}\n"
        f"\tfor <u0@example.org>; Mon, {day:02} Jan 2024 10:{number % 60:02}:00 +0000 (UTC)\n"
        f'From: "Sender, Number {number % 50}" <sender{number % 50}@example.com>\n'
        f"To: U Zero <u0@example.org>, other{number % 9}@example.org\n"
        f"Cc: team@example.org\n"
        f"Subject: {word} {chance.randint(0, 999)}\n"
        f"Date: Mon, {day:02} Jan 2024 10:{number % 60:02}:00 +0000\n"
        f"Message-ID: <{number}.{chance.randint(0, 1 << 40)}@example.com>\n"
        f"In-Reply-To: <{max(0, number - 8)}.x@example.com>\n"
        f"X-Note: {'rare' if number % 500 == 77 else 'common'} {number}\n"
        f"MIME-Version: 1.0\n"
        f"Content-Type: {content_type}\n"
    )


def text(number: int, chance: random.Random, lines: int) -> str:
    words = ("alpha", "beta", "gamma", "delta", "epsilon", "mail", "queue", "stack", "message", "header")
    rows = [" ".join(chance.choices(words, k=9)) for _ in range(lines)]
    if number % 500 == 77:
        rows.insert(lines // 2, f"here is needle {number} in the hay")
    return "\n".join(rows) + "\n"


def plain(number: int, chance: random.Random, lines: int) -> bytes:
    body = text(number, chance, lines)
    return f"{header(number, chance, 'text/plain; charset=utf-8')}\n{body}".encode()


def alternative(number: int, chance: random.Random) -> bytes:
    body = text(number, chance, 30)
    kind = 'multipart/alternative; boundary="=-alt"'
    return (
        f"{header(number, chance, kind)}\n--=-alt\nContent-Type: text/plain; charset=utf-8\n"
        f"Content-Transfer-Encoding: quoted-printable\n\n{body}=C3=A4\n"
        f"--=-alt\nContent-Type: text/html; charset=utf-8\n\n<html><body><p>{body}</p></body></html>\n"
        "--=-alt--\n"
    ).encode()


def attachment(number: int, chance: random.Random) -> bytes:
    data = base64.encodebytes(chance.randbytes(chance.randint(2_000, 40_000))).decode()
    kind = "multipart/mixed; boundary=mixed"
    return (
        f"{header(number, chance, kind)}\nThis is MIME.\n--mixed\nContent-Type: text/plain\n\n"
        f'{text(number, chance, 10)}\n--mixed\nContent-Type: application/pdf; name="a {number}.pdf"\n'
        f'Content-Disposition: attachment; filename="a {number}.pdf"\n'
        f"Content-Transfer-Encoding: base64\n\n{data}--mixed--\n"
    ).encode()


def forwarded(number: int, chance: random.Random) -> bytes:
    inner = alternative(number, chance).decode()
    kind = "multipart/mixed; boundary=outer"
    return (
        f"{header(number, chance, kind)}\n--outer\n\nsee below\n--outer\n"
        f"Content-Type: message/rfc822\n\n{inner}\n--outer--\n"
    ).encode()
