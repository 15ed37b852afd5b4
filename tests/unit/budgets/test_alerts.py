"""What is worth a message, as tables."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest

from budgets.alerts import (
    Severity,
    begin,
    crossed,
    overage,
    projected,
    stale,
    stall_family,
    stall_severity,
    threshold,
    windowed,
)
from budgets.price_policy import Mode, Policy, Scope, Window
from vaulthalla.errors import StallCode

DAY = date(2026, 11, 10)
POLICY = Policy(id=7, scope=Scope.GLOBAL, mode=Mode.WARN, max_daily=Decimal(2), max_monthly=Decimal(10))


@pytest.mark.parametrize(
    ("used", "limit", "share"),
    [
        ("0", "1", None),
        ("0.49999999", "1", None),
        ("0.5", "1", 50),  # reached is enough
        ("0.74999999", "1", 50),
        ("0.75", "1", 75),
        ("0.89999999", "1", 75),
        ("0.9", "1", 90),
        ("1", "1", 90),
        ("400", "1", 90),
        ("0", "0", None),  # nothing may be spent, and nothing is
        ("0.00000001", "0", 90),
        ("0.000000004999", "0.00000001", None),  # below what is shown, and still exact
        ("0.000000005", "0.00000001", 50),
        ("-1", "1", None),
    ],
)
def test_the_highest_threshold_that_is_reached(used: str, limit: str, share: int | None) -> None:
    assert crossed(Decimal(used), Decimal(limit)) == share


@pytest.mark.parametrize(
    ("used", "told", "share", "severity"),
    [
        ("0.9", [], None, None),
        ("1", [], 50, Severity.INFO),
        ("1", [50], None, None),  # once
        ("1.5", [50], 75, Severity.WARNING),
        ("1.9", [], 90, Severity.CRITICAL),  # from nothing to nine tenths is one message, not three
        ("1.5", [90], None, None),  # what comes after the highest is no news
        ("1.9", [50, 75], 90, Severity.CRITICAL),
    ],
)
def test_a_threshold_is_told_once_and_only_upwards(
    used: str, told: list[int], share: int | None, severity: Severity | None
) -> None:
    cause = threshold(POLICY, Window.DAILY, Decimal(2), Decimal(used), day=DAY, told=told)
    assert (cause and (cause.parts[-1], cause.severity)) == (share and (str(share), severity))


def test_a_new_day_month_or_limit_is_a_new_cause() -> None:
    later = replace(POLICY, max_daily=Decimal(3))
    keys = {
        windowed(policy, window, day)
        for policy in (POLICY, later)
        for window in (Window.DAILY, Window.MONTHLY)
        for day in (DAY, date(2026, 11, 11), date(2026, 12, 1))
    }
    # Two limits on three days, and one that did not change in two months.
    assert len(keys) == 2 * 3 + 2
    assert begin(Window.MONTHLY, DAY) == date(2026, 11, 1)
    assert begin(Window.RUN, DAY) is None


def test_who_only_reports_is_recorded_and_not_sent() -> None:
    told = [threshold(replace(POLICY, mode=m), Window.DAILY, Decimal(1), Decimal(1), day=DAY, told=[]) for m in Mode]
    assert [cause.quiet for cause in told if cause] == [False, True, False, False]


@pytest.mark.parametrize(
    ("day", "spent", "limit", "told"),
    [
        (date(2026, 11, 10), "3.34", "10", True),  # 10.02 by the 30th
        (date(2026, 11, 10), "3.33333333", "10", False),  # 9.99999999: what equals a limit passes, and so does less
        (date(2026, 11, 2), "5", "10", False),  # too early to say
        (date(2026, 11, 3), "5", "10", True),
        (date(2026, 11, 10), "10.01", "10", False),  # passed already: the thresholds tell of that
        (date(2026, 2, 28), "10", "10", False),  # the last day
        (date(2026, 11, 10), "0", "0", False),
        (date(2026, 11, 10), "9", None, False),
    ],
)
def test_a_month_that_will_not_last(day: date, spent: str, limit: str | None, *, told: bool) -> None:
    policy = replace(POLICY, max_monthly=None if limit is None else Decimal(limit))
    assert (overage(policy, Decimal(spent), day=day) is not None) is told


def test_a_projection_is_the_rule_of_three() -> None:
    assert projected(Decimal("0.3"), elapsed=3, days=30) == Decimal(3)


@pytest.mark.parametrize("code", list(StallCode))
def test_what_goes_on_by_itself_is_a_warning_and_the_rest_is_critical(code: StallCode) -> None:
    passing = {"budget_list", "budget_head", "budget_get", "budget_put", "budget_copy", "budget_delete"}
    passing |= {"store_unavailable", "manifest_conflict"}
    assert stall_severity(code.value) is (Severity.WARNING if code.value in passing else Severity.CRITICAL)


def test_request_budgets_are_one_cause() -> None:
    families = {stall_family(code.value) for code in StallCode if code.value.startswith("budget_")}
    assert families == {"budget_requests", "budget_download_bytes"}
    assert stall_family("delete_guard") == "delete_guard"


@pytest.mark.parametrize(
    ("refused_by", "old", "severity"),
    [
        ((), False, None),
        ((), True, Severity.WARNING),
        ((3, 1), False, Severity.CRITICAL),
        ((3,), True, Severity.CRITICAL),
    ],
)
def test_a_price_list_is_stale_by_itself_or_for_a_policy(
    refused_by: tuple[int, ...], severity: Severity | None, *, old: bool
) -> None:
    cause = stale("aws-s3", "*", "v1", days=31, refused_by=refused_by, old=old)
    assert (cause.severity if cause else None) is severity
    if len(refused_by) == 2:
        assert cause is not None
        assert "policies 1, 3" in cause.text
