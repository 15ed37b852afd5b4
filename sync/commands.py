"""`vh vault sync …`, `vh vault ls|fetch|evict`: parse, call, print."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vaulthalla.cliroot import command, sync_app, vault_app
from vaulthalla.console import Console, printable, table
from vaulthalla.errors import Refused
from vaulthalla.vaults.options import POLICY_OPTIONS

VaultName = Annotated[str, typer.Argument(metavar="VAULT", help="Name or id of a vault.")]
AllowDeletes = Annotated[bool, typer.Option("--allow-deletes", help="Lift the delete guard for this run.")]
Detach = Annotated[bool, typer.Option("--detach", help="Start it and leave it to the workers.")]
Paths = Annotated[list[str], typer.Argument(metavar="PATH…", help="Paths, directories or globs below the root.")]


def register(root: typer.Typer) -> None:
    """All other commands here belong to the shared groups."""
    command(root, "demo", example="vh demo", database=False)(demo)


def demo(console: Console) -> int:
    """Tell the whole story on a local S3 server, in a scratch home, each command shown before it runs."""
    from sync.demo import demo as tell

    return tell()


@command(sync_app, "run", example="vh vault sync photos", hidden=True)
def run(
    console: Console,
    *,
    vault: VaultName,
    allow_deletes: AllowDeletes = False,
    detach: Detach = False,
    plan: Annotated[str | None, typer.Option("--plan", metavar="ID", help="Execute what a dry-run showed.")] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Neither read nor publish the bucket's manifest: plan from what is known.")
    ] = False,
) -> int:
    """Bring both sides of a vault in step: plan from the index, transfer within the budget."""
    from sync.drive import drive_to_end
    from sync.dry_run import check_plan
    from sync.options import SyncOptions
    from vaulthalla.vaults.lookup import vault_by_name
    from vaulthalla.work.models import RunKind

    found = vault_by_name(vault)
    options = SyncOptions(allow_deletes=allow_deletes, plan=check_plan(found, plan) if plan else None, offline=offline)
    return drive_to_end(console, found, RunKind.SYNC, options, detach=detach)


@command(sync_app, "dry-run", "dryrun", "plan", example="vh vault sync dry-run photos --list")
def dry_run(
    console: Console,
    *,
    vault: VaultName,
    refresh_index: Annotated[
        bool,
        typer.Option(
            "--refresh-index", "--refresh-remote-index", help="LIST the bucket first, within the LIST budget."
        ),
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="Stream every planned operation as JSON Lines.")] = False,
    strategy: Annotated[
        str | None, typer.Option("--strategy", "--sync-strategy", help="What if: cache, sync or mirror.")
    ] = None,
    conflict: Annotated[
        str | None, typer.Option("--on-sync-conflict", "--conflict", help="What if: another conflict policy.")
    ] = None,
    no_pricing: Annotated[bool, typer.Option("--no-pricing", help="Leave out what it would cost.")] = False,
    refresh_pricing: Annotated[
        bool, typer.Option("--refresh-pricing", help="Read the provider's price list first; else the known one serves.")
    ] = False,
) -> int:
    """Show what a sync would do and what it needs. Sends no request and changes nothing."""
    from sync.drive import drive_dry_run
    from vaulthalla.vaults.lookup import vault_by_name

    found = vault_by_name(vault)
    if refresh_pricing:
        from budgets.catalog_refresh import refresh_for

        console.message(refresh_for(found))
    return drive_dry_run(
        console,
        found,
        pricing=not no_pricing,
        listed=list_,
        refresh_index=refresh_index,
        strategy=strategy,
        conflict=conflict,
    )


@command(sync_app, "info", "show", "get", example="vh vault sync info photos --json")
def info(console: Console, *, vault: VaultName) -> None:
    """Show a vault's sync policy and how far its remote index can be trusted."""
    from sync.report import info_json, info_text
    from vaulthalla.vaults.lookup import vault_by_name

    console.result(info_json(vault_by_name(vault)), info_text)


@command(
    sync_app,
    "set",
    "update",
    "modify",
    "edit",
    example="vh vault sync set photos --interval 15m --s3-budget-put 5000",
    expand={"policy": POLICY_OPTIONS},
)
def set_policy(console: Console, *, vault: VaultName, policy: dict[str, Any]) -> None:
    """Change a vault's sync policy; what is not named stays. Runs that begin later follow it."""
    from sync.report import info_json, info_text
    from vaulthalla.vaults.lookup import vault_by_name
    from vaulthalla.vaults.policy import apply_policy_options, save_policy

    if not policy:
        raise Refused(
            "There are no sync settings to change.", code="invalid_value", remedy="See `vh vault sync set --help`."
        )
    found = vault_by_name(vault)
    changed = apply_policy_options(found.policy, policy)
    save_policy(found.policy, changed)
    console.message(f"Changed: {', '.join(changed) or 'nothing'}.")
    console.result({**info_json(vault_by_name(vault)), "changed": changed}, info_text)


@command(sync_app, "history", "runs", example="vh vault sync history photos --limit 5")
def history(
    console: Console,
    *,
    vault: VaultName,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many of the newest runs.")] = 20,
) -> None:
    """List a vault's runs, newest first, with what each did and spent."""
    from sync.report import run_json
    from vaulthalla.vaults.lookup import vault_by_name
    from vaulthalla.work.models import Run

    found = vault_by_name(vault)
    runs = [run_json(run) for run in Run.objects.filter(vault=found).select_related("vault").order_by("-id")[:limit]]
    console.result({"vault": found.name, "runs": runs}, lambda value: _history_table(value["runs"]))


@command(sync_app, "suggest", example="vh vault sync suggest photos --runs 50")
def suggest(
    console: Console,
    *,
    vault: VaultName,
    runs: Annotated[
        int, typer.Option("--runs", min=1, max=1_000, help="From how many of the newest that had something to do.")
    ] = 20,
) -> None:
    """Propose a request budget from what the vault's runs needed, with its reasons. Changes nothing."""
    from sync.suggestions import suggestion, suggestion_text
    from vaulthalla.vaults.lookup import vault_by_name

    console.result(suggestion(vault_by_name(vault), runs=runs), suggestion_text)


@command(sync_app, "conflicts", example="vh vault sync conflicts photos --json")
def conflicts(console: Console, *, vault: VaultName) -> None:
    """List open conflicts with what is known of both sides."""
    from sync.models import Conflict, ConflictStatus
    from sync.report import conflict_json
    from vaulthalla.vaults.lookup import vault_by_name

    found = Conflict.objects.filter(vault=vault_by_name(vault), status=ConflictStatus.OPEN)
    shown = [conflict_json(conflict) for conflict in found]
    rows = [(c["id"], c["path"], c["reason"], _side(c["local"]), _side(c["remote"])) for c in shown]
    console.result(
        {"conflicts": shown},
        lambda _: table(("ID", "PATH", "WHY", "LOCAL", "REMOTE"), rows, empty="There are no open conflicts."),
    )


@command(sync_app, "resolve", example="vh vault sync resolve photos 17 --keep-local")
def resolve(
    console: Console,
    *,
    vault: VaultName,
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID…]", help="Conflicts, by id.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every open conflict of the vault.")] = False,
    keep_local: Annotated[bool, typer.Option("--keep-local", "--local", help="The local side wins.")] = False,
    keep_remote: Annotated[bool, typer.Option("--keep-remote", "--remote", help="The remote side wins.")] = False,
    keep_both: Annotated[bool, typer.Option("--keep-both", help="The local copy is kept beside.")] = False,
) -> int:
    """Decide conflicts, for exactly the versions that were shown, and carry the decision out."""
    from sync.drive import drive_to_end
    from sync.options import SyncOptions
    from sync.resolve import decide_conflicts
    from vaulthalla.vaults.lookup import vault_by_name
    from vaulthalla.work.models import RunKind

    found = vault_by_name(vault)
    chosen = [
        name
        for name, wanted in (("keep_local", keep_local), ("keep_remote", keep_remote), ("keep_both", keep_both))
        if wanted
    ]
    paths = decide_conflicts(found, ids or [], every=all_, decisions=chosen)
    return drive_to_end(console, found, RunKind.RESOLVE, SyncOptions(patterns=paths, exact=True))


@command(sync_app, "cancel", example="vh vault sync cancel photos")
def cancel(
    console: Console,
    *,
    vault: VaultName,
    run: Annotated[str | None, typer.Option("--run", metavar="ID", help="A run by id; else all of the vault.")] = None,
) -> None:
    """Stop the vault's unfinished runs: what is done stays done."""
    from sync.cancel import cancel_runs
    from sync.report import run_json
    from vaulthalla.vaults.lookup import vault_by_name

    found = vault_by_name(vault)
    runs = [run_json(one) for one in cancel_runs(found, run)]
    text = "\n".join(f"Run {one['run']} is {one['status']}." for one in runs) or "There is nothing to cancel."
    console.result({"vault": found.name, "runs": runs}, text)


@command(vault_app, "ls", example="vh vault ls photos 2026/")
def ls(
    console: Console,
    *,
    vault: VaultName,
    path: Annotated[str | None, typer.Argument(metavar="[PATH]", help="Only this path or what is below it.")] = None,
) -> None:
    """List what is known of a vault: every path with its size and where its body is."""
    from sync.listing import entries
    from vaulthalla.vaults.lookup import vault_by_name

    found = vault_by_name(vault)
    shown = entries(found, path or "")
    if console.json:
        console.result({"vault": found.name, "entries": list(shown)})
        return
    for entry in shown:
        facts = f"{entry['state']:<9}  {entry['size']:>14}  {entry['storage_class'] or '-':<12}"
        console.line(entry, f"{facts}  {printable(entry['path'])}")


@command(vault_app, "fetch", example="vh vault fetch photos 2026/trip 'raw/*.dng'")
def fetch(console: Console, *, vault: VaultName, paths: Paths) -> int:
    """Download bodies that are only indexed here. Names a path, a directory or a glob."""
    from sync.drive import drive_to_end
    from sync.listing import require_known
    from sync.options import SyncOptions
    from vaulthalla.vaults.lookup import vault_by_name
    from vaulthalla.vaults.models import VaultKind
    from vaulthalla.work.models import RunKind

    found = vault_by_name(vault)
    if found.kind == VaultKind.LOCAL:
        raise Refused(
            "A local vault holds every body already.", code="not_for_local_vaults", remedy="There is nothing to fetch."
        )
    require_known(found, paths)
    return drive_to_end(console, found, RunKind.FETCH, SyncOptions(patterns=paths))


@command(vault_app, "evict", example="vh vault evict photos 2024/")
def evict(
    console: Console,
    *,
    vault: VaultName,
    paths: Annotated[list[str] | None, typer.Argument(metavar="PATH…", help="Paths, directories or globs.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every body that the bucket holds as it is here.")] = False,
) -> None:
    """Free the space of cached bodies that equal what the bucket holds. The objects stay."""
    from sync.evict import evict_bodies
    from vaulthalla.units import format_size
    from vaulthalla.vaults.lookup import vault_by_name

    found = vault_by_name(vault)
    if not paths and not all_:
        raise Refused("Name what to evict, or say --all.", code="invalid_value", remedy="See `vh vault evict --help`.")
    answer = evict_bodies(found, [] if all_ else paths or [])
    console.result(answer, lambda v: f"{v['evicted']} evicted, {format_size(v['bytes'])} freed; {v['kept']} kept.")


def _history_table(runs: list[dict[str, Any]]) -> str:
    from sync.prices import cost_text

    columns = ("RUN", "KIND", "STATUS", "STARTED AT", "DID", "PLANNED", "REQUESTS", "PLANNED COST", "COST", "WHY")
    rows = [
        (
            one["run"],
            one["kind"],
            one["status"],
            one["started_at"],
            _short(one["operations"]),
            _attempts((one["estimate"] or {}).get("requests", {})),
            _attempts(one["requests"]),
            cost_text((one["estimate"] or {}).get("cost")),
            cost_text(one["cost"]),
            (one["stall"] or one["error"] or {}).get("code", ""),
        )
        for one in runs
    ]
    return table(columns, rows, empty="There are no runs yet.")


def _short(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _attempts(requests: dict[str, int]) -> str:
    return _short({name: count for name, count in requests.items() if name != "downloaded_bytes"})


def _side(side: dict[str, Any]) -> str:
    if not side.get("present"):
        return "deleted"
    written = f", written {side['mtime'][:19]}Z" if side["mtime"] else ""
    return f"{side['size']} bytes{written}" + (f", ETag {side['etag']}" if "etag" in side else "")
