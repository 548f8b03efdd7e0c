"""Checks that compare values of a spec. Each yields `(path, message)`, the path in canonical names; a path
that ends in `KEY` is about the key itself.

They run on whatever part of the file is valid, so that one run reports every problem; `broken` holds the
paths that are reported already, about which nothing more is said.
"""

from __future__ import annotations

from collections.abc import Iterator

from mailstack.spec.fields import quoted
from mailstack.spec.model import Domain, Stack

Path = tuple[str | int, ...]
Finding = tuple[Path, str]
KEY = "[key]"
"""As in pydantic's own places."""


class Broken:
    """Paths that a problem was reported for."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths

    def __contains__(self, path: Path) -> bool:
        """Whether a problem was reported at, below or above `path`."""
        return any(known[: len(path)] == path or path[: len(known)] == known for known in self._paths)

    def may_hold_users(self, domain: str) -> bool:
        """Whether what was reported may be the domain's users under a wrong key, or the first domain."""
        return any(
            known[0] == "domains"
            and (
                len(known) == 2
                or (known[1] == domain and len(known) == 3 and known[2] not in Domain.model_fields)
            )
            for known in self._paths
        )


def check(stack: Stack, broken: Broken) -> Iterator[Finding]:
    """Every problem between the values of `stack`."""
    yield from _domains(stack, broken)
    for name, domain in stack.domains.items():
        yield from _users(name, domain)
        yield from _targets(stack, name, domain, broken)
        yield from _records(stack, name, domain)
    yield from _loops(stack)
    yield from _mta(stack)
    yield from _mailbox(stack, broken)
    yield from _repeats(stack)
    yield from _tls(stack, broken)
    yield from _faults(stack)
    yield from _network(stack)


def _domains(stack: Stack, broken: Broken) -> Iterator[Finding]:
    hosts = {domain.hostname: name for name, domain in reversed(stack.domains.items())}
    for name, domain in stack.domains.items():
        place: Path = ("domains", name, "hostname")
        hostname = domain.hostname
        if hostname != name and not hostname.endswith(f".{name}"):
            other = hosts[hostname]
            why = "does not lie in this domain" if other == name else f"is the mail host of {other} already"
            yield place, f"{hostname} {why}; write mail.{name}"
        for other in stack.domains:
            if other.endswith(f".{name}") and (hostname == other or hostname.endswith(f".{other}")):
                yield (
                    place,
                    f"{hostname} lies in the other domain {other}; write mail.{name}, or another name",
                )
    first = stack.primary
    hidden = ("domains", first, "users") in broken or broken.may_hold_users(first)
    if not stack.domains[first].users and not hidden:
        yield ("domains", first), "the first domain has no users; write at least users: {anna: {}}"


def _users(name: str, domain: Domain) -> Iterator[Finding]:
    for user, settings in domain.users.items():
        place: Path = ("domains", name, "users", user)
        given = [
            key for key in ("password", "password_file", "password_env") if getattr(settings, key) is not None
        ]
        if len(given) > 1:
            yield place, f"{' and '.join(given)} are given; keep one of them"
        targets = domain.aliases.get(user)
        if targets is not None and user not in targets and f"{user}@{name}" not in targets:
            yield (
                ("domains", name, "aliases", user),
                f"{user} is a user too and would get no mail; add {user} to the targets, or rename the alias",
            )


def _targets(stack: Stack, name: str, domain: Domain, broken: Broken) -> Iterator[Finding]:
    for alias, targets in domain.aliases.items():
        place: Path = ("domains", name, "aliases", alias)
        if not targets and place not in broken:
            yield place, "has no target; write at least one user or address, such as [anna]"
        for index, target in enumerate(targets):
            if target in targets[:index]:
                yield (*place, index), f"{target} is given twice; keep one"
                continue
            fault = _unknown(stack, name, target, broken)
            if fault:
                yield (*place, index), fault
    if domain.catch_all is not None:
        fault = _unknown(stack, name, domain.catch_all, broken)
        if fault:
            yield ("domains", name, "catch_all"), fault
    if domain.reports is not None:
        fault = _unknown(stack, name, domain.reports, broken)
        if fault:
            yield ("domains", name, "reports"), fault


def _unknown(stack: Stack, name: str, target: str, broken: Broken) -> str | None:
    """Why `target` cannot be found, or None; addresses outside the stack are not ours to judge."""
    local, _, where = target.rpartition("@") if "@" in target else (target, "", name)
    domain = stack.domains.get(where)
    if domain is None:
        return None
    local = local.lower()
    known = (*domain.users, *domain.aliases, "postmaster")
    bare = local.partition("+")[0]
    if bare in known or local in known or (where != name and domain.catch_all is not None):
        return None
    if any(
        place in broken for place in (("domains", where, "users", bare), ("domains", where, "aliases", bare))
    ):
        return None
    from mailstack.spec.problems import nearest

    hint = nearest(bare, known)
    wanted = f"write {hint}" if hint else f"write one of {', '.join(known[:5])}"
    return f"{where} has no user or alias {quoted(local)}; {wanted}, or a full address elsewhere"


def _loops(stack: Stack) -> Iterator[Finding]:
    """Aliases that lead only to each other. One that leads to a user of its own name ends there."""
    graph: dict[str, list[str]] = {}
    users = {address for address, _ in stack.users()}
    for name, domain in stack.domains.items():
        for alias, targets in domain.aliases.items():
            address = f"{alias}@{name}"
            full = [target.lower() if "@" in target else f"{target}@{name}" for target in targets]
            graph[address] = [target for target in full if not (target == address and address in users)]
    done: set[str] = set()
    for start in graph:
        trail: list[str] = []
        found = _cycle(graph, start, trail, done)
        if found:
            alias, _, name = found[0].rpartition("@")
            yield (
                ("domains", name, "aliases", alias),
                f"leads back to itself: {_short([*found, found[0]])}; make one of them lead to a user",
            )


def _short(trail: list[str]) -> str:
    return " -> ".join(trail if len(trail) <= 8 else [*trail[:4], "...", *trail[-3:]])


def _cycle(graph: dict[str, list[str]], start: str, trail: list[str], done: set[str]) -> list[str] | None:
    """The first cycle that is reached from `start` and not known yet (depth first, without recursion)."""
    if start in done:
        return None
    pending = [iter(graph[start])]
    trail.append(start)
    found: list[str] | None = None
    while pending:
        step = next(pending[-1], None)
        if step is None:
            pending.pop()
            done.add(trail.pop())
        elif step in trail:
            found = found or trail[trail.index(step) :]
        elif step in graph and step not in done:
            trail.append(step)
            pending.append(iter(graph[step]))
    return found


def _records(stack: Stack, name: str, domain: Domain) -> Iterator[Finding]:
    if not domain.records:
        return
    from mailstack.spec import records

    for index, fault in records.problems(stack, name):
        yield ("domains", name, "records", index), fault


def _mta(stack: Stack) -> Iterator[Finding]:
    queue = stack.mta.queue
    if queue.minimal_backoff > queue.maximal_backoff:
        yield (
            ("mta", "queue", "minimal_backoff"),
            "is longer than maximal_backoff; write a shorter one, or raise maximal_backoff",
        )
    if queue.minimal_backoff > queue.lifetime:
        yield (
            ("mta", "queue", "lifetime"),
            "is shorter than minimal_backoff; nothing would be tried twice: raise it",
        )
    for index, domain in enumerate(stack.mta.relay_domains):
        if domain in stack.domains:
            yield (
                ("mta", "relay_domains", index),
                f"{domain} is one of the stack's own domains; remove it here",
            )
    if stack.mta.postfix:
        from mailstack.spec import postfix_keys

        for key, value in stack.mta.postfix.items():
            fault = postfix_keys.key_problem(key)
            if stack.mta.engine == "postfix" and key in postfix_keys.RUNNING:
                fault = "is decided by how Postfix is run; leave it out"
            if fault:
                yield ("mta", "postfix", key, KEY), fault
                continue
            fault = postfix_keys.value_problem(key, value, stack.mta.postfix)
            if fault:
                yield ("mta", "postfix", key), fault


def _mailbox(stack: Stack, broken: Broken) -> Iterator[Finding]:
    protocols = stack.mailbox.protocols
    if ("mailbox", "protocols") in broken:
        return
    if "imap" not in protocols and "pop3" not in protocols:
        yield ("mailbox", "protocols"), "nobody could read mail; add imap or pop3"
    if stack.mailbox.engine == "dovecot" and stack.sasl.backend == "saslauthd":
        yield (
            ("sasl", "backend"),
            "Dovecot is no saslauthd; write backend: dovecot, or mailbox: {engine: python}",
        )
    if stack.mta.engine == "postfix" and stack.sasl.backend == "saslauthd":
        yield (
            ("sasl", "backend"),
            "Postfix does not reach saslauthd's socket; write backend: dovecot, or mta: {engine: python}",
        )
    if stack.mta.engine == "postfix" and stack.mailbox.delivery == "maildir":
        yield (
            ("mailbox", "delivery"),
            "Postfix does not reach the Maildirs; write delivery: lmtp, or mta: {engine: python}",
        )
    if stack.mailbox.delivery == "lmtp" and "lmtp" not in protocols:
        yield ("mailbox", "protocols"), "delivery goes by LMTP; add lmtp, or write delivery: maildir"


def _repeats(stack: Stack) -> Iterator[Finding]:
    lists: tuple[tuple[Path, tuple[str, ...]], ...] = (
        (("mta", "networks"), stack.mta.networks),
        (("mta", "relay_domains"), stack.mta.relay_domains),
        (("mailbox", "protocols"), stack.mailbox.protocols),
        (("dns", "forward"), stack.dns.forward),
        (("sasl", "mechanisms"), stack.sasl.mechanisms),
        *((("domains", name, "caa"), domain.caa) for name, domain in stack.domains.items()),
    )
    for place, values in lists:
        for index, value in enumerate(values):
            if value in values[:index]:
                yield (*place, index), f"{value} is given twice; keep one"


def _tls(stack: Stack, broken: Broken) -> Iterator[Finding]:
    tls = stack.tls
    if not stack.sasl.mechanisms and ("sasl", "mechanisms") not in broken:
        yield ("sasl", "mechanisms"), "nobody could log in; write [plain, login]"
    if ("tls", "mode") in broken:
        return
    for key in ("cert", "key"):
        given = getattr(tls, key) is not None
        if tls.mode == "files" and not given and ("tls", key) not in broken:
            yield ("tls", "mode"), f"files needs both cert and key; add {key}: FILE.pem"
        elif tls.mode != "files" and given:
            yield (
                ("tls", key),
                f"is used only with mode: files; remove it, or write mode: files in place of {tls.mode}",
            )
    if tls.mode == "off" and not stack.mailbox.allow_plaintext_auth and ("mailbox",) not in broken:
        yield (
            ("tls", "mode"),
            "without TLS nobody may send a password; write mailbox: {allow_plaintext_auth: true} or mode: ca",
        )


def _faults(stack: Stack) -> Iterator[Finding]:
    """Of faults that stand in the spec itself; a file is read when it is needed."""
    if stack.dns.faults is not None and stack.dns.engine != "python":
        yield ("dns", "faults"), f"{stack.dns.engine} gives no wrong answers on purpose; write engine: python"
    if stack.dns.faults is not None and "{" in stack.dns.faults:
        from mailstack.spec import faults

        found = faults.problem(stack.dns.faults)
        if found is not None:
            line, message = found
            yield ("dns", "faults"), f"line {line} of it: {message}" if line else message


def _network(stack: Stack) -> Iterator[Finding]:
    publish = stack.network.publish
    if isinstance(publish, str):
        return
    from mailstack.spec.model import SERVICES
    from mailstack.spec.problems import nearest

    offered = stack.services
    taken: dict[int, str] = {}
    for name, port in publish.items():
        place: Path = ("network", "publish", name)
        if name not in SERVICES:
            hint = nearest(name, SERVICES)
            known = f"write {hint}" if hint else f"known are {', '.join(SERVICES)}"
            yield (*place, KEY), f"is not a service; {known}"
            continue
        if name not in offered:
            why = (
                "tls.mode is off"
                if stack.tls.mode == "off" and name.endswith("s") and name != "dns"
                else ("mailbox.protocols does not name it")
            )
            yield place, f"is not offered by this stack ({why}); remove it"
        if type(port) is not int or not 1 <= port <= 65535:
            yield place, "is not a port; write a whole number from 1 to 65535"
            continue
        if port in taken:
            yield place, f"port {port} is {taken[port]}'s already; write another one"
        taken.setdefault(port, name)
