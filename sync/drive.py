"""A command's part in a run: start it, work on it to its end, tell what came of it."""

from __future__ import annotations

import sys

from sync.options import SyncOptions
from sync.report import run_json, run_text
from sync.start import start
from vaulthalla.console import Console
from vaulthalla.errors import DETACHED
from vaulthalla.remedies import sync_of
from vaulthalla.vaults.models import Vault
from vaulthalla.work import doorbell
from vaulthalla.work.engine import Phase, Progress, drive, request_cancel
from vaulthalla.work.helpers import spare
from vaulthalla.work.models import TERMINAL, Run, RunKind, RunStatus
from vaulthalla.work.runs import failure_of

EXIT = {RunStatus.SUCCESS: 0, RunStatus.FAILED: 1, RunStatus.STALLED: 3, RunStatus.CANCELLED: 1}
LABELS = {
    Phase.PREPARE: "Looking at the index",
    Phase.SCAN: "Scanning",
    Phase.HASH: "Hashing",
    Phase.PLAN: "Planning",
    Phase.TRANSFER: "Transferring",
    Phase.DELETE: "Deleting",
    Phase.FINISH: "Finishing",
}


def drive_to_end(console: Console, vault: Vault, kind: RunKind, options: SyncOptions, *, detach: bool = False) -> int:
    """The exit code of the run. Ctrl-C leaves it to the workers, or to the next command."""
    with console.progress("Starting") as bar:

        def show(now: Progress) -> None:
            bar.update(done=now.items_done, total=now.items_total or None, label=LABELS.get(Phase(now.phase), ""))

        run = start(vault, kind, options, on_progress=show)
        if detach:
            return _detached(console, run)
        run = drive(run.pk, on_progress=show if _is_watched() else None, helpers=spare())
    found = run_json(run)
    console.result(found, run_text)
    for text in found["warnings"]:
        console.message(f"Warning: {text}")
    if run.status in TERMINAL:
        return EXIT[RunStatus(run.status)]
    console.message(f"Detached from run {run.pk}: workers go on with it, or the next `{sync_of(vault.name)}` does.")
    return DETACHED


def drive_dry_run(
    console: Console,
    vault: Vault,
    *,
    listed: bool,
    refresh_index: bool,
    strategy: str | None,
    conflict: str | None,
    pricing: bool = True,
) -> int:
    """Plans and shows the plan. Over budget is still exit 0; what kept it from planning is an error."""
    from sync.dry_run import dry_run_json, dry_run_text, planned_operations, start_dry_run

    with console.progress("Planning"):
        run = start_dry_run(vault, refresh_index=refresh_index, strategy=strategy, conflict=conflict)
        run = drive(run.pk)
        if run.status not in TERMINAL:
            request_cancel(run.pk)
            return DETACHED
    if run.status != RunStatus.SUCCESS:
        raise failure_of(run)
    if listed:
        for operation in planned_operations(run):
            console.line(operation)
    else:
        console.result(dry_run_json(run, vault, pricing=pricing), dry_run_text)
    return 0


def _detached(console: Console, run: Run) -> int:
    doorbell.flush()
    console.result(run_json(run), f"Run {run.pk} is {run.status}; `vh vault sync history` shows what came of it.")
    return 0


def _is_watched() -> bool:
    return sys.stderr.isatty()
