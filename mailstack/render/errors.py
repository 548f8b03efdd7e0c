"""The one error of this room."""

from __future__ import annotations


class RenderError(Exception):
    """A value that cannot be written into a file so that its program reads it back unchanged.

    The spec's own checks refuse such values first, with line and column; this is for what comes from
    elsewhere (the path of the state folder, say), and the last line of defence.
    """
