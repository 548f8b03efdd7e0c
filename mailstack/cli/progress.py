"""The runtime's events on the user's screen."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mailstack.cli.output import Console, Progress
    from mailstack.runtime.model import Progress as Event


def follow(console: Console, progress: Progress) -> Callable[[Event], None]:
    """A callback for `up`, `down` and the image build: notes become warnings, the rest steps."""

    def told(event: Event) -> None:
        match event.stage:
            case "note":
                console.warn(event.text)
            case "ready" | "waiting" if event.service is not None and event.service not in event.text:
                progress.step(f"{event.service}: {event.text}")
            case _:
                progress.step(event.text)

    return told
