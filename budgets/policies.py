"""Price policies as people set them: only what is named changes, and bad input changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db import transaction

from budgets.amounts import amount, currency
from budgets.catalog_file import PROVIDERS
from budgets.models import PricePolicy
from budgets.price_policy import Mode, Scope
from budgets.pricing import money
from vaulthalla.console import table
from vaulthalla.errors import Refused
from vaulthalla.units import duration
from vaulthalla.vaults.lookup import vault_by_name
from vaulthalla.vaults.models import Vault, VaultKind

# Not the empty word: a variable that is not set must not lift a limit.
CLEARS = ("none", "null", "unlimited")
ALIASES = {"warning": Mode.WARN, "enforced": Mode.ENFORCE}
LIMITS = ("max_run", "max_daily", "max_monthly")


def target_of(scope: Scope, name: str | None) -> dict[str, Any]:
    """The columns that name a policy. Raises Refused for a provider nobody knows, or a vault that nobody bills."""
    if scope is Scope.GLOBAL:
        return {"scope": scope.value, "provider": "", "vault": None}
    if scope is Scope.PROVIDER:
        if name not in PROVIDERS:
            raise _refused("PROVIDER", f"one of {', '.join(PROVIDERS)}")
        return {"scope": scope.value, "provider": name, "vault": None}
    vault: Vault = vault_by_name(name or "")
    if vault.kind != VaultKind.S3:
        raise Refused(
            f"VAULT {vault.name!r} is local: nothing is billed there.",
            code="invalid_value",
            remedy="Name a vault that is kept in step with a bucket.",
        )
    return {"scope": scope.value, "provider": "", "vault": vault}


def set_policy(scope: Scope, name: str | None, given: Mapping[str, Any]) -> PricePolicy:
    """Creates the policy of a scope, or changes the named fields of the one there is."""
    values = parsed(given)
    target = target_of(scope, name)
    with transaction.atomic():
        row, _ = PricePolicy.objects.get_or_create(**target)
        row = PricePolicy.objects.select_for_update().get(pk=row.pk)
        for field, value in values.items():
            setattr(row, field, value)
        row.save()
    return row


def disable(scope: Scope, name: str | None) -> PricePolicy:
    """Mode off; the limits stay for when it is set again."""
    row = PricePolicy.objects.filter(**target_of(scope, name)).first()
    if row is None:
        raise Refused("There is no such price policy.", code="not_found", remedy="`vh pricing budget list` shows them.")
    row.mode = Mode.OFF.value
    row.save()
    return row


def parsed(given: Mapping[str, Any]) -> dict[str, Any]:
    """Columns from options as written. Raises Refused naming the option."""
    values: dict[str, Any] = {}
    for field, value in given.items():
        option = f"--{field.replace('_', '-')}"
        if field in LIMITS:
            values[field] = None if value.lower() in CLEARS else amount(value, option=option)
        elif field == "mode":
            values[field] = _mode(value)
        elif field == "currency":
            values[field] = currency(value, option=option)
        elif field == "max_catalog_age":
            values[field] = None if value.lower() in CLEARS else _age(value)
        else:
            values[field] = value
    return values


def _mode(text: str) -> str:
    mode = ALIASES.get(text.lower()) or next((m for m in Mode if m.value == text.lower()), None)
    if mode is None:
        raise _refused("--mode", f"one of {', '.join(Mode)}")
    return mode.value


def _age(text: str) -> int:
    seconds = int(duration(text, option="--max-catalog-age"))
    if seconds <= 0:
        raise _refused("--max-catalog-age", "longer than nothing, like 43200 or 30d, or none")
    return seconds


def listing() -> list[dict[str, Any]]:
    return [as_json(row) for row in PricePolicy.objects.select_related("vault").order_by("id")]


def as_json(row: PricePolicy) -> dict[str, Any]:
    limits = {name: None if (limit := getattr(row, name)) is None else money(limit) for name in LIMITS}
    return {
        "id": str(row.pk),
        "scope": row.scope,
        "provider": row.provider or None,
        "vault": row.vault.name if row.vault else None,
        "mode": row.mode,
        "currency": row.currency,
        **limits,
        "max_catalog_age_seconds": row.max_catalog_age,
        "allow_stale_catalog": row.allow_stale_catalog,
        "require_verified_catalog": row.require_verified_catalog,
        "active": row.mode != Mode.OFF.value,
    }


def text(value: dict[str, Any]) -> str:
    rows = [
        (
            p["id"],
            p["scope"],
            p["provider"] or p["vault"],
            p["mode"],
            p["currency"],
            p["max_run"],
            p["max_daily"],
            p["max_monthly"],
            "allow" if p["allow_stale_catalog"] else "deny",
        )
        for p in value["policies"]
    ]
    return table(("ID", "SCOPE", "OF", "MODE", "CURRENCY", "RUN", "DAILY", "MONTHLY", "STALE"), rows)


def _refused(name: str, accepted: str) -> Refused:
    return Refused(f"{name} must be {accepted}.", code="invalid_value", remedy="Nothing was stored.")
