"""What milters' verdicts are in log lines."""

from __future__ import annotations

from mailstack.wire.milter import Verdict
from mailstack.wire.smtp.reply import Reply

CLOSING = Reply(421, "4.7.0", "Server closing connection")


def described(verdict: Verdict) -> tuple[str, str]:
    """Postfix's word for the log, and the text, where the verdict has one of its own."""
    if verdict.hold:
        return "milter-hold", "milter triggers HOLD action"
    if verdict.discard:
        return "milter-discard", "milter triggers DISCARD action"
    return "milter-reject", ""


def as_logged(reply: Reply) -> str:
    """A reply in a log line; Postfix shows line ends as question marks."""
    return reply.encode().decode("utf-8", "replace").rstrip("\r\n").replace("\r\n", "??")


def content_line(queue_id: str, event: str, verdict: Verdict, words: str) -> str:
    """The line of cleanup for a verdict on content, or on mail of local programs.

    `words`: who sends, as `cleanup.Origin.words` has it.
    """
    word, text = described(verdict)
    if verdict.reply is not None:
        text = as_logged(verdict.reply)[4:]
    elif verdict.shutdown:
        text = as_logged(CLOSING)[4:]
    client, _, rest = words.partition("; ")
    return f"{queue_id}: {word}: {event} {client}: {text}; {rest}"
