"""Marks tests by their directory, and gives property tests the same examples each time.

A check that passed passes again. New examples are looked for with `--hypothesis-profile=default`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

KINDS = ("unit", "integration", "simulation", "acceptance")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        kind = item.path.relative_to(here).parts[0]
        if kind in KINDS:
            item.add_marker(getattr(pytest.mark, kind))
