"""The one door of this room: what the command line calls.

`open_project` finds a project (by spec or by name) and returns a `Project`; every method may raise
`errors.RuntimeFailure` (with its exit status and a hint), and those that need the spec also raise
`mailstack.spec.SpecErrors`. Heavy imports (spec, render, cryptography, docker) happen inside the methods that
need them, so that `mailstack status` starts fast.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mailstack.runtime.errors import NoSuchProject, NotUp, RuntimeFailure, UsageProblem
from mailstack.runtime.model import (
    OWNER,
    SERVICES,
    Check,
    DownResult,
    Endpoints,
    ExecResult,
    Health,
    ImageInfo,
    LogLine,
    Plan,
    Progress,
    ProgressCallback,
    ProjectSummary,
    QueueOperation,
    RuntimeKind,
    RuntimeWish,
    ServiceKey,
    ServiceStatus,
    StackStatus,
    UpResult,
    no_progress,
)
from mailstack.runtime.state import Record, StateDir, list_states, state_home

if TYPE_CHECKING:
    from mailstack.render import Facts, Tree
    from mailstack.runtime.engine import Engine, Live
    from mailstack.spec import Stack


class Project:
    """One project, whether it runs or not. Make it with `open_project`.

    name: the project's name. spec_path: absolute path of its spec, or None when only the name is known and
    no `up` has left a spec's path behind.
    """

    def __init__(
        self, name: str | None, spec_path: Path | None, wish: RuntimeWish, environ: Mapping[str, str]
    ) -> None:
        self.spec_path = spec_path
        self.wish = wish
        self.environ = environ
        self._stack: Stack | None = None
        self._named = name is not None
        self._load_seconds = 0.0
        self.name = name or self._name_from_spec()
        self._state = StateDir(state_home(environ), self.name)
        self.state_dir = self._state.path
        record = self._state.load_quietly()
        if self.spec_path is None and record is not None and record.spec is not None:
            self.spec_path = Path(record.spec)

    @property
    def stack(self) -> Stack:
        """The checked spec, loaded once. Raises `SpecErrors`, `UsageProblem` (there is no spec)."""
        if self._stack is None:
            if self.spec_path is None:
                raise NoSuchProject(
                    f"there is no project {self.name!r} and no spec to make it from",
                    hint="name the spec with -f FILE, or see `mailstack status` in its folder",
                )
            began = time.monotonic()
            from mailstack.spec import load

            try:
                stack = load(self.spec_path)
            except OSError as error:
                raise UsageProblem(
                    f"{self.spec_path}: {error.strerror}", hint="name the spec with -f FILE"
                ) from error
            self._stack = stack.model_copy(update={"project": self.name}) if self._named else stack
            self._load_seconds += time.monotonic() - began
        return self._stack

    # ---- changing

    def plan(self, *, build: bool = False) -> Plan:
        """What `up` would do; changes nothing on disk, in the daemon or among the processes."""
        from mailstack.runtime import launch, select

        record = self._state.load()
        choice = select.choose(self.wish, record, self.environ, self._real_servers)
        with self._engine(choice.kind) as engine:
            stack = self.stack
            built = engine.provide(build=build, dry=True)
            prepared = launch.prepare(
                stack, self._spec_text(), self._state, record, engine, self.environ, launch.Phases(), dry=True
            )
        return Plan(choice.kind, choice.reason, (*((built,) if built else ()), *prepared.steps))

    def up(
        self,
        progress: ProgressCallback = no_progress,
        *,
        build: bool = False,
        timeout: float = 60.0,
        wait: bool = True,
    ) -> UpResult:
        """Bring the stack to the spec. With `wait`, returns when every service answers its own protocol.

        Raises `NotReady` after `timeout` seconds, `PortTaken`, `NoPrivilege`, `NoDocker`, `NoImage`,
        `ServiceDied`. A stack that this call began is removed again when it raises.
        """
        from mailstack.runtime import launch, select

        phases = launch.Phases()
        with launch.orderly_end(), self._state.lock(launch.LOCK_TIMEOUT):
            fresh = not self._state.exists()
            try:
                record = self._state.load()
                choice = select.choose(self.wish, record, self.environ, self._real_servers)
                progress(
                    Progress("choose", f"{choice.kind} runtime: {choice.reason}", elapsed=phases.elapsed)
                )
                self._state.make()
                with self._engine(choice.kind, progress) as engine:
                    prepared = launch.up(
                        lambda: self.stack,
                        self._spec_text(),
                        self._stamp(),
                        self._state,
                        engine,
                        self.environ,
                        progress,
                        phases,
                        build=build,
                        timeout=timeout,
                        wait=wait,
                    )
                    status = self._status_after(engine, prepared.record, ready=wait)
            except BaseException:
                if fresh:
                    self._state.remove()
                raise
        phases.seconds["load"] = phases.seconds.get("load", 0.0) + self._load_seconds
        return UpResult(
            plan=Plan(choice.kind, choice.reason, prepared.steps),
            status=status,
            seconds=phases.elapsed,
            phases=phases.seconds,
            warnings=(*prepared.ground.notes, *prepared.notes),
        )

    def down(self, progress: ProgressCallback = no_progress, *, volumes: bool = False) -> DownResult:
        """Stop and remove; with `volumes` mail, queue and state folder too. Nothing there: no error."""
        from mailstack.runtime.launch import LOCK_TIMEOUT

        began = time.monotonic()
        removed: list[str] = []
        with self._state.lock(LOCK_TIMEOUT):
            there = self._state.exists()
            record = self._state.load_quietly() or Record(project=self.name)
            if there and not volumes:
                from mailstack.runtime.launch import served_serials

                record = record.but(served=served_serials(record))
            for kind in self._kinds_to_end(record, volumes):
                progress(Progress("step", f"stopping {self.name} ({kind})", elapsed=time.monotonic() - began))
                with self._engine(kind, progress) as engine:
                    removed += engine.stop(record, volumes=volumes).removed
            if volumes and any(self.state_dir.iterdir()):
                self._state.remove()
                removed.append(f"state {self.state_dir}")
            elif there:
                self._state.save(record.but(runtime=None, services={}))
        return DownResult(tuple(removed))

    def _kinds_to_end(self, record: Record, volumes: bool) -> tuple[RuntimeKind, ...]:
        """Docker is asked when the stack runs there, or for the volumes that it left there."""
        kinds: list[RuntimeKind] = []
        if record.runtime != "docker" and self.wish != "docker":
            kinds.append("process")
        if "docker" in (record.runtime, self.wish) or (volumes and record.docker):
            kinds.append("docker")
        return tuple(kinds)

    # ---- looking

    def status(self, *, probe_timeout: float = 2.0) -> StackStatus:
        """Services, health (each asked now, over its own protocol), addresses, ports. Needs no spec."""
        record = self._state.load_quietly()
        if record is None or record.runtime is None:
            return self._stopped(record)
        from mailstack.runtime import launch, probes

        with self._engine(record.runtime) as engine:
            live = engine.live(record)
        targets = [
            probes.Target(name, record.host, port)
            for name, port in record.ports.items()
            if OWNER[name] in live and live[OWNER[name]].running
        ]
        expected = launch.expectation(record.domain, record.hostname, record.tls, self._state)
        wrong = probes.ask_all(targets, expected, probe_timeout)
        reasons: dict[ServiceKey, str] = {}
        for target, why in wrong.items():
            reasons.setdefault(target.service, f"{target}: {why}")
        services = tuple(_service(record, name, live.get(name), reasons.get(name, "")) for name in SERVICES)
        return self._status(record, services)

    def endpoints(self) -> Endpoints:
        """Where the stack is reached. Raises `NotUp` when it is not up. Needs no spec."""
        return self._endpoints(self._running())

    def env(self) -> dict[str, str]:
        """The `MAILSTACK_…` variables of `mailstack env`, in the documented order. Raises as `endpoints`."""
        from mailstack.runtime import launch

        return launch.variables(self._running(), self._state.load_secrets(), self._state)

    def zones(self) -> tuple[str, ...]:
        """The zones that the running stack serves. Raises `NotUp`."""
        return tuple(self._running().serials)

    def _ours(self, service: ServiceKey, record: Record, what: str) -> None:
        """Raises `RuntimeFailure` when the service is another program than ours."""
        deployed = record.services.get(service)
        engine = deployed.shape.get("engine", "python") if deployed is not None else "python"
        if engine != "python":
            called = {"dns": "name server", "mailbox": "mailbox service", "mta": "MTA"}[service]
            raise RuntimeFailure(
                f"{what}: the {called} is {engine}",
                hint=f"write {service}: {{engine: python}}, and mailstack up",
            )

    def update_secret(self) -> str:
        """The key that changes the running zones, base64 (TSIG, HMAC-SHA256).

        Raises `NotUp`, and `RuntimeFailure` for a name server whose zones do not change.
        """
        from mailstack.runtime.state import update_secret

        self._ours("dns", self._running(), "running zones cannot be changed")
        return update_secret(self._state.load_secrets().salt)

    def remember_change(self, zone: str) -> None:
        """Keep that a running zone was changed, and its serial: `up` goes beyond that. Raises `NotUp`."""
        from mailstack.runtime.launch import LOCK_TIMEOUT, served_serials

        with self._state.lock(LOCK_TIMEOUT):
            record = self._running()
            changed = tuple(sorted({*record.changed, zone.removesuffix(".")}))
            self._state.save(record.but(served=served_serials(record), changed=changed))

    def facts(self) -> Facts:
        """What the zones take from other files: the certificate (as far as there is one), DKIM keys."""
        from mailstack.runtime import launch, site

        return site.gather_facts(self.stack, launch.certificate(self.stack, self._state))

    def logs(
        self, services: Sequence[str] = (), *, follow: bool = False, since: float | None = None
    ) -> Iterator[LogLine]:
        """Log lines, oldest first; with `follow` without end. `since`: seconds before now."""
        record = self._state.load_quietly()
        if record is None:
            raise self._unknown()
        kind = record.runtime or ("docker" if record.docker else "process")
        start = None if since is None else time.time() - since
        with self._engine(kind) as engine:
            yield from engine.logs(services, follow=follow, since=start, record=record)

    def queue(self) -> list[dict[str, Any]]:
        """The queue as `postqueue -j` prints it: one mapping per message."""
        done = self._queue_command("postqueue", "-j", wrong="the queue cannot be read")
        return [json.loads(line) for line in done.stdout.splitlines() if line.strip()]

    def queue_content(self, queue_id: str) -> bytes:
        """A queued message's header and body, with LF line ends."""
        return self._queue_command("postcat", "-bhq", queue_id, wrong="the message cannot be read").stdout

    def flush_queue(self, queue_ids: Sequence[str] = (), domain: str = "") -> None:
        """Have deferred messages tried now: those named, those for a domain, or all."""
        options: list[tuple[str, ...]] = [("-i", queue_id) for queue_id in queue_ids]
        if domain:
            options.append(("-s", domain))
        for option in options or [("-f",)]:
            self._queue_command("postqueue", *option, wrong="the queue cannot be flushed")

    def change_queue(self, operation: QueueOperation, queue_ids: Sequence[str]) -> int:
        """Hold, release or remove messages; without ids all of them. Returns how many were there."""
        letter = {"hold": "-h", "release": "-H", "rm": "-d"}[operation]
        arguments = [word for queue_id in queue_ids or ("ALL",) for word in (letter, queue_id)]
        done = self._queue_command("postsuper", *arguments, wrong="the queue cannot be changed")
        counted = re.search(rb": (\d+) messages?\s*\Z", done.stderr)
        if counted is None:
            raise RuntimeFailure("the queue cannot be changed: postsuper does not say what it has done")
        return int(counted[1])

    def _queue_command(self, name: str, *arguments: str, wrong: str) -> ExecResult:
        """Run one of the MTA's commands where it runs. Raises `RuntimeFailure`, `NotUp`."""
        record = self._running()
        assert record.runtime is not None
        with self._engine(record.runtime) as engine:
            config = str(engine.paths(record).config_root / "postfix")
            done = engine.exec("mta", f"mailstack.mta.{name}", ("--config", config, *arguments), record)
        if done.status:
            said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise RuntimeFailure(f"{wrong}: {said or f'status {done.status}'}")
        return done

    def dns_statistics(self) -> dict[str, Any]:
        """What the DNS server was asked and answered. Raises `RuntimeFailure`, `NotUp`."""
        record = self._running()
        assert record.runtime is not None
        self._ours("dns", record, "the statistics cannot be had")
        with self._engine(record.runtime) as engine:
            config = str(engine.paths(record).config_root / "bind")
            done = engine.exec("dns", "mailstack.dns.stats", ("--config", config), record)
        if done.status:
            said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise RuntimeFailure(f"the statistics cannot be had: {said or f'status {done.status}'}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def verify_mailboxes(self, user: str, mailbox: str | None) -> list[dict[str, Any]]:
        """What is wrong in the files of a user's mailboxes: `mailbox`, `uid` (or None), `problem` each."""
        return self._doveadm("verify", user, mailbox, wrong="the files cannot be verified", fine=(0, 1))

    def reindex_mailboxes(self, user: str, mailbox: str | None) -> list[dict[str, Any]]:
        """Have the service make the index of one or all mailboxes anew: `mailbox` and `messages` each."""
        return self._doveadm(
            "force-resync", user, mailbox, wrong="the mailboxes cannot be indexed", fine=(0,)
        )

    def _doveadm(
        self, command: str, user: str, mailbox: str | None, *, wrong: str, fine: Sequence[int]
    ) -> list[dict[str, Any]]:
        """Run doveadm where the mailbox service runs. Raises `RuntimeFailure`, `NotUp`."""
        record = self._running()
        assert record.runtime is not None
        self._ours("mailbox", record, wrong)
        with self._engine(record.runtime) as engine:
            config = str(engine.paths(record).config_root / "dovecot")
            arguments = [
                "--config",
                config,
                command,
                "-u",
                user,
                *((mailbox,) if mailbox is not None else ()),
            ]
            done = engine.exec("mailbox", "mailstack.mailbox.doveadm", arguments, record)
        if done.status not in fine or (done.status and not done.stdout):
            said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise RuntimeFailure(f"{wrong}: {said or f'status {done.status}'}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def rendered(self) -> dict[str, bytes]:
        """The tree that the running stack has, relative path -> content; empty when it has never been up."""
        from mailstack.runtime.tree import read_tree

        return {path: file.data for path, file in sorted(read_tree(self._state.rendered).items())}

    def render(self) -> Tree:
        """The tree that `up` would write now, with the addresses and ports that this project has."""
        from mailstack.runtime import launch, select

        record = self._state.load()
        choice = select.choose(self.wish, record, self.environ, self._real_servers)
        with self._engine(choice.kind) as engine:
            return launch.render_only(self.stack, self._state, engine, self.environ)

    # ---- inside

    @contextmanager
    def _engine(self, kind: RuntimeKind, progress: ProgressCallback = no_progress) -> Iterator[Engine]:
        engine: Engine
        if kind == "process":
            from mailstack.runtime.process import ProcessEngine

            engine = ProcessEngine(self._state, self.environ)
        else:
            from mailstack.runtime.docker import DockerEngine

            engine = DockerEngine(self._state, self.environ, progress)
        try:
            yield engine
        finally:
            engine.close()

    def _real_servers(self) -> tuple[str, ...]:
        from mailstack.runtime import native

        return tuple(native.engines(self.stack).values())

    def _spec_text(self) -> str | None:
        return None if self.spec_path is None else str(self.spec_path)

    def _stamp(self) -> str:
        """Which version of the spec named this project; empty when the name was given."""
        return "" if self._named else _spec_stamp(self.spec_path)

    def _name_from_spec(self) -> str:
        """The spec's project name, without loading it where an `up` from this very file has left it."""
        stamp = _spec_stamp(self.spec_path)
        for state in list_states(state_home(self.environ)) if stamp else ():
            record = state.load_quietly()
            if record is not None and record.spec == str(self.spec_path) and record.spec_stamp == stamp:
                return state.project
        return self.stack.project

    def _running(self) -> Record:
        record = self._state.load_quietly()
        if record is None or record.runtime is None:
            raise self._unknown()
        return record

    def _unknown(self) -> NotUp:
        return NotUp(f"{self.name} is not up", hint="start it with `mailstack up`")

    def _endpoints(self, record: Record) -> Endpoints:
        from mailstack.runtime.launch import ca_file

        return Endpoints(
            project=record.project,
            domain=record.domain,
            hostname=record.hostname,
            host=record.host,
            ports=dict(record.ports),
            ca_file=ca_file(record, self._state),
            tls=record.tls != "off",
            users=dict(self._state.load_secrets().users),
            addresses={name: record.addresses[name] for name in SERVICES if name in record.addresses},
            network=record.network if record.addresses else "",
        )

    def _stopped(self, record: Record | None) -> StackStatus:
        services = tuple(
            ServiceStatus(service=name, health="stopped", detail="it is not up", address="", ports={})
            for name in SERVICES
        )
        return StackStatus(
            self.name,
            None,
            "stopped",
            services,
            None,
            str(self.state_dir),
            record.spec if record else None,
            {},
        )

    def _status(self, record: Record, services: tuple[ServiceStatus, ...]) -> StackStatus:
        from mailstack.runtime import launch

        order: tuple[Health, ...] = ("failing", "starting", "stopped", "ready")
        worst = min((service.health for service in services), key=order.index)
        if worst == "stopped" and any(service.health == "ready" for service in services):
            worst = "failing"
        return StackStatus(
            project=record.project,
            runtime=record.runtime,
            health=worst,
            services=services,
            endpoints=self._endpoints(record),
            state_dir=str(self.state_dir),
            spec_path=record.spec,
            env=launch.variables(record, self._state.load_secrets(), self._state),
        )

    def _status_after(self, engine: Engine, record: Record, *, ready: bool) -> StackStatus:
        """The status that `up` has just established: it is not asked for again."""
        live = engine.live(record)
        services = tuple(
            _service(record, name, live.get(name), "" if ready else "not waited for", starting=not ready)
            for name in SERVICES
        )
        return self._status(record, services)


def _service(
    record: Record, name: ServiceKey, live: Live | None, wrong: str, *, starting: bool = False
) -> ServiceStatus:
    health: Health
    if live is None:
        health, detail = "stopped", "it is not there"
    elif not live.running:
        health, detail = ("failing" if live.detail else "stopped"), live.detail
    elif wrong:
        health, detail = ("starting" if starting else "failing"), wrong
    else:
        health, detail = "ready", ""
    return ServiceStatus(
        service=name,
        health=health,
        detail=detail,
        address=record.addresses.get(name, ""),
        ports={protocol: port for protocol, port in record.ports.items() if OWNER[protocol] == name},
        pid=live.pid if live else None,
        container=live.container if live else None,
        started_at=live.started_at if live else None,
        restarts=live.restarts if live else 0,
    )


def _spec_stamp(path: Path | None) -> str:
    """Changes whenever the file does; empty when it cannot be looked at."""
    if path is None:
        return ""
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"


def open_project(
    spec_path: Path | None = None,
    project: str | None = None,
    *,
    runtime: RuntimeWish = "auto",
    environ: Mapping[str, str] = os.environ,
) -> Project:
    """Find a project. `spec_path`: its file; `project`: its name (wins over the spec's own).

    With a name alone, the state folder of that name tells where the spec is. Raises `NoSuchProject` when
    neither is given; as `Project.stack` when the name has to come from the spec.
    """
    if spec_path is None and project is None:
        raise NoSuchProject("which project?", hint="name one with -p NAME, or its spec with -f FILE")
    return Project(project, spec_path.absolute() if spec_path else None, runtime, environ)


def render_host(stack: Stack, root: Path, environ: Mapping[str, str] = os.environ) -> Tree:
    """The tree for an administrator's own machine, to lie at `root` (`mailstack render`).

    Standard ports on all interfaces. Passwords that the spec leaves open, and zone serials, are those of the
    project's state folder where it has one. Nothing is written.
    """
    from mailstack.runtime import launch

    return launch.render_host(stack, root, StateDir(state_home(environ), stack.project), environ)


def list_projects(environ: Mapping[str, str] = os.environ) -> list[ProjectSummary]:
    """Every project of this user that has a state folder, by name."""
    found = []
    for state in list_states(state_home(environ)):
        record = state.load_quietly()
        found.append(
            ProjectSummary(
                project=state.project,
                runtime=record.runtime if record else None,
                state_dir=str(state.path),
                spec_path=record.spec if record else None,
                running=record is not None and record.runtime is not None,
            )
        )
    return found


def image_build(
    base: str | None = None,
    progress: ProgressCallback = no_progress,
    environ: Mapping[str, str] = os.environ,
) -> ImageInfo:
    """Build the container image on `base` (default `python:3.11-slim`). Raises `NoDocker`, `NoImage`."""
    from mailstack.runtime import image

    return image.build(base, progress, environ)


def doctor_checks(project: Project | None = None, environ: Mapping[str, str] = os.environ) -> list[Check]:
    """Read-only findings about this machine and, when given, the project."""
    from mailstack.runtime import doctor

    return doctor.checks(project, environ)
