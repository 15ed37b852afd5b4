"""What is worth a message, and when two occurrences are one cause: pure, no database, no clock."""

from __future__ import annotations

import calendar
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from budgets.price_policy import Mode, Policy, Window
from budgets.pricing import EXACT, money
from vaulthalla.errors import StallCode
from vaulthalla.terms import Term


class Severity(Term):
    INFO = "info", "good to know"
    WARNING = "warning", "will need somebody"
    CRITICAL = "critical", "something stands still"


class Topic(Term):
    SYNC_BLOCKED = "budget.sync_blocked", "a run was stopped by a protection"
    LIMIT_PASSED = "budget.limit_passed", "a limit that does not block was passed"
    THRESHOLD = "budget.warn_threshold", "a limit is half, three quarters or nine tenths used up"
    OVERAGE = "budget.predicted_overage", "at this rate a month's limit will not do"
    OVERRIDE = "budget.override_requested", "somebody asks to pass a limit once"
    STALE = "pricing.catalog_stale", "nobody has seen for long that prices still hold"


# In percent of a limit, the highest first.
THRESHOLDS = ((90, Severity.CRITICAL), (75, Severity.WARNING), (50, Severity.INFO))
# A month's first days say little of its last.
SURE_AFTER_DAYS = 3
# Of these the next run goes on by itself, or the store comes back.
PASSING = (
    *(code for code in StallCode if code.value.startswith("budget_") and code is not StallCode.BUDGET_DOWNLOAD_BYTES),
    StallCode.STORE_UNAVAILABLE,
    StallCode.MANIFEST_CONFLICT,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One thing to tell. Causes of the same topic and parts are the same, however often they are found.

    `quiet`: recorded and shown, but not sent.
    """

    topic: Topic
    parts: tuple[str, ...]
    severity: Severity
    title: str
    text: str
    remedy: str = ""
    vault_id: int | None = None
    vault_name: str = ""
    policy_id: int | None = None
    window: Window | None = None
    window_start: date | None = None
    quiet: bool = False

    @property
    def key(self) -> str:
        return "/".join((self.topic.value, *self.parts))


def begin(window: Window, day: date) -> date | None:
    """The first day of the window that a day is in; None of a run's."""
    match window:
        case Window.DAILY:
            return day
        case Window.MONTHLY:
            return day.replace(day=1)
        case Window.RUN:
            return None


def windowed(policy: Policy, window: Window, day: date) -> tuple[str, ...]:
    """The parts that make a cause one of this policy's window: a new day, month or limit is a new cause."""
    limit = dict(policy.limits).get(window)
    start = begin(window, day)
    told = "none" if limit is None else money(limit)
    return (str(policy.id), window.value, start.isoformat() if start else "", told)


def crossed(used: Decimal, limit: Decimal) -> int | None:
    """The highest threshold, in percent, that is reached; of a limit of nothing, by whatever is spent."""
    if used <= 0:
        return None
    return next(
        (
            share
            for share, _ in THRESHOLDS
            if EXACT.multiply(used, Decimal(100)) >= EXACT.multiply(limit, Decimal(share))
        ),
        None,
    )


def threshold(
    policy: Policy, window: Window, limit: Decimal, used: Decimal, *, day: date, told: Collection[int]
) -> Cause | None:
    """The highest threshold reached, unless it, or a higher one, was told of already."""
    share = crossed(used, limit)
    if share is None or share <= max(told, default=0):
        return None
    return Cause(
        topic=Topic.THRESHOLD,
        parts=(*windowed(policy, window, day), str(share)),
        severity=dict(THRESHOLDS)[share],
        title=f"{share} % of a {window.value} limit is used up",
        text=(
            f"{money(used)} of the {window.value} limit {money(limit)} {policy.currency} of {_named(policy)} is spent."
        ),
        remedy="vh pricing budget status",
        policy_id=policy.id,
        window=window,
        window_start=begin(window, day),
        quiet=policy.mode is Mode.REPORT,
    )


def projected(spent: Decimal, *, elapsed: int, days: int) -> Decimal:
    """What a month of `days` comes to if each day costs what the `elapsed` ones did."""
    return EXACT.divide(EXACT.multiply(spent, Decimal(days)), Decimal(elapsed))


def overage(policy: Policy, spent: Decimal, *, day: date) -> Cause | None:
    """A month's limit that still holds and will not, from its third day on."""
    limit, days = policy.max_monthly, calendar.monthrange(day.year, day.month)[1]
    if limit is None or spent > limit or day.day < SURE_AFTER_DAYS:
        return None
    expected = projected(spent, elapsed=day.day, days=days)
    if expected <= limit:
        return None
    return Cause(
        topic=Topic.OVERAGE,
        parts=windowed(policy, Window.MONTHLY, day),
        severity=Severity.WARNING,
        title="A monthly limit will not last",
        text=(
            f"At the rate of {day:%Y-%m} so far, {money(expected)} will be spent of the monthly limit "
            f"{money(limit)} {policy.currency} of {_named(policy)}: {money(spent)} by day {day.day} of {days}."
        ),
        remedy="vh pricing report",
        policy_id=policy.id,
        window=Window.MONTHLY,
        window_start=begin(Window.MONTHLY, day),
        quiet=policy.mode is Mode.REPORT,
    )


def stall_severity(code: str) -> Severity:
    """Whether somebody has to do something before a vault goes on."""
    return Severity.WARNING if code in PASSING else Severity.CRITICAL


def stall_family(code: str) -> str:
    """Request budgets are one cause: a large upload uses up now this field, now that one."""
    requests = code.startswith("budget_") and code != StallCode.BUDGET_DOWNLOAD_BYTES
    return "budget_requests" if requests else code


def stale(
    provider: str, region: str, version: str, *, days: int, refused_by: Collection[int], old: bool
) -> Cause | None:
    """A price list that is old by itself (`old`), or for the policies that decide by no such list (`refused_by`)."""
    if not old and not refused_by:
        return None
    why = "nobody has looked at it since" if not refused_by else f"policies {_ids(refused_by)} decide by no such list"
    return Cause(
        topic=Topic.STALE,
        parts=(provider, region, version),
        severity=Severity.CRITICAL if refused_by else Severity.WARNING,
        title=f"The prices of {provider} are stale",
        text=f"Price list {version} of {provider} {region} is {days} days old, and {why}.",
        remedy="vh pricing catalog refresh",
    )


def _ids(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))


def _named(policy: Policy) -> str:
    return f"{policy.scope.value} policy {policy.id}"
