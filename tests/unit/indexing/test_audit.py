"""What a sample says of the whole."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from indexing.audit import Row, verdict, wilson
from vaulthalla.stores.base import ObjectInfo

NOW = datetime(2026, 11, 1, tzinfo=UTC)
INFO = ObjectInfo(key="k", size=3, etag="e", last_modified=NOW, observed_at=NOW)
ROW = Row(False, "e", 3, False)


@pytest.mark.parametrize(
    ("row", "info", "expected"),
    [
        (ROW, INFO, "same"),
        (ROW, replace(INFO, etag="other"), "changed"),
        (ROW, replace(INFO, size=4), "changed"),
        (ROW, None, "missing"),
        (Row(True, "", 0, False), None, "same"),
        (Row(True, "", 0, False), INFO, "changed"),
        (Row(False, "", 0, True), INFO, "changed"),
    ],
)
def test_a_row_is_right_or_wrong(row: Row, info: ObjectInfo | None, expected: str) -> None:
    assert verdict(row, info) == expected


@pytest.mark.parametrize(
    ("wrong", "looked_at", "low", "high"),
    [(0, 0, 0, 1), (0, 10, 0, 0.2775), (1, 10, 0.0179, 0.4042), (5, 100, 0.0215, 0.1118), (10, 10, 0.7225, 1)],
)
def test_intervals_are_wilsons(wrong: int, looked_at: int, low: float, high: float) -> None:
    assert wilson(wrong, looked_at) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_rate_lies_within_its_interval(counts: tuple[int, int]) -> None:
    wrong, looked_at = counts
    low, high = wilson(wrong, looked_at)
    assert 0 <= low <= wrong / looked_at <= high <= 1
