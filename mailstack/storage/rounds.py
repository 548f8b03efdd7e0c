"""A round of flushes: what waits for one, and how few system calls make it all safe; see `durable`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailstack.storage.flush import FilesystemFlush, fsync_directory, names_follow, write_out

if TYPE_CHECKING:
    import asyncio

    from mailstack.storage.durable import Publication


@dataclass(slots=True)
class File:
    """A publication on its way. `fd` is open until its content is on disk."""

    item: Publication
    folder: str
    """Of the final name."""
    fd: int
    device: int
    done: asyncio.Future[None]
    named: bool = False
    """Stands under its final name."""
    safe: bool = False
    """Content and name are on disk."""

    @property
    def plain(self) -> bool:
        """Nothing has to happen between its flush and its rename, or instead of them."""
        item = self.item
        return item.gate is None and item.owner is None and not item.early and not item.ordered

    def settle(self, error: Exception | None) -> None:
        """Tell the caller, unless he has given up waiting."""
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


def flush_round(written: list[File], renamed: list[File], together: FilesystemFlush) -> dict[int, OSError]:
    """Flush new files and the directories of renamed ones; what failed, by the identity of the file."""
    errors = _finish_round([file for file in written if file.plain and names_follow(file.device)])
    written = [file for file in written if not file.safe and id(file) not in errors]
    early = [file for file in written if file.item.early and not names_follow(file.device)]
    if written and (len(written) + len(renamed) > 1 or early):
        devices = {file.device for file in written}
        devices.update([file.device for file in renamed])
        if len(devices) == 1 and together.flush(written[0].fd):
            return errors
    directories: dict[str, list[File]] = {}
    for file in (*renamed, *early):
        directories.setdefault(file.folder, []).append(file)
    for file in written:
        try:
            os.fsync(file.fd)
        except OSError as error:
            errors[id(file)] = error
    for directory, files in directories.items():
        try:
            fsync_directory(directory)
        except OSError as error:
            errors.update((id(file), error) for file in files if id(file) not in errors)
    return errors


def _finish_round(files: list[File]) -> dict[int, OSError]:
    """Make contents and names of these files safe, as far as that goes; what failed, by the identity of the
    file."""
    errors: dict[int, OSError] = {}
    for device in {file.device for file in files}:
        here = [file for file in files if file.device == device]
        failed = write_out([file.fd for file in here])
        if failed is None:
            continue
        last: File | None = None
        for file in here:
            try:
                if file.fd in failed:
                    raise failed[file.fd]
                os.rename(file.item.temporary, file.item.final)
                file.named, last = True, file
            except OSError as error:
                errors[id(file)] = error
        if last is None:
            continue
        try:
            os.fsync(last.fd)
        except OSError as error:
            errors.update((id(file), error) for file in here if file.named)
        else:
            for file in here:
                file.safe = file.named
    return errors
