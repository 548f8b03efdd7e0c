"""What a tree says: serials, records, addresses, passwords, overrides."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from mailstack.render import Addresses, Facts, Listener, RenderError, Site, Tree, render
from mailstack.render.bind import ranges, reverse_zone
from mailstack.render.records import Record, domain_records, mta_sts_policy
from mailstack.render.tree import MAX_SERIAL, with_serial
from mailstack.spec import Stack, loads
from mailstack.spec.records import generated_owners
from tests.golden.trees import EXAMPLES, example, host_site, stack_site

SMALL = "domains: {example.test: {users: {anna: {password: x}}}}\n"


def text(tree: Tree, path: str) -> str:
    return tree.files[path].data.decode()


def main_cf(stack: Stack, site: Site | None = None) -> dict[str, str]:
    content = text(render(stack, site or stack_site(stack)), "postfix/main.cf")
    pairs = (line.partition("=") for line in content.splitlines() if line and line[0] != "#")
    return {name.strip(): value.strip() for name, _, value in pairs}


def records(stack: Stack, kind: str, site: Site | None = None) -> list[str]:
    found = domain_records(stack, site or stack_site(stack), stack.primary)
    return [f"{record.owner} {record.data}" for record in found if record.type == kind]


# ---------------------------------------------------------------- serials


def later(site: Site, tree: Tree, today: date) -> Site:
    return replace(site, serials=tree.serials, today=today)


def test_a_serial_rises_when_the_zone_changes_and_only_then() -> None:
    stack, other = loads(SMALL), loads(SMALL + "dns: {ttl: 1h}\n")
    site = stack_site(stack)
    first = render(stack, site)
    assert first.serials["example.test"][0] == 2024112201
    again = render(stack, later(site, first, date(2025, 1, 1)))
    assert again.serials == first.serials
    assert again.digest == first.digest
    changed = render(other, later(site, again, date(2024, 11, 22)))
    assert changed.serials["example.test"][0] == 2024112202
    assert " 2024112202\t; serial" in text(changed, "bind/zones/example.test.zone").replace("\t\t", " ")
    tomorrow = render(stack, later(site, changed, date(2024, 11, 23)))
    assert tomorrow.serials["example.test"][0] == 2024112301
    backwards = render(other, later(site, tomorrow, date(2020, 1, 1)))
    assert backwards.serials["example.test"][0] == 2024112302


def test_only_the_zone_that_changed_gets_a_new_serial() -> None:
    before = example("two-domains")
    site = stack_site(before)
    first = render(before, site)
    beta = before.domains["beta.test"].model_copy(update={"records": ()})
    after = before.model_copy(update={"domains": before.domains | {"beta.test": beta}})
    second = render(after, later(site, first, site.today))
    changed = {name for name, value in second.serials.items() if value != first.serials[name]}
    assert changed == {"beta.test"}


def test_serials_go_on_after_the_last_number() -> None:
    known = {"z": (MAX_SERIAL, "old")}
    written, (serial, _) = with_serial("z", str, known, date(2024, 1, 1))
    assert (written, serial) == ("1", 1)


@pytest.mark.parametrize(
    ("known", "served", "content", "serial"),
    [
        (2024010105, 2024010109, "new", 2024010110),  # beyond what updates have made of it
        (2024010105, 2024010109, "old", 2024010105),  # the same file as before: the updates go on from there
        (2024010105, 2024010101, "new", 2024010106),
        (2024010105, None, "new", 2024010106),
        (MAX_SERIAL - 1, 2, "new", 2024010101),  # it has gone round (RFC 1982)
        (None, 2024010103, "new", 2024010104),  # a zone that was away and comes back
    ],
)
def test_a_changed_zone_goes_beyond_its_updates(
    known: int | None, served: int | None, content: str, serial: int
) -> None:
    before = {} if known is None else {"z": (known, hashlib.sha256(b"old").hexdigest())}
    assert with_serial("z", lambda _: content, before, date(2024, 1, 1), served)[1][0] == serial


def test_a_forgotten_zone_starts_anew() -> None:
    _, (serial, digest) = with_serial("z", lambda number: f"serial {number}", {}, date(2030, 12, 31))
    assert serial == 2030123101
    assert digest == hashlib.sha256(b"serial 0").hexdigest()


# ---------------------------------------------------------------- records


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_spec_knows_which_records_are_generated(name: str) -> None:
    stack = example(name)
    for domain in stack.domains:
        children = [other for other in stack.domains if other.endswith(f".{domain}")]
        plain = stack.domains[domain].model_copy(update={"records": ()})
        bare = stack.model_copy(update={"domains": stack.domains | {domain: plain}})
        made: dict[str, set[str]] = {domain: {"SOA"}}
        site = stack_site(stack)
        for record in domain_records(bare, site, domain):
            if not any(record.owner.endswith(child) for child in children):
                made.setdefault(record.owner, set()).add(record.type)
        expected = {
            owner: kinds for owner, kinds in generated_owners(stack, domain).items() if not _host(owner)
        }
        gives_way = re.compile(
            r"(_dmarc|autoconfig|autodiscover|_mta-sts|mta-sts|_smtp\._tls|_\d+\._tcp\..*)\Z"
        )
        for owner in [owner for owner in made if gives_way.match(owner.removesuffix(f".{domain}"))]:
            del made[owner]
        made[domain].remove("CAA")
        absent = {record.owner for record in domain_records(bare, site, domain) if record.data == "0 0 0 ."}
        assert expected == {owner: kinds for owner, kinds in made.items() if owner not in absent}


def _host(owner: str) -> bool:
    return re.match(r"host-\d+\.", owner) is not None


def test_a_published_address_stands_for_every_service_at_its_standard_port() -> None:
    stack = loads("domains: {example.test: {address: 192.0.2.1, users: {anna: {password: x}}}}")
    site = stack_site(stack)
    site = replace(site, reachable={name: Listener("127.0.0.1", 40000) for name in site.reachable})
    assert records(stack, "A", site) == [
        f"{host}.example.test 192.0.2.1" for host in ("mail", "dns", "imap", "pop3")
    ]
    assert "_imaps._tcp.example.test 0 1 993 imap.example.test." in records(stack, "SRV", site)


def test_without_one_the_zone_names_where_the_services_are() -> None:
    stack = loads(SMALL)
    assert records(stack, "A") == [
        "mail.example.test 127.90.12.3",
        "dns.example.test 127.90.12.2",
        "imap.example.test 127.90.12.4",
        "pop3.example.test 127.90.12.4",
    ]
    site = stack_site(stack)
    site = replace(site, reachable={name: Listener("127.0.0.1", 40000) for name in site.reachable})
    assert "mail.example.test 127.0.0.1" in records(stack, "A", site)
    assert "_submission._tcp.example.test 10 1 40000 mail.example.test." in records(stack, "SRV", site)
    site = replace(site, reachable={name: Listener("0.0.0.0", 40000) for name in site.reachable})
    assert "mail.example.test 127.90.12.3" in records(stack, "A", site)


def test_what_is_not_offered_has_no_record() -> None:
    stack = loads(
        SMALL + "mailbox: {protocols: [imap, lmtp], allow_plaintext_auth: true}\ntls: {mode: off}\n"
    )
    assert [line for line in records(stack, "SRV") if not line.endswith(" 0 0 0 .")] == [
        "_submission._tcp.example.test 10 1 587 mail.example.test.",
        "_imap._tcp.example.test 10 1 143 imap.example.test.",
    ]
    none = [line.split(".")[0] for line in records(stack, "SRV") if line.endswith(" 0 0 0 .")]
    assert none == ["_submissions", "_imaps", "_pop3", "_pop3s"]
    assert not any(line.startswith("pop3.") for line in records(stack, "A"))
    assert records(stack, "TLSA") == []
    assert not any("mta-sts" in line or "_tls" in line for line in records(stack, "TXT"))


def test_an_spf_record_of_ones_own_replaces_ours() -> None:
    stack = loads("domains: {a.test: {users: {x: {password: y}}, records: ['@ TXT \"v=spf1 -all\"']}}")
    assert [line for line in records(stack, "TXT") if line.startswith("a.test ")] == ['a.test "v=spf1 -all"']


OWN = """\
domains:
  a.test:
    address: 192.0.2.1
    address6: 2001:db8::1
    dmarc: reject
    mta_sts: enforce
    reports: reports@elsewhere.example
    caa: [letsencrypt.org]
    users: {x: {password: y}}
"""


def test_what_a_domain_says_of_itself() -> None:
    stack = loads(OWN)
    site = stack_site(stack)
    site = replace(
        site, facts=Facts(key_digest="ab" * 32, dkim={("a.test", "s1"): "v=DKIM1; k=ed25519; p=AA=="})
    )
    texts = records(stack, "TXT", site)
    for wanted in (
        '_dmarc.a.test "v=DMARC1; p=reject; rua=mailto:reports@elsewhere.example"',
        '_smtp._tls.a.test "v=TLSRPTv1; rua=mailto:reports@elsewhere.example"',
        's1._domainkey.a.test "v=DKIM1; k=ed25519; p=AA=="',
    ):
        assert wanted in texts
    assert records(stack, "CAA", site) == [
        'a.test 0 issue "letsencrypt.org"', 'a.test 0 iodef "mailto:reports@elsewhere.example"',
    ]  # fmt: skip
    assert "mail.a.test 2001:db8::1" in records(stack, "AAAA", site)
    assert [line.split()[0] for line in records(stack, "TLSA", site)] == [
        "_25._tcp.mail.a.test", "_587._tcp.mail.a.test", "_465._tcp.mail.a.test", "_143._tcp.imap.a.test",
        "_993._tcp.imap.a.test", "_110._tcp.pop3.a.test", "_995._tcp.pop3.a.test",
    ]  # fmt: skip
    assert (
        mta_sts_policy(stack, "a.test") == "version: STSv1\nmode: enforce\nmx: mail.a.test\nmax_age: 604800\n"
    )


def test_the_id_of_the_policy_changes_with_the_policy() -> None:
    def policy(text: str) -> str:
        return next(line for line in records(loads(text), "TXT") if line.startswith("_mta-sts."))

    assert policy(OWN) == policy(OWN.replace("reject", "none"))
    assert policy(OWN) != policy(OWN.replace("enforce", "testing"))
    assert policy(OWN) != policy(OWN + "    records: ['@ MX 20 mx2.elsewhere.example.']\n")


@pytest.mark.parametrize(
    ("line", "kind", "gone"),
    [
        ('_dmarc IN TXT "v=DMARC1; p=none"', "TXT", "_dmarc.a.test"),
        ("_dmarc IN CNAME a.test.dmarc.example.", "TXT", "_dmarc.a.test"),
        ('_mta-sts IN TXT "v=STSv1; id=1;"', "TXT", "_mta-sts.a.test"),
        ("mta-sts IN A 192.0.2.2", "CNAME", "mta-sts.a.test"),
        ("autoconfig IN A 192.0.2.2", "CNAME", "autoconfig.a.test"),
        ('@ IN CAA 0 issue "other.example"', "CAA", "a.test"),
        ("_25._tcp.mail IN TLSA 2 1 1 " + "00" * 32, "TLSA", "_25._tcp.mail.a.test"),
    ],
)
def test_a_record_of_ones_own_replaces_ours(line: str, kind: str, gone: str) -> None:
    stack = loads(f"{OWN}    records: ['{line}']\n")
    there = [record for record in records(stack, kind) if record.split()[0] == gone]
    assert len(there) == (line.split()[2] == kind)


def test_a_zone_below_is_delegated_with_its_address() -> None:
    stack = example("two-domains")
    found = domain_records(stack, stack_site(stack), "alpha.test")
    assert Record("lab.alpha.test", "NS", "dns.lab.alpha.test.") in found
    assert Record("dns.lab.alpha.test", "A", "127.90.12.2") in found
    assert not any(record.owner == "mail.lab.alpha.test" for record in found)


def test_a_record_can_be_shown_as_a_line_and_as_data() -> None:
    record = Record("www.x.test", "A", "192.0.2.1", 60)
    assert record.zone_form() == "www.x.test. 60 IN A 192.0.2.1"
    assert record.as_json() == {"owner": "www.x.test", "type": "A", "data": "192.0.2.1", "ttl": 60}


@pytest.mark.parametrize(
    ("network", "zone", "named", "runs"),
    [
        ("172.28.5.0/24", "5.28.172.in-addr.arpa", [2, 3, 4], [(1, 1), (5, 254)]),
        ("10.1.2.64/29", "2.1.10.in-addr.arpa", [66, 67, 68], [(65, 65), (69, 70)]),
        ("10.1.2.64/29", "2.1.10.in-addr.arpa", range(65, 71), []),
    ],
)
def test_every_address_of_the_network_has_a_name(
    network: str, zone: str, named: Sequence[int], runs: list[tuple[int, int]]
) -> None:
    net = IPv4Network(network)
    base = int(net.network_address) & ~0xFF
    assert reverse_zone(net) == zone
    assert ranges(net, {IPv4Address(base + last) for last in named}) == runs


# ---------------------------------------------------------------- postfix


def test_a_parameter_of_the_spec_stands_once() -> None:
    stack = loads(
        SMALL + "mta: {postfix: {smtpd_banner: 'Hi $myhostname', queue_run_delay: 1m, soft_bounce: true}}\n"
    )
    values = main_cf(stack)
    assert values["smtpd_banner"] == "Hi $myhostname"
    assert values["queue_run_delay"] == "1m"
    assert values["soft_bounce"] == "yes"
    content = text(render(stack, stack_site(stack)), "postfix/main.cf")
    assert content.count("\nsmtpd_banner =") == content.count("\nqueue_run_delay =") == 1


@pytest.mark.parametrize(
    ("extra", "values"),
    [
        ("", {"smtpd_tls_auth_only": "yes", "mailbox_transport": "lmtp:inet:127.90.12.4:24", "relayhost": ""}),
        ("mailbox: {delivery: maildir}", {"mailbox_transport": "virtual", "virtual_transport": "virtual"}),
        ("mailbox: {allow_plaintext_auth: true}", {"smtpd_tls_auth_only": "no"}),
        ("mta: {relayhost: '[a.test]:25', relay_domains: [b.test, c.test]}",
         {"relayhost": "[a.test]:25", "relay_domains": "b.test, c.test"}),
        ("sasl: {backend: saslauthd}", {"smtpd_sasl_type": "cyrus", "smtpd_sasl_path": "smtpd",
                                        "cyrus_sasl_config_path": "/srv/mailstack/rendered/sasl"}),
        ("mta: {queue: {minimal_backoff: 10s, maximal_backoff: 90s, lifetime: 36h, active_limit: 7}}",
         {"minimal_backoff_time": "10s", "maximal_backoff_time": "90s", "maximal_queue_lifetime": "36h",
          "queue_run_delay": "10s", "qmgr_message_active_limit": "7"}),
    ],
)  # fmt: skip
def test_the_spec_decides_parameters(extra: str, values: dict[str, str]) -> None:
    found = main_cf(loads(SMALL + extra + "\n"))
    assert {name: found[name] for name in values} == values


def test_workers_are_a_number_or_the_mtas_own_default() -> None:
    for stack, site, workers in (
        (loads(SMALL), None, "2"),
        (loads(SMALL + "mta: {workers: 5}\n"), None, "5"),
        (loads(SMALL), host_site(loads(SMALL), Path("/etc")), "-"),
    ):
        content = text(render(stack, site or stack_site(stack)), "postfix/master.cf")
        assert {line.split()[6] for line in content.splitlines() if line.endswith(" smtpd")} == {workers}


def test_the_postmaster_is_somebody() -> None:
    stack = loads("domains: {a.test: {users: {x: {password: y}}}, b.test: {aliases: {z: [x@a.test]}}}")
    tree = render(stack, stack_site(stack))
    assert "\npostmaster: x@a.test\n" in text(tree, "postfix/aliases")
    assert "\npostmaster@b.test\tpostmaster@a.test\n" in text(tree, "postfix/virtual")


# ---------------------------------------------------------------- dovecot


def users(tree: Tree) -> dict[str, list[str]]:
    lines = [line for line in text(tree, "dovecot/users").splitlines() if not line.startswith("#")]
    return {fields[0]: fields for fields in (line.split(":") for line in lines)}


def test_passwords_are_hashes_that_verify() -> None:
    stack = loads("domains: {a.test: {users: {x: {password: 'grün'}, y: {password: 'grün'}}}}")
    site = stack_site(stack)
    found = users(render(stack, site))
    for fields in found.values():
        match = re.fullmatch(r"\{PBKDF2\}\$1\$([0-9a-f]{16})\$5000\$([0-9a-f]{40})", fields[1])
        assert match is not None
        assert hashlib.pbkdf2_hmac("sha1", "grün".encode(), match[1].encode(), 5000, 20).hex() == match[2]
    assert found["x@a.test"][1] != found["y@a.test"][1], "two users with one password have two salts"
    assert found == users(render(stack, site))
    assert found != users(render(stack, replace(site, salt_secret=b"another project")))
    assert found["x@a.test"][5] == "/srv/mailstack/mail/a.test/x"


def test_a_user_without_password_is_an_error() -> None:
    stack = loads(SMALL)
    with pytest.raises(RenderError, match="no password for anna@example"):
        render(stack, replace(stack_site(stack), passwords={}))


def test_listeners_have_their_address_port_and_tls() -> None:
    stack = loads(SMALL + "mailbox: {protocols: [imap, lmtp]}\n")
    content = text(render(stack, stack_site(stack)), "dovecot/conf.d/10-master.conf")
    words = " ".join(content.split())
    assert "inet_listener imaps { address = 127.90.12.4 port = 993 ssl = yes }" in words
    assert "inet_listener imaps_2 { address = 127.0.0.1 port = 40030 ssl = yes }" in words
    assert "pop3" not in words
    off = loads(SMALL + "mailbox: {allow_plaintext_auth: true}\ntls: {mode: off}\n")
    words = " ".join(text(render(off, stack_site(off)), "dovecot/conf.d/10-master.conf").split())
    assert "inet_listener imaps { port = 0 }" in words


# ---------------------------------------------------------------- sites


def test_addresses_are_counted_from_the_network() -> None:
    found = Addresses.in_network(IPv4Network("172.28.77.64/29"))
    assert (found.gateway, found.dns, found.mta, found.mailbox) == tuple(
        IPv4Address(f"172.28.77.{last}") for last in (65, 66, 67, 68)
    )


@pytest.mark.parametrize(
    "path", ["relative", "/a b", "/a\nb", "/a,b", "/a;b", "/$a", "/%a", '/"a', "/a:b", "/{a}", "/a#"]
)
def test_a_path_that_files_cannot_hold_is_refused(path: str) -> None:
    stack = loads(SMALL)
    with pytest.raises(RenderError, match="cannot stand in configuration files"):
        stack_site(stack, PurePosixPath(path))


def test_tls_needs_a_certificate() -> None:
    stack = loads(SMALL)
    with pytest.raises(RenderError, match="no certificate"):
        render(stack, replace(stack_site(stack), tls_cert=None))


def test_the_hosts_site_has_standard_ports_and_hides_lmtp() -> None:
    site = host_site(loads(SMALL), Path("/etc"))
    expected: dict[str, Any] = {
        "smtp": ("", 25),
        "imaps": ("", 993),
        "dns": ("", 53),
        "lmtp": ("127.0.0.1", 24),
    }
    for name, (address, port) in expected.items():
        assert site.listening(name) == (Listener(address, port),)  # type: ignore[arg-type]
    assert str(site.client_socket) == "/var/spool/postfix/private/auth"


def test_the_digest_tells_trees_apart() -> None:
    stack = loads(SMALL)
    site = stack_site(stack)
    digests = {
        render(stack, site).digest,
        render(stack, replace(site, workers=3)).digest,
        render(loads(SMALL + "dns: {ttl: 1h}\n"), site).digest,
    }
    assert len(digests) == 3


# ---------------------------------------------------------------- Postfix itself


def test_a_stacks_own_postfix_needs_nothing_outside_its_queue_directory() -> None:
    stack = loads(SMALL + "mta: {engine: postfix}\n")
    site = replace(stack_site(stack), relay=IPv4Address("127.90.12.3"))
    settings = main_cf(stack, site)
    assert (settings["smtpd_sasl_path"], settings["data_directory"]) == ("private/auth", "lib")
    assert "texthash:" not in " ".join(settings.values())
    tree = render(stack, site)
    services = {
        line.split()[-1]: line.split()[4]
        for line in text(tree, "postfix/master.cf").splitlines()
        if line and line[0] not in "# "
    }
    assert (services["smtpd"], services["smtp"], services["lmtp"]) == ("y", "y", "n")
    assert "postlogd" not in services
    assert 'relay = "127.90.12.3"' in text(tree, "postfix/mailstack.toml")
    # On an administrator's machine it is a Postfix like any other.
    assert main_cf(stack, host_site(stack, Path("/etc/mailstack"))) == main_cf(
        loads(SMALL), host_site(loads(SMALL), Path("/etc/mailstack"))
    )
