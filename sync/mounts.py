"""Which directories below a root are mount points: one that vanishes must not look like a deleted directory."""

from __future__ import annotations

import os
import re
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")

_OCTAL = re.compile(rb"\\([0-7]{3})")


class Mounts:
    """Mount points below one root, as "a/b/"; without a mount table (not Linux) there are none."""

    def __init__(self, root: str) -> None:
        # The table names real paths.
        self._root = os.fsencode(os.path.realpath(root)).rstrip(b"/") + b"/"
        self._known = self._read()

    def is_mount(self, folder: str, *, was_mount: bool) -> bool:
        """Asked with `folder` open, so that a mount that is there cannot go away before it has been read.

        The table is read again only for a directory that is or was a mount point.
        """
        if not was_mount and folder not in self._known:
            return False
        self._known = self._read()
        return folder in self._known

    def _read(self) -> frozenset[str]:
        try:
            table = MOUNTINFO.read_bytes()
        except FileNotFoundError:
            return frozenset()
        points = (_OCTAL.sub(_character, line.split(b" ", 5)[4]) + b"/" for line in table.splitlines())
        # The root itself may be one; its marker tells whether it is there.
        below = (point for point in points if point.startswith(self._root) and point != self._root)
        return frozenset(os.fsdecode(point[len(self._root) :]) for point in below)


def _character(match: re.Match[bytes]) -> bytes:
    return bytes([int(match[1], 8)])
