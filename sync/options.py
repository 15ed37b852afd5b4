"""What a sync-like run was asked to do, as it is kept on the run row."""

from __future__ import annotations

from typing import Any

import msgspec

from sync.selection import Selection
from vaulthalla.vaults.models import SyncPolicy
from vaulthalla.work.models import Run, RunKind, Trigger


class SyncOptions(msgspec.Struct, kw_only=True, frozen=True):
    """`patterns` empty: every path. `exact`: patterns are paths, whatever characters they hold.

    `offline`: the manifest is neither read nor written.

    `plan`: the dry-run whose operations are to be done. The policy's terms are those of the moment the run was
    asked for, so that a change of policy never mixes two strategies in one plan; a dry-run may suppose others.
    """

    allow_deletes: bool = False
    patterns: list[str] = []
    exact: bool = False
    plan: int | None = None
    refresh_index: bool = False
    offline: bool = False
    strategy: str | None = None
    conflict: str | None = None
    delete_foreign: bool | None = None
    max_delete: str | None = None

    @classmethod
    def of(cls, run: Run) -> SyncOptions:
        return msgspec.convert(run.options.get("sync", {}), cls)

    def supposed(self, policy: SyncPolicy) -> SyncPolicy:
        """The policy as this run supposes it; the change lives in this object only and must not be saved."""
        policy.strategy = self.strategy or policy.strategy
        policy.conflict_policy = self.conflict or policy.conflict_policy
        policy.max_delete = self.max_delete or policy.max_delete
        if self.delete_foreign is not None:
            policy.delete_foreign = self.delete_foreign
        return policy

    def as_options(self, policy: SyncPolicy) -> dict[str, Any]:
        """For `create_run(options=…)`."""
        terms = {
            "strategy": self.strategy or policy.strategy,
            "conflict": self.conflict or policy.conflict_policy,
            "delete_foreign": policy.delete_foreign,
            "max_delete": policy.max_delete,
        }
        return {"sync": msgspec.to_builtins(self) | terms}

    def selection(self, run: Run) -> Selection:
        """Fetch and resolve ask again about settled paths; a manual sync about objects that needed a restore."""
        named = run.kind in (RunKind.FETCH, RunKind.RESOLVE)
        return Selection(
            patterns=self.patterns,
            exact=self.exact,
            settled=named,
            archived=run.trigger == Trigger.MANUAL,
        )
