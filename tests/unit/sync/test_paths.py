"""Keys map to paths losslessly or not at all."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.paths import conflict_name, escape_undecodable, fold, path_problem, unescape_undecodable

WHEN = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)

segments = st.text(st.characters(codec="utf-8", exclude_characters="/"), max_size=12) | st.sampled_from(
    [".", "..", "", ".vaulthalla", ".Vaulthalla", ".vaulthalla-stage-1", "\0", "x" * 256]
)
names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=90)
raw_names = st.binary(min_size=1, max_size=60).filter(lambda raw: b"/" not in raw and b"\0" not in raw)


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("a", ""),
        ("a/b.txt", ""),
        ("a/.hidden", ""),
        ("...", ""),
        ("a/..b/c.", ""),
        (" /\n", ""),
        ("a\\b", ""),
        (".vaulthalla2", ""),
        ("x" * 255, ""),
        (".", "dot_segment"),
        ("a/../b", "dot_segment"),
        ("a/.", "dot_segment"),
        ("", "empty_segment"),
        ("a//b", "empty_segment"),
        ("/a", "leading_slash"),
        ("a/", "trailing_slash"),
        ("/", "leading_slash"),
        ("a\0b", "nul"),
        ("a\udcff", "undecodable"),
        ("x" * 256, "too_long"),
        ("ü" * 128, "too_long"),
        ("/".join(["abc"] * 257), "too_long"),
        (".vaulthalla", "reserved"),
        (".vaulthalla/vault.json", "reserved"),
        ("a/.VaultHalla/b", "reserved"),
        ("a/.vaulthalla-stage-0", "reserved"),
    ],
)
def test_each_problem_has_a_name(key: str, problem: str) -> None:
    assert path_problem(key) == problem


def test_the_vaults_prefix_counts_as_key_bytes() -> None:
    key = "/".join(["abc"] * 256)
    assert path_problem(key) == ""
    assert path_problem(key, prefix="p/") == "too_long"


@given(st.lists(segments, min_size=1, max_size=5).map("/".join))
def test_an_accepted_key_is_its_path_byte_for_byte(key: str) -> None:
    if path_problem(key) == "":
        path = os.fsdecode(os.path.normpath(b"/vault/" + key.encode()))
        assert path == f"/vault/{key}"
        assert Path(path).relative_to("/vault").parts == tuple(key.split("/"))


@given(st.lists(names, max_size=3), raw_names)
def test_an_undecodable_name_is_stored_reversibly_and_equals_no_path(folders: list[str], raw: bytes) -> None:
    path = "/".join([*folders, raw.decode("utf-8", "surrogateescape")])
    stored = escape_undecodable(path)
    assert unescape_undecodable(stored) == path
    assert path_problem(stored) in {"empty_segment", "leading_slash"}
    assert stored.encode()


@pytest.mark.parametrize(
    ("one", "other", "twins"),
    [
        ("A", "a", True),
        ("caf\u00e9", "cafe\u0301", True),
        ("CAF\u00c9", "cafe\u0301", True),
        ("a/B", "A/b", True),
        ("a", "b", False),
        ("a/b", "ab", False),
    ],
)
def test_twins_fold_to_the_same(one: str, other: str, twins: bool) -> None:
    assert (fold(one) == fold(other)) is twins


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/b.txt", "a/b (conflict box 20260304T050607Z).txt"),
        ("b", "b (conflict box 20260304T050607Z)"),
        (".profile", ".profile (conflict box 20260304T050607Z)"),
        ("x.tar.gz", "x.tar (conflict box 20260304T050607Z).gz"),
    ],
)
def test_a_conflict_name_keeps_the_extension(path: str, expected: str) -> None:
    assert conflict_name(path, "box.example.org", WHEN) == expected


def test_a_conflict_name_is_in_utc_and_tells_twins_apart() -> None:
    when = WHEN.astimezone(timezone(timedelta(hours=9)))
    assert conflict_name("a", "box", when, ordinal=2) == "a (conflict box 20260304T050607Z 2)"


@given(
    st.lists(names.filter(lambda n: len(n.encode()) <= 255), min_size=1, max_size=3).map("/".join), st.text(max_size=80)
)
def test_a_conflict_name_is_a_path_beside(path: str, host: str) -> None:
    if path_problem(path) == "":
        name = conflict_name(path, host, WHEN)
        assert path_problem(name) == ""
        assert name != path
        assert name.rpartition("/")[0] == path.rpartition("/")[0]
