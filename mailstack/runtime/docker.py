"""The docker engine: three containers of one image in a network of their own.

The containers have fixed addresses in a subnet that clashes with no route and no other network, our DNS as
resolver, a read-only root, no capability and no way to gain one. The configuration lies in a volume; it gets
there through a container that is made for it and never started, so that this works with a daemon on another
machine too and no running container can write it.

Drift is found by a label with a digest of what a container was made from; what a service reads again on
SIGHUP is compared with the project's record instead, because labels cannot change.
"""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Any

import mailstack
from mailstack.runtime import containers as setup
from mailstack.runtime import daemon, image, network, ports
from mailstack.runtime.daemon import Daemon, call, in_parallel
from mailstack.runtime.engine import Ground, Launch, Live, Paths, StepCallback, Swept
from mailstack.runtime.errors import MachineLacks, RuntimeFailure, ServiceDied
from mailstack.runtime.model import (
    SERVICES,
    STANDARD_PORTS,
    ExecResult,
    LogLine,
    Progress,
    ProgressCallback,
    RuntimeKind,
    ServiceKey,
    Step,
    no_progress,
)
from mailstack.runtime.network import LOOPBACK, Addresses
from mailstack.runtime.plan import Found, FoundService, Wanted, files_of
from mailstack.runtime.state import Deployed, Record, StateDir
from mailstack.runtime.tree import TreeFile, bring_to, read_tree, restore

if TYPE_CHECKING:
    from mailstack.spec import Stack

CHECK_EVERY = 0.2
"""Seconds between two looks at the containers while they are waited for."""
TAIL = 12
_OLD = "-before"
"""What the name of a container ends in while its successor is tried."""
# The order in which things are undone: an old container must not start with the new configuration.
_END_NEW, _RESTORE, _START_OLD, _DROP_FRAME = range(4)


class DockerEngine:
    """The services of one project as containers."""

    kind: RuntimeKind = "docker"

    def __init__(
        self, state: StateDir, environ: Mapping[str, str], progress: ProgressCallback = no_progress
    ) -> None:
        self.state = state
        self.environ = environ
        self.progress = progress
        self._known: Daemon | None = None
        self._image = ""
        self._python = "python3"
        self._maildir = False
        self._subnet: IPv4Network | None = None
        self._undo: list[tuple[int, Callable[[], object]]] = []
        self._obsolete: list[str] = []
        self._started: dict[ServiceKey, str] = {}
        self._checked = 0.0

    @property
    def daemon(self) -> Daemon:
        """The daemon, connected once. Raises `NoDocker`."""
        if self._known is None:
            self._known = daemon.connect(self.environ)
        return self._known

    def close(self) -> None:
        if self._known is not None:
            self._known.close()
            self._known = None

    # ---- before anything is changed

    def warm_up(self, record: Record) -> None:
        """Learn early that there is no daemon, before time is spent on anything else."""
        _ = self.daemon

    def provide(self, *, build: bool, dry: bool) -> Step | None:
        """Have the image. Returns the step that this is (or would be, with `dry`). Raises `NoImage`."""
        found = image.present(self.daemon.api)
        if found is not None and not build:
            self._image, self._python = found
            return None
        step = Step(
            "build", "image", "asked for with --build" if build else f"{image.tag()} is not there yet"
        )
        if dry:
            self._image = f"{image.tag()} (to be built)"
        else:
            info = image.build_with(self.daemon.api, None, self.progress)
            for note in info.notes:
                self.progress(Progress("note", note))
            made = image.present(self.daemon.api)
            assert made is not None
            self._image, self._python = made
        return step

    def settle(self, stack: Stack, record: Record) -> Ground:
        bind = str(stack.network.bind)
        anywhere = bind == "0.0.0.0"
        remote = self.daemon.remote
        if remote and bind.startswith("127."):
            raise MachineLacks(
                f"the Docker daemon is on {remote}, where {bind} cannot be reached from here",
                hint="set network.bind to an address of that machine, or to 0.0.0.0",
            )
        self._maildir = stack.mailbox.delivery == "maildir"
        self._subnet = self._network(stack, record)
        running = self._published()
        fixed = ports.fixed_ports(stack)
        kept = {name: port for name, port in running.items() if name in stack.services and name not in fixed}
        for name, port in fixed.items():
            if not remote and running.get(name) != port:
                ports.require_free(name, bind, port)
        chosen = kept | ports.choose(
            [name for name in stack.services if name not in kept],
            bind=bind,
            seed=str(self.state.path),
            remembered=record.ports if record.bind == bind else {},
            fixed=fixed,
            avoid=ports.others_ports(self.state) | set(kept.values()),
            test=not remote,
        )
        return Ground(
            network=self._subnet,
            addresses=Addresses(self._subnet).as_text(),
            own=stack.services,
            bind=bind,
            host=(remote or "127.0.0.1") if anywhere else bind,
            ports={name: chosen[name] for name in stack.services},
        )

    def _published(self) -> dict[str, int]:
        """The ports that our running containers have now: those are not free, and are ours."""
        found: dict[str, int] = {}
        names = {port: name for name, port in STANDARD_PORTS.items()}
        for item in self._containers():
            for entry in item.get("Ports") or ():
                name = names.get(entry.get("PrivatePort"))
                if name and entry.get("Type") == "tcp" and entry.get("PublicPort"):
                    found[name] = int(entry["PublicPort"])
        return found

    def _network(self, stack: Stack, record: Record) -> IPv4Network:
        wish = stack.network.subnet
        if isinstance(wish, IPv4Network):
            if wish.subnet_of(LOOPBACK):
                raise MachineLacks(
                    f"network.subnet {wish} is part of 127.0.0.0/8, where containers cannot have addresses",
                    hint="set network.subnet to auto, or use the process runtime",
                )
            return wish
        own = setup.network_name(self.state.project)
        taken: list[IPv4Network] = []
        mine: IPv4Network | None = None
        for item in call("listing networks", lambda: self.daemon.api.networks()):
            for pool in (item.get("IPAM") or {}).get("Config") or ():
                subnet = str(pool.get("Subnet", ""))
                if "." not in subnet:
                    continue
                if item["Name"] == own:
                    mine = IPv4Network(subnet)
                else:
                    taken.append(IPv4Network(subnet, strict=False))
        if mine is not None:
            return mine
        routes = [] if self.daemon.remote else network.host_routes()
        remembered = IPv4Network(record.network) if record.network else None
        if remembered is not None and not remembered.subnet_of(LOOPBACK):
            candidates: list[IPv4Network] = [remembered]
        else:
            candidates = []
        return network.first_free(
            _chain(candidates, network.docker_candidates(str(self.state.path))), [*taken, *routes]
        )

    def paths(self, record: Record) -> Paths:
        return setup.PATHS

    def names(self, ground: Ground) -> tuple[str, ...]:
        return ("127.0.0.1", "::1", ground.host, *SERVICES, *ground.addresses.values())

    def wanted(self, stack: Stack, ground: Ground, digests: Mapping[str, str]) -> Wanted:
        project = self.state.project
        services: dict[ServiceKey, Deployed] = {}
        for service in SERVICES:
            offered = setup.published(service, ground.ports)
            shape = {
                "image": self._image,
                "ports": " ".join(f"{ground.bind}:{host}:{port}/{kind}" for port, kind, host in offered),
                "address": f"{ground.addresses[service]} in {ground.network}",
                "mounts": " ".join(
                    f"{mount.volume}:{mount.target}:{mount.mode}"
                    for mount in setup.mounts(service, maildir=self._maildir)
                ),
            }
            services[service] = Deployed(shape, files_of(service, digests))
        frame = [f"network {setup.network_name(project)}"]
        frame += [f"volume {setup.volume_name(project, name)}" for name in setup.VOLUMES]
        return Wanted("docker", services, tuple(frame))

    # ---- what is there

    def _containers(self) -> list[dict[str, Any]]:
        """Every container with this project's label, running or not, as the daemon lists it."""
        label = f"{setup.LABEL_PROJECT}={self.state.project}"
        found: list[dict[str, Any]] = call(
            "listing containers", lambda: self.daemon.api.containers(all=True, filters={"label": label})
        )
        return found

    def _frame(self) -> tuple[list[dict[str, Any]], list[str]]:
        """This project's networks and the names of its volumes."""
        label = {"label": f"{setup.LABEL_PROJECT}={self.state.project}"}
        networks = call("listing networks", lambda: self.daemon.api.networks(filters=label))
        volumes = call("listing volumes", lambda: self.daemon.api.volumes(filters=label))
        return networks, [str(volume["Name"]) for volume in volumes.get("Volumes") or ()]

    def find(self, record: Record) -> Found:
        project = self.state.project
        services: dict[ServiceKey, FoundService] = {}
        strays: list[str] = []
        for item in self._containers():
            name = item["Names"][0].lstrip("/")
            service = next((key for key in SERVICES if name == setup.container_name(project, key)), None)
            if service is None:
                strays.append(f"container {name}")
                continue
            known = record.services.get(service)
            if known is not None and item["Labels"].get(setup.LABEL_HASH) != setup.config_hash(
                service, known
            ):
                known = None
            services[service] = FoundService("running" if item["State"] == "running" else "stopped", known)
        networks, volumes = self._frame()
        frame = {f"network {item['Name']}" for item in networks} | {f"volume {name}" for name in volumes}
        unfit = {}
        for item in networks:
            subnets = [str(pool.get("Subnet")) for pool in (item.get("IPAM") or {}).get("Config") or ()]
            if self._subnet is not None and str(self._subnet) not in subnets:
                unfit[f"network {item['Name']}"] = f"its subnet is {', '.join(subnets) or 'unknown'}"
        return Found(services, frozenset(frame), unfit, tuple(strays))

    # ---- carrying out

    def apply(self, launch: Launch, on_step: StepCallback) -> None:
        steps = {(step.action, step.target): step for step in launch.steps}
        removals = [step for step in launch.steps if step.action == "remove"]
        creations = [step for step in launch.steps if step.action == "create" and " " in step.target]
        write = steps.get(("write", "configuration"))
        services = [step for step in launch.steps if step.target in SERVICES]
        again: list[tuple[ServiceKey, Step]] = []
        for step in services:
            key = next(name for name in SERVICES if name == step.target)
            again.append((key, step))

        if any(step.target.startswith("network") for step in removals):
            # a network can only be removed once nothing is in it
            in_parallel([_job(self._set_aside, key) for key, step in again if step.action == "recreate"])
        for step in removals:
            on_step(step)
            self._remove(step.target)
        for step in creations:
            on_step(step)
        in_parallel([_job(self._create, step.target, launch.ground) for step in creations])

        made: dict[ServiceKey, str] = {}
        jobs: list[Callable[[], object]] = []
        if write is not None:
            on_step(write)
            jobs.append(_job(self._write, launch.files))
        for key, step in again:
            if step.action in ("create", "recreate"):
                jobs.append(_job(self._make, key, launch, made))
        in_parallel(jobs)

        def run(key: ServiceKey, action: str) -> None:
            name = setup.container_name(self.state.project, key)
            if action == "reload":
                self._undo.append((_START_OLD, lambda: self.daemon.api.kill(name, "HUP")))
                call(f"reloading {key}", lambda: self.daemon.api.kill(name, "HUP"))
                return
            call(f"starting {key}", lambda: self.daemon.api.start(name))

        for _, step in again:
            on_step(step)
        self._started = {
            key: setup.container_name(self.state.project, key)
            for key, step in again
            if step.action != "reload"
        }
        in_parallel([_job(run, key, step.action) for key, step in again])

    def _create(self, target: str, ground: Ground) -> None:
        """Make a network or a volume."""
        kind, name = target.split(" ", 1)
        labels = {setup.LABEL_PROJECT: self.state.project, setup.LABEL_VERSION: mailstack.__version__}
        api = self.daemon.api
        if kind == "volume":
            call(f"creating the {target}", lambda: api.create_volume(name, labels=labels))
            self._undo.append((_DROP_FRAME, lambda: api.remove_volume(name, force=True)))
            return
        from docker.types import IPAMConfig, IPAMPool

        pool = IPAMPool(subnet=str(ground.network), gateway=ground.addresses["gateway"])
        call(
            f"creating the {target}",
            lambda: api.create_network(
                name,
                driver="bridge",
                ipam=IPAMConfig(pool_configs=[pool]),
                labels=labels,
                check_duplicate=True,
            ),
        )
        self._undo.append((_DROP_FRAME, lambda: api.remove_network(name)))

    def _remove(self, target: str) -> None:
        kind, name = target.split(" ", 1)
        api = self.daemon.api
        if kind == "container":
            call(f"removing the {target}", lambda: api.remove_container(name, force=True))
        elif kind == "network":
            call(f"removing the {target}", lambda: api.remove_network(name))
        else:
            call(f"removing the {target}", lambda: api.remove_volume(name))

    def _write(self, files: Mapping[str, TreeFile]) -> None:
        """Put the tree into the volume, and beside our state, where `render --diff` finds it."""
        before = bring_to(
            self.state.rendered, {path: file for path, file in files.items() if not path.startswith("tls/")}
        )
        self._put(files)

        def back() -> None:
            restore(self.state.rendered, before)
            if any(file is not None for file in before.values()):
                tls = {path: file for path, file in files.items() if path.startswith("tls/")}
                self._put(read_tree(self.state.rendered) | tls)

        self._undo.append((_RESTORE, back))

    def _put(self, files: Mapping[str, TreeFile]) -> None:
        project = self.state.project
        api = self.daemon.api
        name = setup.container_name(project, "config")
        volume = setup.volume_name(project, "config")
        root = str(setup.PATHS.config_root)
        holder = call(
            "preparing the configuration",
            lambda: api.create_container(
                self._image or image.tag(),
                name=name,
                command=["-c", "pass"],
                labels={setup.LABEL_PROJECT: project},
                host_config=api.create_host_config(binds=[f"{volume}:{root}:rw"], network_mode="none"),
            ),
        )["Id"]
        try:
            call("writing the configuration", lambda: api.put_archive(holder, root, _archive(files)))
        finally:
            api.remove_container(holder, force=True)

    def _make(self, service: ServiceKey, launch: Launch, made: dict[ServiceKey, str]) -> None:
        """Create a service's container, its predecessor set aside."""
        self._set_aside(service)
        project = self.state.project
        api = self.daemon.api
        ground = launch.ground
        offered = setup.published(service, ground.ports)
        limits: dict[str, Any] = {}
        if self.daemon.limits:
            limits["mem_limit"] = setup.MEMORY[service]
        if self.daemon.pids:
            limits["pids_limit"] = setup.PIDS[service]
        name = setup.container_name(project, service)
        created = call(
            f"creating {service}",
            lambda: api.create_container(
                self._image,
                name=name,
                hostname=service,
                entrypoint=[self._python],
                command=setup.command(service),
                user=f"{setup.UID}:{setup.GID}",
                ports=[(port, kind) for port, kind, _ in offered],
                stop_signal="SIGTERM",
                labels={
                    setup.LABEL_PROJECT: project,
                    setup.LABEL_SERVICE: service,
                    setup.LABEL_HASH: setup.config_hash(service, launch.wanted.services[service]),
                    setup.LABEL_VERSION: mailstack.__version__,
                },
                host_config=api.create_host_config(
                    binds=[
                        f"{setup.volume_name(project, mount.volume)}:{mount.target}:{mount.mode}"
                        for mount in setup.mounts(service, maildir=self._maildir)
                    ],
                    port_bindings={f"{port}/{kind}": (ground.bind, host) for port, kind, host in offered},
                    network_mode=setup.network_name(project),
                    dns=None if service == "dns" else [ground.addresses["dns"]],
                    dns_search=None if service == "dns" else ["."],
                    read_only=True,
                    tmpfs=setup.TMPFS,
                    cap_drop=["ALL"],
                    security_opt=list(setup.SECURITY),
                    sysctls=setup.SYSCTLS,
                    restart_policy={"Name": setup.RESTART},
                    init=setup.INIT[service],
                    **limits,
                ),
                networking_config={
                    "EndpointsConfig": {
                        setup.network_name(project): api.create_endpoint_config(
                            ipv4_address=ground.addresses[service], aliases=[service]
                        )
                    }
                },
            ),
        )
        made[service] = str(created["Id"])
        self._undo.append((_END_NEW, lambda: api.remove_container(name, force=True)))

    def _set_aside(self, service: ServiceKey) -> None:
        """Stop a service's container and give it another name, so that it can come back."""
        from docker.errors import NotFound

        api = self.daemon.api
        name = setup.container_name(self.state.project, service)
        try:
            api.inspect_container(name)
        except NotFound:
            return
        call(f"stopping {service}", lambda: api.stop(name, timeout=setup.STOP_SECONDS))
        call(f"replacing {service}", lambda: api.rename(name, name + _OLD))
        self._obsolete.append(name + _OLD)

        def back() -> None:
            api.rename(name + _OLD, name)
            api.start(name)

        self._undo.append((_START_OLD, back))

    def check(self) -> None:
        now = time.monotonic()
        if now - self._checked < CHECK_EVERY:
            return
        self._checked = now
        for service, name in self._started.items():
            found = call(f"looking at {service}", lambda name=name: self.daemon.api.inspect_container(name))  # type: ignore[misc]
            state = found["State"]
            if found.get("RestartCount") or state["Status"] in ("exited", "dead", "restarting"):
                tail = self._tail(name)
                raise ServiceDied(
                    f"{service} ended at once (status {state.get('ExitCode')})"
                    + (f": {tail[-1]}" if tail else ""),
                    service=service,
                    tail=tail,
                    hint="the log lines shown with this are its last words",
                )

    def _tail(self, name: str) -> tuple[str, ...]:
        data = call("reading logs", lambda: self.daemon.api.logs(name, tail=TAIL))
        return tuple(bytes(data).decode(errors="replace").splitlines())

    def undo(self) -> None:
        for _, step in sorted(self._undo, key=lambda item: item[0]):
            try:
                step()
            except Exception:  # noqa: S110 the error that brought us here is the one to report
                pass
        self._forget()

    def commit(self) -> None:
        in_parallel(
            [
                _job(
                    call,
                    "removing the old container",
                    _job(self.daemon.api.remove_container, name, force=True),
                )
                for name in self._obsolete
            ]
        )
        self._forget()

    def _forget(self) -> None:
        self._undo.clear()
        self._obsolete.clear()
        self._started = {}

    # ---- looking and ending

    def live(self, record: Record) -> Mapping[ServiceKey, Live]:
        found: dict[ServiceKey, Live] = {}
        for service in SERVICES:
            name = setup.container_name(self.state.project, service)
            live = self._look(name)
            if live is not None:
                found[service] = live
        return found

    def _look(self, name: str) -> Live | None:
        from docker.errors import NotFound

        try:
            item = call("looking at a container", lambda: self.daemon.api.inspect_container(name))
        except RuntimeFailure as error:
            if isinstance(error.__cause__, NotFound):
                return None
            raise
        state = item["State"]
        running = state["Status"] == "running"
        detail = "" if running else f"its container is {state['Status']} (status {state.get('ExitCode')})"
        return Live(
            running=running,
            detail=detail,
            pid=state.get("Pid") or None,
            container=name,
            started_at=_timestamp(state.get("StartedAt", "")),
            restarts=int(item.get("RestartCount") or 0),
        )

    def stop(self, record: Record, *, volumes: bool) -> Swept:
        api = self.daemon.api
        removed: list[str] = []

        def end(name: str, running: bool) -> None:
            if running:
                call(f"stopping {name}", lambda: api.stop(name, timeout=setup.STOP_SECONDS))
            call(f"removing {name}", lambda: api.remove_container(name, force=True))
            removed.append(f"container {name}")

        in_parallel(
            [
                _job(end, item["Names"][0].lstrip("/"), item["State"] in ("running", "restarting"))
                for item in self._containers()
            ]
        )
        networks, names = self._frame()
        kept = set() if volumes else {setup.volume_name(record.project, name) for name in setup.KEPT_VOLUMES}
        jobs: list[Callable[[], object]] = []
        for item in networks:
            removed.append(f"network {item['Name']}")
            jobs.append(_job(self._end_network, str(item["Name"])))
        for name in names:
            if name not in kept:
                removed.append(f"volume {name}")
                jobs.append(_job(self._remove, f"volume {name}"))
        in_parallel(jobs)
        return Swept(tuple(sorted(removed)))

    def _end_network(self, name: str) -> None:
        """Remove the network; whoever else is in it (a test's container, say) is taken out first."""
        api = self.daemon.api
        inside = call("looking at the network", lambda: api.inspect_network(name)).get("Containers") or {}
        for other in inside:
            call(
                f"taking {other[:12]} out of the network",
                _job(api.disconnect_container_from_network, other, name, force=True),
            )
        self._remove(f"network {name}")

    def logs(
        self, services: Sequence[str], *, follow: bool, since: float | None, record: Record
    ) -> Iterator[LogLine]:
        from mailstack.runtime.docker_logs import read

        names = {name: setup.container_name(self.state.project, name) for name in services or SERVICES}
        return read(self.daemon.api, names, follow=follow, since=since)

    def exec(self, service: ServiceKey, module: str, arguments: Sequence[str], record: Record) -> ExecResult:
        api = self.daemon.api
        name = setup.container_name(self.state.project, service)

        def run() -> ExecResult:
            inside = api.inspect_container(name)["Config"]["Entrypoint"]
            job = api.exec_create(name, [*inside, "-m", module, *arguments])["Id"]
            stdout, stderr = api.exec_start(job, demux=True)
            status = api.exec_inspect(job)["ExitCode"]
            return ExecResult(int(status), stdout or b"", stderr or b"")

        return call(f"running {module} in {service}", run)


def _job(function: Callable[..., object], *arguments: Any, **keywords: Any) -> Callable[[], Any]:
    return lambda: function(*arguments, **keywords)


def _chain(first: Sequence[IPv4Network], then: Iterator[IPv4Network]) -> Iterator[IPv4Network]:
    yield from first
    yield from then


def _archive(files: Mapping[str, TreeFile]) -> bytes:
    """A tar of the tree, everything owned by the services' user."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        folders: set[str] = set()
        for path, file in sorted(files.items()):
            parts = path.split("/")[:-1]
            for depth in range(1, len(parts) + 1):
                folder = "/".join(parts[:depth])
                if folder not in folders:
                    folders.add(folder)
                    archive.addfile(_entry(folder, 0o700, tarfile.DIRTYPE))
            entry = _entry(path, file.mode, tarfile.REGTYPE)
            entry.size = len(file.data)
            archive.addfile(entry, io.BytesIO(file.data))
    return buffer.getvalue()


def _entry(name: str, mode: int, kind: bytes) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.uid, entry.gid, entry.mtime = (
        kind,
        mode,
        setup.UID,
        setup.GID,
        int(time.time()),
    )
    return entry


def _timestamp(text: str) -> float | None:
    """Docker's `2026-11-22T11:57:30.123456789Z` in seconds since the epoch."""
    from datetime import UTC, datetime

    try:
        moment = datetime.strptime(text[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    return moment.timestamp() if moment.year > 1 else None
