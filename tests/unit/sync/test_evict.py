"""What is evicted for good is what the bucket holds."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from sync.evict import _evict
from sync.tree import Tree

BODY = b"what the bucket holds"


@pytest.mark.parametrize(
    ("sha256", "evicted"),
    [
        # Its fingerprint vouches for it.
        (None, True),
        (hashlib.sha256(BODY).digest(), True),
        # Changed within the tick of the look that its fingerprint is of.
        (hashlib.sha256(b"what the bucket HOLDS").digest(), False),
        # What it was is not known.
        (b"", False),
    ],
)
def test_a_body_in_doubt_is_read_first(tmp_path: Path, sha256: bytes | None, evicted: bool) -> None:
    file = tmp_path / "f"
    file.write_bytes(BODY)
    with Tree(str(tmp_path)) as tree:
        seen = tree.fingerprint("f")
        assert seen is not None
        assert _evict(tree, "evicted-1", "f", seen, sha256=sha256) is evicted
    assert file.exists() is not evicted
