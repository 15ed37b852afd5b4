"""The only door to the store of a vault: nothing is sent but through the meter of a lease."""

from __future__ import annotations

from typing import TYPE_CHECKING

from budgets.allotments import UNLIMITED
from budgets.class_use import keep_classes
from budgets.meter import ChunkMeter, Unmetered
from budgets.notes import warnings
from budgets.report import billed, let_through, limits, lost, remaining, spent
from budgets.reserve import billed_to, catalog_of_run, keep_refusal, preflight, would
from budgets.share import Draw
from budgets.stalls import budget_stall
from vaulthalla.stores.base import Capabilities, Meter, Store
from vaulthalla.vaults.models import ApiKey, Vault, VaultKind

if TYPE_CHECKING:
    # botocore is loaded by those who send, not by those who only read budgets.
    from vaulthalla.stores.s3 import S3Config

__all__ = [
    "UNLIMITED",
    "ChunkMeter",
    "Draw",
    "Unmetered",
    "billed",
    "billed_to",
    "budget_stall",
    "catalog_of_run",
    "keep_classes",
    "keep_refusal",
    "let_through",
    "limits",
    "lost",
    "open_store",
    "preflight",
    "remaining",
    "s3_config",
    "spent",
    "warnings",
    "would",
]


def open_store(vault: Vault, meter: Meter) -> Store:
    """The vault's remote side. Requests to a bucket are counted by `meter`; a second directory costs nothing."""
    return _directory(vault, meter) if vault.kind == VaultKind.LOCAL else _bucket(vault, meter)


def capabilities(vault: Vault) -> Capabilities:
    """What the vault's store keeps: what a probe proved of a bucket; a second directory checks conditions itself."""
    if vault.api_key is None:
        from vaulthalla.stores.directory import DirectoryStore

        return DirectoryStore.capabilities
    from vaulthalla.stores.profiles import capabilities_of

    return capabilities_of(vault.api_key.provider, vault.capabilities)


def _directory(vault: Vault, meter: Meter) -> Store:
    from vaulthalla.stores.directory import DirectoryStore

    # What a run replaces there goes to the trash under its number.
    run = {"run": str(meter.run_id)} if isinstance(meter, ChunkMeter) else {}
    return DirectoryStore(vault.replica, Unmetered(), **run)


def _bucket(vault: Vault, meter: Meter) -> Store:
    from vaulthalla.stores.s3 import S3Store

    if vault.api_key is None:
        raise ValueError(f"Vault {vault} has no API key.")
    config = s3_config(vault.api_key, bucket=vault.bucket, prefix=vault.prefix, storage_class=vault.storage_class)
    return S3Store(config, meter, capabilities=capabilities(vault))


def s3_config(api_key: ApiKey, *, bucket: str = "", prefix: str = "", storage_class: str = "") -> S3Config:
    """Where and as whom to ask; the secret is decrypted here and nowhere kept."""
    from vaulthalla.stores.s3 import S3Config

    return S3Config(
        provider=api_key.provider,
        endpoint=api_key.endpoint,
        region=api_key.region,
        access_key=api_key.access_key,
        secret=api_key.secret or "",
        from_environment=api_key.from_environment,
        bucket=bucket,
        prefix=prefix,
        storage_class=storage_class,
    )
