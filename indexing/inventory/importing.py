"""`vh vault sync inventory`: rows are loaded beside the index, then merged in one transaction. Sends no request.

Nothing of an import is visible before it is whole, and nothing is left of one that was refused or interrupted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from pathlib import Path
from shlex import quote
from typing import Any

from budgets.access import spent
from indexing import merge, state
from indexing import sql as index_sql
from indexing.events.sql import patiently
from indexing.inventory import sql
from indexing.inventory.delivery import Delivery, Progress, of_file, of_manifest, reading
from indexing.inventory.rows import Csv, Scope, Skip, Tally
from indexing.manifest.publish import publish_chunks
from indexing.sql import Changes, Moment
from vaulthalla.console import Console, fields, rfc3339
from vaulthalla.errors import Refused
from vaulthalla.vaults.models import Vault, VaultKind
from vaulthalla.work.engine import Busy, Lease, drive, run_inline
from vaulthalla.work.models import Run, RunKind

# Blocks of rows in one COPY; between two the lease is kept.
BLOCKS = 20
PATIENCE = timedelta(minutes=5)
# An import that removes more of the index than this, and more than ten rows, needs --replace.
MOST_REMOVED_PERCENT = 10

Show = Callable[[int, int], None]


@dataclass(kw_only=True)
class Import:
    """One delivery for one vault. `part` narrows it below the vault's prefix."""

    vault: Vault
    delivery: Delivery
    part: str = ""
    replace: bool = False
    show: Show | None = None
    tally: Tally = field(default_factory=Tally)
    changes: Changes = field(default_factory=Changes)
    objects: int = 0
    doubtful: int = 0

    def work(self, lease: Lease) -> None:
        """The whole import, as the one chunk of its run."""
        sql.prepare()
        try:
            self._load(lease)
            self.tally.check()
            with lease.commit():
                patiently(PATIENCE)
                self._merge()
                Run.objects.filter(pk=lease.run_id).update(result=self.result())
        finally:
            sql.drop()

    def result(self) -> dict[str, Any]:
        skipped = {**self.tally.skipped, **self.tally.bad}
        return {
            "objects_indexed": self.objects,
            "rows_skipped": sum(skipped.values()),
            "skipped": {str(reason): count for reason, count in skipped.items()},
            "first_bad": self.tally.first_bad,
            "as_of": rfc3339(self.delivery.as_of),
            "added": self.changes.added,
            "changed": self.changes.changed,
            "removed": self.changes.removed,
            "doubtful": self.doubtful,
        }

    def _load(self, lease: Lease) -> None:
        progress = Progress(self.delivery.bytes)
        scope = Scope(bucket=self.vault.bucket, prefix=self.vault.prefix, part=self.part)
        for file in self.delivery.files:
            source = Csv(
                name=file.name,
                scope=scope,
                tally=self.tally,
                schema=self.delivery.schema,
                has_header=self.delivery.has_header,
            )
            with reading(file, progress) as text:
                blocks = source.blocks(text)
                while some := list(islice(blocks, BLOCKS)):
                    sql.load(some)
                    lease.keep()
                    if self.show:
                        self.show(progress.done, progress.total)

    def _merge(self) -> None:
        """Under the lock of the vault's index, but for the sorting where there is something to merge with."""
        as_of = self.delivery.as_of
        if sql.has_rows(self.vault.pk):
            self.objects = sql.order(as_of)
        moment = index_sql.begin(self.vault.pk)
        if self._first(moment):
            self.changes = sql.insert(self.vault.pk, moment, as_of)
            self.objects = self.changes.added
        else:
            self.objects = self.objects or sql.order(as_of)
            self._remove(moment)
            for changes in sql.merge(self.vault.pk, moment):
                self.changes += changes
        if twice := self.tally.rows - self.objects - self.tally.bad.total() - self.tally.skipped.total():
            self.tally.skipped[Skip.DUPLICATE] = twice
        if not self.part:
            state.imported(self.vault.pk, as_of=as_of, floor=as_of - sql.SETTLED)

    def _first(self, moment: Moment) -> bool:
        """Whether nothing is known yet, not even that something is absent."""
        unknown = moment.snapshot_as_of is None and moment.scan_started_at is None
        return unknown and not sql.has_rows(self.vault.pk)

    def _remove(self, moment: Moment) -> None:
        """What the inventory lacks. Rows that nobody could read may be any of them, so then all is doubt."""
        as_of = self.delivery.as_of
        live = merge.count_below(self.vault.pk, self.part)
        certain = not self.tally.bad
        gone, unsure = sql.find_absent(self.vault.pk, moment, as_of=as_of, part=self.part)
        if gone > 10 and gone * 100 > live * MOST_REMOVED_PERCENT and not self.replace:
            raise Refused(
                f"{gone} of {live} indexed objects are not in this inventory, which is more than"
                f" {MOST_REMOVED_PERCENT} %. Is it whole, and of the right bucket and prefix?",
                code="removes_too_much",
                remedy="If it is right, add --replace; if it covers a part only, add --prefix.",
            )
        removed = sql.remove(self.vault.pk, moment, as_of=as_of, certain=certain)
        self.changes += Changes(removed=removed)
        self.doubtful = unsure + gone - removed


def check(vault: Vault, *, prefix: str) -> None:
    """Raises Refused for what no inventory tells about."""
    if vault.kind == VaultKind.LOCAL:
        raise Refused(
            f"{vault.name} is a local vault: inventories are for S3; a second directory is read by every sync.",
            code="s3_only",
            remedy=f"vh vault sync {quote(vault.name)}",
        )
    if not merge.storable(prefix):
        raise Refused("A prefix is text without NUL.", code="invalid_value", remedy="Correct --prefix.")


def delivery_of(
    vault: Vault, *, file: str, manifest: str, schema: str = "", has_header: bool = False, as_of: str = ""
) -> Delivery:
    """What the options name. Raises Refused."""
    if bool(file) == bool(manifest):
        raise Refused("Give either --file or --manifest.", code="invalid_value", remedy="Add --file inventory.csv")
    for name in (file, manifest):
        if name.startswith("s3://"):
            remedy = "Fetch the delivery first (aws s3 sync), then name the local file."
            raise Refused(f"{name} is not on this host.", code="input_missing", remedy=remedy)
    if file:
        return of_file(Path(file), schema=schema, has_header=has_header, as_of=as_of)
    if schema or has_header or as_of:
        raise Refused(
            "A manifest tells its own schema and time.",
            code="invalid_value",
            remedy="Leave --schema, --has-header and --as-of out.",
        )
    return of_manifest(Path(manifest), bucket=vault.bucket)


def run_import(job: Import) -> Run:
    """The run, after a listing or another import that is in the way. Raises Refused; then the index is as it was."""
    options = {
        "files": [file.name for file in job.delivery.files][:100],
        "as_of": rfc3339(job.delivery.as_of),
        "prefix": job.part,
        "replace": job.replace,
    }
    while True:
        try:
            then = publish_chunks(job.vault)
            return run_inline(job.vault, RunKind.INVENTORY, job.work, options=options, then=then)
        except Busy as busy:
            if not busy.run_id:
                raise
            drive(busy.run_id)


def command(console: Console, job: Import) -> int:
    """Runs it, shows how far it is, and prints what came of it."""
    check(job.vault, prefix=job.part)
    with console.progress("Inventory") as bar:
        job.show = lambda done, total: bar.update(done=done, total=total)
        run = run_import(job)
    for place in run.result["first_bad"]:
        console.message(f"Not used: {place}")
    console.result(result_json(job.vault, run), result_text)
    return 0


def result_json(vault: Vault, run: Run) -> dict[str, Any]:
    names = ("objects_indexed", "added", "changed", "removed", "doubtful", "rows_skipped", "skipped", "as_of")
    counts = {name: run.result[name] for name in names}
    return {"run": str(run.pk), "vault": vault.name, **counts, "requests": spent(run.pk).as_json()}


def result_text(value: dict[str, Any]) -> str:
    lines = [("Vault", value["vault"]), ("Objects indexed", value["objects_indexed"])]
    lines += [(name.capitalize(), value[name]) for name in ("added", "changed", "removed", "doubtful")]
    lines += [(f"Skipped: {reason.replace('_', ' ')}", count) for reason, count in value["skipped"].items()]
    lines.append(("As of", value["as_of"]))
    return fields(lines)
