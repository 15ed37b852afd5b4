"""Marks tests by their directory."""

from __future__ import annotations

from pathlib import Path

import pytest

KINDS = ("unit", "integration", "simulation", "acceptance")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        kind = item.path.relative_to(here).parts[0]
        if kind in KINDS:
            item.add_marker(getattr(pytest.mark, kind))
