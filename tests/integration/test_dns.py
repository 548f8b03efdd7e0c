"""The stack's own zones while they are served: changed, signed, broken on purpose, in either runtime."""

from __future__ import annotations

import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from mailstack.cli import zones
from mailstack.client import dns, dns_update
from mailstack.client.endpoints import Endpoints
from mailstack.runtime.api import Project
from mailstack.runtime.model import SERVICES
from tests.integration.conftest import Projects, everything_of

SPEC = """\
domains:
  alpha.test:
    users: {anna: {password: secret}}
    records: ["www IN A 192.0.2.1"]
dns:
  dnssec: true
  faults: faults.conf
"""


def endpoints(project: Project) -> Endpoints:
    known = project.endpoints()
    return Endpoints(
        domain=known.domain, hostname=known.hostname, host=known.host, ports=known.ports,
        ca_file=known.ca_file, tls=known.tls, users=known.users,
    )  # fmt: skip


def asked(project: Project, name: str, kind: str) -> tuple[str, list[str]]:
    answer = dns.ask(endpoints(project), dns.question(name, kind), timeout=30)
    return answer.rcode, [record.data for record in answer.answers]


def change(project: Project, name: str, kind: str, value: str) -> None:
    wanted = dns_update.change(name, kind, [value], project.zones())
    where, secret = endpoints(project), project.update_secret()
    dns_update.send(where, secret, wanted, remove=False, ttl=None, timeout=30)
    project.remember_change(wanted.zone)


def dane(project: Project, folder: Path) -> str:
    """What OpenSSL says of the SMTP server's certificate by the TLSA record in the zone."""
    known = project.endpoints()
    host, port = known.hostname, known.ports["smtp"]
    own = 25 if "mta" in known.addresses else port
    (record,) = asked(project, f"_{own}._tcp.{host}", "TLSA")[1]
    command = ["openssl", "s_client", "-connect", f"{known.host}:{port}", "-starttls", "smtp", "-brief"]
    command += ["-dane_tlsa_domain", host, "-dane_tlsa_rrdata", record, "-verify_return_error"]
    done = subprocess.run(
        command, input="QUIT\r\n", capture_output=True, text=True, timeout=60, check=False, cwd=folder
    )
    return done.stdout + done.stderr


def test_a_zone_is_changed_while_it_is_served(projects: Projects, tmp_path: Path) -> None:
    projects.write("one", SPEC)
    faults = projects.spec("one").with_name("faults.conf")
    faults.write_text('fault "lame.alpha.test" { answer refused; };\n')
    project = projects.open(text=None)
    project.up(timeout=120)
    key = asked(project, "alpha.test", "CDS")
    assert [record.data for record in zones.delegations(project.stack, endpoints(project))] == key[1]
    assert asked(project, "lame.alpha.test", "A")[0] == "REFUSED"
    assert "DANE TLSA 3 1 1 " in (said := dane(project, tmp_path)) and "Verification: OK" in said, said

    change(project, "www.alpha.test", "A", "192.0.2.2")
    change(project, "new.alpha.test", "TXT", "hello")
    project.down()
    faults.write_text('fault "alpha.test" { type MX; answer servfail; };\n')
    project.up(timeout=120)  # what was changed and the keys outlive the server
    assert asked(project, "www.alpha.test", "A") == ("NOERROR", ["192.0.2.2"])
    assert asked(project, "new.alpha.test", "TXT") == ("NOERROR", ['"hello"'])
    assert asked(project, "alpha.test", "CDS") == key
    assert asked(project, "alpha.test", "MX")[0] == "SERVFAIL"
    change(project, "www.alpha.test", "A", "192.0.2.3")

    # a spec that changes the zone wins, and no service is started again for it
    pids = [project.status().services[SERVICES.index("dns")].pid]
    projects.write("one", SPEC.replace("192.0.2.1", "192.0.2.4"))
    faults.write_text('fault "*.alpha.test" { type TXT; answer nxdomain; };\n')
    project = projects.open(text=None)
    done = project.up(timeout=120)
    assert [step.action for step in done.plan.steps] == ["write", "reload"]
    assert done.warnings == (
        "alpha.test: what `dns set` has changed is gone, for the spec has changed the zone",
    )
    wait_for(partial(asked, project, "www.alpha.test", "A"), ("NOERROR", ["192.0.2.4"]))
    wait_for(partial(asked, project, "alpha.test", "MX"), ("NOERROR", ["10 mail.alpha.test."]))
    assert asked(project, "new.alpha.test", "TXT")[0] == "NXDOMAIN"
    faults.write_text('fault "*" { answer servfail; };\n')  # also what is asked to see whether it is ready
    done = projects.open(text=None).up(timeout=120)
    assert (done.status.ready, done.warnings) == (True, ())
    wait_for(partial(asked, project, "www.alpha.test", "A"), ("SERVFAIL", []))
    assert project.status().ready
    assert [project.status().services[SERVICES.index("dns")].pid] == pids

    project.down(volumes=True)
    assert everything_of(project) == []


def wait_for(look: partial[tuple[str, list[str]]], wanted: tuple[str, list[str]]) -> None:
    """A reload takes effect a moment after `up` has asked for it."""
    deadline = time.monotonic() + 30
    while (found := look()) != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("faults", "wanted"),
    [
        (None, "cannot be read"),
        ("fault x", "faults.conf:1: "),
        ("", "there is no fault in it"),
    ],
)
def test_a_faults_file_that_cannot_be_used(
    process_projects: Projects, faults: str | None, wanted: str
) -> None:
    from mailstack.runtime.errors import UsageProblem

    process_projects.write("one", SPEC)
    if faults is not None:
        process_projects.spec("one").with_name("faults.conf").write_text(faults)
    project = process_projects.open(text=None)
    with pytest.raises(UsageProblem) as found:
        project.up()
    assert wanted in str(found.value)
    assert everything_of(project) == []
