"""How knowledge of the remote side enters the index: one set-based merge per batch, in the caller's transaction.

Each merge takes the lock of the vault's state row until that transaction ends, so keep it short.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

from django.db.models import Model

from indexing import digests, sql
from indexing.models import Finding, IndexCount, IndexState, RemoteObject, ScannedKey, ScanRange
from indexing.order import LISTINGS, Known, fold
from indexing.sql import Changes, Moment
from indexing.terms import Source
from vaulthalla.arrays import literal
from vaulthalla.stores.base import ObjectInfo, Page
from vaulthalla.work.models import Run

# What we keep in the bucket for ourselves is no content of the vault.
OWN_KEYS = ".vaulthalla/"
# A larger batch is cut, so that its arrays stay small.
BATCH = 2_000

_KNOWN_COLUMNS = tuple(field.name for field in fields(Known) if field.name in sql.COLUMNS)


def observe(vault_id: int, infos: Sequence[ObjectInfo], *, source: Source, since: int | None = None) -> Changes:
    """Objects that a store described. `since`: `revision_of` the index before they were asked for, if known.

    A key may occur more than once. What is already known, or older than what is known, changes nothing.
    """
    return _observe(vault_id, ((info.key, known_of(info, source)) for info in infos), source=source, since=since)


def observe_gone(
    vault_id: int, gone: Sequence[tuple[str, datetime]], *, source: Source, since: int | None = None
) -> Changes:
    """Keys that were deleted, or found missing, at these store times."""
    known = ((key, Known(observed_at=at, source=source, gone=True)) for key, at in gone)
    return _observe(vault_id, known, source=source, since=since)


def observe_page(
    vault_id: int,
    page: Page,
    *,
    after: str,
    last: str | None,
    since: int,
    prefix: str = "",
    touch: bool = False,
    run_id: int | None = None,
    moment: Moment | None = None,
    noted: int | None = None,
) -> Changes:
    """One page of a listing. Keys after `after` up to `last` (None: to the end) that it lacks are gone.

    With `run_id` the store lists in no order: the page's keys are remembered for `sweep_scan` instead.
    Unchanged rows are not written, unless `touch`: a scan of a part raises no floor that would confirm them.
    `moment`: of a merge that has begun in this transaction. `noted`: the run that keeps each difference.
    """
    moment = moment or sql.begin(vault_id)
    infos = _kept(page)
    keys = [info.key for info in infos]
    columns = _page_columns(infos)
    options: dict[str, Any] = {
        "vault": vault_id,
        "since": since,
        "touch": touch,
        "seen_at": page.observed_at,
        "noted": noted,
    }
    if run_id is not None:
        sql.remember_scanned(run_id, keys)
        changes = sql.merge(_parameters(moment, columns, Source.LIST, options))
    else:
        span: dict[str, Any] = {"first": max(after, prefix), "after": after, "last": last, "prefix": prefix}
        hidden = {"unreadable": list(page.unreadable), "absent_at": page.observed_at}
        changes = sql.merge(_parameters(moment, columns, Source.LIST, options | span | hidden), absent="page")
    if page.unreadable:
        sql.doubt_below(vault_id, page.unreadable, at=page.observed_at, revision=moment.revision)
    return changes


def as_known(vault_id: int, pages: Sequence[tuple[str, str | None, Page]]) -> list[bool]:
    """Of each page, after which key and up to which it covers the keys (None: to the end): is all of it known already?

    Then `observe_page` (without `touch`) would change nothing. In a transaction that `begin` has locked.
    """
    spans = [(after, digests.LAST if last is None else last) for after, last, _ in pages]
    found = sql.digests(vault_id, spans) if spans else []
    # Of what the index has no row for, only that it is new matters: a first scan makes no digest at all.
    return [
        digest is not None and not page.unreadable and digest == digests.of_listing(_kept(page))
        for (_, _, page), digest in zip(pages, found, strict=True)
    ]


def sweep_scan(
    vault_id: int, run_id: int, *, started_at: datetime, since: int, prefix: str = "", noted: int | None = None
) -> Changes:
    """The end of an unordered scan: rows that no page held, and that nobody has seen since its start, are gone."""
    moment = sql.begin(vault_id)
    span: dict[str, Any] = {
        "first": prefix,
        "after": "",
        "last": None,
        "prefix": prefix,
        "unreadable": [],
        "absent_at": started_at,
    }
    options: dict[str, Any] = {"vault": vault_id, "since": since, "touch": False, "run": run_id, "noted": noted}
    changes = sql.merge(_parameters(moment, {}, Source.LIST, options | span), absent="run")
    sql.forget_scanned(run_id)
    return changes


def begin(vault_id: int) -> Moment:
    """Takes the lock of the vault's state for several merges of this transaction."""
    return sql.begin(vault_id)


def revision_of(vault_id: int) -> int:
    """The newest merge. What is asked of the store from now on is newer than every row up to it."""
    found = IndexState.objects.filter(vault_id=vault_id).values_list("revision", flat=True).first()
    return found or 0


def forget_scan(run_id: int) -> None:
    """What an unordered scan that is over, or was given up, remembered."""
    sql.forget_scanned(run_id)


def count_below(vault_id: int, prefix: str) -> int:
    """Live rows whose keys start with `prefix`."""
    return sql.count_below(vault_id, prefix)


def reset(vault_id: int) -> None:
    """Forgets everything: the vault points to another place, or is deleted. In the caller's transaction.

    The state goes first: a merge under way holds its lock until its rows can be seen.
    """
    runs = Run.objects.filter(vault_id=vault_id).values("pk")
    of_vault: tuple[type[Model], ...] = (IndexState, ScanRange, IndexCount, RemoteObject)
    of_run: tuple[type[Model], ...] = (Finding, ScannedKey)
    rows = [model._default_manager.filter(vault_id=vault_id) for model in of_vault]
    rows += [model._default_manager.filter(run_id__in=runs) for model in of_run]
    for found in rows:
        found._raw_delete(found.db)  # no signals and no relations to collect, so no row is loaded


def known_of(info: ObjectInfo, source: Source) -> Known:
    """An answer of a store as knowledge."""
    return Known(
        observed_at=info.observed_at,
        source=source,
        etag=info.etag,
        size=info.size,
        last_modified=info.last_modified,
        storage_class=info.storage_class,
        archive_status=info.archive_status,
        restore=info.restore.value,
        restore_expires=info.restore_expires,
        version_id=info.version_id,
        sha256=info.sha256,
        mtime_ns=info.mtime_ns,
    )


def merge_known(vault_id: int, known: dict[str, Known], *, source: Source, since: int | None = None) -> Changes:
    """Knowledge by key, as `indexing.order.fold` left it, all from one kind of source."""
    moment = sql.begin(vault_id)
    keys = sorted(known)
    options = {"vault": vault_id, "since": since, "touch": True}
    changes = Changes()
    for start in range(0, len(keys), BATCH):
        part = keys[start : start + BATCH]
        columns = _columns(part, [known[key] for key in part])
        changes += sql.merge(_parameters(moment, columns, source, options))
    return changes


def _observe(vault_id: int, seen: Iterable[tuple[str, Known]], *, source: Source, since: int | None) -> Changes:
    by_key: dict[str, Known] = {}
    repeated: dict[str, list[Known]] = {}
    for key, known in seen:
        if not _has_row(key):
            continue
        if key in by_key:
            repeated.setdefault(key, [by_key[key]]).append(known)
        by_key[key] = known
    for key, several in repeated.items():
        if (known_whole := fold(several)) is not None:
            by_key[key] = known_whole
    return merge_known(vault_id, by_key, source=source, since=since) if by_key else Changes()


def _kept(page: Page) -> list[ObjectInfo]:
    return [info for info in page.objects if _has_row(info.key)]


def _has_row(key: str) -> bool:
    return not key.startswith(OWN_KEYS) and storable(key)


def storable(key: str) -> bool:
    """Whether PostgreSQL can hold the key: no NUL, and UTF-8 all through."""
    return "\0" not in key and (key.isascii() or _is_text(key))


def _is_text(key: str) -> bool:
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


def _columns(keys: Sequence[str], known: Sequence[Known]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {"key": list(keys)}
    for name in _KNOWN_COLUMNS:
        values = [getattr(one, name) for one in known]
        columns[name] = values
    return columns


def _page_columns(infos: Sequence[ObjectInfo]) -> dict[str, list[Any]]:
    """Only what a listing tells; a thousand rows a page must cost little."""
    columns: dict[str, list[Any]] = {
        "key": [info.key for info in infos],
        "size": [info.size for info in infos],
        "etag": [info.etag for info in infos],
        "last_modified": [info.last_modified for info in infos],
        "storage_class": [info.storage_class for info in infos],
    }
    # Most stores tell none of these in a listing.
    if any(info.restore for info in infos):
        columns["restore"] = [info.restore.value for info in infos]
        columns["restore_expires"] = [info.restore_expires for info in infos]
    if any(info.mtime_ns for info in infos):
        columns["mtime_ns"] = [info.mtime_ns for info in infos]
    return columns


def _parameters(
    moment: Moment, columns: dict[str, list[Any]], source: Source, options: dict[str, Any]
) -> dict[str, Any]:
    return {
        **{name: literal(columns.get(name, ())) for name in sql.COLUMNS},
        "revision": moment.revision,
        "snapshot_as_of": moment.snapshot_as_of,
        "scan_started_at": moment.scan_started_at,
        "seen_at": None,
        "source": source.value,
        "own": source is Source.OWN,
        "event": source is Source.EVENT,
        "listing": source in LISTINGS,
        **options,
    }
