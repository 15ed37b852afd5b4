"""Which vaults of this database would write to the same place in a bucket."""

from __future__ import annotations

from urllib.parse import urlsplit

from vaulthalla.errors import Refused
from vaulthalla.terms import Strategy
from vaulthalla.vaults.models import ApiKey, Provider, Vault, VaultKind

PORTS = {"https": 443, "http": 80}


def check(vault: Vault, strategy: str, *, take_over: bool) -> None:
    """Refuses a bucket and prefix that overlap another vault's when either is a mirror.

    A mirror would delete or overwrite what the other uploads. Vaults that accept both sides' changes may share
    a prefix: conditional writes keep them from overwriting each other. `take_over` says that the operator wants it.
    """
    if vault.kind != VaultKind.S3 or take_over:
        return
    others = Vault.objects.filter(kind=VaultKind.S3, bucket=vault.bucket).exclude(pk=vault.pk)
    for other in others.select_related("policy", "api_key"):
        if _apart(vault, other):
            continue
        if Strategy.MIRROR in (strategy, other.policy.strategy):
            raise Refused(
                f"The vault {other.name!r} already uses {other.bucket}/{other.prefix}, and one of the two is a mirror.",
                code="overlap",
                remedy="Choose another --prefix, or add --take-over when this vault shall write there too.",
            )


def location(key: ApiKey) -> str:
    """Where a key's buckets are: two keys with the same location see the same buckets."""
    if not key.endpoint:
        return f"{Provider(key.provider).value}:"
    parts = urlsplit(key.endpoint)
    return f"{parts.hostname}:{parts.port or PORTS.get(parts.scheme, 0)}"


def _apart(one: Vault, other: Vault) -> bool:
    if one.api_key is None or other.api_key is None or location(one.api_key) != location(other.api_key):
        return True
    return not (one.prefix.startswith(other.prefix) or other.prefix.startswith(one.prefix))
