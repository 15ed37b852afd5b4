"""Which knowledge of one key wins, whatever order it arrives in. Pure; `indexing.sql` says the same in SQL.

Newer wins by store time. Two different contents seen within `CLOSE` of each other cannot be told apart by
their times: the later one is kept, *doubtful*, with the other's time as `rival_at`. What settles more than times do:

- two events with sequencers: the sequencer alone decides, and there is no doubt;
- cause: what was asked after the index already knew the row (`Known.revision` ≤ `since`) is newer than it, even
  where the row's own time says otherwise: that one is wrong then, and lies ahead of the store's clock. Only a scan
  that confirmed the row since has the last word. Of a manifest, what was published after its publisher knew the row is;
- our own write: conditional on what was known, so it is newer than anything up to its own time, and
  than a listing or a HEAD up to `CLOSE` later (`Date` counts whole seconds, and the writer planned from
  what it knew); an event that late may be somebody's next write, and makes it doubtful;
- a complete snapshot: what happened before its start is already in it. What a key was when the scan
  began is known even where there is no row, so the start is a floor under every row.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from indexing.terms import Source
from vaulthalla.stores.base import Restore

CLOSE = timedelta(seconds=2)
# Sources that do not always tell a restore state or an archive tier.
LISTINGS = frozenset((Source.LIST, Source.INVENTORY))


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of one key. `gone` is a delete, with an empty ETag. `rival_at` is set exactly while doubtful."""

    observed_at: datetime
    source: Source
    etag: str = ""
    gone: bool = False
    size: int = 0
    last_modified: datetime | None = None
    storage_class: str = "STANDARD"
    archive_status: str = ""
    restore: str = Restore.NONE.value
    restore_expires: datetime | None = None
    version_id: str = ""
    sequencer: str = ""
    sha256: bytes | None = None
    mtime_ns: int | None = None
    rival_at: datetime | None = None
    revision: int = 0

    @property
    def content(self) -> tuple[bool, str]:
        """What makes two observations say the same."""
        return self.gone, self.etag

    @property
    def doubtful(self) -> bool:
        return self.rival_at is not None

    @property
    def sequenced(self) -> bool:
        """Whether the content itself came with a sequencer, not only an earlier event of its key."""
        return self.source is Source.EVENT and bool(self.sequencer)


def fold(observations: Iterable[Known], *, floor: datetime | None = None) -> Known | None:
    """All observations of one key, in any order."""
    known: Known | None = None
    for observation in observations:
        known = join(known, observation, floor=floor)
    return known


def join(old: Known | None, new: Known, *, since: int | None = None, floor: datetime | None = None) -> Known | None:
    """The key after `new` arrived. `since`: the index's revision before `new` was asked for.

    `floor`: the start of the last complete scan. None: still nothing is known.
    """
    late = new.source is not Source.OWN and floor is not None and new.observed_at < floor - CLOSE
    if late or (old is not None and _obsolete(old, new)):
        return old
    known = _raised(old, floor)
    if known is None:
        return new
    result = _decided(known, new, since, confirmed=known is not old)
    # That the key was absent when the scan began needs no row.
    return None if old is None and result.gone and result.observed_at == floor and not result.doubtful else result


def _decided(known: Known, new: Known, since: int | None, *, confirmed: bool) -> Known:
    """Which of two wins, and whether the other is a rival. `confirmed`: a scan saw `known` since its own time."""
    if known.sequenced and new.sequenced and not confirmed:
        return _merged(new, known, rivals=(new.rival_at, known.rival_at))
    if _settles(known, new, since, confirmed=confirmed):
        at = max(new.observed_at, known.observed_at) if _close(new, known) else new.observed_at
        return _merged(replace(new, observed_at=at), known, rivals=(new.rival_at,))
    if known.source is Source.OWN and new.observed_at <= known.observed_at:
        return _merged(known, new, rivals=(known.rival_at,))
    winner, loser = (new, known) if _age(new) > _age(known) else (known, new)
    contradiction = None if winner.content == loser.content else loser.observed_at
    return _merged(winner, loser, rivals=(winner.rival_at, loser.rival_at, contradiction))


def older_sequencer(left: str, right: str) -> bool:
    """Whether `left` is before `right`: hexadecimal, right-padded with zeros, case ignored."""
    width = max(len(left), len(right))
    return left.lower().ljust(width, "0") < right.lower().ljust(width, "0")


def _obsolete(old: Known, new: Known) -> bool:
    """An event no newer than the newest one of its key."""
    told = new.source is Source.EVENT and bool(new.sequencer and old.sequencer)
    return told and not older_sequencer(old.sequencer, new.sequencer)


def _raised(old: Known | None, floor: datetime | None) -> Known | None:
    """The row as the last complete scan confirmed it: a key without a row was absent then."""
    if floor is None:
        return old
    if old is None:
        return Known(observed_at=floor, source=Source.LIST, gone=True)
    if old.observed_at >= floor:
        return old
    return replace(old, observed_at=floor)


def _settles(known: Known, new: Known, since: int | None, *, confirmed: bool) -> bool:
    """Whether `new` is newer for a better reason than its time."""
    if since is not None and known.revision <= since:
        return not confirmed or _close(new, known)
    if new.source is not Source.OWN:
        return False
    slack = timedelta(0) if known.source is Source.EVENT else CLOSE
    return new.observed_at >= known.observed_at - slack


def _close(new: Known, known: Known) -> bool:
    """Whether `new` is no older than the clock's grain makes it."""
    return new.observed_at >= known.observed_at - CLOSE


def _age(known: Known) -> tuple[datetime, bool, bytes]:
    """Later is newer; at the same instant any fixed rule will do, since it is doubtful."""
    return known.observed_at, known.gone, known.etag.encode("utf-8", "surrogatepass")


def _merged(winner: Known, loser: Known, *, rivals: tuple[datetime | None, ...]) -> Known:
    """The winner, with what the loser knows of the same content, and doubt where a rival is close."""
    rival = max((moment for moment in rivals if moment is not None), default=None)
    if rival is not None and rival < winner.observed_at - CLOSE:
        rival = None
    kept = _facts(winner, loser) if winner.content == loser.content else winner
    latest = loser.sequencer if older_sequencer(winner.sequencer, loser.sequencer) else winner.sequencer
    return replace(kept, rival_at=rival, sequencer=latest)


def _facts(winner: Known, loser: Known) -> Known:
    """Same content: hashes, times and versions stay known; a listing does not unlearn what a HEAD told."""
    winner = replace(
        winner,
        sha256=winner.sha256 or loser.sha256,
        mtime_ns=loser.mtime_ns if winner.mtime_ns is None else winner.mtime_ns,
        last_modified=winner.last_modified or loser.last_modified,
        version_id=winner.version_id or loser.version_id,
    )
    if winner.source not in LISTINGS or winner.storage_class != loser.storage_class:
        return winner
    if not winner.archive_status:
        winner = replace(winner, archive_status=loser.archive_status)
    if not winner.restore and loser.restore_expires is not None and loser.restore_expires > winner.observed_at:
        winner = replace(winner, restore=loser.restore, restore_expires=loser.restore_expires)
    return winner
