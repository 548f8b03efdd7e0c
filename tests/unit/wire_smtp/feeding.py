"""One conversation fed three ways: whole, octet by octet, and with more behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mailstack.wire.smtp import Limits, Mode, Reply, ServerConnection, events

OK = Reply(250, "2.0.0", "Ok")
GO_ON = Reply(354, "", "End data with <CR><LF>.<CR><LF>")


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """The segments of `data`: whole, byte by byte, in twos and threes."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    yield [data[i : i + 2] for i in range(0, len(data), 2)]
    yield [data[:1], *(data[i : i + 3] for i in range(1, len(data), 3))]


def serve(
    segments: list[bytes],
    *,
    mode: Mode = Mode.SMTP,
    limits: Limits = Limits(),  # noqa: B008  # frozen
    prepare: Callable[[ServerConnection], None] = lambda connection: None,
    refuse: frozenset[str] = frozenset(),
    chunk_refusal: Reply | None = None,
) -> tuple[list[events.Event], bytes, ServerConnection]:
    """Everything the engine says of `segments` when each command is welcome, except recipients in `refuse`
    and, where there is a `chunk_refusal`, chunks.

    Neighbouring `Content` events are joined, so that the result does not depend on the cuts.
    """
    connection = ServerConnection(mode, limits)
    prepare(connection)
    connection.greet(Reply(220, "", "test"))
    connection.data_to_send()
    said: list[events.Event] = []
    out = b""
    for segment in segments:
        connection.receive_data(segment)
        while (event := connection.next_event()) is not events.NEED_DATA:
            match event:
                case events.Closed():
                    return said, out + connection.data_to_send(), connection
                case events.Content(data):
                    if said and isinstance(said[-1], events.Content):
                        data = said.pop().data + data  # type: ignore[union-attr]
                    said.append(events.Content(data))
                    continue
                case events.Refused():
                    pass
                case events.Data():
                    connection.reply(GO_ON)
                case events.Chunk():
                    if chunk_refusal is None:
                        connection.take_chunk()
                    else:
                        connection.reply(chunk_refusal)
                case events.ContentEnd():
                    while connection.state.name == "DONE":
                        connection.reply(OK)
                case events.Quit():
                    connection.reply(Reply(221, "2.0.0", "Bye"))
                case events.Auth(_, None):
                    connection.challenge(b"Username:")
                case events.Auth() | events.AuthResponse():
                    connection.reply(Reply(235, "2.7.0", "Authentication successful"))
                case events.Rcpt(recipient) if recipient in refuse:
                    connection.reply(Reply(550, "5.1.1", "no"))
                case events.StartTLS():
                    connection.reply(Reply(220, "2.0.0", "Ready to start TLS"))
                case _:
                    connection.reply(OK)
            said.append(event)
        out += connection.data_to_send()
    return said, out, connection
