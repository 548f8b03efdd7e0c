"""Specs that are right: defaults, canonical values, YAML as YAML 1.2 has it, and files as they are found."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from mailstack.spec import SpecErrors, Stack, load, loads
from mailstack.spec.fields import duration, duration_text, slug
from mailstack.spec.schema import json_schema
from mailstack.spec.yaml_nodes import parse, resolve
from tests.golden.trees import EXAMPLES, REPOSITORY

SMALL = "domains: {example.test: {users: {anna: {}}}}\n"


def test_defaults_are_those_of_the_manual() -> None:
    stack = loads(SMALL)
    assert stack.domains["example.test"].hostname == "mail.example.test"
    assert stack.domains["example.test"].address is None
    assert stack.mta.networks == ("127.0.0.0/8",)
    assert stack.mta.message_size_limit == 50 * 1024 * 1024
    assert stack.mta.workers == "auto"
    queue = stack.mta.queue
    assert (queue.minimal_backoff, queue.maximal_backoff, queue.lifetime, queue.active_limit) == (
        300, 4000, 432000, 20000,
    )  # fmt: skip
    assert stack.mailbox.protocols == ("imap", "pop3", "lmtp")
    assert (stack.mailbox.delivery, stack.mailbox.allow_plaintext_auth) == ("lmtp", False)
    assert (stack.dns.ttl, stack.dns.forward) == (86400, ())
    assert (stack.sasl.mechanisms, stack.sasl.backend) == (("plain", "login"), "dovecot")
    assert (stack.tls.mode, stack.network.subnet, stack.network.publish) == ("ca", "auto", "auto")
    assert stack.network.bind == IPv4Address("127.0.0.1")
    assert (stack.primary, stack.first_user) == ("example.test", "anna@example.test")


def test_values_become_canonical() -> None:
    stack = loads("""\
domains:
  Bücher.TEST.:
    users: {anna: , otto: {password: "123"}}
    aliases: {info: anna, far: [X.Y+z@EXAMPLE.org]}
    address: 192.0.2.1
mta:
  networks: [10.0.0.1, "::1", "[fd00::]/8"]
  relayhost: 192.0.2.9:587
  message_size_limit: 1GiB
  queue: {maximal_backoff: 2w, lifetime: 3w}
  postfix: {smtpd_helo_required: true, smtpd_recipient_limit: 50, smtpd_timeout: 10s}
dns: {forward: [9.9.9.9, "2001:db8::1", "[2001:db8::1]:5353"]}
network: {subnet: 10.1.2.64/26, publish: {smtp: 2525}}
tls: {mode: files, cert: a.pem, key: /b.pem}
""")
    domain = stack.domains["xn--bcher-kva.test"]
    assert domain.hostname == "mail.xn--bcher-kva.test"
    assert domain.aliases == {"info": ("anna",), "far": ("X.Y+z@example.org",)}
    assert list(domain.users) == ["anna", "otto"]
    assert stack.mta.networks == ("10.0.0.1/32", "[::1]/128", "[fd00::]/8")
    assert stack.mta.relayhost == "[192.0.2.9]:587"
    assert stack.mta.message_size_limit == 1 << 30
    assert stack.mta.queue.maximal_backoff == 14 * 86400
    assert stack.mta.postfix == {
        "smtpd_helo_required": "yes", "smtpd_recipient_limit": "50", "smtpd_timeout": "10s",
    }  # fmt: skip
    assert stack.dns.forward == ("9.9.9.9:53", "[2001:db8::1]:53", "[2001:db8::1]:5353")
    assert stack.network.subnet == IPv4Network("10.1.2.64/26")
    assert stack.network.publish == {"smtp": 2525}


def test_a_stack_cannot_be_changed_and_hides_its_passwords() -> None:
    stack = loads("domains: {example.test: {users: {anna: {password: 'very secret'}}}}")
    with pytest.raises(ValueError, match="frozen"):
        stack.mta.engine = "python"
    assert "very secret" not in repr(stack)


def test_a_wrong_password_is_not_shown_in_a_problem() -> None:
    with pytest.raises(SpecErrors) as caught:
        loads('domains: {example.test: {users: {anna: {password: "very secret\\n"}}}}')
    assert "very secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"), ("no", "no"), ("yes", "yes"), ("on", "on"), ("y", "y"), ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"), ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("12", 12), ("-3", -3), ("0123", 123), ("0o17", 15), ("0x1F", 31), ("0b1", "0b1"), ("1_000", "1_000"),
        ("1.5", 1.5), ("1e3", 1000.0), (".5", 0.5), (".inf", float("inf")), ("1.2.3", "1.2.3"), ("=", "="),
        ("9" * 41, 1e41),
    ],
)  # fmt: skip
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    assert resolve(text) == value
    assert type(resolve(text)) is type(value)


def test_anchors_and_quotes_work() -> None:
    document = parse("a: &x {k: 'off', l: \"1\", m: !!str 5}\nb: *x\n")
    assert document.value == {"a": {"k": "off", "l": "1", "m": "5"}, "b": {"k": "off", "l": "1", "m": "5"}}


def test_a_file_names_its_project_and_its_files_from_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "Mein Stack (2)"
    folder.mkdir()
    file = folder / "mailstack.yaml"
    file.write_text(
        "domains: {example.test: {users: {anna: {password_file: s/anna}, otto: {password_file: /etc/otto}}}}\n"
        "tls: {mode: files, cert: c.pem, key: k.pem}\n"
    )
    stack = load(file)
    assert stack.project == "mein-stack-2"
    users = stack.domains["example.test"].users
    assert users["anna"].password_file == folder / "s" / "anna"
    assert users["otto"].password_file == Path("/etc/otto")
    assert (stack.tls.cert, stack.tls.key) == (folder / "c.pem", folder / "k.pem")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\xef\xbb\xbf" + SMALL.encode(), None),
        (SMALL.replace("\n", "\r\n").encode(), None),
        (SMALL.encode() + b"x: \xff\n", ":2:4: is not UTF-8 text here"),
        (b"# " + b"x" * (1 << 20), ":1:1: the file is larger than 1 MiB"),
        (b"\0", ":1:1: the character U+0000"),
    ],
)
def test_files_as_they_are_found(tmp_path: Path, data: bytes, problem: str | None) -> None:
    file = tmp_path / "mailstack.yaml"
    file.write_bytes(data)
    if problem is None:
        assert load(file).primary == "example.test"
    else:
        with pytest.raises(SpecErrors) as caught:
            load(file)
        assert f"{file}{problem}" in str(caught.value)


def test_durations_read_as_they_are_written() -> None:
    for text in ("30s", "5m", "4h", "1d", "2w", "4000s"):
        assert duration_text(duration(text)) == text


@pytest.mark.parametrize(("folder", "name"), [("My Stack!", "my-stack"), ("日本", ""), ("a" * 60, "a" * 40)])
def test_folder_names_become_project_names(folder: str, name: str) -> None:
    assert slug(folder) == name


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_right(name: str) -> None:
    assert isinstance(load(REPOSITORY / "examples" / name / "mailstack.yaml"), Stack)


def test_the_schema_describes_every_key() -> None:
    schema = json_schema()
    json.dumps(schema)
    assert schema["$schema"].endswith("2020-12/schema")
    assert schema["required"] == ["domains"]

    def undescribed(node: dict[str, Any], place: str) -> list[str]:
        found = []
        for name, field in node.get("properties", {}).items():
            if not isinstance(field, dict) or set(field) == {"type", "minimum", "maximum"}:
                continue  # a port of `publish`, described as a whole
            if "description" not in field and "$ref" not in field:
                found.append(f"{place}.{name}")
        return found

    assert [
        line for place, node in [("", schema), *schema["$defs"].items()] for line in undescribed(node, place)
    ] == []
    assert all(node.get("additionalProperties") is False for node in schema["$defs"].values())
