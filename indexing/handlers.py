"""Everything of this app that registers with the engine."""

from __future__ import annotations

import indexing.manifest.publish
import indexing.reconcile  # noqa: F401
