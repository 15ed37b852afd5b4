"""API keys: read from what was given, checked, told without their secret."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import SplitResult, urlsplit

from vaulthalla.errors import Refused
from vaulthalla.units import refuse
from vaulthalla.vaults.models import ApiKey, Provider

# Printable ASCII without blanks: anything else cannot be in a signed header.
CREDENTIAL = re.compile(r"[!-~]{1,1024}")
REGION = re.compile(r"[a-zA-Z0-9-]{1,64}")
DEFAULT_REGION = "auto"
DEFAULT_AWS_REGION = "us-east-1"


def new_key(
    *,
    name: str,
    provider: str,
    endpoint: str | None,
    region: str | None,
    access: str | None,
    secret: str | None,
    from_environment: bool,
) -> ApiKey:
    """A key that is valid as far as this host can tell; not saved, nothing sent."""
    key = ApiKey(name=name, provider=_provider(provider), from_environment=from_environment)
    fill(key, endpoint=endpoint, region=region, access=access, secret=secret)
    if ApiKey.objects.filter(name=name).exists():
        raise Refused(f"There is already an API key {name!r}.", code="exists", remedy="Choose another name.")
    return key


def fill(key: ApiKey, *, endpoint: str | None, region: str | None, access: str | None, secret: str | None) -> None:
    """Sets what depends on the provider and on `from_environment`. Raises Refused, naming the option."""
    key.endpoint = _endpoint(key, endpoint or "")
    key.region = _region(key, region or "")
    if key.from_environment and (access or secret):
        raise Refused(
            "--from-environment takes neither access key nor secret.",
            code="invalid_value",
            remedy="Leave out --from-environment, or --access and --secret.",
        )
    if not key.from_environment:
        key.access_key = _credential(access, option="--access", maximum=128)
        key.secret = _credential(secret, option="--secret", maximum=1024)
    key.full_clean(validate_unique=False, validate_constraints=False)


def key_json(key: ApiKey) -> dict[str, Any]:
    """Everything but the secret."""
    return {
        "id": str(key.pk),
        "name": key.name,
        "provider": key.provider,
        "endpoint": key.endpoint,
        "region": key.region,
        "access_key": key.access_key,
        "from_environment": key.from_environment,
        "vaults": [vault.name for vault in key.vaults.all()],
        "created_at": key.created_at,
    }


def _provider(text: str) -> str:
    chosen = text.strip().lower()
    if chosen not in Provider.values:
        raise refuse("--provider", f"one of {', '.join(Provider.values)}")
    return chosen


def _endpoint(key: ApiKey, text: str) -> str:
    if not text:
        if key.provider != Provider.AWS:
            raise Refused(
                f"--endpoint is needed for provider {key.provider}.",
                code="invalid_value",
                remedy="Give its address, like https://host or http://host:9000.",
            )
        return ""
    if not _is_endpoint(text):
        # Not repeated: it may carry credentials.
        raise refuse("--endpoint", "an address like https://host or http://host:9000, without a path")
    return text.rstrip("/")


def _is_endpoint(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return bool(
            parts.scheme in ("http", "https")
            and parts.hostname
            and (parts.port is None or parts.port > 0)
            and not _extras(parts)
            and text.isascii()
            and text.isprintable()
            and " " not in text
        )
    except ValueError:
        return False


def _extras(parts: SplitResult) -> bool:
    return bool(parts.path.strip("/") or parts.query or parts.fragment or parts.username or parts.password)


def _region(key: ApiKey, text: str) -> str:
    if not text:
        return DEFAULT_AWS_REGION if key.provider == Provider.AWS else DEFAULT_REGION
    if not REGION.fullmatch(text):
        raise refuse("--region", "a region's name like eu-central-1")
    return text


def _credential(text: str | None, *, option: str, maximum: int) -> str:
    if not text:
        raise Refused(
            f"{option} is missing.",
            code="invalid_value",
            remedy="Give --access and --secret (or --secret-stdin, or VH_ACCESS_KEY_ID and VH_SECRET_ACCESS_KEY), "
            "or --from-environment.",
        )
    if len(text) > maximum or not CREDENTIAL.fullmatch(text):
        raise refuse(option, f"1 to {maximum} printable characters without blanks")
    return text
