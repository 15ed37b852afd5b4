"""What a look at a directory says of its entries."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

from sync import walk

OLD_NS = 1_600_000_000_000_000_000


def test_the_clock_is_asked_while_a_directory_is_read(tmp_path: Path) -> None:
    """Three seconds a look: of what is read last, what was written six seconds after the first may be racy."""
    for number in range(2 * walk.CLOCK_EVERY + 88):
        file = tmp_path / f"{number:04}"
        file.touch()
        os.utime(file, ns=(OLD_NS, OLD_NS + 6 * 10**9))
    looks = count()
    reader = walk.Reader(clock=lambda: OLD_NS + 3 * 10**9 * next(looks))
    directory = walk.Directory(os.open(tmp_path, os.O_RDONLY), "")
    try:
        assert sum(len(block.racy) for block in reader._blocks(directory, [])) == 88
    finally:
        directory.close()
