"""The key space of a scan cut into disjoint ranges, and how far each of them is. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vaulthalla.stores.base import ObjectInfo, Page

# More would not be faster: merges of one vault follow one another.
MOST_RANGES = 8
# A range costs one request more than its pages; with so many pages that is little.
PAGES_PER_RANGE = 10
# A bucket that nobody knows is large once so many pages have come, and worth the requests that divide the rest.
PAGES_BEFORE_DIVIDING = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Keys after `low`, up to `high` (None: to the end).

    `reached` is the last key merged; `after` is where the store goes on, which may be a key without a row.
    """

    low: str = ""
    high: str | None = None
    reached: str | None = ""
    after: str = ""

    @property
    def done(self) -> bool:
        return self.reached == self.high

    def covers(self, key: str) -> bool:
        """Whether the scan has been there."""
        at = raw(key)
        return raw(self.low) < at and (self.reached is None or at <= raw(self.reached))

    def own(self, page: Page) -> Page:
        """What of an ordered page belongs here. A page that goes beyond the range is its last."""
        if self.high is None or not page.objects or raw(page.objects[-1].key) < raw(self.high):
            return page
        count = bisect_right(page.objects, raw(self.high), key=_raw_key)
        return replace(page, objects=page.objects[:count], next_after=None)

    def past(self, page: Page, last: str | None) -> Range:
        """After its page was merged up to `last`."""
        if page.next_after is None:
            return replace(self, reached=self.high, after="")
        return replace(self, reached=last or self.reached, after=page.next_after)

    def divided(self, at: Sequence[str]) -> list[Range]:
        """The same keys in several ranges, the rest of it divided at those keys that lie in it."""
        cuts = [cut for cut in at if self._holds(cut)]
        if self.done or not cuts:
            return [self]
        ends = [*cuts[1:], self.high]
        rest = [Range(low=low, high=high, reached=low, after=low) for low, high in zip(cuts, ends, strict=True)]
        return [replace(self, high=cuts[0]), *rest]

    def _holds(self, key: str) -> bool:
        at = raw(key)
        begun = max(raw(self.low), raw(self.after), raw(self.reached or ""))
        return begun < at and (self.high is None or at < raw(self.high))


def how_many(pages: int, *, limit: int | None) -> int:
    """Ranges of a scan of so many pages: one while it is small, and no more than the LIST budget has room for."""
    wanted = min(MOST_RANGES, pages // PAGES_PER_RANGE)
    if limit is not None:
        wanted = min(wanted, limit - pages + 1)
    return max(1, wanted)


def evenly(keys: Sequence[str], parts: int) -> list[str]:
    """Of ascending keys, up to `parts` - 1 that divide them into equal parts."""
    count = min(parts, len(keys)) - 1
    return [keys[(number + 1) * len(keys) // (count + 1)] for number in range(count)]


def raw(key: str) -> bytes:
    """A key as stores order it."""
    return key.encode("utf-8", "surrogateescape")


def _raw_key(info: ObjectInfo) -> bytes:
    return raw(info.key)
