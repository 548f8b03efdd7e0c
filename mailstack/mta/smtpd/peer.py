"""What the DNS calls a client: its name in the reverse zone, and whether that name leads back to it."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from mailstack.net.resolver import NoSuchDomain, Resolver, ResolveTemporary

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ClientNames:
    """`name` is confirmed, `reverse` need not be; each is `unknown` where there is none."""

    name: str = UNKNOWN
    reverse: str = UNKNOWN
    name_for_now: bool = False
    reverse_for_now: bool = False
    """Whether it is unknown because the DNS gave no answer."""
    problem: str = ""
    """Why a name that there is does not count; for the log."""

    @property
    def failed_for_now(self) -> bool:
        return self.name_for_now or self.reverse_for_now


async def look_up_names(resolver: Resolver, address: str, timeout: float) -> ClientNames:
    """The names of an address literal; each of the two questions may take `timeout` seconds."""
    try:
        reverse = await resolver.ptr(address, timeout=timeout)
    except (ResolveTemporary, TimeoutError):
        return ClientNames(name_for_now=True, reverse_for_now=True)
    except ValueError:
        return ClientNames()
    if reverse is None:
        return ClientNames()
    problem = f"hostname {reverse} does not resolve to address {address}"
    wanted = ip_address(address.partition("%")[0])
    try:
        found = await resolver.addresses(reverse, timeout=timeout)
    except NoSuchDomain as error:
        return ClientNames(reverse=reverse, problem=f"{problem}: {str(error).rpartition(': ')[2]}")
    except (ResolveTemporary, TimeoutError):
        return ClientNames(reverse=reverse, name_for_now=True)
    if any(ip_address(text) == wanted for text in found):
        return ClientNames(reverse, reverse)
    return ClientNames(reverse=reverse, problem=problem)
