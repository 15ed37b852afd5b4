"""Hashes are those of the bytes, and of a file that did not move."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync import hashing
from sync.hashing import (
    MIB,
    FileChanged,
    candidate_part_sizes,
    hash_file,
    matches_etag,
    multipart_etag,
    parts_of,
)
from sync.tree import Tree


def etag_of(content: bytes, part_size: int) -> str:
    """As S3 computes it."""
    parts = [content[at : at + part_size] for at in range(0, len(content), part_size)] or [b""]
    return multipart_etag([hashlib.md5(part).digest() for part in parts])


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(str(tmp_path))


@given(content=st.binary(max_size=300), part_size=st.integers(1, 120), read=st.integers(1, 64))
def test_hashes_are_those_of_the_bytes(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, part_size: int, read: int
) -> None:
    path = tmp_path_factory.mktemp("hashing") / "f"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch, open(path, "rb", buffering=0) as file:
        patch.setattr(hashing, "READ_BYTES", read)
        file.seek(1)
        hashes = hash_file(file, part_size=part_size)
    assert hashes.size == len(content)
    assert hashes.sha256 == hashlib.sha256(content).digest()
    assert hashes.md5 == hashlib.md5(content).digest()
    assert multipart_etag(hashes.part_md5s) == etag_of(content, part_size)


def test_without_a_part_size_there_are_no_parts(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    heard: list[int] = []
    with open(tmp_path / "f", "rb", buffering=0) as file:
        assert hash_file(file, on_bytes=heard.append).part_md5s == ()
    assert heard == [1]


@pytest.mark.parametrize("change", ["longer", "same size", "only its time"])
def test_a_file_that_moves_under_the_reader_has_no_hash(tmp_path: Path, change: str) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    os.utime(path, ns=(1, 1))

    def write(_: int) -> None:
        if change == "only its time":
            os.utime(path, ns=(2, 2))
        else:
            path.write_bytes(b"abcd" if change == "longer" else b"xyz")

    with open(path, "rb", buffering=0) as file:
        with pytest.raises(FileChanged):
            hash_file(file, on_bytes=write)
        os.utime(path, ns=(1, 1))
        with pytest.raises(FileChanged):
            matches_etag(file, etag_of(b"abc", 5 * MIB), on_bytes=write)


@pytest.mark.parametrize(
    ("etag", "parts"),
    [
        ("0" * 32 + "-2", 2),
        ("0" * 32 + "-10000", 10_000),
        ("0" * 32, None),
        ("0" * 32 + "-0", None),
        ("0" * 32 + "-", None),
        ("0" * 32 + "-²", None),
        ("0" * 31 + "-2", None),
        ("0" * 32 + "-" + "9" * 5000, None),
        ("", None),
    ],
)
def test_a_multipart_etag_says_how_many_parts(etag: str, parts: int | None) -> None:
    assert parts_of(etag) == parts


@given(size=st.integers(1, 2**40), parts=st.integers(1, 10_000))
def test_every_candidate_gives_that_number_of_parts(size: int, parts: int) -> None:
    for part_size in candidate_part_sizes(size, parts):
        assert max(1, -(-size // part_size)) == parts


@given(size=st.integers(1, 2**36), part_size=st.sampled_from([5 * MIB, 8 * MIB, 16 * MIB, 8_000_000, 512 * MIB]))
def test_a_common_part_size_is_among_the_candidates(size: int, part_size: int) -> None:
    parts = -(-size // part_size)
    assert parts == 1 or part_size in candidate_part_sizes(size, parts)


@pytest.mark.parametrize("part_size", [5 * MIB, 8 * MIB, 5_000_000, 7 * MIB, 100 * MIB])
def test_equal_content_is_recognised_whatever_the_part_size(tree: Tree, tmp_path: Path, part_size: int) -> None:
    content = b"0123456789abcdef" * (13 * MIB // 16) + b"tail"
    (tmp_path / "f").write_bytes(content)
    with tree, tree.open_read("f") as file:
        assert matches_etag(file, etag_of(content, part_size)) is True
        assert matches_etag(file, etag_of(content[:-1] + b"T", part_size)) is False


def test_nothing_is_said_of_other_etags(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    with tree, tree.open_read("f") as file:
        assert matches_etag(file, hashlib.md5(b"x").hexdigest()) is None
        assert matches_etag(file, "0" * 32 + "-7") is None
