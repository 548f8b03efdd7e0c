"""Host ports: choosing free ones, and naming whoever holds one that is taken.

Chosen ports lie below the kernel's range for outgoing connections, so that none is lost to a client's
socket between the choice and the server's bind, and begin at a place derived from the project, so that a
project gets the same ones again and two projects rarely meet.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mailstack.runtime.errors import MachineLacks, NoPrivilege, PortTaken
from mailstack.runtime.model import STANDARD_PORTS
from mailstack.runtime.state import StateDir, list_states

if TYPE_CHECKING:
    from mailstack.spec import Stack

LOWEST, HIGHEST = 20000, 32767
_LISTEN = "0A"
_UDP_BOUND = "07"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a port."""

    address: str
    port: int
    pid: int | None
    """None when the process belongs to a user whose descriptors we may not see."""
    command: str
    """Its command line, or `uid N` when all that is known is the owner."""

    def __str__(self) -> str:
        who = f"{self.command} (pid {self.pid})" if self.pid else self.command
        return f"{who} at {self.address}:{self.port}"


def bind_error(address: str, port: int, *, udp: bool = False) -> int:
    """The errno that binding `address:port` gives now, 0 when it is free. Nothing stays bound."""
    kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as probe:
        if not udp:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            if not udp:
                probe.listen(1)
        except OSError as error:
            return error.errno or errno.EIO
    return 0


def protocol_error(name: str, address: str, port: int) -> int:
    """As `bind_error`, for everything that the protocol needs: DNS wants the port for UDP and TCP."""
    return bind_error(address, port) or (bind_error(address, port, udp=True) if name == "dns" else 0)


def standard_ports_allowed(address: str = "127.0.0.1") -> bool:
    """This process may bind ports below 1024 (root, a capability, or `ip_unprivileged_port_start`)."""
    for port in (1, 7, 9, 11):  # whichever of these nobody has: only the refusal counts
        error = bind_error(address, port)
        if error in (errno.EACCES, errno.EPERM):
            return False
        if not error:
            return True
    return True


def choose(
    names: Iterable[str],
    *,
    bind: str,
    seed: str,
    remembered: Mapping[str, int],
    fixed: Mapping[str, int],
    avoid: Collection[int] = (),
    test: bool = True,
) -> dict[str, int]:
    """A port for every name: the fixed one, else the remembered one if it is free, else a free one.

    `avoid` are ports that other projects remember. With `test` False (a daemon on another machine) ports are
    chosen without looking. Fixed ports are not checked here: `require_free` does. Raises `MachineLacks` when
    no port is left.
    """
    chosen: dict[str, int] = {}
    used = set(avoid) | set(fixed.values())
    for name in names:
        if name in fixed:
            chosen[name] = fixed[name]
            continue
        known = remembered.get(name)
        if known and known not in used and not (test and protocol_error(name, bind, known)):
            chosen[name] = known
        else:
            chosen[name] = _free_port(name, bind, f"{seed}/{name}", used, test)
        used.add(chosen[name])
    return chosen


def require_free(name: str, address: str, port: int, groups: Collection[int] = ()) -> None:
    """Unless `address:port` can be bound for `name`, raise `PortTaken` (holder named) or `NoPrivilege`.

    `groups`: process groups of our own, whose ports will be free when they are needed.
    """
    error = protocol_error(name, address, port)
    if not error:
        return
    if error in (errno.EACCES, errno.EPERM):
        raise NoPrivilege(
            f"port {port} ({name}) may not be bound by this user",
            hint=f"set network.publish.{name} to a port above 1023, or run "
            f"`sysctl net.ipv4.ip_unprivileged_port_start={port}` as root",
        )
    if error == errno.EADDRNOTAVAIL:
        raise MachineLacks(
            f"this machine does not have the address {address}",
            hint="set network.bind to one of its addresses, such as 127.0.0.1",
        )
    who = holder(address, port)
    if who is not None and who.pid is not None and _group(who.pid) in groups:
        return
    raise PortTaken(
        f"port {port} ({name}) at {address} is taken by {who}" if who else f"port {port} ({name}) is taken",
        hint=f"stop it, or set network.publish.{name} to another port (or network.publish to auto)",
    )


def fixed_ports(stack: Stack) -> dict[str, int]:
    """The ports that the spec names, for the protocols that it turns on."""
    publish = stack.network.publish
    if publish == "auto":
        return {}
    wished = STANDARD_PORTS if isinstance(publish, str) else publish
    return {name: port for name, port in wished.items() if name in stack.services}


def others_ports(state: StateDir) -> set[int]:
    """The ports that this user's other projects have or remember."""
    return {
        port
        for other in list_states(state.home)
        if other.project != state.project and (record := other.load_quietly())
        for port in record.ports.values()
    }


def holder(address: str, port: int) -> Holder | None:
    """Who listens at `address:port` (or at all addresses, or at IPv6's any), as far as this user may see."""
    found: list[tuple[str, str, str]] = []  # address, inode, uid
    for name, state in (("tcp", _LISTEN), ("tcp6", _LISTEN), ("udp", _UDP_BOUND), ("udp6", _UDP_BOUND)):
        for local, local_port, inode, uid in _sockets(name, state):
            any_address = local in ("0.0.0.0", "::")
            if local_port == port and (local == address or any_address or address == "0.0.0.0"):
                found.append((local, inode, uid))
    if not found:
        return None
    processes = _owners({inode for _, inode, _ in found})
    found.sort(key=lambda item: item[1] not in processes)
    local, inode, uid = found[0]
    pid = processes.get(inode)
    return Holder(local, port, pid, command_line(pid) if pid else f"a process of uid {uid}")


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


def command_line(pid: int) -> str:
    """The command line of a process, shortened; its name when the line is not to be had.

    The program stands without its directory: a long path would leave no room for the arguments, and
    `python3 -c ...` is told from `python3 -m ...` by those.
    """
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if words[0].startswith(b"/"):  # else a title of its own: `nginx: master ...`
            words[0] = words[0].rsplit(b"/", 1)[-1]
        text = b" ".join(words).decode(errors="replace").strip()
        text = text or Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "?"
    # one line, and nothing that a terminal would act upon: it is somebody else's text
    text = "".join(char if char.isprintable() else " " for char in text)
    return text if len(text) <= 80 else text[:77] + "..."


def _free_port(name: str, bind: str, seed: str, used: Collection[int], test: bool) -> int:
    low, high = LOWEST, min(HIGHEST, _first_ephemeral() - 1)
    if high - low < 1000:  # an unusual kernel setting: take what lies above the privileged ports
        low, high = 1024, HIGHEST
    span = high - low + 1
    start = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4], "big") % span
    for offset in range(span):
        port = low + (start + offset) % span
        if port not in used and not (test and protocol_error(name, bind, port)):
            return port
    raise MachineLacks(f"no free port is left at {bind}", hint="set network.publish to ports of your choice")


def _first_ephemeral() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32768


def _sockets(table: str, state: str) -> Iterator[tuple[str, int, str, str]]:
    """`(address, port, inode, uid)` of each socket of a table of proc(5) that is in `state`."""
    try:
        lines = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    except OSError:
        return
    for line in lines:
        columns = line.split()
        if len(columns) > 9 and columns[3] == state:
            raw, _, port = columns[1].partition(":")
            yield _address(raw), int(port, 16), columns[9], columns[7]


def _address(raw: str) -> str:
    """The kernel prints each 32-bit word of an address in the machine's byte order."""
    words = [raw[i : i + 8] for i in range(0, len(raw), 8)]
    packed = b"".join(struct.pack("=I", int(word, 16)) for word in words)
    if len(packed) == 4:
        return socket.inet_ntop(socket.AF_INET, packed)
    text = socket.inet_ntop(socket.AF_INET6, packed)
    return text[7:] if text.startswith("::ffff:") and "." in text else text


def _owners(inodes: Collection[str]) -> dict[str, int]:
    """Socket inode -> pid, for the processes whose descriptors we may list."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    owners: dict[str, int] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            for descriptor in os.listdir(f"/proc/{name}/fd"):
                inode = wanted.get(os.readlink(f"/proc/{name}/fd/{descriptor}"))
                if inode is not None:
                    owners.setdefault(inode, int(name))
        except OSError:
            continue  # another user's, or gone
    return owners
