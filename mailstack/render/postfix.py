"""Postfix's files: main.cf, master.cf and the tables that they name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mailstack.render import templates
from mailstack.render.escape import Escaped, main_cf_raw
from mailstack.render.site import STANDARD_PORTS, Listener, ServiceName, Site
from mailstack.render.tree import File
from mailstack.spec.fields import duration_text
from mailstack.spec.model import Stack

Entries = list[tuple[str, list[str]]]
SERVICE_NAMES: dict[int, str] = {25: "smtp", 587: "submission", 465: "submissions"}
"""How /etc/services calls the ports, for a master.cf that people read."""


def files(stack: Stack, site: Site) -> Iterator[tuple[str, File]]:
    """Path and content of everything below postfix/."""
    names = {"project": stack.project, "domain": stack.primary}
    contents = {
        "main.cf": _main_cf(stack, site),
        "master.cf": _master_cf(stack, site),
        "vmailbox": templates.text("postfix/vmailbox", mailboxes=_mailboxes(stack), **names),
        "virtual": templates.text("postfix/virtual", groups=virtual_groups(stack), **names),
        "aliases": templates.text("postfix/aliases", **_aliases(stack), **names),
        "relocated": templates.text("postfix/relocated", **names),
        "transport": templates.text("postfix/transport", **names),
        "mailstack.toml": templates.text(
            "postfix/mailstack.toml",
            resolver=[str(server) for server in site.resolver],
            relay=str(site.relay) if site.relay is not None else "",
            native=_native(stack, site),
            **names,
        ),
    }
    for name, content in contents.items():
        yield f"postfix/{name}", File(content.encode())


def _native(stack: Stack, site: Site) -> bool:
    """Whether the machine's own Postfix runs from these files, in the project's folder."""
    return stack.mta.engine == "postfix" and site.kind == "process"


def _main_cf(stack: Stack, site: Site) -> str:
    queue = stack.mta.queue
    value, rest = _overrides(stack)
    return templates.text(
        "postfix/main.cf",
        project=stack.project,
        host=site.kind == "host",
        native=_native(stack, site),
        domain=stack.primary,
        hostname=stack.domains[stack.primary].hostname,
        networks=stack.mta.networks,
        relay_domains=stack.mta.relay_domains,
        relayhost=stack.mta.relayhost or "",
        message_size_limit=stack.mta.message_size_limit,
        saslauthd=stack.sasl.backend == "saslauthd",
        sasl_directory=site.config_root / "sasl",
        auth_socket=site.client_socket,
        tls=site.tls_cert is not None and stack.tls.mode != "off",
        bring_certificate=site.kind == "host" and stack.tls.mode == "ca",
        tls_cert=site.tls_cert,
        tls_key=site.tls_key,
        plaintext=stack.mailbox.allow_plaintext_auth,
        directory=site.config_root / "postfix",
        virtual_domains=list(stack.domains)[1:],
        mail_root=site.mail_root,
        mail_uid=site.mail_uid,
        mail_gid=site.mail_gid,
        lmtp=stack.mailbox.delivery == "lmtp",
        lmtp_nexthop=site.lmtp_nexthop,
        queue_directory=site.queue_directory,
        data_directory=site.data_directory,
        minimal_backoff=duration_text(queue.minimal_backoff),
        maximal_backoff=duration_text(queue.maximal_backoff),
        lifetime=duration_text(queue.lifetime),
        queue_run_delay=duration_text(min(queue.minimal_backoff, 300)),
        active_limit=queue.active_limit,
        value=value,
        rest=rest,
    )


def _overrides(stack: Stack) -> tuple[Callable[[str, str], Escaped], Callable[[], list[tuple[str, str]]]]:
    """`value(name, default)`: what `mta.postfix` says, else the default; `rest()`: what nobody asked for."""
    left = dict(stack.mta.postfix)

    def value(name: str, default: str) -> Escaped:
        return main_cf_raw(left.pop(name, default))

    return value, lambda: sorted(left.items())


def _master_cf(stack: Stack, site: Site) -> str:
    if stack.mta.workers != "auto":
        workers = str(stack.mta.workers)
    else:
        workers = "-" if site.workers is None else str(site.workers)

    def lines(service: ServiceName) -> list[str]:
        return [_service_name(site, listener, service) for listener in site.listening(service)]

    return templates.text(
        "postfix/master.cf",
        project=stack.project,
        workers=workers,
        native=_native(stack, site),
        tls=stack.tls.mode != "off",
        plaintext=stack.mailbox.allow_plaintext_auth,
        smtp=lines("smtp"),
        submission=lines("submission"),
        submissions=lines("submissions"),
    )


def _service_name(site: Site, listener: Listener, service: ServiceName) -> str:
    if listener.address:
        return str(listener)
    if site.kind == "host" and listener.port == STANDARD_PORTS[service]:
        return SERVICE_NAMES[listener.port]
    return str(listener.port)


def _mailboxes(stack: Stack) -> list[tuple[str, str]]:
    return [
        (f"{user}@{name}", f"{name}/{user}/")
        for name, domain in stack.domains.items()
        for user in domain.users
    ]


def _aliases(stack: Stack) -> dict[str, Entries]:
    """The first domain's aliases; all targets are whole: a bare name would be completed with $myorigin."""
    name = stack.primary
    domain = stack.domains[name]
    entries = [(alias, _whole(targets, name)) for alias, targets in domain.aliases.items()]
    taken = {*domain.aliases, *domain.users}
    required: Entries = []
    if "postmaster" not in taken:
        required.append(("postmaster", [postmaster(stack, name)]))
    if "mailer-daemon" not in taken:
        required.append(("mailer-daemon", [f"postmaster@{name}"]))
    return {"required": required, "entries": entries}


def postmaster(stack: Stack, name: str) -> str:
    """Who gets the postmaster's mail where the spec does not say: the first user, else the first domain's."""
    users = stack.domains[name].users
    return f"{next(iter(users))}@{name}" if users else f"postmaster@{stack.primary}"


def virtual_groups(stack: Stack) -> list[tuple[str, Entries]]:
    """The entries of the table virtual, under headings."""
    return [
        (f"Users of {stack.primary}, under this host's other names.", list(_other_names(stack))),
        ("Aliases of the further domains.", list(_virtual_aliases(stack))),
        (
            "Catch-all addresses. Who exists is named first, so that only the rest is caught.",
            list(_catch_alls(stack)),
        ),
    ]


def _other_names(stack: Stack) -> Iterator[tuple[str, list[str]]]:
    name = stack.primary
    domain = stack.domains[name]
    others = [
        host for host in (domain.hostname, f"localhost.{name}", "localhost") if host not in stack.domains
    ]
    for host in others:
        for user in domain.users:
            yield f"{user}@{host}", [f"{user}@{name}"]


def _virtual_aliases(stack: Stack) -> Iterator[tuple[str, list[str]]]:
    for name in list(stack.domains)[1:]:
        domain = stack.domains[name]
        if "postmaster" not in {*domain.users, *domain.aliases}:
            yield f"postmaster@{name}", [postmaster(stack, name)]
        for alias, targets in domain.aliases.items():
            yield f"{alias}@{name}", _whole(targets, name)


def _catch_alls(stack: Stack) -> Iterator[tuple[str, list[str]]]:
    for index, (name, domain) in enumerate(stack.domains.items()):
        if domain.catch_all is None:
            continue
        known = dict.fromkeys(domain.users)
        if index == 0:
            # The first domain's aliases are in the table aliases, which is looked at after this one.
            known |= dict.fromkeys([*domain.aliases, "postmaster", "mailer-daemon"])
        for local in known:
            if index == 0 or local not in domain.aliases:
                yield f"{local}@{name}", [f"{local}@{name}"]
        yield f"@{name}", _whole([domain.catch_all], name)


def _whole(targets: Sequence[str], name: str) -> list[str]:
    return [target if "@" in target else f"{target}@{name}" for target in targets]
