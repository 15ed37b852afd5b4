"""`vh vault sync events --set-aside`: messages that could not be read, and why."""

from __future__ import annotations

from typing import Any

from indexing.models import SetAside
from vaulthalla.console import Console, table
from vaulthalla.vaults.models import Vault

COLUMNS = ("id", "reason", "received_at", "size", "feed", "detail")


def command(console: Console, vault: Vault, *, clear: bool) -> int:
    """Lists them; with `clear` forgets exactly those that it has listed."""
    rows = [_json(row) for row in SetAside.objects.filter(vault=vault)]
    shown = ([row[name] for name in COLUMNS] for row in rows)
    headings = [name.replace("_", " ").upper() for name in COLUMNS]
    value = {"vault": vault.name, "set_aside": rows, "cleared": len(rows) if clear else 0}
    console.result(value, lambda _: table(headings, shown, empty="No message was set aside."))
    if clear:
        SetAside.objects.filter(vault=vault, pk__in=[int(row["id"]) for row in rows]).delete()
    return 0


def _json(row: SetAside) -> dict[str, Any]:
    return {
        "id": str(row.pk),
        "feed": row.feed,
        "message_id": row.message_id or None,
        "reason": row.reason,
        "detail": row.detail,
        "excerpt": row.excerpt,
        "size": row.size,
        "received_at": row.received_at,
    }
