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
    file: Annotated[str, typer.Option("--file", metavar="FILE", help="JSON or JSON Lines; - is standard input.")] = "",
    queue: Annotated[str, typer.Option("--queue", metavar="URL", help="Empty this SQS queue into the index.")] = "",
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on polling the queue until interrupted; a line for each batch.")
    ] = False,
    api_key: Annotated[
        str, typer.Option("--api-key", metavar="KEY", help="The key for the queue; else the vault's own.")
    ] = "",
    no_lifecycle_rules: Annotated[
        bool,
        typer.Option("--no-lifecycle-rules", help="You vouch that the bucket has none: the queue tells everything."),
    ] = False,
    set_aside: Annotated[
        bool, typer.Option("--set-aside", help="List messages of queue and webhook that could not be read.")
    ] = False,
    clear: Annotated[bool, typer.Option("--clear", help="With --set-aside: forget them once they are listed.")] = False,
    through: Annotated[
        str, typer.Option("--through", metavar="TIME", help="You vouch that nothing is missing up to this time.")
    ] = "",
) -> int:
    """Merge S3 events (bare, or from SNS, SQS, EventBridge, R2 or MinIO) into the remote index. No S3 request."""
    from indexing.events import choice
    from vaulthalla.vaults.lookup import api_key_by_name, vault_by_name

    chosen = choice.Choice(
        file=file, queue=queue, set_aside=set_aside, clear=clear, follow=follow, through=through,
        no_lifecycle_rules=no_lifecycle_rules, api_key=api_key,
    )  # fmt: skip
    chosen.check()
    found = vault_by_name(vault)
    if set_aside:
        from indexing.events.aside import command as show

        return show(console, found, clear=clear)
    if queue:
        from indexing.events.queue import command as poll

        key = api_key_by_name(api_key) if api_key else None
        return poll(console, found, queue, key=key, follow=follow, through=through, no_lifecycle=no_lifecycle_rules)
    from indexing.events.ingest import command as ingest

    return ingest(console, found, file, through=through)


@command(sync_app, "webhook", example="vh vault sync webhook photos --on")
def webhook(
    console: Console,
    *,
    vault: VaultName,
    on: Annotated[bool, typer.Option("--on", help="Accept events over HTTP; the secret is shown once.")] = False,
    rotate: Annotated[bool, typer.Option("--rotate", help="A new secret; the old one is worth nothing.")] = False,
    off: Annotated[bool, typer.Option("--off", help="Accept none any more.")] = False,
    topic: Annotated[
        str | None,
        typer.Option("--topic", metavar="ARN", help="The SNS topic that may subscribe; its signatures are checked."),
    ] = None,
) -> None:
    """Events over HTTP: switch the vault's address on or off, or show it. Senders prove themselves by a secret."""
    from indexing.events.hooks import change, text
    from vaulthalla.vaults.lookup import vault_by_name

    console.result(change(vault_by_name(vault), on=on, rotate=rotate, off=off, topic=topic), text)


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
