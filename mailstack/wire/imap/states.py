"""Which command is allowed in which state of the connection (RFC 3501 §3)."""

from __future__ import annotations

from enum import Enum, auto


class State(Enum):
    """The four states of a connection."""

    NOT_AUTHENTICATED = auto()
    AUTHENTICATED = auto()
    SELECTED = auto()
    LOGOUT = auto()


_ANY = frozenset(State) - {State.LOGOUT}
_LOGGED_IN = frozenset({State.AUTHENTICATED, State.SELECTED})
_SELECTED = frozenset({State.SELECTED})

ALLOWED: dict[str, frozenset[State]] = {
    **dict.fromkeys(("CAPABILITY", "NOOP", "LOGOUT", "ID"), _ANY),
    **dict.fromkeys(("STARTTLS", "LOGIN", "AUTHENTICATE"), frozenset({State.NOT_AUTHENTICATED})),
    **dict.fromkeys(
        [
            "ENABLE",
            "SELECT",
            "EXAMINE",
            "CREATE",
            "DELETE",
            "RENAME",
            "SUBSCRIBE",
            "UNSUBSCRIBE",
            "LIST",
            "LSUB",
            "STATUS",
            "APPEND",
            "NAMESPACE",
            "IDLE",
            "COMPRESS",
            "SETACL",
            "DELETEACL",
            "GETACL",
            "LISTRIGHTS",
            "MYRIGHTS",
            "GETMETADATA",
            "SETMETADATA",
            "GETQUOTA",
            "GETQUOTAROOT",
            "SETQUOTA",
            "NOTIFY",
            "RESETKEY",
            "GENURLAUTH",
            "URLFETCH",
        ],
        _LOGGED_IN,
    ),
    **dict.fromkeys(
        ["CHECK", "CLOSE", "UNSELECT", "EXPUNGE", "SEARCH", "FETCH", "STORE", "COPY", "MOVE", "REPLACE"],
        _SELECTED,
    ),
    **dict.fromkeys(
        ["SORT", "THREAD", "UID SORT", "UID THREAD", "CANCELUPDATE"],
        _SELECTED,
    ),
    **{
        f"UID {name}": _SELECTED
        for name in ["EXPUNGE", "SEARCH", "FETCH", "STORE", "COPY", "MOVE", "REPLACE"]
    },
}
"""Every command there is, with the states that allow it."""

TRANSITIONS: dict[tuple[State, str], State] = {
    (State.NOT_AUTHENTICATED, "LOGIN"): State.AUTHENTICATED,
    (State.NOT_AUTHENTICATED, "AUTHENTICATE"): State.AUTHENTICATED,
    (State.AUTHENTICATED, "SELECT"): State.SELECTED,
    (State.AUTHENTICATED, "EXAMINE"): State.SELECTED,
    (State.SELECTED, "SELECT"): State.SELECTED,
    (State.SELECTED, "EXAMINE"): State.SELECTED,
    (State.SELECTED, "CLOSE"): State.AUTHENTICATED,
    (State.SELECTED, "UNSELECT"): State.AUTHENTICATED,
    **{(state, "LOGOUT"): State.LOGOUT for state in State},
}
"""Where a command leads; a failed SELECT leads from SELECTED to AUTHENTICATED (RFC 3501 §6.3.1)."""
