"""Which windows an instant belongs to: UTC, whatever zone the answer came in, and however long ago it came."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from budgets.alerts import begin
from budgets.days import Clock
from budgets.price_policy import Window

TICK = 0.000001
HOUR, DAY = 3600, 86_400
BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("said", "later", "day", "month"),
    [
        (at("2031-05-10T00:00:00"), 0, "2031-05-10", "2031-05-01"),
        (at("2031-05-10T23:59:59.999999"), 0, "2031-05-10", "2031-05-01"),
        (at("2031-05-10T23:59:59.999999"), TICK, "2031-05-11", "2031-05-01"),
        (at("2031-05-10T12:00:00"), 12 * HOUR - TICK, "2031-05-10", "2031-05-01"),
        (at("2031-05-10T12:00:00"), 12 * HOUR, "2031-05-11", "2031-05-01"),
        # A month's last day, a year's, and February's with and without a 29th.
        (at("2031-05-31T23:00:00"), HOUR, "2031-06-01", "2031-06-01"),
        (at("2031-12-31T23:00:00"), HOUR, "2032-01-01", "2032-01-01"),
        (at("2031-02-28T23:00:00"), HOUR, "2031-03-01", "2031-03-01"),
        (at("2032-02-28T23:00:00"), HOUR, "2032-02-29", "2032-02-01"),
        # Nobody asked again for days.
        (at("2031-05-30T18:00:00"), 3 * DAY, "2031-06-02", "2031-06-01"),
        # A session in another zone says the same instant.
        (datetime(2031, 6, 1, 1, 0, tzinfo=timezone(timedelta(hours=13))), 0, "2031-05-31", "2031-05-01"),
        (datetime(2031, 5, 31, 20, 0, tzinfo=timezone(timedelta(hours=-5))), 0, "2031-06-01", "2031-06-01"),
        # The nights in which a zone's clock is put forward and back: 23 and 25 of its hours, 24 of ours.
        (datetime(2031, 3, 30, 1, 0, tzinfo=BERLIN), 23 * HOUR + 59 * 60, "2031-03-30", "2031-03-01"),
        (datetime(2031, 3, 30, 1, 0, tzinfo=BERLIN), 24 * HOUR, "2031-03-31", "2031-03-01"),
        (datetime(2031, 10, 26, 2, 0, tzinfo=BERLIN), 24 * HOUR - TICK, "2031-10-26", "2031-10-01"),
        (datetime(2031, 10, 26, 2, 0, tzinfo=BERLIN), 24 * HOUR, "2031-10-27", "2031-10-01"),
    ],
)
def test_which_windows_an_instant_belongs_to(said: datetime, later: float, day: str, month: str) -> None:
    asked_at = 1000.5
    found = Clock(said=said, asked_at=asked_at).day(asked_at + later)
    assert begin(Window.DAILY, found) == date.fromisoformat(day)
    assert begin(Window.MONTHLY, found) == date.fromisoformat(month)
    assert begin(Window.RUN, found) is None
