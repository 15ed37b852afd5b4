"""A vault's sync policy: read from options, checked as a whole, told as JSON.

Option values are text as typed, keyed as in `vaulthalla.vaults.options`; flags are booleans.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any

from django.db.models import F
from django.db.models.functions import Least, Now

from vaulthalla import units
from vaulthalla.errors import Refused
from vaulthalla.requests import RequestClass
from vaulthalla.terms import ConflictPolicy, Strategy
from vaulthalla.vaults import overlap, remote
from vaulthalla.vaults.models import CONFLICT_POLICIES, StaleIndexPolicy, SyncPolicy, Vault, VaultKind
from vaulthalla.vaults.presets import PRESETS, preset_of

Option = str | bool
MAX_DELETE = re.compile(r"(?:100|[0-9]{1,2})%|[0-9]{1,12}")
LIMITS = tuple(f"budget_{request_class.field}" for request_class in RequestClass)
# Options that mean something only for a bucket, with the names to refuse them by.
S3_ONLY = {
    "strategy": "--strategy",
    "max_remote_index_age": "--max-remote-index-age",
    "on_stale_index": "--on-stale-index",
    "delete_foreign": "--delete-foreign",
    "events_queue": "--events-queue",
    "preset": "--s3-budget-preset",
    "take_over": "--take-over",
    **{f"budget_{request_class.field}": request_class.option for request_class in RequestClass},
}


def new_policy(vault: Vault) -> SyncPolicy:
    """The defaults for a vault of this kind, not saved."""
    policy = SyncPolicy(vault=vault)
    if vault.kind == VaultKind.LOCAL:
        policy.strategy, policy.conflict_policy = Strategy.SYNC, ConflictPolicy.KEEP_BOTH
        policy.max_remote_index_age_seconds = None
    return policy


def apply_policy_options(policy: SyncPolicy, options: Mapping[str, Option]) -> list[str]:
    """Sets what the options say and returns the names of the fields that changed; saves nothing.

    The preset comes first whatever the order, then single fields. Raises Refused, naming the option,
    when a value or the whole that results is not acceptable; the policy object is then undefined.
    """
    _refuse_s3_options(policy.vault, options)
    before = _values(policy)
    for name, apply in _APPLY.items():
        if name in options:
            apply(policy, options[name])
    if policy.strategy != Strategy.MIRROR and "delete_foreign" not in options:
        # It would come into force unnoticed when the vault becomes a mirror again.
        policy.delete_foreign = False
    check_policy(policy)
    after = _values(policy)
    if options.get("take_over"):
        # Until this vault has published, and is the writer that others find.
        policy.vault.mirror_writer = policy.vault.marker
    if policy.pk is None or after["strategy"] != before["strategy"]:
        overlap.check(policy.vault, policy.strategy, take_over=bool(options.get("take_over")))
    return [name for name, value in after.items() if before[name] != value]


def set_option(policy: SyncPolicy, name: str, value: Option) -> None:
    """One option by itself, for forms that say of each field what is wrong; `apply_policy_options` checks the whole."""
    _APPLY[name](policy, value)


def check_policy(policy: SyncPolicy) -> None:
    """What must hold between fields, whoever sets them."""
    accepted = CONFLICT_POLICIES[VaultKind(policy.vault.kind)]
    if policy.conflict_policy not in accepted:
        raise units.refuse("--on-sync-conflict", f"{_one_of(accepted)} for this kind of vault")
    if policy.strategy == Strategy.MIRROR and policy.conflict_policy == ConflictPolicy.KEEP_BOTH:
        raise Refused(
            "--on-sync-conflict keep_both does not fit --strategy mirror: a mirror never writes locally.",
            code="invalid_value",
            remedy="Choose keep_local, keep_remote, keep_newest or ask.",
        )
    if policy.delete_foreign and policy.strategy != Strategy.MIRROR:
        raise Refused(
            "--delete-foreign fits only --strategy mirror.", code="invalid_value", remedy="Leave it out, or mirror."
        )


def save_policy(policy: SyncPolicy, changed: list[str]) -> None:
    """Writes the changed fields only: runs keep their own state in the same row. Ends a back-off."""
    if policy.vault.mirror_writer == policy.vault.marker:
        Vault.objects.filter(pk=policy.vault_id).update(mirror_writer=policy.vault.mirror_writer)
    if not changed:
        return
    policy.backoff_level = 0
    policy.save(update_fields=[*changed, "backoff_level", "updated_at"])
    soon = Now() + timedelta(seconds=policy.interval_seconds)
    SyncPolicy.objects.filter(pk=policy.pk, next_sync_at__isnull=False).update(
        next_sync_at=Least(F("next_sync_at"), soon)
    )


def policy_json(policy: SyncPolicy) -> dict[str, Any]:
    """The `policy` part of `vh vault sync info --json`."""
    return {
        "interval_seconds": policy.interval_seconds,
        "enabled": policy.enabled,
        "strategy": policy.strategy,
        "conflict_policy": policy.conflict_policy,
        "max_remote_index_age_seconds": policy.max_remote_index_age_seconds,
        "on_stale_index": policy.on_stale_index,
        "max_delete": policy.max_delete,
        "delete_foreign": policy.delete_foreign,
        "events_queue": policy.events_queue or None,
    }


def budget_json(policy: SyncPolicy) -> dict[str, Any]:
    """The `budget` part: `preset`, then a limit per field, null where there is none."""
    limits = {request_class.field: policy.limit(request_class) for request_class in RequestClass}
    return {"preset": preset_of(policy.limit), **limits}


def _refuse_s3_options(vault: Vault, options: Mapping[str, Option]) -> None:
    if vault.kind == VaultKind.S3:
        return
    for name, option in S3_ONLY.items():
        # A flag that says no changes nothing.
        if options.get(name):
            raise Refused(
                f"{option} does not apply to a local vault.",
                code="not_for_local_vaults",
                remedy=f"Leave {option} out.",
            )


def _values(policy: SyncPolicy) -> dict[str, Any]:
    fields = ("enabled", "interval_seconds", "strategy", "conflict_policy", "max_remote_index_age_seconds")
    rest = ("on_stale_index", "max_delete", "delete_foreign", "events_queue")
    return {name: getattr(policy, name) for name in (*fields, *rest, *LIMITS)}


def _set_choice(policy: SyncPolicy, value: Option, *, field: str, option: str, accepted: tuple[str, ...]) -> None:
    chosen = str(value).strip().lower().replace("-", "_")
    if chosen not in accepted:
        raise units.refuse(option, _one_of(accepted))
    setattr(policy, field, chosen)


def _set_conflict(policy: SyncPolicy, value: Option) -> None:
    accepted = tuple(CONFLICT_POLICIES[VaultKind(policy.vault.kind)])
    _set_choice(policy, value, field="conflict_policy", option="--on-sync-conflict", accepted=accepted)


def _set_interval(policy: SyncPolicy, value: Option) -> None:
    policy.interval_seconds = units.duration(str(value), option="--interval", minimum=1)


def _set_age(policy: SyncPolicy, value: Option) -> None:
    policy.max_remote_index_age_seconds = units.limited_duration(str(value), option="--max-remote-index-age")


def _set_flag(policy: SyncPolicy, value: Option, *, field: str) -> None:
    setattr(policy, field, bool(value))


def _set_max_delete(policy: SyncPolicy, value: Option) -> None:
    text = str(value).strip()
    if units.is_unlimited(text):
        text = units.UNLIMITED[0]
    elif not MAX_DELETE.fullmatch(text):
        raise units.refuse("--max-delete", "a number like 200, a percentage like 50% or 'unlimited'")
    policy.max_delete = text


def _set_queue(policy: SyncPolicy, value: Option) -> None:
    text = str(value).strip()
    none = text.lower() in remote.NO_QUEUE
    policy.events_queue = "" if none else remote.queue_url(text, option="--events-queue")


def _set_preset(policy: SyncPolicy, value: Option) -> None:
    name = str(value).strip().lower()
    if name not in PRESETS:
        raise units.refuse("--s3-budget-preset", _one_of(PRESETS))
    for request_class, limit in PRESETS[name].items():
        setattr(policy, f"budget_{request_class.field}", limit)


def _set_limit(policy: SyncPolicy, value: Option, *, request_class: RequestClass) -> None:
    read = units.limited_size if request_class is RequestClass.DOWNLOAD_BYTES else units.limited_count
    setattr(policy, f"budget_{request_class.field}", read(str(value), option=request_class.option))


def _one_of(accepted: Any) -> str:
    *most, last = map(str, accepted)
    return f"{', '.join(most)} or {last}"


# In this order: the preset before single fields, the kind of strategy before what depends on it.
_APPLY: dict[str, Callable[[SyncPolicy, Option], None]] = {
    "interval": _set_interval,
    "enabled": partial(_set_flag, field="enabled"),
    "strategy": partial(_set_choice, field="strategy", option="--strategy", accepted=tuple(Strategy.values)),
    "conflict": _set_conflict,
    "max_remote_index_age": _set_age,
    "on_stale_index": partial(
        _set_choice, field="on_stale_index", option="--on-stale-index", accepted=tuple(StaleIndexPolicy.values)
    ),
    "max_delete": _set_max_delete,
    "delete_foreign": partial(_set_flag, field="delete_foreign"),
    "events_queue": _set_queue,
    "preset": _set_preset,
    **{f"budget_{one.field}": partial(_set_limit, request_class=one) for one in RequestClass},
}
