"""Every mechanism over IMAP and POP3, with and without TLS, as a client speaks it."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import ssl
import time
from base64 import b64decode, b64encode, urlsafe_b64encode
from pathlib import Path

import pytest

from mailstack.net.stream import Stream, connect
from mailstack.wire.sasl_client import CramMD5Client, ScramClient
from tests.mailbox import Mailbox, certificate, client_tls, running

ALL = (
    "auth_mechanisms = plain login cram-md5 scram-sha-1 scram-sha-256 scram-sha-1-plus scram-sha-256-plus "
    "external xoauth2 oauthbearer anonymous\nauth_anonymous_username = guest@mail.test\n"
)
USERS = """\
zs@mail.test:{PLAIN}secret
hashed@mail.test:{SCRAM-SHA-256}4096,SNTmtGFJFjVgFdIVR7pR1w==,df48uwlSJA1/g2UD9mfp64bKUTco749C0o5+YLKHt1E=,i45hiflu8KwFO8ihNWPJqQOC4RcrI0kCRT7+YeJK8n4=
cram@mail.test:{CRAM-MD5}cd3ba7deaad6e5ca23448ba42e379747a9e0f7f1fbc00c8a81bbaac395731b56
crypt@mail.test:{MD5-CRYPT}$1$I.BI0qOz$s.iSnVcmk.E2hYQ1bgCZU.
guest@mail.test:{PLAIN}x
cert@mail.test:::::::nopassword
"""


class Imap:
    """A client that reads lines."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._data = b""

    async def line(self) -> bytes:
        while b"\r\n" not in self._data:
            data = await self.stream.read(10)
            assert data, "the server has closed"
            self._data += data
        line, _, self._data = self._data.partition(b"\r\n")
        return line

    async def ask(self, text: bytes) -> bytes:
        self.stream.write(text + b"\r\n")
        while (line := await self.line()).startswith(b"* "):
            pass
        return line

    async def exchange(self, mechanism: str, first: bytes | None, *more: bytes) -> bytes:
        """AUTHENTICATE with fixed responses; the last answer."""
        line = b"a AUTHENTICATE " + mechanism.encode()
        answer = await self.ask(line + (b" " + (b64encode(first) or b"=") if first is not None else b""))
        for response in more:
            assert answer.startswith(b"+"), answer
            answer = await self.ask(b64encode(response))
        return answer

    async def scram(
        self, mechanism: str, user: str, password: str, kind: str = "", data: bytes = b""
    ) -> bytes:
        client = Scram(mechanism, user, password, kind, data)
        answer = await self.ask(f"a AUTHENTICATE {mechanism} {b64encode(client.first).decode()}".encode())
        if not answer.startswith(b"+"):
            return answer
        answer = await self.ask(b64encode(client.final(b64decode(answer[2:]))))
        if not answer.startswith(b"+"):
            return answer
        assert b64decode(answer[2:]) == client.verifier
        return await self.ask(b"")


class Scram:
    """A client with channel binding, written from RFC 5802 beside the server's code."""

    def __init__(self, mechanism: str, user: str, password: str, kind: str, data: bytes) -> None:
        self._digest = "sha1" if "SHA-1" in mechanism else "sha256"
        self._header = f"p={kind},,".encode() if kind else b"n,,"
        self._bare = f"n={user},r=mine".encode()
        self._password, self._data = password.encode(), data
        self.first = self._header + self._bare
        self.verifier = b""

    def final(self, challenge: bytes) -> bytes:
        nonce, salt, rounds = (part.partition(b"=")[2] for part in challenge.split(b","))
        salted = hashlib.pbkdf2_hmac(self._digest, self._password, b64decode(salt), int(rounds))
        key = hmac.digest(salted, b"Client Key", self._digest)
        without = b"c=" + b64encode(self._header + self._data) + b",r=" + nonce
        signed = b",".join((self._bare, challenge, without))
        signature = hmac.digest(hashlib.new(self._digest, key).digest(), signed, self._digest)
        proof = bytes(a ^ b for a, b in zip(key, signature, strict=True))
        server = hmac.digest(salted, b"Server Key", self._digest)
        self.verifier = b"v=" + b64encode(hmac.digest(server, signed, self._digest))
        return without + b",p=" + b64encode(proof)


async def imap(mailbox: Mailbox, context: ssl.SSLContext | None = None) -> Imap:
    client = Imap(await connect("127.0.0.1", mailbox.port("imap"), 5))
    mailbox.streams.append(client.stream)
    await client.line()
    if context is not None:
        assert (await client.ask(b"s STARTTLS")).startswith(b"s OK")
        await client.stream.start_tls(context, 5, server_side=False, server_hostname="localhost")
    return client


async def capabilities(client: Imap) -> set[str]:
    client.stream.write(b"c CAPABILITY\r\n")
    line = await client.line()
    assert (await client.line()).startswith(b"c OK")
    return {word for word in line.decode().split() if word.startswith(("AUTH=", "LOGINDIS"))}


def test_mechanisms_that_prove_a_password(tmp_path: Path) -> None:
    async def cram(mailbox: Mailbox, user: str, password: str) -> bytes:
        client = await imap(mailbox)
        challenge = await client.ask(b"a AUTHENTICATE CRAM-MD5")
        return await client.ask(b64encode(CramMD5Client(user, password).step(b64decode(challenge[2:]))))

    async def check() -> None:
        async with running(tmp_path, ALL, users=USERS) as mailbox:
            for user, password, good in (
                ("zs", "secret", True),
                ("hashed", "secret", False),  # SCRAM-SHA-256 tells nothing to the others
                ("cram", "secret", True),
                ("crypt", "secret", False),
                ("zs", "wrong", False),
                ("nobody", "secret", False),
            ):
                answer = await cram(mailbox, user, password)
                assert answer.startswith(b"a OK" if good else b"a NO [AUTHENTICATIONFAILED]"), (user, answer)
            for mechanism in ("SCRAM-SHA-1", "SCRAM-SHA-256"):
                for user, password, good in (
                    ("zs", "secret", True),
                    ("hashed", "secret", mechanism == "SCRAM-SHA-256"),
                    ("hashed", "wrong", False),
                    ("crypt", "secret", False),
                    ("zs", "wrong", False),
                    ("nobody", "secret", False),
                ):
                    answer = await (await imap(mailbox)).scram(mechanism, user, password)
                    wanted = b"a OK" if good else b"a NO [AUTHENTICATIONFAILED]"
                    assert answer.startswith(wanted), (mechanism, user, answer)
            assert "secret" not in mailbox.log()

    asyncio.run(check())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_channel_binding(tmp_path: Path, version: ssl.TLSVersion) -> None:
    certificate(tmp_path)
    context = client_tls(tmp_path)
    context.maximum_version = version
    der = ssl.PEM_cert_to_DER_cert((tmp_path / "cert.pem").read_text())
    point = hashlib.sha256(der).digest()

    async def check() -> None:
        async with running(tmp_path, ALL, users=USERS, tls=True) as mailbox:
            plain = await imap(mailbox)
            assert not {name for name in await capabilities(plain) if name.endswith("-PLUS")}
            answer = await plain.scram("SCRAM-SHA-256-PLUS", "zs", "secret", "tls-server-end-point", point)
            assert answer.startswith(b"a NO [CANNOT]")
            for kind, data, good in (
                ("tls-server-end-point", point, True),
                ("tls-server-end-point", b"another", False),
                ("tls-unique", None, version is ssl.TLSVersion.TLSv1_2),
            ):
                for mechanism in ("SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS"):
                    client = await imap(mailbox, context)
                    assert f"AUTH={mechanism}" in await capabilities(client)
                    assert client.stream.tls is not None
                    bound = data if data is not None else client.stream.tls.get_channel_binding("tls-unique")
                    answer = await client.scram(mechanism, "zs", "secret", kind, bound or b"")
                    assert answer.startswith(b"a OK" if good else b"a NO"), (kind, answer)

    asyncio.run(check())


def test_client_certificates(tmp_path: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    certificate(tmp_path)
    issuer = x509.load_pem_x509_certificate((tmp_path / "cert.pem").read_bytes())
    signer = serialization.load_pem_private_key((tmp_path / "key.pem").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)

    def context(name: str) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer.subject)
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(issuer.not_valid_before_utc)
        made = builder.not_valid_after(issuer.not_valid_after_utc).sign(signer, hashes.SHA256())
        pem = made.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (tmp_path / "client.pem").write_bytes(pem)
        found = client_tls(tmp_path)
        found.load_cert_chain(tmp_path / "client.pem")
        return found

    async def check() -> None:
        extra = f"{ALL}ssl_verify_client_cert = yes\nssl_ca = <{tmp_path}/cert.pem\nssl_require_crl = no\n"
        async with running(tmp_path, extra, users=USERS, tls=True) as mailbox:
            without = await imap(mailbox, client_tls(tmp_path))
            assert "AUTH=EXTERNAL" not in await capabilities(without)
            assert (await without.exchange("EXTERNAL", b"")).startswith(b"a NO")
            client = await imap(mailbox, context("cert@mail.test"))
            assert "AUTH=EXTERNAL" in await capabilities(client)
            assert (await client.exchange("EXTERNAL", b"")).startswith(b"a OK")
            client = await imap(mailbox, context("cert@mail.test"))
            assert (await client.exchange("EXTERNAL", b"zs@mail.test")).startswith(
                b"a NO [AUTHORIZATIONFAILED]"
            )
            # Dovecot's rule: a certificate alone is good only for who needs no password.
            client = await imap(mailbox, context("zs@mail.test"))
            assert (await client.exchange("EXTERNAL", b"")).startswith(b"a NO [AUTHENTICATIONFAILED]")
        async with running(
            tmp_path,
            extra + "auth_ssl_require_client_cert = yes\nauth_ssl_username_from_cert = yes\n",
            tls=True,
        ) as mailbox:
            without = await imap(mailbox, client_tls(tmp_path))
            assert (await without.ask(b"a LOGIN zs secret")).startswith(b"a NO")
            client = await imap(mailbox, context("zs@mail.test"))
            assert (await client.ask(b"a LOGIN somebody secret")).startswith(b"a OK")
            assert "Login: user=<zs@mail.test>" in mailbox.log()

    asyncio.run(check())


def token(**claims: object) -> str:
    now = int(time.time())
    body = {
        "sub": "1",
        "iat": now,
        "exp": now + 600,
        "iss": "https://id.test",
        "email": "zs@mail.test",
    } | claims
    parts = [
        urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"typ": "JWT", "alg": "HS256", "kid": "k1"}, body)
    ]
    signed = b".".join(parts)
    mac = urlsafe_b64encode(hmac.digest(b"shared secret", signed, "sha256")).rstrip(b"=")
    return (signed + b"." + mac).decode()


def test_bearer_tokens(tmp_path: Path) -> None:
    (tmp_path / "keys/default/HS256").mkdir(parents=True)
    (tmp_path / "keys/default/HS256/k1").write_bytes(b64encode(b"shared secret"))
    (tmp_path / "oauth2.conf.ext").write_text(
        f"introspection_mode = local\nlocal_validation_key_dict = fs:posix:prefix={tmp_path}/keys/\n"
        "issuers = https://id.test\nscope = mail\n"
    )
    extra = (
        ALL + "passdb {\n  driver = oauth2\n  mechanisms = xoauth2 oauthbearer\n  args = oauth2.conf.ext\n}\n"
    )

    async def check() -> None:
        async with running(tmp_path, extra, users=USERS) as mailbox:
            good = token(scope="mail openid")
            cases = [
                (good, "zs@mail.test", True),
                (good, "guest@mail.test", False),
                (good.rpartition(".")[0] + "." + "A" * 43, "zs@mail.test", False),
                (token(scope="mail", exp=1), "zs@mail.test", False),
                (token(scope="mail", iss="https://evil.test"), "zs@mail.test", False),
                (token(scope="calendar"), "zs@mail.test", False),
                (token(scope="mail", azp="../.."), "zs@mail.test", False),
                ("nonsense", "zs@mail.test", False),
            ]
            for text, user, works in cases:
                bearer = f"n,a={user},\1host=x\1auth=Bearer {text}\1\1".encode()
                xoauth = f"user={user}\1auth=Bearer {text}\1\1".encode()
                for name, message in (("OAUTHBEARER", bearer), ("XOAUTH2", xoauth)):
                    client = await imap(mailbox)
                    answer = await client.exchange(name, message)
                    if works:
                        assert answer.startswith(b"a OK"), answer
                        continue
                    assert answer.startswith(b"+ "), (text, answer, mailbox.log())
                    said = json.loads(b64decode(answer[2:]))
                    assert said["status"] in ("invalid_token", "401")
                    assert said["scope"] == "mail"
                    answer = await client.ask(b64encode(b"\1"))
                    assert answer.startswith(b"a NO [AUTHENTICATIONFAILED]"), answer
            log = mailbox.log()
            assert good not in log
            assert "nonsense" not in log

    asyncio.run(check())


def test_anonymous_and_pop3(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path, ALL, users=USERS) as mailbox:
            client = await imap(mailbox)
            assert (await client.exchange("ANONYMOUS", b"trace")).startswith(b"a OK")
            assert "user=<guest@mail.test>, method=ANONYMOUS" in mailbox.log()
            pop = Imap(await mailbox.connect("pop3"))
            await pop.line()
            scram = ScramClient("zs", "secret", "mine")
            answer = await pop.ask(b"AUTH SCRAM-SHA-256 " + b64encode(scram.initial() or b""))
            answer = await pop.ask(b64encode(scram.step(b64decode(answer[2:]))))
            assert scram.step(b64decode(answer[2:])) == b""
            assert (await pop.ask(b"")).startswith(b"+OK Logged in")
            assert "user=<zs@mail.test>, method=SCRAM-SHA-256" in mailbox.log()

    asyncio.run(check())


def test_passwords_and_tokens_need_tls_and_proofs_do_not(tmp_path: Path) -> None:
    async def check() -> None:
        secure = "disable_plaintext_auth = yes\n"
        async with running(tmp_path, ALL + secure, users=USERS, tls=True) as mailbox:
            client = await imap(mailbox)
            offered = {"AUTH=CRAM-MD5", "AUTH=SCRAM-SHA-1", "AUTH=SCRAM-SHA-256", "AUTH=ANONYMOUS"}
            assert await capabilities(client) == offered | {"LOGINDISABLED"}
            refused = await client.exchange("OAUTHBEARER", b"n,a=zs,\1auth=Bearer x\1\1")
            assert refused.startswith(b"a NO [PRIVACYREQUIRED]")
            assert (await client.scram("SCRAM-SHA-256", "zs", "secret")).startswith(b"a OK")
        async with running(
            tmp_path, ALL + secure + "login_trusted_networks = 127.0.0.0/8\n", users=USERS
        ) as mailbox:
            assert (await (await imap(mailbox)).ask(b"a LOGIN zs secret")).startswith(b"a OK")

    asyncio.run(check())
