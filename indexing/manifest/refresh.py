"""Learning from the manifest: one conditional GET of its root, then only the objects that this host lacks.

All of them are fetched and verified before anything is merged, and the merge is one transaction: a manifest that is
refused, or only half affordable, leaves the index as it is.
"""

from __future__ import annotations

import io
import tempfile
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from itertools import islice
from shlex import quote
from typing import IO, Any

from django.db.models.functions import Now

from budgets.access import ChunkMeter, Draw
from indexing import sql as index_sql
from indexing import state
from indexing.manifest import sql
from indexing.manifest.format import (
    FOLDER,
    MOST_ROOT_BYTES,
    ROOT,
    Entry,
    Root,
    Unusable,
    as_json,
    damaged,
    decode_root,
    unpack,
    verify,
)
from indexing.manifest.helpers import Helpers
from indexing.manifest.state import root_of
from indexing.models import IndexState
from indexing.sql import Moment
from indexing.terms import Source
from vaulthalla.remedies import OR, sync_of
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.stores.base import BodyCorrupt, MeterRefused, NotModified, ObjectMissing, Store, StoreError
from vaulthalla.terms import Strategy
from vaulthalla.vaults.models import Vault
from vaulthalla.work.engine import Lease

# Between two looks at the lease.
ROWS = 20_000


class News(Enum):
    """What a look at the manifest came to."""

    SAME = "it is what is known here"
    ABSENT = "there is none"
    MERGED = "what it told is in the index"
    SHORT = "the budget does not suffice to read it"
    UNREACHED = "the store did not answer, or did not let us look"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The answer. `short` is the class that was lacking, `planned` how much of it the whole look takes."""

    news: News
    short: RequestClass | None = None
    planned: int = 0
    reason: str = ""


def refresh(lease: Lease, vault: Vault, store: Store, meter: ChunkMeter) -> Look:
    """Brings the index up to what the manifest says, within the run's budget. Raises Unusable; the index stays."""
    try:
        return Refresh(lease, vault, store, meter).run()
    except MeterRefused as refused:
        if refused.request_class is None:
            raise lease.lost() from refused
        return Look(news=News.SHORT, short=refused.request_class)
    except StoreError as error:
        return Look(news=News.UNREACHED, reason=str(error))
    except Unusable as error:
        if not error.remedy:
            error.remedy = _remedy(vault)
        raise
    finally:
        with lease.commit():
            meter.settle()


class Refresh:
    """One look at the manifest of one vault."""

    def __init__(self, lease: Lease, vault: Vault, store: Store, meter: ChunkMeter) -> None:
        self.lease, self.vault, self.store, self.meter = lease, vault, store, meter
        self.known = state.state_of(vault.pk)

    def run(self) -> Look:
        need = Requests({RequestClass.GET: 1, RequestClass.DOWNLOAD_BYTES: MOST_ROOT_BYTES})
        if self.meter.draw(need, Requests({RequestClass.GET: 1})) is not Draw.DRAWN:
            return Look(news=News.SHORT, short=RequestClass.GET, planned=1)
        with Helpers(self.lease, self.meter) as helpers:
            try:
                raw, etag = helpers.begin(self._root)()
            except NotModified:
                return Look(news=News.SAME)
            except ObjectMissing:
                self._forget()
                return Look(news=News.ABSENT)
            root = decode_root(raw, bucket=self.vault.bucket, prefix=self.vault.prefix)
            check_writer(self.vault, root)
            with tempfile.TemporaryDirectory(prefix="vaulthalla-manifest-") as folder:
                return self._learn(root, etag, helpers, folder)

    def _root(self) -> tuple[bytes, str]:
        """On a helper thread."""
        body = _Bounded(MOST_ROOT_BYTES)
        info = self.store.get(ROOT, body, if_none_match=self.known.manifest_etag or None)
        return body.getvalue(), info.etag

    def _learn(self, root: Root, etag: str, helpers: Helpers, folder: str) -> Look:
        lacking, whole = lacking_of(root_of(self.known), root)
        need = Requests({RequestClass.GET: len(lacking), RequestClass.DOWNLOAD_BYTES: sum(e.bytes for e in lacking)})
        short = Requests({c: n - self.meter.available(c) for c, n in need.items() if n > self.meter.available(c)})
        if short and self.meter.draw(short) is not Draw.DRAWN:
            lack = self.meter.exhausted or RequestClass.GET
            # The root was one more.
            planned = need[lack] + (1 if lack is RequestClass.GET else self.meter.spent[lack])
            return Look(news=News.SHORT, short=lack, planned=planned)
        fetched = [(entry, helpers.begin(self._fetch, entry, folder)) for entry in lacking]
        sql.prepare()
        try:
            for entry, body in fetched:
                with body() as file:
                    self._stage(file, entry, root)
            sql.sort()
            with self.lease.commit():
                self._merge(root, etag, whole=whole)
        finally:
            sql.drop()
        return Look(news=News.MERGED)

    def _fetch(self, entry: Entry, folder: str) -> IO[bytes]:
        """On a helper thread: the object as a file, verified."""
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - whoever reads it closes it
        try:
            self.store.get(FOLDER + entry.name, _limited(file, entry))
            file.seek(0)
            verify(file, entry)
            file.seek(0)
        except (ObjectMissing, BodyCorrupt) as error:
            file.close()
            raise damaged(f"its object {entry.name} cannot be read: {error}") from error
        except BaseException:
            file.close()
            raise
        return file

    def _stage(self, file: IO[bytes], entry: Entry, root: Root) -> None:
        rows = unpack(file, entry)
        ordinal, delta = root.entries.index(entry), entry in root.deltas
        while some := list(islice(rows, ROWS)):
            sql.stage(some, ordinal=ordinal, delta=delta)
            self.lease.keep()

    def _merge(self, root: Root, etag: str, *, whole: bool) -> None:
        moment = index_sql.begin(self.vault.pk)
        known = IndexState.objects.get(vault=self.vault)
        base = moment.revision if whole else known.base_revision
        if index_sql.knows_nothing(self.vault.pk, moment):
            sql.insert(self.vault.pk, moment)
        else:
            sql.merge(self.vault.pk, moment, since=known.published_revision)
            sql.mark(self.vault.pk, moment, published=known.published_revision, base=base)
        if root.facts.floor is not None:
            sql.doubt_unconfirmed(self.vault.pk, moment, floor=root.facts.floor, whole=whole)
        self._keep(known, root, etag, moment, base)

    def _keep(self, known: IndexState, root: Root, etag: str, moment: Moment, base: int) -> None:
        """The facts of both, and where the index stands with the manifest."""
        fields: dict[str, Any] = {
            "revision": moment.revision + 2,
            "published_revision": moment.revision + 1,
            "base_revision": base,
            "manifest_etag": etag,
            "manifest_generated_at": root.generated_at,
            "manifest_object_count": root.object_count,
            "manifest_root": as_json(root),
            **merged_facts(known, root),
        }
        IndexState.objects.filter(vault=self.vault).update(**fields)

    def _forget(self) -> None:
        """Somebody deleted it: all that is known is to be published anew."""
        if self.known.manifest_etag or self.known.manifest_root:
            with self.lease.commit():
                forget(self.vault.pk)


def forget(vault_id: int) -> None:
    """There is no manifest; inside the caller's transaction."""
    IndexState.objects.filter(vault_id=vault_id).update(
        manifest_etag="",
        manifest_generated_at=None,
        manifest_object_count=None,
        manifest_root=None,
        published_revision=0,
        base_revision=0,
    )


def lacking_of(have: Root | None, root: Root) -> tuple[list[Entry], bool]:
    """Objects to fetch, and whether that is the whole manifest: with other shards everything is read anew."""
    names = have.names if have else frozenset()
    if have is None or any(shard.name not in names for shard in root.shards):
        return list(root.entries), True
    return [delta for delta in root.deltas if delta.name not in names], False


def merged_facts(known: IndexState, root: Root) -> dict[str, Any]:
    """How old and how certain an index is that holds both: as far as either was."""
    facts = root.facts
    if not facts.complete or facts.snapshot_as_of is None:
        return {}
    own_floor = (known.floor_at or known.snapshot_as_of) if known.complete else None
    own_as_of = known.snapshot_as_of if known.complete else None
    as_of = _latest(own_as_of, facts.snapshot_as_of)
    floor = _latest(own_floor, facts.floor)
    merged: dict[str, Any] = {
        "complete": True,
        "snapshot_as_of": as_of,
        "floor_at": None if floor == as_of else floor,
        "events_through": _latest(known.events_through if known.complete else None, facts.events_through),
    }
    if own_as_of is None or facts.snapshot_as_of > own_as_of:
        merged |= {"source": Source.MANIFEST.value, "indexed_at": Now()}
    return merged


def check_writer(vault: Vault, root: Root) -> None:
    """A mirror has one writer. Raises Unusable when another one publishes here, unless this one took over."""
    if vault.policy.strategy != Strategy.MIRROR or root.writer in (None, str(vault.marker)):
        return
    if vault.mirror_writer == vault.marker:
        return
    raise Unusable(
        f"Another vault ({root.writer}) mirrors into {vault.bucket}/{vault.prefix}: its files would be overwritten.",
        code="mirror_writer",
        remedy=OR.join(
            (
                f"vh vault sync set {quote(vault.name)} --take-over  # if this vault shall be the writer from now on",
                f"vh vault update {quote(vault.name)} --prefix PREFIX",
            )
        ),
    )


def _latest(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((at for at in (one, other) if at is not None), default=None)


def _remedy(vault: Vault) -> str:
    place = f"s3://{vault.bucket}/{vault.prefix}{ROOT}"
    return OR.join(
        (
            f"{sync_of(vault.name)} --offline  # goes on without it",
            f"restore an earlier version of {place}",
            "delete it, and the next sync publishes what is known here",
        )
    )


class _Bounded(io.BytesIO):
    """A body that must not be larger than this."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._left = most

    def write(self, piece: Any) -> int:
        self._left -= len(piece)
        if self._left < 0:
            raise damaged("it is larger than the manifest may be")
        return super().write(piece)


class _Limited:
    """Passes on at most what an object may hold."""

    def __init__(self, file: IO[bytes], entry: Entry) -> None:
        self._file, self._entry, self._left = file, entry, entry.bytes

    def write(self, piece: bytes) -> int:
        self._left -= len(piece)
        if self._left < 0:
            raise damaged(f"its object {self._entry.name} is larger than it was published")
        return self._file.write(piece)


def _limited(file: IO[bytes], entry: Entry) -> Any:
    return _Limited(file, entry)
