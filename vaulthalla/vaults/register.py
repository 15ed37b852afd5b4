"""Vaults created, changed and deleted: all checks first, then one transaction."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from django.db import connection, transaction

from vaulthalla.errors import Refused
from vaulthalla.vaults import overlap, places, probe, remote
from vaulthalla.vaults.lookup import api_key_by_name
from vaulthalla.vaults.models import Vault, VaultKind
from vaulthalla.vaults.overlap import location
from vaulthalla.vaults.policy import Option, apply_policy_options, new_policy, save_policy

S3_FIELDS = {
    "api_key": "--api-key",
    "bucket": "--bucket",
    "prefix": "--prefix",
    "storage_class": "--storage-class",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the operator typed; None was not typed."""

    name: str | None = None
    description: str | None = None
    pool: str | None = None
    root: str | None = None
    replica: str | None = None
    api_key: str | None = None
    bucket: str | None = None
    prefix: str | None = None
    storage_class: str | None = None


def create(kind: VaultKind, wish: Wish, policy_options: Mapping[str, Option], *, adopt: bool, verify: bool) -> Vault:
    """A saved vault with its policy and marker. Raises Refused with nothing changed."""
    take_over = bool(policy_options.get("take_over"))
    vault = Vault(kind=kind, marker=uuid.uuid4())
    _require(vault, wish)
    _apply(vault, wish)
    policy = new_policy(vault)
    apply_policy_options(policy, policy_options)
    if verify and kind == VaultKind.S3:
        vault.capabilities = probe.probe_vault(vault)
    with transaction.atomic():
        _alone(vault)
        overlap.check(vault, policy.strategy, take_over=take_over)
        vault.save()
        policy.vault = vault
        policy.save()
        probe.plant_marker(vault, adopt=adopt)
    return Vault.objects.select_related("policy", "api_key").get(pk=vault.pk)


def update(vault: Vault, wish: Wish, policy_options: Mapping[str, Option], *, adopt: bool, verify: bool) -> list[str]:
    """Saves what differs and returns the names of the changed fields.

    A vault that looks at other places than before forgets what it knew of the old ones.
    """
    before, old_places = _values(vault), _places(vault)
    _apply(vault, wish)
    policy = vault.policy
    changed_policy = apply_policy_options(policy, policy_options)
    moved = _places(vault) != old_places
    if verify and vault.kind == VaultKind.S3 and (moved or before["api_key_id"] != vault.api_key_id):
        vault.capabilities = probe.probe_vault(vault)
    with transaction.atomic():
        _alone(vault)
        if moved:
            overlap.check(vault, policy.strategy, take_over=bool(policy_options.get("take_over")))
            probe.forget(vault)
        vault.save(update_fields=[*before, "capabilities", "updated_at"])
        save_policy(policy, changed_policy)
        if moved:
            probe.plant_marker(vault, adopt=adopt)
    changed = [name.removesuffix("_id") for name, value in _values(vault).items() if before[name] != value]
    return [*changed, *changed_policy]


def delete(vault: Vault) -> None:
    """Forgets the vault. Files and objects stay as they are."""
    with transaction.atomic():
        Vault.objects.select_for_update().get(pk=vault.pk)
        probe.forget(vault)
        vault.delete()


def _require(vault: Vault, wish: Wish) -> None:
    needed = {"--root": wish.root}
    if vault.kind == VaultKind.S3:
        needed |= {"--api-key": wish.api_key, "--bucket": wish.bucket}
    else:
        needed |= {"--replica": wish.replica}
    for option, value in needed.items():
        if not value:
            raise Refused(f"{option} is needed for this kind of vault.", code="invalid_value", remedy=f"Add {option}.")


def _apply(vault: Vault, wish: Wish) -> None:
    """Sets what is wished and checks the vault as a whole."""
    _refuse_other_kind(vault, wish)
    for name in ("name", "description", "pool"):
        if (value := getattr(wish, name)) is not None:
            setattr(vault, name, value)
    if wish.root is not None:
        vault.root = places.directory(wish.root, option="--root")
    if wish.replica is not None:
        vault.replica = places.directory(wish.replica, option="--replica")
    _apply_remote(vault, wish)
    vault.full_clean(exclude=["marker"], validate_unique=False, validate_constraints=False)
    _check_name(vault)
    places.check_apart(vault)


def _apply_remote(vault: Vault, wish: Wish) -> None:
    if wish.api_key is not None:
        vault.api_key = api_key_by_name(wish.api_key)
    if wish.bucket is not None:
        vault.bucket = remote.bucket(wish.bucket)
    if wish.prefix is not None:
        vault.prefix = remote.prefix(wish.prefix)
    if vault.api_key:
        wished = vault.storage_class if wish.storage_class is None else wish.storage_class
        vault.storage_class = remote.storage_class(wished, vault.api_key.provider)


def _refuse_other_kind(vault: Vault, wish: Wish) -> None:
    if vault.kind == VaultKind.S3 and wish.replica is not None:
        raise Refused(
            "--replica does not apply to an S3 vault.", code="not_for_s3_vaults", remedy="Leave --replica out."
        )
    if vault.kind == VaultKind.S3:
        return
    for name, option in S3_FIELDS.items():
        if getattr(wish, name) is not None:
            raise Refused(
                f"{option} does not apply to a local vault.", code="not_for_local_vaults", remedy=f"Leave {option} out."
            )


def _alone(vault: Vault) -> None:
    """Until the transaction ends no other command creates or moves a vault: what was checked before stays true."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('vaulthalla.vaults.register'))")
    _check_name(vault)
    places.check_apart(vault)


def _check_name(vault: Vault) -> None:
    if Vault.objects.filter(name=vault.name).exclude(pk=vault.pk).exists():
        raise Refused(f"There is already a vault {vault.name!r}.", code="exists", remedy="Choose another name.")


def _values(vault: Vault) -> dict[str, object]:
    names = ("name", "description", "pool", "root", "replica", "api_key_id", "bucket", "prefix", "storage_class")
    return {name: getattr(vault, name) for name in names}


def _places(vault: Vault) -> tuple[str, ...]:
    return (vault.root, vault.replica, vault.bucket, vault.prefix, location(vault.api_key) if vault.api_key else "")
