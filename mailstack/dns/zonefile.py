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
from mailstack.dns import names
from mailstack.dns.denial import denial_of
from mailstack.dns.plainlines import Nodes, Unusual, read, targets_of
from mailstack.dns.zone import AAAA, AFSDB, CNAME, DNAME, MX, NS, RRSIG, SOA, SRV, A, Node, Rdata, RRset, Zone

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

    def _rr_line(self) -> None:
        file, line = self.tok.where()
        # A newline that ended the first token has been counted and put back.
        self.begun = (file, line - 1 if self.tok.ungotten_char == "\n" else line)
        super()._rr_line()
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
            return plain, _check_zone(path, origin, plain, hosts=checks)
    except (Unusual, ConfigError, OSError):
        pass  # an error is found again, where it is
    odd: list[str] = []
    nodes = _converted(_read_all(top, path, odd, checks=checks, check_names=check_names))
    return nodes, odd + _check_zone(path, origin, nodes, hosts=checks)


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
            return _wire(reader.current_origin), reader.default_ttl, _wire(reader.last_name)

        nodes, parents = read(data, between)
    origin = _wire(top).lower()
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
    return nodes


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


def _check_zone(path: str, origin: bytes, nodes: dict[bytes, Node], *, hosts: bool) -> list[str]:
    apex = nodes.get(origin)
    if apex is None or SOA not in apex.rrsets:
        raise ConfigError(path, 0, f"zone {names.to_text(origin)}: has 0 SOA records")
    if NS not in apex.rrsets:
        raise ConfigError(path, 0, f"zone {names.to_text(origin)}: has no NS records")
    if not hosts:
        return []
    if DNAME in apex.rrsets and any(names.is_below(t.lower(), origin) for t in apex.rrsets[NS].targets):
        raise ConfigError(path, 0, f"zone {names.to_text(origin)}: an NS host is below a DNAME (illegal)")
    warnings: list[str] = []
    special = nodes.special() if isinstance(nodes, Nodes) else nodes.items()
    apart = list(special)
    cuts = {name for name, node in apart if NS in node.rrsets and name != origin}
    if isinstance(nodes, Nodes):
        for name, line in nodes.kept():
            found = targets_of(line, nodes.origin)
            if found is not None and not nodes.has_address(found[1]):
                problem = _target_problem(found[1], origin, nodes, cuts)
                if problem is not None:
                    label = "MX" if found[0] == MX else "SRV"
                    warnings.append(_warning(path, name, label, found[1], problem))
    for name, node in apart:
        for kind, label in ((NS, "NS"), (MX, "MX"), (SRV, "SRV")):
            rrset = node.rrsets.get(kind)
            for target in rrset.targets if rrset is not None else ():
                problem = _target_problem(target.lower(), origin, nodes, cuts)
                if problem is None:
                    continue
                text = _warning(path, node.owner, label, target, problem)
                if kind == NS and name == origin:
                    raise ConfigError(path, 0, text.removeprefix(f"{path}: "))
                warnings.append(text)
    return warnings


def _warning(path: str, owner: bytes, label: str, target: bytes, problem: str) -> str:
    return f"{path}: {names.to_text(owner)}/{label} '{names.to_text(target)}' {problem}"


def _target_problem(target: bytes, origin: bytes, nodes: dict[bytes, Node], cuts: set[bytes]) -> str | None:
    """What is wrong with a host that a record of the zone names; None when all is well or not ours to say."""
    if target == names.ROOT or not names.is_below(target, origin):
        return None
    node = nodes.get(target)
    if node is not None and CNAME in node.rrsets:
        return "is a CNAME (illegal)"
    if node is not None and (A in node.rrsets or AAAA in node.rrsets):
        return None
    above = target
    while above != origin:
        if above in cuts or b"\1*" + names.parent(above) in nodes:
            return None
        above = names.parent(above)
    return "has no address records (A or AAAA)"
