"""What `test_delivery_differential` sends: configurations, and the messages for each."""

from __future__ import annotations

from dataclasses import dataclass, field

BOX = "u@box.test"
FULL = b"From: a@b.test\nTo: u@box.test\nSubject: s\nDate: Mon, 1 Jan 2024 00:00:00 +0000\nMessage-Id: <m@b.test>\n"
BODY = b"\nbody\n"


@dataclass(frozen=True)
class Mail:
    """One message; the content has bare newlines, which are sent as CRLF."""

    content: bytes
    recipients: tuple[str, ...] = (BOX,)
    sender: str = "a@b.test"


@dataclass(frozen=True)
class Case:
    """A configuration (lines added to main.cf; `{dir}` and `{sink0}` are filled in) and its mail."""

    name: str
    extra: str
    mails: list[Mail]
    tables: dict[str, str] = field(default_factory=dict)


def _heads(*heads: bytes) -> list[Mail]:
    return [Mail(head + BODY) for head in heads]


def _with(*lines: bytes) -> list[Mail]:
    return [Mail(FULL + line + b"\n" + BODY) for line in lines]


HEADS = [
    *_heads(
    b"",
    b"Subject: only\n",
    b"Date: x\nFrom: root\n",
    b"From: Root <root>\nTo: zs, bob@other.test,root\n",
    b'From: "root, he" <root> (comment)\nCc: zs (The User), b@c.test (Other)\n',
    b"from: zs\nTO: root@host\nreply-to: site!user, user%domain.test\n",
    b"To: group: a, b@c.test, d;, e\nFrom: a b@c.test\n",
    b"To: undisclosed-recipients:;\n",
    b"To: Joe B. Goode <joe>, <@r.test:u@v.test>, \"quoted name\"@x.test, \"a b\"\n",
    b"To: a@b.test.,\n c@[1.2.3.4], d\n",
    b"To: " + b", ".join(b"user%d" % n for n in range(20)) + b"\n",
    b"To: " + b",\n ".join(b"user%d@long.domain.test" % n for n in range(10)) + b"\n",
    b"Resent-From: zs\nResent-To: bob\nFrom: a@b.test\n",
    b"Resent-Message-Id: <r@b.test>\nResent-Date: x\nMessage-Id: <m@b.test>\n",
    b"Sender: x\nErrors-To: y\nReturn-Receipt-To: z\nDisposition-Notification-To: w\nMail-Followup-To: v\n",
    b"Bcc: secret, other@x.test\nReturn-Path: <x>\nContent-Length: 5\nResent-Bcc: zs\n",
    b"X-Odd : value\nSubject : s\n folded\nTo : zs\n",
    b"To: <>\nFrom: <>\nCc:\n",
    b"To: =?utf-8?q?J=C3=BCrgen?= <juergen>, J\xc3\xbcrgen <j\xc3\xbc>\n",
    b"Apparently-To: zs\nTo:zs\nDelivered-To: me\n",
    ),
    *_heads(
        b"From: a.@b\nTo: a@b@c.test, @b\nCc: a@b., c\n",
        b"To: ,,a,,\nReply-To: zs (The User), (a (nested) b) zs,\n",
        b"To: zs,\n \"two\n words\"@c.test,\n a (one\n two)\n",
        b"Message-Id: <m@b.test>\n folded\nFrom: a@b.test\n",
        b"To: J\xc3\xbc <j@x.test>, J\xc3\xbc <jo>, J\xc3\xbc <ju>, a@host.b.test, longer@b.test\n",
    ),
    Mail(b"no header at all\n"),
    Mail(b"A: b\nno header\n\nmore\n"),
    Mail(b" leading space\nA: b\n\nx\n"),
    Mail(b"From someone Mon Jan 1\n>From other\nSubject: mbox\n\nx\n"),
    Mail(b"\n\nbody only\n"),
    Mail(FULL + b"\n.\n..dots\n.x\n"),
    Mail(FULL + BODY, sender=""),
    Mail(b"Subject: null\n\nx\n", sender=""),
    Mail(FULL + BODY, (BOX, "v@box.test", "u@box.test", "w+tag@box.test")),
    Mail(FULL + BODY, ("zs", "root@host", "x!y", "a%b.test")),
    Mail(b"Received: x\n" * 49 + FULL + BODY),
    Mail(b"Received: x\n" * 48 + FULL + BODY),
]  # fmt: skip

CHECKS = r"""/^Subject: reject$/ REJECT
/^Subject: reject text/ REJECT go away
/^Subject: reject dsn/ REJECT 5.6.6 odd
/^Subject: reject later/ REJECT 4.6.6 later
/^Subject: reject 2/ REJECT 2.0.0 fine
/^Subject: discard/ DISCARD quietly
/^Subject: hold/ HOLD for a look
/^Subject: warn/ WARN look
/^Subject: info/ INFO look
/^Subject: replace/ REPLACE Subject: replaced
/^Subject: replbad/ REPLACE no header
/^Subject: prepend/ PREPEND X-Before: yes
/^Subject: ignore/ IGNORE
/^Subject: strip/ STRIP gone
/^Subject: redirect/ REDIRECT other@box.test
/^Subject: redirbad/ REDIRECT nobody
/^Subject: bcc/ BCC copy@box.test
/^Subject: filter$/ FILTER smtp:[127.0.0.1]:{sink0}
/^Subject: filtbad/ FILTER nothing
/^Subject: folded\n second/ WARN folded
/^Subject: bogus/ BOGUS action
/^Subject: dunno/ DUNNO
/^Content-Type:.*evil/ REJECT evil type
/^X-Nested: bad/ REPLACE X-Nested: good
"""
BODY_CHECKS = r"""/^bad line/ REJECT bad body
/^warn line/ WARN
/^replace line/ REPLACE replaced
/^prepend line/ PREPEND before
/^ignore line/ IGNORE
/^strip line/ STRIP
/^hold line/ HOLD
"""
MULTIPART = (
    b'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="b"\n\npreamble\n--b\n'
    b"Content-Type: text/plain\nX-Nested: bad\n\nwarn line\nreplace line\n--b\n"
    b"Content-Type: message/rfc822\n\nSubject: replace\nX-Nested: bad\n\nignore line\nx\n--b--\nreplace line\n"
)

CASES = [
    Case("local client", "", HEADS),
    Case("remote client", "local_header_rewrite_clients =\n", [HEADS[3], HEADS[0], *HEADS[11:14], HEADS[15]]),
    Case(
        "remote domain",
        "local_header_rewrite_clients =\nremote_header_rewrite_domain = far.invalid\nappend_dot_mydomain = yes\n",
        [HEADS[0], *HEADS[3:7]],
    ),
    Case(
        "undisclosed, missing and dots",
        "undisclosed_recipients_header = To: undisclosed-recipients:;\nappend_dot_mydomain = yes\n"
        "message_drop_headers = bcc, x-drop\n",
        [*HEADS[:4], *_with(b"X-Drop: me\nReturn-Path: <keep>"), *HEADS[11:13]],
    ),
    Case(
        "canonical",
        "canonical_maps = texthash:{dir}/canonical\nsender_canonical_maps = texthash:{dir}/sender\n"
        "recipient_canonical_maps = texthash:{dir}/recipient\n",
        [
            Mail(b"From: one@c.test\nTo: one@c.test, r1@c.test\nCc: Name <s1@c.test>\n\nx\n", ("one@c.test",)),
            Mail(b"From: s1@c.test\nTo: s1@c.test\n\nx\n", ("s1@c.test", "r1@c.test"), "s1@c.test"),
            Mail(b"From: one+tag@c.test\nTo: any@dom.test\n\nx\n", ("any+x@dom.test",), "one+t@c.test"),
            Mail(b"From: zs\nTo: zs@x.test\n\nx\n", ("zs",), "zs"),
            Mail(b"From: loop1@c.test\n\nx\n", ("u@box.test",), "u@box.test"),
            Mail(b"Subject: x\n\nx\n", ("chain@c.test",), "chain@c.test"),
        ],
        {
            "canonical": "one@c.test First.One@new.test\n@dom.test @newdom.test\nzs Zed.Ess\n"
            "chain@c.test chain2@c.test\nchain2@c.test chain3@c.test\nloop1@c.test loop2@c.test\n"
            "loop2@c.test loop1@c.test\n",
            "sender": "s1@c.test sender@new.test\n",
            "recipient": "r1@c.test recipient@new.test\n",
        },
    ),
    Case(
        "canonical classes",
        "canonical_maps = texthash:{dir}/canonical\ncanonical_classes = header_recipient, envelope_sender\n"
        "propagate_unmatched_extensions =\n",
        [Mail(b"From: one@c.test\nTo: one+e@c.test\n\nx\n", ("one@c.test",), "one+f@c.test")],
        {"canonical": "one@c.test new@new.test\n"},
    ),
    Case(
        "masquerade",
        "masquerade_domains = !keep.c.test c.test x.test\nmasquerade_exceptions = root\n",
        [
            Mail(b"From: u@host.c.test\nTo: v@deep.host.c.test, root@host.c.test\n\nx\n", (BOX,), "u@host.c.test"),
            Mail(b"From: u@a.keep.c.test\nTo: zs\n\nx\n", ("r@host.c.test",), "root@host.c.test"),
            Mail(b"From: u@keep.c.test\nTo: U@HOST.C.TEST\n\nx\n", ("r@c.test",), "u@xc.test"),
        ],
    ),
    Case(
        "aliases and copies",
        "virtual_alias_maps = texthash:{dir}/virtual\nvirtual_alias_domains = alias.test\nalways_bcc = all@box.test\n"
        "sender_bcc_maps = texthash:{dir}/sbcc\nrecipient_bcc_maps = texthash:{dir}/rbcc\n",
        [
            Mail(FULL + BODY, ("list@alias.test",)),
            Mail(FULL + BODY, ("list+tag@alias.test", "one@box.test"), "boss@b.test"),
            Mail(FULL + BODY, ("any@old.test", "watched@box.test")),
            Mail(FULL + BODY, ("self@box.test",), ""),
            Mail(FULL + BODY, ("zs", "unknown@alias.test")),
            *(Mail(FULL + BODY, (one,)) for one in ("loop@alias.test", "empty@alias.test", "again@alias.test")),
            Mail(FULL + BODY, ("all@box.test", "l1@alias.test", "l2@alias.test", "three@box.test", "Three@box.test")),
        ],
        {
            "virtual": "l1@alias.test three@box.test\nl2@alias.test three@box.test\n"
            "list@alias.test one@box.test, two@box.test\n@old.test @box.test\n"
            "self@box.test self@box.test, other@box.test\nzs zs@box.test\n"
            "loop@alias.test loop2@alias.test\nloop2@alias.test loop@alias.test\nempty@alias.test ,\n"
            "again@alias.test one@box.test, again@alias.test, two@box.test\n",
            "sbcc": "boss@b.test archive@box.test\n",
            "rbcc": "watched@box.test watcher@box.test\n",
        },
    ),
    Case(
        "no original recipient",
        "enable_original_recipient = no\nvirtual_alias_maps = inline:{ list@box.test=one@box.test }\n",
        [Mail(FULL + BODY, ("list@box.test", "two@box.test", "one@box.test"))],
    ),
    Case(
        "header checks",
        "header_checks = regexp:{dir}/checks\n",
        [
            *_with(*(b"Subject: " + word for word in (
                b"reject", b"reject text", b"reject dsn", b"reject later", b"reject 2", b"discard", b"hold",
                b"warn", b"info", b"replace", b"replbad", b"prepend", b"ignore", b"strip", b"redirect",
                b"redirbad", b"bcc", b"filter", b"filtbad", b"folded\n second", b"bogus", b"dunno",
            ))),
            Mail(MULTIPART),
            Mail(MULTIPART.replace(b"text/plain", b"text/evil")),
            *(Mail(MULTIPART.split(b"--b\n")[0] + b"--b\n" + part + b"x\n--b--\n") for part in (
                b"", b"X-A: b\n", b" folded\n", b"Content-Type: message/rfc822\n", b"Content-Type: message/rfc822\n\n",
            )),
            Mail(FULL + b"Subject: redirect\n\nx\n", ("one@box.test", "two@box.test")),
        ],
        {"checks": CHECKS},
    ),
    Case(
        "body checks",
        "body_checks = regexp:{dir}/body\nbody_checks_size_limit = 30\nmime_header_checks = regexp:{dir}/checks\n"
        "header_checks =\nnested_header_checks =\n",
        [
            Mail(MULTIPART),
            *(Mail(FULL + b"\n" + word + b" line\nx\n") for word in (
                b"bad", b"warn", b"replace", b"prepend", b"ignore", b"strip", b"hold",
            )),
            Mail(FULL + b"\n" + b"x" * 40 + b"\nbad line\n"),
            Mail(FULL + b"\n" + b"x" * 20 + b"\nbad line\n"),
        ],
        {"body": BODY_CHECKS, "checks": CHECKS},
    ),
    Case(
        "strict",
        "strict_7bit_headers = yes\nstrict_8bitmime_body = yes\nstrict_mime_encoding_domain = yes\n",
        [
            *_with(b"Subject: \xc3\xbc"),
            Mail(FULL + b"\n\xc3\xbc\n"),
            Mail(FULL + b"Content-Transfer-Encoding: 8bit\n\n\xc3\xbc\n"),
            Mail(FULL + b"Content-Transfer-Encoding: base64\n\n\xc3\xbc\n"),
            Mail(FULL + b"Content-Type: multipart/mixed; boundary=b\nContent-Transfer-Encoding: base64\n\nx\n"),
            Mail(FULL + BODY),
        ],
    ),
    Case(
        "characters",
        "message_reject_characters = \\0\\177\nmessage_strip_characters = \\001\n",
        [Mail(FULL + b"X-\x01Split: y\n" + BODY), Mail(FULL + b"\nx\x7fy\n"), Mail(FULL + b"\nx\x01y\n"), Mail(FULL + BODY)],
    ),
    Case(
        "checks without MIME",
        "disable_mime_input_processing = yes\nstrict_8bitmime = yes\n",
        [*_with(b"Subject: \xc3\xbc"), Mail(FULL + b"\n\xc3\xbc\n")],
    ),
    Case(
        "content filter",
        "content_filter = smtp:[127.0.0.1]:{sink1}\n",
        [Mail(FULL + BODY, (BOX, "zs")), Mail(FULL + BODY, ("x@far.test",), "")],
    ),
    Case(
        "routes",
        "transport_maps = texthash:{dir}/transport\nrelayhost = [127.0.0.1]:{sink0}\ndefault_transport = smtp\n"
        "relay_domains = relay.test\nrelay_transport = smtp\nrelocated_maps = texthash:{dir}/relocated\n"
        "virtual_alias_domains = alias.test\nsender_dependent_relayhost_maps = texthash:{dir}/relays\n"
        "sender_dependent_default_transport_maps = texthash:{dir}/defaults\n",
        [
            Mail(FULL + BODY, ("u@far.test", "u@relay.test", "u@sub.relay.test", BOX)),
            Mail(FULL + BODY, ("u@far.test", "u@relay.test"), "boss@b.test"),
            Mail(FULL + BODY, ("u@far.test",), ""),
            Mail(FULL + BODY, ("u@far.test",), "dunno@b.test"),
            Mail(FULL + BODY, ("u@far.test", "u@relay.test"), "error@b.test"),
            Mail(FULL + BODY, ("u@t1.test", "u@a.t1.test", "user@t2.test", "user+x@t2.test", "u@t3.test"), ""),
            Mail(FULL + BODY, ("u@e1.test", "u@e2.test", "u@t4.test", "u@t5.test"), ""),
            Mail(FULL + BODY, ("moved@box.test", "moved+x@far.test"), ""),
            Mail(FULL + BODY, ("u%far.test@mail.x.test", '"u@box.test"@mail.x.test', "box.test!u@mail.x.test"), ""),
        ],
        {
            "transport": "t1.test smtp:[127.0.0.1]:{sink1}\n.t1.test virtual:\nuser@t2.test error:5.7.7 no user\n"
            "t3.test :[127.0.0.1]:{sink2}\ne1.test error:mail is refused\ne2.test error:\nt4.test :\n"
            "t5.test discard:silently\n",
            "relocated": "moved@box.test new@else.test\n@far2.test gone\nmoved@far.test away\n",
            "relays": "boss@b.test [127.0.0.1]:{sink1}\n<> [127.0.0.1]:{sink2}\ndunno@b.test DUNNO\n",
            "defaults": "error@b.test error:5.7.1 not for you\n",
        },
    ),
    Case(
        "routes without",
        "swap_bangpath = no\nallow_percent_hack = no\nappend_at_myorigin = no\nresolve_dequoted_address = no\n"
        "virtual_alias_domains = alias.test\nshow_user_unknown_table_name = no\nsmtpd_reject_unlisted_recipient = no\n",
        [
            Mail(b"From: zs\nTo: a!b, c%d\n\nx\n", ("u%far.test", "site!u", "zs"), ""),
            Mail(b"From: zs\n\nx\n", ("u@alias.test", '"u@box.test"@mail.x.test'), ""),
        ],
    ),
]  # fmt: skip
