"""The command that goes on where a run stopped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from shlex import quote
from typing import Any

from vaulthalla.remedies import sync_of
from vaulthalla.vaults.models import Vault
from vaulthalla.work.models import Run, RunKind


def again(run: Run) -> str:
    """As the run was asked for: a sync fetches no body that a fetch was to bring, and a look is not to act.

    Of kinds that ask a vault's store. A resolution stands with its conflict: any sync carries it out.
    """
    if run.vault is None:
        raise AssertionError("a run of no vault is no command")
    name = quote(run.vault.name)
    match run.kind:
        case RunKind.SYNC | RunKind.RESOLVE:
            return " ".join((sync_of(run.vault.name), *_leave(run.options.get("sync", {}))))
        case RunKind.FETCH:
            return " ".join(("vh vault fetch", name, *_paths(run.options["sync"]["patterns"])))
        case RunKind.DRY_RUN:
            return " ".join(("vh vault sync dry-run", name, *_supposed(run.vault, run.options.get("sync", {}))))
        case RunKind.RECONCILE:
            prefix = f" --prefix={quote(run.options['prefix'])}" if run.options.get("prefix") else ""
            # The limit that was lifted for this run alone.
            return f"vh vault sync reconcile {name}{prefix}{' --allow-list-scan' if 'limits' in run.options else ''}"
        case RunKind.AUDIT:
            return f"vh vault sync audit {name} --sample {run.options['sample']}"
        case other:
            raise AssertionError(f"a run of kind {other} does not read a vault's store")


def _leave(asked: Mapping[str, Any]) -> Iterator[str]:
    """What was allowed to this run alone."""
    if asked.get("plan"):
        yield f"--plan {asked['plan']}"
    for option, name in (("--allow-deletes", "allow_deletes"), ("--offline", "offline")):
        if asked.get(name):
            yield option


def _supposed(vault: Vault, asked: Mapping[str, Any]) -> Iterator[str]:
    if asked.get("refresh_index"):
        yield "--refresh-index"
    policy = vault.policy
    for option, supposed, held in (
        ("--strategy", asked.get("strategy"), policy.strategy),
        ("--on-sync-conflict", asked.get("conflict"), policy.conflict_policy),
    ):
        if supposed and supposed != held:
            yield f"{option} {supposed}"


def _paths(named: list[str]) -> Iterator[str]:
    if any(path.startswith("-") for path in named):
        yield "--"
    yield from map(quote, named)
