"""Zone files into zones, through dnspython: $ORIGIN, $TTL, $INCLUDE, $GENERATE, every type, unknown types.

A zone that named would not load is refused here, too: no SOA, more than one, no NS, an NS host of the zone
without address or that is an alias, a CNAME beside other data. What named warns of is a warning here.

A relative $INCLUDE is relative to the process's directory, as with named (which changes to `directory`).
Raises `ConfigError` with file and line; line zero where the zone as a whole is meant.

The plain lines of a large file do not go through dnspython (`mailstack.dns.plainlines`).

Standards: RFC 1035 §5, RFC 2181 §10.1, RFC 3597.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import dns.exception
import dns.name
import dns.rdataclass
import dns.tokenizer
import dns.zone
import dns.zonefile

from mailstack.config.errors import ConfigError
from mailstack.dns import names, signedlines
from mailstack.dns.denial import denial_of
from mailstack.dns.plainlines import Nodes, Unusual, read
from mailstack.dns.zone import AAAA, AFSDB, CNAME, DNAME, MX, NS, RRSIG, SOA, A, Node, Rdata, RRset, Zone
from mailstack.dns.zonechecks import check_zone

if TYPE_CHECKING:
    import dns.rdataset
    import dns.transaction

_IN_ADDR = dns.name.from_text("in-addr.arpa")
_IP6 = dns.name.from_text("ip6.arpa")

_WHERE = re.compile(r"(?P<file>.+?):(?P<line>\d+): (?P<message>.*)\Z", re.DOTALL)
_HOST_LABEL = re.compile(rb"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\Z")
_SINGLETON = frozenset((CNAME, DNAME, SOA))
LARGE = 64 * 1024
"""Octets of a file from which on its plain lines are read in bulk."""


class _Tokens(dns.tokenizer.Tokenizer):
    """May take a string in quotes for a word, as named does in $GENERATE (`MX "0 ."`)."""

    words = False

    def get(self, want_leading: bool = False, want_comment: bool = False) -> dns.tokenizer.Token:
        token = super().get(want_leading, want_comment)
        if self.words and token.is_quoted_string():
            token.ttype = dns.tokenizer.IDENTIFIER
        return token


class _Reader(dns.zonefile.Reader):
    """Remembers where the record begins that is being read: its end may be read before its error is found."""

    begun: tuple[str, int] | None = None
    in_pieces = False
    """Only what lies between plain lines is read."""
    _soa_says = False
    """SOA has a TTL of its own."""

    @property
    def ttl_is_last(self) -> bool:
        """Whether a record without TTL has that of the one before, as in named: there is no $TTL so far, and
        SOA has a TTL of its own."""
        return self._soa_says and bool(getattr(self, "default_ttl_from_soa", False))

    def _implicit_ttl(self) -> int | None:
        if not self.ttl_is_last:
            return int(self.default_ttl) if self.default_ttl_known else None
        if self.in_pieces:
            raise Unusual  # the one before may have been a plain line
        return int(self.last_ttl)

    def _rr_line(self) -> None:
        file, line = self.tok.where()
        # A newline that ended the first token has been counted and put back.
        self.begun = (file, line - 1 if self.tok.ungotten_char == "\n" else line)
        before = self.default_ttl_known
        super()._rr_line()
        if self.default_ttl_known and not before:  # by SOA's minimum
            self._soa_says = self.last_ttl_known
        self.begun = None

    def _generate_line(self) -> None:
        if isinstance(self.tok, _Tokens):  # an included file has dnspython's own
            self.tok.words = True
        super()._generate_line()  # type: ignore[no-untyped-call]
        if isinstance(self.tok, _Tokens):
            self.tok.words = False


def load_zone(
    origin: str, path: str, *, checks: bool = True, check_names: str = "fail"
) -> tuple[Zone, list[str]]:
    """Read a zone file. Returns the zone and what is odd about it, one `file: text` each.

    `origin` is the zone's name without final dot ('' for the root). Without `checks`, names and hosts may be
    any, as in a zone that its primary server has checked. `check_names` is named's: fail, warn or ignore.
    Raises `ConfigError`.
    """
    top = dns.name.from_text(origin or ".")
    nodes, warnings = _nodes(top, path, checks=checks, check_names=check_names if checks else "ignore")
    zone = Zone(_wire(top).lower(), nodes)
    zone.denial = denial_of(zone)
    return zone, warnings


def _nodes(
    top: dns.name.Name, path: str, *, checks: bool, check_names: str
) -> tuple[dict[bytes, Node], list[str]]:
    origin = _wire(top).lower()
    try:
        if os.stat(path).st_size >= LARGE:
            plain = _read_plain(top, path, checks=checks, check_names=check_names)
            return plain, check_zone(path, origin, plain, hosts=checks)
    except (Unusual, ConfigError, OSError):
        pass  # an error is found again, where it is
    odd: list[str] = []
    nodes = _converted(_read_all(top, path, odd, checks=checks, check_names=check_names))
    return nodes, odd + check_zone(path, origin, nodes, hosts=checks)


def _read_all(
    top: dns.name.Name, path: str, odd: list[str], *, checks: bool, check_names: str
) -> dns.zone.Zone:
    """A whole file through dnspython; bad names go to `odd` with `check-names warn`. Raises `ConfigError`."""
    parsed = dns.zone.Zone(top, relativize=False)
    reader: _Reader | None = None
    try:
        with (
            open(path, encoding="utf-8", errors="surrogateescape") as file,
            parsed.writer(True) as transaction,
        ):
            tokens = _Tokens(file, path)
            reader = _Reader(tokens, dns.rdataclass.IN, transaction, allow_include=True)
            if check_names != "ignore":
                told = odd if check_names == "warn" else None
                transaction.check_put_rdataset(_names_check(reader, told))
            if checks:
                transaction.check_put_rdataset(_check_singleton)
            transaction.check_put_rdataset(_keep_ttl)
            reader.read()
    except OSError as error:
        if error.filename == path:
            raise ConfigError(path, 0, error.strerror or str(error)) from error
        raise _located(path, reader, error) from error
    except (dns.exception.DNSException, UnicodeError, ValueError, KeyError, RecursionError) as error:
        raise _located(path, reader, error) from error
    return parsed


def _read_plain(top: dns.name.Name, path: str, *, checks: bool, check_names: str) -> Nodes:
    """A file of plain lines, and what is between them through dnspython. Raises `Unusual`."""
    with open(path, "rb") as file:
        data = file.read()
    if b"\r" in data:
        raise Unusual
    parsed = dns.zone.Zone(top, relativize=False)
    with parsed.writer(True) as transaction:
        reader = _Reader(_Tokens("", path), dns.rdataclass.IN, transaction, allow_include=True)
        reader.in_pieces = True
        if check_names != "ignore":  # what is to be told is told with its line: by the other reader
            transaction.check_put_rdataset(_names_check(reader, None))
        if checks:
            transaction.check_put_rdataset(_check_singleton)
        transaction.check_put_rdataset(_keep_ttl)

        def between(piece: bytes, last: bytes) -> tuple[bytes, int, bytes]:
            if last:
                reader.last_name = dns.name.from_wire(last, 0)[0]
            text = piece.decode("utf-8", errors="surrogateescape")
            reader.tok = _Tokens(io.StringIO(text), path)
            try:
                reader.read()
            except (dns.exception.DNSException, UnicodeError, ValueError, KeyError, RecursionError) as error:
                raise Unusual from error
            if reader.current_origin is None or reader.last_name is None or not reader.default_ttl_known:
                raise Unusual
            ttl = -1 if reader.ttl_is_last else reader.default_ttl
            return _wire(reader.current_origin), ttl, _wire(reader.last_name)

        loose: list[signedlines.Loose] = []
        if signedlines.is_signed(data):
            nodes, parents, loose = signedlines.read(data, between)
        else:
            nodes, parents = read(data, between)
    origin = _wire(top).lower()
    if _any_loose(parsed):
        raise Unusual
    for name, node in _converted(parsed).items():
        there = nodes.get(name)
        if there is None:
            nodes[name] = node
            continue
        kinds = there.rrsets.keys() | node.rrsets.keys()
        if CNAME in kinds or there.rrsets.keys() & node.rrsets.keys() or there.owner != node.owner:
            raise Unusual
        there.rrsets.update(node.rrsets)
    for name in parents:
        while name not in nodes and names.is_below(name, origin):
            nodes[name] = Node(name)
            name = names.parent(name)
    if any(not names.is_below(name, origin) for name in parents):
        raise Unusual
    signedlines.attach(nodes, loose)
    return nodes


def _any_loose(parsed: dns.zone.Zone) -> bool:
    """Whether a signature is there without what it is over: that may have been a plain line."""
    return any(
        rdataset.rdtype == RRSIG and node.get_rdataset(dns.rdataclass.IN, rdataset.covers) is None
        for node in parsed.nodes.values()
        for rdataset in node.rdatasets
    )


def _converted(parsed: dns.zone.Zone) -> dict[bytes, Node]:
    nodes: dict[bytes, Node] = {}
    for name, dns_node in parsed.nodes.items():
        wire = _wire(name)
        node = nodes[wire.lower()] = Node(wire)
        for rdataset in dns_node.rdatasets:
            if rdataset.rdtype != RRSIG:
                node.rrsets[int(rdataset.rdtype)] = _rrset(rdataset)
        for rdataset in dns_node.rdatasets:
            # One over nothing says nothing.
            if rdataset.rdtype == RRSIG and (signed := node.rrsets.get(int(rdataset.covers))) is not None:
                signed.signature = _rrset(rdataset)
    return nodes


def _located(path: str, reader: _Reader | None, error: Exception) -> ConfigError:
    text = str(error) or type(error).__name__
    match = _WHERE.match(text)
    file, line = path, 0
    if match is not None:
        file, line, text = match["file"], int(match["line"]), match["message"] or "syntax error"
    elif reader is not None:
        file, line = reader.tok.where()
    if isinstance(error, OSError):
        text = f"{error.filename}: {error.strerror}"
    if reader is not None and reader.begun is not None:
        file, line = reader.begun
    elif line > 1 and _line_of(file, line - 1).startswith("$"):
        line -= 1  # a directive: the tokenizer has read past the end of its line
    return ConfigError(file, line, text)


def _line_of(path: str, number: int) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        for index, line in enumerate(file, 1):
            if index == number:
                return line.lstrip()
    return ""


def _names_check(reader: _Reader, odd: list[str] | None) -> Callable[..., None]:
    """The check of host names; it raises `ValueError`, or where there is a list tells it."""

    def check(_: dns.transaction.Transaction, owner: dns.name.Name, rdataset: dns.rdataset.Rdataset) -> None:
        kind = int(rdataset.rdtype)
        wrong = [] if _may_own(kind, owner) else [f"{owner.to_text(True)}: bad owner name (check-names)"]
        wrong += [
            f"{name.to_text(True)}: bad name (check-names)"
            for rdata in rdataset
            for name in _host_names(kind, owner, rdata)
            if not _is_host(name)
        ]
        if wrong and odd is None:
            raise ValueError(wrong[0])
        if odd is not None:
            file, line = reader.begun or reader.tok.where()
            odd.extend(f"{file}:{line}: {text}" for text in wrong)

    return check


def _check_singleton(
    transaction: dns.transaction.Transaction, owner: dns.name.Name, rdataset: dns.rdataset.Rdataset
) -> None:
    """One CNAME for a name, and so on. Raises `ValueError`."""
    kind = int(rdataset.rdtype)
    if kind in _SINGLETON:
        before = transaction.get(owner, rdataset.rdtype)
        if before is not None and before[0] != rdataset[0]:
            raise ValueError(f"{owner.to_text(True)}: multiple RRs of singleton type")


def _keep_ttl(
    transaction: dns.transaction.Transaction, owner: dns.name.Name, rdataset: dns.rdataset.Rdataset
) -> None:
    """The first record's TTL counts for all of its set, as with named (RFC 2181 §5.2)."""
    before = transaction.get(owner, rdataset.rdtype, rdataset.covers)
    if before is not None:
        rdataset.ttl = before.ttl


def _may_own(kind: int, owner: dns.name.Name) -> bool:
    return kind not in (A, AAAA, MX) or _is_host(owner, wildcard=True)


def is_host_record(kind: int, owner: dns.name.Name, rdata: Any) -> bool:
    """Whether the names in and over a record are host names where they have to be (check-names)."""
    return _may_own(kind, owner) and all(_is_host(name) for name in _host_names(kind, owner, rdata))


def _host_names(kind: int, owner: dns.name.Name, rdata: Any) -> tuple[dns.name.Name, ...]:
    """The names in a record that have to be host names."""
    match kind:
        case 2 | 33:  # NS SRV
            return (rdata.target,)
        case 12:  # PTR
            reverse = owner.is_subdomain(_IN_ADDR) or owner.is_subdomain(_IP6)
            return (rdata.target,) if reverse else ()
        case 15 | 21:  # MX RT
            return (rdata.exchange,)
        case 18:  # AFSDB
            return (rdata.hostname,)
        case 6:  # SOA; the first label of the mailbox is a local part
            return (rdata.mname, rdata.rname.parent() if rdata.rname.labels[0] else rdata.rname)
    return ()


def _is_host(name: dns.name.Name, *, wildcard: bool = False) -> bool:
    labels = name.labels[:-1]
    if wildcard and labels and labels[0] == b"*":
        labels = labels[1:]
    return all(_HOST_LABEL.match(label) for label in labels)


def _wire(name: dns.name.Name) -> bytes:
    return name.to_wire() or names.ROOT


def _rrset(rdataset: dns.rdataset.Rdataset) -> RRset:
    kind = int(rdataset.rdtype)
    rdatas: list[Rdata] = []
    targets: list[bytes] = []
    for rdata in rdataset:
        form, target = compact(kind, rdata)
        rdatas.append(form)
        if target is not None and target not in targets:
            targets.append(target)
    return RRset(kind, int(rdataset.ttl), tuple(rdatas), tuple(targets))


def compact(kind: int, rdata: Any) -> tuple[Rdata, bytes | None]:
    """The stored form of a dnspython record, and the host whose addresses go beside it."""
    match kind:
        case 2 | 5 | 12:  # NS CNAME PTR
            target = _wire(rdata.target)
            return (b"", (target,), b""), target if kind == NS else None
        case 15:  # MX
            target = _wire(rdata.exchange)
            return (rdata.preference.to_bytes(2, "big"), (target,), b""), target
        case 6:  # SOA
            numbers = (rdata.serial, rdata.refresh, rdata.retry, rdata.expire, rdata.minimum)
            tail = b"".join(number.to_bytes(4, "big") for number in numbers)
            return (b"", (_wire(rdata.mname), _wire(rdata.rname)), tail), None
        case 33 | 64 | 65:  # SRV SVCB HTTPS
            return rdata.to_wire() or b"", _wire(rdata.target)
        case 18 | 21:  # AFSDB RT
            return rdata.to_wire() or b"", _wire(rdata.hostname if kind == AFSDB else rdata.exchange)
        case 36:  # KX
            return rdata.to_wire() or b"", _wire(rdata.exchange)
        case 35:  # NAPTR: hosts for "A", services for "S"
            flags = rdata.flags.lower()
            return rdata.to_wire() or b"", _wire(rdata.replacement) if flags in (b"a", b"s") else None
        case 107:  # LP
            return rdata.to_wire() or b"", _wire(rdata.fqdn)
        case _:
            return rdata.to_wire() or b"", None
