"""Where on the disk a folder's files come to lie: a hint for ext4's allocator.

ext4 puts a new file near its folder and a new folder near its parent, so the mailboxes of a server share
their part of the disk with its queue and with whatever else makes and removes files there. Where it looks for
a free inode it passes over every one that was freed within the last minute, one by one: beside a busy mail
queue that is most of the work of delivering a message. Folders below one with the attribute T (chattr(1)) are
spread over the disk instead.
"""

from __future__ import annotations

import os
import struct

_GET_FLAGS = 0x80086601 if struct.calcsize("l") == 8 else 0x80046601
_SET_FLAGS = 0x40086602 if struct.calcsize("l") == 8 else 0x40046602
"""FS_IOC_GETFLAGS and FS_IOC_SETFLAGS (ioctl_iflags(2))."""
_TOP_OF_TREE = 0x00020000
"""FS_TOPDIR_FL."""


def spread(folder: str | os.PathLike[str]) -> bool:
    """Have the folders made below `folder` spread over the disk; False where that cannot be asked for."""
    from fcntl import ioctl

    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        (flags,) = struct.unpack("i", ioctl(fd, _GET_FLAGS, b"\0" * 4))
        if not flags & _TOP_OF_TREE:
            ioctl(fd, _SET_FLAGS, struct.pack("i", flags | _TOP_OF_TREE))
    except OSError:
        return False  # another filesystem, another owner
    finally:
        os.close(fd)
    return True
