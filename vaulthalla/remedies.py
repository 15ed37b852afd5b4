"""What remedies are made of: commands that a shell takes as they are printed."""

from __future__ import annotations

from shlex import quote

# Between the ways out: the first may be run as it is, the others are comments to a shell.
OR = "\n# or: "
# Words that `vh vault sync` takes for a command of its own.
SYNC_COMMANDS = frozenset(
    (
        *("audit", "cancel", "conflicts", "dry-run", "dryrun", "edit", "events", "get", "history", "import-inventory"),
        *("info", "inventory", "inventory-import", "modify", "plan", "reconcile", "resolve", "run", "runs", "set"),
        *("show", "suggest", "update", "webhook"),
    )
)


def sync_of(vault: str) -> str:
    """`vh vault sync VAULT`, also of a vault that is named like a subcommand."""
    return f"vh vault sync {'run ' if vault in SYNC_COMMANDS else ''}{quote(vault)}"
