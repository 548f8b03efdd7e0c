"""What has to hold for any octets: the contracts that the fuzzer tries to break.

A target takes octets and returns, or raises: `AssertionError` where a promise of the code under test is broken,
anything else where it let an exception out that it does not document. The first octets of an input choose the
circumstances (mode, limits, how the rest is cut into segments), so that one corpus covers them all.
"""

from __future__ import annotations

from collections.abc import Callable

from mailstack.storage.queue_file import (
    HEADER_SIZE,
    DamagedFile,
    Envelope,
    Recipient,
    decode,
    decode_header,
    encode_envelope,
    encode_header,
)
from mailstack.wire.milter import NEED_DATA as MILTER_NEEDS_DATA
from mailstack.wire.milter import Done, Event, MilterConnection, Terms, pack
from mailstack.wire.milter import State as MilterState
from mailstack.wire.milter.protocol import PACKET_LIMIT
from mailstack.wire.smtp import (
    NEED_DATA,
    AddressError,
    ClientConnection,
    ClientState,
    Limits,
    Mode,
    RemoteError,
    Reply,
    ServerConnection,
    State,
    events,
    parse_path,
    quote,
)
from mailstack.wire.smtp.server import NOT_ENABLED
from mailstack.wire.smtp.verbs import NOT_IMPLEMENTED
from tests.fuzz.dns_targets import DNS_TARGETS, DNS_WORDS
from tests.fuzz.mailbox_targets import MAILBOX_TARGETS

LIMITS = Limits(line=80, auth_line=60, message=300)
OK = Reply(250, "2.0.0", "Ok")
NO = Reply(550, "5.1.1", "no")


def smtp_server(data: bytes) -> None:
    """Whatever a client sends is an event or a refusal, and the same however it was cut into segments."""
    flags, width, octets = data[:1] or b"\0", 1 + (data[1] if len(data) > 1 else 0) % 40, data[2:]
    whole = _converse(octets, flags[0], len(octets) or 1)
    cut = _converse(octets, flags[0], width)
    assert whole == cut, (whole, cut)


def _converse(octets: bytes, flags: int, width: int) -> tuple[list[object], bytes, State]:
    """Everything that the engine says and sends of `octets`, fed `width` at a time."""
    connection = ServerConnection(Mode.LMTP if flags & 1 else Mode.SMTP, LIMITS)
    connection.auth_refusal = None if flags & 2 else NOT_ENABLED
    connection.starttls_refusal = None if flags & 4 else NOT_IMPLEMENTED
    connection.require_tls = bool(flags & 8)
    connection.strict_paths = bool(flags & 16)
    connection.greet(Reply(220, "", "test"))
    said: list[object] = []
    out = b""
    for at in range(0, len(octets), width):
        connection.receive_data(octets[at : at + width])
        while (event := connection.next_event()) is not NEED_DATA:
            if isinstance(event, events.Closed):
                return said, out + connection.data_to_send(), connection.state
            if isinstance(event, events.Content) and said and isinstance(said[-1], events.Content):
                said[-1] = events.Content(said[-1].data + event.data)
            else:
                if isinstance(event, events.ContentEnd) and event.too_big:
                    _forget_content(said)
                said.append(event)
            if connection._content is not None and connection._content.too_big:
                _forget_content(said)
            _answer(connection, event, refuse=bool(flags & 32))
        out += connection.data_to_send()
        held = len(connection._buffer) - connection._position
        assert held <= max(LIMITS.line, LIMITS.auth_line) + width + 2, held
    if connection._content is not None and connection._content.too_big:
        _forget_content(said)
    for line in out.splitlines():
        assert line[:3].isdigit() and line[3:4] in (b" ", b"-", b""), line
    return said, out, connection.state


def _forget_content(said: list[object]) -> None:
    """How much of a message came out before it was too big depends on the segments, and does not matter."""
    for at in range(len(said) - 1, -1, -1):
        if isinstance(said[at], events.Rcpt):
            break
        if isinstance(said[at], events.Content):
            del said[at]


def _answer(connection: ServerConnection, event: object, *, refuse: bool) -> None:
    match event:
        case events.Content(piece):
            assert piece
            assert piece.count(b"\n") == piece.count(b"\r\n") or piece[:1] == b"\n"
        case events.Refused():
            pass
        case events.Data():
            connection.reply(Reply(354, "", "go on"))
        case events.Chunk(size) if refuse and size % 2:
            connection.reply(NO)
        case events.Chunk():
            connection.take_chunk()
        case events.ContentEnd() | events.ChunkEnd():
            while connection.state is State.DONE:
                connection.reply(OK)
        case events.Rcpt(recipient) if refuse and len(recipient) % 2:
            connection.reply(NO)
        case events.Auth(_, None):
            connection.challenge(b"Username:")
        case events.Auth() | events.AuthResponse():
            connection.reply(Reply(235, "2.7.0", "ok"))
        case events.StartTLS():
            connection.reply(Reply(220, "2.0.0", "go on"))
        case events.Quit():
            connection.reply(Reply(221, "2.0.0", "bye"))
        case _:
            connection.reply(OK)


def smtp_client(data: bytes) -> None:
    """Whatever a server sends is a reply to the oldest command, or `RemoteError`."""
    flags, width, octets = data[:1] or b"\0", 1 + (data[1] if len(data) > 1 else 0) % 40, data[2:]
    connection = ClientConnection(Mode.LMTP if flags[0] & 1 else Mode.SMTP)
    chunk = bool(flags[0] & 2)
    sent = 0
    try:
        for at in range(0, len(octets), width):
            connection.receive_data(octets[at : at + width])
            while connection.next_event() is not NEED_DATA:
                if connection.state is ClientState.CLOSED:
                    return
                sent += 1
                if connection.state is ClientState.CONTENT:
                    connection.content([b"x\r\n"])
                elif connection.state is ClientState.TLS:
                    connection.tls_started()
                elif not connection.pending:
                    _next_commands(connection, sent, chunk=chunk)
            b"".join(connection.data_to_send())
            assert len(connection._buffer) <= 4096 + width
    except RemoteError as error:
        assert str(error)


def _next_commands(connection: ClientConnection, turn: int, *, chunk: bool) -> None:
    match turn % 4:
        case 0:
            connection.hello("client.test")
        case 1:
            connection.starttls()
        case 2:
            connection.noop()
        case _:
            connection.mail("a@b.test", size=3)
            connection.rcpt("c@d.test")
            connection.rcpt("e@f.test")
            if chunk:
                connection.chunk(b"x\r\n")
            else:
                connection.data()


def address(data: bytes) -> None:
    """A path is an address or `AddressError`; what has been read is written so that it is read again."""
    text = data.decode("utf-8", "replace")
    try:
        found = parse_path(text)
    except AddressError:
        return
    wire = quote(found)
    assert "\r" not in wire and "\n" not in wire and "\0" not in wire
    if found:
        assert parse_path(f"<{wire}>") == found, (text, found, wire)


def queue_file(data: bytes) -> None:
    """Any file is a message or `DamagedFile`; an envelope of any texts comes back as it was."""
    try:
        content, envelope, crc = decode_header(data)
        records = data[HEADER_SIZE + content : HEADER_SIZE + content + envelope]
        decode("ID", content, crc, records, data[HEADER_SIZE + content + envelope :])
    except DamagedFile as error:
        assert str(error)
    texts = [part.decode("utf-8", "surrogateescape") for part in data.split(b"\0")]
    first = texts[0]
    made = Envelope(
        first,
        tuple(Recipient(text, first) for text in texts),
        1.5,
        client_name=first,
        helo_name=texts[-1],
        envid=first,
    )
    records = encode_envelope(made)
    header = encode_header(0, records)
    size, length, crc = decode_header(header)
    assert (size, length) == (0, len(records))
    found = decode("", 0, crc, records, b"").envelope
    assert found == made, (found, made)


_EVENTS = tuple(Event)


def milter(data: bytes) -> None:
    """Whatever a milter answers is a decision or a change, the same however it was cut; nothing is raised."""
    flags, width, octets = data[:2].ljust(2, b"\0"), 1 + (data[2] if len(data) > 2 else 0) % 40, data[3:]
    whole = _consult(octets, flags, len(octets) or 1)
    cut = _consult(octets, flags, width)
    assert whole == cut, (whole, cut)


def _consult(octets: bytes, flags: bytes, width: int) -> tuple[list[object], list[str], MilterState]:
    """What the engine makes of a milter's octets; the first flags choose the event that they answer."""
    action = ("accept", "reject", "tempfail", "quarantine", "shutdown")[flags[0] % 5]
    connection = MilterConnection(Terms(6, 0x1FFFFF, action, soft_bounce=bool(flags[0] & 128)))
    connection.begin()
    said: list[object] = []
    negotiating = bool(flags[0] & 64)
    if not negotiating:
        connection.receive_data(pack(b"O", b"\0\0\0\6\0\0\1\xff" + bytes(4)))
        assert connection.next() == Done(None)
        connection.event(Event.CONNECT, b"")
        connection.waiting = None
    event = _EVENTS[flags[1] % len(_EVENTS)]
    pieces = [octets[at : at + width] for at in range(0, len(octets), width)]
    for piece in [*pieces, b""]:  # in the end it is gone
        connection.receive_data(piece)
        while True:
            if connection.state is MilterState.ERROR:
                return said, connection.warnings, connection.state
            if connection.waiting is None and not negotiating:
                if not connection.listens(event) and event is not Event.CONNECT:
                    return said, connection.warnings, connection.state
                connection.event(event, b"i\0ID\0", b"x\0")
                if connection.waiting is None:
                    return said, connection.warnings, connection.state
            found = connection.next()
            if found is MILTER_NEEDS_DATA:
                break
            _check(found)
            negotiating = negotiating and not isinstance(found, Done)
            said.append(found)
        assert len(connection._buffer) <= PACKET_LIMIT + width
    raise AssertionError("the end went unnoticed")


def _check(found: object) -> None:
    if isinstance(found, Done) and found.verdict is not None:
        verdict = found.verdict
        assert (verdict.reply is not None) + verdict.hold + verdict.discard + verdict.shutdown == 1
        if verdict.reply is not None:
            assert 400 <= verdict.reply.code < 600
            for line in verdict.reply.encode().split(b"\r\n"):
                assert b"\r" not in line and b"\n" not in line


TARGETS: dict[str, Callable[[bytes], None]] = {
    "smtp_server": smtp_server,
    "smtp_client": smtp_client,
    "address": address,
    "milter": milter,
    "queue_file": queue_file,
    **MAILBOX_TARGETS,
    **DNS_TARGETS,
}
WORDS = DNS_WORDS
"""What the fuzzer may put into the inputs of some targets."""
