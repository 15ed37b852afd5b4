"""python -m tests.bench.scanning VAULT FILES: scans of a vault's tree, through the chunk engine as in a sync.

The first one fills the tables, the next ones find nothing changed. Prints {"first", "again" (seconds, the best
of three), "files"}. Fails where the rows are not those of FILES files."""

from __future__ import annotations

import json
import sys
import time

from vaulthalla.startup import setup

REPEATS = 3


def main(name: str, files: int) -> None:
    setup()
    first = _scan(name)
    again = min(_scan(name) for _ in range(REPEATS))
    found = _rows(name)
    if found != files:
        raise SystemExit(f"The scan knows {found} files; there are {files}.")
    print(json.dumps({"first": first, "again": again, "files": found}))


def _scan(name: str) -> float:
    from vaulthalla.vaults.models import Vault
    from vaulthalla.work import registry
    from vaulthalla.work.engine import NewChunk, Phase, claim, create_run, execute
    from vaulthalla.work.models import Queue, Run, RunKind, RunStatus

    registry.load()
    vault = Vault.objects.get(name=name)
    run = create_run(vault, RunKind.DRY_RUN, chunks=[NewChunk("sync.scan", Phase.SCAN, Queue.TRANSFER)])
    started = time.perf_counter()
    while (lease := claim(Queue.values, run_id=run.pk)) is not None:
        execute(lease)
    taken = time.perf_counter() - started
    run = Run.objects.get(pk=run.pk)
    if run.status != RunStatus.SUCCESS:
        raise SystemExit(f"The scan ended {run.status}: {run.error_message}")
    return taken


def _rows(name: str) -> int:
    from sync.models import LocalFile

    return LocalFile.objects.filter(vault__name=name).count()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
