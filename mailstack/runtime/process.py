"""The process engine: three local processes under a supervisor, no root needed.

Every project has a network of its own inside 127.0.0.0/8. Where ports below 1024 may be bound, each service
listens at its own address on the standard port, so that the zone, a second domain's MTA and any client see
what they would see on a real network; it always listens at `network.bind` on the published port too. Without
that privilege, and for a standard port that somebody else holds on all interfaces, the published port is the
only one.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Network
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import mailstack
from mailstack.runtime import commands, control, logs, native, ports
from mailstack.runtime.engine import Ground, Launch, Live, Paths, StepCallback, Swept
from mailstack.runtime.errors import MachineLacks, PortTaken, RuntimeFailure, ServiceDied
from mailstack.runtime.model import (
    OWNER,
    SERVICES,
    STANDARD_PORTS,
    ExecResult,
    LogLine,
    RuntimeKind,
    ServiceKey,
    Step,
)
from mailstack.runtime.network import LOOPBACK, Addresses, loopback_candidates
from mailstack.runtime.plan import MISSING, Found, FoundService, Wanted, files_of
from mailstack.runtime.state import Deployed, Record, StateDir, list_states, remove_tree
from mailstack.runtime.tree import TreeFile, bring_to, restore

if TYPE_CHECKING:
    from mailstack.spec import Stack

TRIES = 16
"""Networks looked at before one is taken in which somebody holds a standard port."""
FOLDER: Mapping[ServiceKey, str] = {"dns": "bind", "mailbox": "dovecot", "mta": "postfix"}
_KEPT_VARIABLES = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "VIRTUAL_ENV",
)


def _ours(service: ServiceKey) -> Sequence[str]:
    return (sys.executable, "-P", "-m", f"mailstack.{service}", "--config", "{config}")


class ProcessEngine:
    """The services of one project as processes of this machine."""

    kind: RuntimeKind = "process"

    def __init__(
        self,
        state: StateDir,
        environ: Mapping[str, str],
        commands: Mapping[ServiceKey, Sequence[str]] | None = None,
    ) -> None:
        """`commands`: what to start instead of our servers; `{config}` stands for the service's folder."""
        self.state = state
        self.env = service_environment(environ)
        self._commands = commands or {name: _ours(name) for name in SERVICES}
        self._given = commands is not None
        self._theirs: Mapping[ServiceKey, str] = {}
        """Services that are another program than ours, as `settle` has found in the spec."""
        self._were: Mapping[ServiceKey, str] = {}
        """The same of what runs already: `undo` goes back to it."""
        self._base = str(state.path)
        self._starting: subprocess.Popen[bytes] | None = None
        self._control: control.Control | None = None
        self._before: Mapping[str, TreeFile | None] = {}
        self._touched: dict[ServiceKey, str] = {}
        self._fresh = False
        """`apply` started from no supervisor."""
        self._log_sizes: dict[str, int] = {}

    # ---- choosing

    def provide(self, *, build: bool, dry: bool) -> Step | None:
        return None

    def settle(self, stack: Stack, record: Record) -> Ground:
        self._choose(native.engines(stack))
        # services of ours that run (they may have lost their supervisor): the ports they hold are ours
        groups = [pid for name, (pid, _) in control.leftovers(self.state.run).items() if name != "supervisor"]
        ours = bool(groups)
        network = self._network(stack, record, ours)
        addresses = Addresses(network).as_text()
        bind = str(stack.network.bind)
        kept = record.ports if ours and record.bind == bind and record.runtime == "process" else {}
        fixed = ports.fixed_ports(stack)
        for name, port in fixed.items():
            if kept.get(name) != port:
                ports.require_free(name, bind, port, groups)
        unnamed = [name for name in stack.services if name not in kept]
        chosen = {name: port for name, port in kept.items() if name in stack.services and name not in fixed}
        chosen |= ports.choose(
            [name for name in stack.services if name in fixed or name in unnamed],
            bind=bind,
            seed=str(self.state.path),
            remembered=record.ports if record.bind == bind else {},
            fixed=fixed,
            avoid=ports.others_ports(self.state) | set(chosen.values()),
        )
        published = {name: chosen[name] for name in stack.services}
        own, notes = self._own(stack, record if ours else None, addresses, bind, published)
        if stack.mta.engine == "postfix" and not ours:
            _require_name_port(own, addresses["mta"], published["dns"])
        if stack.dns.engine == "bind":
            del addresses["dns"]
        return Ground(
            network=network,
            addresses=addresses if own else {},
            own=own,
            bind=bind,
            host="127.0.0.1" if bind == "0.0.0.0" else bind,
            ports=published,
            notes=notes,
        )

    def _choose(self, theirs: Mapping[ServiceKey, str]) -> None:
        """What to start, from now on, for each service. Raises `MachineLacks`."""
        if not self._given:
            self._commands = {
                name: native.command(name, theirs[name], self.env) if name in theirs else _ours(name)
                for name in SERVICES
            }
            self._theirs = theirs

    def _network(self, stack: Stack, record: Record, ours: bool) -> IPv4Network:
        wish = stack.network.subnet
        if isinstance(wish, IPv4Network):
            if not wish.subnet_of(LOOPBACK):
                raise MachineLacks(
                    f"network.subnet {wish} is no part of 127.0.0.0/8, where processes have their addresses",
                    hint="set network.subnet to auto, or use the docker runtime",
                )
            return wish
        taken = {
            IPv4Network(other.network)
            for state in list_states(self.state.home)
            if state.project != self.state.project and (other := state.load_quietly()) and other.network
        }
        if record.runtime in ("process", None) and record.network:
            network = IPv4Network(record.network)
            if network.subnet_of(LOOPBACK) and (ours or network not in taken):
                return network
        candidates = loopback_candidates(str(self.state.path))
        first = None
        for network, _ in zip((n for n in candidates if n not in taken), range(TRIES), strict=False):
            first = first or network
            if not self._conflicts(network):
                return network
        assert first is not None
        return first

    def _conflicts(self, network: IPv4Network) -> bool:
        """Somebody listens at an address of this network on one of the ports we would want."""
        place = Addresses(network)
        return any(
            ports.protocol_error(name, str(place.of(OWNER[name])), STANDARD_PORTS[name]) == errno.EADDRINUSE
            for name in ("dns", "smtp", "imap")
        )

    def _own(
        self,
        stack: Stack,
        running: Record | None,
        addresses: Mapping[str, str],
        bind: str,
        published: Mapping[str, int],
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        own, held = [], []
        for name in stack.services:
            port = STANDARD_PORTS[name]
            if name == "dns" and stack.dns.engine == "bind":
                continue  # named listens only at addresses that are set at an interface
            if running is not None and name in running.own:
                own.append(name)
                continue
            if bind == "0.0.0.0" and published[name] == port:
                own.append(name)  # the published listener answers there too
                continue
            error = ports.protocol_error(name, addresses[OWNER[name]], port)
            if not error:
                own.append(name)
            elif error == errno.EADDRINUSE:
                held.append(f"{name} (port {port}: {ports.holder(addresses[OWNER[name]], port) or 'taken'})")
        notes = (f"not at the standard port: {', '.join(held)}",) if held else ()
        return tuple(own), notes

    def begin(self, record: Record, ground: Ground) -> None:
        """Nothing: the supervisor has been started already, and the rest needs the configuration."""

    def paths(self, record: Record) -> Paths:
        base = record.socket_base or str(self.state.path)
        root = PurePosixPath(self.state.path)
        return Paths(
            config_root=root / "rendered",
            queue=PurePosixPath(base) / "queue",
            mail=root / "mail",
            run=PurePosixPath(base) / "run",
            tls=root / "tls",
            dns=root / "dns",
            uid=os.geteuid(),
            gid=os.getegid(),
        )

    def names(self, ground: Ground) -> tuple[str, ...]:
        return ("127.0.0.1", "::1", ground.host, *ground.addresses.values())

    # ---- comparing

    def wanted(self, stack: Stack, ground: Ground, digests: Mapping[str, str]) -> Wanted:
        places = {
            service: ", ".join(
                f"{name} {ground.bind}:{ground.ports[name]}"
                + (f" {own}" if (own := name in ground.own) else "")
                for name in ground.ports
                if OWNER[name] == service
            )
            for service in SERVICES
        }
        theirs = native.engines(stack)
        return Wanted(
            kind="process",
            services={
                service: Deployed(
                    {
                        "mailstack": mailstack.__version__,
                        "python": sys.executable,
                        "ports": f"{ground.addresses.get(service, '')} {places[service]}",
                        **({"engine": theirs[service]} if service in theirs else {}),
                    },
                    files_of(service, digests),
                )
                for service in SERVICES
            },
        )

    def find(self, record: Record) -> Found:
        states = self._states(record)
        if states is None:
            return Found()
        self._were = {
            name: record.services[name].shape["engine"]
            for name in SERVICES
            if name in record.services and "engine" in record.services[name].shape
        }
        return Found(
            {
                service: FoundService(
                    "running" if states[service]["state"] == "running" else "stopped",
                    record.services.get(service),
                )
                if service in states
                else MISSING
                for service in SERVICES
            }
        )

    # ---- carrying out

    def warm_up(self, record: Record) -> None:
        """Begin to start a supervisor, if none runs: it comes up while the configuration is being made."""
        self._base = record.socket_base or str(self.state.path)
        if self._states(record) is None:
            self._launch()

    def _launch(self) -> None:
        self._end()  # what a supervisor that was killed may have left
        self._starting = control.launch(self._base, self.env)
        self._fresh = True

    def apply(self, launch: Launch, on_step: StepCallback) -> None:
        if self._starting is None:
            self._control = control.connect(self._base)
            if self._control is None:
                self._launch()
        for step in launch.steps:
            if step.action == "write":
                on_step(step)
                self._write(launch.files)
        if self._starting is not None:
            starting, self._starting = self._starting, None
            self._control = control.launched(starting, self._base)
        assert self._control is not None
        found = self._control.ask("watch")["services"]
        start: dict[str, dict[str, object]] = {}
        reload: list[str] = []
        for step in launch.steps:
            service = next((name for name in SERVICES if name == step.target), None)
            if service is None:
                continue
            on_step(step)
            self._touched[service] = step.action
            self._log_sizes[service] = _size(self.state.log / f"{service}.log")
            if step.action == "reload":
                reload.append(service)
            else:
                start[service] = self._command(service)
        if start:
            self._control.ask("start", services=start)
        if reload:
            self._control.ask("reload", names=reload)
        # what answers until then is the old process, with the old configuration and about to go
        self._control.await_start(
            [name for name in start if found.get(name, {}).get("pid")], control.RESTART_TIMEOUT
        )

    def _command(self, service: ServiceKey) -> dict[str, object]:
        config = f"{self.state.rendered}/{FOLDER[service]}"
        return {
            "argv": [word.replace("{config}", config) for word in self._commands[service]],
            "env": self.env,
        }

    def _write(self, files: Mapping[str, TreeFile]) -> None:
        rendered = {path: file for path, file in files.items() if not path.startswith("tls/")}
        self._before = bring_to(self.state.rendered, rendered)
        self._index()

    def _index(self) -> None:
        """What a real Postfix needs beside its files, before it is told of them: indexes of its tables.

        Its queue directory, too: the mailbox service has a socket in it.
        """
        spool = self.state.path / native.SPOOL
        if self._theirs.get("mta") != "postfix" and not spool.exists():
            return
        from mailstack.runtime import postfix

        folder = self.state.rendered / FOLDER["mta"]
        if self._theirs.get("mta") == "postfix":
            postfix.make_spool(spool)
            postfix.index(folder, self.env)
        else:
            postfix.drop_indexes(folder)

    def check(self) -> None:
        if self._control is None:
            return
        for event in self._control.events():
            if event["event"] == "gone":
                raise RuntimeFailure("the supervisor has ended", hint=f"see {self.state.log}/supervisor.log")
            service = (
                event["service"]
                if event["event"] == "exit" and event["state"] in ("backoff", "failed")
                else ""
            )
            if service in self._touched:
                tail = tuple(logs.tail(self.state.log / f"{service}.log", self._log_sizes.get(service, 0)))
                how = f"signal {-event['code']}" if event["code"] < 0 else f"status {event['code']}"
                raise ServiceDied(
                    f"{service} ended at once ({how}){': ' + tail[-1] if tail else ''}",
                    service=service,
                    tail=tail,
                    hint="the log lines shown with this are its last words",
                )

    def undo(self) -> None:
        try:
            if self._starting is not None:
                self._starting.communicate(timeout=10)
            if self._fresh:
                self._end()
                self._clean_run()
                return
            if self._control is not None:
                self._choose(self._were)
                restore(self.state.rendered, self._before)
                self._index()
                again = {
                    name: self._command(name) for name, action in self._touched.items() if action != "reload"
                }
                self._control.ask("start", services=again)
                self._control.ask("reload", names=[name for name in self._touched if name not in again])
        except (OSError, RuntimeFailure, subprocess.SubprocessError):
            pass  # the error that brought us here is the one to report
        finally:
            self._finish()

    def commit(self) -> None:
        if self._starting is not None:  # nothing had to be done, so nobody has waited for it
            control.launched(self._starting, self._base).close()
        self._finish()

    def _finish(self) -> None:
        self._starting = None
        self._before = {}
        self._touched.clear()
        self._fresh = False
        if self._control is not None:
            self._control.close()
            self._control = None

    # ---- looking and ending

    def live(self, record: Record) -> Mapping[ServiceKey, Live]:
        states = self._states(record) or {}
        return {
            service: Live(
                running=states[service]["state"] == "running",
                detail=_detail(states[service]),
                pid=states[service]["pid"],
                started_at=states[service]["started"] or None,
                restarts=states[service]["restarts"],
            )
            for service in SERVICES
            if service in states
        }

    def stop(self, record: Record, *, volumes: bool) -> Swept:
        ended = self._end()
        self._clean_run()
        return Swept(tuple(f"process {name}" for name in ended))

    def _end(self) -> tuple[str, ...]:
        """End every process of the project. Returns their names. Raises `RuntimeFailure`."""
        ended = control.end(self.state.run)
        spool = self.state.path / native.SPOOL
        if spool.exists():
            from mailstack.runtime import postfix

            postfix.end_master(spool)  # it has outlived its parent, if that was killed
        return ended

    def _clean_run(self) -> None:
        """What sockets and locks are left in `run/` belongs to nobody once the processes have ended."""
        if self.state.run.exists():
            remove_tree(self.state.run)
            self.state.run.mkdir(mode=0o700)

    def logs(
        self, services: Sequence[str], *, follow: bool, since: float | None, record: Record
    ) -> Iterator[LogLine]:
        names = services or (*SERVICES, "supervisor")
        return logs.read({name: self.state.log / f"{name}.log" for name in names}, follow=follow, since=since)

    def exec(self, service: ServiceKey, module: str, arguments: Sequence[str], record: Record) -> ExecResult:
        command = [sys.executable, "-P", "-m", module, *arguments]
        deployed = record.services.get(service)
        if service == "mta" and deployed is not None and deployed.shape.get("engine") == "postfix":
            command = native.postfix_command(module, arguments, self.env)
        done = commands.run(module, command, self.env)
        return ExecResult(done.returncode, done.stdout, done.stderr)

    def close(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None

    def _states(self, record: Record) -> Mapping[str, Any] | None:
        """What the supervisor says of each service; None when there is no supervisor."""
        self._base = record.socket_base or str(self.state.path)
        connection = self._control or control.connect(self._base)
        if connection is None:
            return None
        try:
            states: Mapping[str, Any] = connection.ask("status")["services"]
            return states
        except control.SupervisorGone:
            return None
        finally:
            if connection is not self._control:
                connection.close()


def _require_name_port(own: Sequence[str], address: str, published: int) -> None:
    """Raises `PortTaken` where Postfix could not ask the name server, which it does at port 53 only."""
    port = STANDARD_PORTS["dns"]
    if "dns" in own or published == port or not ports.protocol_error("dns", address, port):
        return
    raise PortTaken(
        f"mta.engine is postfix, which asks name servers at port 53 only; it is taken at {address} "
        f"by {ports.holder(address, port) or 'somebody else'}",
        hint="stop that one, or write engine: python",
    )


def service_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a service gets to see of the environment; with the package's folder where it is not installed."""
    env = {name: environ[name] for name in _KEPT_VARIABLES if name in environ}
    parent = str(Path(mailstack.__file__).resolve().parent.parent)
    if not parent.endswith(("site-packages", "dist-packages")):
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (parent, env.get("PYTHONPATH"))))
    return env


def _detail(state: Mapping[str, object]) -> str:
    match state["state"]:
        case "backoff":
            return f"it crashed ({state['last_exit']}) and will be started again"
        case "failed":
            return f"it refuses its configuration ({state['last_exit']})"
        case "stopping" | "stopped":
            return "it is stopped"
        case _:
            return ""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
