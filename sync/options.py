"""What a sync-like run was asked to do, as it is kept on the run row."""

from __future__ import annotations

from typing import Any

import msgspec

from sync.selection import Selection
from vaulthalla.work.models import Run, RunKind, Trigger


class SyncOptions(msgspec.Struct, kw_only=True, frozen=True):
    """`patterns` empty: every path. `exact`: patterns are paths, whatever characters they hold."""

    allow_deletes: bool = False
    patterns: list[str] = []
    exact: bool = False

    @classmethod
    def of(cls, run: Run) -> SyncOptions:
        return msgspec.convert(run.options.get("sync", {}), cls)

    def as_options(self) -> dict[str, Any]:
        """For `create_run(options=…)`."""
        return {"sync": msgspec.to_builtins(self)}

    def selection(self, run: Run) -> Selection:
        """Fetch and resolve ask again about settled paths; a manual sync about objects that needed a restore."""
        named = run.kind in (RunKind.FETCH, RunKind.RESOLVE)
        return Selection(
            patterns=self.patterns,
            exact=self.exact,
            settled=named,
            archived=run.trigger == Trigger.MANUAL,
        )
