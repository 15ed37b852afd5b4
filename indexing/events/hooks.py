"""`vh vault sync webhook`: a vault's address for senders of events, and the secret they prove themselves by."""

from __future__ import annotations

import re
import secrets
from typing import Any

from indexing.events.ingest import check
from indexing.models import Webhook
from vaulthalla.console import fields
from vaulthalla.errors import Refused
from vaulthalla.units import refuse
from vaulthalla.vaults.models import Vault

SECRET_BYTES = 32
NO_TOPIC = ("", "none", "null")
TOPIC = re.compile(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_.-]{1,256}")


def change(vault: Vault, *, on: bool, rotate: bool, off: bool, topic: str | None) -> dict[str, Any]:
    """What was asked for; without a wish, what there is. The secret is in the answer only when it is new."""
    check(vault)
    if sum((on, rotate, off)) > 1:
        raise Refused("--on, --rotate and --off exclude each other.", code="invalid_value", remedy="Give one of them.")
    arn = None if topic is None else _topic(topic)
    hook = Webhook.objects.filter(vault=vault).first()
    if on and hook is not None:
        raise Refused(
            f"{vault.name} has a webhook already; its secret is never shown again.",
            code="exists",
            remedy="Give --rotate for a new secret.",
        )
    if (rotate or (arn is not None and not on)) and hook is None:
        raise Refused(f"{vault.name} has no webhook.", code="not_found", remedy="Give --on to have one.")
    if off:
        Webhook.objects.filter(vault=vault).delete()
        return _json(vault, None)
    secret = secrets.token_urlsafe(SECRET_BYTES) if on or rotate else None
    return _json(vault, _kept(vault, hook, secret, arn), secret)


def _kept(vault: Vault, hook: Webhook | None, secret: str | None, arn: str | None) -> Webhook | None:
    if secret is None and arn is None:
        return hook
    hook = hook or Webhook(vault=vault)
    hook.secret = secret or hook.secret
    hook.topic_arn = hook.topic_arn if arn is None else arn
    hook.save()
    return hook


def _json(vault: Vault, hook: Webhook | None, secret: str | None = None) -> dict[str, Any]:
    return {
        "vault": vault.name,
        "enabled": hook is not None,
        "path": f"/events/{vault.pk}" if hook else None,
        "topic": (hook.topic_arn or None) if hook else None,
        "secret": secret,
    }


def text(value: dict[str, Any]) -> str:
    lines = [("Vault", value["vault"]), ("Webhook", "on" if value["enabled"] else "off"), ("Path", value["path"])]
    lines.append(("SNS topic", value["topic"]))
    if value["secret"]:
        lines.append(("Secret (shown once)", value["secret"]))
    return fields(lines)


def _topic(arn: str) -> str:
    if arn.strip().lower() in NO_TOPIC:
        return ""
    if not TOPIC.fullmatch(arn):
        raise refuse("--topic", "a topic's ARN like arn:aws:sns:eu-central-1:123456789012:photos, or 'none'")
    return arn
