"""What crosses the boundary of the engine: new chunks, outcomes, reports, and its exceptions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vaulthalla.errors import Refused
from vaulthalla.work.models import Queue
from vaulthalla.work.phases import Phase


@dataclass(frozen=True, slots=True)
class NewChunk:
    """A chunk to be. `items` is what progress counts towards; `pool` empty: any process may claim it."""

    kind: str
    phase: Phase
    queue: Queue
    payload: Mapping[str, Any] = field(default_factory=dict)
    pool: str = ""
    items: int = 0


@dataclass(frozen=True, slots=True)
class Yield:
    """A handler's answer when time is up: go on from `cursor`, at the earliest in `delay` seconds."""

    cursor: Any
    delay: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is. Totals grow while it plans."""

    run_id: int
    phase: int
    chunks_done: int
    chunks_total: int
    items_done: int
    items_total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepReport:
    """What one sweep found: leases taken back, chunks given up, runs moved on, queues with work to claim."""

    retaken: int = 0
    failed: int = 0
    advanced: int = 0
    promoted: int = 0
    ringing: Mapping[str, int] = field(default_factory=dict)


class LeaseLost(Exception):
    """The chunk belongs to another process now; nothing of this transaction is kept."""


class RunCancelled(Exception):
    """The operator cancelled the run; the handler stops what it can and leaves."""


class Busy(Refused):
    """Another run of the vault is in the way. `run_id` is that run."""

    code = "busy"

    def __init__(self, message: str, *, run_id: int, remedy: str) -> None:
        super().__init__(message, remedy=remedy)
        self.run_id = run_id
