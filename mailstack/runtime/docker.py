"""The docker engine: three containers of one image in a network of their own.

The containers have fixed addresses in a subnet that clashes with no route and no other network, our DNS as
resolver, a read-only root, no capability and no way to gain one. The configuration lies in a volume; it gets
there through a container that is made for it and never started, so that this works with a daemon on another
machine too and no running container can write it.

Drift is found by a label with a digest of what a container was made from; what a service reads again on
SIGHUP is compared with the project's record instead, because labels cannot change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Any

from mailstack.runtime import containers as setup
from mailstack.runtime import daemon, image, native, network, ports
from mailstack.runtime.daemon import Daemon, call, in_parallel, job
from mailstack.runtime.docker_change import Change, remove
from mailstack.runtime.engine import Ground, Launch, Live, Paths, StepCallback, Swept
from mailstack.runtime.errors import MachineLacks, RuntimeFailure
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

if TYPE_CHECKING:
    from mailstack.spec import Stack


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
        self._change: Change | None = None
        self._found: Found | None = None

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
        for service, program in native.engines(stack).items():
            raise MachineLacks(
                f"{service}.engine is {program}, which is run as a process of this machine only",
                hint="use --runtime process, or write engine: python",
            )
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

    def begin(self, record: Record, ground: Ground) -> None:
        self._found = self.find(record)
        if self._found.empty:
            self._change = self._new_change()
            self._change.begin(self._frame_names(), ground)

    def paths(self, record: Record) -> Paths:
        return setup.PATHS

    def names(self, ground: Ground) -> tuple[str, ...]:
        return ("127.0.0.1", "::1", ground.host, *SERVICES, *ground.addresses.values())

    def wanted(self, stack: Stack, ground: Ground, digests: Mapping[str, str]) -> Wanted:
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
        return Wanted("docker", services, self._frame_names())

    def _frame_names(self) -> tuple[str, ...]:
        """The network and the volumes, as a plan names them."""
        project = self.state.project
        volumes = (f"volume {setup.volume_name(project, name)}" for name in setup.VOLUMES)
        return (f"network {setup.network_name(project)}", *volumes)

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
        if self._found is not None:
            return self._found
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
        if self._change is None:
            self._change = self._new_change()
        self._change.apply(launch, on_step)

    def _new_change(self) -> Change:
        return Change(
            self.daemon,
            self.state.project,
            self.state.rendered,
            image=self._image,
            python=self._python,
            maildir=self._maildir,
        )

    def check(self) -> None:
        if self._change is not None:
            self._change.check()

    def undo(self) -> None:
        if self._change is not None:
            self._change.undo()
        self._change = self._found = None

    def commit(self) -> None:
        if self._change is not None:
            self._change.commit()
        self._change = self._found = None

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
                job(end, item["Names"][0].lstrip("/"), item["State"] in ("running", "restarting"))
                for item in self._containers()
            ]
        )
        networks, names = self._frame()
        kept = set() if volumes else {setup.volume_name(record.project, name) for name in setup.KEPT_VOLUMES}
        jobs: list[Callable[[], object]] = []
        for item in networks:
            removed.append(f"network {item['Name']}")
            jobs.append(job(self._end_network, str(item["Name"])))
        for name in names:
            if name not in kept:
                removed.append(f"volume {name}")
                jobs.append(job(remove, api, f"volume {name}"))
        in_parallel(jobs)
        return Swept(tuple(sorted(removed)))

    def _end_network(self, name: str) -> None:
        """Remove the network; whoever else is in it (a test's container, say) is taken out first."""
        api = self.daemon.api
        inside = call("looking at the network", lambda: api.inspect_network(name)).get("Containers") or {}
        for other in inside:
            call(
                f"taking {other[:12]} out of the network",
                job(api.disconnect_container_from_network, other, name, force=True),
            )
        remove(api, f"network {name}")

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


def _chain(first: Sequence[IPv4Network], then: Iterator[IPv4Network]) -> Iterator[IPv4Network]:
    yield from first
    yield from then


def _timestamp(text: str) -> float | None:
    """Docker's `2026-11-22T11:57:30.123456789Z` in seconds since the epoch."""
    from datetime import UTC, datetime

    try:
        moment = datetime.strptime(text[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    return moment.timestamp() if moment.year > 1 else None
