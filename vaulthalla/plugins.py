"""What the layers above contribute, by name, so that importing this costs nothing and points no arrow upwards."""

from __future__ import annotations

# Modules with `register(root: typer.Typer) -> None`, in the order of `vh --help`.
COMMANDS = (
    "vaulthalla.vaults.commands",
    "sync.commands",
    "indexing.commands",
    "budgets.commands",
    "vaulthalla.work.commands",
)

# The module that may send requests on behalf of vault and key commands (see vaulthalla.vaults.probe).
PROBE = "sync.probe"

# Modules that register handlers of chunks and hooks of runs (see vaulthalla.work.registry).
HANDLERS: tuple[str, ...] = ("budgets.handlers", "indexing.handlers", "sync.handlers")
