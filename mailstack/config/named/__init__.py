"""named.conf as BIND 9.18 has it: the reader, its model, and the table of what is supported.

conf = load(Path("/etc/bind/named.conf"))   # ConfigError says file:line
conf.options.forwarders, conf.zones, conf.warnings
"""

from mailstack.config.named.acl import ANY, NONE, Acl, Address, Locality, Network, only_addresses
from mailstack.config.named.load import load
from mailstack.config.named.model import ListenOn, NamedConf, Options, Server, Zone

__all__ = [
    "ANY",
    "NONE",
    "Acl",
    "Address",
    "ListenOn",
    "Locality",
    "NamedConf",
    "Network",
    "Options",
    "Server",
    "Zone",
    "load",
    "only_addresses",
]
