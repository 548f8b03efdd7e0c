"""GETQUOTA GETQUOTAROOT SETQUOTA (RFC 9208 §4.1; RFC 2087). State: authenticated.

The resources are STORAGE (in units of 1024 octets, rounded up) and MESSAGE; one root, the inbox
namespace. SETQUOTA is for an administrator, and there is none in IMAP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mailstack.mailbox.imap.errors import CommandError
from mailstack.mailbox.quota import OverQuotaError
from mailstack.mailbox.views import SharedMailbox
from mailstack.storage.maildir import quota as stored
from mailstack.storage.maildir import tree
from mailstack.storage.maildir.quota import Quota, Usage
from mailstack.wire.imap.encode import string
from mailstack.wire.imap.quota import GetQuota, GetQuotaRoot, SetQuota

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session

CAPABILITIES = ("QUOTA", "QUOTA=RES-STORAGE", "QUOTA=RES-MESSAGE")


async def getquota(session: Session, tag: str, command: GetQuota) -> str:
    quota = _quota(session)
    if quota is None or command.root != quota.name:
        raise CommandError("NO Quota root doesn't exist")
    await _send(session, quota)
    return "OK Getquota completed."


async def getquotaroot(session: Session, tag: str, command: GetQuotaRoot) -> str:
    quota = _quota(session)
    if not _is_main(session, command.mailbox):
        quota = None
    shown = session.mailbox(command.mailbox)
    if quota is None:
        session.send(b"* QUOTAROOT %b\r\n" % shown)
    else:
        session.send(b"* QUOTAROOT %b %b\r\n" % (shown, string(quota.name.encode())))
        await _send(session, quota)
    return "OK Getquotaroot completed."


def _is_main(session: Session, name: str) -> bool:
    """Whether a mailbox, or one that is yet to be made, lies in the inbox namespace. Raises
    `MailboxNameError`."""
    try:
        root, _ = tree.located(session.root, name)
        tree.path_of(session.root, name)
    except FileNotFoundError:
        return False
    return root == tree.main_of(session.root)


def counts(session: Session, box: SharedMailbox) -> bool:
    """Whether messages in the mailbox count for the user's quota: those of the inbox namespace do, unless
    a rule says `ignore`."""
    inside = box.root == tree.main_of(session.root)
    return inside and session.service.quotas.counts(box.root, box.folder.path)


async def setquota(session: Session, tag: str, command: SetQuota) -> str:
    raise CommandError("NO [NOPERM] Quota can be changed only by admin")


async def admit(session: Session, folder: str, sizes: Sequence[int]) -> None:
    """Refuse messages of these sizes on disk where there is no room for them; it is theirs until the command
    is over."""
    quotas = session.service.quotas
    if quotas.active:
        assert session.user is not None
        try:
            session.room = await quotas.admit(session.user, folder, Usage(sum(sizes), len(sizes)))
        except OverQuotaError as error:
            raise CommandError(f"NO [OVERQUOTA] {error}") from None


def added(session: Session, sizes: Sequence[int]) -> None:
    """Messages of these sizes have been stored."""
    quotas = session.service.quotas
    if quotas.active and sizes:
        assert session.user is not None
        quotas.changed(session.user, Usage(sum(sizes), len(sizes)))


def removed(session: Session, sizes: Sequence[int]) -> None:
    """Messages of these sizes have left the inbox namespace for another one."""
    assert session.user is not None
    session.service.quotas.changed(session.user, Usage(-sum(sizes), -len(sizes)))


def _quota(session: Session) -> Quota | None:
    assert session.user is not None
    return session.service.quotas.of(session.user)


async def _send(session: Session, quota: Quota) -> None:
    used = await asyncio.to_thread(lambda: stored.usage(tree.main_of(session.root), quota, trust=False))
    parts = []
    if quota.storage:
        parts.append(f"STORAGE {-(-used.storage // 1024)} {quota.storage // 1024}")
    if quota.messages:
        parts.append(f"MESSAGE {used.messages} {quota.messages}")
    session.send(b"* QUOTA %b (%b)\r\n" % (string(quota.name.encode()), " ".join(parts).encode()))
