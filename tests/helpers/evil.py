"""Files that would run code if they were read as pickles."""

from __future__ import annotations

from pathlib import Path


class Evil:
    """Its pickle leaves a marker when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))
