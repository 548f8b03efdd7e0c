"""The real parsers accept every example's tree without a word, and read back what was written."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import pytest

from mailstack.config import named as named_conf
from mailstack.config.dovecot import load as load_dovecot
from mailstack.config.postfix.main_cf import MainCf
from mailstack.render import Site, render
from tests.golden.trees import EXAMPLES, certificate, example, host_site, need, stack_site, write

pytestmark = pytest.mark.real
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
CASES = [(name, kind) for name in EXAMPLES for kind in ("host", "process")]


def run(*command: str | Path, stdin: str = "") -> str:
    """The command's output; the test fails when it fails or complains."""
    words = [str(word) for word in command]
    done = subprocess.run(words, env=ENVIRONMENT, input=stdin, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr + done.stdout
    return done.stdout


@pytest.fixture(scope="module", params=CASES, ids=[f"{name}-{kind}" for name, kind in CASES])
def tree(request: pytest.FixtureRequest) -> Iterator[Path]:
    """An example, rendered into a folder that Postfix's account can enter."""
    name, kind = request.param
    with TemporaryDirectory(prefix="mailstack-checkers-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        stack = example(name)
        site: Site
        if kind == "host":
            site = host_site(stack, root)
            queue = PurePosixPath(root / "spool")
            site = replace(site, queue_directory=queue, auth_socket=queue / "private" / "auth")
        else:
            site = replace(stack_site(stack, PurePosixPath(root)), config_root=PurePosixPath(root))
        if site.tls_cert is not None:
            certificate(root / "tls", "mail.test")
            tls = PurePosixPath(root / "tls")
            site = replace(site, tls_cert=tls / "cert.pem", tls_key=tls / "key.pem")
        Path(site.queue_directory).mkdir()
        write(render(stack, site), root)
        yield root


def test_postconf_reads_every_parameter_back(tree: Path) -> None:
    need("postconf")
    written = {}
    for line in (tree / "postfix" / "main.cf").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            written[name.strip()] = value.strip()
    read = dict(line.split(" =", 1) for line in run("postconf", "-n", "-c", tree / "postfix").splitlines())
    assert read.pop("config_directory").strip() == str(tree / "postfix")
    assert {name: value.strip() for name, value in read.items()} == written


def test_postconf_reads_every_service_back(tree: Path) -> None:
    need("postconf")
    services = run("postconf", "-M", "-c", tree / "postfix").splitlines()
    lines = [line for line in (tree / "postfix" / "master.cf").read_text().splitlines() if line]
    text = "\n".join(line for line in lines if not line.startswith("#"))
    written = [" ".join(line.split()) for line in re.sub(r"\n\s+", " ", text).splitlines()]
    assert [" ".join(line.split()) for line in services] == written
    assert run("postconf", "-P", "-c", tree / "postfix").count(
        "smtpd_client_restrictions"
    ) == written_options(written)


def written_options(services: list[str]) -> int:
    return sum(" -o smtpd_client_restrictions=" in service for service in services)


def test_postfix_check_is_content(tree: Path) -> None:
    need("postfix")
    run("postfix", "-c", tree / "postfix", "check")


def entries(file: Path, separator: str) -> dict[str, str]:
    lines = file.read_text().splitlines()
    return dict(line.split(separator, 1) for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("table", ["vmailbox", "virtual", "relocated", "transport"])
def test_postmap_finds_every_address(tree: Path, table: str) -> None:
    need("postmap")
    wanted = entries(tree / "postfix" / table, "\t")
    if wanted:
        keys = "".join(f"{key}\n" for key in wanted)
        output = run(
            "postmap", "-c", tree / "postfix", "-q", "-", f"texthash:{tree}/postfix/{table}", stdin=keys
        )
        assert dict(line.split("\t", 1) for line in output.splitlines()) == wanted


def test_postalias_finds_every_alias(tree: Path) -> None:
    need("postalias")
    file = f"hash:{tree}/postfix/aliases"
    run("postalias", "-c", tree / "postfix", file)
    wanted = entries(tree / "postfix" / "aliases", ": ")
    keys = "".join(f"{key}\n" for key in wanted)
    output = run("postalias", "-c", tree / "postfix", "-q", "-", file, stdin=keys)
    assert dict(re.split(r":?\t", line, maxsplit=1) for line in output.splitlines()) == wanted


def test_doveconf_reads_it(tree: Path) -> None:
    need("doveconf")
    output = run("doveconf", "-n", "-c", tree / "dovecot" / "dovecot.conf")
    assert "mail_location = maildir:~/" in output
    full = run(
        "doveconf", "-c", tree / "dovecot" / "dovecot.conf", "auth_anonymous_username", "listen", "ssl"
    )
    assert "auth_anonymous_username = anonymous" in full
    assert "listen = *, ::" in full


def test_named_checkconf_loads_every_zone(tree: Path) -> None:
    need("named-checkconf", "named-checkzone")
    run("named-checkconf", tree / "bind" / "named.conf")
    for file in sorted((tree / "bind" / "zones").iterdir()):
        output = run("named-checkzone", "-i", "local", "-k", "fail", "-m", "fail", file.stem, file)
        assert re.fullmatch(r"zone \S+/IN: loaded serial 2024112201\nOK\n", output), output


def test_our_own_readers_have_nothing_to_warn_about(tree: Path) -> None:
    assert MainCf.load(tree / "postfix").warnings == ()
    warnings = load_dovecot(tree / "dovecot").warnings
    # On an administrator's machine the real Dovecot's accounts have to be right, too.
    assert [line for line in warnings if "service auth { user has no effect" not in line] == []
    assert named_conf.load(tree / "bind" / "named.conf").warnings == ()
