"""`vh api-key …` and `vh vault create|list|info|update|delete`: parse, call, print."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from vaulthalla.cliroot import api_key_app, command, vault_app
from vaulthalla.console import Console, fields, table
from vaulthalla.errors import Refused
from vaulthalla.vaults.options import POLICY_OPTIONS

KeyName = Annotated[str, typer.Argument(metavar="KEY", help="Name or id of an API key.")]
VaultName = Annotated[str, typer.Argument(metavar="VAULT", help="Name or id of a vault.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
NoVerify = Annotated[bool, typer.Option("--no-verify", help="Send no request; conditions count as not proven.")]
Adopt = Annotated[bool, typer.Option("--adopt", help="Take a root that carries another vault's marker.")]

# What `create` and `update` have in common; they arrive as one dict.
PLACE_OPTIONS: dict[str, Any] = {
    "root": Annotated[str | None, typer.Option("--root", metavar="DIR", help="The vault's directory; it must exist.")],
    "replica": Annotated[
        str | None, typer.Option("--replica", metavar="DIR", help="Local vaults: the second directory.")
    ],
    "api_key": Annotated[str | None, typer.Option("--api-key", metavar="KEY", help="Name or id of the API key.")],
    "bucket": Annotated[str | None, typer.Option("--bucket", metavar="NAME", help="The bucket; it must exist.")],
    "prefix": Annotated[str | None, typer.Option("--prefix", metavar="PREFIX", help="Keys below this prefix only.")],
    "storage_class": Annotated[
        str | None,
        typer.Option("--storage-class", "--storage-tier", metavar="CLASS", help="For uploads; 'default' clears."),
    ],
    "description": Annotated[str | None, typer.Option("--description", "--desc", "-d", metavar="TEXT")],
    "pool": Annotated[
        str | None, typer.Option("--pool", metavar="NAME", help="Only workers of this pool reach the root.")
    ],
}
EXPAND = {"places": PLACE_OPTIONS, "policy": POLICY_OPTIONS}


def register(root: typer.Typer) -> None:
    """All commands here belong to the shared groups."""


@command(
    api_key_app,
    "create",
    "new",
    "add",
    example="vh api-key create minio --provider minio --endpoint http://127.0.0.1:9000 --access KEY --secret-stdin",
)
def create_key(
    console: Console,
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the key shall be called here.")],
    provider: Annotated[
        str,
        typer.Option(
            "--provider", help="aws, cloudflare-r2, wasabi, backblaze-b2, digitalocean, minio, ceph, storj, other."
        ),
    ],
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", "--url", metavar="URL", help="Its address; not needed for aws.")
    ] = None,
    region: Annotated[str | None, typer.Option("--region", help="Default: auto, us-east-1 for aws.")] = None,
    access: Annotated[str | None, typer.Option("--access", help="Access key; else VH_ACCESS_KEY_ID.")] = None,
    secret: Annotated[
        str | None, typer.Option("--secret", help="Others on this host can read it; else VH_SECRET_ACCESS_KEY.")
    ] = None,
    secret_stdin: Annotated[
        bool, typer.Option("--secret-stdin", help="Read the secret from stdin's first line.")
    ] = False,
    from_environment: Annotated[
        bool, typer.Option("--from-environment", help="Let the AWS default chain supply credentials at every use.")
    ] = False,
    no_verify: NoVerify = False,
) -> None:
    """Store a provider's credentials, encrypted, after one cheap request that proves them.

    The secret comes from --secret-stdin, VH_SECRET_ACCESS_KEY, --secret or a prompt. It is never shown again.
    """
    from vaulthalla.vaults import probe
    from vaulthalla.vaults.credentials import key_json, new_key

    if not from_environment:
        access = access or os.environ.get("VH_ACCESS_KEY_ID", "").strip()
        secret = _secret(secret, from_stdin=secret_stdin)
    key = new_key(
        name=name,
        provider=provider,
        endpoint=endpoint,
        region=region,
        access=access,
        secret=secret,
        from_environment=from_environment,
    )
    if not no_verify:
        probe.check_key(key)
    key.save()
    key.refresh_from_db()
    console.result(key_json(key), _key_text)


@command(api_key_app, "list", "ls", example="vh api-key list --json")
def list_keys(console: Console) -> None:
    """List API keys."""
    from vaulthalla.vaults.credentials import key_json
    from vaulthalla.vaults.models import ApiKey

    keys = [key_json(key) for key in ApiKey.objects.prefetch_related("vaults")]
    columns = ("id", "name", "provider", "endpoint", "region", "created_at")
    rows = ([key[column] for column in columns] for key in keys)
    console.result({"api_keys": keys}, lambda _: table(_headings(columns), rows, empty="There are no API keys."))


@command(api_key_app, "info", "show", "get", example="vh api-key info minio")
def show_key(console: Console, *, key: KeyName) -> None:
    """Show one API key, without its secret."""
    from vaulthalla.vaults.credentials import key_json
    from vaulthalla.vaults.lookup import api_key_by_name

    console.result(key_json(api_key_by_name(key)), _key_text)


@command(api_key_app, "delete", "remove", "del", "rm", example="vh api-key delete minio --yes")
def delete_key(console: Console, *, key: KeyName, yes: Yes = False) -> None:
    """Delete an API key that no vault uses."""
    from vaulthalla.vaults.lookup import api_key_by_name

    found = api_key_by_name(key)
    users = [vault.name for vault in found.vaults.all()]
    if users:
        raise Refused(
            f"The API key {found.name!r} is used by {', '.join(users)}.",
            code="in_use",
            remedy="Give those vaults another key (`vh vault update VAULT --api-key KEY`), or delete them.",
        )
    console.confirm(f"Delete the API key {found.name!r}?", yes=yes)
    deleted = {"id": str(found.pk), "name": found.name}
    found.delete()
    console.result({"deleted": deleted}, f"API key {found.name!r} deleted.")


@command(
    vault_app,
    "create",
    "new",
    "add",
    "mk",
    example="vh vault create photos --s3 --root ~/photos --api-key minio --bucket photos --strategy sync",
    expand=EXPAND,
)
def create_vault(
    console: Console,
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the vault shall be called.")],
    places: dict[str, Any],
    policy: dict[str, Any],
    local: Annotated[bool, typer.Option("--local", help="Keep --root in step with a second directory.")] = False,
    s3: Annotated[bool, typer.Option("--s3", help="Keep --root in step with a bucket.")] = False,
    adopt: Adopt = False,
    no_verify: NoVerify = False,
) -> None:
    """Declare a vault. Nothing is transferred until it is synced."""
    from vaulthalla.remedies import sync_of
    from vaulthalla.vaults import register as vaults
    from vaulthalla.vaults.describe import vault_json, vault_text
    from vaulthalla.vaults.models import VaultKind

    if local == s3:
        raise Refused(
            "Say what kind of vault: exactly one of --local and --s3.",
            code="invalid_value",
            remedy="Add --s3 with --api-key and --bucket, or --local with --replica.",
        )
    kind = VaultKind.S3 if s3 else VaultKind.LOCAL
    vault = vaults.create(kind, vaults.Wish(name=name, **places), policy, adopt=adopt, verify=not no_verify)
    console.result(vault_json(vault), vault_text)
    console.message(f"`{sync_of(vault.name)}` syncs it.")


@command(vault_app, "list", example="vh vault list --s3")
def list_vaults(
    console: Console,
    *,
    local: Annotated[bool, typer.Option("--local", help="Only local vaults.")] = False,
    s3: Annotated[bool, typer.Option("--s3", help="Only S3 vaults.")] = False,
) -> None:
    """List vaults."""
    from vaulthalla.vaults.describe import vault_json
    from vaulthalla.vaults.models import Vault

    kinds = [kind for kind, wanted in (("local", local), ("s3", s3)) if wanted] or ["local", "s3"]
    found = Vault.objects.filter(kind__in=kinds).select_related("policy", "api_key")
    vaults = [vault_json(vault) for vault in found]
    columns = ("id", "name", "kind", "strategy", "conflict_policy", "root", "last_success_at")
    rows = ([vault[column] for column in columns] for vault in vaults)
    console.result({"vaults": vaults}, lambda _: table(_headings(columns), rows, empty="There are no vaults."))


@command(vault_app, "info", "show", "get", example="vh vault info photos --json")
def show_vault(console: Console, *, vault: VaultName) -> None:
    """Show a vault: its places, policy and request budget."""
    from vaulthalla.vaults.describe import vault_json, vault_text
    from vaulthalla.vaults.lookup import vault_by_name

    console.result(vault_json(vault_by_name(vault)), vault_text)


@command(
    vault_app,
    "update",
    "set",
    "modify",
    "edit",
    example="vh vault update photos --interval 1h --s3-budget-preset bulk",
    expand=EXPAND,
)
def update_vault(
    console: Console,
    *,
    vault: VaultName,
    places: dict[str, Any],
    policy: dict[str, Any],
    name: Annotated[str | None, typer.Option("--name", help="A new name.")] = None,
    adopt: Adopt = False,
    no_verify: NoVerify = False,
) -> None:
    """Change what is named; the rest stays.

    A vault that is pointed at another root, replica, bucket, prefix or endpoint forgets what it knew of the old
    one: nothing that is missing at the new place counts as deleted.
    """
    from vaulthalla.vaults import register as vaults
    from vaulthalla.vaults.describe import vault_json, vault_text
    from vaulthalla.vaults.lookup import vault_by_name

    wish = vaults.Wish(name=name, **places)
    if wish == vaults.Wish() and not policy:
        raise Refused("There is nothing to change.", code="invalid_value", remedy="See `vh vault update --help`.")
    changed = vaults.update(vault_by_name(vault), wish, policy, adopt=adopt, verify=not no_verify)
    console.message(f"Changed: {', '.join(changed) or 'nothing'}.")
    console.result({**vault_json(vault_by_name(name or vault)), "changed": changed}, vault_text)


@command(vault_app, "delete", "remove", "del", "rm", example="vh vault delete photos --yes")
def delete_vault(
    console: Console,
    *,
    vault: VaultName,
    yes: Yes = False,
    delete_upstream: Annotated[
        bool, typer.Option("--delete-upstream", help="Delete the vault's objects in the bucket first.")
    ] = False,
    allow_deletes: Annotated[
        bool, typer.Option("--allow-deletes", help="With --delete-upstream: lift the delete guard.")
    ] = False,
) -> None:
    """Forget a vault. Its files and objects stay, unless --delete-upstream removes the objects."""
    from vaulthalla.vaults import probe, register
    from vaulthalla.vaults.lookup import vault_by_name
    from vaulthalla.vaults.models import VaultKind

    found = vault_by_name(vault)
    deleted = {"id": str(found.pk), "name": found.name}
    if delete_upstream and found.kind == VaultKind.LOCAL:
        raise Refused(
            "--delete-upstream does not apply to a local vault.",
            code="not_for_local_vaults",
            remedy="Leave --delete-upstream out.",
        )
    question = f"Forget the vault {found.name!r}"
    if delete_upstream:
        question += f" and delete every object below {found.bucket}/{found.prefix}"
    console.confirm(f"{question}?", yes=yes)
    if delete_upstream:
        probe.delete_upstream(found, allow=allow_deletes)
    register.delete(found)
    console.result({"deleted": deleted}, f"Vault {found.name!r} deleted; its files are untouched.")


def _secret(given: str | None, *, from_stdin: bool) -> str:
    """From stdin, the option, the environment, or a prompt on a terminal."""
    if from_stdin and given:
        raise Refused(
            "Give the secret once: --secret or --secret-stdin.", code="invalid_value", remedy="Leave one of them out."
        )
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    secret = given or os.environ.get("VH_SECRET_ACCESS_KEY", "").strip()
    if not secret and sys.stdin.isatty() and sys.stderr.isatty():
        from getpass import getpass

        secret = getpass("Secret access key: ", stream=sys.stderr)
    return secret


def _key_text(value: dict[str, Any]) -> str:
    origin = "the AWS default chain" if value["from_environment"] else value["access_key"]
    return fields(
        {
            "API key": value["name"],
            "ID": value["id"],
            "Provider": value["provider"],
            "Endpoint": value["endpoint"],
            "Region": value["region"],
            "Access key": origin,
            "Used by": ", ".join(value["vaults"]),
            "Created at": value["created_at"],
        }
    )


def _headings(columns: tuple[str, ...]) -> list[str]:
    return [column.replace("_", " ").upper() for column in columns]
