"""Budgets on the engine, without the layers above."""

from __future__ import annotations

import pytest

from budgets.allotments import open_budget, write_off
from budgets.notify import run_ended
from budgets.reserve import close_books
from vaulthalla.work import registry


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but what budgets register."""
    monkeypatch.setattr(registry, "load", lambda: None)
    monkeypatch.setattr(registry, "_handlers", {})
    ended = [close_books, run_ended]
    for hooks, ours in (("run_created", [open_budget]), ("run_finished", ended), ("swept", [write_off])):
        monkeypatch.setattr(registry, hooks, ours)
