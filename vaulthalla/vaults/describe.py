"""A vault as JSON and for people."""

from __future__ import annotations

from typing import Any

from vaulthalla import units
from vaulthalla.console import fields
from vaulthalla.vaults.models import Vault, VaultKind
from vaulthalla.vaults.policy import budget_json, policy_json

CONDITIONS = ("put", "copy", "delete")


def vault_json(vault: Vault) -> dict[str, Any]:
    """Stable names; fields of the other kind are null. Ids are strings; never a secret."""
    policy, key = vault.policy, vault.api_key
    return {
        "id": str(vault.pk),
        "name": vault.name,
        "kind": vault.kind,
        "description": vault.description,
        "root": vault.root,
        "pool": vault.pool,
        "replica": vault.replica or None,
        "provider": key.provider if key else None,
        "api_key": key.name if key else None,
        "endpoint": key.endpoint if key else None,
        "bucket": vault.bucket or None,
        "prefix": vault.prefix if key else None,
        "storage_class": vault.storage_class or None,
        "conditional": conditional_json(vault) if key else None,
        "strategy": policy.strategy,
        "conflict_policy": policy.conflict_policy,
        "policy": policy_json(policy),
        "budget": budget_json(policy),
        "last_sync_at": policy.last_sync_at,
        "last_success_at": policy.last_success_at,
        "created_at": vault.created_at,
        "updated_at": vault.updated_at,
    }


def conditional_json(vault: Vault) -> dict[str, bool]:
    """Which conditional requests the probe proved."""
    return {name: bool(vault.capabilities.get(f"conditional_{name}")) for name in CONDITIONS}


def vault_text(value: dict[str, Any]) -> str:
    """`vault_json` as lines."""
    policy, budget = value["policy"], dict(value["budget"])
    lines = [("Vault", value["name"]), ("ID", value["id"]), ("Kind", value["kind"]), ("Root", value["root"])]
    if value["kind"] == VaultKind.LOCAL:
        lines.append(("Replica", value["replica"]))
    else:
        place = f"{value['bucket']}/{value['prefix']}"
        lines += [("API key", f"{value['api_key']} ({value['provider']})"), ("Endpoint", value["endpoint"])]
        lines += [("Bucket", place), ("Storage class", value["storage_class"] or "provider's default")]
        proven = [name for name, yes in value["conditional"].items() if yes]
        lines += [("Proven conditions", ", ".join(proven) or "none"), ("Strategy", value["strategy"])]
        lines += [("Request budget", budget["preset"])]
    lines += [
        ("Conflict policy", value["conflict_policy"]),
        ("Interval", units.format_duration(policy["interval_seconds"])),
        ("Enabled", policy["enabled"]),
        ("Max delete", policy["max_delete"]),
        ("Last sync at", value["last_sync_at"]),
        ("Last success at", value["last_success_at"]),
    ]
    optional = [("Description", value["description"]), ("Pool", value["pool"])]
    return fields([*lines, *((name, text) for name, text in optional if text)])
