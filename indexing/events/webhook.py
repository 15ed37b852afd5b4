"""`POST /events/<vault>`: events over HTTP, answered once they are committed.

Senders prove themselves by the vault's secret. A stranger learns nothing: no vault, no webhook and a wrong secret
are one answer.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hmac import compare_digest
from typing import Any

from django.db import OperationalError, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from indexing.events import sns, sql
from indexing.events.take import (
    OUTCOMES,
    UNMERGEABLE,
    Message,
    Sorted,
    ensured,
    record,
    set_aside,
    sort,
    unmergeable,
)
from indexing.models import EventFeed, FeedKind, Webhook
from vaulthalla.vaults.models import Vault

LARGEST_BODY = 4 * 2**20
TOKEN_HEADER = "X-Vaulthalla-Token"  # noqa: S105 - a header's name
# Compared with where there is no webhook, so that it takes as long.
NOBODYS = "x" * 43
# A thread of the few that there are is kept no longer; the sender sends again.
PATIENCE = timedelta(seconds=3)
TYPES = (
    "",
    "application/json",
    "text/plain",
    "application/x-ndjson",
    "application/jsonl",
    "application/cloudevents+json",
)


@csrf_exempt
def receive(
    request: HttpRequest,
    vault_id: int,
    token: str = "",
    *,
    certificate: sns.Fetch = sns.fetch_certificate,
    confirm: Callable[[str], Any] = sns.fetch,
) -> HttpResponse:
    """One delivery, from its sender's proof to the commit."""
    answer = _answer(request, vault_id, token, certificate, confirm)
    # Django would log the path of what is refused, and the secret may be part of it.
    answer._has_been_logged = True  # type: ignore[attr-defined]
    return answer


def _answer(
    request: HttpRequest, vault_id: int, token: str, certificate: sns.Fetch, confirm: Callable[[str], Any]
) -> HttpResponse:
    if request.method != "POST":
        return JsonResponse({"error": "POST events here."}, status=405, headers={"Allow": "POST"})
    hook = _proven(request, vault_id, token)
    if hook is None:
        return JsonResponse({"error": "unauthorized"}, status=401, headers={"WWW-Authenticate": "Bearer"})
    body, refusal = _body(request)
    if refusal is not None:
        return refusal
    envelope = sns.envelope_of(body)
    if envelope is not None and (hook.topic_arn or envelope.type != sns.NOTIFICATION):
        answer = _from_sns(envelope, hook, certificate, confirm)
        if answer is not None:
            return answer
    try:
        return _merged(hook.vault, body, request.headers.get("X-Amz-Sns-Message-Id", "")[:200])
    except OperationalError:
        # The index is busy, or the database is away; nothing was kept, so the sender sends it again.
        return JsonResponse({"error": "busy"}, status=503, headers={"Retry-After": "30"})


def _proven(request: HttpRequest, vault_id: int, token: str) -> Webhook | None:
    hook = None
    if vault_id < 2**63:
        hook = Webhook.objects.filter(vault_id=vault_id).select_related("vault").first()
    expected = (hook.secret if hook else NOBODYS).encode()
    given = [*_authorization(request), request.headers.get(TOKEN_HEADER, ""), token]
    # Every one of them is compared, whichever fits.
    fits = [compare_digest(one.encode(errors="replace"), expected) for one in given]
    return hook if any(fits) else None


def _authorization(request: HttpRequest) -> list[str]:
    """The secret of a Bearer token, or the password of Basic."""
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return [value.strip() if scheme.lower() == "bearer" else scheme]
    try:
        return [base64.b64decode(value, validate=True).decode(errors="replace").partition(":")[2]]
    except (binascii.Error, ValueError):
        return [""]


def _body(request: HttpRequest) -> tuple[bytes, HttpResponse | None]:
    """The body, or why it is not taken."""
    length = request.META.get("CONTENT_LENGTH") or ""
    if not length.isascii() or not length.isdigit():
        return b"", _refused(411, "The length of the body is missing.")
    if int(length) > LARGEST_BODY:
        return b"", _refused(413, f"At most {LARGEST_BODY} bytes.")
    if (request.content_type or "").lower() not in TYPES or request.headers.get("Content-Encoding", "identity") not in (
        "",
        "identity",
    ):
        return b"", _refused(415, f"Send JSON, uncompressed, as one of: {', '.join(filter(None, TYPES))}.")
    body = request.read(LARGEST_BODY + 1)
    if len(body) != int(length):
        return b"", _refused(400, "The body ended too early.")
    return body, None


def _from_sns(
    envelope: sns.Envelope, hook: Webhook, certificate: sns.Fetch, confirm: Callable[[str], Any]
) -> HttpResponse | None:
    """None: it is a notification as signed by the expected topic."""
    try:
        sns.verify(envelope, hook.topic_arn, fetch=certificate, now=datetime.now(UTC))
        if envelope.type == sns.NOTIFICATION:
            return None
        if envelope.type == sns.SUBSCRIPTION:
            confirm(sns.of_sns(envelope.subscribe_url))
    except sns.NotSigned as error:
        return _refused(403, f"Not accepted from SNS: {error}.")
    except OSError:
        return _refused(502, "SNS does not answer.")
    return JsonResponse({"confirmed": envelope.type == sns.SUBSCRIPTION})


def _merged(vault: Vault, body: bytes, message_id: str) -> HttpResponse:
    feed = ensured(vault, FeedKind.WEBHOOK)
    message = Message(body=body, id=message_id)
    found = sort(vault, [message])
    now = datetime.now(UTC)
    try:
        if found.poison:
            return _kept_aside(vault, feed, found, now)
        with transaction.atomic():
            sql.patiently(PATIENCE)
            counts = record(vault, feed, found, at=now)
            EventFeed.objects.filter(pk=feed.pk).update(last_poll_at=now)
    except UNMERGEABLE as error:
        return _kept_aside(vault, feed, unmergeable(message, error), now)
    skipped = dict(found.skipped)
    if old := counts["old_version"]:
        skipped["old_version"] = old
    numbers = {name: counts[name] for name in ("records", *OUTCOMES)}
    return JsonResponse({**numbers, "skipped": skipped})


def _kept_aside(vault: Vault, feed: EventFeed, found: Sorted, now: datetime) -> HttpResponse:
    with transaction.atomic():
        held = EventFeed.objects.select_for_update().get(pk=feed.pk)
        held.last_poll_at = now
        set_aside(vault, held, found.poison)
        held.save()
    return _refused(400, found.poison[0].detail, code=found.poison[0].reason)


def _refused(status: int, why: str, *, code: str = "refused") -> HttpResponse:
    return JsonResponse({"error": why, "code": code}, status=status)
