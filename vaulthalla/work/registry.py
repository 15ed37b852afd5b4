"""Who does what kind of chunk, and who wants to know when runs begin and end.

The layers above register here when their modules (settings.VH_HANDLERS) are imported, which happens on
the first run that this process creates or claims, not at start-up.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module

from django.conf import settings

from vaulthalla.work.lease import Lease
from vaulthalla.work.models import Run
from vaulthalla.work.values import Yield

Handler = Callable[[Lease], Yield | None]

FINISH = "finish"

_handlers: dict[str, Handler] = {}
run_created: list[Callable[[Run], None]] = []
run_finished: list[Callable[[Run], None]] = []
swept: list[Callable[[], None]] = []


def handler(kind: str) -> Callable[[Handler], Handler]:
    """Registers the function that executes chunks of one kind."""

    def register(function: Handler) -> Handler:
        if _handlers.setdefault(kind, function) is not function:
            raise RuntimeError(f"Two handlers for chunks of kind {kind!r}.")
        return function

    return register


def on_run_created(hook: Callable[[Run], None]) -> Callable[[Run], None]:
    """Calls `hook(run)` inside the transaction that creates a run, before its chunks exist."""
    run_created.append(hook)
    return hook


def on_run_finished(hook: Callable[[Run], None]) -> Callable[[Run], None]:
    """Calls `hook(run)` inside the transaction that closes a run; its status is final."""
    run_finished.append(hook)
    return hook


def on_sweep(hook: Callable[[], None]) -> Callable[[], None]:
    """Calls `hook()` after each sweep has taken back what lapsed."""
    swept.append(hook)
    return hook


@cache
def load() -> None:
    """Imports the modules that register; safe to call often."""
    for name in settings.VH_HANDLERS:
        import_module(name)


def handler_of(kind: str) -> Handler:
    """The function for a kind; a run kind without a finisher of its own ends with the common one."""
    load()
    if kind.startswith(f"{FINISH}."):
        return _handlers.get(kind, _finish)
    try:
        return _handlers[kind]
    except KeyError:
        raise LookupError(f"No handler for chunks of kind {kind!r} in this version.") from None


def _finish(lease: Lease) -> None:
    """Nothing to finalise beyond what closing a run does."""
