"""A run, a vault's sync state and its conflicts, as JSON and for people. The names are a contract."""

from __future__ import annotations

from typing import Any

from budgets.access import lost, spent
from indexing.describe import feeds_lines, index_report
from indexing.manifest.describe import manifest_text, warnings
from sync.finish import COUNTED
from sync.models import Conflict
from sync.prices import cost_json, cost_text, estimate_json
from vaulthalla import units
from vaulthalla.console import cell, fields
from vaulthalla.requests import Requests
from vaulthalla.vaults.describe import conditional_json
from vaulthalla.vaults.models import Vault, VaultKind
from vaulthalla.vaults.policy import budget_json, policy_json
from vaulthalla.work.models import Run

LOCAL_EVIDENCE = ("present", "size", "sha256")
REMOTE_EVIDENCE = (*LOCAL_EVIDENCE, "etag", "storage_class")
NO_OPERATIONS = {**{action.value: 0 for action in COUNTED}, "failed": 0}


def run_json(run: Run) -> dict[str, Any]:
    """DESIGN's `run`: every key is always there."""
    return {
        "run": str(run.pk),
        "kind": run.kind,
        "vault": run.vault.name if run.vault else None,
        "status": run.status,
        "trigger": run.trigger,
        "stall": (
            {"code": run.stall_code, "reason": run.stall_reason, "remedy": run.stall_remedy} if run.stall_code else None
        ),
        "error": (
            {"code": run.error_code, "message": run.error_message, "remedy": run.error_remedy}
            if run.error_code
            else None
        ),
        "operations": {**NO_OPERATIONS, **run.result.get("operations", {})},
        "skipped": run.result.get("skipped", {}),
        "bytes": run.result.get("bytes", {"up": 0, "down": 0}),
        "failures": run.result.get("failures", []),
        "manifest": run.result.get("manifest"),
        "requests": spent(run.pk).as_json(),
        "lost": lost(run.pk).as_json(),
        "cost": cost_json(run),
        "estimate": estimate_json(run),
        "warnings": warnings(run),
        "started_at": run.started_at,
        "finished_at": run.finished_at,
    }


def run_text(value: dict[str, Any]) -> str:
    operations = {name.replace("_", " "): count for name, count in value["operations"].items() if count}
    requests = {name.replace("_", " "): count for name, count in value["requests"].items() if count}
    moved = value["bytes"]
    lines: list[tuple[str, Any]] = [
        ("Run", f"{value['run']} ({value['kind']} of {value['vault']})"),
        ("Status", value["status"]),
        ("Operations", _counts(operations) or "nothing to do"),
    ]
    if value["skipped"]:
        lines.append(("Skipped", _counts(value["skipped"])))
    if moved["up"] or moved["down"]:
        lines.append(("Bytes", f"{units.format_size(moved['up'])} up, {units.format_size(moved['down'])} down"))
    lines.append(("Requests", _counts(requests) or "none"))
    if value["manifest"]:
        lines.append(("Manifest", manifest_text(value["manifest"])))
    if value["cost"]:
        lines.append(("Cost", cost_text(value["cost"])))
    lines += [("Failed", f"{f['path']}: {f['reason']}") for f in value["failures"]]
    for name in ("stall", "error"):
        if value[name]:
            lines.append(
                (name.capitalize(), f"{value[name]['code']}: {value[name].get('reason') or value[name].get('message')}")
            )
            lines.append(("Remedy", value[name]["remedy"]))
    return fields(lines)


def info_json(vault: Vault) -> dict[str, Any]:
    policy = vault.policy
    return {
        "vault": vault.name,
        "kind": vault.kind,
        "policy": policy_json(policy),
        "budget": budget_json(policy),
        "index": index_report(vault),
        "conditional": conditional_json(vault),
        "last_sync_at": policy.last_sync_at,
        "last_success_at": policy.last_success_at,
    }


def info_text(value: dict[str, Any]) -> str:
    policy, index = value["policy"], value["index"]
    age = policy["max_remote_index_age_seconds"]
    lines: list[tuple[str, Any]] = [
        ("Vault", value["vault"]),
        ("Interval", units.format_duration(policy["interval_seconds"])),
        ("Enabled", policy["enabled"]),
        ("Strategy", policy["strategy"]),
        ("Conflict policy", policy["conflict_policy"]),
        ("Max delete", policy["max_delete"]),
    ]
    if value["kind"] == VaultKind.S3:
        budget = dict(value["budget"])
        lines.append(("S3 request budget", budget.pop("preset")))
        lines += [(f"  {name}", "unlimited" if limit is None else limit) for name, limit in budget.items()]
        lines.append(("Max remote index age", "unlimited" if age is None else units.format_duration(age)))
        lines.append(("On stale index", policy["on_stale_index"]))
        proven = [name for name, yes in value["conditional"].items() if yes]
        lines.append(("Proven conditions", ", ".join(proven) or "none: a HEAD before each write"))
    lines += [("Last sync at", value["last_sync_at"]), ("Last success at", value["last_success_at"])]
    lines.append(("Remote index", index["freshness"]))
    own_lines = ("freshness", "feeds", "warnings")
    lines += [(f"  {name.replace('_', ' ')}", _part(part)) for name, part in index.items() if name not in own_lines]
    lines += feeds_lines(index)
    return fields(lines)


def _part(value: Any) -> str:
    """A fact of the index on one line."""
    if not isinstance(value, dict):
        return cell(value)
    return ", ".join(f"{name.replace('_', ' ')} {_part(part)}" for name, part in value.items()) or "-"


def conflict_json(conflict: Conflict) -> dict[str, Any]:
    return {
        "id": str(conflict.pk),
        "path": conflict.path,
        "reason": conflict.reason,
        "local": _evidence(conflict.local, LOCAL_EVIDENCE),
        "remote": _evidence(conflict.remote, REMOTE_EVIDENCE),
        "resolution": conflict.resolution or None,
        "detected_at": conflict.detected_at,
    }


def _evidence(side: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """What was known of a side, null where nothing was; the time as RFC 3339, since nanoseconds overflow a double."""
    shown = {name: side.get(name) for name in names}
    return {"present": False, **shown, "mtime": units.format_ns(side.get("mtime_ns"))}


def _counts(counts: dict[str, int] | Requests) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
