"""Which function runs which command."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from mailstack.mailbox.imap import (
    acl,
    basic,
    copy,
    expunge,
    fetch,
    idle,
    login,
    mailboxes,
    metadata,
    notify,
    quota,
    search,
    select,
    sort,
    store,
    thread,
    urlauth,
)
from mailstack.mailbox.imap import list as listing

if TYPE_CHECKING:
    from mailstack.mailbox.imap.session import Session

Handler = Callable[["Session", str, Any], Awaitable[str]]
"""Runs one command; returns the tagged reply without its tag. Raises `CommandError`."""

HANDLERS: dict[str, Handler] = {
    "CAPABILITY": basic.capability,
    "NOOP": basic.noop,
    "LOGOUT": basic.logout,
    "ID": basic.identify,
    "ENABLE": basic.enable,
    "NAMESPACE": basic.namespace,
    "CHECK": basic.check,
    "COMPRESS": basic.compress,
    "STARTTLS": login.starttls,
    "LOGIN": login.login,
    "AUTHENTICATE": login.authenticate,
    "SELECT": select.select,
    "EXAMINE": select.select,
    "CLOSE": select.close,
    "UNSELECT": select.unselect,
    "CREATE": mailboxes.create,
    "DELETE": mailboxes.delete,
    "RENAME": mailboxes.rename,
    "SUBSCRIBE": mailboxes.subscribe,
    "UNSUBSCRIBE": mailboxes.subscribe,
    "LIST": listing.list_mailboxes,
    "LSUB": listing.lsub,
    "STATUS": listing.status,
    "GETMETADATA": metadata.getmetadata,
    "SETMETADATA": metadata.setmetadata,
    "SETACL": acl.setacl,
    "DELETEACL": acl.deleteacl,
    "GETACL": acl.getacl,
    "LISTRIGHTS": acl.listrights,
    "MYRIGHTS": acl.myrights,
    "GETQUOTA": quota.getquota,
    "GETQUOTAROOT": quota.getquotaroot,
    "SETQUOTA": quota.setquota,
    "NOTIFY": notify.notify,
    "RESETKEY": urlauth.resetkey,
    "GENURLAUTH": urlauth.genurlauth,
    "URLFETCH": urlauth.urlfetch,
    "IDLE": idle.idle,
    "EXPUNGE": expunge.expunge,
    "UID EXPUNGE": expunge.uid_expunge,
    "SEARCH": search.search,
    "UID SEARCH": search.search,
    "SORT": sort.sort,
    "UID SORT": sort.sort,
    "THREAD": thread.thread,
    "UID THREAD": thread.thread,
    "CANCELUPDATE": search.cancel_update,
    "FETCH": fetch.fetch,
    "UID FETCH": fetch.fetch,
    "STORE": store.store,
    "UID STORE": store.store,
    "COPY": copy.copy,
    "UID COPY": copy.copy,
    "MOVE": copy.copy,
    "UID MOVE": copy.copy,
}
