"""Results to standard output, diagnostics to standard error, in text or as one JSON object.

Every JSON line is an envelope of the same shape:

    {"schemaVersion": 1, "command": "status", "status": "ok" | "error", "data": {…}, "warnings": [],
     "error": {"code", "message", "hint"} | null}

rich is imported for a table or a spinner on a terminal and never otherwise: it costs more than a command.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from mailstack.cli.exits import Exit, Failure, PipeClosed

if TYPE_CHECKING:
    from rich.status import Status

SCHEMA_VERSION = 1
SPINNER_AFTER = 0.6
"""Seconds of work before a spinner appears: what is over sooner needs none."""
FAR_EVERY, SPINNER_EVERY = 2.0, 0.1
"""Seconds between two words on how far something is: in lines, and beside a spinner."""

STYLES = {
    "ok": "green",
    "pass": "green",
    "ready": "green",
    "warn": "yellow",
    "starting": "yellow",
    "fail": "red",
    "failing": "red",
    "stopped": "red",
}
"""Colours of the words that a table may hold, on a terminal."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a command found or did.

    `data` is the envelope's `data`; `text` prints the same for people. `notice` marks a text that only says
    that something was done, which `-q` silences. `streamed`: the command has printed everything itself. With
    `failure` the result is printed and then the error told.
    """

    data: Mapping[str, object]
    text: Callable[[Console], None] | str = ""
    notice: bool = False
    streamed: bool = False
    exit: int = Exit.DONE
    failure: Failure | None = None


@dataclass(slots=True)
class Console:
    """Where a command's words go; knows the output mode and nothing about commands."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    command: str = "mailstack"
    warnings: list[str] = field(default_factory=list)
    _warned: set[str] = field(default_factory=set)

    def print(self, text: str = "") -> None:
        """One line of text on standard output, buffered until `flush`. Raises `PipeClosed`."""
        self._write(sys.stdout, text + "\n")

    def write(self, octets: bytes) -> None:
        """Octets as they are on standard output, and a line end behind them where there is none."""
        if not octets.endswith(b"\n"):
            octets += b"\n"
        binary = getattr(sys.stdout, "buffer", None)
        if binary is None:
            self._write(sys.stdout, octets.decode("utf-8", "replace"))
            return
        self.flush()
        try:
            binary.write(octets)
            binary.flush()
        except OSError as error:
            raise PipeClosed(error) from error

    def flush(self) -> None:
        """Let what has been printed be seen. Raises `PipeClosed`."""
        self._write(sys.stdout, "", flush=True)

    def say(self, text: str) -> None:
        """A diagnostic on standard error; nothing with `-q`."""
        if not self.quiet:
            self.complain(text)

    def complain(self, text: str) -> None:
        """A diagnostic that `-q` does not silence. A closed standard error is no reason to fail."""
        try:
            self.flush()  # what was said first is to be seen first
            self._write(sys.stderr, text + "\n", flush=True)
        except PipeClosed:
            pass

    def warn(self, text: str) -> None:
        """Something the user should know; in JSON it goes into `warnings`. Each text once."""
        if text in self._warned:
            return
        self._warned.add(text)
        self.warnings.append(text)
        if not self.json:
            self.say(f"warning: {text}")

    def envelope(self, data: Mapping[str, object], failure: Failure | None = None) -> dict[str, object]:
        """The object that JSON mode prints."""
        error = failure and {
            "code": failure.code,
            "message": failure.message,
            "hint": failure.hint or None,
        }
        return {
            "schemaVersion": SCHEMA_VERSION,
            "command": self.command,
            "status": "error" if failure else "ok",
            "data": dict(data),
            "warnings": list(self.warnings),
            "error": error,
        }

    def emit(self, data: Mapping[str, object], failure: Failure | None = None) -> None:
        """One JSON line, seen at once. Raises `PipeClosed`."""
        plain = (getattr(sys.stdout, "encoding", None) or "").lower() not in ("utf-8", "utf8")
        self.print(json.dumps(self.envelope(data, failure), ensure_ascii=plain, default=str))
        self.flush()

    def finish(self, result: Result) -> int:
        """Print a result; return the exit status."""
        failure = result.failure
        if result.streamed:
            return result.exit
        if self.json:
            self.emit(result.data, failure)
        elif not (result.notice and self.quiet):
            if isinstance(result.text, str):
                if result.text:
                    self.print(result.text)
            else:
                result.text(self)
        if failure is not None:
            if not self.json:
                self.complain_of(failure)
            return failure.exit
        return result.exit

    def fail(self, failure: Failure) -> int:
        """Report a failure; return the exit status."""
        if self.json:
            self.emit(failure.data, failure)
        else:
            self.complain_of(failure)
        return failure.exit

    def complain_of(self, failure: Failure) -> None:
        for line in failure.details:
            self.complain(line)
        self.complain(f"error: {failure.message}")
        for line in failure.hint.splitlines():
            self.complain(f"  {line}")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Rows under headings: coloured on a terminal, aligned with two spaces elsewhere."""
        if not rows:
            return
        if colourful(sys.stdout):
            self._rich_table(columns, rows)
            return
        lines = [columns, *rows]
        widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
        for line in lines:
            cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            self.print("  ".join(cells).rstrip())

    def _rich_table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        from rich.console import Console as RichConsole
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
        RichConsole(highlight=False).print(table)

    @contextmanager
    def progress(self, what: str) -> Iterator[Progress]:
        """Tell how far something is that may take over a second."""
        with Progress(self, what) as progress:
            yield progress

    def _write(self, stream: TextIO | None, text: str, *, flush: bool = False) -> None:
        if stream is None:
            return  # it was closed before we began (`>&-`)
        try:
            try:
                stream.write(text)
            except UnicodeEncodeError:
                encoding = stream.encoding or "ascii"
                stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            if flush:
                stream.flush()
        except OSError as error:
            raise PipeClosed(error) from error


class Progress:
    """Steps of a longer piece of work, on standard error: a spinner on a terminal, else a line per step.

    Nothing is shown for work that is over before `SPINNER_AFTER` seconds, in JSON mode or with `-q`; `-v`
    shows every step at once with its time.
    """

    def __init__(self, console: Console, what: str) -> None:
        self._console = console
        self._what = what
        self._shown = not console.quiet and not console.json
        self._started = time.monotonic()
        self._held: list[str] = []
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._spinner: Status | None = None
        self._late = console.verbose
        self._far = self._started

    def __enter__(self) -> Progress:
        if self._shown and not self._late:
            self._timer = threading.Timer(SPINNER_AFTER, self._show)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None
            self._shown = False
            if self._spinner is not None:
                self._spinner.stop()

    def step(self, text: str) -> None:
        """`text` has been done or is being done."""
        line = f"[{time.monotonic() - self._started:5.2f}s] {text}"
        with self._lock:
            if not self._shown:
                return
            if self._spinner is not None:
                self._spinner.update(f"{self._what}: {text}")
            elif self._late:
                self._console.say(line)
            else:
                self._held.append(line)

    def far(self, text: str) -> None:
        """How far it is; of what changes many times a second something is shown every `FAR_EVERY` seconds."""
        now = time.monotonic()
        if now - self._far >= (SPINNER_EVERY if self._spinner is not None else FAR_EVERY):
            self._far = now
            self.step(text)

    def _show(self) -> None:
        spinner = _spinner(self._what) if colourful(sys.stderr) else None
        with self._lock:
            if not self._shown:
                return
            self._late = True
            if spinner is not None:
                self._spinner = spinner
                spinner.start()
            else:
                for line in self._held:
                    self._console.say(line)
            self._held.clear()


def _spinner(what: str) -> Status:
    from rich.console import Console as RichConsole

    return RichConsole(stderr=True, highlight=False).status(what)


def colourful(stream: TextIO | None) -> bool:
    """Whether colours and cursor movement are wanted there (no-color.org)."""
    if stream is None:
        return False
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") not in ("dumb", None)
