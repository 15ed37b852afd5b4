"""Whether a price fits the policies that watch it: pure arithmetic on exact decimals, no database, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

from budgets.pricing import EXACT, money


class Mode(StrEnum):
    OFF = "off"
    REPORT = "report"
    WARN = "warn"
    ENFORCE = "enforce"


class Scope(StrEnum):
    GLOBAL = "global"
    PROVIDER = "provider"
    VAULT = "vault"


class Window(StrEnum):
    """In the order in which a blocked window is told: the one that takes longest to pass comes first."""

    MONTHLY = "monthly"
    DAILY = "daily"
    RUN = "per_run"

    @property
    def option(self) -> str:
        return "--max-run" if self is Window.RUN else f"--max-{self.value}"


class Issue(StrEnum):
    """Why a price cannot be judged. Under `enforce` each blocks."""

    UNSUPPORTED = "pricing.provider_unsupported"
    UNKNOWN = "pricing.price_unknown"
    UNVERIFIED = "pricing.catalog_unverified"
    STALE = "pricing.catalog_stale"
    CURRENCY = "pricing.currency_mismatch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What one scope may spend; None is no limit. Without `max_catalog_age` no price list is too old."""

    id: int
    scope: Scope
    target: str = ""
    mode: Mode = Mode.REPORT
    currency: str = "USD"
    max_run: Decimal | None = None
    max_daily: Decimal | None = None
    max_monthly: Decimal | None = None
    max_catalog_age: int | None = None
    allow_stale_catalog: bool = False
    require_verified_catalog: bool = False

    @property
    def limits(self) -> tuple[tuple[Window, Decimal | None], ...]:
        """Those that are set; one per run without a limit where none is, so that spending is told."""
        every = ((Window.MONTHLY, self.max_monthly), (Window.DAILY, self.max_daily), (Window.RUN, self.max_run))
        return tuple(pair for pair in every if pair[1] is not None) or ((Window.RUN, None),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """What is asked for, and what its price was made from. `age` None: these prices never get old."""

    amount: Decimal | None
    currency: str
    unknowns: tuple[str, ...] = ()
    supported: bool = True
    verified: bool = True
    age: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One window of one policy."""

    policy: Policy
    window: Window
    limit: Decimal | None
    used_before: Decimal
    requested: Decimal

    @property
    def needed(self) -> Decimal:
        """The limit that would just suffice."""
        return EXACT.add(self.used_before, self.requested)

    @property
    def exceeded(self) -> bool:
        return self.limit is not None and self.needed > self.limit

    @property
    def remaining(self) -> Decimal | None:
        return None if self.limit is None else EXACT.subtract(self.limit, self.used_before)

    def as_json(self) -> dict[str, Any]:
        return {
            "policy_id": str(self.policy.id),
            "scope": self.policy.scope.value,
            "mode": self.policy.mode.value,
            "window": self.window.value,
            "currency": self.policy.currency,
            "limit": None if self.limit is None else money(self.limit),
            "used_before": money(self.used_before),
            "remaining_before": None if self.remaining is None else money(self.remaining),
            "requested": money(self.requested),
            "exceeded": self.exceeded,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A limit that is passed, or a price that cannot be judged, where that blocks nothing."""

    policy: Policy
    text: str
    window: Window | None = None
    issue: Issue | None = None

    @property
    def told(self) -> bool:
        """Whether a run says so; `report` only records."""
        return self.policy.mode is not Mode.REPORT


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What all policies together say. `issues` are those that block, `blocking` the windows that do."""

    checks: tuple[Check, ...] = ()
    blocking: tuple[Check, ...] = ()
    issues: tuple[tuple[Policy, Issue], ...] = ()
    notes: tuple[Note, ...] = ()
    unknowns: tuple[str, ...] = ()
    policies: tuple[int, ...] = ()
    currency: str = ""

    @property
    def allowed(self) -> bool:
        return not self.blocking and not self.issues

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a dry-run says: a price that cannot be judged whatever the mode, a limit where it is not `report`."""
        return tuple(note.text for note in self.notes if note.issue or note.told)

    @property
    def result(self) -> str:
        if not self.allowed:
            return "fail"
        return "warn" if self.warnings else "pass"

    @property
    def primary(self) -> Check | None:
        """The window that is told: monthly before daily before per run, then the least that remains."""
        order = list(Window)
        ranked = sorted(self.blocking, key=lambda c: (order.index(c.window), c.remaining or Decimal(0), c.policy.id))
        return ranked[0] if ranked else None

    @property
    def blocking_policies(self) -> frozenset[int]:
        return frozenset(check.policy.id for check in self.blocking)

    @property
    def reason(self) -> str:
        if self.issues:
            policy, issue = self.issues[0]
            why = f"{issue.value} for {policy.scope.value} policy {policy.id}"
            return f"S3 price budget cannot be checked: {why}" + "".join(f"; {u}" for u in self.unknowns)
        check = self.primary
        if check is None:
            return ""
        return f"S3 price budget exceeded for {check.window.value} {check.policy.scope.value} policy {check.policy.id}"

    def as_json(self) -> dict[str, Any]:
        primary = self.primary
        shown = primary.as_json() if primary else {}
        return {
            "result": self.result,
            "allowed": self.allowed,
            "stalled": not self.allowed,
            "reason": self.reason or None,
            "warnings": list(self.warnings),
            "policies": [str(number) for number in self.policies],
            "checks": [check.as_json() for check in self.checks],
            "blocking_checks": [check.as_json() for check in self.blocking],
            "blocking_policy_ids": [str(number) for number in sorted(self.blocking_policies)],
            "exceeded_policy_id": shown.get("policy_id"),
            "exceeded_scope": shown.get("scope"),
            "limit": shown.get("limit"),
            "used_before": shown.get("used_before"),
            "remaining_before": shown.get("remaining_before"),
            "requested": shown.get("requested"),
            "currency": shown.get("currency"),
            "primary_blocking_check": shown or None,
            "primary_blocking_scope": shown.get("scope"),
            "primary_blocking_window": shown.get("window"),
        }


def evaluate(
    policies: Iterable[Policy],
    quote: Quote,
    used: Mapping[tuple[int, Window], Decimal],
    *,
    tolerated: frozenset[int] = frozenset(),
) -> Decision:
    """All policies that apply, each on every window it limits. What equals a limit passes.

    A policy whose price cannot be judged makes no checks. `tolerated` are those an override stands in for.
    """
    checks, blocking, issues, notes, seen = [], [], [], [], []
    for policy in sorted((p for p in policies if p.mode is not Mode.OFF), key=lambda p: p.id):
        seen.append(policy.id)
        issue = issue_of(policy, quote)
        if issue is not None or quote.amount is None:
            found = issue or Issue.UNKNOWN
            if policy.mode is Mode.ENFORCE:
                issues.append((policy, found))
            else:
                text = f"{found.value} for {policy.scope.value} policy {policy.id}"
                notes.append(Note(policy=policy, issue=found, text=text))
            continue
        for window, limit in policy.limits:
            before = used.get((policy.id, window), Decimal(0))
            check = Check(policy=policy, window=window, limit=limit, used_before=before, requested=quote.amount)
            checks.append(check)
            if check.exceeded and policy.mode is Mode.ENFORCE and policy.id not in tolerated:
                blocking.append(check)
            elif check.exceeded:
                text = _warning(check, overridden=policy.mode is Mode.ENFORCE)
                notes.append(Note(policy=policy, window=window, text=text))
    return Decision(
        checks=tuple(checks),
        blocking=tuple(blocking),
        issues=tuple(issues),
        notes=tuple(notes),
        unknowns=quote.unknowns,
        policies=tuple(seen),
        currency=quote.currency,
    )


def issue_of(policy: Policy, quote: Quote) -> Issue | None:
    """The first reason why this policy cannot judge this price."""
    old = quote.age is not None and policy.max_catalog_age is not None and quote.age > policy.max_catalog_age
    reasons = (
        (not quote.supported, Issue.UNSUPPORTED),
        (quote.amount is None, Issue.UNKNOWN),
        (policy.require_verified_catalog and not quote.verified, Issue.UNVERIFIED),
        (old and not policy.allow_stale_catalog, Issue.STALE),
        (policy.currency != quote.currency, Issue.CURRENCY),
    )
    return next((issue for holds, issue in reasons if holds), None)


def _warning(check: Check, *, overridden: bool) -> str:
    limit = money(check.limit or Decimal(0))
    text = (
        f"would exceed {check.window.value} limit {limit} {check.policy.currency} of {check.policy.scope.value} "
        f"policy {check.policy.id} with request {money(check.requested)}"
    )
    return f"{text}; allowed by an approved single-run override" if overridden else text
