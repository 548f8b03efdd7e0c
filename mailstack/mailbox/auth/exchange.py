"""The server's half of one SASL exchange, with everything that it has to ask for.

    exchange = Exchange(authenticator, "SCRAM-SHA-256", client)
    outcome = await exchange.step(response)        # Challenge, Success or Refused; raises SASLError

After a `Challenge` the client's response goes into the next `step`; anything else is the end. Where the
protocol has no place for data beside a success (IMAP, POP3, SMTP), that goes out as a challenge before it.
"""

from __future__ import annotations

import itertools
import os
import secrets
import time

from mailstack.mailbox.auth.authenticator import Authenticator
from mailstack.mailbox.auth.chain import Found
from mailstack.mailbox.auth.outcome import Client, Denied, Refused, Success
from mailstack.mailbox.auth.schemes import CRAM_MD5
from mailstack.mailbox.auth.users import Unavailable, User
from mailstack.wire.sasl import Challenge, Credentials, Identity, Lookup, Mismatch, SASLError, Step
from mailstack.wire.sasl_scram import HASHES, ScramServer
from mailstack.wire.sasl_server import PLUS, BearerServer, CramMD5Server, Surroundings, mechanism

_numbers = itertools.count(1)


class Exchange:
    """One attempt; made anew for each. `final_data`: the protocol can carry data beside a success.

    Raises `SASLError` for a mechanism that is not on offer.
    """

    def __init__(
        self, authenticator: Authenticator, name: str, client: Client, *, final_data: bool = False
    ) -> None:
        config = authenticator.config
        if name not in config.auth_mechanisms:
            raise SASLError("Unsupported authentication mechanism")
        bindings = client.bindings() if name.startswith("SCRAM") else {}
        self._auth = authenticator
        self._client = client
        self._final_data = final_data
        self._mechanism = mechanism(
            name,
            Surroundings(
                nonce=secrets.token_urlsafe(18),
                challenge=_challenge(config.hostname),
                bindings=bindings,
                plus=bool(bindings) and any(one in config.auth_mechanisms for one in PLUS),
                certificate=client.certificate,
                anonymous=config.auth_anonymous_username,
            ),
        )
        self.name = name
        self.user = ""
        """Whom the client says it is, as far as is known."""
        self._found: Found | None = None
        self._authzid = ""
        self._real = False
        self._ready: Success | Refused | None = None

    async def step(self, response: bytes | None) -> Challenge | Success | Refused:
        """Take the client's response (None: there is none yet). Raises `SASLError`."""
        if self._ready is not None:
            ready, self._ready = self._ready, None
            if isinstance(ready, Success) and response:
                raise SASLError(f"Invalid {self.name} response: none is due")
            return ready
        try:
            return await self._handle(self._mechanism.step(response))
        except Mismatch:
            return await self._mismatch(response or b"")

    async def _handle(self, step: Step) -> Challenge | Success | Refused:
        if isinstance(step, Challenge):
            return step
        self.user = step.authcid
        if isinstance(step, Credentials):
            return await self._password(step)
        if isinstance(step, Lookup):
            return await self._look_up(step)
        return await self._identity(step)

    async def _password(self, credentials: Credentials) -> Challenge | Success | Refused:
        outcome = await self._auth.check(credentials, self._client, self.name)
        if isinstance(outcome, User):
            return Success(outcome)
        if isinstance(self._mechanism, BearerServer) and outcome is Denied.CREDENTIALS:
            self._ready = outcome
            return Challenge(self._mechanism.failure(*_hints(self._auth)))
        return outcome

    async def _look_up(self, asked: Lookup) -> Challenge | Success | Refused:
        auth = self._auth
        if not await auth.wait(self._client):
            return await auth.refuse(self._client, None, b"", Denied.CREDENTIALS)
        self._found, self._authzid = await auth.credentials(
            asked.authcid, asked.authzid, self.name, self._client
        )
        found = self._found
        if found is not None and found.trouble and not found.good:
            return await self._finished(found)
        if isinstance(self._mechanism, ScramServer):
            digest = HASHES[self.name.removeprefix("SCRAM-").removesuffix("-PLUS")]
            made, self._real = await auth.scram_keys(found, asked.authcid, digest)
            return await self._handle(self._mechanism.known(made))
        assert isinstance(self._mechanism, CramMD5Server)
        stored = found.stored if found is not None else None
        self._real = stored is not None and stored.scheme in CRAM_MD5
        return await self._handle(self._mechanism.known(stored.cram_md5 if stored and self._real else None))

    async def _identity(self, identity: Identity) -> Challenge | Success | Refused:
        if self.name == "ANONYMOUS":
            if self._auth.certificate_missing(self._client):
                return await self._mismatch(b"")
            try:
                return Success(self._auth.directory.anonymous())
            except Unavailable as error:
                return self._auth.unavailable(identity.authcid, error)
        if self._found is None or not self._real:
            return await self._mismatch(b"")
        outcome = await self._finished(self._found)
        if isinstance(outcome, Refused):
            return outcome
        success = Success(outcome.user, identity.data)
        if not identity.data or self._final_data:
            return success
        self._ready = success
        return Challenge(identity.data)

    async def _finished(self, found: Found) -> Success | Refused:
        outcome = await self._auth.finish(found, self._client, self._authzid, b"")
        return outcome if isinstance(outcome, Refused) else Success(outcome)

    async def _mismatch(self, response: bytes) -> Denied:
        """A proof that is none."""
        known = self._found is not None and self._found.known
        user = self._found.user if self._found is not None and known else None
        if self._found is not None and known and not self._real:
            self._auth.say(user or "", self._client, f"no password that {self.name} can be checked with")
        elif self.user:
            self._auth.say(self.user, self._client, "Password mismatch" if known else "unknown user")
        mark = self._auth.mark(self.user, response.hex())
        return await self._auth.refuse(self._client, user, mark, Denied.CREDENTIALS)


def _challenge(hostname: str) -> bytes:
    """What RFC 2195 asks for: unique, and of this host."""
    unique = f"{secrets.token_hex(8)}.{os.getpid()}.{next(_numbers)}.{int(time.time())}"
    return f"<{unique}@{hostname}>".encode()


def _hints(authenticator: Authenticator) -> tuple[str, str]:
    """The scope and the URL that a client with a bad token is told."""
    for database in authenticator.config.passdbs:
        if database.oauth2 is not None:
            return " ".join(database.oauth2.scope), database.oauth2.openid_configuration_url
    return "", ""
