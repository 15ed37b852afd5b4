"""What stops a plan before it does harm: too many deletes, too little space, too many bytes to download."""

from __future__ import annotations

from collections.abc import Mapping
from shlex import quote

from django.db.models import Q

from budgets.access import budget_stall, let_through, preflight, remaining
from indexing.state import state_of
from sync import sql
from sync.decide import Action
from sync.models import Base, LocalFile
from sync.options import SyncOptions
from sync.prices import usages
from sync.tree import Tree
from vaulthalla.errors import Stall, StallCode
from vaulthalla.remedies import OR, sync_of
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.vaults.models import SyncPolicy, Vault, VaultKind
from vaulthalla.work.again import again
from vaulthalla.work.engine import record_stall
from vaulthalla.work.models import Run, RunKind

# No more deletes than this are never too large a share.
ALWAYS_ALLOWED = 10
# A disk filled to the last byte harms more than this vault.
SPACE_KEPT = 64 * 2**20
BODIES = (Action.DOWNLOAD.value, Action.KEEP_BOTH.value)


def most_deletes(rule: str, files: int) -> int | None:
    """How many of `files` a plan may delete under `--max-delete`; None: any number."""
    if rule in ("unlimited", ""):
        return None
    if rule.endswith("%"):
        return max(ALWAYS_ALLOWED, int(files * float(rule[:-1]) / 100))
    return int(rule)


def check_deletes(run: Run, vault: Vault, options: SyncOptions, actions: Mapping[str, int], *, renamed: int) -> None:
    """Raises Stall(delete_guard) when a plan deletes more of one side than the policy allows.

    Objects that were renamed are not lost, so they do not count.
    """
    remote = actions.get(Action.DELETE_REMOTE.value, 0) - renamed
    local = actions.get(Action.DELETE_LOCAL.value, 0)
    if options.allow_deletes or run.kind == RunKind.RESOLVE or remote + local <= 0:
        return
    policy: SyncPolicy = vault.policy
    seen = "" if options.plan is None else f" --plan {options.plan}"
    leave = f"{sync_of(vault.name)}{seen} --allow-deletes  # if that is meant"
    if policy.synced_strategy and policy.synced_strategy != policy.strategy:
        raise _stall(
            leave, f"the first run after the strategy changed to {policy.strategy} would delete", remote, local
        )
    if _may_be_too_many(policy.max_delete, remote):
        _check(leave, policy.max_delete, remote, state_of(vault.pk).object_count, local)
    if _may_be_too_many(policy.max_delete, local):
        # The scan counts what is left; what this plan deletes is still there.
        files = LocalFile.objects.filter(vault=vault, skip="").count()
        _check(leave, policy.max_delete, local, files, remote, local_side=True)


def _may_be_too_many(rule: str, deletes: int) -> bool:
    """Whether it is worth counting: a share is never exceeded by a few, a number may be by one."""
    return deletes > (ALWAYS_ALLOWED if rule.endswith("%") else 0)


def check_emptied(vault: Vault) -> None:
    """Raises Stall(root_missing) when bodies were held and the root is otherwise empty: a mount may be missing."""
    if LocalFile.objects.filter(vault=vault).exists():
        return
    if Base.objects.filter(Q(vault=vault) & Q(etag__isnull=False)).exists():
        raise Stall(
            StallCode.ROOT_MISSING,
            f"{vault.root} is empty, but files were synced there before; nothing was deleted.",
            remedy=OR.join(
                (
                    f"{sync_of(vault.name)}  # after mounting or restoring {quote(vault.root)}",
                    f"accept the loss: {sync_of(vault.name)} --allow-deletes",
                )
            ),
        )


def park_downloads(run: Run, vault: Vault, needs: Requests) -> None:
    """Over the download-byte limit or the free space, no body download starts; everything else proceeds.

    `needs` is the whole run's.
    """
    wanted = needs[RequestClass.DOWNLOAD_BYTES] or sql.planned_bytes(run.pk, BODIES)
    if not wanted:
        return
    wanted -= sql.bytes_held(run.pk, vault.pk, BODIES)
    stall = _bytes_stall(run, wanted, needs) or _space_stall(run, vault, wanted)
    if stall:
        record_stall(run.pk, stall)
        sql.execute(sql.PARK, (stall.code, run.pk, list(BODIES)))


def reserve_money(run: Run, vault: Vault, needs: Requests, *, again: Requests) -> None:
    """Raises Stall(price_budget) when a price policy forbids the plan, as far as the request limits let it run.

    `again` is what the next run, too, will spend before it plans. Bodies that are parked are not paid for.
    """
    if vault.kind != VaultKind.S3:
        return
    planned = Requests(needs)
    left = remaining(run.pk)[RequestClass.DOWNLOAD_BYTES]
    if left is not None and planned[RequestClass.DOWNLOAD_BYTES] > left:
        planned[RequestClass.DOWNLOAD_BYTES] = 0
    used = usages(run.pk, vault, needs, within=let_through(run.pk, needs))
    preflight(run.pk, vault, planned, used, again=again)


def _bytes_stall(run: Run, wanted: int, needs: Requests) -> Stall | None:
    left = remaining(run.pk)[RequestClass.DOWNLOAD_BYTES]
    if left is None or wanted <= left:
        return None
    planned = Requests({**needs, RequestClass.DOWNLOAD_BYTES: wanted})
    return budget_stall(run.pk, RequestClass.DOWNLOAD_BYTES, planned=planned)


def _space_stall(run: Run, vault: Vault, wanted: int) -> Stall | None:
    with Tree(vault.root) as tree:
        free = tree.free_bytes()
    if wanted + SPACE_KEPT <= free:
        return None
    return Stall(
        StallCode.DISK_SPACE,
        f"The plan downloads {wanted} bytes, but only {free} are free below {vault.root}.",
        remedy=f"{again(run)}  # after freeing {wanted + SPACE_KEPT - free} bytes",
    )


def _check(leave: str, rule: str, deletes: int, files: int, other: int, *, local_side: bool = False) -> None:
    most = most_deletes(rule, files)
    if most is not None and deletes > most:
        side = "local files" if local_side else "remote objects"
        remote, local = (other, deletes) if local_side else (deletes, other)
        raise _stall(leave, f"more than {rule} of {files} {side} would be deleted:", remote, local)


def _stall(leave: str, why: str, remote: int, local: int) -> Stall:
    reason = f"{why[:1].upper()}{why[1:]} {remote} remote and {local} local."
    return Stall(StallCode.DELETE_GUARD, reason, remedy=leave)
