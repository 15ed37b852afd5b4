"""Cuts a plan into chunks by the time they will take, transfers before deletes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sync import sql
from sync.decide import DELETES
from vaulthalla.vaults.models import Vault
from vaulthalla.work.engine import NewChunk, add_chunks
from vaulthalla.work.models import Queue, Run
from vaulthalla.work.phases import Phase

# What one operation takes beside its bytes, and how fast bytes move: rough, since a chunk that takes
# longer is released at its deadline and goes on later.
OPERATION_SECONDS = 0.004
BYTES_PER_SECOND = 60 * 2**20
LONGEST_SECONDS = 8.0
# A plan is cut into at least this many pieces, so that every process has something to do.
SHARES = 16
SHORTEST_SECONDS = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Operations of one chunk: ordinals from `first` to `last`, `items` of them."""

    first: int
    last: int
    items: int


def seconds(size: int) -> float:
    return OPERATION_SECONDS + size / BYTES_PER_SECOND


def pieces(operations: Iterable[tuple[int, int]], *, longest: float) -> Iterator[Piece]:
    """Cuts (ordinal, size) in ordinal order so that no piece of several operations exceeds `longest` seconds."""
    first, last, items, spent = -1, -1, 0, 0.0
    for ordinal, size in operations:
        if items and spent + seconds(size) > longest:
            yield Piece(first=first, last=last, items=items)
            items, spent = 0, 0.0
        if not items:
            first = ordinal
        last, items, spent = ordinal, items + 1, spent + seconds(size)
    if items:
        yield Piece(first=first, last=last, items=items)


def cut(run: Run, vault: Vault) -> None:
    """Chunks for every operation that may run; inside the planner's last transaction."""
    deletes = [action.value for action in DELETES]
    for phase, kind, condition in (
        (Phase.TRANSFER, "sync.transfer", "action <> ALL(%s)"),
        (Phase.DELETE, "sync.delete", "action = ANY(%s)"),
    ):
        moves = phase is Phase.TRANSFER
        number, size = sql.pending_totals(run.pk, condition, deletes)
        total = number * OPERATION_SECONDS + (size / BYTES_PER_SECOND if moves else 0)
        longest = min(LONGEST_SECONDS, max(SHORTEST_SECONDS, total / SHARES))
        weighed = ((o, size if moves else 0) for o, size in sql.pending(run.pk, condition, deletes))
        add_chunks(
            run.pk,
            [
                NewChunk(
                    kind=kind,
                    phase=phase,
                    queue=Queue.TRANSFER,
                    payload={"first": piece.first, "last": piece.last},
                    pool=vault.pool,
                    items=piece.items,
                )
                for piece in pieces(weighed, longest=longest)
            ],
        )
