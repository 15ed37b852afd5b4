"""Stopping runs by hand."""

from __future__ import annotations

from shlex import quote

from vaulthalla.errors import NotFound
from vaulthalla.vaults.lookup import row_id
from vaulthalla.vaults.models import Vault
from vaulthalla.work.engine import drive, request_cancel
from vaulthalla.work.models import TERMINAL, Chunk, ChunkStatus, Run


def cancel_runs(vault: Vault, run_id: str | None) -> list[Run]:
    """Asks the vault's unfinished runs (or the one named) to stop; runs nobody works on end at once."""
    runs = Run.objects.filter(vault=vault).exclude(status__in=TERMINAL).order_by("-id")
    if run_id is not None:
        runs = runs.filter(pk=row_id(run_id))
        if not runs.exists():
            raise NotFound(
                f"Vault {vault.name!r} has no unfinished run {run_id!r}.",
                remedy=f"`vh vault sync history {quote(vault.name)}` lists its runs.",
            )
    return [_cancel(run) for run in runs]


def _cancel(run: Run) -> Run:
    cancelled = request_cancel(run.pk)
    busy = Chunk.objects.filter(run=run, status=ChunkStatus.RUNNING).exists()
    if cancelled.status in TERMINAL or busy:
        return cancelled
    return drive(run.pk)
