"""How each container is set up: names, mounts, hardening. Values only; `docker` hands them to the daemon.

`compose/compose.yaml` says the same for a human reader, and a test keeps the two equal.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from mailstack.runtime.engine import Paths
from mailstack.runtime.model import OWNER, STANDARD_PORTS, ServiceKey
from mailstack.runtime.plan import RELOADED, matches
from mailstack.runtime.state import Deployed

UID = GID = 10001
PATHS = Paths(
    config_root=PurePosixPath("/etc/mailstack"),
    queue=PurePosixPath("/var/spool/mailstack"),
    mail=PurePosixPath("/var/mail/mailstack"),
    run=PurePosixPath("/run/mailstack"),
    tls=PurePosixPath("/etc/mailstack/tls"),
    dns=PurePosixPath("/var/lib/mailstack"),
    uid=UID,
    gid=GID,
)
VOLUMES = ("config", "run", "mail", "queue", "dns")
KEPT_VOLUMES = frozenset({"config", "mail", "queue", "dns"})
"""What only `down --volumes` removes; `compose/compose.yaml` can take over from them."""
LABEL_PROJECT = "mailstack.project"
LABEL_SERVICE = "mailstack.service"
LABEL_HASH = "mailstack.config-hash"
LABEL_VERSION = "mailstack.version"
TMPFS = {"/tmp": "rw,noexec,nosuid,nodev,size=64m,mode=1777"}  # noqa: S108 a mount of the container's own
SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0"}
"""The standard ports without a capability."""
SECURITY = ("no-new-privileges:true",)
MEMORY: Mapping[ServiceKey, int] = {"dns": 256 << 20, "mailbox": 1 << 30, "mta": 1 << 30}
PIDS: Mapping[ServiceKey, int] = {"dns": 64, "mailbox": 256, "mta": 512}
STOP_SECONDS = 12
"""A service stops within ten seconds of SIGTERM; then the daemon kills it."""
RESTART = "unless-stopped"
INIT: Mapping[ServiceKey, bool] = {"dns": False, "mailbox": False, "mta": True}
"""Whether process 1 only forwards signals and reaps: the MTA runs other programs (pipe, .forward)."""
FOLDER: Mapping[ServiceKey, str] = {"dns": "bind", "mailbox": "dovecot", "mta": "postfix"}


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume in a container."""

    volume: str
    target: str
    writable: bool

    @property
    def mode(self) -> str:
        return "rw" if self.writable else "ro"


def network_name(project: str) -> str:
    return f"mailstack-{project}"


def container_name(project: str, service: str) -> str:
    return f"mailstack-{project}-{service}"


def volume_name(project: str, volume: str) -> str:
    return f"mailstack-{project}-{volume}"


def command(service: ServiceKey) -> list[str]:
    """What the container runs; `python3` is what the image's CMD names."""
    return ["-m", f"mailstack.{service}", "--config", f"{PATHS.config_root}/{FOLDER[service]}"]


def mounts(service: ServiceKey, *, maildir: bool) -> tuple[Mount, ...]:
    """The least that each service needs. `maildir`: the MTA writes the Maildirs itself."""
    config = Mount("config", str(PATHS.config_root), False)
    run = Mount("run", str(PATHS.run), True)
    mail = Mount("mail", str(PATHS.mail), True)
    match service:
        case "dns":
            return (config, Mount("dns", str(PATHS.dns), True))
        case "mailbox":
            return (config, run, mail)
        case "mta":
            queue = Mount("queue", str(PATHS.queue), True)
            # to connect to a socket its file system need not be writable
            sockets = Mount("run", str(PATHS.run), False)
            return (config, sockets, queue, mail) if maildir else (config, sockets, queue)


def published(service: ServiceKey, ports: Mapping[str, int]) -> list[tuple[int, str, int]]:
    """`(container port, tcp or udp, host port)` of a service."""
    found = []
    for name, port in ports.items():
        if OWNER[name] == service:
            found.append((STANDARD_PORTS[name], "tcp", port))
            if name == "dns":
                found.append((STANDARD_PORTS[name], "udp", port))
    return found


def config_hash(service: ServiceKey, deployed: Deployed) -> str:
    """Digest of everything for whose change the container is made anew: its label."""
    lasting = {
        path: digest for path, digest in deployed.files.items() if not matches(path, RELOADED[service])
    }
    text = json.dumps([dict(deployed.shape), lasting], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
