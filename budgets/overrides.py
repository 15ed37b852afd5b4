"""Leave to pass price policies once: asked for by one, granted by another, spent by one run."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now

from budgets import notices
from budgets.alerts import Cause, Severity, Topic
from budgets.models import OverrideStatus, PriceOverride
from budgets.people import is_superuser, named
from budgets.price_policy import Mode
from vaulthalla.errors import NotFound, Refused
from vaulthalla.vaults.lookup import row_id
from vaulthalla.vaults.models import Vault

SHORTEST, LONGEST = timedelta(minutes=1), timedelta(minutes=120)
OPEN = (OverrideStatus.REQUESTED, OverrideStatus.APPROVED)


def request(vault: Vault, policies: list[int], *, reason: str, by: str | None, ttl: timedelta) -> PriceOverride:
    """Raises Refused for policies that do not watch this vault, and for a time out of bounds."""
    from budgets.catalog import price_key
    from budgets.reserve import applicable

    asker = named(by)
    if vault.api_key is None:
        raise Refused(f"VAULT {vault.name!r} is local: nothing is billed.", remedy="Name a vault with a bucket.")
    if not reason.strip() or len(reason) > 500:
        raise _invalid("--reason", "1 to 500 characters saying why")
    if not SHORTEST <= ttl <= LONGEST:
        raise _invalid("--ttl", "1m to 2h")
    enforced = {p.id for p in applicable(vault.pk, price_key(vault)[0]) if p.mode is Mode.ENFORCE}
    wanted = sorted(set(policies))
    if not wanted or not set(wanted) <= enforced:
        known = ", ".join(map(str, sorted(enforced))) or "none"
        raise _invalid("--policy", f"ids of `enforce` policies that watch {vault.name} ({known})")
    with transaction.atomic():
        asked = PriceOverride.objects.create(
            vault=vault, policies=wanted, reason=reason, requested_by=asker, expires_at=Now() + ttl
        )
        notices.tell([_cause(asked, vault)])
    return asked


def _cause(asked: PriceOverride, vault: Vault) -> Cause:
    policies = ", ".join(map(str, asked.policies))
    return Cause(
        topic=Topic.OVERRIDE,
        parts=(str(asked.pk),),
        severity=Severity.WARNING,
        title=f"{vault.name}: {asked.requested_by} asks to pass a limit once"[:200],
        text=f"Override {asked.pk}, to pass policies {policies} with one run of {vault.name}: {asked.reason}",
        remedy=f"vh pricing override approve {asked.pk}",
        vault_id=vault.pk,
        vault_name=vault.name,
    )


def _decided(found: PriceOverride) -> None:
    """Nobody needs to be told any more that it was asked for."""
    notices.resolve(Q(cause=f"{Topic.OVERRIDE.value}/{found.pk}"))


def decide(number: str, status: OverrideStatus, *, by: str | None) -> PriceOverride:
    """Approves, denies or cancels. Raises Refused where its state or the person does not allow it."""
    who = named(by)
    with transaction.atomic():
        found = PriceOverride.objects.select_for_update().filter(pk=row_id(number)).first()
        if found is None:
            raise NotFound(f"There is no override {number!r}.", remedy="`vh pricing override list` shows them.")
        allowed = OPEN if status is OverrideStatus.CANCELLED else (OverrideStatus.REQUESTED,)
        if found.status not in allowed:
            raise Refused(
                f"Override {found.pk} is {found.status}.", code="override_state", remedy="Request another one."
            )
        if status is OverrideStatus.APPROVED:
            _check_approver(found, who)
        found.status, found.decided_by, found.decided_at = status, who, Now()
        found.save(update_fields=["status", "decided_by", "decided_at"])
        _decided(found)
    found.refresh_from_db()
    return found


def _check_approver(found: PriceOverride, by: str) -> None:
    if not PriceOverride.objects.filter(pk=found.pk, expires_at__gt=Now()).exists():
        raise Refused(f"Override {found.pk} has expired.", code="override_expired", remedy="Request another one.")
    if by == found.requested_by and not is_superuser(by):
        raise Refused(
            f"{by!r} requested override {found.pk} and cannot approve it.",
            code="override_self_approval",
            remedy="Let somebody else approve it: --by NAME, or a superuser.",
        )


def consume(vault_id: int, blocked: frozenset[int], run_id: int) -> bool:
    """Spends an override that covers exactly the blocked policies; of two runs that want it, one gets it."""
    rows = PriceOverride.objects.select_for_update().filter(
        vault_id=vault_id, status=OverrideStatus.APPROVED, expires_at__gt=Now(), policies=sorted(blocked)
    )
    found = rows.order_by("expires_at", "id").first()
    if found is None:
        return False
    found.status, found.used_by_run, found.used_at = OverrideStatus.USED, run_id, Now()
    found.save(update_fields=["status", "used_by_run", "used_at"])
    return True


def listing() -> list[dict[str, Any]]:
    rows = PriceOverride.objects.select_related("vault").annotate(now=Now())[:500]
    return [as_json(row) for row in rows]


def as_json(row: PriceOverride) -> dict[str, Any]:
    now = getattr(row, "now", None)
    expired = row.status in OPEN and now is not None and row.expires_at <= now
    return {
        "id": str(row.pk),
        "vault": row.vault.name,
        "policies": [str(number) for number in row.policies],
        "status": "expired" if expired else str(row.status),
        "reason": row.reason,
        "requested_by": row.requested_by,
        "requested_at": row.requested_at,
        "expires_at": row.expires_at,
        "decided_by": row.decided_by or None,
        "decided_at": row.decided_at,
        "run": None if row.used_by_run is None else str(row.used_by_run),
        "used_at": row.used_at,
    }


def _invalid(option: str, accepted: str) -> Refused:
    return Refused(f"{option} must be {accepted}.", code="invalid_value", remedy="Nothing was stored.")
