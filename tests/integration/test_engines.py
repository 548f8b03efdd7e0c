"""Debian's named, Dovecot and Postfix in the place of our services: `engine: bind`, `dovecot`, `postfix`."""

from __future__ import annotations

import os
import poplib
import shutil
import signal
import smtplib
import ssl
import time
from functools import partial
from pathlib import Path

import pytest

from mailstack.client import dns
from mailstack.client.errors import ClientError
from mailstack.runtime.api import Project
from mailstack.runtime.errors import MachineLacks, NotReady, RuntimeFailure
from mailstack.runtime.model import Endpoints
from tests.integration.conftest import Projects
from tests.integration.test_dns import asked, endpoints
from tests.integration.test_life import deliver, subjects, until

SPEC = """\
domains:
  alpha.test:
    users: {{anna: {{password: secret}}}}
    records: ["www IN A 192.0.2.{octet}"]
  beta.test:
    users: {{bela: {{password: secret}}}}
dns: {{engine: {engine}, dnssec: {signed}}}
"""
PATIENCE = 60


@pytest.fixture
def projects(tmp_path: Path) -> Projects:
    return Projects(tmp_path, "process")


def text(engine: str = "bind", octet: int = 1, *, signed: bool = False) -> str:
    return SPEC.format(engine=engine, octet=octet, signed=str(signed).lower())


def running(project: Project, program: str) -> list[int]:
    """Process ids of the project's `program`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"/" + program.encode()) and str(project.state_dir).encode() in b" ".join(words):
            found.append(int(folder.name))
    return found


def named(project: Project) -> list[int]:
    return running(project, "named")


def left(groups: list[int]) -> list[str]:
    """The processes of these groups that have not ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) in groups and fields[0] != "Z":
            found.append(folder.name)
    return found


def missing(*programs: str) -> str:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin:/usr/lib/postfix/sbin"
    lacking = [name for name in programs if shutil.which(name, path=path) is None]
    return ", ".join(lacking + ["root"] * ("master" in programs and os.geteuid() != 0))


def popped(where: Endpoints) -> int:
    """How many messages the first user has by POP3."""
    context = ssl.create_default_context(cafile=where.ca_file)
    client = poplib.POP3_SSL(where.host, where.ports["pop3s"], context=context, timeout=PATIENCE)
    try:
        client.user(where.user)
        client.pass_(where.password)
        return client.stat()[0]
    finally:
        client.quit()


def until_answered(project: Project, address: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            answer = dns.ask(endpoints(project), dns.question("www.alpha.test", "A"), timeout=1)
            if [record.data for record in answer.answers] == [address]:
                return
        except ClientError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(
    shutil.which("named", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None,
    reason="needs named (bind9)",
)
def test_the_life_of_a_stack_with_named(projects: Projects) -> None:
    open_ = partial(projects.open, "bind")
    project = open_(text())
    try:
        project.up()
        (first,) = named(project)
        assert asked(project, "www.alpha.test", "A") == ("NOERROR", ["192.0.2.1"])
        assert asked(project, "beta.test", "MX") == ("NOERROR", ["10 mail.beta.test."])
        # The MTA finds its way by it.
        where = project.endpoints()
        deliver(where, "by named")
        until(lambda: subjects(where) == ["by named"], PATIENCE)
        open_(text(octet=2)).up()
        assert asked(project, "www.alpha.test", "A") == ("NOERROR", ["192.0.2.2"])
        assert named(project) == [first]  # it has read its zones again
        os.kill(first, signal.SIGKILL)
        until_answered(project, "192.0.2.2")
        # Signed, changed while it is away, and changed while it runs.
        open_(text(octet=2, signed=True)).up()
        assert asked(project, "alpha.test", "DNSKEY")[0] == "NOERROR"
        project.down()
        assert named(project) == []
        project = open_(text(octet=3, signed=True))
        project.up()
        assert asked(project, "www.alpha.test", "A") == ("NOERROR", ["192.0.2.3"])
        assert project.rendered().keys() == project.render().files.keys()
        with pytest.raises(RuntimeFailure, match="the name server is bind"):
            project.update_secret()
        with pytest.raises(RuntimeFailure, match="the name server is bind"):
            project.dns_statistics()
        open_(text("python", 4)).up()
        assert named(project) == []
        assert asked(project, "www.alpha.test", "A") == ("NOERROR", ["192.0.2.4"])
    finally:
        project.down(volumes=True)
    assert named(project) == []


MAIL = """\
domains:
  alpha.test:
    users: {{anna: {{password: secret}}}}
    aliases: {{info: [anna], {alias}: [anna]}}
  beta.test:
    users: {{bela: {{password: secret}}}}
    aliases: {{anna: [anna@alpha.test]}}
{engines}
"""


def send(where: Endpoints, subject: str, *recipients: str) -> None:
    """Hand a message in, as a mail client would."""
    with smtplib.SMTP(where.host, where.ports["submission"], timeout=PATIENCE) as client:
        client.starttls(context=ssl.create_default_context(cafile=where.ca_file))
        client.login(where.user, where.password)
        client.sendmail(where.user, recipients, f"Subject: {subject}\r\n\r\nhello\r\n")


@pytest.mark.parametrize(
    ("engines", "programs"),
    [
        ("mailbox: {engine: dovecot}", ("dovecot",)),
        ("mailbox: {engine: dovecot, delivery: maildir}", ("dovecot",)),
        ("mailbox: {engine: dovecot}\ndns: {engine: bind}", ("dovecot", "named")),
        ("mta: {engine: postfix}", ("master",)),
        (
            "mailbox: {engine: dovecot}\ndns: {engine: bind}\nmta: {engine: postfix}",
            ("master", "dovecot", "named"),
        ),
    ],
    ids=["dovecot", "dovecot-maildir", "dovecot-bind", "postfix", "postfix-dovecot-bind"],
)
def test_one_story_over_the_combinations(projects: Projects, engines: str, programs: tuple[str, ...]) -> None:
    if lacking := missing(*programs):
        pytest.skip(f"needs {lacking}")
    name = "-".join(programs)
    project = projects.open(name, MAIL.format(alias="one", engines=engines))
    try:
        project.up()
        assert [len(running(project, program)) for program in programs] == [1] * len(programs)
        where = project.endpoints()
        send(where, "straight", "anna@alpha.test")
        send(where, "alias", "one@alpha.test")
        send(where, "other domain", "anna@beta.test")
        until(lambda: sorted(subjects(where)) == ["alias", "other domain", "straight"], PATIENCE)
        assert popped(where) == 3
        with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
            send(where, "unknown", "nobody@alpha.test")
        assert refused.value.recipients["nobody@alpha.test"][0] == 550
        send(where, "bounced", "x@nowhere.alpha.test")
        until(lambda: "Undelivered Mail Returned to Sender" in subjects(where), PATIENCE)
        # Nobody knows that domain: it waits.
        send(where, "waits", "x@elsewhere.example")
        until(lambda: [one["queue_name"] for one in project.queue()] == ["deferred"], PATIENCE)
        (waiting,) = project.queue()
        assert (waiting["sender"], waiting["recipients"][0]["address"]) == (
            "anna@alpha.test",
            "x@elsewhere.example",
        )
        assert b"Subject: waits" in project.queue_content(waiting["queue_id"])
        assert project.change_queue("hold", [waiting["queue_id"]]) == 1
        assert [one["queue_name"] for one in project.queue()] == ["hold"]
        assert project.change_queue("release", [waiting["queue_id"]]) == 1
        project.flush_queue()
        assert project.change_queue("rm", [waiting["queue_id"]]) == 1
        assert project.queue() == []
        assert asked(project, "alpha.test", "MX") == ("NOERROR", ["10 mail.alpha.test."])
        assert {line.service for line in project.logs()} >= {"dns", "mailbox", "mta"}
        # A table changes: nothing is started again.
        before = [running(project, program) for program in programs]
        project = projects.open(name, MAIL.format(alias="two", engines=engines))
        project.up()
        assert [running(project, program) for program in programs] == before
        send(where, "two", "two@alpha.test")
        until(lambda: "two" in subjects(where), PATIENCE)
        # What crashes comes again, and is counted.
        ((killed,), *_) = before
        os.kill(killed, signal.SIGKILL)
        until(lambda: project.status().health == "ready" and sum(restarts(project)) == 1, PATIENCE)
        send(where, "after", "anna@alpha.test")
        until(lambda: "after" in subjects(where), PATIENCE)
        assert project.rendered().keys() == project.render().files.keys()
        if "dovecot" in programs:
            with pytest.raises(RuntimeFailure, match="the mailbox service is dovecot"):
                project.verify_mailboxes("anna@alpha.test", None)
        groups = [service.pid for service in project.status().services if service.pid]
        groups += [pid for program in programs for pid in running(project, program)]
        project.down()
        assert left(groups) == []
        # Our own services find the mail again.
        project = projects.open(name, MAIL.format(alias="two", engines=""))
        project.up()
        assert "straight" in subjects(project.endpoints())
    finally:
        project.down(volumes=True)


def test_what_ran_before_comes_back_when_another_server_fails(projects: Projects) -> None:
    if lacking := missing("master"):
        pytest.skip(f"needs {lacking}")
    project = projects.open("back", MAIL.format(alias="one", engines=""))
    broken = "mta: {engine: postfix, postfix: {smtpd_sasl_security_options: bogus}}"
    try:
        project.up()
        other = projects.open("back", MAIL.format(alias="one", engines=broken))
        with pytest.raises(NotReady, match="mta: "):
            other.up(timeout=1)
        until(lambda: running(project, "master") == [], PATIENCE)
        until(lambda: project.status().health == "ready", PATIENCE)
        where = project.endpoints()
        send(where, "by ours", "one@alpha.test")
        until(lambda: subjects(where) == ["by ours"], PATIENCE)
    finally:
        project.down(volumes=True)


def restarts(project: Project) -> list[int]:
    return [service.restarts for service in project.status().services]


@pytest.mark.parametrize(
    ("engine", "said", "package"),
    [
        ("dns: {engine: bind}", "this machine has no named", "apt-get install bind9"),
        ("mailbox: {engine: dovecot}", "this machine has no dovecot", "dovecot-imapd"),
        ("mta: {engine: postfix}", "this machine has no postfix", "apt-get install postfix"),
    ],
)
def test_what_is_missing_is_named(
    projects: Projects, monkeypatch: pytest.MonkeyPatch, engine: str, said: str, package: str
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    project = projects.open("missing", MAIL.format(alias="one", engines=engine))
    with pytest.raises(MachineLacks, match=said) as caught:
        project.up()
    assert package in str(caught.value.hint)
    project.down(volumes=True)
