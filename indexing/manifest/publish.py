"""Publishing what the manifest lacks: one object of rows and the root, whatever the size of the bucket.

The chunk `manifest.publish` comes last in every run that may change an index. What it cannot publish stays unpublished
by the index's own revisions, and the next run publishes it. Between the objects of rows and the root nobody sees
anything new, so a process may die anywhere: what it sent is remembered, retired, and deleted a week later.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import md5, sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

from budgets import access
from budgets.access import ChunkMeter, Draw
from indexing import state
from indexing.ahead import ahead
from indexing.manifest import refresh as refreshing
from indexing.manifest import sql
from indexing.manifest.format import (
    FOLDER,
    MOST_DELTAS,
    MOST_RETIRED,
    ROOT,
    Entry,
    Pack,
    Retired,
    Root,
    Row,
    Unusable,
    as_json,
    encode_root,
)
from indexing.manifest.helpers import Helpers
from indexing.manifest.refresh import Look, News
from indexing.manifest.sql import Snapshot
from indexing.manifest.state import (
    differs,
    publish_needs,
    refresh_needs,
    retired_due,
    root_of,
    shards_due,
    writer_of,
)
from indexing.models import IndexState
from vaulthalla.errors import Stall, StallCode
from vaulthalla.remedies import sync_of
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.stores.base import (
    Condition,
    Content,
    MeterRefused,
    ObjectMissing,
    PreconditionFailed,
    StoreError,
    Written,
    costs,
)
from vaulthalla.vaults.models import Vault, VaultKind
from vaulthalla.work.engine import Lease, NewChunk, Phase, handler, record_stall
from vaulthalla.work.models import Queue, Run

KIND = "manifest.publish"
MOST_RETRIES = 3
# A delta that would be one too many takes over what all deltas before it say.
DELTAS_FOLDED_AT = MOST_DELTAS // 2


def publish_chunks(vault: Vault) -> list[NewChunk]:
    """What publishes after any run that changed the index of a vault; nothing for a second directory."""
    return [NewChunk(KIND, Phase.PUBLISH, Queue.INDEX)] if vault.kind == VaultKind.S3 else []


@dataclass(kw_only=True)
class Draft:
    """A manifest to be, and the objects it needs that are not in the bucket yet."""

    revision: int
    base: int
    root: Root
    bodies: list[tuple[Entry, Path, bytes]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)


@handler(KIND)
def publish(lease: Lease) -> None:
    """Publishes what changed, if anything did. Never fails a run: what is not published now is so later."""
    run = lease.load_run()
    vault = run.vault
    if vault is None or vault.kind != VaultKind.S3 or run.options.get("sync", {}).get("offline"):
        return
    meter = ChunkMeter(lease)
    publisher = Publisher(lease, vault, meter)
    try:
        outcome = publisher.run()
    except MeterRefused as refused:
        if refused.request_class is None:
            raise lease.lost() from refused
        outcome = publisher.short(refused.request_class)
    except (StoreError, Unusable) as error:
        outcome = {"published": False, "reason": f"{error.code}: {error}"}
    with lease.commit():
        meter.settle()
        if outcome:
            found = Run.objects.select_for_update(no_key=True).get(pk=run.pk)
            found.result = {**found.result, "manifest": outcome}
            found.save(update_fields=["result"])


class Publisher:
    """One lease's attempt to bring the manifest up to the index."""

    def __init__(self, lease: Lease, vault: Vault, meter: ChunkMeter) -> None:
        self.lease, self.vault, self.meter = lease, vault, meter
        self.store = access.open_store(vault, meter)

    def run(self) -> dict[str, Any] | None:
        """What came of it, for the run's result; None when there was nothing to publish."""
        for _ in range(1 + MOST_RETRIES):
            with tempfile.TemporaryDirectory(prefix="vaulthalla-manifest-") as folder:
                known = state.state_of(self.vault.pk)
                draft = self._drafted(known, Path(folder))
                if draft is None:
                    return None
                if isinstance(draft, RequestClass):
                    return self.short(draft)
                written = self._sent(draft, known)
            if written is not None:
                return self._kept(draft, written)
            look = self._caught_up(known)
            if look is not None and look.news is News.SHORT:
                return self.short(look.short or RequestClass.GET)
            if look is not None and look.news is News.UNREACHED:
                return {"published": False, "reason": look.reason}
        record_stall(self.lease.run_id, self._conflict())
        return {"published": False, "reason": StallCode.MANIFEST_CONFLICT.value}

    def short(self, request_class: RequestClass) -> dict[str, Any]:
        """That a limit of requests or of money kept it from being published, and what would have let it be."""
        run, allowed, now = self.lease.load_run(), access.limits(self.lease.run_id), datetime.now(UTC)
        planned = Requests({c: run.result.get("requests", {}).get(c.value, 0) for c in RequestClass})
        if not planned.total():
            planned = publish_needs(self.vault, access.UNLIMITED, now=now, changes=True)
        told = publish_needs(self.vault, allowed, now=now, changes=True)
        anew = Requests.summed((refresh_needs(self.vault, allowed), told))
        stall = access.budget_stall(run.pk, request_class, planned=planned, anew=anew)
        return {"published": False, "reason": stall.code, "remedy": stall.remedy}

    def _conflict(self) -> Stall:
        return Stall(
            StallCode.MANIFEST_CONFLICT,
            f"Other writers changed the manifest of {self.vault.name} {1 + MOST_RETRIES} times in a row. What this run"
            " did is done; the manifest lacks it until the next one.",
            remedy=sync_of(self.vault.name),
        )

    # --- what there is to say

    def _drafted(self, known: IndexState, folder: Path) -> Draft | RequestClass | None:
        """The next manifest with its objects as files; None when there is nothing new, what is short when it waits."""
        with sql.snapshot(self.vault.pk) as found:
            if found is None:
                return None
            have = root_of(known)
            changed = found.count(self.vault.pk, above=found.published_revision)
            if not changed and not differs(self.vault, known, have):
                return None
            shards = shards_due(have, rows=changed) if changed else 0
            if not (shards and self._afford(shards + 1)):
                shards = 0
                if not self._afford(1 + bool(changed)):
                    return self.meter.exhausted or RequestClass.PUT
            now = datetime.now(UTC)
            deleted = self._deletable(retired_due(have, now))
            drafting = Drafting(self.lease, self.vault, found, have, folder)
            bodies = drafting.bodies(changed=changed, shards=shards)
            fold = len(bodies) > 0 and not shards and drafting.folds
            root = self._next(known, found, bodies, shards=shards, fold=fold, deleted=deleted, now=now)
        base = found.revision if shards else found.base_revision
        return Draft(revision=found.revision, base=base, root=root, bodies=bodies, deleted=deleted)

    def _next(
        self,
        known: IndexState,
        found: Snapshot,
        bodies: list[tuple[Entry, Path, bytes]],
        *,
        shards: int,
        fold: bool,
        deleted: list[str],
        now: datetime,
    ) -> Root:
        have = root_of(known)
        entries = tuple(entry for entry, _, _ in bodies)
        old = have.entries if have else ()
        kept_shards = entries if shards else have.shards if have else ()
        kept_deltas = () if shards else entries if fold else (*(have.deltas if have else ()), *entries)
        used = {entry.name for entry in (*kept_shards, *kept_deltas)}
        gone = [entry.name for entry in old if entry.name not in used]
        gone += [name for name in known.manifest_pending if name not in used and name not in gone]
        before = [name for name in (have.retired if have else ()) if name.name not in deleted]
        listed = {name.name for name in before}
        retired = [*before, *(Retired(name=name, at=now) for name in gone if name not in listed)]
        return Root(
            bucket=self.vault.bucket,
            prefix=self.vault.prefix,
            writer=writer_of(self.vault, have),
            generated_at=now,
            object_count=found.object_count,
            total_bytes=found.total_bytes,
            facts=found.facts,
            shards=kept_shards,
            deltas=kept_deltas,
            retired=tuple(retired[-MOST_RETIRED:]),
        )

    def _deletable(self, names: list[str]) -> list[str]:
        """As many as the DELETE budget left allows."""
        need = Requests({RequestClass.DELETE: len(names)})
        if not names or self.meter.draw(need, Requests({RequestClass.DELETE: 1})) is not Draw.DRAWN:
            return []
        return names[: self.meter.available(RequestClass.DELETE)]

    def _afford(self, puts: int) -> bool:
        able = self.store.capabilities
        need = Requests(costs(able, {RequestClass.PUT: puts}, conditional=RequestClass.PUT))
        lacking = Requests({c: n - self.meter.available(c) for c, n in need.items() if n > self.meter.available(c)})
        return not lacking or self.meter.draw(lacking) is Draw.DRAWN

    # --- saying it

    def _sent(self, draft: Draft, known: IndexState) -> Written | None:
        """The root's answer; None when somebody else published in between."""
        names = [entry.name for entry, _, _ in draft.bodies]
        if names:
            # Known before it is sent: nobody could find it again without a LIST.
            with self.lease.commit():
                pending = [*known.manifest_pending, *names]
                IndexState.objects.filter(vault=self.vault).update(manifest_pending=pending)
                self.meter.settle()
        with Helpers(self.lease, self.meter) as helpers:
            deletes = [helpers.begin(self.store.delete, FOLDER + name) for name in draft.deleted]
            bodies = [helpers.begin(self._put_body, *body) for body in draft.bodies]
            for done in (*deletes, *bodies):
                done()
            try:
                return helpers.begin(self._put_root, draft.root, known.manifest_etag)()
            except (PreconditionFailed, ObjectMissing):
                return None

    def _put_body(self, entry: Entry, path: Path, digest: bytes) -> Written:
        """On a helper thread."""
        content = self._content(entry.bytes, sha256=bytes.fromhex(entry.sha256), md5=digest)
        with path.open("rb") as file:
            # In memory where that is small: such requests are cheaper to send.
            return self.store.put(FOLDER + entry.name, file.read() if entry.bytes < 2**22 else file, content)

    def _content(self, size: int, *, sha256: bytes, md5: bytes) -> Content:
        """What is read each interval and replaced by each run costs least in Standard, whatever the vault writes."""
        storage_class = "STANDARD" if self.vault.storage_class else ""
        return Content(size=size, sha256=sha256, md5=md5, mtime_ns=0, storage_class=storage_class)

    def _put_root(self, root: Root, etag: str) -> Written:
        raw = encode_root(root)
        digest = md5(raw, usedforsecurity=False).digest()
        content = self._content(len(raw), sha256=sha256(raw).digest(), md5=digest)
        condition = Condition(etag=etag) if etag else Condition(absent=True)
        return self.store.put(ROOT, raw, content, condition=condition)

    def _kept(self, draft: Draft, written: Written) -> dict[str, Any]:
        root = draft.root
        with self.lease.commit():
            IndexState.objects.filter(vault=self.vault).update(
                published_revision=draft.revision,
                base_revision=draft.base,
                manifest_etag=written.etag,
                manifest_generated_at=root.generated_at,
                manifest_object_count=root.object_count,
                manifest_root=as_json(root),
                manifest_pending=[],
            )
            # Whoever took over is the writer now; the next one must take over from here.
            Vault.objects.filter(pk=self.vault.pk, mirror_writer=self.vault.marker).update(mirror_writer=None)
            self.meter.settle()
        return {
            "published": True,
            "objects": 1 + len(draft.bodies),
            "rows": sum(entry.rows for entry, _, _ in draft.bodies),
            "bytes": sum(entry.bytes for entry, _, _ in draft.bodies) + len(encode_root(root)),
        }

    def _caught_up(self, known: IndexState) -> Look | None:
        """What the others published is merged; None when another process of this host has done that already."""
        if state.state_of(self.vault.pk).manifest_etag != known.manifest_etag:
            return None
        return refreshing.refresh(self.lease, self.vault, self.store, self.meter)


class Drafting:
    """Rows of an index into the objects of a manifest."""

    def __init__(self, lease: Lease, vault: Vault, found: Snapshot, have: Root | None, folder: Path) -> None:
        self.lease, self.vault, self.found, self.folder = lease, vault, found, folder
        self.folds = have is not None and len(have.deltas) >= DELTAS_FOLDED_AT

    def bodies(self, *, changed: int, shards: int) -> list[tuple[Entry, Path, bytes]]:
        """One delta, or everything in so many shards; nothing when only facts changed."""
        if not changed:
            return []
        if not shards:
            above = self.found.base_revision if self.folds else self.found.published_revision
            return [self._packed("delta", ahead(self.found.pages(self.vault.pk, above=above)))]
        return list(self._shards(shards))

    def _shards(self, number: int) -> Iterator[tuple[Entry, Path, bytes]]:
        total = self.found.count(self.vault.pk, above=-1)
        per_shard = max(1, -(-total // number))
        pages = ahead(self.found.pages(self.vault.pk, above=None))
        page = [next(pages, [])]
        while page[0]:
            yield self._packed("shard", _cut(page, pages, per_shard))

    def _packed(self, kind: str, pages: Iterable[list[Row]]) -> tuple[Entry, Path, bytes]:
        name = f"{kind}-{uuid4().hex}.gz"
        path = self.folder / name
        with ExitStack() as stack:
            pack = Pack(name=name, file=stack.enter_context(path.open("wb")))
            for page in pages:
                pack.add(page)
                self.lease.keep()
            return pack.finish(), path, pack.md5


def _cut(page: list[list[Row]], pages: Iterator[list[Row]], most: int) -> Iterator[list[Row]]:
    """The next `most` rows, in pages; `page` holds what is left of the one read last."""
    while most > 0 and page[0]:
        yield page[0][:most]
        count = len(page[0])
        page[0] = page[0][most:] or next(pages, [])
        most -= count
