"""The plan is a pure comparison: what is there, what is wanted, and the steps with their reasons."""

from __future__ import annotations

import pytest

from mailstack.runtime.model import SERVICES, RuntimeKind, ServiceKey
from mailstack.runtime.plan import Found, FoundService, Wanted, files_of, make_plan
from mailstack.runtime.state import Deployed

TREE = {
    "bind/named.conf": "1", "bind/zones/a.test.zone": "1", "dovecot/dovecot.conf": "1", "dovecot/users": "1",
    "postfix/main.cf": "1", "postfix/aliases": "1", "sasl/smtpd.conf": "1", "tls/cert.pem": "1",
}  # fmt: skip
FRAME = ("network n", "volume mail")


def wanted(kind: RuntimeKind, changes: dict[str, str] | None = None, image: str = "i1") -> Wanted:
    tree = TREE | (changes or {})
    services = {name: Deployed({"image": image}, files_of(name, tree)) for name in SERVICES}
    return Wanted(kind, services, FRAME if kind == "docker" else ())


def found(kind: RuntimeKind, **conditions: str) -> Found:
    services = {
        name: FoundService(conditions.get(name, "running"), wanted(kind).services[name])  # type: ignore[arg-type]
        for name in SERVICES
    }
    return Found(services, frozenset(wanted(kind).frame))


@pytest.mark.parametrize(
    ("kind", "want", "have", "steps"),
    [
        (
            "process", wanted("process"), Found(),
            ["write configuration: first time", "start dns: not there yet", "start mailbox: not there yet",
             "start mta: not there yet"],
        ),
        (
            "docker", wanted("docker"), Found(),
            ["create network n: not there yet",
             "create volume mail: not there yet", "write configuration: first time",
             "create dns: not there yet", "create mailbox: not there yet", "create mta: not there yet"],
        ),
        ("process", wanted("process"), found("process"), []),
        ("docker", wanted("docker"), found("docker"), []),
        (
            "process", wanted("process", {"postfix/aliases": "2"}), found("process"),
            ["write configuration: postfix/aliases", "reload mta: postfix/aliases changed"],
        ),
        (
            "process", wanted("process", {"postfix/aliases": "2", "postfix/main.cf": "2"}), found("process"),
            ["write configuration: postfix/aliases and postfix/main.cf",
             "restart mta: postfix/main.cf changed"],
        ),
        (
            "docker", wanted("docker", {"postfix/main.cf": "2"}), found("docker"),
            ["write configuration: postfix/main.cf", "recreate mta: postfix/main.cf changed"],
        ),
        (
            "process", wanted("process", {"bind/zones/b.test.zone": "1"}), found("process"),
            ["write configuration: bind/zones/b.test.zone", "reload dns: bind/zones/b.test.zone changed"],
        ),
        (
            "process", wanted("process", {"tls/cert.pem": "2"}), found("process"),
            ["write configuration: tls/cert.pem", "restart mailbox: tls/cert.pem changed",
             "restart mta: tls/cert.pem changed"],
        ),
        (
            "docker", wanted("docker", image="i2"), found("docker"),
            [f"recreate {name}: image changed" for name in SERVICES],
        ),
        ("process", wanted("process"), found("process", mta="stopped"), ["start mta: it was not running"]),
        (
            "docker", wanted("docker"), found("docker", dns="missing"), ["create dns: not there yet"],
        ),
    ],
)  # fmt: skip
def test_steps(kind: RuntimeKind, want: Wanted, have: Found, steps: list[str]) -> None:
    assert [str(step) for step in make_plan(want, have)] == steps


def test_network_that_does_not_fit_takes_its_containers_with_it() -> None:
    have = found("docker")
    unfit = Found(have.services, have.frame, {"network n": "its subnet is 10.0.0.0/24"}, ("container old",))
    assert [str(step) for step in make_plan(wanted("docker"), unfit)] == [
        "remove container old: left over",
        "remove network n: its subnet is 10.0.0.0/24",
        "create network n: its subnet is 10.0.0.0/24",
        *(f"recreate {name}: network n is made anew" for name in SERVICES),
    ]


def test_service_of_unknown_origin_is_started_again() -> None:
    services: dict[ServiceKey, FoundService] = {name: FoundService("running") for name in SERVICES}
    steps = make_plan(wanted("process"), Found(services))
    assert [(step.action, step.target) for step in steps] == [
        ("write", "configuration"), ("restart", "dns"), ("restart", "mailbox"), ("restart", "mta"),
    ]  # fmt: skip
