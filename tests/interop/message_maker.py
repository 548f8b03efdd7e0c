"""Messages of every shape from a seed: MIME trees, malformed and odd headers, raw octets, line ends mixed."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable

WORDS = (
    b"hello world Bob list a.b x-y 0 \xc3\xa4\xc3\xb6 =?utf-8?q?J=C3=BCrgen?= =?iso-8859-1?B?5A==?= \xe4\xff "
    b'(comment) ((nested) c) "quo ted" "q\\"q" <angle> ; : , @ \\ \\" [1.2.3.4] = % * \' & \t . .. -'
).split(b" ")
ADDRESSES = (
    b"bob@example.com",
    b"Bob <bob@example.com>",
    b'"Bob, B" <bob@example.com>',
    b'"B \\"q\\" C" <b.c@x>',
    b"bob@example.com (Bob B)",
    b"bob (c) @ (d) example . com",
    b"group: a@b, C <c@d>;",
    b"undisclosed-recipients:;",
    b"g:",
    b"<@r1,@r2:u@h>",
    b"R <@r:u@h>",
    b"<>",
    b"Bob <>",
    b"foo",
    b"foo bar",
    b"foo@",
    b"@bar",
    b"<foo",
    b"a b <c@d",
    b"u@[127.0.0.1]",
    b"u@[broken",
    b"J\xc3\xbcrgen <j\xc3\xbc@x>",
    b"J\xfcrgen <j@x>",
    b"=?utf-8?q?J=C3=BCrgen?= <j@x>",
    b".dot@x",
    b"a..b@x",
    b"a@b@c",
    b"a@b c@d",
    b'"quoted local"@x',
    b'"" <e@x>',
    b"(only comment)",
    b"(open <a@b>",
    b",",
    b"a@b,,c@d",
    b";",
    b"A.B. C <a@b>",
    b"a@b>",
    b"x <y> z@w",
    b"x@y\t,\tz@w",
)
DATES = (
    b"Mon, 1 Jan 2024 10:00:00 +0000",
    b"1 Jan 24 10:00 GMT",
    b"yesterday",
    b"",
    b"Mon,  1 Jan 2024 10:00:00 +0000 (CET)",
    b"2024-01-01",
    b"Mon,\n 1 Jan 2024",
    b'"quoted" date\\',
    b"32 Foo 99999 99:99:99 +9999",
)
TYPES = (
    b"text/plain",
    b"TEXT/Html",
    b"text/plain; charset=utf-8",
    b'text/plain; charset="iso-8859-1"; format=flowed',
    b"image/png",
    b'image/png; name="a b.png"',
    b"image/png; name=a b.png",
    b"image/png; name==?utf-8?b?5A==?=",
    b"image/png; name*=utf-8'en'%e4b; x*0=a; x*1=b",
    b"image/png; x*1=b; x*0=a; x*2*=%20c",
    b"image/png; x*0*=utf-8''a%20; x*1=\"b c\"; x*2*=d",
    b"image/png; x*0=a; x*2=c",
    b"application/octet-stream;name=a;name=b",
    b"text",
    b"text/",
    b"/plain",
    b"",
    b" ; charset=x",
    b"text/plain; ",
    b"text/plain;;;a=b",
    b"text/plain; a",
    b"text/plain; a=",
    b'text/plain; a="unterminated',
    b"text/plain (comment); a=b (c)",
    b"text / plain ; a = b",
    b"text/plain; charset=us-ascii; charset=utf-8",
    b"message/delivery-status",
    b"message/global",
    b"application/\xe4; n=\xff",
    b"multipart",
    b"text/plain charset=x",
    b'text/x-y; n="a\\"b\\\\c"',
    b"text/plain; a=b=c; d@e=f",
)
ENCODINGS = (
    b"7bit",
    b"8BIT",
    b"binary",
    b"base64",
    b"quoted-printable",
    b"Quoted-Printable (c)",
    b"x-uuencode",
    b"",
    b"base 64",
    b'"base64"',
    b"base64;",
)
FIELDS = (
    b"Content-ID",
    b"Content-Description",
    b"Content-MD5",
    b"Content-Language",
    b"Content-Location",
    b"Content-Disposition",
)
DISPOSITIONS = (
    b"inline",
    b"attachment; filename=x",
    b'attachment; filename="a b"; size=3',
    b"attachment; filename*=utf-8''%e4",
    b"attachment filename=x",
    b"; filename=x",
    b"(c) attachment (d); (e) f=g",
    b"",
    b'"attachment"; x=y',
)


class Maker:
    """Makes messages; the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def message(self) -> bytes:
        """One message as it lies on disk."""
        chance = self.random
        text = self.part(0, top=True)
        match chance.randrange(12):
            case 0:
                text = text.replace(b"\n", b"\r\n")
            case 1:
                text = b"".join(
                    line.replace(b"\n", b"\r\n") if chance.random() < 0.3 else line
                    for line in text.splitlines(keepends=True)
                )
            case 2:
                text = text[: chance.randrange(len(text) + 1)]
            case 3:
                text = text.rstrip(b"\n")
            case 4:
                at = chance.randrange(len(text) + 1)
                text = (
                    text[:at]
                    + chance.choice((b"\r", b"\n\n", b"\0", b"\xff", b" \n", b"--", b"\t"))
                    + text[at:]
                )
        return text or b"\n"

    # ---- headers

    def words(self, most: int) -> bytes:
        return b" ".join(self.random.choice(WORDS) for _ in range(self.random.randint(0, most)))

    def fold(self, value: bytes) -> bytes:
        if self.random.random() < 0.2:
            return value.replace(b" ", self.random.choice((b"\n ", b"\n\t", b" \n  ", b"\n \n ")), 2)
        return value

    def field(self, name: bytes, value: bytes) -> bytes:
        chance = self.random
        if chance.random() < 0.1:
            name = chance.choice((name.upper(), name.lower(), name.swapcase()))
        colon = b": " if chance.random() < 0.9 else chance.choice((b":", b" : ", b":  \t", b"\t:"))
        return name + colon + self.fold(value) + b"\n"

    def addresses(self) -> bytes:
        chance = self.random
        return chance.choice((b", ", b",", b" ,\n ", b", ")).join(
            chance.choice(ADDRESSES) for _ in range(chance.choice((0, 1, 1, 1, 2, 3)))
        )

    def header(self) -> bytes:
        """The fields that are not about content."""
        chance = self.random
        out = []
        for name in (b"From", b"Sender", b"Reply-To", b"To", b"Cc", b"Bcc"):
            out += [self.field(name, self.addresses()) for _ in range(chance.choice((0, 0, 1, 1, 1, 2)))]
        makers: tuple[tuple[bytes, Callable[[], bytes]], ...] = (
            (b"Date", lambda: chance.choice(DATES)),
            (b"Subject", lambda: self.words(6)),
            (b"Message-ID", lambda: chance.choice((b"<a@b>", b"a b", b"", b"<\xe4@b>", b'<"q"@b>'))),
            (b"In-Reply-To", lambda: self.words(2)),
            (b"References", lambda: self.words(3)),
            (b"X-Other", lambda: self.words(9)),
        )
        for name, make in makers:
            out += [self.field(name, make()) for _ in range(chance.choice((0, 1, 1, 1, 2)))]
        if chance.random() < 0.05:
            out.append(
                chance.choice((b"no colon here\n", b": no name\n", b"x y: z\n", b">From me\n", b"\xe4: x\n"))
            )
        if chance.random() < 0.02:
            out.append(b"X-Huge: " + b"word " * chance.choice((300, 3000, 20000)) + b"\n")
        chance.shuffle(out)
        return b"".join(out)

    def content(self, kind: bytes | None) -> bytes:
        chance = self.random
        out = []
        if kind is not None:
            out.append(self.field(b"Content-Type", kind))
            if chance.random() < 0.03:
                out.append(self.field(b"Content-Type", chance.choice(TYPES)))
        for name in FIELDS:
            if chance.random() < 0.15:
                value = chance.choice(DISPOSITIONS) if name.endswith(b"Disposition") else self.words(3)
                out.append(self.field(name, value))
        if chance.random() < 0.5:
            out.append(b"MIME-Version: 1.0\n")
        chance.shuffle(out)
        return b"".join(out)

    # ---- parts

    def part(self, depth: int, *, top: bool = False) -> bytes:
        """A header and its body."""
        chance = self.random
        header = self.header() if top else b""
        roll = chance.random()
        if depth < 4 and roll < (0.5 if top else 0.25):
            kind, body = self.multipart(depth)
        elif depth < 4 and roll < (0.58 if top else 0.4):
            kind, body = b"message/rfc822", self.part(depth + 1, top=True)
        else:
            return self.leaf(header)
        content = self.content(kind)
        if chance.random() < 0.1:
            content += self.field(b"Content-Transfer-Encoding", chance.choice(ENCODINGS))
        return header + content + self.gap() + body

    def leaf(self, header: bytes) -> bytes:
        chance = self.random
        content = self.content(chance.choice((None, *TYPES)) if chance.random() < 0.9 else None)
        make: Callable[[], bytes] = chance.choice((self.text, self.text, self.base64, self.quoted))
        if make == self.base64 and chance.random() < 0.9:
            content += self.field(b"Content-Transfer-Encoding", b"base64")
        elif make == self.quoted and chance.random() < 0.9:
            content += self.field(b"Content-Transfer-Encoding", b"quoted-printable")
        elif chance.random() < 0.4:
            content += self.field(b"Content-Transfer-Encoding", chance.choice(ENCODINGS[:3]))
        return header + content + self.gap() + make()

    def gap(self) -> bytes:
        return b"\n" if self.random.random() < 0.96 else self.random.choice((b"", b" \n", b"\r\n", b"\n\n"))

    def text(self) -> bytes:
        chance = self.random
        lines = [self.words(8) for _ in range(chance.choice((0, 1, 2, 5, 30)))]
        return b"\n".join(lines) + chance.choice((b"", b"\n", b"\n", b"\n\n"))

    def base64(self) -> bytes:
        chance = self.random
        text = base64.encodebytes(chance.randbytes(chance.choice((0, 1, 2, 3, 57, 200, 5000))))
        return text if chance.random() < 0.8 else text.rstrip(b"\n")

    def quoted(self) -> bytes:
        return self.random.choice(
            (b"a=3Db\n", b"a=\nb =20\n", b"x \t\ny=e4=E4\n", b"", b"plain\n", b"=", b"a=\t \nb", b"=0D=0A=\n")
        )

    def multipart(self, depth: int) -> tuple[bytes, bytes]:
        """Content-Type and body."""
        chance = self.random
        # None begins another one: whose part it is then, the two servers see otherwise.
        boundary = b"%d" % depth + chance.choice(
            (b"b", b"b-", b"--b", b"a b", b"=_x", b"b" * 60, b"'()+_,-./:=?", b"")
        )
        quoted = b'"%b"' % boundary if chance.random() < 0.8 or not boundary.isalnum() else boundary
        kind = (
            b"multipart/"
            + chance.choice((b"mixed", b"alternative", b"digest", b"signed", b"x"))
            + b"; boundary="
        )
        kind += quoted
        if chance.random() < 0.05:
            kind = chance.choice((b"multipart/mixed", b"multipart/mixed; x=y"))
        count = chance.choice((0, 1, 1, 2, 2, 3, 5)) if chance.random() < 0.99 else chance.choice((50, 300))
        out = [chance.choice((b"", b"", b"preamble\n", b"\n", b"--other\n", b"pre"))]
        for _ in range(count):
            after = chance.choice((b"",) * 8 + (b" ", b"\t", b"x", b"-"))
            out += [b"--", boundary, after, b"\n", self.part(depth + (3 if count > 5 else 1))]
            if chance.random() < 0.9:
                out.append(b"\n")
        if chance.random() < 0.85:
            out += [b"--", boundary, b"--", chance.choice((b"", b"\n", b" \n", b"\nepilogue\n", b"x\n"))]
        return kind, b"".join(out)
