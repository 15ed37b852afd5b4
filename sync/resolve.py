"""The operator's decisions about conflicts."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote

from django.db import transaction

from sync.models import Base, Conflict, ConflictStatus
from vaulthalla.errors import NotFound, Refused
from vaulthalla.terms import Strategy
from vaulthalla.vaults.models import Vault

DECISIONS = "one of --keep-local, --keep-remote and --keep-both"


def decide_conflicts(vault: Vault, ids: Sequence[str], *, every: bool, decisions: Sequence[str]) -> list[str]:
    """Notes one decision for the conflicts named and returns their paths. All or none; raises Refused."""
    if len(decisions) != 1:
        raise Refused(f"Say how: exactly {DECISIONS}.", code="invalid_value", remedy="Give exactly one of them.")
    decision = decisions[0]
    if bool(ids) == every:
        raise Refused("Name the conflicts by id, or say --all.", code="invalid_value", remedy=_listed(vault))
    if decision == "keep_both" and vault.policy.strategy == Strategy.MIRROR:
        raise Refused(
            "A mirror never writes locally, so it cannot keep both.",
            code="invalid_value",
            remedy="Choose --keep-local or --keep-remote.",
        )
    with transaction.atomic():
        chosen = _chosen(vault, ids)
        Conflict.objects.filter(pk__in=[c.pk for c in chosen]).update(resolution=decision)
        paths = [conflict.path for conflict in chosen]
        # From here on any run decides these paths again.
        Base.objects.filter(vault=vault, path__in=paths).update(settled_policy=None)
    return paths


def _chosen(vault: Vault, ids: Sequence[str]) -> list[Conflict]:
    found = {str(c.pk): c for c in Conflict.objects.filter(vault=vault, status=ConflictStatus.OPEN)}
    missing = [number for number in ids if number.lstrip("#") not in found]
    if missing:
        raise NotFound(
            f"Vault {vault.name!r} has no open conflict {', '.join(missing)}.",
            remedy=_listed(vault),
        )
    chosen = [found[number.lstrip("#")] for number in ids] if ids else list(found.values())
    if not chosen:
        raise Refused(f"Vault {vault.name!r} has no open conflicts.", code="nothing_to_do", remedy=_listed(vault))
    return chosen


def _listed(vault: Vault) -> str:
    return f"`vh vault sync conflicts {quote(vault.name)}` lists them."
