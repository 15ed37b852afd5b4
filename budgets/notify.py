"""Who finds what is worth telling: a run that ends, and the tick that looks at every policy and price list."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import date

from django.db import DatabaseError, transaction
from django.db.models import Q
from django.db.models.functions import Now

from budgets import sql
from budgets.alerts import (
    Cause,
    Severity,
    Topic,
    begin,
    overage,
    stale,
    stall_family,
    stall_severity,
    threshold,
    windowed,
)
from budgets.catalog import STALE_AFTER, listed, price_key
from budgets.catalog_builtin import FREE
from budgets.models import Notification, OverrideStatus, PriceOverride, PricePolicy, Purse
from budgets.notices import resolve, tell
from budgets.price_policy import Mode, Policy, Scope, Window
from budgets.reserve import applicable, value_of
from vaulthalla.vaults.models import Vault, VaultKind
from vaulthalla.work.models import Run, RunKind, RunStatus

logger = logging.getLogger(__name__)

# Somebody looks at these while they run.
UNTOLD = (RunKind.DRY_RUN, RunKind.CHECK)
WINDOWS = (Window.DAILY, Window.MONTHLY)


# --- a run that ends ---


def run_ended(run: Run) -> None:
    """Tells what the run met, inside the transaction that closes it. Whatever the database says, the run ends."""
    if run.vault is None or run.kind in UNTOLD:
        return
    try:
        with transaction.atomic():
            _run_ended(run, run.vault)
    except DatabaseError:
        logger.exception("What run %s met could not be told", run.pk)


def _run_ended(run: Run, vault: Vault) -> None:
    day = sql.today()
    purse = Purse.objects.filter(run=run.pk).first()
    policies = {policy.id: policy for policy in applicable(vault.pk, purse.provider)} if purse else {}
    blocked = [_blocked(run, vault, purse, policies, day)] if run.status == RunStatus.STALLED else []
    passed = list(_passed(run, vault, purse, policies, day)) if purse else []
    if run.status in (RunStatus.SUCCESS, RunStatus.STALLED):
        # Of what holds for this kind of run alone, whatever it did not meet again is over.
        still = [cause.key for cause in (*blocked, *passed)]
        mine = Q(vault_id=vault.pk, window_start__isnull=True)
        starts = Q(cause__startswith=_of(Topic.SYNC_BLOCKED, run)) | Q(cause__startswith=_of(Topic.LIMIT_PASSED, run))
        resolve(mine & starts & ~Q(cause__in=still))
    tell([*blocked, *passed])
    tell(look_at(policies.values(), day), again=False)


def _of(topic: Topic, run: Run) -> str:
    return f"{topic.value}/{run.kind}/{run.vault_id}/"


def _blocked(run: Run, vault: Vault, purse: Purse | None, policies: dict[int, Policy], day: date) -> Cause:
    """A limit of a day or a month blocks every vault that it watches: that is one cause. All else is the vault's."""
    policy = policies.get(purse.refused_policy or 0) if purse else None
    window = Window(purse.refused_window) if policy and purse and purse.refused_window else None
    start = begin(window, day) if window else None
    own = (run.kind, str(vault.pk), stall_family(run.stall_code))
    return Cause(
        topic=Topic.SYNC_BLOCKED,
        parts=windowed(policy, window, day) if policy and window and start else own,
        severity=stall_severity(run.stall_code),
        title=f"{vault.name}: {run.get_kind_display()} stopped ({run.stall_code})",
        text=f"Run {run.pk} ({run.kind}) of {vault.name} stopped: {run.stall_reason}",
        remedy=run.stall_remedy,
        vault_id=vault.pk,
        vault_name=vault.name,
        policy_id=policy.id if policy else None,
        window=window,
        window_start=start,
    )


def _passed(run: Run, vault: Vault, purse: Purse, policies: dict[int, Policy], day: date) -> Iterator[Cause]:
    for note in purse.notes:
        policy = policies.get(note["policy"])
        if policy is None:
            continue
        window = Window(note["window"]) if note["window"] else None
        start = begin(window, day) if window else None
        own = (run.kind, str(vault.pk), str(policy.id), note["window"] or note["issue"])
        yield Cause(
            topic=Topic.LIMIT_PASSED,
            parts=windowed(policy, window, day) if window and start else own,
            severity=Severity.WARNING,
            title=f"{vault.name}: a limit that does not block was passed"
            if window
            else f"{vault.name}: {note['issue']}",
            text=f"Run {run.pk} ({run.kind}) of {vault.name}: {note['text']}",
            remedy="vh pricing budget status",
            vault_id=vault.pk,
            vault_name=vault.name,
            policy_id=policy.id,
            window=window,
            window_start=start,
            quiet=policy.mode is Mode.REPORT,
        )


# --- the tick ---


def watch() -> None:
    """Looks at every policy and price list, and closes what is over."""
    day = sql.today()
    rows = PricePolicy.objects.exclude(mode=Mode.OFF.value).order_by("id")
    tell(look_at([value_of(row, vault=row.vault_id) for row in rows], day), again=False)
    _stale_lists([value_of(row, vault=row.vault_id) for row in rows])
    _over(day)


def look_at(policies: Iterable[Policy], day: date) -> Iterator[Cause]:
    """What is spent of each policy's day and month."""
    for policy in policies:
        limits = {window: limit for window, limit in policy.limits if window in WINDOWS and limit is not None}
        if not limits:
            continue
        daily, monthly = sql.booked(
            day=day,
            currency=policy.currency,
            provider=policy.target if policy.scope is Scope.PROVIDER else "",
            vault=int(policy.target) if policy.scope is Scope.VAULT else None,
        )
        spent = {Window.DAILY: daily, Window.MONTHLY: monthly}
        found = [
            threshold(policy, window, limit, spent[window], day=day, told=_told(policy, window, day))
            for window, limit in limits.items()
        ]
        yield from (_of_vault(cause, policy) for cause in (*found, overage(policy, monthly, day=day)) if cause)


def _of_vault(cause: Cause, policy: Policy) -> Cause:
    """With the vault's name, where the policy watches one."""
    if policy.scope is not Scope.VAULT:
        return cause
    number = int(policy.target)
    name = Vault.objects.values_list("name", flat=True).filter(pk=number).first() or ""
    return replace(cause, vault_id=number, vault_name=name)


def _told(policy: Policy, window: Window, day: date) -> list[int]:
    """The thresholds of this window and limit that were told of, in percent."""
    start = "/".join((Topic.THRESHOLD.value, *windowed(policy, window, day), ""))
    causes = Notification.objects.filter(cause__startswith=start).values_list("cause", flat=True)
    return [int(cause.removeprefix(start)) for cause in causes]


def _stale_lists(policies: list[Policy]) -> None:
    """Of the lists that watched vaults are billed by; one that was looked at again is stale no more."""
    found = {cause.key: cause for cause in _stale(policies)}
    resolve(Q(topic=Topic.STALE.value) & ~Q(cause__in=list(found)))
    tell(found.values(), again=False)


def _stale(policies: list[Policy]) -> Iterator[Cause]:
    watched: dict[tuple[str, str], set[Policy]] = {}
    for vault in Vault.objects.filter(kind=VaultKind.S3).select_related("api_key"):
        place = price_key(vault)
        mine = {p for p in policies if _watches(p, vault.pk, place[0])}
        watched.setdefault(place, set()).update(mine)
    for (provider, region), those in watched.items():
        prices = listed(provider, region) if those and provider not in FREE else None
        if prices is None:
            continue
        seconds = int(prices.age.total_seconds())
        refusing = {p.id for p in those if _refuses(p, seconds)}
        cause = stale(
            provider,
            prices.catalog.region,
            prices.catalog.version,
            days=prices.age.days,
            refused_by=refusing,
            old=prices.age > STALE_AFTER,
        )
        if cause:
            yield cause


def _watches(policy: Policy, vault_id: int, provider: str) -> bool:
    match policy.scope:
        case Scope.GLOBAL:
            return True
        case Scope.PROVIDER:
            return policy.target == provider
        case Scope.VAULT:
            return policy.target == str(vault_id)


def _refuses(policy: Policy, age: int) -> bool:
    oldest = policy.max_catalog_age
    return policy.mode is Mode.ENFORCE and oldest is not None and age > oldest and not policy.allow_stale_catalog


def _over(day: date) -> None:
    """Windows that have passed, overrides that nobody decided in time, and what was told of vaults that are gone."""
    month = Window.MONTHLY.value
    resolve(Q(window=Window.DAILY.value, window_start__lt=day) | Q(window=month, window_start__lt=day.replace(day=1)))
    lapsed = PriceOverride.objects.filter(status=OverrideStatus.REQUESTED, expires_at__lte=Now())
    resolve(Q(cause__in=[f"{Topic.OVERRIDE.value}/{number}" for number in lapsed.values_list("pk", flat=True)[:500]]))
    resolve(Q(vault_id__isnull=False) & ~Q(vault_id__in=Vault.objects.values("pk")))
