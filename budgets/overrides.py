"""Leave to pass price policies once: asked for by one, granted by another, spent by one run."""

from __future__ import annotations

import os
import pwd
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models.functions import Now

from budgets.models import OverrideStatus, PriceOverride
from budgets.price_policy import Mode
from vaulthalla.errors import NotFound, Refused
from vaulthalla.vaults.models import Vault

SHORTEST, LONGEST = timedelta(minutes=1), timedelta(minutes=120)
OPEN = (OverrideStatus.REQUESTED, OverrideStatus.APPROVED)


def os_user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def request(vault: Vault, policies: list[int], *, reason: str, by: str, ttl: timedelta) -> PriceOverride:
    """Raises Refused for policies that do not watch this vault, and for a time out of bounds."""
    from budgets.catalog import price_key
    from budgets.reserve import applicable

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
    return PriceOverride.objects.create(
        vault=vault, policies=wanted, reason=reason, requested_by=by, expires_at=Now() + ttl
    )


def decide(number: str, status: OverrideStatus, *, by: str) -> PriceOverride:
    """Approves, denies or cancels. Raises Refused where its state or the person does not allow it."""
    with transaction.atomic():
        found = PriceOverride.objects.select_for_update().filter(pk=number).first() if number.isdigit() else None
        if found is None:
            raise NotFound(f"There is no override {number!r}.", remedy="`vh pricing override list` shows them.")
        allowed = OPEN if status is OverrideStatus.CANCELLED else (OverrideStatus.REQUESTED,)
        if found.status not in allowed:
            raise Refused(
                f"Override {found.pk} is {found.status}.", code="override_state", remedy="Request another one."
            )
        if status is OverrideStatus.APPROVED:
            _check_approver(found, by)
        found.status, found.decided_by, found.decided_at = status, by, Now()
        found.save(update_fields=["status", "decided_by", "decided_at"])
    found.refresh_from_db()
    return found


def _check_approver(found: PriceOverride, by: str) -> None:
    from django.contrib.auth import get_user_model

    if not PriceOverride.objects.filter(pk=found.pk, expires_at__gt=Now()).exists():
        raise Refused(f"Override {found.pk} has expired.", code="override_expired", remedy="Request another one.")
    if by != found.requested_by:
        return
    if not get_user_model().objects.filter(username=by, is_superuser=True, is_active=True).exists():
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
