"""What each provider does, as far as its documentation promises; a probe proves the rest per bucket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from vaulthalla.errors import Refused
from vaulthalla.stores.base import Capabilities, Ordering

# A GET of these needs a restore first; INTELLIGENT_TIERING tells by its archive status instead.
ARCHIVE_CLASSES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
ARCHIVE_STATUSES = frozenset({"ARCHIVE_ACCESS", "DEEP_ARCHIVE_ACCESS"})

AWS_CLASSES = frozenset(
    {
        "STANDARD",
        "STANDARD_IA",
        "ONEZONE_IA",
        "INTELLIGENT_TIERING",
        "GLACIER_IR",
        "GLACIER",
        "DEEP_ARCHIVE",
        "REDUCED_REDUNDANCY",
    }
)
ALL_CONDITIONS = dict.fromkeys(
    ("conditional_put", "conditional_copy", "conditional_delete", "conditional_complete"), True
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One provider's promises. `region` is what "auto" means there."""

    price_key: str
    region: str = "us-east-1"
    capabilities: Capabilities = field(default_factory=Capabilities)
    endpoint_required: bool = True
    # LIST returns restore states when asked (`OptionalObjectAttributes`), so no HEAD per archived object.
    lists_restore_status: bool = False
    # R2 takes the conditions on a copy's destination under its own header names.
    copy_condition_prefix: str = ""


def _capabilities(**changes: object) -> Capabilities:
    return replace(Capabilities(storage_classes=frozenset({"STANDARD"})), **changes)  # type: ignore[arg-type]


PROFILES: dict[str, Profile] = {
    "aws": Profile(
        price_key="aws-s3",
        capabilities=_capabilities(storage_classes=AWS_CLASSES, **ALL_CONDITIONS),
        endpoint_required=False,
        lists_restore_status=True,
    ),
    "cloudflare-r2": Profile(
        price_key="cloudflare-r2",
        region="auto",
        capabilities=_capabilities(
            ordering=Ordering.UNSPECIFIED,
            storage_classes=frozenset({"STANDARD", "STANDARD_IA"}),
            conditional_put=True,
            conditional_copy=True,
        ),
        copy_condition_prefix="cf-copy-destination-",
    ),
    "wasabi": Profile(price_key="wasabi", capabilities=_capabilities()),
    "backblaze-b2": Profile(price_key="backblaze-b2", capabilities=_capabilities()),
    "digitalocean": Profile(price_key="digitalocean", capabilities=_capabilities()),
    "minio": Profile(price_key="minio", capabilities=_capabilities()),
    "ceph": Profile(price_key="ceph", capabilities=_capabilities()),
    # Storj keeps keys encrypted and lists them in the order of the ciphertext.
    "storj": Profile(price_key="storj", capabilities=_capabilities(ordering=Ordering.UNSPECIFIED)),
    "other": Profile(price_key="other", capabilities=_capabilities(ordering=Ordering.UNSPECIFIED)),
}


def profile_of(provider: str) -> Profile:
    """The profile; a provider nobody knows promises nothing."""
    return PROFILES.get(provider, PROFILES["other"])


def capabilities_of(provider: str, proven: Mapping[str, object] | None = None) -> Capabilities:
    """The provider's promises; of a bucket only the conditions that `proven` (`Vault.capabilities`) says were proved:
    none where it is empty.
    """
    promised = profile_of(provider).capabilities
    if proven is None:
        return promised
    known = {name: bool(proven.get(name)) for name in ALL_CONDITIONS}
    return replace(promised, **known)  # type: ignore[arg-type]


def region_of(provider: str, endpoint: str, region: str) -> str:
    """The region to sign for. B2 names it in its endpoint: `s3.us-west-004.backblazeb2.com`."""
    if region and region != "auto":
        return region
    host = (urlsplit(endpoint).hostname or "").split(".")
    if provider == "backblaze-b2" and len(host) > 3 and host[-2] == "backblazeb2":
        return host[-3]
    return profile_of(provider).region


def check_endpoint(provider: str, endpoint: str) -> None:
    """Refuses an address that no client could use."""
    if not endpoint:
        if profile_of(provider).endpoint_required:
            raise Refused(f"Provider {provider} needs an endpoint.", remedy="Pass --endpoint https://….")
        return
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise Refused(
            f"{endpoint} is not an endpoint.", remedy="Write it as https://host or http://host:port, without a bucket."
        )
