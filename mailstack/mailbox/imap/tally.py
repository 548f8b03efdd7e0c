"""What a session has done, for the line that the log has at its end (imap_logout_format)."""

from __future__ import annotations


class Tally:
    """Counts. Headers are BODY[HEADER…] and RFC822.HEADER, bodies all other parts of messages."""

    __slots__ = (
        *("appended", "deleted", "expunged", "trashed"),
        *("fetch_body_bytes", "fetch_body_count", "fetch_hdr_bytes", "fetch_hdr_count"),
    )

    def __init__(self) -> None:
        self.appended = self.deleted = self.expunged = self.trashed = 0
        self.fetch_hdr_count = self.fetch_hdr_bytes = self.fetch_body_count = self.fetch_body_bytes = 0

    def fetched(self, octets: int, *, header: bool) -> None:
        """A part of a message has been sent."""
        if header:
            self.fetch_hdr_count += 1
            self.fetch_hdr_bytes += octets
        else:
            self.fetch_body_count += 1
            self.fetch_body_bytes += octets
