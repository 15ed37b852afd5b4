"""Everything of this app that registers with the engine."""

from __future__ import annotations

import indexing.audit
import indexing.events.polling
import indexing.inventory.importing
import indexing.manifest.publish
import indexing.reconcile  # noqa: F401
