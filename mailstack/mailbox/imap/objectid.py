"""Identifiers that outlive names and UIDs (RFC 8474): of mailboxes, and of messages with all their copies."""

from __future__ import annotations

from hashlib import sha256

from mailstack.storage.maildir.folder import Folder


def mailbox_id(folder: Folder) -> str:
    """MAILBOXID: it stays when the mailbox is renamed, and a new mailbox of the same name has another."""
    return f"F{folder.guid}"


def email_id(folder: Folder, index: int) -> str:
    """EMAILID of the message at a folder index: the same for copies, also where Dovecot has made them."""
    return "M" + sha256(folder.message_guid(index).encode("utf-8", "surrogateescape")).hexdigest()[:40]
