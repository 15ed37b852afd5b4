"""What an import sorts by itself: of any rows in any runs, every key once, in order, with its newest row."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexing.inventory import runs
from indexing.inventory.batches import KEPT

AS_OF = datetime(2026, 11, 20, tzinfo=UTC)
CLOCK = runs.Clock(as_of=AS_OF, settled=AS_OF - timedelta(hours=48))
times = st.one_of(st.none(), st.integers(0, 3).map(lambda day: AS_OF - timedelta(days=day)))
rows = st.lists(st.tuples(st.sampled_from(["a", "b", "é", "\U0001f389", "z/1", "z/", "\uffff"]), times), max_size=30)


def table(found: list[tuple[str, datetime | None]]) -> Any:
    columns = [
        [key for key, _ in found],
        *([value] * len(found) for value in ("e", "STANDARD", "", "", 5)),
        [time for _, time in found],
    ]
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, KEPT, strict=True)], KEPT)


@settings(deadline=None)
@given(st.lists(st.lists(rows, max_size=3), max_size=4), st.sampled_from([1, 200, 10_000]))
def test_every_key_once_in_order_with_its_newest_row(
    batches: list[list[list[tuple[str, datetime | None]]]], size: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "PIECE_BYTES", size)
        patch.setattr(runs, "RUN_BYTES", 4 * size)
        patch.setattr(runs, "MERGED_BYTES", size)
        loads = [runs.sorted_runs(map(table, load)) for load in batches]
        pieces = sorted((piece for load in loads for run in load for piece in run), key=lambda piece: piece[0].encode())
        merged = list(runs.merged(pieces))
    found = [
        pair for part in merged for pair in zip(part["key"].to_pylist(), part["last_modified"].to_pylist(), strict=True)
    ]
    newest: dict[str, datetime | None] = {}
    for key, time in (row for load in batches for batch in load for row in batch):
        known = newest.get(key)
        newest[key] = time if known is None or (time is not None and time > known) else known
    assert found == sorted(newest.items(), key=lambda pair: pair[0].encode())


def test_rows_of_one_key_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MERGED_BYTES", 1)
    held: list[int] = []
    together = runs._sorted

    def noting(tables: Any) -> Any:
        held.append(sum(one.num_rows for one in tables))
        return together(tables)

    pieces = [piece for _ in range(50) for piece in runs.sorted_run([table([("same", None)] * 20)])]
    monkeypatch.setattr(runs, "_sorted", noting)
    (found,) = runs.merged(pieces)
    assert (found.num_rows, max(held)) == (1, 21)


def test_blocks_follow_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "ROWS_A_DIGEST", 2)
    tables = [table([("a", None), ("b", None), ("c", None)]), table([("d", AS_OF)])]
    first, second = runs.digested(tables, CLOCK)
    assert (first.spans, second.spans) == ([("", "b"), ("b", "c")], [("c", "d")])
    assert len({*first.digests, *second.digests}) == 3
    assert first.told == frozenset()


def test_when_a_row_counts_as_seen() -> None:
    days = [("long ago", 9), ("yesterday", 1), ("later", -1)]
    found = table([(key, AS_OF - timedelta(days=day)) for key, day in days] + [("unknown", None)])
    seen = CLOCK.observed(found).cast(pa.timestamp("us", "UTC")).to_pylist()
    assert seen == [CLOCK.settled, AS_OF - timedelta(days=1), AS_OF, CLOCK.settled]


@pytest.mark.parametrize("length", [0, 1, 2047, 2048, 100_000])
def test_texts_of_any_length(length: int) -> None:
    odd = table([("a", None), ("b", None)]).set_column(1, "etag", pa.array(["x" * length, "y"]))
    (copied,) = runs.copied([odd], CLOCK, vault_id=1, revision=2)
    assert copied.body.count(length.to_bytes(4, "big") + b"x" * length)
    assert (copied.rows, copied.size) == (2, 10)
