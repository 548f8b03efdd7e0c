"""THREAD and UID THREAD (state: selected; RFC 5256 §3): ORDEREDSUBJECT, REFERENCES, and REFS.

REFS is REFERENCES without the joining of threads by their subjects, and threads stand in the order of their
newest messages (as in Dovecot). The threads of a whole mailbox stay in memory as they were told, as long as
no message comes or goes.
"""

from __future__ import annotations

import asyncio
import re
from array import array
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from mailstack.mailbox.imap.search import matching
from mailstack.mailbox.imap.search_header import Directory
from mailstack.mailbox.imap.search_query import Progress
from mailstack.mailbox.imap.sort import Keys
from mailstack.mailbox.imap.thread_tree import Node, Tree, ordered_subject, written
from mailstack.mailbox.views.shared import SharedMailbox
from mailstack.storage.maildir.cache import Kind, MessageCache
from mailstack.wire.imap import commands as c
from mailstack.wire.mime import headers

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session

IDS_MAX = 1000
"""References of one message that are looked at: the last ones."""
FEW = 2000
"""Messages up to which threads are put together at once; of more beside the sessions."""
ANSWERS_MAX = 2
"""Answers of a mailbox that are remembered."""
_answers: WeakKeyDictionary[SharedMailbox, dict[tuple[str, bool], tuple[array[int], int, bytes]]] = (
    WeakKeyDictionary()
)
"""By mailbox, algorithm, and whether in UIDs: the array of UIDs, how many of them, and their threads."""
_VALUE = re.compile(rb"[ \t]*:([^\n]*+(?:\n[ \t][^\n]*+)*+)")
"""What stands behind a field's name: its value with the lines that continue it."""
_MESSAGE_ID = re.compile(rb'<\s*((?:"(?:[^"\\]|\\.)*"|[^<>@"\s]+)@[^<>\s]+)\s*>')


async def thread(session: Session, tag: str, command: c.Thread) -> str:
    found = await matching(session, tag, command)
    view = session.selected
    uids, count = view.uids, view.count
    whole = len(found) == count and uids is view.box.folder.uids
    answers = _answers.setdefault(view.box, {}) if whole else {}
    known = answers.get((command.algorithm, command.uid))
    if known is not None and known[0] is uids and known[1] == count:
        threads = known[2]
    else:
        threads = await _threads(session, tag, command, found)
        answers.pop((command.algorithm, command.uid), None)
        answers[command.algorithm, command.uid] = (uids, count, threads)
        if len(answers) > ANSWERS_MAX:
            del answers[next(iter(answers))]
    session.send(b"* THREAD %b\r\n" % threads if threads else b"* THREAD\r\n")
    return "OK Thread completed."


async def _threads(session: Session, tag: str, command: c.Thread, found: list[int]) -> bytes:
    """Put the threads of these positions together."""
    progress = Progress(session, tag)
    keys = Keys(session, tag)
    refers = command.algorithm != "ORDEREDSUBJECT"
    names = ["DATE"] if command.algorithm == "REFS" else ["DATE", "SUBJECT"]
    await keys.ahead(names, found, [(Kind.THREAD_KEYS, lambda header, _: ids_of(header))] if refers else [])
    nodes = [Node(at, date) for at, date in zip(found, await keys.dates(found), strict=True)]
    if command.algorithm != "REFS":
        for node, subject in zip(nodes, await keys.subjects(found), strict=True):
            node.subject, node.answered = subject
    tree = Tree()
    if refers:
        await _link(session, progress, tree, nodes)
    uids = session.selected.uids if command.uid else None

    def written_threads() -> bytes:
        match command.algorithm:
            case "ORDEREDSUBJECT":
                roots = ordered_subject(nodes)
            case "REFERENCES":
                roots = tree.references()
            case _:
                roots = tree.refs()
        return "".join(written(root, uids) for root in roots).encode()

    if len(nodes) > FEW:
        return await progress.during(asyncio.to_thread(written_threads), nodes, len(nodes))
    return written_threads()


async def _link(session: Session, progress: Progress, tree: Tree, nodes: list[Node]) -> None:
    """Add the messages with what they refer to."""
    view = session.selected
    cache = await view.box.cache()
    directory = Directory(view)
    try:
        for count, node in enumerate(nodes):
            if not count & 15:
                await progress.turn(count, len(nodes))
            ids = _ids(directory, cache, view.uids[node.at])
            tree.add(node, ids[0], ids[1:])
    finally:
        directory.close()
        cache.flush()


def _ids(directory: Directory, cache: MessageCache, uid: int) -> list[bytes]:
    """A message's own identifier (empty: none), and those that it refers to, the nearest last."""
    kept = cache.get(Kind.THREAD_KEYS, uid)
    if kept is None:
        try:
            kept = ids_of(directory.header(uid))
        except FileNotFoundError:
            return [b""]
        cache.add(Kind.THREAD_KEYS, uid, kept)
    return kept.split(b"\n")


def ids_of(header: bytes) -> bytes:
    """The identifiers in a header: the message's own, then References, or the first of In-Reply-To; an LF
    between."""
    lines = b"\n" + header
    lower = lines.lower()
    own = _MESSAGE_ID.findall(_first(lines, lower, b"\nmessage-id"))[:1] or [b""]
    references = _MESSAGE_ID.findall(_first(lines, lower, b"\nreferences"))[-IDS_MAX:]
    if not references:
        references = _MESSAGE_ID.findall(_first(lines, lower, b"\nin-reply-to"))[:1]
    return b"\n".join(own + references)


def _first(lines: bytes, lower: bytes, start: bytes) -> bytes:
    """The unfolded value of the first field that begins with an LF and its name; empty when there is none."""
    at = lower.find(start)
    while at >= 0:
        found = _VALUE.match(lines, at + len(start))
        if found is not None:
            return headers.unfold(found[1])
        at = lower.find(start, at + 1)
    return b""
