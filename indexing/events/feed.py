"""How far a file of events extends what is known. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The times of a vault's own events in one file, and whether one came from a lifecycle rule."""

    first: datetime | None = None
    last: datetime | None = None
    lifecycle: bool = False

    def also(self, at: datetime, *, lifecycle: bool) -> Told:
        return Told(
            first=at if self.first is None else min(self.first, at),
            last=at if self.last is None else max(self.last, at),
            lifecycle=self.lifecycle or lifecycle,
        )


def known_through(as_of: datetime | None, told: Told, *, vouched: datetime | None = None) -> datetime | None:
    """The instant up to which every change is known now; None: the file moves nothing.

    A file counts only when it is contiguous: its first event is not after `as_of`, what is known already.
    `vouched` is the operator's word that the file lacks nothing up to then. Without a complete index
    (`as_of` None) there is nothing to extend, and time never goes back.
    """
    if as_of is None:
        return None
    reached = [as_of]
    if vouched is not None:
        reached.append(vouched)
    if told.first is not None and told.last is not None and told.first <= max(reached):
        reached.append(told.last)
    through = max(reached)
    return through if through > as_of else None
