"""Rows by storage class for `info`: counted when a scan ends, or when somebody asks and it takes but a moment.

The counts rest in a row of their own, so that `info` never waits for a merge.
"""

from __future__ import annotations

from datetime import timedelta

from django.db import OperationalError, transaction
from django.utils import timezone

from indexing import merge, sql
from indexing.models import IndexCount

# `info` answers within a second, whatever the index's size.
PATIENCE = timedelta(milliseconds=400)


def refreshed(vault_id: int) -> IndexCount | None:
    """The counts as they are now or, where counting takes too long, as they were last; None when never counted."""
    kept = IndexCount.objects.filter(vault_id=vault_id).first()
    if kept is not None and kept.revision == merge.revision_of(vault_id):
        return kept
    return count(vault_id, within=PATIENCE) or kept


def count(vault_id: int, *, within: timedelta | None = None) -> IndexCount | None:
    """Counts and keeps it; None when that takes longer than `within`."""
    revision = merge.revision_of(vault_id)
    try:
        with transaction.atomic():
            classes, tombstones = sql.count_classes(vault_id, within=within)
    except OperationalError:
        if within is None:
            raise
        return None
    values = {"revision": revision, "counted_at": timezone.now(), "classes": classes, "tombstones": tombstones}
    return IndexCount.objects.update_or_create(vault_id=vault_id, defaults=values)[0]
