"""What a run noted of single keys, read back for its `--list` in constant memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from indexing import sql
from indexing.models import Finding
from vaulthalla.work.models import Run

PAGE = 1_000


def noted(run_id: int, changes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The keys of these changes in order, with the size that the index holds now (removed: none)."""
    after = ""
    while True:
        rows = sql.findings(run_id, changes, after=after, limit=PAGE)
        yield from ({"change": change, "key": key, "bytes": size} for key, change, size in rows)
        if len(rows) < PAGE:
            return
        after = rows[-1][0]


def forget_others(run: Run) -> None:
    """Of each vault only the newest findings are kept."""
    others = Run.objects.filter(vault=run.vault, kind=run.kind).exclude(pk=run.pk)
    Finding.objects.filter(run_id__in=others.values("pk")).delete()
