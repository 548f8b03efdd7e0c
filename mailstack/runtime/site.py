"""From a checked spec and the facts of this machine to what `render` takes: its `Site`.

Also where passwords come from: the spec, a file, the environment, or, when a user has none of them, a
generated one that stays in the state folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import date
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, cast

from mailstack.runtime import native
from mailstack.runtime.engine import Ground, Paths
from mailstack.runtime.errors import UsageProblem
from mailstack.runtime.model import OWNER, STANDARD_PORTS, RuntimeKind
from mailstack.runtime.state import Record, Secrets, generate_password, update_secret

if TYPE_CHECKING:
    from mailstack.render import Facts, Site
    from mailstack.render.site import ServiceName
    from mailstack.spec import Stack, User

ANYWHERE = "0.0.0.0"
NAME_PORT = 53
MOST_WORKERS = 4
"""smtpd processes for `workers: auto`: one per processor, but not more than this."""


def resolve_passwords(stack: Stack, known: Secrets, environ: Mapping[str, str]) -> Secrets:
    """The secrets with every user's password in `users`, in the spec's order.

    A generated password is kept for as long as the user exists, also while the spec gives another one.
    Raises `UsageProblem` when a file or a variable does not hold what it should.
    """
    generated = dict(known.generated)
    users: dict[str, str] = {}
    for address, user in stack.users():
        password = _given_password(address, user, environ)
        if password is None:
            password = generated.setdefault(address, generate_password())
        users[address] = password
    return Secrets(known.salt, {name: value for name, value in generated.items() if name in users}, users)


def _given_password(address: str, user: User, environ: Mapping[str, str]) -> str | None:
    if user.password is not None:
        return user.password
    if user.password_env is not None:
        password = environ.get(user.password_env, "")
        where = f"the variable {user.password_env} (password_env of {address})"
    elif user.password_file is not None:
        try:
            text = user.password_file.read_text()
        except (OSError, ValueError) as error:
            raise UsageProblem(
                f"{user.password_file} (password_file of {address}) cannot be read: {error}",
                hint="its first line is the password",
            ) from error
        password = text.split("\n", 1)[0].rstrip("\r")
        where = f"{user.password_file} (password_file of {address})"
    else:
        return None
    if not password or not password.isprintable():
        raise UsageProblem(
            f"{where} holds no usable password", hint="a password is one line of printable characters"
        )
    return password


def gather_facts(stack: Stack, chain: bytes | None) -> Facts:
    """What the zones take from other files; `chain` is the certificate's. Raises `UsageProblem`."""
    from mailstack.render import Facts
    from mailstack.runtime import tls

    dkim = {
        (name, selector): tls.dkim_text(path, f"dkim.{selector} of {name}")
        for name, domain in stack.domains.items()
        for selector, path in domain.dkim.items()
    }
    digest = tls.key_digest(chain) if chain is not None else None
    return Facts(key_digest=digest, dkim=dkim, faults=_faults(stack))


def _faults(stack: Stack) -> str | None:
    given = stack.dns.faults
    if given is None or "{" in given:
        return given
    from mailstack.spec import faults

    try:
        with open(given, encoding="utf-8") as file:
            text = file.read()
    except (OSError, ValueError) as error:
        raise UsageProblem(
            f"{given} (dns.faults) cannot be read: {error}", hint="docs/dns.md says what a faults file holds"
        ) from error
    wrong = faults.problem(text)
    if wrong is not None:
        raise UsageProblem(
            f"{given}:{wrong[0]}: {wrong[1]}", hint="docs/dns.md says what a faults file holds"
        )
    return text if text.endswith("\n") else text + "\n"


def build_site(
    stack: Stack,
    kind: RuntimeKind,
    ground: Ground,
    paths: Paths,
    record: Record,
    secrets: Secrets,
    today: date,
    *,
    facts: Facts | None = None,
    served: Mapping[str, int] | None = None,
) -> Site:
    """The `Site` of a stack that runs here. `served`: the serials that its zones are served with."""
    from mailstack.render import Addresses, Facts, Listener, Site
    from mailstack.render.site import Account

    bound = "" if ground.bind == ANYWHERE else ground.bind

    def listeners(name: ServiceName) -> tuple[Listener, ...]:
        if kind == "docker":
            return (Listener("", STANDARD_PORTS[name]),)
        published = Listener(bound, ground.ports[name])
        own = Listener(ground.addresses.get(OWNER[name], ""), STANDARD_PORTS[name])
        if name not in ground.own or (published.address == "" and published.port == own.port):
            return (published,)
        return (own, published)

    def reachable(name: ServiceName) -> Listener:
        if name in ground.own:
            return Listener(ground.addresses[OWNER[name]], STANDARD_PORTS[name])
        return Listener(ground.host, ground.ports[name])

    offered = cast("tuple[ServiceName, ...]", stack.services)
    tls = stack.tls.mode != "off"
    account = Account(*native.mail_account()) if stack.mailbox.engine == "dovecot" else None
    # Dovecot looks through links: where paths are too long it gets the folder that the short link lies in.
    run = PurePosixPath(record.socket_base).parent if record.socket_base else paths.run
    dns = reachable("dns")
    # Postfix asks at port 53 only, and keeps a queue of its own, in which its daemons find all they need
    postfix = stack.mta.engine == "postfix"
    spool = paths.queue.parent / native.SPOOL
    return Site(
        kind=kind,
        config_root=paths.config_root,
        queue_directory=spool if postfix else paths.queue,
        mail_root=paths.mail,
        run_directory=paths.run,
        tls_cert=paths.tls / "cert.pem" if tls else None,
        tls_key=paths.tls / "key.pem" if tls else None,
        tls_ca=paths.tls / "ca.pem" if stack.tls.mode == "ca" else None,
        network=ground.network,
        addresses=Addresses.in_network(ground.network),
        listeners={name: listeners(name) for name in offered},
        reachable={name: reachable(name) for name in offered},
        # without LMTP mail goes into the Maildirs, and nothing asks for this
        lmtp_nexthop=reachable("lmtp")
        if "lmtp" in offered
        else Listener("127.0.0.1", STANDARD_PORTS["lmtp"]),
        resolver=(dns,),
        relay=Addresses.in_network(ground.network).mta if postfix and dns.port != NAME_PORT else None,
        workers=None if postfix else min(MOST_WORKERS, os.cpu_count() or 1),
        auth_socket=spool / "private" / "auth" if postfix else None,
        auth_socket_owner=native.MAIL_OWNER if postfix else None,
        mail_uid=paths.uid,
        mail_gid=paths.gid,
        mailbox_account=account,
        base_directory=run / "dovecot" if account else None,
        dns_directory=paths.dns,
        update_secret=update_secret(secrets.salt),
        facts=facts or Facts(),
        passwords=secrets.users,
        salt_secret=bytes.fromhex(secrets.salt),
        serials=record.serials,
        served=served or {},
        today=today,
    )


def environment(record: Record, users: Mapping[str, str], ca_file: str | None) -> dict[str, str]:
    """The variables of `mailstack env`, in their documented order; one that has no value is left out."""
    values = {
        "MAILSTACK_PROJECT": record.project,
        "MAILSTACK_DOMAIN": record.domain,
        "MAILSTACK_HOST": record.host,
    }
    for name in ("smtp", "submission", "submissions", "lmtp", "imap", "imaps", "pop3", "pop3s", "dns"):
        if name in record.ports:
            values[f"MAILSTACK_{name.upper()}_PORT"] = str(record.ports[name])
    if ca_file is not None:
        values["MAILSTACK_CA_FILE"] = ca_file
    for address, password in users.items():
        values["MAILSTACK_USER"] = address
        values["MAILSTACK_PASSWORD"] = password
        break
    return values
