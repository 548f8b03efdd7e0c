"""The typed form of `mailstack.yaml`: frozen pydantic models, one per mapping of the file.

Values are canonical after validation: durations are seconds, sizes are octets, names are lower-case A-labels.
Checks that concern one value live here (through `fields`); those that compare values are in `checks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError

from mailstack.spec import fields

SERVICES = ("smtp", "submission", "submissions", "lmtp", "imap", "imaps", "pop3", "pop3s", "dns")
"""Every service that a stack publishes, in the order in which they are shown."""
DURATION_PATTERN = "^[0-9]+[smhdw]$"
SIZE_PATTERN = "^[0-9]+(B|KiB|MiB|GiB)$"


def _text(parse: Callable[[str], object]) -> BeforeValidator:
    """A validator for a value that is written as text."""

    def validate(value: object) -> object:
        if not isinstance(value, str):
            raise PydanticCustomError("text_wanted", "a text is wanted here")
        return parse(value)

    return BeforeValidator(validate)


def _unit(parse: Callable[[str], int], example: str) -> BeforeValidator:
    """A validator for a number with a unit: a bare number gets told to have one."""

    def validate(value: object) -> object:
        if not isinstance(value, str):
            raise ValueError(f"write a number and a unit, such as {example}")
        return parse(value)

    return BeforeValidator(validate)


def _number(low: int, high: int, *words: str) -> BeforeValidator:
    """A validator for a whole number, or one of some words."""

    def validate(value: object) -> object:
        if isinstance(value, str) and value in words:
            return value
        if type(value) is not int or not low <= value <= high:
            known = "".join(f"{word} or " for word in words)
            raise ValueError(f"write {known}a whole number from {low} to {high}")
        return value

    return BeforeValidator(validate)


def _one_of(*words: str) -> BeforeValidator:
    def validate(value: object) -> object:
        if value not in words or not isinstance(value, str):
            shown = fields.quoted(str(value)) if isinstance(value, str) else "this"
            hint = _meant(value, words)
            raise ValueError(f"{shown} is not known here; write {hint or ' or '.join(words)}")
        return value

    return BeforeValidator(validate)


def _meant(value: object, words: tuple[str, ...]) -> str | None:
    from mailstack.spec.problems import nearest

    return nearest(value, words) if isinstance(value, str) else None


def _switch(value: object) -> object:
    if type(value) is not bool:
        raise ValueError("write true or false")
    return value


def _none_is_empty(value: object) -> object:
    return {} if value is None else value


def _list(value: object) -> object:
    """One name may stand for a list of one."""
    return (value,) if isinstance(value, str) else value


def _schema(**keys: object) -> WithJsonSchema:
    return WithJsonSchema(dict(keys))


def _string(example: str, **keys: object) -> WithJsonSchema:
    return _schema(type="string", examples=[example], **keys)


HostName = Annotated[str, _text(fields.host_name), _string("mail.example.test")]
LocalPart = Annotated[str, _text(fields.local_part), _string("anna", pattern="^[a-z0-9_][a-z0-9._-]{0,63}$")]
Target = Annotated[str, _text(fields.target), _string("anna")]
Targets = Annotated[
    tuple[Target, ...],
    BeforeValidator(_list),
    _schema(
        oneOf=[{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
        examples=[["anna"]],
    ),
]
Duration = Annotated[
    int, _unit(fields.duration, "30s, 5m, 4h, 1d or 2w"), _string("5m", pattern=DURATION_PATTERN)
]
Size = Annotated[int, _unit(fields.size, "512KiB or 10MiB"), _string("50MiB", pattern=SIZE_PATTERN)]
Address = Annotated[IPv4Address, _text(fields.published_address), _string("192.0.2.10", format="ipv4")]
Address6 = Annotated[IPv6Address, _text(fields.published_address6), _string("2001:db8::25", format="ipv6")]
Selector = Annotated[str, _text(fields.selector), _string("mail")]
BindAddress = Annotated[IPv4Address, _text(fields.ipv4_address), _string("127.0.0.1", format="ipv4")]
Switch = Annotated[bool, BeforeValidator(_switch), _schema(type="boolean")]
FilePath = Annotated[Path, _text(fields.file_path), _string("secrets/anna.txt")]
Parameter = Annotated[
    str, BeforeValidator(lambda value: _parameter(value)), _schema(type=["string", "integer", "boolean"])
]


def _parameter(value: object) -> object:
    """The value of a main.cf parameter as Postfix would print it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        raise ValueError("write the value as text, a whole number, or true or false")
    return value


def _subnet(value: str) -> object:
    return value if value == "auto" else fields.subnet(value)


def _publish(value: object) -> object:
    """A word or a mapping; what the mapping holds is for `checks`, which can name each port's place."""
    if value in ("auto", "standard") and isinstance(value, str):
        return value
    if not isinstance(value, dict):
        raise ValueError("write auto, standard, or ports such as {smtp: 2525, imap: 1143}")
    return value


class Model(BaseModel):
    """What every mapping of the spec has in common: frozen, and no unknown keys."""

    # Built when first used: the whole file's model builds all of them at once, which is faster.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)


class User(Model):
    """A mailbox. Without any of the three keys a password is generated once and kept in the state folder."""

    password: Annotated[str, _text(fields.password), _string("secret", writeOnly=True)] | None = Field(
        default=None,
        repr=False,
        description="The password itself: for tests; for real use take one of the other two.",
    )
    password_file: FilePath | None = Field(
        default=None, description="A file whose first line is the password."
    )
    password_env: Annotated[str, _text(fields.variable), _string("ANNA_PASSWORD")] | None = Field(
        default=None, description="An environment variable that holds the password."
    )


class Domain(Model):
    """A mail domain: who has a mailbox in it, which other addresses lead to them, and its DNS records."""

    hostname: HostName = Field(
        default="", description="The mail host's name, inside the domain. Default: mail.<domain>."
    )
    address: Address | None = Field(
        default=None,
        description="The address published in the zone. Default: the one that the stack itself has.",
    )
    address6: Address6 | None = Field(
        default=None, description="An IPv6 address published beside it, where the domain has one."
    )
    catch_all: Target | None = Field(
        default=None, description="Who gets mail for addresses of the domain that do not exist."
    )
    users: dict[LocalPart, Annotated[User, BeforeValidator(_none_is_empty)]] = Field(
        default={},
        description="The mailboxes, by the part before the @.",
        examples=[{"anna": {"password": "secret"}}],
    )
    aliases: dict[LocalPart, Targets] = Field(
        default={}, description="Further addresses and where they lead.", examples=[{"postmaster": ["anna"]}]
    )
    records: tuple[Annotated[str, _text(str), _string("www IN A 192.0.2.80")], ...] = Field(
        default=(), description="Further DNS records, each a line as in a zone file."
    )
    dmarc: Annotated[
        Literal["none", "quarantine", "reject", "off"], _one_of("none", "quarantine", "reject", "off")
    ] = Field(
        default="quarantine",
        description="What others do with mail that only claims to be from here (DMARC); off: no record.",
    )
    mta_sts: Annotated[Literal["testing", "enforce", "off"], _one_of("testing", "enforce", "off")] = Field(
        default="testing",
        description="How the MTA-STS policy binds others to TLS; you serve its text; off: no record.",
    )
    reports: Target | None = Field(
        default=None,
        description="Who gets others' reports on DMARC, TLS and certificates. Default: postmaster.",
    )
    caa: tuple[HostName, ...] = Field(
        default=(),
        description="Authorities that may issue certificates for the domain; none: any of them.",
        examples=[["letsencrypt.org"]],
    )
    dkim: dict[Selector, FilePath] = Field(
        default={},
        description="DKIM keys to publish: selector and the key's PEM file, public or private.",
        examples=[{"mail": "dkim/mail.pem"}],
    )


class Queue(Model):
    """How long the MTA keeps trying."""

    minimal_backoff: Duration = Field(
        default=300, description="First wait before another try; it doubles each time."
    )
    maximal_backoff: Duration = Field(default=4000, description="Longest wait between two tries.")
    lifetime: Duration = Field(
        default=5 * 86400, description="After this a message that cannot be delivered is returned."
    )
    active_limit: Annotated[
        int, _number(1, 1_000_000), _schema(type="integer", minimum=1, maximum=1_000_000)
    ] = Field(default=20000, description="Most messages in the active queue at once.")


class Mta(Model):
    """The SMTP server and client."""

    engine: Annotated[Literal["python", "postfix"], _one_of("python", "postfix")] = Field(
        default="python",
        description="Which program it is; postfix: that of this machine (process runtime, as root only).",
    )
    networks: tuple[Annotated[str, _text(fields.network), _string("10.0.0.0/8")], ...] = Field(
        default=("127.0.0.0/8",),
        description="Clients that may send anywhere without a password (mynetworks).",
    )
    relay_domains: tuple[HostName, ...] = Field(
        default=(), description="Foreign domains that mail is accepted for."
    )
    relayhost: Annotated[str, _text(fields.relayhost), _string("[relay.example.net]:587")] | None = Field(
        default=None, description="Where all outgoing mail goes, instead of each domain's MX."
    )
    message_size_limit: Size = Field(
        default=50 << 20, description="Largest message accepted, with its header."
    )
    workers: Annotated[
        int | Literal["auto"],
        _number(1, 64, "auto"),
        _schema(oneOf=[{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": 64}]),
    ] = Field(default="auto", description="How many smtpd processes; auto: by the number of processors.")
    queue: Queue = Field(default_factory=Queue, description="How long the MTA keeps trying.")
    postfix: dict[str, Parameter] = Field(
        default={},
        description="Any further main.cf parameter by its Postfix name.",
        examples=[{"smtpd_banner": "$myhostname ESMTP"}],
    )


class Mailbox(Model):
    """The IMAP, POP3 and LMTP server."""

    engine: Annotated[Literal["python", "dovecot"], _one_of("python", "dovecot")] = Field(
        default="python",
        description="Which program it is; dovecot: that of this machine (process runtime only).",
    )
    protocols: tuple[Annotated[Literal["imap", "pop3", "lmtp"], _one_of("imap", "pop3", "lmtp")], ...] = (
        Field(default=("imap", "pop3", "lmtp"), description="What it speaks.")
    )
    delivery: Annotated[Literal["lmtp", "maildir"], _one_of("lmtp", "maildir")] = Field(
        default="lmtp", description="How the MTA hands mail over: by LMTP, or into a Maildir that both see."
    )
    allow_plaintext_auth: Switch = Field(
        default=False, description="Whether passwords may be sent without TLS."
    )


class Dns(Model):
    """The name server."""

    engine: Annotated[Literal["python", "bind"], _one_of("python", "bind")] = Field(
        default="python",
        description="Which program it is; bind: the named of this machine (process runtime only).",
    )
    ttl: Duration = Field(default=86400, description="How long others may keep a record.")
    forward: tuple[Annotated[str, _text(fields.endpoint), _string("9.9.9.9")], ...] = Field(
        default=(), description="Resolvers asked for all other names; none: only the stack's own zones exist."
    )
    dnssec: Switch = Field(default=False, description="Whether the zones are signed.")
    faults: Annotated[str, _text(fields.faults), _string("faults.conf")] | None = Field(
        default=None,
        description="Questions that get wrong answers on purpose: a faults file, or its content.",
    )


class Sasl(Model):
    """How clients prove who they are."""

    mechanisms: tuple[Annotated[Literal["plain", "login"], _one_of("plain", "login")], ...] = Field(
        default=("plain", "login"), description="The SASL mechanisms on offer."
    )
    backend: Annotated[Literal["dovecot", "saslauthd"], _one_of("dovecot", "saslauthd")] = Field(
        default="dovecot", description="Whom the MTA asks: Dovecot's authentication service, or saslauthd."
    )


class Tls(Model):
    """Certificates."""

    mode: Annotated[Literal["ca", "files", "off"], _one_of("ca", "files", "off")] = Field(
        default="ca",
        description="ca: a throwaway CA of the stack's own; files: `cert` and `key`; off: no TLS at all.",
    )
    cert: FilePath | None = Field(
        default=None, description="With mode files: the certificate and its chain, PEM."
    )
    key: FilePath | None = Field(default=None, description="With mode files: its private key, PEM.")


class Network(Model):
    """Where the stack can be reached."""

    subnet: Annotated[IPv4Network | Literal["auto"], _text(_subnet), _string("auto")] = Field(
        default="auto",
        description="The stack's own network: auto, or a /24 to /29, private or (processes) in 127.0.0.0/8.",
    )
    publish: Annotated[
        Literal["auto", "standard"] | dict[str, int],
        PlainValidator(_publish),
        _schema(
            oneOf=[
                {"enum": ["auto", "standard"]},
                {
                    "type": "object",
                    "properties": {
                        name: {"type": "integer", "minimum": 1, "maximum": 65535} for name in SERVICES
                    },
                    "additionalProperties": False,
                },
            ],
            examples=["auto", {"smtp": 2525, "imap": 1143}],
        ),
    ] = Field(
        default="auto",
        description="Ports on the host: auto (free ones), standard, or some by number, the rest free.",
    )
    bind: BindAddress = Field(
        default=IPv4Address("127.0.0.1"), description="The host's address for the published ports."
    )


class Stack(Model):
    """The whole file."""

    project: Annotated[
        str, _text(fields.project_name), _string("example", pattern="^[a-z0-9][a-z0-9-]{0,39}$")
    ] = Field(default="mailstack", description="The stack's name. Default: the name of the file's folder.")
    domains: dict[HostName, Domain] = Field(
        min_length=1,
        description="The mail domains; the first is the primary one.",
        examples=[{"example.test": {"users": {"anna": {"password": "secret"}}}}],
    )
    mta: Mta = Field(default_factory=Mta, description="The SMTP server and client.")
    mailbox: Mailbox = Field(default_factory=Mailbox, description="The IMAP, POP3 and LMTP server.")
    dns: Dns = Field(default_factory=Dns, description="The name server.")
    sasl: Sasl = Field(default_factory=Sasl, description="How clients prove who they are.")
    tls: Tls = Field(default_factory=Tls, description="Certificates.")
    network: Network = Field(default_factory=Network, description="Where the stack can be reached.")

    @field_validator("domains")
    @classmethod
    def _fill_hostnames(cls, domains: dict[str, Domain]) -> dict[str, Domain]:
        return {
            name: domain if domain.hostname else domain.model_copy(update={"hostname": f"mail.{name}"})
            for name, domain in domains.items()
        }

    @property
    def primary(self) -> str:
        """The first domain's name."""
        return next(iter(self.domains))

    def users(self) -> Iterator[tuple[str, User]]:
        """Every mailbox as `(user@domain, User)`, in the file's order."""
        for name, domain in self.domains.items():
            for user, settings in domain.users.items():
                yield f"{user}@{name}", settings

    @property
    def first_user(self) -> str:
        """The address of the first mailbox."""
        return next(self.users())[0]

    @property
    def services(self) -> tuple[str, ...]:
        """The names (of `SERVICES`) of what this stack offers."""
        off = set()
        if self.tls.mode == "off":
            off |= {"submissions", "imaps", "pop3s"}
        for protocol in ("imap", "pop3", "lmtp"):
            if protocol not in self.mailbox.protocols:
                off |= {protocol, f"{protocol}s"}
        return tuple(name for name in SERVICES if name not in off)


def relative_to(stack: Stack, folder: Path) -> Stack:
    """The same stack with every file it names made absolute."""

    def absolute(path: Path | None) -> Path | None:
        return path if path is None else folder / path

    domains = {}
    for name, domain in stack.domains.items():
        users = {
            user: value
            if value.password_file is None
            else value.model_copy(update={"password_file": absolute(value.password_file)})
            for user, value in domain.users.items()
        }
        keys = {selector: absolute(path) for selector, path in domain.dkim.items()}
        domains[name] = domain.model_copy(update={"users": users, "dkim": keys})
    tls = stack.tls.model_copy(update={"cert": absolute(stack.tls.cert), "key": absolute(stack.tls.key)})
    changes: dict[str, object] = {"domains": domains, "tls": tls}
    if stack.dns.faults is not None and "{" not in stack.dns.faults:
        changes["dns"] = stack.dns.model_copy(update={"faults": str(folder / stack.dns.faults)})
    return stack.model_copy(update=changes)
