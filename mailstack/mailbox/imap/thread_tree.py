"""How messages hang together: by what they refer to, and by their subjects (RFC 5256 §3).

The steps of REFERENCES have the RFC's numbers. Where it leaves something open (messages with the same
Message-ID, references that contradict each other) the answer is Dovecot's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class Node:
    """A message, by its position in the view, or a message that is only referred to (`at` is negative)."""

    __slots__ = ("answered", "at", "children", "date", "leads", "parent", "subject")

    def __init__(self, at: int = -1, date: int = 0, subject: bytes = b"", answered: bool = False) -> None:
        self.at = at
        self.date = date
        self.subject = subject
        self.answered = answered
        self.parent: Node | None = None
        self.children: list[Node] = []
        self.leads = False
        """Whether it has ever been made the parent of another."""

    def __lt__(self, other: Node) -> bool:
        return (self.date, self.at) < (other.date, other.at)

    def sort_children(self) -> list[Node]:
        self.children.sort()
        return self.children


def ordered_subject(nodes: Iterable[Node]) -> list[Node]:
    """Threads of one level, each of the messages with one base subject, the oldest first."""
    threads: dict[bytes, list[Node]] = {}
    for node in sorted(nodes):
        threads.setdefault(node.subject, []).append(node)
    for first, *rest in threads.values():
        first.children = rest
    return sorted(thread[0] for thread in threads.values())


class Tree:
    """Messages are added in the order of their numbers; then `references` or `refs` is called once."""

    __slots__ = ("_by_id", "_nodes")

    def __init__(self) -> None:
        self._by_id: dict[bytes, Node] = {}
        self._nodes: list[Node] = []

    def add(self, message: Node, message_id: bytes, references: Sequence[bytes]) -> None:
        """(1) Link a message, as far as that does not make a circle; `message_id` is empty without one."""
        node = self._node(message_id) if message_id else None
        if node is None or node.at >= 0:
            self._nodes.append(message)
            node = message
        else:
            node.at, node.date = message.at, message.date
            node.subject, node.answered = message.subject, message.answered
        parent = None
        for reference in references:
            child = self._node(reference)
            if parent is not None:
                _link(parent, child)
            parent = child
        if node.parent is not None and node.parent is not parent:
            node.parent = None
        if parent is not None:
            _link(parent, node)

    def _node(self, message_id: bytes) -> Node:
        node = self._by_id.get(message_id)
        if node is None:
            node = self._by_id[message_id] = Node()
            self._nodes.append(node)
        return node

    def _roots(self) -> list[Node]:
        """(2), (3): the roots; messages that are only referred to stay where they keep others together."""
        roots = []
        for node in self._nodes:
            if node.parent is None:
                roots.append(node)
            elif node.at >= 0:
                parent = node.parent
                while parent.at < 0 and parent.parent is not None:
                    parent = parent.parent
                parent.children.append(node)
        return [root for root in roots if root.at >= 0 or root.children]

    def references(self) -> list[Node]:
        """Threads by references, joined by their base subjects, each sorted by its oldest message."""
        roots = _sorted_roots(self._roots())
        return _sorted_roots(_by_subject(roots))

    def refs(self) -> list[Node]:
        """Threads by references alone; the one with the newest message is the last."""
        roots = self._roots()
        newest = [(_newest(root), root.at, root) for root in roots]
        newest.sort(key=lambda item: item[:2])
        return [root for *_, root in newest]


def _link(parent: Node, child: Node) -> None:
    """Make `parent` the child's parent unless it has one, or is below it."""
    if child.parent is not None or parent is child:
        return
    if child.leads:
        above = parent.parent
        while above is not None:
            if above is child:
                return
            above = above.parent
    child.parent = parent
    parent.leads = True


def _sorted_roots(roots: Iterable[Node]) -> list[Node]:
    """(4), (6): by date. A root that is only referred to has the date of its oldest child; one child alone
    takes its place."""
    result = []
    for root in roots:
        if root.at < 0:
            if not root.children:
                continue
            oldest = root.sort_children()[0]
            if len(root.children) == 1:
                root = oldest
            else:
                root.date = oldest.date
        result.append(root)

    def order(root: Node) -> tuple[int, int]:
        return root.date, root.at if root.at >= 0 else root.children[0].at

    return sorted(result, key=order)


def _by_subject(roots: list[Node]) -> list[Node]:
    """(5) Join threads with the same base subject."""
    table: dict[bytes, Node] = {}
    named: list[tuple[bytes, Node]] = []
    for root in roots:
        source = root if root.at >= 0 else root.sort_children()[0]
        root.answered = source.answered
        if not source.subject:
            continue
        named.append((source.subject, root))
        known = table.get(source.subject)
        if known is None or (known.at >= 0 and (root.at < 0 or (known.answered and not root.answered))):
            table[source.subject] = root
    joined: set[int] = set()
    added: list[Node] = []
    for subject, root in named:
        known = table[subject]
        if known is root:
            continue
        joined.add(id(root))
        if root.at < 0 and known.at < 0:
            known.children += root.children
        elif known.at < 0 or (root.answered and not known.answered):
            known.children.append(root)
        else:
            both = Node()
            both.children = [known, root]
            joined.add(id(known))
            added.append(both)
            table[subject] = both
    return [root for root in [*roots, *added] if id(root) not in joined]


def _newest(root: Node) -> int:
    """The date of the newest message of a thread."""
    newest = 0
    left = [root]
    while left:
        node = left.pop()
        if node.at >= 0:
            newest = max(newest, node.date)
        left += node.children
    return newest


def written(root: Node, uids: Sequence[int] | None) -> str:
    """A thread as the client reads it, in message numbers, or UIDs: `(3 6 (4 23)(44 7 96))`."""
    out = ["("]
    # What is left to write: a node, or text.
    left: list[Node | str] = [")", root]
    while left:
        item = left.pop()
        if isinstance(item, str):
            out.append(item)
            continue
        if item.at >= 0:
            out.append(str(uids[item.at] if uids is not None else item.at + 1))
            if item.children:
                out.append(" ")
        children = item.sort_children()
        if len(children) == 1:
            left.append(children[0])
        else:
            for child in reversed(children):
                left += (")", child, "(")
    return "".join(out)
