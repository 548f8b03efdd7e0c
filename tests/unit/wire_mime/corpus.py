"""Messages of every shape, many of them malformed, with a name each."""

from __future__ import annotations

MESSAGES: dict[str, bytes] = {
    "plain": (
        b"From: Bob <bob@example.com>\n"
        b'To: a@b.c, "D, E" <d@e.f>\n'
        b"Subject: hello\n"
        b"Date: Mon, 1 Jan 2024 10:00:00 +0000\n"
        b"Message-ID: <1@x>\n"
        b"\n"
        b"body\n"
        b"line2\n"
    ),
    "folded": (
        b"From: Bob\n"
        b" <bob@example.com>\n"
        b"Subject: a\n"
        b"\tb\n"
        b"  c\n"
        b"Date:  Mon,\n"
        b" 1 Jan 2024\n"
        b"In-Reply-To: <a@b>\n"
        b" <c@d>\n"
        b"References: <x@y>\n"
        b"\n"
        b"body\n"
    ),
    "group": (
        b"From: g: a@b, C <c@d>;\n"
        b"To: undisclosed-recipients:;\n"
        b"Cc: Foo (comment) <x@y>\n"
        b"Bcc: (just comment) a@b\n"
        b"Reply-To: a b c@d\n"
        b"Sender: <>\n"
        b"\n"
        b"x"
    ),
    "badaddr": (
        b'From: foo@\nTo: @bar\nCc: <foo\nBcc: "unterminated <a@b>\nReply-To: a@b c@d, e@f\nSubject:\n\n'
    ),
    "enc": (
        b"From: =?utf-8?q?J=C3=BCrgen?= <j@x.y>\n"
        b'Subject: =?utf-8?B?w6Q=?= "quoted" back\\slash\n'
        b'To: "a \\"q\\" b" <x@y>\n'
        b"\n"
        b"\n"
    ),
    "raw8": (
        b"From: J\xc3\xbcrgen <j@x.y>\n"
        b"Subject: h\xc3\xa4\xc3\x9f\n"
        b'To: "J\xc3\xbc" <\xc3\xbc@x.y>\n'
        b"\n"
        b"b\xc3\xb6dy\n"
    ),
    "mixed": (
        b'Content-Type: multipart/mixed; boundary="b1"\n'
        b"MIME-Version: 1.0\n"
        b"Subject: m\n"
        b"\n"
        b"preamble\n"
        b"--b1\n"
        b"Content-Type: text/plain; charset=utf-8; format=flowed\n"
        b"Content-Transfer-Encoding: QUOTED-PRINTABLE\n"
        b"\n"
        b"hi\n"
        b"\n"
        b"--b1\n"
        b'Content-Type: IMAGE/Png; name="a b.png"\n'
        b'Content-Disposition: attachment; filename="a b.png"; size=3\n'
        b"Content-Transfer-Encoding: base64\n"
        b"Content-ID: <cid@x>\n"
        b"Content-Description: a pic\n"
        b"Content-MD5: abc==\n"
        b"Content-Language: en, de\n"
        b"Content-Location: http://x/\n"
        b"\n"
        b"AAAA\n"
        b"--b1--\n"
        b"epilogue\n"
    ),
    "nested": (
        b"Content-Type: multipart/mixed; boundary=a\n"
        b"\n"
        b"--a\n"
        b"Content-Type: multipart/alternative; boundary=b\n"
        b"\n"
        b"--b\n"
        b"\n"
        b"plain\n"
        b"--b\n"
        b"Content-Type: text/html\n"
        b"\n"
        b"<p>\n"
        b"--b--\n"
        b"\n"
        b"--a\n"
        b"Content-Type: message/rfc822\n"
        b"\n"
        b"From: x@y\n"
        b"Subject: inner\n"
        b"Content-Type: multipart/mixed; boundary=c\n"
        b"\n"
        b"--c\n"
        b"\n"
        b"Inner text\n"
        b"--c--\n"
        b"--a--\n"
    ),
    "rfc822": (
        b"Content-Type: message/rfc822\n"
        b"Content-Disposition: inline\n"
        b"\n"
        b"Subject: inner\n"
        b"To: a@b\n"
        b"\n"
        b"text\n"
        b"more\n"
    ),
    "nobound": b"Content-Type: multipart/mixed\n\nhi\n--x\nfoo\n",
    "noparts": b"Content-Type: multipart/mixed; boundary=zz\n\nhi\nthere\n",
    "unclosed": b"Content-Type: multipart/mixed; boundary=zz\n\n--zz\n\none\n--zz\n\ntwo\n",
    "digest": (
        b"Content-Type: multipart/digest; boundary=zz\n"
        b"\n"
        b"--zz\n"
        b"\n"
        b"Subject: d1\n"
        b"\n"
        b"one\n"
        b"--zz\n"
        b"Content-Type: text/plain\n"
        b"\n"
        b"two\n"
        b"--zz--\n"
    ),
    "prefix": (
        b"Content-Type: multipart/mixed; boundary=a\n"
        b"\n"
        b"--a\n"
        b"Content-Type: multipart/mixed; boundary=ab\n"
        b"\n"
        b"--ab\n"
        b"\n"
        b"x\n"
        b"--ab--\n"
        b"--a\n"
        b"\n"
        b"y\n"
        b"--a--\n"
    ),
    "badct": b"Content-Type: foo\nContent-Transfer-Encoding: 8bit (x)\n\nx\n",
    "badct2": b'Content-Type: text/plain; charset; foo=bar; =x; a="b\n\nx\n',
    "rfc2231": (
        b"Content-Type: application/x; name*0*=utf-8''a%20; name*1=b; name*2*=%C3%A4\n"
        b"Content-Disposition: attachment; filename*=utf-8'en'%C3%A4.txt\n"
        b"\n"
        b"x\n"
    ),
    "nohdr": b"just a body\nwithout header\n",
    "empty": b"\n",
    "nobody": b"Subject: x\nFrom: a@b\n",
    "noeol": b"Subject: x",
    "junk": b"Subject: x\njunk line\nFrom: a@b\n\nbody",
    "mbox": b"From foo@bar Mon Jan 1\nSubject: x\n\nbody\n",
    "crlf": (
        b"Subject: x\r\nContent-Type: multipart/mixed; boundary=q\r\n\r\n--q\r\n\r\na\r\nb\r\n--q--\r\n"
    ),
    "mixedeol": b"Subject: x\r\nFrom: a@b\n\nx\r\ny\nz\rw\n",
    "spacename": b"Subject : x\nFrom\t: a@b\n:empty\n\nx\n",
    "dup": (
        b"Subject: 1\n"
        b"Subject: 2\n"
        b"From: a@b\n"
        b"From: c@d\n"
        b"To: e@f\n"
        b"To: g@h\n"
        b"Message-ID: <1>\n"
        b"Message-ID: <2>\n"
        b"Date: a\n"
        b"Date: b\n"
        b"\n"
        b"x\n"
    ),
    "nul": b"Subject: a\x00b\nFrom: x\x00y@z\n\nbo\x00dy\n",
    "boundinhdr": (
        b"Content-Type: multipart/mixed; boundary=q\n"
        b"\n"
        b"--q\n"
        b"Content-Type: text/html\n"
        b"--q\n"
        b"X: y\n"
        b"\n"
        b"body\n"
        b"--q--\n"
    ),
    "samebound": (
        b"Content-Type: multipart/mixed; boundary=q\n"
        b"\n"
        b"--q\n"
        b"Content-Type: multipart/mixed; boundary=q\n"
        b"\n"
        b"--q\n"
        b"\n"
        b"x\n"
        b"--q--\n"
        b"--q\n"
        b"\n"
        b"y\n"
        b"--q--\n"
    ),
    "epilogue": b"Content-Type: multipart/mixed; boundary=q\n\n--q\n\nx\n--q--\n--q\n\ny\n",
    "firstbound": b"Content-Type: multipart/mixed; boundary=q\n\n--q--\n\nx\n",
    "emptypart": b"Content-Type: multipart/mixed; boundary=q\n\n--q\n--q\n\n--q\nA: b\n\n--q--",
    "route": (
        b"From: <@a,@b:c@d>\n"
        b'To: a@[1.2.3.4], "q q"@x, a.b.c@d . e\n'
        b"Cc: John Q. Public <j@x>\n"
        b"Bcc: a;b@c\n"
        b"Reply-To: ,,a@b,,\n"
        b"\n"
        b"x\n"
    ),
    "comments": (
        b"From: (c1) a (c2) @ (c3) b (c4)\n"
        b"To: a@b (Name (nested) here)\n"
        b'Cc: "x" y "z" <a@b> (c)\n'
        b"Subject:   lead  trail  \n"
        b"\n"
        b"x\n"
    ),
    "lang": (
        b"Content-Language: en\n"
        b"Content-Disposition: INLINE\n"
        b'Content-Type: TEXT/HTML; CHARSET="UTF-8"\n'
        b"Content-Description: =?x?=  a\n"
        b"\n"
        b"<x>"
    ),
    "msgmulti": (
        b"Content-Type: multipart/mixed; boundary=q\n"
        b"\n"
        b"--q\n"
        b"Content-Type: message/rfc822; x=y\n"
        b"Content-Transfer-Encoding: 7bit\n"
        b"\n"
        b"Subject: in\n"
        b"\n"
        b"line1\n"
        b"line2\n"
        b"\n"
        b"--q\n"
        b"Content-Type: message/delivery-status\n"
        b"\n"
        b"Reporting-MTA: x\n"
        b"\n"
        b"A: b\n"
        b"--q\n"
        b"Content-Type: message/partial\n"
        b"\n"
        b"x\n"
        b"--q\n"
        b"Content-Type: message/rfc822\n"
        b"\n"
        b"--q--\n"
    ),
    "ctcase": (
        b'CONTENT-TYPE: Multipart/MIXED; BOUNDARY="Q q"\n\n--Q q\ncontent-type: Text/Plain\n\nx\n--Q q--\n'
    ),
    "longhdr": b"Subject: " + b"x" * 5000 + b"\nFrom: " + b"a" * 300 + b"@b\n\nx\n",
    "wsline": b"Subject: a\n \n b\nFrom: x@y\n \nTo: z@w\n\nbody\n",
    "emptyfrom": b'From:\nSender: \nReply-To: ;\nTo: a\nCc: <a>\nBcc: ""\nMessage-ID:\nDate: \n\nx\n',
    "trail": b"Content-Type: text/plain;\nContent-Disposition: attachment;\n\nx\n",
    "noct": (b"Content-Type:\nContent-Disposition:\nContent-ID:\nContent-Transfer-Encoding:\n\nx\n"),
    "deep": (
        b"Content-Type: multipart/mixed; boundary=b0\n"
        b"\n"
        b"--b0\n"
        b"Content-Type: multipart/mixed; boundary=b1\n"
        b"\n"
        b"--b1\n"
        b"Content-Type: multipart/mixed; boundary=b2\n"
        b"\n"
        b"--b2\n"
        b"Content-Type: multipart/mixed; boundary=b3\n"
        b"\n"
        b"--b3\n"
        b"Content-Type: multipart/mixed; boundary=b4\n"
        b"\n"
        b"--b4\n"
        b"\n"
        b"x\n"
        b"--b4--\n"
        b"--b3--\n"
        b"--b2--\n"
        b"--b1--\n"
        b"--b0--\n"
    ),
    "skipclose": (
        b"Content-Type: multipart/mixed; boundary=b0\n"
        b"\n"
        b"--b0\n"
        b"Content-Type: multipart/mixed; boundary=b1\n"
        b"\n"
        b"--b1\n"
        b"Content-Type: multipart/mixed; boundary=b2\n"
        b"\n"
        b"--b2\n"
        b"\n"
        b"x\n"
        b"--b0\n"
        b"\n"
        b"y\n"
        b"--b0--\n"
    ),
    "dashsp": b"Content-Type: multipart/mixed; boundary=q\n\n--q \nA: b\n\nx\n--q-- \nfoo\n",
    "apple": (
        b'Content-Type: multipart/appledouble; boundary="=_q"; x-foo="a\\"b"\n'
        b"Content-Disposition: attachment; filename=a b c.txt\n"
        b"\n"
        b"--=_q\n"
        b"Content-Type: application/applefile\n"
        b"\n"
        b"x\n"
        b"--=_q--\n"
    ),
    "quotedct": b'Content-Type: "text"/plain (c) ; (d) charset (e) = (f) us-ascii\n\nx\n',
    "base64head": b'Content-Type: text/plain; name="=?utf-8?Q?=C3=A4?="; y=\xe4\n\nx\n',
    "atdomain": b"From: a@b@c\nTo: <a b@c>\nCc: a <b>, c\nBcc: x <y@z> w\n\nx\n",
    "duplicate_mime_fields": (
        b"Content-Type: text\n"
        b"Content-Type: text/html\n"
        b"Content-Transfer-Encoding: x y\n"
        b"Content-Disposition: inline\n"
        b"Content-Disposition: attachment\n"
        b"\n"
        b"x\n"
    ),
    "empty_parts": (
        b"Content-Type: multipart/mixed; boundary=q\n"
        b"\n"
        b"--q\n"
        b"Content-Type: text/plain\n"
        b"--q\n"
        b"\n"
        b"--q\n"
        b" A: b\n"
        b"\n"
        b"\n"
        b"--q\n"
        b"Content-Type: message/rfc822\n"
        b"\n"
        b"\n"
        b"--q--\n"
        b"\n"
        b"foo"
    ),
    "empty_parts_crlf": (
        b"Content-Type: multipart/mixed; boundary=q\r\n"
        b"\r\n"
        b"--q\r\n"
        b"\r\n"
        b"\r\n"
        b"--q\r\n"
        b"A: b\r\n"
        b"\r\n"
        b"--q\r\n"
        b"Content-Type: message/rfc822\r\n"
        b"\r\n"
        b"From: x\r\n"
        b"\r\n"
        b"--q--\r\n"
    ),
    "rfc822_chain": (
        b"Content-Type: message/rfc822\n"
        b"\n"
        b"Content-Type: message/rfc822\n"
        b"\n"
        b"Content-Type: multipart/mixed; boundary=x\n"
        b"\n"
        b"--x\n"
        b"\n"
        b"a\n"
        b"--x--\n"
        b"foo\n"
    ),
    "empty_boundary": b'Content-Type: multipart/mixed; boundary=""\n\n--\n\na\n----\n',
    "long_boundary": b"Content-Type: multipart/mixed; boundary=a%bx\n\n--a%bx\n\na\n--a%bx--\n"
    % ((b"b" * 100,) * 3),
    "starred_parameters": (
        b"Content-Type: application/octet-stream; name*=us-ascii''x%20y; foo*1=a; foo*2=b; bar*0=x; bar*1=y; charset=x\n"
        b"\n"
        b"x\n"
    ),
    "empty_charset": (
        b'Content-Type: text/plain; charset=""\nContent-ID: a \n\tb\nContent-Description: x\n y\n\nx\n'
    ),
    "blanks_in_names": (
        b'From: "Foo\tBar" <a@b>\n'
        b"To: Foo  Bar <a@b>\n"
        b"Cc: a@b (x\n"
        b"  y)\n"
        b"Bcc: =?us-ascii?q?a?=\n"
        b" =?us-ascii?q?b?= <c@d>\n"
        b"Message-ID: <a\n"
        b" b>\n"
        b"In-Reply-To: a\tb\n"
        b"Date: a  b\n"
        b"\n"
        b"x"
    ),
    "groups": (
        b'From: g:;\nTo: g: a;, b@c\nCc: g: a\nBcc: a@b, g: x@y; z@w\nReply-To: "g": ;\nSender: (foo)\n\n'
    ),
    "broken_addresses": (
        b"From: a@b (unterminated\n"
        b'To: a@"x".c\n'
        b"Cc: <a@b\n"
        b"Bcc: a <b@c> <d@e>\n"
        b"Reply-To: <a b@c>\n"
        b"Sender: a\\@b\n"
        b"\n"
    ),
    "dots": b"From: <a.@b>\nTo: .a@b\nCc: a..b@c\nBcc: a@b.\nReply-To: a@.b\nSender: <@x:>\n\n",
    "routes": (b'From: <@x@y:a@b>\nTo: <@x,:a@b>\nCc: "a"@b\nBcc: "a" b@c\nReply-To: a.b\nSender: a.b c\n\n'),
    "quoted_locals": (
        b'From: "a"\nTo: "" <a@b>\nCc: ""@b\nBcc: <""@b>\nReply-To: <"a b"@c>\nSender: a\n b\n\n'
    ),
    "unterminated": b'From: "unterm\nTo: a@[1.2\nCc: :a@b\nBcc: ;\nReply-To: >\nSender: a>b\n\n',
    "empty_addresses": (
        b"From: a@b, \nTo: a@b,c\nCc: a@b,,c@d\nBcc: ,\nReply-To: a@b;\nSender: a@b;c@d\nSubject: a\tb\n\n"
    ),
    "blanks_in_types": (
        b"Content-Type: text/plain ; charset = utf-8 ; format = flowed\n"
        b"Content-Type: foo/bar\n"
        b"Content-Language: en; de, fr x, nl\n"
        b"Content-Location: http://x/\n"
        b"  y\n"
        b"Content-MD5: a b\n"
        b"\n"
        b"x\n"
    ),
    "two_boundaries": (
        b"Content-Type: multipart/mixed; boundary=q; boundary=r\n\n--q\n\na\n--r\n\nb\n--q--\n"
    ),
    "continued_boundary": b"Content-Type: multipart/mixed; boundary*0=q; boundary*1=r\n\n--qr\n\na\n--qr--\n",
    "tight": (
        b"content-type:multipart/mixed;boundary=q\n"
        b"\n"
        b"--q\n"
        b"content-type:text/html;charset=\n"
        b"\n"
        b"a\n"
        b" --q\n"
        b"--q--x\n"
        b"--q\n"
    ),
    "empty_first_lines": b"Subject:\n x\nFrom:\n a@b\nTo: a@b\n\t,\n c@d\nDate:\n\n\n",
    "trailing_blanks": (
        b"Subject: x \n"
        b"Date: a \n"
        b"Message-ID: \t<x> \n"
        b"From: a@b \n"
        b"Content-ID: <x> \n"
        b'Content-Type: text/plain; x="a\n'
        b' b"\n'
        b"Content-Transfer-Encoding: 8bit;x\n"
        b"\n"
    ),
    "quotes": (
        b"Subject:\n"
        b"Date:\n"
        b" a\n"
        b'Message-ID: a"b\\c\n'
        b'In-Reply-To: "\n'
        b'From: "a\\\\b" <x@y>\n'
        b"To: =?x?= a@b\n"
        b'Cc: a"b"c <d@e>\n'
        b"\n"
    ),
    "rfc822_cut": (
        b"Content-Type: multipart/mixed; boundary=q\n"
        b"\n"
        b"--q\n"
        b"Content-Type: message/rfc822\n"
        b"\n"
        b"Content-Type: multipart/mixed; boundary=r\n"
        b"\n"
        b"--r\n"
        b"\n"
        b"x\n"
        b"--q\n"
        b"Content-Type: message/rfc822; charset=x\n"
        b"Content-Disposition: attachment; filename=x\n"
        b"\n"
        b"Content-Type: text/html\n"
        b"\n"
        b"<b>\n"
        b"--q--\n"
    ),
    "no_header": b"\nbody only\n",
    "no_header_crlf": b"\r\n\r\nbody\n",
    "bare_cr": b"Subject: a\rb\rc\r\n\r\nx",
    "header_only": b"A: b\n\n",
    "leading_fold": b" leading continuation\nSubject: x\n\ny",
    "rfc822_twice": (b"Content-Type: message/rfc822\n\nContent-Type: message/rfc822\n\nSubject: in\n\nx\n"),
}
