"""What a publish came to, for people."""

from __future__ import annotations

from typing import Any

from vaulthalla import units


def manifest_text(outcome: dict[str, Any]) -> str:
    """One line: what was published and how large it is, or why it waits."""
    if not outcome["published"]:
        return f"not published yet, the next run tries again: {outcome['reason']}"
    objects = f"{outcome['objects']} {'object' if outcome['objects'] == 1 else 'objects'}"
    return f"{outcome['rows']} changed rows published as {objects}, {units.format_size(outcome['bytes'])}"
