"""Carrying out a plan with containers, and taking it back.

A service's container is made beside its predecessor, which is stopped and renamed and only removed once the
new one answers. Whatever was made or changed is written down with how to undo it, in the order in which that
has to happen: new containers end, then the configuration is put back, then the old containers start.
"""

from __future__ import annotations

import io
import tarfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mailstack
from mailstack.runtime import containers as setup
from mailstack.runtime.daemon import Daemon, call, in_parallel, job
from mailstack.runtime.engine import Ground, Launch, StepCallback
from mailstack.runtime.errors import RuntimeFailure, ServiceDied
from mailstack.runtime.model import SERVICES, ServiceKey
from mailstack.runtime.tree import TreeFile, bring_to, read_tree, restore

CHECK_EVERY = 0.2
"""Seconds between two looks at the containers while they are waited for."""
TAIL = 12
INSIST, INSIST_EVERY = 40, 0.25
"""How often, and how many seconds apart, something is removed that cannot be removed just now."""
_OLD = "-before"
"""What the name of a container ends in while its successor is tried."""
_NEW = ".new"
_PLACE = """
import filecmp, os, sys
root, new = sys.argv[1:]
for folder, folders, files in os.walk(new):
    place = os.path.normpath(os.path.join(root, os.path.relpath(folder, new)))
    if not os.path.isdir(place):
        os.mkdir(place, 0o700)
        os.chown(place, os.stat(folder).st_uid, os.stat(folder).st_gid)
    for name in files:
        one, other = os.path.join(folder, name), os.path.join(place, name)
        same = os.path.exists(other) and os.stat(one).st_mode == os.stat(other).st_mode
        if same and filecmp.cmp(one, other, shallow=False):
            os.unlink(one)
        else:
            os.replace(one, other)
for folder, _, _ in os.walk(new, topdown=False):
    os.rmdir(folder)
"""
"""Puts files in their places, each as a whole: who reads them meanwhile finds the old or the new one."""
_PLACE_SECONDS = 60
"""For starting a container that does that, and for its end."""
# The order in which things are undone: an old container must not start with the new configuration.
_END_NEW, _RESTORE, _START_OLD, _DROP_FRAME = range(4)


class Change:
    """One run of `up` over the containers of one project."""

    def __init__(
        self, daemon: Daemon, project: str, rendered: Path, *, image: str, python: str, maildir: bool
    ) -> None:
        """`rendered`: where the tree is kept beside our state. `python`: what starts the image's Python."""
        self.daemon = daemon
        self.project = project
        self.rendered = rendered
        self.image = image
        self.python = python
        self.maildir = maildir
        self._undo: list[tuple[int, Callable[[], object]]] = []
        self._obsolete: list[str] = []
        self._started: dict[ServiceKey, str] = {}
        self._checked = 0.0
        self._holder = ""
        """The container through which the configuration is written, once it has been made."""
        self._beginning: threading.Thread | None = None
        self._begin_error: BaseException | None = None

    def begin(self, frame: Sequence[str], ground: Ground) -> None:
        """Make the frame, and what the configuration will be written through, on a thread of its own.

        Only for a project of which nothing is there. `apply` waits for it and raises what it raised.
        """

        def run() -> None:
            try:
                in_parallel([job(self._create, target, ground) for target in frame])
                self._hold()
            except BaseException as error:
                self._begin_error = error

        self._beginning = threading.Thread(target=run, name="docker-frame", daemon=True)
        self._beginning.start()

    def _begun(self) -> bool:
        """Wait for `begin`; whether there was one."""
        if self._beginning is None:
            return False
        self._beginning.join()
        return True

    def apply(self, launch: Launch, on_step: StepCallback) -> None:
        """Carry out the steps; what does not depend on one another at the same time."""
        services = [(key, step) for step in launch.steps for key in SERVICES if step.target == key]
        removals = [step for step in launch.steps if step.action == "remove"]
        creations = [step for step in launch.steps if step.action == "create" and " " in step.target]

        if any(step.target.startswith("network ") for step in removals):
            # a network can only be removed once nothing runs in it
            in_parallel([job(self._set_aside, key) for key, step in services if step.action == "recreate"])
        for step in removals:
            on_step(step)
            remove(self.daemon.api, step.target)
        for step in creations:
            on_step(step)
        if not self._begun():
            in_parallel([job(self._create, step.target, launch.ground) for step in creations])
        if self._begin_error is not None:
            raise self._begin_error

        jobs: list[Callable[[], object]] = []
        for step in launch.steps:
            if step.action == "write":
                on_step(step)
                jobs.append(job(self._write, launch.files))
        jobs += [
            job(self._make, key, launch) for key, step in services if step.action in ("create", "recreate")
        ]
        in_parallel(jobs)

        for key, step in services:
            on_step(step)
            if step.action != "reload":
                self._started[key] = setup.container_name(self.project, key)
        in_parallel([job(self._run, key, step.action) for key, step in services])

    def _run(self, service: ServiceKey, action: str) -> None:
        """Start a container that is there, or have it read its files again."""
        name = setup.container_name(self.project, service)
        api = self.daemon.api
        if action == "reload":
            self._undo.append((_START_OLD, lambda: api.kill(name, "HUP")))
            call(f"reloading {service}", lambda: api.kill(name, "HUP"))
        else:
            call(f"starting {service}", lambda: api.start(name))

    def _create(self, target: str, ground: Ground) -> None:
        """Make a network or a volume."""
        kind, name = target.split(" ", 1)
        labels = {setup.LABEL_PROJECT: self.project, setup.LABEL_VERSION: mailstack.__version__}
        api = self.daemon.api
        if kind == "volume":
            call(f"creating the {target}", lambda: api.create_volume(name, labels=labels))
            self._undo.append((_DROP_FRAME, lambda: _insist(lambda: api.remove_volume(name, force=True))))
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
        self._undo.append((_DROP_FRAME, lambda: _insist(lambda: api.remove_network(name))))

    def _write(self, files: Mapping[str, TreeFile]) -> None:
        """Put the tree into the volume, and beside our state, where `render --diff` finds it."""
        before = bring_to(
            self.rendered, {path: file for path, file in files.items() if not path.startswith("tls/")}
        )
        self._put(files)

        def back() -> None:
            restore(self.rendered, before)
            if any(file is not None for file in before.values()):
                tls = {path: file for path, file in files.items() if path.startswith("tls/")}
                self._put(read_tree(self.rendered) | tls)

        self._undo.append((_RESTORE, back))

    def _hold(self) -> None:
        """Make the container that can write the configuration's volume."""
        api = self.daemon.api
        volume = setup.volume_name(self.project, "config")
        name, root = setup.container_name(self.project, "config"), str(setup.PATHS.config_root)
        self._holder = call(
            "preparing the configuration",
            lambda: api.create_container(
                self.image,
                name=name,
                entrypoint=[self.python],
                command=["-c", _PLACE, root, f"{root}/{_NEW}"],
                user="0:0",  # the files are not all of one owner's that may replace them
                labels={setup.LABEL_PROJECT: self.project},
                host_config=api.create_host_config(
                    binds=[f"{volume}:{root}:rw"],
                    network_mode="none",
                    read_only=True,
                    security_opt=list(setup.SECURITY),
                ),
            ),
        )["Id"]
        self._undo.append((_END_NEW, lambda: _insist(lambda: api.remove_container(name, force=True))))

    def _put(self, files: Mapping[str, TreeFile]) -> None:
        """Write the tree into the configuration's volume."""
        if not self._holder:
            self._hold()
        api = self.daemon.api
        holder, self._holder = self._holder, ""
        root = str(setup.PATHS.config_root)
        self._obsolete.append(holder)
        if self._beginning is not None:  # nobody reads it yet
            call("writing the configuration", lambda: api.put_archive(holder, root, _archive(files)))
            return
        # The daemon unpacks file by file, each of them gone, empty and half written in turn.
        aside = _archive({f"{_NEW}/{path}": file for path, file in files.items()})
        call("writing the configuration", lambda: api.put_archive(holder, root, aside))
        call("placing the configuration", lambda: api.start(holder))
        ended = call("placing the configuration", lambda: api.wait(holder, timeout=_PLACE_SECONDS))
        if ended["StatusCode"]:
            said = "; ".join(self._tail(holder)[-1:]) or f"status {ended['StatusCode']}"
            raise RuntimeFailure(f"the configuration could not be put in its place: {said}")

    def _make(self, service: ServiceKey, launch: Launch) -> None:
        """Create a service's container, its predecessor set aside."""
        self._set_aside(service)
        project = self.project
        api = self.daemon.api
        ground = launch.ground
        offered = setup.published(service, ground.ports)
        limits: dict[str, Any] = {}
        if self.daemon.limits:
            limits["mem_limit"] = setup.MEMORY[service]
        if self.daemon.pids:
            limits["pids_limit"] = setup.PIDS[service]
        name = setup.container_name(project, service)
        call(
            f"creating {service}",
            lambda: api.create_container(
                self.image,
                name=name,
                hostname=service,
                entrypoint=[self.python],
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
                        for mount in setup.mounts(service, maildir=self.maildir)
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
        self._undo.append((_END_NEW, lambda: _insist(lambda: api.remove_container(name, force=True))))

    def _set_aside(self, service: ServiceKey) -> None:
        """Stop a service's container and give it another name, so that it can come back."""
        from docker.errors import NotFound

        api = self.daemon.api
        name = setup.container_name(self.project, service)
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
        """As `Engine.check`, looking at the containers every `CHECK_EVERY` seconds."""
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
        """As `Engine.undo`."""
        self._begun()
        while self._undo:  # putting the configuration back makes something to undo itself
            steps, self._undo = sorted(self._undo, key=lambda item: item[0]), []
            for _, step in steps:
                try:
                    step()
                except Exception:  # noqa: S110 the error that brought us here is the one to report
                    pass

    def commit(self) -> None:
        """Remove what was set aside."""
        in_parallel(
            [
                job(
                    call,
                    "removing the old container",
                    job(self.daemon.api.remove_container, name, force=True),
                )
                for name in self._obsolete
            ]
        )


def _insist(remove: Callable[[], object]) -> None:
    """Remove something, again while the daemon is too busy with it: a container that dies over and over is
    being started or removed at every other moment, and what it uses is held until then."""
    from docker.errors import APIError, NotFound

    for _ in range(INSIST):
        try:
            remove()
            return
        except NotFound:
            return
        except APIError:
            time.sleep(INSIST_EVERY)
    remove()


def remove(api: Any, target: str) -> None:
    """Remove a `container NAME`, `network NAME` or `volume NAME`; that it is gone already is no error."""
    kind, name = target.split(" ", 1)
    removals: dict[str, Callable[[], object]] = {
        "container": lambda: api.remove_container(name, force=True),
        "network": lambda: api.remove_network(name),
        "volume": lambda: api.remove_volume(name),
    }
    call(f"removing the {target}", lambda: _insist(removals[kind]))


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
        time.time(),  # with its fraction: who reads a file again looks at its time
    )
    return entry
