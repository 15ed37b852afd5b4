"""Which day, and so which window of every limit, an instant belongs to: UTC, by the database's clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """What the database's clock said to a question of `asked_at`, on the monotonic clock of who asked.

    Days begin early by as much as the answer took to be given.
    """

    said: datetime
    asked_at: float

    def day(self, at: float) -> date:
        """The UTC day at a later moment of the same monotonic clock."""
        return (self.said.astimezone(UTC) + timedelta(seconds=at - self.asked_at)).date()
