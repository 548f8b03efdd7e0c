"""What has to hold for any octets that a mail client, a message or a folder's files may hold; see `targets`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mailstack.storage.maildir import cache, index, uidlist
from mailstack.wire.imap.append import AppendData, AppendMessage, AppendText, AppendUrl
from mailstack.wire.imap.fetch import Binary
from mailstack.wire.imap.section import find_part, locate
from mailstack.wire.imap.server import BadCommand, ClientLine, CommandEvent, NeedData
from mailstack.wire.imap.server import ServerConnection as ImapConnection
from mailstack.wire.imap.states import State as ImapState
from mailstack.wire.imap.structure import body, envelope
from mailstack.wire.imap.urlauth import BadUrlError, parse_url
from mailstack.wire.mime.binary import DamagedError, Storable, UnknownEncodingError, decoded
from mailstack.wire.mime.lines import wire, wire_pieces, wire_size
from mailstack.wire.mime.preview import CHARACTERS, preview
from mailstack.wire.mime.structure import PARTS_MAX, Part, parse
from mailstack.wire.mime.text import part_text, searchable_header
from mailstack.wire.pop3 import server as pop3
from mailstack.wire.pop3.events import NEED_DATA, Auth, AuthResponse, Closed, Command
from mailstack.wire.pop3.states import State as PopState

LINE_LIMIT = 200
_STATES = (ImapState.NOT_AUTHENTICATED, ImapState.AUTHENTICATED, ImapState.SELECTED)


def imap_server(data: bytes) -> None:
    """Whatever a client sends is a command or a refusal, and the same however it was cut into segments."""
    flags, width, octets = data[:1] or b"\0", 1 + (data[1] if len(data) > 1 else 0) % 40, data[2:]
    whole = _imap(octets, flags[0], len(octets) or 1)
    cut = _imap(octets, flags[0], width)
    assert whole == cut, (whole, cut)


def _imap(octets: bytes, flags: int, width: int) -> tuple[list[object], bytes]:
    connection = ImapConnection(LINE_LIMIT)
    connection.state = _STATES[flags % 3]
    connection.utf8 = bool(flags & 64)
    said: list[object] = []
    out = b""
    for at in range(0, len(octets), width):
        connection.receive_data(octets[at : at + width])
        while not isinstance(event := connection.next_event(), NeedData):
            out += connection.data_to_send()
            if isinstance(event, AppendData) and said and isinstance(said[-1], AppendData):
                said[-1] = AppendData(said[-1].data + event.data)
                continue
            said.append(event)
            match event:
                case AppendMessage(size=size) | AppendText(size=size) if flags & 32 and size % 2:
                    connection.refuse_literal()
                case AppendUrl(url=url) if len(url) % 2:
                    connection.refuse_literal()
                case AppendMessage(catenate=False) | AppendText():
                    connection.accept_literal()
                case ClientLine():
                    connection.resume()
                case CommandEvent(tag, name, _):
                    assert tag.isascii() and tag.isprintable() and name == name.upper()
                    if not flags & 128:
                        connection.succeeded(name)
                    if connection.state is ImapState.LOGOUT:
                        return said, out
                case BadCommand(tag, text, _):
                    assert "\r" not in tag + text and "\n" not in tag + text
        out += connection.data_to_send()
    return said, out


def pop3_server(data: bytes) -> None:
    """Whatever a client sends is a command or a refusal, and the same however it was cut into segments."""
    flags, width, octets = data[:1] or b"\0", 1 + (data[1] if len(data) > 1 else 0) % 40, data[2:]
    whole = _pop3(octets, flags[0], len(octets) or 1)
    cut = _pop3(octets, flags[0], width)
    assert whole == cut, (whole, cut)


def _pop3(octets: bytes, flags: int, width: int) -> tuple[list[object], bytes]:
    connection = pop3.ServerConnection()
    connection.greet("test")
    if flags & 1:
        connection.state = PopState.TRANSACTION
    said: list[object] = []
    out = b""
    pieces = [octets[at : at + width] for at in range(0, len(octets), width)]
    for piece in pieces:
        connection.receive_data(piece)
        while (event := connection.next_event()) is not NEED_DATA:
            said.append(event)
            if isinstance(event, Closed):
                return said, out + connection.data_to_send()
            match event:
                case Auth(initial=None):
                    connection.challenge(b"Username:")
                case Auth() | AuthResponse():
                    connection.logged_in("in")
                case Command(verb) if flags & 2 and len(verb) % 2:
                    connection.error("no", "SYS/TEMP")
                case Command("CAPA" | "UIDL"):
                    connection.listing("list", ["1 x"])
                case Command("PASS"):
                    connection.logged_in("in")
                case Command():
                    connection.ok("ok")
                    if connection.state is PopState.TLS:  # what came behind it in plain text is thrown away
                        return said, out + connection.data_to_send()
        out += connection.data_to_send()
    return said, out


def mime(data: bytes) -> None:
    """Any octets are a message: its parts lie within each other, and what is said of them can be read."""
    root = parse(data)
    assert (root.start, root.end) == (0, len(data))
    _nested(root, data)
    for text in (envelope(root.fields), body(root, data, extended=False), body(root, data, extended=True)):
        _balanced(text)
    assert wire_size(data) == len(wire(data))
    first, count = len(data) % 7, len(data) % 11 * 3
    assert b"".join(wire_pieces(data, 0, len(data), first, count)) == wire(data)[first : first + count]
    assert len(preview(root, data)) <= CHARACTERS
    whole, cut = Storable(), Storable()
    pieces = [cut.add(data[at : at + 7]) for at in range(0, len(data), 7)]
    assert whole.add(data) + whole.finish() == b"".join(pieces) + cut.finish()
    searchable_header(data[: root.body])


def _nested(part: Part, data: bytes) -> None:
    assert part.start <= part.body <= part.end <= len(data), (part.start, part.body, part.end)
    if not part.children:
        part_text(part, data)
    reached = part.body
    for child in part.children:
        assert reached <= child.start or child.start == child.end, (reached, child.start)
        reached = max(reached, child.start)
        _nested(child, data)


def _balanced(text: bytes) -> None:
    """Parentheses match, outside of strings and literals; no control characters outside of literals."""
    depth = at = 0
    while at < len(text):
        char = text[at : at + 1]
        if char == b'"':
            at += 1
            while text[at : at + 1] != b'"':
                assert text[at : at + 1] not in (b"\r", b"\n", b"\0", b""), text
                at += 2 if text[at : at + 1] == b"\\" else 1
        elif char == b"{":
            end = text.index(b"}\r\n", at)
            at = end + 2 + int(text[at + 1 : end])
        else:
            assert char >= b" ", text
            depth += (char == b"(") - (char == b")")
            assert depth >= 0, text
        at += 1
    assert depth == 0, text


def sections(data: bytes) -> None:
    """What FETCH may ask for can be read or is a refusal; what is found lies within the message."""
    question, _, message = data.partition(b"\0")
    try:
        parse_url(question.decode("latin-1"))
    except BadUrlError as error:
        assert str(error)
    connection = ImapConnection()
    connection.state = ImapState.SELECTED
    connection.receive_data(b"a FETCH 1 " + question.replace(b"\n", b" ") + b"\r\n")
    event = connection.next_event()
    if isinstance(event, CommandEvent):
        root = parse(message)
        for item in getattr(event.command, "items", ()):
            if isinstance(item, Binary):
                part = find_part(root, item.part)
                try:
                    size = sum(map(len, decoded(part, message, header=not item.part))) if part else 0
                    assert size <= len(message) * 2 + 60 * PARTS_MAX
                except (UnknownEncodingError, DamagedError):
                    pass
            elif hasattr(item, "part"):
                found = locate(root, message, item)
                if not isinstance(found, bytes):
                    assert 0 <= found[0] <= found[1] <= len(message)


def folder_files(data: bytes) -> None:
    """A uidlist, an index or a cache of any octets is read, repaired or told to be damaged."""
    parsed = uidlist.parse(data)
    if parsed is not None:
        assert list(parsed.uids) == sorted(set(parsed.uids))
        assert len(parsed.uids) == len(parsed.bases)
        assert not parsed.uids or parsed.next_uid > parsed.uids[-1]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        Path(folder, index.FILE).write_bytes(data)
        try:
            index.read(folder)
        except index.DamagedIndexError as error:
            assert str(error)
        Path(folder, cache.FILE).write_bytes(b"MSCACHE1\x07\0\0\0" + data)
        kept = cache.MessageCache.load(folder, 7, range(1 << 32))
        kept.add(cache.Kind.BODY, 1, b"new")
        kept.flush()
        assert kept.get(cache.Kind.BODY, 1) == b"new"
        kept.close()


MAILBOX_TARGETS = {
    "folder_files": folder_files,
    "imap_server": imap_server,
    "mime": mime,
    "pop3_server": pop3_server,
    "sections": sections,
}
