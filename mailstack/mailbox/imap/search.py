"""SEARCH and UID SEARCH (state: selected; RFC 3501 §6.4.4), and what SORT and THREAD share with them.

Return options: ESEARCH (RFC 4731, RFC 7162 §3.1.10), SEARCHRES (RFC 5182), PARTIAL (RFC 9394), and results
that are kept up to date (RFC 5267), see `search_updates`.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from mailstack.mailbox.imap.errors import CommandError
from mailstack.mailbox.imap.messages import part_of
from mailstack.mailbox.imap.search_query import Query, leaves
from mailstack.mailbox.imap.search_updates import Watched, refuse_twice, tell_changed, tell_gone, watch
from mailstack.wire.imap import commands as c
from mailstack.wire.imap import search as keys
from mailstack.wire.imap.sequence import SAVED, format_set
from mailstack.wire.mime.text import knows_charset

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session

__all__ = ["Watched", "answer", "cancel_update", "matching", "search", "tell_changed", "tell_gone"]


async def search(session: Session, tag: str, command: c.Search) -> str:
    refuse_twice(session, tag, command.returns)
    since = session.selected.box.folder.highest_modseq
    found = await matching(session, tag, command)
    answer(session, tag, command, found, "SEARCH", extended=session.rev2)
    if command.returns is not None and "UPDATE" in command.returns.options:
        watch(session, tag, command, found, since)
    return "OK Search completed."


async def cancel_update(session: Session, tag: str, command: c.CancelUpdate) -> str:
    """RFC 5267 §4.4."""
    for name in command.tags:
        if session.searches.pop(name, None) is None:
            raise CommandError("BAD Unknown tag.")
    return "OK Updates cancelled."


async def matching(session: Session, tag: str, command: c.Search | c.Sort | c.Thread) -> list[int]:
    """The positions that a command's keys hold for, ascending. Raises `CommandError`."""
    if session.uidonly and (not command.uid or _names_numbers(command.key)):
        raise CommandError("BAD [UIDREQUIRED] Sequence numbers have been given up.")
    if not knows_charset(command.charset):
        if not isinstance(command, c.Thread) and _saves(command.returns):
            session.saved = ()
        raise CommandError("NO [BADCHARSET (UTF-8 US-ASCII)] Unknown charset.")
    return await Query(session, tag, command.charset).run(command.key)


def answer(
    session: Session, tag: str, command: c.Search | c.Sort, found: list[int], name: str, *, extended: bool
) -> None:
    """Tell the client positions, in this order: as `* SEARCH` (or SORT), or ESEARCH where it is asked for."""
    view, returns = session.selected, command.returns
    if returns is None and extended:
        returns = keys.Returns(frozenset({"ALL"}))
    if returns is None:
        modseq = _highest_modseq(session, found) if _asks_for_modseq(command.key) else 0
        numbers = [view.uids[at] for at in found] if command.uid else [at + 1 for at in found]
        tail = f" (MODSEQ {modseq})" if modseq else ""
        session.send(" ".join([f"* {name}", *map(str, numbers)]).encode() + f"{tail}\r\n".encode())
        return
    if _saves(returns):
        session.saved = array("I", sorted(view.uids[at] for at in _chosen(returns, found, saving=True)))
    if returns.options != {"SAVE"}:
        session.line(_esearch(session, tag, command, returns, found))


def _saves(returns: keys.Returns | None) -> bool:
    return returns is not None and "SAVE" in returns.options


def _chosen(returns: keys.Returns, found: list[int], *, saving: bool) -> list[int]:
    """What of the result the options speak of: all, or only its ends or a part (RFC 5182 §2.4, RFC 7162
    §3.1.10, RFC 9394 §3.3). When saving, SAVE alone means all."""
    some = returns.options & {"MIN", "MAX", "PARTIAL"}
    if not some or returns.options & {"ALL", "COUNT"}:
        return found
    chosen = found[:1] if "MIN" in some else []
    if "MAX" in some:
        chosen = chosen + found[-1:]
    if returns.partial is not None:
        chosen = chosen + part_of(found, returns.partial)
    return sorted(set(chosen)) if saving else chosen


def _esearch(
    session: Session, tag: str, command: c.Search | c.Sort, returns: keys.Returns, found: list[int]
) -> str:
    uids = session.selected.uids

    def numbers(positions: list[int]) -> list[int]:
        return [uids[at] if command.uid else at + 1 for at in positions]

    parts = [f'* ESEARCH (TAG "{tag}")']
    if command.uid:
        parts.append("UID")
    options = returns.options
    if found and "MIN" in options:
        parts.append(f"MIN {numbers(found[:1])[0]}")
    if found and "MAX" in options:
        parts.append(f"MAX {numbers(found[-1:])[0]}")
    if found and "ALL" in options:
        parts.append(f"ALL {format_set(numbers(found))}")
    if returns.partial is not None:
        part = format_set(numbers(part_of(found, returns.partial)))
        parts.append(f"PARTIAL ({returns.partial[0]}:{returns.partial[1]} {part or 'NIL'})")
    if "COUNT" in options:
        parts.append(f"COUNT {len(found)}")
    if _asks_for_modseq(command.key):
        modseq = _highest_modseq(session, _chosen(returns, found, saving=False))
        if modseq:
            parts.append(f"MODSEQ {modseq}")
    return " ".join(parts)


def _asks_for_modseq(key: keys.Key) -> bool:
    return any(isinstance(leaf, keys.Modseq) for leaf in leaves(key))


def _names_numbers(key: keys.Key) -> bool:
    """`$` is no number: what has been saved are messages (RFC 5182 §2.1)."""
    named = (leaf for leaf in leaves(key) if isinstance(leaf, keys.Messages) and not leaf.uid)
    return any(leaf.messages != SAVED for leaf in named)


def _highest_modseq(session: Session, found: list[int]) -> int:
    """RFC 7162 §3.1.5: of all messages that the answer is about; 0 without one."""
    view = session.selected
    folder = view.box.folder
    indexes = (folder.index(view.uids[at]) for at in found)
    return max((folder.modseqs[index] for index in indexes if index >= 0), default=0)
