"""Wrong specs: each gets the documented problem, at the right place, with what to write instead."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from mailstack.spec import SpecErrors, loads


class Wrong(NamedTuple):
    """A spec and one problem that it must get. `text` may leave the domains out."""

    name: str
    text: str
    line: int
    column: int
    field: str
    message: str
    """A part of the message."""


GOOD = "domains: {example.test: {users: {anna: {}, otto: {}}}}\n"


def domain(body: str) -> str:
    """A spec whose domain has the lines of `body` from line 3 on, indented by four."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return f"domains:\n  example.test:\n{lines}"


USERS = "users: {anna: {}, otto: {}}\n"

TABLE = (
    # ---- the file as YAML
    Wrong("empty", "", 1, 1, "", "the file is empty; `mailstack init` writes one"),
    Wrong("only a comment", "# nothing\n", 1, 1, "", "the file is empty"),
    Wrong("a list", "- one\n", 1, 1, "", "a spec is a mapping; begin with domains:"),
    Wrong("tab", "domains:\n\texample.test: {}\n", 2, 1, "", "indent with spaces, not tabs"),
    Wrong("unclosed", "domains: {example.test: {\n", 2, 1, "", "check the indentation, quotes and brackets"),
    Wrong("colon", "project: a: b\n", 1, 11, "", "put text that holds ': ' in quotes"),
    Wrong("control character", "project: a\x07b\n", 1, 11, "", "the character U+0007 cannot stand"),
    Wrong("two documents", GOOD + "---\n" + GOOD, 2, 1, "", "a second document begins here"),
    Wrong("tag", "project: !!python/name:os.system x\n", 1, 10, "", "means nothing here; leave it out"),
    Wrong("unknown anchor", "project: *nothing\n", 1, 10, "", "has no anchor &nothing before it"),
    Wrong("anchor in itself", "domains: &a {x: *a}\n", 1, 17, "", "stands inside what it stands for"),
    Wrong("deep", "domains: " + "[" * 60 + "]" * 60 + "\n", 1, 49, "", "nested more than 40 deep"),
    Wrong(
        "laughs",
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n" for old, new in zip("abcdef", "bcdefg", strict=True)
        ),
        1,
        8,
        "",
        "aliases expand to more than",
    ),
    Wrong("merge key", GOOD + "mta: {<<: {}}\n", 2, 7, "mta", "merge keys (<<) are not used here"),
    Wrong("list as a key", GOOD + "mta: {[a]: 1}\n", 2, 7, "mta", "a key must be a word"),
    Wrong("twice", GOOD + "mta: {}\nmta: {}\n", 3, 1, "mta", "given twice, first in line 2; keep one of them"),
    # ---- unknown keys
    Wrong("typing error", GOOD + "netwrok: {}\n", 2, 1, "netwrok", "did you mean network?"),
    Wrong("inner one", domain("user: {anna: {}}"), 3, 5, "domains.example.test.user", "did you mean users?"),
    Wrong("elsewhere", GOOD + "ttl: 1d\n", 2, 1, "ttl", "it belongs under dns"),
    Wrong("deeper", GOOD + "mta: {lifetime: 1d}\n", 2, 7, "mta.lifetime", "it belongs under mta.queue"),
    Wrong("of nothing", GOOD + "dns: {zzz: 1}\n", 2, 7, "dns.zzz", "known are engine, ttl, forward"),
    # ---- kinds of values
    Wrong("no domains", "project: x\n", 1, 1, "domains", "write at least one domain"),
    Wrong("domains empty", "domains: {}\n", 1, 1, "domains", "write at least one domain"),
    Wrong("domains a list", "domains: [a.test]\n", 1, 1, "domains", "a mapping is wanted here"),
    Wrong("number as name", "project: 12\n" + GOOD, 1, 10, "project", '12 is a number in YAML; put it in quotes: "12"'),
    Wrong(
        "number as password",
        domain("users: {anna: {password: 0123}}"),
        3,
        30,
        "domains.example.test.users.anna.password",
        '0123 is a number in YAML; put it in quotes: "0123"',
    ),
    Wrong(
        "truth as password",
        domain("users: {anna: {password: true}}"),
        3,
        30,
        "domains.example.test.users.anna.password",
        'true is true or false in YAML; put it in quotes: "true"',
    ),
    Wrong("list for text", GOOD + "mta: {relayhost: [a]}\n", 2, 7, "mta.relayhost", "not a list or mapping"),
    Wrong("text for list", GOOD + "dns: {forward: 9.9.9.9}\n", 2, 16, "dns.forward", "write [one, two]"),
    Wrong("text for truth", GOOD + "mailbox: {allow_plaintext_auth: yes}\n", 2, 33,
          "mailbox.allow_plaintext_auth", "write true or false"),
    # ---- names
    Wrong("project", "project: My_Stack\n" + GOOD, 1, 10, "project", "such as my-stack"),
    Wrong("one label", "domains: {localhost: {users: {a: {}}}}\n", 1, 11, "domains.localhost", "only one label"),
    Wrong("address", "domains: {192.0.2.1: {users: {a: {}}}}\n", 1, 11, "domains.192.0.2.1", "looks like an IP"),
    Wrong("underscore", "domains: {a_b.test: {users: {a: {}}}}\n", 1, 11, "domains.a_b.test", "is not a domain name"),
    Wrong("arpa", "domains: {x.in-addr.arpa: {users: {a: {}}}}\n", 1, 11, "domains.x.in-addr.arpa", ".arpa"),
    Wrong("bad IDN", "domains: {'☃.test': {users: {a: {}}}}\n", 1, 11, "domains.☃.test", "internationalised"),
    Wrong("same domain", "domains:\n  a.test: {users: {x: {}}}\n  A.TEST.: {}\n", 3, 3, "domains.A.TEST.",
          "is a.test, which line 2 has already"),
    Wrong("same IDN", "domains:\n  bücher.test: {users: {x: {}}}\n  xn--bcher-kva.test: {}\n", 3, 3,
          "domains.xn--bcher-kva.test", "which line 2 has already"),
    Wrong("capital user", domain("users: {Anna: {}}"), 3, 13, "domains.example.test.users.Anna", "write anna"),
    Wrong("address as user", domain("users: {anna@x.test: {}}"), 3, 13,
          "domains.example.test.users.anna@x.test", "only the part before the @: anna"),
    Wrong("dots", domain("users: {a..b: {}}"), 3, 13, "domains.example.test.users.a..b", "cannot name a user"),
    Wrong("plus", domain("users: {a+b: {}}"), 3, 13, "domains.example.test.users.a+b", "cannot name a user"),
    Wrong("slash", domain("users: {../x: {}}"), 3, 13, "domains.example.test.users.../x", "cannot name a user"),
    Wrong("no user", "domains: {example.test: {}}\n", 1, 11, "domains.example.test", "the first domain has no users"),
    # ---- hosts and addresses
    Wrong("host elsewhere", domain(USERS + "hostname: mail.other.test"), 4, 15,
          "domains.example.test.hostname", "does not lie in this domain; write mail.example.test"),
    Wrong("host of two", "domains: {a.test: {users: {x: {}}}, b.test: {hostname: mail.a.test}}\n", 1, 56,
          "domains.b.test.hostname", "is the mail host of a.test already; write mail.b.test"),
    Wrong("host in a zone below", "domains: {a.test: {users: {x: {}}}, mail.a.test: {}}\n", 1, 11,
          "domains.a.test.hostname", "mail.a.test lies in the other domain mail.a.test"),
    Wrong("IPv6", domain(USERS + "address: 2001:db8::1"), 4, 14, "domains.example.test.address",
          "write address6: 2001:db8::1"),
    Wrong("IPv4", domain(USERS + "address6: 192.0.2.1"), 4, 15, "domains.example.test.address6", "2001:db8::25"),
    Wrong("of this link", domain(USERS + "address6: fe80::1"), 4, 15, "domains.example.test.address6", "others can"),
    Wrong("mapped", domain(USERS + "address6: '::ffff:192.0.2.1'"), 4, 15, "domains.example.test.address6",
          "means nothing"),
    Wrong("dmarc", domain(USERS + "dmarc: quarantined"), 4, 12, "domains.example.test.dmarc", "write quarantine"),
    Wrong("mta_sts", domain(USERS + "mta_sts: none"), 4, 14, "domains.example.test.mta_sts", "testing or enforce"),
    Wrong("reports", domain(USERS + "reports: ana"), 4, 14, "domains.example.test.reports", "write anna"),
    Wrong("caa", domain(USERS + "caa: ['x.test; policy=ev']"), 4, 11, "domains.example.test.caa[0]",
          "is not a domain name"),
    Wrong("caa twice", domain(USERS + "caa: [x.test, x.test]"), 4, 19, "domains.example.test.caa[1]", "given twice"),
    Wrong("selector", domain(USERS + "dkim: {a_b: x.pem}"), 4, 12, "domains.example.test.dkim.a_b", "DKIM selector"),
    Wrong("key as text", domain(USERS + "dkim: {a: 1}"), 4, 15, "domains.example.test.dkim.a", "put it in quotes"),
    Wrong("dnssec", GOOD + "dns: {dnssec: yes}\n", 2, 15, "dns.dnssec", "write true or false"),
    Wrong("faults", GOOD + "dns:\n  faults: |\n    fault 'x' {\n    type M; }\n", 3, 11, "dns.faults", "line "),
    Wrong("no faults", GOOD + "dns: {faults: '# {'}\n", 2, 15, "dns.faults", "there is no fault in it"),
    Wrong("AAAA", domain(USERS + "address6: 2001:db8::1\nrecords: [mail IN AAAA 2001:db8::2]"), 5, 15,
          "domains.example.test.records[0]", "set address6: of the domain"),
    Wrong("nowhere", domain(USERS + "address: 0.0.0.0"), 4, 14, "domains.example.test.address", "no address that"),
    Wrong("multicast", domain(USERS + "address: 224.0.0.1"), 4, 14, "domains.example.test.address", "multicast"),
    # ---- users, aliases
    Wrong("two passwords", domain("users: {anna: {password: x, password_env: Y}}"), 3, 13,
          "domains.example.test.users.anna", "password and password_env are given; keep one"),
    Wrong("empty password", domain("users: {anna: {password: ''}}"), 3, 30,
          "domains.example.test.users.anna.password", "an empty password lets nobody in"),
    Wrong("line break", domain('users: {anna: {password: "a\\nb"}}'), 3, 30,
          "domains.example.test.users.anna.password", "control characters"),
    Wrong("long password", domain("users: {anna: {password: " + "é" * 128 + "}}"), 3, 30,
          "domains.example.test.users.anna.password", "at most 255 octets"),
    Wrong("unknown target", domain(USERS + "aliases: {info: [ana]}"), 4, 22,
          "domains.example.test.aliases.info[0]", "no user or alias 'ana'; write anna"),
    Wrong("in the other domain", "domains:\n  a.test: {users: {x: {}}, aliases: {i: [no@b.test]}}\n"
          "  b.test: {users: {y: {}}}\n", 2, 42, "domains.a.test.aliases.i[0]", "b.test has no user or alias 'no'"),
    Wrong("no target", domain(USERS + "aliases: {info: []}"), 4, 15, "domains.example.test.aliases.info", "no target"),
    Wrong("command", domain(USERS + "aliases: {info: ['|/bin/sh']}"), 4, 22,
          "domains.example.test.aliases.info[0]", "cannot name a user"),
    Wrong("dollar", domain(USERS + "aliases: {info: ['$a@b.test']}"), 4, 22,
          "domains.example.test.aliases.info[0]", "is not an address that can be used here"),
    Wrong("loop", domain(USERS + "aliases: {a: [b], b: [c], c: [a, anna]}"), 4, 15,
          "domains.example.test.aliases.a",
          "leads back to itself: a@example.test -> b@example.test -> c@example.test -> a@example.test"),
    Wrong("shadow", domain(USERS + "aliases: {otto: [anna]}"), 4, 15,
          "domains.example.test.aliases.otto", "otto is a user too and would get no mail; add otto to the targets"),
    Wrong("catch-all", domain(USERS + "catch_all: nobody"), 4, 16, "domains.example.test.catch_all", "no user"),
    # ---- records
    Wrong("not a record", domain(USERS + "records: [hello]"), 4, 15, "domains.example.test.records[0]",
          "is not a record in zone-file form"),
    Wrong("bad address", domain(USERS + "records: [www A 1.2.3.400]"), 4, 15,
          "domains.example.test.records[0]", "'1.2.3.400' is not an IPv4 address"),
    Wrong("include", domain(USERS + "records: ['$INCLUDE /etc/passwd']"), 4, 15,
          "domains.example.test.records[0]", "does not begin with a name"),
    Wrong("two records", domain(USERS + 'records: ["a A 192.0.2.1\\nb A 192.0.2.2"]'), 4, 15,
          "domains.example.test.records[0]", "holds a line break"),
    Wrong("outside", domain(USERS + "records: [www.other.test. A 192.0.2.1]"), 4, 15,
          "domains.example.test.records[0]", "does not lie in example.test"),
    Wrong("the host's own", domain(USERS + "records: [mail A 192.0.2.1]"), 4, 15,
          "domains.example.test.records[0]", "set address: of the domain instead"),
    Wrong("alias of host", domain(USERS + "records: [mail CNAME www]"), 4, 15,
          "domains.example.test.records[0]", "a CNAME must be alone"),
    Wrong("beside CNAME", domain(USERS + "records: [a CNAME b, a A 192.0.2.1]"), 4, 26,
          "domains.example.test.records[1]", "is a CNAME already"),
    Wrong("record twice", domain(USERS + "records: [a A 192.0.2.1, A.example.test. IN A 192.0.2.1]"), 4, 30,
          "domains.example.test.records[1]", "is given twice"),
    Wrong("two TTLs", domain(USERS + "records: [a 60 A 192.0.2.1, a 90 A 192.0.2.2]"), 4, 33,
          "domains.example.test.records[1]", "another time to live"),
    Wrong("SOA", domain(USERS + "records: ['@ SOA a b 1 1 1 1 1']"), 4, 15,
          "domains.example.test.records[0]", "made by the name server itself"),
    Wrong("MX to nothing", domain(USERS + "records: ['@ MX 20 mx2']"), 4, 15,
          "domains.example.test.records[0]", "mx2.example.test has no address in this zone"),
    Wrong("child's", "domains:\n  a.test: {users: {x: {}}, records: [www.b A 192.0.2.1]}\n  b.a.test: {}\n", 2, 38,
          "domains.a.test.records[0]", "belongs to the zone b.a.test"),
    # ---- mta
    Wrong("engine", GOOD + "mta: {engine: exim}\n", 2, 15, "mta.engine", "write python or postfix"),
    Wrong("Postfix's Maildirs", GOOD + "mailbox: {delivery: maildir}\nmta: {engine: postfix}\n", 2, 21,
          "mailbox.delivery", "write delivery: lmtp"),
    Wrong("Postfix's saslauthd", GOOD + "mta: {engine: postfix}\nsasl: {backend: saslauthd}\n", 3, 17,
          "sasl.backend", "write backend: dovecot"),
    Wrong("Postfix's log", GOOD + "mta: {engine: postfix, postfix: {maillog_file: /x}}\n", 2, 34,
          "mta.postfix.maillog_file", "decided by how Postfix is run; leave it out"),
    Wrong("no saslauthd", GOOD + "mailbox: {engine: dovecot}\nsasl: {backend: saslauthd}\n", 3, 17, "sasl.backend",
          "Dovecot is no saslauthd; write backend: dovecot"),
    Wrong("faults of BIND", GOOD + "dns: {engine: bind, faults: f.conf}\n", 2, 29, "dns.faults",
          "bind gives no wrong answers on purpose"),
    Wrong("unknown engine", GOOD + "mailbox: {engine: courier}\n", 2, 19, "mailbox.engine", "write python or dovecot"),
    Wrong("host bits", GOOD + "mta: {networks: [127.0.0.1/8]}\n", 2, 18, "mta.networks[0]", "write 127.0.0.0/8"),
    Wrong("network", GOOD + "mta: {networks: ['127.0.0.0/8,evil']}\n", 2, 18, "mta.networks[0]", "not a network"),
    Wrong("own domain", GOOD + "mta: {relay_domains: [example.test]}\n", 2, 23, "mta.relay_domains[0]",
          "is one of the stack's own domains"),
    Wrong("relayhost", GOOD + "mta: {relayhost: 'a b'}\n", 2, 18, "mta.relayhost", "write [relay.example.net]:587"),
    Wrong("size", GOOD + "mta: {message_size_limit: 10MB}\n", 2, 27, "mta.message_size_limit", "such as 10MiB"),
    Wrong("bare size", GOOD + "mta: {message_size_limit: 1000000}\n", 2, 27, "mta.message_size_limit", "and a unit"),
    Wrong("workers", GOOD + "mta: {workers: 0}\n", 2, 16, "mta.workers", "auto or a whole number from 1 to 64"),
    Wrong("duration", GOOD + "mta: {queue: {lifetime: 5 days}}\n", 2, 25, "mta.queue.lifetime", "such as 30s, 5m"),
    Wrong("backoffs", GOOD + "mta: {queue: {minimal_backoff: 2h}}\n", 2, 32, "mta.queue.minimal_backoff",
          "is longer than maximal_backoff"),
    Wrong("parameter", GOOD + "mta: {postfix: {smtpd_baner: x}}\n", 2, 17, "mta.postfix.smtpd_baner",
          "did you mean smtpd_banner?"),
    Wrong("owned", GOOD + "mta: {postfix: {myhostname: x}}\n", 2, 17, "mta.postfix.myhostname",
          "use domains.<first domain>.hostname"),
    Wrong("fixed", GOOD + "mta: {postfix: {queue_directory: /x}}\n", 2, 17, "mta.postfix.queue_directory",
          "leave it out"),
    Wrong("type", GOOD + "mta: {postfix: {smtpd_recipient_limit: many}}\n", 2, 40,
          "mta.postfix.smtpd_recipient_limit", "expected a number"),
    Wrong("no such name", GOOD + "mta: {postfix: {smtpd_banner: $myhostnam}}\n", 2, 31,
          "mta.postfix.smtpd_banner", "did you mean $myhostname?"),
    Wrong("circle with a default", GOOD + "mta: {postfix: {default_destination_recipient_limit: "
          "$smtp_destination_recipient_limit}}\n", 2, 54, "mta.postfix.default_destination_recipient_limit",
          "refers to itself by way of $smtp_destination_recipient_limit"),
    Wrong("newline", GOOD + 'mta: {postfix: {smtpd_banner: "a\\nb = c"}}\n', 2, 31, "mta.postfix.smtpd_banner",
          "printable ASCII on one line"),
    # ---- the rest
    Wrong("nobody reads", GOOD + "mailbox: {protocols: [lmtp]}\n", 2, 11, "mailbox.protocols", "add imap or pop3"),
    Wrong("no LMTP", GOOD + "mailbox: {protocols: [imap]}\n", 2, 11, "mailbox.protocols", "delivery: maildir"),
    Wrong("protocol", GOOD + "mailbox: {protocols: [imap4, lmtp]}\n", 2, 23, "mailbox.protocols[0]", "write imap"),
    Wrong("protocol twice", GOOD + "mailbox: {protocols: [imap, imap, lmtp]}\n", 2, 29, "mailbox.protocols[1]",
          "imap is given twice"),
    Wrong("forward", GOOD + "dns: {forward: [dns.example.net]}\n", 2, 17, "dns.forward[0]", "write one such as"),
    Wrong("mechanism", GOOD + "sasl: {mechanisms: [cram-md5]}\n", 2, 21, "sasl.mechanisms[0]", "plain or login"),
    Wrong("no mechanism", GOOD + "sasl: {mechanisms: []}\n", 2, 8, "sasl.mechanisms", "nobody could log in"),
    Wrong("TLS off", GOOD + "tls: {mode: off}\n", 2, 13, "tls.mode", "allow_plaintext_auth: true"),
    Wrong("TLS false", GOOD + "tls: {mode: false}\n", 2, 13, "tls.mode", "write ca or files or off"),
    Wrong("no key", GOOD + "tls: {mode: files, cert: a.pem}\n", 2, 13, "tls.mode", "add key: FILE.pem"),
    Wrong("cert unused", GOOD + "tls: {cert: a.pem}\n", 2, 13, "tls.cert", "is used only with mode: files"),
    Wrong("public subnet", GOOD + "network: {subnet: 8.8.8.0/24}\n", 2, 19, "network.subnet", "is not private"),
    Wrong("localhost", GOOD + "network: {subnet: 127.0.0.0/24}\n", 2, 19, "network.subnet", "own services"),
    Wrong("wide subnet", GOOD + "network: {subnet: 10.0.0.0/8}\n", 2, 19, "network.subnet", "from /24 to /29"),
    Wrong("subnet bits", GOOD + "network: {subnet: 10.0.0.1/24}\n", 2, 19, "network.subnet", "write 10.0.0.0/24"),
    Wrong("port", GOOD + "network: {publish: {smtp: 70000}}\n", 2, 27, "network.publish.smtp", "from 1 to 65535"),
    Wrong("port twice", GOOD + "network: {publish: {smtp: 25, imap: 25}}\n", 2, 37, "network.publish.imap",
          "port 25 is smtp's already"),
    Wrong("service", GOOD + "network: {publish: {imapp: 25}}\n", 2, 21, "network.publish.imapp", "write imap"),
    Wrong("not offered", GOOD + "mailbox: {protocols: [imap, lmtp]}\nnetwork: {publish: {pop3: 25}}\n", 3, 27,
          "network.publish.pop3", "mailbox.protocols does not name it"),
    Wrong("publish", GOOD + "network: {publish: all}\n", 2, 20, "network.publish", "write auto, standard, or ports"),
    Wrong("bind", GOOD + "network: {bind: localhost}\n", 2, 17, "network.bind", "is not an IPv4 address"),
)  # fmt: skip


@pytest.mark.parametrize("wrong", TABLE, ids=[wrong.name for wrong in TABLE])
def test_problem_is_found_where_it_is(wrong: Wrong) -> None:
    with pytest.raises(SpecErrors) as caught:
        loads(wrong.text, "mailstack.yaml")
    shown = "\n".join(map(str, caught.value.problems))
    found = [problem for problem in caught.value.problems if wrong.message in problem.message]
    assert found, shown
    assert [(found[0].line, found[0].column, found[0].field)] == [(wrong.line, wrong.column, wrong.field)], (
        shown
    )
    assert len(caught.value.problems) == 1, f"one mistake, one problem:\n{shown}"
    prefix = f"{wrong.field}: " if wrong.field else ""
    assert str(found[0]) == f"mailstack.yaml:{wrong.line}:{wrong.column}: {prefix}{found[0].message}"
    assert found[0].message.isprintable()


def test_the_table_is_long_enough() -> None:
    assert len(TABLE) >= 50
    assert len({wrong.name for wrong in TABLE}) == len(TABLE)


def test_every_problem_is_reported_in_one_run() -> None:
    text = """\
project: Bad Name
domains:
  one.test:
    users:
      Anna: {pasword: x}
      bob: {password: 123}
    aliases: {x: [nobody], bob: [elsewhere@net.test]}
    records: [nonsense, "www A 192.0.2.1", 3, "www CNAME mail"]
  One.test: {}
mta: {workers: 99, queue: {lifetime: 5}, postfix: {smtpd_baner: y}}
tls: {mode: off}
ttl: 1
network: {publish: {smtp: 25, imap: 25}}
"""
    with pytest.raises(SpecErrors) as caught:
        loads(text)
    places = [(problem.line, problem.field) for problem in caught.value.problems]
    assert places == [
        (1, "project"),
        (5, "domains.one.test.users.Anna"),
        (5, "domains.one.test.users.Anna.pasword"),
        (6, "domains.one.test.users.bob.password"),
        (7, "domains.one.test.aliases.x[0]"),
        (7, "domains.one.test.aliases.bob"),
        (8, "domains.one.test.records[0]"),
        (8, "domains.one.test.records[2]"),
        (8, "domains.one.test.records[3]"),
        (9, "domains.One.test"),
        (10, "mta.workers"),
        (10, "mta.queue.lifetime"),
        (10, "mta.postfix.smtpd_baner"),
        (11, "tls.mode"),
        (12, "ttl"),
        (13, "network.publish.imap"),
    ]
