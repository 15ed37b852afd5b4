"""How a notification leaves: as an e-mail, or as a signed request. Short time-outs, no redirects, no secrets told."""

from __future__ import annotations

import base64
import hashlib
import hmac
import smtplib
from typing import Any

from django.conf import settings

from budgets.models import Channel
from vaulthalla.console import to_json

CONNECT_SECONDS = 5
ANSWER_SECONDS = 10


class ChannelError(Exception):
    """It did not arrive, as far as we know; says why, without keys or the address of the webhook."""


def configured() -> list[Channel]:
    """The channels that this process can send over."""
    ready = ((Channel.EMAIL, settings.NOTIFY_EMAIL), (Channel.WEBHOOK, settings.NOTIFY_WEBHOOK))
    return [channel for channel, there in ready if there]


def send(channel: Channel, notification: dict[str, Any], *, message: str, now: int) -> None:
    """Raises ChannelError. `message` names the notification: the same for each attempt; `now` in Unix seconds."""
    match channel:
        case Channel.EMAIL:
            _mail(notification)
        case Channel.WEBHOOK:
            body = to_json(notification).encode()
            _post(body, signed(body, message=message, now=now, key=settings.NOTIFY_WEBHOOK_SECRET))


def _mail(notification: dict[str, Any]) -> None:
    from django.core.mail import EmailMessage

    severity, title = notification["severity"], " ".join(notification["title"].split())
    lines = [notification["text"]]
    if notification["remedy"]:
        lines += ["", "What helps:", f"  {notification['remedy']}"]
    if notification["id"]:
        lines += ["", f"Silence it: vh notifications ack {notification['id']}"]
    mail = EmailMessage(
        subject=f"[vaulthalla] {severity}: {title}", body="\n".join(lines) + "\n", to=list(settings.NOTIFY_EMAIL)
    )
    try:
        mail.send()
    except (smtplib.SMTPException, OSError, ValueError) as error:
        raise ChannelError(_said(error)) from error


def signed(body: bytes, *, message: str, now: int, key: bytes) -> dict[str, str]:
    """The headers of Standard Webhooks: HMAC-SHA256 over `message.timestamp.body`, in base64."""
    content = b".".join((message.encode(), str(now).encode(), body))
    digest = hmac.new(key, content, hashlib.sha256).digest()
    return {
        "content-type": "application/json",
        "user-agent": "vaulthalla",
        "webhook-id": message,
        "webhook-timestamp": str(now),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def _post(body: bytes, headers: dict[str, str]) -> None:
    from urllib3 import PoolManager, Timeout
    from urllib3.exceptions import ConnectTimeoutError, HTTPError, ReadTimeoutError, SSLError

    timeout = Timeout(connect=CONNECT_SECONDS, read=ANSWER_SECONDS)
    try:
        with PoolManager(timeout=timeout, retries=False) as pool:
            # A redirect would carry the message, and trust in its signature, to somebody else.
            answer = pool.request(
                "POST", settings.NOTIFY_WEBHOOK, body=body, headers=headers, redirect=False, preload_content=False
            )
            status = answer.status
            answer.close()
    except ReadTimeoutError as error:
        raise ChannelError(f"no answer within {ANSWER_SECONDS} s") from error
    except ConnectTimeoutError as error:
        raise ChannelError("cannot connect") from error
    except SSLError as error:
        raise ChannelError("its certificate is not trusted, or TLS failed") from error
    except HTTPError as error:
        raise ChannelError(f"broke off ({type(error).__name__})") from error
    if not 200 <= status < 300:
        raise ChannelError(f"answered {status}")


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
