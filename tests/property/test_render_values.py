"""Nasty values in every field that holds text: refused by the spec, or read back unchanged and with no other effect.

"No other effect" is checked against a plain rendering of the same shape: the same parameters, services,
listeners and zones, whatever the value. The real parsers do the same with many values at once.
"""

from __future__ import annotations

import atexit
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import dns.zone
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailstack.config import named as named_conf
from mailstack.config.dovecot import load as load_dovecot
from mailstack.config.postfix.main_cf import MainCf
from mailstack.render import RenderError, Site, Tree, render
from mailstack.render.records import domain_records
from mailstack.spec import SpecErrors, Stack, loads
from tests.golden.trees import ROOT, certificate, need, stack_site, write

FRAGMENTS = (
    '"', "'", "$", "$$", "$myhostname", "${x?y}", "$(id)", ";", "(", ")", "{", "}", "{{ x }}", "%", "%u", "%%", "#",
    "\n", "\r", "\r\n", "\n\n", "\t", " ", "\\", "\\n", "\\\n", ":", "|", "/", "../", ",", "<", ">", "*", "@", "!", "..", "-",
    "=", "&", "~", "`", "^", "+", "?", "[", "]", "é", "日本", "☃", "\0", "\x1b[31m", "\x7f", "\x85", "\u2028", "\u202e",
    "\ufeff", "a" * 63, "b" * 64, "c" * 300, "anna", "otto", "mail", "example.test", "1.2.3.4", "IN TXT", "A 192.0.2.1",
    '"x;y"', "\\034", "$INCLUDE /etc/passwd", "/* */", "//", ":include:/etc/passwd", "|/bin/sh", "no", "0x1f", "é" * 150,
)  # fmt: skip
NASTY = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=4).map("".join),
    st.text(min_size=1, max_size=30),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20),
)


class Field(NamedTuple):
    """A place for a value: the spec with it, as data."""

    name: str
    put: Callable[[str], dict[str, object]]


def spec(
    domain: dict[str, object] | None = None, name: str = "example.test", **parts: object
) -> dict[str, object]:
    users = {"anna": {"password": "plain"}, "otto": {"password": "plain"}}
    return {"project": "nasty", "domains": {name: {"users": users} | (domain or {})}, **parts}


FIELDS = (
    Field("project", lambda v: spec() | {"project": v}),
    Field("domain", lambda v: spec(name=v)),
    Field("domain label", lambda v: spec(name=f"{v}.test")),
    Field("hostname", lambda v: spec({"hostname": v})),
    Field("hostname label", lambda v: spec({"hostname": f"{v}.example.test"})),
    Field("address", lambda v: spec({"address": v})),
    Field("address6", lambda v: spec({"address6": v})),
    Field("reports", lambda v: spec({"reports": v})),
    Field("reports elsewhere", lambda v: spec({"reports": f"{v}@other.test"})),
    Field("caa", lambda v: spec({"caa": [f"{v}.test"]})),
    Field("dkim", lambda v: spec({"dkim": {v: "key.pem"}})),
    Field("faults", lambda v: spec(dns={"faults": v})),
    Field("fault", lambda v: spec(dns={"faults": 'fault "' + v + '" { answer lame; };'})),
    Field("catch_all", lambda v: spec({"catch_all": v})),
    Field("catch_all elsewhere", lambda v: spec({"catch_all": f"{v}@other.test"})),
    Field("user", lambda v: spec({"users": {"anna": {"password": "plain"}, v: {"password": "plain"}}})),
    Field("password", lambda v: spec({"users": {"anna": {"password": v}}})),
    Field("password_file", lambda v: spec({"users": {"anna": {"password_file": v}}})),
    Field("password_env", lambda v: spec({"users": {"anna": {"password_env": v}}})),
    Field("alias", lambda v: spec({"aliases": {v: ["anna"]}})),
    Field("target", lambda v: spec({"aliases": {"info": ["anna", v]}})),
    Field("target elsewhere", lambda v: spec({"aliases": {"info": [f"{v}@other.test"]}})),
    Field("target domain", lambda v: spec({"aliases": {"info": [f"x@{v}.test"]}})),
    Field("record", lambda v: spec({"records": [v]})),
    Field("record owner", lambda v: spec({"records": [f"{v} IN A 192.0.2.7"]})),
    Field("record data", lambda v: spec({"records": [f"www IN TXT {v}"]})),
    Field("record text", lambda v: spec({"records": ['www IN TXT "' + v.replace("\\", "\\\\").replace('"', '\\"') + '"']})),
    Field("network", lambda v: spec(mta={"networks": [v]})),
    Field("relay domain", lambda v: spec(mta={"relay_domains": [f"{v}.test"]})),
    Field("relayhost", lambda v: spec(mta={"relayhost": v})),
    Field("relayhost label", lambda v: spec(mta={"relayhost": f"[{v}.test]:25"})),
    Field("banner", lambda v: spec(mta={"postfix": {"smtpd_banner": v}})),
    Field("restrictions", lambda v: spec(mta={"postfix": {"smtpd_helo_restrictions": v}})),
    Field("parameter", lambda v: spec(mta={"postfix": {v: "yes"}})),
    Field("forward", lambda v: spec(dns={"forward": [v]})),
    Field("ttl", lambda v: spec(dns={"ttl": v})),
    Field("size", lambda v: spec(mta={"message_size_limit": v})),
    Field("subnet", lambda v: spec(network={"subnet": v})),
    Field("bind", lambda v: spec(network={"bind": v})),
    Field("certificate", lambda v: spec(tls={"mode": "files", "cert": v, "key": v})),
)  # fmt: skip


def accepted(data: dict[str, object]) -> Stack | None:
    """The stack, or None when the spec was refused in the documented way."""
    try:
        return loads(json.dumps(data, ensure_ascii=False))
    except SpecErrors as error:
        for problem in error.problems:
            assert problem.message and problem.message.isprintable() and str(problem).isprintable(), problem
        return None


@cache
def _certificates() -> PurePosixPath:
    """A folder with a certificate, for readers that want to see the file."""
    folder = tempfile.mkdtemp(prefix="mailstack-certificate-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    certificate(Path(folder), "mail.test")
    return PurePosixPath(folder)


def site_of(stack: Stack, root: PurePosixPath = ROOT) -> Site:
    folder = _certificates()
    site = stack_site(stack, root)
    dkim = {(name, one): "v=DKIM1; p=AA==" for name, domain in stack.domains.items() for one in domain.dkim}
    facts = replace(site.facts, dkim=dkim)
    return replace(site, tls_cert=folder / "cert.pem", tls_key=folder / "key.pem", facts=facts)


def rendered(stack: Stack) -> Tree:
    return render(stack, site_of(stack))


class Shape(NamedTuple):
    """What a value may not change: what our own readers find in the tree."""

    parameters: frozenset[str]
    services: tuple[str, ...]
    listeners: int
    databases: tuple[str, ...]
    mailboxes: int


@cache
def _plain_shape() -> Shape:
    stack = loads(json.dumps(spec()))
    return shape_of(rendered(stack), site_of(stack))


def shape_of(tree: Tree, site: Site) -> Shape:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(tree, root)
        main = MainCf.load(root / "postfix")
        assert main.warnings == ()
        config = load_dovecot(root / "dovecot")
        conf = root / "bind" / "named.conf"
        # An include has to be absolute, and the site's folder does not exist here.
        conf.write_text(conf.read_text().replace(f'"{site.config_root}/', f'"{root}/'))
        named_conf.load(conf)
        master = (root / "postfix" / "master.cf").read_text()
        return Shape(
            frozenset(re.findall(r"^(\w+) =", (root / "postfix" / "main.cf").read_text(), re.MULTILINE)),
            tuple(line.split()[0] for line in master.splitlines() if line and line[0] not in "# "),
            len(config.inet_listeners) + len(config.unix_listeners),
            tuple(
                str(database.file and database.file.name) for database in (*config.passdbs, *config.userdbs)
            ),
            len(config.mailboxes),
        )


@pytest.mark.parametrize("field", FIELDS, ids=[field.name for field in FIELDS])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=NASTY)
def test_a_value_is_refused_or_changes_its_own_field_only(field: Field, value: str) -> None:
    stack = accepted(field.put(value))
    if stack is None:
        return
    tree = rendered(stack)
    plain = _plain_shape()
    shape = shape_of(tree, site_of(stack))
    extra = frozenset(stack.mta.postfix)
    assert shape._replace(parameters=shape.parameters - extra) == plain._replace(
        parameters=plain.parameters - extra
    )
    for parameter, text in stack.mta.postfix.items():
        assert f"\n{parameter} ={' ' if text else ''}{text}\n" in tree.files["postfix/main.cf"].data.decode()
    lines = tree.files["dovecot/users"].data.decode().splitlines()
    accounts = [line for line in lines if not line.startswith("#")]
    assert [line.split(":")[0] for line in accounts] == [address for address, _ in stack.users()]
    assert all(line.count(":") == 7 for line in accounts)
    check_tables(stack, tree)
    for name in stack.domains:
        check_zone(stack, tree, name)
    assert rendered(stack).digest == tree.digest


def check_tables(stack: Stack, tree: Tree) -> None:
    """The lines of the tables are the spec's names, one for one."""
    aliases = [
        line for line in tree.files["postfix/aliases"].data.decode().splitlines() if line[:1] not in ("#", "")
    ]
    names = [line.partition(":")[0] for line in aliases]
    given_names = list(stack.domains[stack.primary].aliases)
    assert names[len(names) - len(given_names) :] == given_names
    for name, line in zip(given_names, aliases[len(aliases) - len(given_names) :], strict=True):
        targets = line.partition(": ")[2].split(", ")
        wanted = stack.domains[stack.primary].aliases[name]
        assert [target.removesuffix(f"@{stack.primary}") for target in targets] == [
            target.removesuffix(f"@{stack.primary}") for target in wanted
        ]
    virtual = [
        line for line in tree.files["postfix/virtual"].data.decode().splitlines() if line[:1] not in ("#", "")
    ]
    assert all(line.count("\t") == 1 for line in virtual)


def check_zone(stack: Stack, tree: Tree, name: str, text: str | None = None) -> None:
    """A zone file, read by dnspython, holds the wanted records and nothing else."""
    text = text or tree.files[f"bind/zones/{name}.zone"].data.decode()
    zone = dns.zone.from_text(text, origin=f"{name}.", relativize=False)
    found = {
        (owner.to_text(omit_final_dot=True).lower(), dns.rdatatype.to_text(rdata.rdtype), rdata.to_text())
        for owner, _, rdata in zone.iterate_rdatas()
    }
    hosts = {item for item in found if re.match(r"host-\d+\.", item[0])}
    rest = {item for item in found - hosts if item[1] != "SOA"}
    wanted = {
        (record.owner, record.type, record.data) for record in domain_records(stack, site_of(stack), name)
    }
    assert rest == wanted
    assert all(item[1] == "A" for item in hosts)


PATHS = st.one_of(NASTY, st.sampled_from(("state", "Zustand-1", "josé", "日本", "a+b~c@d=e")))


@settings(max_examples=200, deadline=None)
@given(value=PATHS)
def test_a_path_is_refused_or_changes_nothing_else(value: str) -> None:
    stack = loads(json.dumps(spec()))
    try:
        site = site_of(stack, PurePosixPath("/srv") / value)
        tree = render(stack, site)
    except RenderError as error:
        assert str(error).isprintable()
        return
    except (ValueError, UnicodeEncodeError):
        assert "\0" in value
        return
    assert shape_of(tree, site) == _plain_shape()


# ---------------------------------------------------------------- the real parsers

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


def run(*command: str | Path, stdin: str = "") -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, env=ENVIRONMENT, input=stdin.encode(), capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode() + done.stdout.decode()
    return done.stdout.decode()


def first_accepted(values: list[str], put: Callable[[str], dict[str, object]]) -> list[str]:
    """Those of the values that a spec may have."""
    return [value for value in dict.fromkeys(values) if accepted(put(value)) is not None]


@pytest.mark.real
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values=st.lists(NASTY, min_size=50, max_size=100))
def test_real_parsers_read_every_value_back(values: list[str]) -> None:
    need("postconf", "postmap", "postalias", "doveconf", "doveadm", "named-checkconf", "named-checkzone")
    by_name = {field.name: field.put for field in FIELDS}
    used = (
        "user",
        "alias",
        "target elsewhere",
        "record text",
        "record data",
        "password",
        "relay domain",
        "banner",
    )
    good = {name: first_accepted(values, by_name[name]) for name in used}
    users = [user for user in good["user"] if user not in ("anna", "otto")]
    aliases = [name for name in good["alias"] if name not in {"anna", "otto", "info", *users}]
    targets = [target for target in good["target elsewhere"] if target not in users]
    texts = [
        f'txt{index} IN TXT "' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        for index, value in enumerate(good["record text"])
    ]
    records = [*texts, *(f"data{index} IN TXT {value}" for index, value in enumerate(good["record data"]))]
    password = (good["password"] or ["plain"])[-1]
    data = spec(
        {
            "users": {"anna": {"password": password}} | {user: {"password": "plain"} for user in users},
            "aliases": {name: ["anna"] for name in aliases}
            | {"info": [f"{t}@other.test" for t in targets] or ["anna"]},
            "records": records,
        },
        mta={
            "relay_domains": [
                f"{value}.test" for value in good["relay domain"] if value.lower() != "example"
            ][:1],
            "postfix": {"smtpd_banner": (good["banner"] or ["x"])[-1]},
        },
    )
    stack = accepted(data)
    assert stack is not None, "values that are accepted one by one are accepted together"
    with tempfile.TemporaryDirectory(prefix="mailstack-values-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        (root / "rendered").mkdir()
        tree = render(stack, site_of(stack, PurePosixPath(root)))
        write(tree, root / "rendered")
        read_back(stack, tree, root / "rendered", password)


def read_back(stack: Stack, tree: Tree, root: Path, password: str) -> None:
    banner = run("postconf", "-c", root / "postfix", "-h", "smtpd_banner")
    assert banner == stack.mta.postfix["smtpd_banner"] + "\n"
    run("postconf", "-n", "-c", root / "postfix")
    run("postconf", "-x", "-c", root / "postfix", "smtpd_banner", "local_recipient_maps")
    domain = stack.domains[stack.primary]
    addresses = [f"{user}@{stack.primary}" for user in domain.users]
    found = run("postmap", "-q", "-", f"texthash:{root}/postfix/vmailbox", stdin="\n".join(addresses) + "\n")
    assert found.splitlines() == [
        f"{stack_address}\t{stack.primary}/{stack_address.split('@')[0]}/" for stack_address in addresses
    ]
    run("postalias", "-c", root / "postfix", f"hash:{root}/postfix/aliases")
    found = run(
        "postalias", "-q", "-", f"hash:{root}/postfix/aliases", stdin="\n".join(domain.aliases) + "\n"
    )
    read = dict(re.split(r":?\t", line, maxsplit=1) for line in found.splitlines())
    assert read == {
        name: ", ".join(target if "@" in target else f"{target}@{stack.primary}" for target in targets)
        for name, targets in domain.aliases.items()
    }
    run("doveconf", "-n", "-c", root / "dovecot" / "dovecot.conf")
    line = next(
        line for line in tree.files["dovecot/users"].data.decode().splitlines() if line.startswith("anna@")
    )
    verified = run(
        "doveadm", "-c", root / "dovecot" / "dovecot.conf", "pw", "-t", line.split(":")[1], "-p", password
    )
    assert "verified" in verified
    run("named-checkconf", root / "bind" / "named.conf")
    file = root / "bind" / "zones" / f"{stack.primary}.zone"
    dump = run("named-checkzone", "-i", "local", "-q", "-D", "-o", "-", stack.primary, file)
    check_zone(stack, tree, stack.primary, dump)
