"""`up`, step by step, over either engine.

Order: lock, spec, passwords, network and ports, certificates, rendering, plan, carrying out, waiting until
every service answers. What can fail without touching the running stack comes first. A failure after that is
undone: a stack that was not there before is removed with everything it made, one that was is put back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mailstack.runtime import probes, tls
from mailstack.runtime.engine import Engine, Ground, Launch
from mailstack.runtime.errors import NotReady, UsageProblem
from mailstack.runtime.model import Progress, ProgressCallback, ServiceKey, Step
from mailstack.runtime.plan import Wanted, make_plan
from mailstack.runtime.site import build_site, environment, gather_facts, resolve_passwords
from mailstack.runtime.state import Record, Secrets, StateDir, remove_socket_base
from mailstack.runtime.tree import TreeFile

if TYPE_CHECKING:
    from mailstack.render import Site, Tree
    from mailstack.spec import Stack

LOCK_TIMEOUT = 120.0
"""Seconds to wait for another command on the project: a first `up` with an image build takes a while."""
TLS_NAMES = ("cert.pem", "key.pem", "ca.pem")


class Phases:
    """How long each part took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.began = time.monotonic()

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began


@contextmanager
def orderly_end() -> Iterator[None]:
    """Let SIGTERM end this process by an exception, as Ctrl-C does, so that what is half made is undone.

    A cancelled CI job sends it. Whoever handles the signal already is left alone.
    """
    import signal
    import threading

    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that is known before anything is changed."""

    ground: Ground
    secrets: Secrets
    tree: Tree
    files: Mapping[str, TreeFile]
    wanted: Wanted
    steps: tuple[Step, ...]
    record: Record
    """As it will be once the steps have been carried out."""
    notes: tuple[str, ...] = ()
    """What the user should know."""


def prepare(
    stack: Stack,
    spec_path: str | None,
    state: StateDir,
    record: Record,
    engine: Engine,
    environ: Mapping[str, str],
    phases: Phases,
    *,
    dry: bool,
) -> Prepared:
    """Decide everything; after `engine.provide`.

    With `dry` nothing is written: certificates that would be made count as changed.
    """
    with phases.measure("plan"):
        secrets = resolve_passwords(stack, state.load_secrets(), environ)
        ground = engine.settle(stack, record)
        paths = engine.paths(record)
        served = served_serials(record)
        if not dry:
            engine.begin(record, ground)
    with phases.measure("certificates"):
        tls_files = _certificates(stack, state, engine, ground, dry=dry)
    with phases.measure("render"):
        chain = tls_files["tls/cert.pem"].data if tls_files else None
        facts = gather_facts(stack, chain)
        tree = _render(
            stack,
            lambda: build_site(
                stack, engine.kind, ground, paths, record, secrets, date.today(), facts=facts, served=served
            ),
        )
    with phases.measure("plan"):
        files = {path: TreeFile(file.data, file.mode) for path, file in tree.files.items()} | tls_files
        digests = {path: file.digest for path, file in files.items()}
        wanted = engine.wanted(stack, ground, digests)
        found = engine.find(record)
        steps = make_plan(wanted, found)
    lost = [
        zone
        for zone in record.changed
        if zone not in tree.serials or tree.serials[zone][1] != record.serials.get(zone, (0, ""))[1]
    ]
    primary = stack.primary
    after = record.but(
        spec=spec_path or record.spec,
        runtime=engine.kind,
        docker=record.docker or engine.kind == "docker",
        network=str(ground.network),
        addresses=dict(ground.addresses),
        own=ground.own,
        bind=ground.bind,
        host=ground.host,
        ports=dict(ground.ports),
        domain=primary,
        hostname=stack.domains[primary].hostname,
        users=tuple(secrets.users),
        tls=stack.tls.mode,
        serials=dict(tree.serials),
        served=served,
        changed=tuple(zone for zone in record.changed if zone not in lost),
        services=dict(wanted.services),
    )
    notes = tuple(
        f"{zone}: what `dns set` has changed is gone, for the spec has changed the zone" for zone in lost
    )
    return Prepared(ground, secrets, tree, files, wanted, steps, after, notes)


def _certificates(
    stack: Stack, state: StateDir, engine: Engine, ground: Ground, *, dry: bool
) -> dict[str, TreeFile]:
    """The files in `tls/`, made or copied where that is needed."""
    if stack.tls.mode == "off":
        return {}
    fresh = False
    if stack.tls.mode == "files":
        assert stack.tls.cert is not None
        assert stack.tls.key is not None
        if not dry:
            tls.adopt(state.tls, stack.tls.cert, stack.tls.key)
    else:
        names = subjects(stack, engine, ground)
        if dry:
            fresh = tls.reusable(state.tls, names, time.time()) is None
        else:
            tls.ensure(state.tls, state.project, names, time.time())
    files = {}
    for name in TLS_NAMES:
        try:
            data = b"" if fresh and name == "cert.pem" else (state.tls / name).read_bytes()
        except FileNotFoundError:
            if name == "ca.pem" and stack.tls.mode == "files":
                continue
            data = b""
        files[f"tls/{name}"] = TreeFile(data, 0o600 if name == "key.pem" else 0o644)
    return files


def _render(stack: Stack, site: Callable[[], Site]) -> Tree:
    """Render; what cannot be written into a file is the user's to change. Raises `UsageProblem`."""
    from mailstack.render import RenderError, render

    try:
        return render(stack, site())
    except RenderError as error:
        raise UsageProblem(str(error)) from error


def subjects(stack: Stack, engine: Engine, ground: Ground) -> set[str]:
    """Every name and address by which a client may know the stack."""
    names = {"localhost", *engine.names(ground)}
    for domain, settings in stack.domains.items():
        names |= {settings.hostname, *(f"{service}.{domain}" for service in ("dns", "imap", "pop3"))}
        if settings.address is not None:
            names.add(str(settings.address))
    return names


def up(
    load: Callable[[], Stack],
    spec_path: str | None,
    spec_stamp: str,
    state: StateDir,
    engine: Engine,
    environ: Mapping[str, str],
    progress: ProgressCallback,
    phases: Phases,
    *,
    build: bool,
    timeout: float,
    wait: bool,
) -> Prepared:
    """Bring the stack to the spec; the caller holds the project's lock. Raises as `Project.up` says.

    `load` reads the spec, `timeout` counts from when everything has been started. `spec_stamp`: see `Record`.
    """
    before = state.load()
    secrets_before = state.load_secrets()
    record = before
    try:
        record = before.but(socket_base=state.socket_base(before) if engine.kind == "process" else "")
        engine.warm_up(record)
        with phases.measure("load"):
            stack = load()
        with phases.measure("image"):
            built = engine.provide(build=build, dry=False)
        with state.lock_home():
            prepared = prepare(stack, spec_path, state, record, engine, environ, phases, dry=False)
            # from here on the other projects of this user see which addresses and ports are ours
            state.save(prepared.record.but(services=before.services, runtime=before.runtime))
            state.save_secrets(prepared.secrets)
        if prepared.steps:
            with phases.measure("apply"):
                engine.apply(
                    Launch(prepared.steps, prepared.files, prepared.wanted, prepared.ground),
                    lambda step: progress(Progress("step", str(step), elapsed=phases.elapsed)),
                )
        state.save(prepared.record.but(spec_stamp=spec_stamp))
        if wait:
            with phases.measure("ready"):
                _wait(stack, state, engine, prepared.ground, progress, phases, timeout)
        engine.commit()
        if record.socket_base != before.socket_base:
            remove_socket_base(before)
        return prepared if built is None else replace(prepared, steps=(built, *prepared.steps))
    except BaseException:
        progress(Progress("undo", "putting back what was there before", elapsed=phases.elapsed))
        engine.undo()
        if record.socket_base != before.socket_base:
            remove_socket_base(record)
        state.save(before)
        state.save_secrets(secrets_before)
        raise


def _wait(
    stack: Stack,
    state: StateDir,
    engine: Engine,
    ground: Ground,
    progress: ProgressCallback,
    phases: Phases,
    timeout: float,
) -> None:
    targets = [probes.Target(name, ground.host, port) for name, port in ground.ports.items()]

    def ready(service: ServiceKey) -> None:
        progress(Progress("ready", f"{service} is ready", service, phases.elapsed))

    wrong = probes.wait_ready(
        targets,
        expectation(stack.primary, stack.domains[stack.primary].hostname, stack.tls.mode, state),
        timeout=timeout,
        on_ready=ready,
        check=engine.check,
    )
    if wrong:
        engine.check()
        reasons = "; ".join(f"{service}: {reason}" for service, reason in sorted(wrong.items()))
        raise NotReady(
            f"not ready after {timeout:g} s: {reasons}",
            hint="this command runs in a container, whose 127.0.0.1 is not the daemon's: see network.bind"
            if engine.kind == "docker" and os.path.exists("/.dockerenv")
            else "what was started is removed again; give it longer with --timeout",
        )


def expectation(domain: str, hostname: str, mode: str, state: StateDir) -> probes.Expected:
    """What the probes of this stack expect; the certificates of mode `files` are not ours to judge."""
    faults = (state.rendered / "bind" / "faults.conf").exists()
    if mode == "off":
        return probes.Expected(domain, hostname, None, faults)
    ca = str(state.tls / "ca.pem")
    return probes.Expected(domain, hostname, probes.tls_context(ca, verify=mode == "ca"), faults)


def render_only(stack: Stack, state: StateDir, engine: Engine, environ: Mapping[str, str]) -> Tree:
    """The tree that `up` would write now. Writes nothing."""
    record = state.load()
    secrets = resolve_passwords(stack, state.load_secrets(), environ)
    ground = engine.settle(stack, record)
    paths = engine.paths(record)
    facts = gather_facts(stack, certificate(stack, state))
    served = served_serials(record)
    return _render(
        stack,
        lambda: build_site(
            stack, engine.kind, ground, paths, record, secrets, date.today(), facts=facts, served=served
        ),
    )


def served_serials(record: Record) -> dict[str, int]:
    """Zone -> the serial it was last seen with: asked of a stack that is up, else as remembered."""
    known = dict(record.served)
    if record.runtime is not None and "dns" in record.ports:
        known |= probes.serials(record.host, record.ports["dns"], record.serials)
    return known


def certificate(stack: Stack, state: StateDir) -> bytes | None:
    """The chain that the services have, or will have, as far as it is known; None without TLS."""
    path = state.tls / "cert.pem"
    match stack.tls.mode:
        case "off":
            return None
        case "files" if stack.tls.cert is not None:
            path = stack.tls.cert
    try:
        return path.read_bytes()
    except OSError:
        return None


def render_host(stack: Stack, root: Path, state: StateDir, environ: Mapping[str, str]) -> Tree:
    """The tree for an administrator's own machine, to lie at `root`. Writes nothing."""
    from mailstack.render import site_for_host

    secrets = resolve_passwords(stack, state.load_secrets(), environ)
    own = root / "tls" / "cert.pem"
    if stack.tls.mode == "ca":  # whoever administers the machine brings it
        chain = own.read_bytes() if own.is_file() else None
    else:
        chain = certificate(stack, state)
    facts = gather_facts(stack, chain)
    return _render(
        stack,
        lambda: site_for_host(
            PurePosixPath(root),
            stack,
            passwords=secrets.users,
            salt_secret=bytes.fromhex(secrets.salt),
            today=date.today(),
            serials=state.load().serials,
            facts=facts,
        ),
    )


def ca_file(record: Record, state: StateDir) -> str | None:
    """The file that clients verify the stack's certificate against, if it has one of its own."""
    path = state.tls / "ca.pem"
    return str(path) if record.tls != "off" and path.exists() else None


def variables(record: Record, secrets: Secrets, state: StateDir) -> dict[str, str]:
    """The variables of `mailstack env`."""
    return environment(record, secrets.users, ca_file(record, state))
