"""Everything of this app that registers with the engine."""

from __future__ import annotations

import sync.executor
import sync.finish
import sync.hash_phase
import sync.planner
import sync.prepare
import sync.prices
import sync.scan  # noqa: F401
