"""Configuration trees on disk: reading one, and putting its files in place one by one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TreeFile:
    """One file of the configuration."""

    data: bytes
    mode: int

    @property
    def digest(self) -> str:
        """sha256 hex over content and mode."""
        return hashlib.sha256(b"%o\0" % self.mode + self.data).hexdigest()


ZONE_NOTES = (".jnl", ".jbk", ".signed")
"""What a real named keeps beside the zone files that it signs."""
NATIVE = (*ZONE_NOTES, ".db")
"""What real servers keep beside the files, Postfix's indexes too: no part of the configuration."""


def read_tree(root: Path) -> dict[str, TreeFile]:
    """Every file below `root` but `NATIVE` ones, by relative path; empty when there is no such folder."""
    tree: dict[str, TreeFile] = {}
    for folder, _, names in os.walk(root):
        for name in names:
            if name.endswith(NATIVE):
                continue
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                mode = os.fstat(file.fileno()).st_mode & 0o777
                tree[os.path.relpath(path, root)] = TreeFile(file.read(), mode)
    return tree


def write_file(path: Path, file: TreeFile) -> None:
    """Put a file in place as a whole, with its mode, making the folders above it. Raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = f"{path}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as out:
        os.fchmod(fd, file.mode)
        out.write(file.data)
    os.rename(temporary, path)


def bring_to(root: Path, wanted: Mapping[str, TreeFile]) -> dict[str, TreeFile | None]:
    """Make the tree at `root` equal to `wanted`; what is the same is not touched, so tables keep their mtime.

    Returns what was replaced or removed, None for what is new: `restore` takes that. Raises `OSError`.
    """
    before: dict[str, TreeFile | None] = {}
    there = read_tree(root)
    for path, file in wanted.items():
        old = there.pop(path, None)
        if old != file:
            before[path] = old
            write_file(root / path, file)
    for path, file in there.items():
        before[path] = file
        (root / path).unlink()
    return before


def restore(root: Path, before: Mapping[str, TreeFile | None]) -> None:
    """Undo `bring_to`. Raises `OSError`."""
    for path, file in before.items():
        if file is None:
            (root / path).unlink(missing_ok=True)
        else:
            write_file(root / path, file)
