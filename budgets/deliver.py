"""Sends what is open over every channel, again and again with growing pauses, and then no more."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

from django.conf import settings
from django.db.models.functions import Now

from budgets import channels, notices, sql
from budgets.alerts import Severity
from budgets.channels import ChannelError
from budgets.models import Channel, Delivery, Notification
from budgets.notify import watch
from vaulthalla.errors import Refused

MOST_ATTEMPTS = 8
FIRST_PAUSE, LONGEST_PAUSE = timedelta(minutes=1), timedelta(hours=1)
# Longer than an attempt takes: who dies in it leaves it to the next tick.
ATTEMPT_SECONDS = 60
# What was not sent within a day, since nobody was there to send it, is not news.
NEWS = timedelta(days=1)
SET_UP = "Set VAULTHALLA_NOTIFY_EMAIL, or VAULTHALLA_NOTIFY_WEBHOOK_URL and …_SECRET, in the environment."
TEST = {
    "topic": "notification.test",
    "severity": Severity.INFO.value,
    "title": "a test",
    "text": "Notifications of Vaulthalla arrive here.",
    "remedy": None,
}


@dataclass(slots=True, kw_only=True)
class Sent:
    """What one round came to."""

    delivered: int = 0
    failed: int = 0


def pause(attempts: int) -> timedelta | None:
    """How long to wait after so many attempts that failed; None: give up."""
    if attempts >= MOST_ATTEMPTS:
        return None
    longer: int = 2 ** (attempts - 1)
    return min(FIRST_PAUSE * longer, LONGEST_PAUSE)


def look_and_send(*, seconds: float) -> Sent:
    """The tick: looks at policies and price lists, then sends what is open for at most about so long.

    Any number of processes may do so at once: each delivery is attempted by one of them.
    """
    watch()
    ready = channels.configured()
    _outbox(ready)
    sent, until = Sent(), time.monotonic() + seconds
    while ready and time.monotonic() < until:
        number = sql.claim_delivery([one.value for one in ready], seconds=ATTEMPT_SECONDS, most=MOST_ATTEMPTS)
        if number is None:
            break
        if _attempt(Delivery.objects.select_related("notification").get(pk=number)):
            sent.delivered += 1
        else:
            sent.failed += 1
    return sent


def _outbox(ready: list[Channel]) -> None:
    """A delivery for each open notification and channel: whoever told of it need not know the channels."""
    order = list(Severity)
    wanted = [one.value for one in order[order.index(Severity(settings.NOTIFY_FROM)) :]]
    news = notices.open_ones().filter(quiet=False, severity__in=wanted, first_seen__gte=Now() - NEWS)
    for channel in ready:
        unsent = news.exclude(deliveries__channel=channel).values_list("pk", flat=True)
        rows = [Delivery(notification_id=number, channel=channel) for number in unsent]
        Delivery.objects.bulk_create(rows, ignore_conflicts=True)


def _attempt(delivery: Delivery) -> bool:
    told: Notification = delivery.notification
    mine = Delivery.objects.filter(pk=delivery.pk, delivered_at__isnull=True)
    try:
        channels.send(Channel(delivery.channel), notices.as_json(told), message=f"vh-{told.pk}", now=int(time.time()))
    except ChannelError as error:
        wait = pause(delivery.attempts)
        mine.update(error=str(error)[:500], next_at=None if wait is None else Now() + wait)
        return False
    mine.update(error="", next_at=None, delivered_at=Now())
    return True


def wanted(name: str | None) -> list[Channel]:
    """The channels to be tested. Raises Refused for one that is not set up, and where none is."""
    ready = channels.configured()
    if name is not None and name not in Channel.values:
        raise Refused(f"--channel must be one of {', '.join(Channel.values)}.", code="invalid_value", remedy=SET_UP)
    found = [one for one in ready if name in (None, one.value)]
    if not found:
        told = f"The channel {name} is not set up." if name else "No channel is set up."
        raise Refused(told, code="no_channel", remedy=SET_UP)
    return found


def try_out(ready: list[Channel]) -> list[dict[str, Any]]:
    """Sends a message that tells of nothing over each channel, now and once; nothing is stored."""
    empty = dict.fromkeys(notices.as_json(Notification()))
    found = []
    for channel in ready:
        message = {**empty, **TEST, "count": 1, "recorded_only": False}
        try:
            channels.send(channel, message, message=f"vh-test-{uuid4()}", now=int(time.time()))
        except ChannelError as error:
            found.append({"channel": channel.value, "delivered": False, "error": str(error)})
        else:
            found.append({"channel": channel.value, "delivered": True, "error": None})
    return found
