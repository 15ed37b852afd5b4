"""`vh vault sync inventory`: rows are staged beside the index by chunks that any process shares, then merged at once.

Nothing of an import is visible before it is whole: the last phase merges it in one transaction. Nothing is left of
one that was refused, cancelled or given up.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgets.access import spent
from indexing import counts, merge, state
from indexing import sql as index_sql
from indexing.ahead import ahead
from indexing.inputs import moment
from indexing.inventory import known, loading, sql
from indexing.inventory.delivery import Delivery, newest, of_file, of_manifest
from indexing.inventory.remote import SCHEME, Remote, location
from indexing.inventory.rows import Skip, Tally
from indexing.inventory.schema import schema_of, split
from indexing.manifest import describe
from indexing.manifest.publish import publish_chunks
from indexing.sql import Changes, Moment
from vaulthalla.console import Console, fields, rfc3339
from vaulthalla.errors import DETACHED, NotFound, Refused, VaulthallaError
from vaulthalla.remedies import sync_of
from vaulthalla.vaults.lookup import api_key_by_name
from vaulthalla.vaults.models import ApiKey, Vault, VaultKind
from vaulthalla.work import doorbell, process
from vaulthalla.work.engine import (
    Lease,
    NewChunk,
    Phase,
    Progress,
    add_chunks,
    attach_or_create,
    drive,
    handler,
    on_sweep,
)
from vaulthalla.work.helpers import spare
from vaulthalla.work.models import TERMINAL, Chunk, Queue, Run, RunKind, RunStatus
from vaulthalla.work.runs import failure_of

if TYPE_CHECKING:
    from indexing.inventory.runs import Clock

# An import that removes more of the index than this, and more than ten rows, needs --replace.
MOST_REMOVED_PERCENT = 10
# As many rows of an inventory for each of the index, and the index is next to nothing beside it.
MOST_BESIDE = 100
OPEN, CHECK, MERGE = "inventory.open", "inventory.check", "inventory.merge"
# What is wrong with the input, told by a run as it would be by a command that reads it itself.
REFUSALS = frozenset(
    {
        "format_unsupported",
        "input_damaged",
        "input_missing",
        "invalid_value",
        "removes_too_much",
        "schema_invalid",
        "schema_missing",
        "too_many_bad_rows",
        "wrong_bucket",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What the options name: exactly one of `file`, `manifest` and `latest`."""

    file: str = ""
    manifest: str = ""
    latest: str = ""
    schema: str = ""
    has_header: bool = False
    as_of: str = ""

    @property
    def name(self) -> str:
        return self.file or self.manifest or self.latest

    @property
    def remote(self) -> bool:
        return self.name.startswith(SCHEME)

    def check(self) -> None:
        """Raises Refused for options that do not go together."""
        if sum(map(bool, (self.file, self.manifest, self.latest))) != 1:
            raise Refused(
                "Give one of --file, --manifest and --latest.",
                code="invalid_value",
                remedy="Add --file inventory.csv.gz",
            )
        if not self.file and (self.schema or self.has_header or self.as_of):
            raise Refused(
                "A manifest tells its own schema and time.",
                code="invalid_value",
                remedy="Leave --schema, --has-header and --as-of out.",
            )
        if self.as_of:
            moment(self.as_of, option="--as-of")
        if self.schema:
            schema_of(split(self.schema), origin="--schema")
        if self.remote and not (location(self.name).key or self.latest):
            raise Refused(f"{self.name} names no object.", code="invalid_value", remedy="Name it like s3://bucket/key")

    def delivery(self, bucket: str) -> Delivery:
        """Of this host. Raises Refused."""
        if self.file:
            path = Path(self.file)
            return of_file(path, schema=self.schema, has_header=self.has_header, as_of=self.as_of)
        return of_manifest(newest(Path(self.latest)) if self.latest else Path(self.manifest), bucket=bucket)

    def delivery_of(self, remote: Remote, bucket: str) -> Delivery:
        """Of a bucket. Raises Refused, Stall."""
        at = location(self.name)
        if self.file:
            options = {"schema": self.schema, "has_header": self.has_header, "as_of": self.as_of}
            return remote.single(at, options)
        return remote.manifest(remote.newest(at.key) if self.latest else at, bucket=bucket)


@dataclass(kw_only=True)
class Import:
    """One delivery for one vault, once its rows are staged in `tables`. `part` narrows it below the vault's prefix."""

    vault: Vault
    as_of: datetime
    tables: Sequence[str] = ()
    part: str = ""
    replace: bool = False
    content: str = ""  # `known.identity`
    tally: Tally = field(default_factory=Tally)
    changes: Changes = field(default_factory=Changes)
    objects: int = 0
    doubtful: int = 0

    def result(self) -> dict[str, Any]:
        skipped = {**self.tally.skipped, **self.tally.bad}
        return {
            "objects_indexed": self.objects,
            "rows_skipped": sum(skipped.values()),
            "skipped": {str(reason): count for reason, count in skipped.items()},
            "first_bad": self.tally.first_bad,
            "as_of": rfc3339(self.as_of),
            "added": self.changes.added,
            "changed": self.changes.changed,
            "removed": self.changes.removed,
            "doubtful": self.doubtful,
            "content": self.content,
        }

    def merge(self) -> None:
        """Under the lock of the vault's index."""
        from indexing.inventory import runs

        moment = index_sql.begin(self.vault.pk)
        clock = runs.Clock(as_of=self.as_of, settled=self.as_of - sql.SETTLED)
        if index_sql.knows_nothing(self.vault.pk, moment):
            with self._rows() as tables:
                rows = runs.copied(tables, clock, vault_id=self.vault.pk, revision=moment.revision)
                self.changes = sql.insert(self.vault.pk, rows)
            self.objects = self.changes.added
        else:
            live = self._live()
            # What goes in before the guard may refuse it all: only where the index is next to nothing.
            straight = self.replace or live * MOST_BESIDE < self.tally.rows
            self._compare(moment, clock, straight=straight)
            self._remove(moment, live)
            for changes in sql.merge(self.vault.pk, moment):
                self.changes += changes
        if twice := self.tally.rows - self.objects - self.tally.bad.total() - self.tally.skipped.total():
            self.tally.skipped[Skip.DUPLICATE] = twice
        if not self.part:
            state.imported(self.vault.pk, as_of=self.as_of, floor=self.as_of - sql.SETTLED)

    @contextmanager
    def _rows(self) -> Iterator[Iterator[Any]]:
        """What was loaded, read and put in order one step ahead of its use.

        To be left before a long statement: the database ends a reader that is idle for a minute.
        """
        from indexing.inventory import runs

        with sql.pieces(self.tables) as pieces, closing(ahead(runs.merged(ahead(pieces)))) as tables:
            yield tables

    def _compare(self, moment: Moment, clock: Clock, *, straight: bool) -> None:
        from indexing.inventory import runs

        comparison = sql.Comparison(self.vault.pk, self.part, moment, straight=straight)
        with self._rows() as tables, closing(ahead(runs.digested(tables, clock))) as blocks:
            for some in blocks:
                self.changes += comparison.add(some)
                self.objects += some.table.num_rows
        comparison.finish()

    def _live(self) -> int:
        """Rows that the inventory speaks of, before it does."""
        if self.part:
            return merge.count_below(self.vault.pk, self.part)
        return state.state_of(self.vault.pk).object_count

    def _remove(self, moment: Moment, live: int) -> None:
        """What the inventory lacks. Rows that nobody could read may be any of them, so then all is doubt."""
        as_of = self.as_of
        certain = not self.tally.bad
        gone, unsure = sql.find_absent(self.vault.pk, moment, as_of=as_of)
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


# --- the chunks


def chunks_of(delivery: Delivery, vault: Vault, options: Mapping[str, Any]) -> list[NewChunk]:
    """What loads a delivery and then merges it. Raises Refused for a local file that is damaged."""
    read = _read(delivery, vault, options)
    loads = loading.load_chunks(delivery, common={**read, "api_key": options["api_key"]})
    wanted = {"as_of": delivery.as_of.isoformat(), "part": options["prefix"], "replace": options["replace"]}
    items = sum(chunk.items for chunk in loads) // 2
    return [*loads, NewChunk(MERGE, Phase.PLAN, Queue.INDEX, payload={**wanted, "read": read}, items=items)]


def _read(delivery: Delivery, vault: Vault, options: Mapping[str, Any]) -> dict[str, Any]:
    """How rows are read, and what for."""
    scope = {"bucket": vault.bucket, "prefix": vault.prefix, "part": options["prefix"]}
    return {"scope": scope, **delivery.reading}


@handler(OPEN)
def open_remote(lease: Lease) -> None:
    """Finds a delivery in a bucket, and adds the chunks that load it if the budget covers all of them."""
    run = lease.load_run()
    source = Source(**run.options["source"])
    key = ApiKey.objects.get(pk=run.options["api_key"])
    remote = Remote(lease, key, location(source.name).bucket)
    delivery = source.delivery_of(remote, _vault(run).bucket)
    same = _same(lease, run, delivery)
    if same is None:
        remote.afford(delivery)
    with lease.commit():
        remote.meter.close()
        _go_on(run, delivery, same)


@handler(CHECK)
def check_local(lease: Lease) -> None:
    """Looks whether a delivery of this host was imported before, now that no other import is under way."""
    run, delivery = lease.load_run(), Delivery.of(lease.payload)
    same = _same(lease, run, delivery)
    with lease.commit():
        _go_on(run, delivery, same)


def _same(lease: Lease, run: Run, delivery: Delivery) -> Run | None:
    """The import of the same delivery after which nothing of it would be news; `--replace` reads it all the same."""
    vault, options = _vault(run), run.options
    if options["replace"]:
        return None
    return known.import_of(vault, delivery, _read(delivery, vault, options), lease.keep)


def _go_on(run: Run, delivery: Delivery, same: Run | None) -> None:
    if same is None:
        add_chunks(run.pk, chunks_of(delivery, _vault(run), run.options))
    else:
        Run.objects.filter(pk=run.pk).update(result=known.told_again(same))


@handler(MERGE)
def merge_staged(lease: Lease) -> None:
    """The one transaction that makes an import visible. Raises Refused; then the index is as it was."""
    if lease.cursor:
        # Whoever made it so died before the chunk had ended; what it told of the changes stands.
        return
    job = _staged(lease)
    job.tally.check()
    with lease.commit(cursor={"merged": True}) as checkpoint:
        job.merge()
        Run.objects.filter(pk=lease.run_id).update(result=job.result())
        checkpoint.items_done = Chunk.objects.values_list("items_total", flat=True).get(pk=lease.chunk_id)


def _staged(lease: Lease) -> Import:
    """What the chunks before have loaded."""
    wanted = lease.payload
    job = Import(
        vault=_vault(lease.load_run()),
        as_of=datetime.fromisoformat(wanted["as_of"]),
        part=wanted["part"],
        replace=wanted["replace"],
    )
    done = Chunk.objects.filter(run_id=lease.run_id, kind=loading.KIND).order_by("ordinal")
    loaded = [cursor for cursor in done.values_list("cursor", flat=True) if cursor]
    for part in loaded:
        job.tally += Tally.of(part["tally"])
    job.tables = [part["table"] for part in loaded if part["loaded"]]
    md5s = [md5 for part in loaded for md5 in part["md5s"]]
    job.content = known.identity(wanted["read"], wanted["as_of"], md5s)
    if not all(map(sql.is_whole, job.tables)):
        raise VaulthallaError(
            "The database was restarted after a crash, and lost the rows that were staged.",
            code="staging_lost",
            remedy="Run the same command again.",
        )
    return job


@handler("finish.inventory")
def finish(lease: Lease) -> None:
    """Drops what was staged, whatever came of the run; counts the rows anew where it was merged."""
    for run_id, table in sql.staged():
        if run_id == lease.run_id:
            sql.drop(table)
    run = lease.load_run()
    if run.vault_id is not None and "objects_indexed" in run.result and "known_from" not in run.result:
        counts.count(run.vault_id)


@on_sweep
def drop_stale() -> None:
    """Tables of runs that are over: of a process that lost its lease, or of a run whose row is gone."""
    found = sql.staged()
    if not found:
        return
    running = set(Run.objects.exclude(status__in=TERMINAL).values_list("pk", flat=True))
    for run_id, table in found:
        if run_id not in running:
            sql.drop(table)


def _vault(run: Run) -> Vault:
    if run.vault is None:
        raise AssertionError("an import without a vault")
    return run.vault


# --- the command


def check(vault: Vault, *, prefix: str) -> None:
    """Raises Refused for what no inventory tells about."""
    if vault.kind == VaultKind.LOCAL:
        raise Refused(
            f"{vault.name} is a local vault: inventories are for S3; a second directory is read by every sync.",
            code="s3_only",
            remedy=sync_of(vault.name),
        )
    if not merge.storable(prefix):
        raise Refused("A prefix is text without NUL.", code="invalid_value", remedy="Correct --prefix.")


def start_import(vault: Vault, source: Source, *, part: str = "", replace: bool = False, api_key: str = "") -> Run:
    """The run, after a listing or another import that is in the way; the same import under way is gone on with.

    Raises Refused, for a delivery on this host without a run.
    """
    source.check()
    check(vault, prefix=part)
    key = api_key_by_name(api_key) if api_key else vault.api_key
    if key is None:
        raise NotFound(f"{vault.name} has no API key.")
    delivery = None if source.remote else source.delivery(vault.bucket)
    options: dict[str, Any] = {
        "source": {name: getattr(source, name) for name in Source.__dataclass_fields__},
        "prefix": part,
        "replace": replace,
        "api_key": key.pk,
    }
    if delivery is None:
        chunks = [NewChunk(OPEN, Phase.PREPARE, Queue.INDEX)]
    else:
        options |= {"files": [file.name for file in delivery.files][:100], "as_of": rfc3339(delivery.as_of)}
        if replace or known.last_import(vault, delivery) is None:
            chunks = chunks_of(delivery, vault, options)
        else:
            pool = process.host_pool()
            chunks = [NewChunk(CHECK, Phase.PREPARE, Queue.INDEX, payload=delivery.as_json(), pool=pool)]
    chunks += publish_chunks(vault)
    return attach_or_create(vault, RunKind.INVENTORY, options=options, chunks=chunks)


def command(console: Console, vault: Vault, run: Run, *, detach: bool) -> int:
    """Works on the run to its end, beside any workers, and prints what came of it."""
    leave = f"Detached from run {run.pk}: workers of this host go on with it, or the same command does."
    if detach:
        doorbell.flush()
        console.result({"run": str(run.pk), "vault": vault.name, "status": run.status}, leave)
        return 0
    with console.progress("Inventory") as bar:

        def show(now: Progress) -> None:
            bar.update(done=now.items_done, total=max(now.items_total, now.items_done) or None)

        run = drive(run.pk, on_progress=show if sys.stderr.isatty() else None, helpers=spare())
    if run.status not in TERMINAL:
        console.message(leave)
        return DETACHED
    if run.status != RunStatus.SUCCESS:
        raise _failure(run)
    if first := run.result.get("known_from"):
        console.message(f"Run {first} has imported the same files: they were not read again.")
    for place in run.result["first_bad"]:
        console.message(f"Not used: {place}")
    for text in describe.warnings(run):
        console.message(f"Warning: {text}")
    console.result(result_json(vault, run), result_text)
    return 0


def _failure(run: Run) -> VaulthallaError:
    """Whatever is wrong with the input is refused, whichever process has found it."""
    error = failure_of(run)
    if error.code in REFUSALS:
        return Refused(error.message, code=error.code, remedy=error.remedy)
    return error


def result_json(vault: Vault, run: Run) -> dict[str, Any]:
    names = ("objects_indexed", "added", "changed", "removed", "doubtful", "rows_skipped", "skipped", "as_of")
    counts = {name: run.result[name] for name in names}
    first = run.result.get("known_from")
    known_from = None if first is None else str(first)
    return {
        "run": str(run.pk),
        "vault": vault.name,
        **counts,
        "known_from": known_from,
        "requests": spent(run.pk).as_json(),
        "warnings": describe.warnings(run),
    }


def result_text(value: dict[str, Any]) -> str:
    lines = [("Vault", value["vault"]), ("Objects indexed", value["objects_indexed"])]
    lines += [(name.capitalize(), value[name]) for name in ("added", "changed", "removed", "doubtful")]
    lines += [(f"Skipped: {reason.replace('_', ' ')}", count) for reason, count in value["skipped"].items()]
    lines.append(("As of", value["as_of"]))
    return fields(lines)
