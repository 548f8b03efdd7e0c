"""Noticing at once what other programs do in a directory: inotify(7), one descriptor per process.

Where inotify is missing or its limits are used up, `watch` returns None and the owner compares modification
times instead.
"""

from __future__ import annotations

import os
import select
import struct
from collections.abc import Callable

Listener = Callable[[str, bool], None]
"""Called with a file's name and whether it has come (else gone); an empty name: read everything anew."""

_ATTRIBUTES = 0x00000080 | 0x00000040 | 0x00000100 | 0x00000200  # MOVED_TO MOVED_FROM CREATE DELETE
_COME = 0x00000080 | 0x00000100
_OVERFLOW = 0x00004000
_IGNORED = 0x00008000
_ONLYDIR = 0x01000000
_EVENT = struct.Struct("iIII")
_BUFFER = 65536


class Watcher:
    """All watches of the process. When `fileno` is readable, `poll` has something to do."""

    def __init__(self) -> None:
        self._listeners: dict[int, Listener] = {}
        self._hidden: set[int] = set()
        self._readable = select.poll()
        self.fileno = -1
        try:
            import ctypes

            libc = ctypes.CDLL(None, use_errno=True)
            self._add = libc.inotify_add_watch
            self._remove = libc.inotify_rm_watch
            self.fileno = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
            if self.fileno >= 0:
                self._readable.register(self.fileno, select.POLLIN)
        except (ImportError, OSError, AttributeError):
            self.fileno = -1

    def watch(self, directory: str, listener: Listener, *, hidden: bool = False) -> int | None:
        """Tell `listener` about the directory's entries; a handle for `forget`, or None when impossible.

        `hidden`: also about those whose names begin with a dot.
        """
        if self.fileno < 0:
            return None
        handle = int(self._add(self.fileno, os.fsencode(directory), _ATTRIBUTES | _ONLYDIR))
        if handle < 0:
            return None
        self._listeners[handle] = listener
        if hidden:
            self._hidden.add(handle)
        return handle

    def forget(self, handle: int) -> None:
        """End a watch."""
        self._hidden.discard(handle)
        if self._listeners.pop(handle, None) is not None:
            self._remove(self.fileno, handle)

    def poll(self) -> None:
        """Hand out what has happened until now; never waits."""
        # To ask costs a tenth of a read that finds nothing, which is how most of them end.
        if self.fileno < 0 or not self._readable.poll(0):
            return
        while True:
            try:
                data = os.read(self.fileno, _BUFFER)
            except BlockingIOError:
                return
            self._dispatch(data)
            if len(data) < _BUFFER // 2:
                return

    def _dispatch(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            handle, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size
            name = data[at : at + length].rstrip(b"\0")
            at += length
            if mask & _OVERFLOW:
                for listener in list(self._listeners.values()):
                    listener("", False)
                continue
            listen = self._listeners.get(handle)
            if listen is None:
                continue
            if mask & _IGNORED:
                del self._listeners[handle]
                listen("", False)
            elif name and (handle in self._hidden or not name.startswith(b".")):
                listen(os.fsdecode(name), bool(mask & _COME))

    def close(self) -> None:
        """End all watches."""
        if self.fileno >= 0:
            os.close(self.fileno)
            self.fileno = -1
        self._listeners.clear()
