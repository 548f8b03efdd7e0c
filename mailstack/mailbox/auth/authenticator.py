"""Checks credentials against the configuration's passdbs, for every mechanism.

`begin` makes the server's half of one exchange (`exchange.py`), `check` judges a password. A check that is
slow by design (PBKDF2, crypt, Argon2) runs in a thread, at most `THREADS` at once, and its success is
remembered (see `verified`), so that a client which logs in again and again costs a thread only once. Guessing
is slowed down and locked out (`guard.py`), and nothing tells an unknown user from a wrong password: neither
the words nor the time.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from mailstack.config.dovecot import DovecotConfig
from mailstack.config.dovecot.variables import user_values
from mailstack.mailbox.auth import channel
from mailstack.mailbox.auth.chain import Chain, Found
from mailstack.mailbox.auth.guard import LOCK_TIME, Guard
from mailstack.mailbox.auth.networks import Networks
from mailstack.mailbox.auth.outcome import Client, Denied, NoLogin, Refused
from mailstack.mailbox.auth.rows import yes
from mailstack.mailbox.auth.schemes import SchemeError, Stored, parse
from mailstack.mailbox.auth.users import SESSION_SQL_TIMEOUT, Directory, Unavailable, User
from mailstack.mailbox.auth.verified import Verified
from mailstack.net.log import Log
from mailstack.net.stream import Stream
from mailstack.wire.sasl import Credentials
from mailstack.wire.sasl_scram import Keys, keys
from mailstack.wire.sasl_server import PLUS, REVEALING

THREADS = 4
_DECOY = "{PBKDF2}$1$0123456789abcdef$5000$" + "0" * 40
"""Checked for users that do not exist where no passwd-file shows what those of real ones look like."""
_PROXY = ("proxy", "proxy_maybe")

Sleep = Callable[[float], Awaitable[None]]
R = TypeVar("R", bound=Refused)


class Authenticator:
    """The passdbs at work. `configure` changes the configuration; checks under way keep the old one."""

    def __init__(
        self,
        config: DovecotConfig,
        log: Log,
        *,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._sleep = sleep
        self._clock = clock
        self._verified = Verified()
        self._scram: dict[bytes, Keys] = {}
        self._secret = secrets.token_bytes(32)
        self._threads = asyncio.Semaphore(THREADS)
        self.guard = Guard()
        self.configure(config)

    def configure(self, config: DovecotConfig) -> None:
        """Follow `config` from the next check on."""
        self.config = config
        self.directory = Directory(config)
        self.directory.report = self._log.warning
        self._chain = Chain(config, self.directory, self._fits, master=False)
        self._masters = Chain(config, self.directory, self._fits, master=True)
        self.networks = Networks(config)

    def lookup(self, name: str, form: str | None = None) -> User | None:
        """The user behind an address or login name, without a password; `form`: what is in
        auth_username_format's place. Raises `Unavailable`."""
        user = self.directory.canonical(name, form)
        return None if user is None else self.directory.find(user)

    # ---- connections

    def client(self, stream: Stream, service: str, session: str = "") -> Client:
        """The connection as authentication sees it, at this moment (STARTTLS changes it)."""
        trusted = self.networks.trusted(stream.peer[0])
        verified, name = (
            channel.certificate(stream, self.config.ssl_cert_username_field)
            if self.config.ssl_verify_client_cert
            else (False, "")
        )
        return Client(
            service,
            stream.peer[0],
            stream.local[0],
            stream.peer[1],
            stream.local[1],
            secured=stream.tls is not None or trusted,
            session=session,
            certificate=name,
            verified=verified,
            bindings=lambda: channel.bindings(stream),
            counted=not trusted,
        )

    def plaintext_allowed(self, stream: Stream) -> bool:
        """Whether a password may come over the connection (disable_plaintext_auth, ssl = required)."""
        config = self.config
        if stream.tls is not None or not (
            self.networks.plaintext_disabled(stream) or config.ssl == "required"
        ):
            return True
        return self.networks.trusted(stream.peer[0])

    def offered(self, stream: Stream) -> tuple[str, ...]:
        """The mechanisms that work on the connection as it is, in the configuration's order."""
        config = self.config
        allowed = self.plaintext_allowed(stream)
        if not allowed and config.ssl == "required":
            return ()
        return tuple(name for name in config.auth_mechanisms if self._works(name, stream, allowed))

    def _works(self, name: str, stream: Stream, allowed: bool) -> bool:
        if name in REVEALING:
            return allowed
        if name == "EXTERNAL":
            return bool(self.client(stream, "").certificate)
        return name not in PLUS or bool(channel.bindings(stream))

    # ---- a password

    async def check(
        self, credentials: Credentials, client: Client, mechanism: str = "PLAIN"
    ) -> User | Refused:
        """Who these credentials let in; nobody: after the delays that guessing costs."""
        name, authzid = self._split(credentials, client)
        if not await self.wait(client):
            return await self.refuse(client, None, b"", Denied.CREDENTIALS)
        found = None
        mark = self.mark(credentials.authcid, credentials.password)
        if name is not None and not self.guard.locked(name, client.rip, self._clock()):
            if not self.certificate_missing(client):
                found = await self._find(name, authzid, credentials.password, mechanism, client)
        elif name is not None:
            self._say(credentials.authcid, client, "guard", "too many failures, not looked at")
        else:
            self._say(credentials.authcid, client, "passdb", "unknown user")
        if found is None or not found.known:
            await self._pretend(credentials.password)
        if found is None:
            return await self.refuse(client, None, mark, Denied.CREDENTIALS)
        return await self.finish(found, client, authzid, mark)

    def _split(self, credentials: Credentials, client: Client) -> tuple[str | None, str]:
        """The name whose password it is, and the user it is for (canonical; empty: itself)."""
        if self.config.auth_ssl_username_from_cert and client.certificate:
            credentials = Credentials(credentials.authzid, client.certificate, credentials.password)
        canonical = self.directory.canonical
        separator = self.config.auth_master_user_separator
        authcid, authzid = credentials.authcid, credentials.authzid
        if separator and separator in authcid and not authzid:
            authzid, _, authcid = authcid.partition(separator)
        name = canonical(authcid)
        if not authzid:
            return name, ""
        wanted = canonical(authzid)
        if wanted is None:
            return None, ""
        return name, "" if wanted == name else wanted

    async def _find(
        self, name: str, authzid: str, password: str | None, mechanism: str, client: Client
    ) -> Found:
        chain = self._masters if authzid and self._masters.databases else self._chain
        more = {**user_values(name, "auth_"), **user_values(name, "orig_")}
        if authzid:
            more |= user_values(authzid, "login_")
        return await chain.run(name, password, mechanism, client, more)

    async def credentials(
        self, authcid: str, authzid: str, mechanism: str, client: Client
    ) -> tuple[Found | None, str]:
        """What is stored for a user, for a mechanism that proves the password; and the user it is for."""
        name, authzid = self._split(Credentials(authzid, authcid, ""), client)
        if name is None or self.certificate_missing(client):
            return None, authzid
        if self.guard.locked(name, client.rip, self._clock()):
            self._say(authcid, client, "guard", "too many failures, not looked at")
            return None, authzid
        return await self._find(name, authzid, None, mechanism, client), authzid

    async def wait(self, client: Client) -> bool:
        """Wait as long as earlier failures from there ask for; False: too many do."""
        base = self.config.auth_failure_delay
        if not base or not client.counted or not client.rip:
            return True
        delay = self.guard.delay(client.rip, base, self._clock())
        if not delay:
            return True
        if not self.guard.enter(client.rip):
            return False
        try:
            await self._sleep(delay)
        finally:
            self.guard.leave(client.rip)
        return True

    async def finish(self, found: Found, client: Client, authzid: str, mark: bytes) -> User | Refused:
        """From what the passdbs say to who is in."""
        master = bool(authzid and self._masters.databases)
        if not found.good and not (master and found.verified):
            for driver, why in found.reports:
                self._say(found.user, client, driver, why)
            if found.trouble and (master or not authzid):
                self._log.error(f"auth: {_shown(found.user)},{client.rip}: {found.trouble}")
                return await self.refuse(client, None, b"", Denied.UNAVAILABLE)
            return await self.refuse(client, found.user if found.known else None, mark, Denied.CREDENTIALS)
        if authzid and not master:
            self._say(found.user, client, "master", f"not a master user for {_shown(authzid)}")
            return await self.refuse(client, None, b"", Denied.AUTHORIZATION)
        denied = self._restricted(found, client)
        if denied is Denied.CREDENTIALS and found.trouble:
            denied = Denied.UNAVAILABLE  # as Dovecot: another passdb might have said otherwise
        login = found.user
        if denied is None and master:
            # Where the master's passdb goes on (`pass = yes`), others have to know the user.
            if found.good:
                found = Found(authzid, good=True)
            else:
                found = await self._chain.run(authzid, None, "", client, user_values(login, "auth_"))
                denied = self._restricted(found, client) if found.good else Denied.CREDENTIALS
        if denied is not None:
            return await self.refuse(client, None, b"", denied)
        user = await self.user(found, checked=not (master and not found.verified))
        if isinstance(user, Denied):
            return await self.refuse(client, None, b"", user)
        if client.counted:
            self.guard.succeeded(login, client.rip)
        return user

    async def user(self, found: Found, *, checked: bool = True) -> User | Denied:
        """Where the mail of somebody who is in lies; not `checked`: a passdb has not been asked about him."""
        name = self.directory.canonical(found.user) or found.user
        arguments = (name, found.userdb if checked else None, SESSION_SQL_TIMEOUT)
        try:
            if self.directory.waits:
                loop = asyncio.get_running_loop()
                user = await loop.run_in_executor(None, self.directory.find, *arguments)
            else:
                user = self.directory.find(*arguments)
            if user is None:
                raise Unavailable("the passdb knows the user, but no userdb does")
        except Unavailable as error:
            return self.unavailable(name, error)
        return user

    async def refuse(self, client: Client, user: str | None, mark: bytes, denied: R) -> R:
        """Remember a failure (`mark`: of which credentials) and let it take its time."""
        if client.counted and mark and self.guard.failed(user, client.rip, mark, self._clock()):
            minutes = int(LOCK_TIME // 60)
            self._log.warning(
                f"auth: {_shown(user or '')}: many wrong passwords, the last from {client.rip or 'unknown'}: "
                f"logins from new addresses are refused for {minutes} minutes"
            )
        if self.config.auth_failure_delay:
            await self._sleep(self.config.auth_failure_delay)
        return denied

    def _restricted(self, found: Found, client: Client) -> Refused | None:
        """What the passdb's fields forbid."""
        fields = found.fields
        login = client.service in ("imap", "pop3")
        nets = fields.get("allow_nets", "")
        if nets and not _within(client.rip, nets):
            self._say(found.user, client, "passdb", "allow_nets check failed")
            return Denied.CREDENTIALS
        if yes(fields, "user_disabled"):
            return Denied.DISABLED
        if yes(fields, "pass_expired"):
            return Denied.EXPIRED
        if login and any(yes(fields, name) for name in _PROXY):
            self._log.error(
                f"auth: {_shown(found.user)}: logins are not handed on to another server (proxy, proxy_maybe)"
            )
            return Denied.UNAVAILABLE
        if login and yes(fields, "nologin"):
            self._say(found.user, client, "passdb", fields.get("reason", "nologin"))
            host, port = fields.get("host", ""), fields.get("port", "")
            return NoLogin(fields.get("reason", ""), host, port, fields.get("destuser") or found.user)
        return None

    def certificate_missing(self, client: Client) -> bool:
        """Nobody may log in without one (auth_ssl_require_client_cert)."""
        return self.config.auth_ssl_require_client_cert and not client.verified

    # ---- what costs time

    async def _fits(self, user: str, text: str, scheme: str, password: str) -> bool:
        mac = self._verified.mac(user, scheme + text, password)
        if self._verified.holds(mac):
            return True
        if not await self._verify(parse(text, scheme), password, user):
            return False
        self._verified.add(mac)
        return True

    async def _verify(self, stored: Stored, password: str, user: str = "") -> bool:
        if not stored.slow:
            return stored.verify(password, user)
        async with self._threads:
            return await asyncio.get_running_loop().run_in_executor(None, stored.verify, password, user)

    async def _pretend(self, password: str) -> None:
        """Take the time of a wrong password: as long as for somebody who is in the first passwd-file."""
        try:
            await self._verify(self._decoy(), password)
        except SchemeError:
            pass

    def _decoy(self) -> Stored:
        for database in self._chain.databases:
            if database.file is not None:
                text = self.directory.files.some_password(database)
                try:
                    return parse(text, database.scheme) if text else parse(_DECOY, "PLAIN")
                except SchemeError:
                    break
        return parse(_DECOY, "PLAIN")

    async def scram_keys(self, found: Found | None, name: str, digest: str) -> tuple[Keys, bool]:
        """A user's SCRAM keys, and whether they are real: for nobody, or where the stored password does not
        give any, those of a password that nobody knows."""
        stored = found.stored if found is not None else None
        if stored is not None and (ready := stored.scram(digest)) is not None:
            return ready, True
        plain = stored.plain if stored is not None else None
        user = found.user if found is not None else name
        salt = hmac.digest(self._secret, f"{digest}:{user}".encode("utf-8", "surrogateescape"), "sha256")[:16]
        if plain is None and self._decoy().plain is None:
            random = secrets.token_bytes(hashlib.new(digest).digest_size)
            return Keys(salt, 4096, random, random), False
        password = plain if plain is not None else secrets.token_hex(16)
        mac = self._verified.mac(user, digest, plain if plain is not None else "\0")
        if mac not in self._scram:
            async with self._threads:
                loop = asyncio.get_running_loop()
                made = await loop.run_in_executor(None, keys, digest, password, salt)
            if len(self._scram) >= 10_000:
                del self._scram[next(iter(self._scram))]
            self._scram[mac] = made
        return self._scram[mac], plain is not None

    def mark(self, name: str, proof: str) -> bytes:
        """Tells one pair of credentials from another, and nothing else."""
        return self._verified.mac(name, "failed", proof)[:8]

    def unavailable(self, name: str, error: Unavailable) -> Denied:
        """Say what is wrong."""
        self._log.error(f"auth: {_shown(name)}: {error}")
        return Denied.UNAVAILABLE

    def say(self, name: str, client: Client, why: str) -> None:
        """With auth_verbose: why a proof is none."""
        self._say(name, client, "passdb", why)

    def _say(self, name: str, client: Client, driver: str, why: str) -> None:
        if self.config.auth_verbose:
            self._log.info(f"auth: {driver}({_shown(name)},{client.rip}): {why} ({client.service})")


def _within(address: str, nets: str) -> bool:
    """allow_nets: addresses and networks, `local` for a connection that has no address."""
    for word in nets.replace(",", " ").split():
        if word == "local":
            if not address:
                return True
            continue
        try:
            if address and ipaddress.ip_address(address) in ipaddress.ip_network(word, strict=False):
                return True
        except ValueError:
            continue
    return False


def _shown(name: str) -> str:
    """A name of a client's making, safe and short enough for a log line."""
    return "".join(char if char.isprintable() else "?" for char in name[:100])
