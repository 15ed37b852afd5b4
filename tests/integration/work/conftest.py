"""Vaults, and runs made of handlers that tests supply."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

from vaulthalla.vaults.models import SyncPolicy, Vault, VaultKind
from vaulthalla.work import lease, registry
from vaulthalla.work.lease import Lease
from vaulthalla.work.values import Yield


@pytest.fixture
def vault(transactional_db: None) -> Vault:
    """A local vault; nothing here reaches its directories."""
    vault = Vault.objects.create(name="docs", kind=VaultKind.LOCAL, root="/docs", replica="/copy", marker=uuid4())
    SyncPolicy.objects.create(vault=vault)
    return vault


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine by itself: nothing that the layers above register."""
    monkeypatch.setattr(registry, "load", lambda: None)
    for hooks in ("run_created", "run_finished", "swept"):
        monkeypatch.setattr(registry, hooks, [])


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`handle("kind", function)` for the length of one test."""
    handlers = dict(registry._handlers)
    monkeypatch.setattr(registry, "_handlers", handlers)

    def add(kind: str, function: Callable[[Lease], Yield | None]) -> None:
        handlers[kind] = function

    return add


@pytest.fixture(autouse=True)
def _not_ending() -> Iterator[None]:
    """A test that ends this process in play does not end the next one."""
    yield
    lease.shutdown.clear()
