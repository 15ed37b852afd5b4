"""Rows as an import stages them."""

from __future__ import annotations

from collections.abc import Sequence

from indexing.inventory.csvs import Csv
from indexing.inventory.rows import Scope, Tally
from indexing.inventory.runs import Piece, sorted_run
from indexing.inventory.schema import schema_of, split
from tests.support.deliveries import SCHEMA, csv_bytes


def pieces_of(*rows: Sequence[str], bucket: str = "bucket") -> list[Piece]:
    """One sorted run of rows in the columns of `deliveries.SCHEMA`."""
    schema = schema_of(split(SCHEMA), origin="tests")
    source = Csv(name="tests", scope=Scope(bucket=bucket), tally=Tally(), schema=schema)
    return sorted_run(list(source.tables(iter([csv_bytes(rows)]))))
