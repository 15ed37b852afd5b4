"""The engine's public names: what the layers above import.

How a job is cut, shared, resumed and closed is in `runs` (runs and phases), `lease` (the right to work on a
chunk), `execute` (claims and outcomes), `sweep` (what died) and `drive` (working on one run to its end).
"""

from __future__ import annotations

from vaulthalla.work.drive import attach_or_create, drive, make_way, progress, run_inline
from vaulthalla.work.execute import claim, execute
from vaulthalla.work.lease import Lease
from vaulthalla.work.phases import Phase
from vaulthalla.work.registry import handler, on_run_created, on_run_finished, on_sweep
from vaulthalla.work.runs import (
    active_run,
    add_chunks,
    create_run,
    record_error,
    record_stall,
    request_cancel,
    skip_unfinished,
)
from vaulthalla.work.sweep import sweep
from vaulthalla.work.values import Busy, LeaseLost, NewChunk, Progress, RunCancelled, SweepReport, Yield

__all__ = [
    "Busy",
    "Lease",
    "LeaseLost",
    "NewChunk",
    "Phase",
    "Progress",
    "RunCancelled",
    "SweepReport",
    "Yield",
    "active_run",
    "add_chunks",
    "attach_or_create",
    "claim",
    "create_run",
    "drive",
    "execute",
    "handler",
    "make_way",
    "on_run_created",
    "on_run_finished",
    "on_sweep",
    "progress",
    "record_error",
    "record_stall",
    "request_cancel",
    "run_inline",
    "skip_unfinished",
    "sweep",
]
