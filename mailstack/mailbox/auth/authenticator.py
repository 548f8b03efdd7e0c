"""Checks credentials against the configuration's passdbs.

A check that is slow by design (PBKDF2) runs in a thread, at most `THREADS` at once, and its success is
remembered (see `verified`), so that a client which logs in again and again costs a thread only once. After a
failure the answer waits `auth_failure_delay`; nothing tells an unknown user from a wrong password.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum

from mailstack.config.dovecot import DovecotConfig
from mailstack.mailbox.auth.schemes import SchemeError, Stored, parse
from mailstack.mailbox.auth.users import Directory, Secret, Unavailable, User
from mailstack.mailbox.auth.verified import Verified
from mailstack.net.log import Log
from mailstack.wire.sasl import Credentials

THREADS = 4
_DECOY = "{PBKDF2}$1$0123456789abcdef$5000$" + "0" * 40
"""Checked for users that do not exist, so that the time of an answer says nothing about who does."""


class Denied(Enum):
    """Why credentials do not let anybody in."""

    CREDENTIALS = "authentication failed"
    AUTHORIZATION = "may not act for that user"
    UNAVAILABLE = "temporary failure"
    TOO_MANY = "too many connections from that user and address"


Sleep = Callable[[float], Awaitable[None]]


class Authenticator:
    """The passdbs at work. `configure` changes the configuration; checks under way keep the old one."""

    def __init__(self, config: DovecotConfig, log: Log, *, sleep: Sleep = asyncio.sleep) -> None:
        self._log = log
        self._sleep = sleep
        self._verified = Verified()
        self._threads = asyncio.Semaphore(THREADS)
        self.configure(config)

    def configure(self, config: DovecotConfig) -> None:
        """Follow `config` from the next check on."""
        self.config = config
        self.directory = Directory(config)

    def lookup(self, name: str) -> User | None:
        """The user behind an address or login name, without a password. Raises `Unavailable`."""
        user = self.directory.canonical(name)
        return None if user is None else self.directory.find(user)

    async def check(self, credentials: Credentials, *, service: str, rip: str) -> User | Denied:
        """Who these credentials let in; nobody: after `auth_failure_delay`. Never raises for input."""
        directory = self.directory
        try:
            outcome = await self._check(directory, credentials, service, rip)
        except (Unavailable, SchemeError) as error:
            self._log.error(f"auth: {_shown(credentials.authcid)},{rip}: {error}")
            outcome = Denied.UNAVAILABLE
        if isinstance(outcome, Denied) and self.config.auth_failure_delay:
            await self._sleep(self.config.auth_failure_delay)
        return outcome

    async def _check(
        self, directory: Directory, credentials: Credentials, service: str, rip: str
    ) -> User | Denied:
        name = directory.canonical(credentials.authcid)
        secret = directory.secret(name) if name is not None else None
        if secret is None:
            await self._verify(parse(_DECOY, "PLAIN"), credentials.password)
            return self._denied(credentials, rip, service, "unknown user")
        if not secret.any_password and not await self._password(secret, credentials.password):
            return self._denied(credentials, rip, service, "Password mismatch")
        if credentials.authzid and directory.canonical(credentials.authzid) != name:
            self._denied(credentials, rip, service, f"not a master user for {_shown(credentials.authzid)}")
            return Denied.AUTHORIZATION
        user = directory.find(directory.canonical(secret.user) or secret.user)
        if user is None:
            raise Unavailable("the passdb knows the user, but no userdb does")
        return user

    async def _password(self, secret: Secret, password: str) -> bool:
        mac = self._verified.mac(secret.user, secret.scheme + secret.stored, password)
        if self._verified.holds(mac):
            return True
        if not await self._verify(parse(secret.stored, secret.scheme), password):
            return False
        self._verified.add(mac)
        return True

    async def _verify(self, stored: Stored, password: str) -> bool:
        if not stored.slow:
            return stored.verify(password)
        async with self._threads:
            return await asyncio.get_running_loop().run_in_executor(None, stored.verify, password)

    def _denied(self, credentials: Credentials, rip: str, service: str, why: str) -> Denied:
        if self.config.auth_verbose:
            self._log.info(f"auth: passwd-file({_shown(credentials.authcid)},{rip}): {why} ({service})")
        return Denied.CREDENTIALS


def _shown(name: str) -> str:
    """A name of a client's making, safe and short enough for a log line."""
    return "".join(char if char.isprintable() else "?" for char in name[:100])
