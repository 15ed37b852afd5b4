"""Paths below directories that the scan could not read: nothing there is known, so nothing is done."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable


class UnknownBelow:
    """Answers by prefix. Directories are "" (the root) or end with "/", each with the reason it is unknown."""

    def __init__(self, directories: Iterable[tuple[str, str]]) -> None:
        self._prefixes: list[bytes] = []
        self._reasons: list[str] = []
        for directory, reason in sorted((d.encode(), r) for d, r in directories):
            if not self._prefixes or not directory.startswith(self._prefixes[-1]):
                self._prefixes.append(directory)
                self._reasons.append(reason)

    def reason(self, path: str) -> str:
        """Why `path` is unknown; empty when it is known."""
        if not self._prefixes:
            return ""
        encoded = path.encode()
        place = bisect_right(self._prefixes, encoded) - 1
        return self._reasons[place] if place >= 0 and encoded.startswith(self._prefixes[place]) else ""
