"""What a sync does about its index before it plans: use it, list first, or stall rather than guess."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from shlex import quote

from indexing import state
from indexing.freshness import Freshness, Status, Usable, freshness, usable
from indexing.reconcile import reconcile_chunks
from vaulthalla.errors import Refused, Stall, StallCode
from vaulthalla.remedies import OR
from vaulthalla.vaults.models import StaleIndexPolicy, Vault, VaultKind
from vaulthalla.work.engine import NewChunk

# What a listing by hand finds is, under a shorter age than this, too old again before a sync can begin.
SHORTEST_BY_HAND = timedelta(minutes=1)


def chunks_before_planning(vault: Vault, *, list_budget: int | None, now: datetime | None = None) -> list[NewChunk]:
    """Chunks that make the index usable inside this run; none when it is. Raises Stall.

    `list_budget` is what is left of the run's LIST budget (None: unlimited). A second directory costs nothing
    and is listed each time.
    """
    if vault.kind == VaultKind.LOCAL:
        return directory_chunks(vault)
    if ensure_usable(vault, list_budget=list_budget, now=now) is Usable.RECONCILE:
        return reconcile_chunks(vault)
    return []


def directory_chunks(vault: Vault) -> list[NewChunk]:
    """The listing of a local vault's second directory."""
    return reconcile_chunks(vault)


def ensure_usable(vault: Vault, *, list_budget: int | None, now: datetime | None = None) -> Usable:
    """USE or RECONCILE. Raises Stall `index_missing` or `index_stale` with the commands that help."""
    found = freshness_of(vault, now=now)
    estimate = state.estimate(vault, limit=list_budget)
    may_reconcile = vault.policy.on_stale_index == StaleIndexPolicy.RECONCILE
    verdict = usable(found.status, list_budget=list_budget, estimate=estimate, may_reconcile=may_reconcile)
    if verdict is Usable.STALL_MISSING:
        raise Stall(StallCode.INDEX_MISSING, f"{vault.name} has no usable index. {found.why}", remedy=remedy(vault))
    if verdict is Usable.STALL_STALE:
        reason = f"The index of {vault.name} is stale. {found.why}"
        raise Stall(StallCode.INDEX_STALE, reason, remedy=_stale_remedy(vault, estimate or 1))
    return verdict


def require_index(vault: Vault, *, now: datetime | None = None) -> Freshness:
    """Raises Refused without a complete index; a stale one is told, not refused."""
    found = freshness_of(vault, now=now)
    if found.as_of is None and vault.kind == VaultKind.S3:
        raise Refused(
            f"{vault.name} has no usable index. {found.why}", code=StallCode.INDEX_MISSING.value, remedy=remedy(vault)
        )
    return found


def require_fresh_index(vault: Vault) -> None:
    """For plans that send nothing: a sync would not plan by a stale index either. Raises Refused."""
    found = require_index(vault)
    if found.status is Status.STALE:
        raise Refused(
            f"The index of {vault.name} is stale. {found.why}",
            code=StallCode.INDEX_STALE.value,
            remedy=_refreshing_remedy(vault),
        )


def freshness_of(vault: Vault, *, now: datetime | None = None) -> Freshness:
    """The index's freshness under the vault's policy."""
    known = state.trust_of(state.state_of(vault.pk))
    return freshness(known, max_age=state.max_age_of(vault), now=now or datetime.now(UTC))


def remedy(vault: Vault) -> str:
    """The three ways to a first index; the first is a command that a shell can be given as it is."""
    name = quote(vault.name)
    beyond = "" if vault.policy.budget_list else " --allow-list-scan"
    return OR.join(
        (
            f"vh vault sync reconcile {name}{beyond}",
            f"import an inventory: vh vault sync inventory {name} --file inventory.csv",
            f"let a sync list the bucket within a budget: vh vault sync set {name} --s3-budget-list 100",
        )
    )


def _stale_remedy(vault: Vault, estimate: int) -> str:
    """Listing once by hand, or, from now on, within syncs: that first where by hand is of no use."""
    name, age, covered = quote(vault.name), state.max_age_of(vault), _covered(vault, estimate)
    changes = [
        *(["--on-stale-index reconcile"] if vault.policy.on_stale_index == StaleIndexPolicy.STALL else []),
        *([] if covered else [f"--s3-budget-list {estimate}"]),
    ]
    by_hand = f"vh vault sync reconcile {name}{'' if covered else ' --allow-list-scan'}"
    ways = [by_hand, *([f"vh vault sync set {name} {' '.join(changes)}"] if changes else [])]
    return OR.join(ways if age is None or age >= SHORTEST_BY_HAND else reversed(ways))


def _refreshing_remedy(vault: Vault) -> str:
    """The plan itself may list the bucket, where the policy's LIST budget covers that."""
    estimate = state.estimate(vault, limit=vault.policy.budget_list) or 1
    ways = _stale_remedy(vault, estimate)
    return (
        OR.join((f"vh vault sync dry-run {quote(vault.name)} --refresh-index", ways))
        if _covered(vault, estimate)
        else ways
    )


def _covered(vault: Vault, estimate: int) -> bool:
    limit = vault.policy.budget_list
    return limit is not None and limit >= estimate
