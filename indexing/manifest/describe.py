"""What a publish came to, for people; and what a run must not keep to itself."""

from __future__ import annotations

from typing import Any

from budgets import access
from vaulthalla import units
from vaulthalla.errors import StallCode
from vaulthalla.work.models import Run


def manifest_text(outcome: dict[str, Any]) -> str:
    """One line: what was published and how large it is, or why it waits."""
    if not outcome["published"]:
        return f"not published yet, the next run tries again: {outcome['reason']}"
    objects = f"{outcome['objects']} {'object' if outcome['objects'] == 1 else 'objects'}"
    return f"{outcome['rows']} changed rows published as {objects}, {units.format_size(outcome['bytes'])}"


def warnings(run: Run) -> list[str]:
    """What a command says of its run on stderr: limits in money that it passes, and a manifest that lacks it."""
    outcome = run.result.get("manifest")
    found = access.warnings(run.pk)
    # A conflict is the run's stall, and told as that.
    if outcome is None or outcome["published"] or outcome["reason"] == StallCode.MANIFEST_CONFLICT:
        return found
    room = f"; more room: {outcome['remedy']}" if outcome.get("remedy") else ""
    return [*found, f"the manifest was not published ({outcome['reason']}), the next run tries again{room}"]
