"""`vh vault sync reconcile`: parse, call, print."""

from __future__ import annotations

from typing import Annotated

import typer

from vaulthalla.cliroot import command, sync_app
from vaulthalla.console import Console

VaultName = Annotated[str, typer.Argument(metavar="VAULT", help="Name or id of a vault.")]


def register(root: typer.Typer) -> None:
    """The commands here belong to a shared group."""


@command(sync_app, "reconcile", example="vh vault sync reconcile photos --allow-list-scan")
def reconcile(
    console: Console,
    *,
    vault: VaultName,
    allow_list_scan: Annotated[
        bool, typer.Option("--allow-list-scan", help="Lift the LIST limit for this run, however many pages it takes.")
    ] = False,
    prefix: Annotated[
        str, typer.Option("--prefix", help="Only keys that start with this; the index gets no younger by it.")
    ] = "",
    list_: Annotated[
        bool, typer.Option("--list", help="Show each difference between the index and the bucket, not their numbers.")
    ] = False,
) -> int:
    """List the bucket into the remote index, within the LIST budget; an interrupted listing goes on where it was."""
    from indexing.scanning import drive_reconcile
    from vaulthalla.vaults.lookup import vault_by_name

    found = vault_by_name(vault)
    return drive_reconcile(console, found, allow_list_scan=allow_list_scan, prefix=prefix, listed=list_)


@command(sync_app, "audit", example="vh vault sync audit photos --sample 200")
def audit(
    console: Console,
    *,
    vault: VaultName,
    sample: Annotated[int, typer.Option("--sample", metavar="N", help="How many objects to look at.")] = 100,
    list_: Annotated[bool, typer.Option("--list", help="Show each wrong row, not their numbers.")] = False,
) -> int:
    """Tell how wrong the remote index is: one HEAD each of a random sample, within the HEAD budget."""
    from indexing.audit import drive_audit
    from vaulthalla.vaults.lookup import vault_by_name

    return drive_audit(console, vault_by_name(vault), sample=sample, listed=list_)


@command(sync_app, "events", example="vh vault sync events photos --file s3-events.json")
def events(
    console: Console,
    *,
    vault: VaultName,
    file: Annotated[str, typer.Option("--file", metavar="FILE", help="JSON or JSON Lines; - is standard input.")],
    through: Annotated[
        str,
        typer.Option("--through", metavar="TIME", help="You vouch that the file lacks nothing up to this time."),
    ] = "",
) -> int:
    """Merge S3 events (bare, or from SNS, SQS, EventBridge, R2 or MinIO) into the remote index. Sends no request."""
    from indexing.events.ingest import command as ingest
    from vaulthalla.vaults.lookup import vault_by_name

    return ingest(console, vault_by_name(vault), file, through=through)


@command(
    sync_app,
    "inventory",
    "import-inventory",
    "inventory-import",
    example="vh vault sync inventory photos --file inventory.csv.gz",
)
def inventory(
    console: Console,
    *,
    vault: VaultName,
    file: Annotated[
        str, typer.Option("--file", metavar="FILE|S3URL", help="A CSV (plain or gzipped), ORC or Parquet file.")
    ] = "",
    manifest: Annotated[
        str, typer.Option("--manifest", metavar="FILE|S3URL", help="manifest.json of a whole delivery.")
    ] = "",
    latest: Annotated[
        str, typer.Option("--latest", metavar="DIR|S3URL", help="The newest complete delivery of a configuration.")
    ] = "",
    api_key: Annotated[
        str, typer.Option("--api-key", metavar="NAME", help="Key that reads s3://; else the vault's own.")
    ] = "",
    schema: Annotated[
        str, typer.Option("--schema", metavar="COLUMNS", help="Names of the columns, where the file has no header.")
    ] = "",
    has_header: Annotated[
        bool, typer.Option("--has-header", "--header", help="The first row names the columns; usually that is seen.")
    ] = False,
    as_of: Annotated[
        str, typer.Option("--as-of", metavar="TIME", help="When the inventory began; else the file's own time.")
    ] = "",
    prefix: Annotated[
        str, typer.Option("--prefix", help="It covers only keys that start with this; the index gets no younger by it.")
    ] = "",
    replace: Annotated[
        bool, typer.Option("--replace", help="Even if more than 10 % of the indexed objects are not in it.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Leave the work to workers.")] = False,
) -> int:
    """Import an S3 Inventory into the remote index, all or nothing; on this host it costs no request."""
    from indexing.inventory.importing import Source, start_import
    from indexing.inventory.importing import command as follow
    from vaulthalla.vaults.lookup import vault_by_name

    found = vault_by_name(vault)
    source = Source(file=file, manifest=manifest, latest=latest, schema=schema, has_header=has_header, as_of=as_of)
    run = start_import(found, source, part=prefix, replace=replace, api_key=api_key)
    return follow(console, found, run, detach=detach)
