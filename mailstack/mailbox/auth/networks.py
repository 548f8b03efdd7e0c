"""Whom dovecot.conf treats otherwise because of where they are: login_trusted_networks, `remote`, `local`."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from mailstack.config.dovecot import DovecotConfig
from mailstack.config.dovecot.model import NetworkSettings
from mailstack.net.stream import Stream


class Networks:
    """Answers for one configuration."""

    def __init__(self, config: DovecotConfig) -> None:
        self._config = config
        self._trusted = [ip_network(name, strict=False) for name in config.login_trusted_networks]

    def trusted(self, address: str) -> bool:
        """Whether `login_trusted_networks` has the address."""
        if not self._trusted or not address:
            return False
        parsed = ip_address(address)
        return any(parsed in network for network in self._trusted)

    def plaintext_disabled(self, stream: Stream) -> bool:
        """disable_plaintext_auth for a connection."""
        disabled = self._config.disable_plaintext_auth
        for network in self._matching(stream):
            if network.disable_plaintext_auth is not None:
                disabled = network.disable_plaintext_auth
        return disabled

    def max_connections(self, stream: Stream, service: str) -> int:
        """mail_max_userip_connections for a connection; 0: any number."""
        most = self._config.mail_max_userip_connections.get(service, 0)
        for network in self._matching(stream):
            if network.mail_max_userip_connections is not None:
                most = network.mail_max_userip_connections
        return most

    def _matching(self, stream: Stream) -> list[NetworkSettings]:
        """The sections that hold for a connection; the last word counts."""
        found = []
        for each in self._config.networks:
            address = (stream.peer if each.type == "remote" else stream.local)[0]
            if address and ip_address(address) in each.network:
                found.append(each)
        return found
