"""The life of a stack, the same in both runtimes: up, nothing to do, a change, a crash, down."""

from __future__ import annotations

import imaplib
import os
import signal
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Callable

import pytest

from mailstack.runtime.api import Project, doctor_checks
from mailstack.runtime.errors import NoSuchProject, PortTaken
from mailstack.runtime.model import Endpoints
from tests.integration.conftest import SPEC, Projects, everything_of


def pids(project: Project) -> dict[str, int | None]:
    return {service.service: service.pid for service in project.status().services}


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def deliver(where: Endpoints, subject: str, recipient: str = "") -> None:
    """Send a message to the first user, or somebody else, as a mail client would."""
    context = ssl.create_default_context(cafile=where.ca_file)
    with smtplib.SMTP(where.host, where.ports["submission"], timeout=20) as client:
        client.starttls(context=context)
        client.login(where.user, where.password)
        client.sendmail(where.user, [recipient or where.user], f"Subject: {subject}\r\n\r\nhello\r\n")


def subjects(where: Endpoints, user: str = "") -> list[str]:
    """The subjects in the first user's INBOX, or somebody else's."""
    context = ssl.create_default_context(cafile=where.ca_file)
    with imaplib.IMAP4_SSL(where.host, where.ports["imaps"], ssl_context=context, timeout=20) as client:
        client.login(user or where.user, where.users[user or where.user])
        _, (count, *_) = client.select("INBOX", readonly=True)
        if count == b"0":
            return []
        _, data = client.fetch("1:*", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
        return [item[1].decode().strip().partition(": ")[2] for item in data if isinstance(item, tuple)]


def test_life(projects: Projects) -> None:
    project = projects.open()
    seen: list[str] = []
    done = project.up(lambda event: seen.append(event.stage))
    assert (done.status.health, done.plan.runtime) == ("ready", projects.runtime)
    assert {"choose", "step", "ready"} <= set(seen)
    first = pids(project)
    assert all(first.values())

    # again: nothing to do, by another command
    again = projects.open(text=None)
    assert again.plan().steps == ()
    result = again.up()
    assert (result.plan.steps, result.status.health) == ((), "ready")
    assert pids(again) == first

    # it can be found without its spec, and says the same
    env = again.env()
    assert env == result.status.env
    assert env["MAILSTACK_USER"] == "zs@alpha.test"
    assert env["MAILSTACK_PASSWORD"] == "secret"
    assert again.endpoints().users["anna@alpha.test"] == project.endpoints().users["anna@alpha.test"] != ""
    assert again.queue() == []
    assert {line.service for line in again.logs()} >= {"dns", "mailbox", "mta"}
    assert list(again.logs(("mta",), since=-3600)) == []
    assert all(
        check.level == "pass" for check in doctor_checks(again) if check.name in ("dns", "mailbox", "mta")
    )

    # an alias: only the MTA takes notice
    changed = projects.open(text=SPEC.replace("[zs]", "[anna]"))
    assert [str(step) for step in changed.plan().steps] == [
        "write configuration: postfix/aliases",
        "reload mta: postfix/aliases changed",
    ]
    changed.up()
    assert pids(changed) == first
    assert b"anna" in changed.rendered()["postfix/aliases"]

    # a main.cf parameter: only the MTA starts again
    banner = SPEC.replace("[zs]", "[anna]") + "mta: {postfix: {smtpd_banner: $myhostname hello}}\n"
    projects.open(text=banner).up()
    after = pids(project)
    assert after["mta"] != first["mta"]
    assert (after["dns"], after["mailbox"]) == (first["dns"], first["mailbox"])
    where = project.endpoints()
    with socket.create_connection((where.host, where.ports["smtp"]), timeout=10) as connection:
        assert connection.recv(100) == b"220 mail.alpha.test hello\r\n"

    project.down(volumes=True)
    assert everything_of(project) == []
    with pytest.raises(NoSuchProject):
        project.env()


def test_mail_and_ports_outlive_down(projects: Projects) -> None:
    project = projects.open()
    project.up()
    before = project.endpoints()
    deliver(before, "kept")
    until(lambda: subjects(before) == ["kept"])
    project.down()
    assert project.status().runtime is None
    projects.open().up()
    after = project.endpoints()
    assert after.ports == before.ports
    assert subjects(after) == ["kept"]


def test_killed_service_comes_back(projects: Projects) -> None:
    project = projects.open()
    project.up()
    pid = pids(project)["mailbox"]
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: pids(project)["mailbox"] not in (None, 0, pid) and project.status().ready)
    assert next(s for s in project.status().services if s.service == "mailbox").restarts >= 1


def test_what_is_added_is_there_when_up_returns(projects: Projects) -> None:
    """Not a second later, and not only to half of the MTA: no mail is refused or bounced."""
    text = "domains: {{alpha.test: {{users: {{anna: {{password: secret}}{more}}}, aliases: {{info: [{info}]}}}}}}"
    project = projects.open(text=text.format(more="", info="anna"))
    try:
        project.up()
        for number in range(3):
            more = f", user{number}: {{password: pw}}"
            projects.open(text=text.format(more=more, info=f"user{number}")).up()
            where = project.endpoints()
            deliver(where, "straight", f"user{number}@alpha.test")
            deliver(where, "alias", "info@alpha.test")
            until(lambda: sorted(subjects(where, f"user{number}@alpha.test")) == ["alias", "straight"])  # noqa: B023
    finally:
        project.down(volumes=True)


def test_mail_goes_on_while_tables_change(projects: Projects) -> None:
    """Whoever reads a table finds the old one or the new one, never none or a part of one."""
    text = "domains: {{alpha.test: {{users: {{anna: {{password: secret}}}}, aliases: {{{aliases}}}}}}}"
    project = projects.open(text=text.format(aliases="a0: [anna]"))
    sent, wrong, enough = [0], [], threading.Event()

    def send(where: Endpoints) -> None:
        with smtplib.SMTP(where.host, where.ports["smtp"], timeout=30) as client:
            while not enough.is_set():
                try:
                    client.sendmail("x@elsewhere.example", ["a0@alpha.test"], "Subject: x\r\n\r\nx\r\n")
                    sent[0] += 1
                except smtplib.SMTPException as error:
                    wrong.append(error)

    try:
        project.up()
        where = project.endpoints()
        sender = threading.Thread(target=send, args=(where,))
        sender.start()
        try:
            for number in range(1, 6):
                aliases = ", ".join(f"a{one}: [anna]" for one in range(number + 1))
                projects.open(text=text.format(aliases=aliases)).up()
        finally:
            enough.set()
            sender.join()
        assert wrong == []
        until(lambda: len(subjects(where)) == sent[0], 60)
        assert project.queue() == []
    finally:
        project.down(volumes=True)


def test_two_side_by_side(projects: Projects) -> None:
    one, two = projects.open("one"), projects.open("two", SPEC.replace("alpha", "beta"))
    one.up()
    two.up()
    first, second = one.endpoints(), two.endpoints()
    assert set(first.ports.values()).isdisjoint(second.ports.values())
    assert first.network != second.network
    assert set(first.addresses.values()).isdisjoint(second.addresses.values())
    one.down(volumes=True)
    assert two.status().ready
    assert everything_of(one) == []


def test_taken_port_is_named_and_nothing_is_left(projects: Projects) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        project = projects.open(text=SPEC + f"network: {{publish: {{imap: {port}}}}}\n")
        with pytest.raises(PortTaken) as caught:
            project.up()
    assert f"pid {os.getpid()}" in str(caught.value)
    assert caught.value.status == 4
    assert everything_of(project) == []


def test_update_that_cannot_be_keeps_the_stack(projects: Projects) -> None:
    project = projects.open()
    project.up()
    first = pids(project)
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(PortTaken):
            projects.open(text=SPEC + f"network: {{publish: {{imap: {port}}}}}\n").up()
    assert project.status().ready
    assert pids(project) == first
    # and the old spec is still what runs
    assert projects.open().plan().steps == ()


def test_stack_without_tls_and_pop3(projects: Projects) -> None:
    project = projects.open(
        text=SPEC + "tls: {mode: off}\nmailbox: {protocols: [imap, lmtp], allow_plaintext_auth: true}\n"
    )
    project.up()
    where = project.endpoints()
    assert (where.tls, where.ca_file) == (False, None)
    assert set(where.ports) == {"smtp", "submission", "lmtp", "imap", "dns"}
    assert "MAILSTACK_IMAPS_PORT" not in project.env()


def test_the_other_ways_between_the_services(projects: Projects) -> None:
    """Maildirs that both see instead of LMTP, saslauthd instead of Dovecot's authentication protocol."""
    project = projects.open(text=SPEC + "mailbox: {delivery: maildir}\nsasl: {backend: saslauthd}\n")
    project.up()
    where = project.endpoints()
    deliver(where, "by another way")
    until(lambda: subjects(where) == ["by another way"])
