"""One message per cause: found by runs and the tick, counted, silenced, over; sent once over each channel."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core import mail
from django.db import DatabaseError, connection
from django.db.models import Q
from django.db.models.functions import Now

from budgets import channels, notices, notify, overrides, sql
from budgets.alerts import Cause, Severity, Topic
from budgets.deliver import MOST_ATTEMPTS, look_and_send, try_out, wanted
from budgets.meter import ChunkMeter
from budgets.models import DaySpend, Delivery, Notification, OverrideStatus, PriceList
from budgets.policies import set_policy
from budgets.price_policy import Scope
from budgets.reserve import keep_refusal
from tests.integration.budgets.test_money import GET, Made, end, finish, leased, made, plan, started
from tests.support.hooks import HANGS, Hook
from vaulthalla.errors import NotFound, Refused, Stall, StallCode
from vaulthalla.requests import Requests
from vaulthalla.vaults.models import Vault
from vaulthalla.work.engine import record_stall
from vaulthalla.work.models import Run, RunKind, RunStatus

__all__ = ["made"]

SECRET = b"a secret of enough bytes"
CAUSE = Cause(
    topic=Topic.SYNC_BLOCKED, parts=("sync", "1", "x"), severity=Severity.CRITICAL, title="t", text="u", remedy="vh r"
)


def told() -> list[tuple[str, int, bool]]:
    rows = Notification.objects.order_by("pk")
    return [(row.topic.partition(".")[2], row.count, row.resolved_at is None) for row in rows]


def blocked(vault: Vault, *, get: int = 1000) -> Run:
    """A sync whose plan a price policy forbids."""
    run = started(vault)
    try:
        plan(run, get=get)
    except Stall as stall:
        keep_refusal(run.pk, stall)
        record_stall(run.pk, stall)
    finish(run)
    run.refresh_from_db()
    return run


def stalled(vault: Vault, code: StallCode, kind: RunKind = RunKind.SYNC) -> None:
    run = started(vault)
    Run.objects.filter(pk=run.pk).update(kind=kind)
    record_stall(run.pk, Stall(code, "why", remedy="what helps"))
    finish(run)


def spend(vault: Vault, gets: int) -> Run:
    """A run that sends so many requests, at a cent each."""
    run = started(vault)
    meter = ChunkMeter(lease := leased(run))
    meter.draw(Requests({GET: gets}))
    for _ in range(gets):
        meter.attempt(GET)
    end(lease)
    finish(run)
    return run


class TestCauses:
    def test_eight_who_find_it_at_once_tell_it_once(self, transactional_db: None) -> None:
        def find(_: int) -> None:
            try:
                notices.tell([CAUSE])
            finally:
                connection.close()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(find, range(16)))
        assert told() == [("sync_blocked", 16, True)]

    @pytest.mark.django_db
    def test_what_is_over_is_a_new_cause_when_it_comes_back_and_what_is_seen_to_is_not(self) -> None:
        notices.tell([CAUSE])
        notices.acknowledge([], every=True, by="ann")
        notices.tell([replace(CAUSE, text="newer")])
        row = Notification.objects.get()
        assert (row.count, row.text, row.acknowledged_by) == (2, "newer", "ann")
        notices.resolve(Q())
        notices.tell([CAUSE])
        assert told() == [("sync_blocked", 2, False), ("sync_blocked", 1, True)]

    @pytest.mark.django_db
    def test_what_is_only_looked_at_does_not_count(self) -> None:
        for _ in range(3):
            notices.tell([CAUSE], again=False)
        assert told() == [("sync_blocked", 1, True)]

    @pytest.mark.django_db
    def test_who_acknowledged_first_stays_and_nonsense_changes_nothing(self) -> None:
        notices.tell([CAUSE, replace(CAUSE, parts=("b",))])
        one, two = Notification.objects.order_by("pk")
        notices.acknowledge([str(one.pk)], every=False, by="ann")
        assert [row.acknowledged_by for row in notices.acknowledge([str(one.pk)], every=False, by="bob")] == ["ann"]
        for number in ("999999", "9" * 30, "9" * 5000, "²", "-1", "x", "\0"):
            with pytest.raises(NotFound):
                notices.acknowledge([str(two.pk), number], every=False, by="bob")
        for numbers, every, by in (([], False, "bob"), (["1"], True, "bob"), ([str(two.pk)], False, " ")):
            with pytest.raises(Refused):
                notices.acknowledge(numbers, every=every, by=by)
        assert [n["id"] for n in notices.listing(every=False)] == [str(two.pk)]


class TestRuns:
    def test_a_limit_of_a_day_that_blocks_two_vaults_is_one_cause(self, made: Made) -> None:
        policy = set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_daily": "1"})
        for name in ("one", "two"):
            assert blocked(made(name)).status == RunStatus.STALLED
        row = Notification.objects.get()
        assert (row.count, row.severity, row.policy_id, row.window) == (2, "critical", policy.pk, "daily")
        assert row.remedy == "vh pricing budget set-global --max-daily 10"
        # A new limit is a new cause.
        set_policy(Scope.GLOBAL, None, {"max_daily": "2"})
        blocked(Vault.objects.get(name="one"))
        assert Notification.objects.count() == 2

    def test_a_limit_per_run_is_the_vaults_own_and_over_with_its_next_success(self, made: Made) -> None:
        set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_run": "1"})
        one, two = made("one"), made("two")
        for vault in (one, one, two):
            blocked(vault)
        assert told() == [("sync_blocked", 2, True), ("sync_blocked", 1, True)]
        spend(one, 1)
        assert told() == [("sync_blocked", 2, False), ("sync_blocked", 1, True)]
        blocked(one)
        assert len(told()) == 3

    def test_a_price_that_cannot_be_judged_blocks_and_is_told(self, made: Made) -> None:
        set_policy(Scope.GLOBAL, None, {"mode": "enforce"})
        run = started(vault := made())
        with pytest.raises(Stall) as stall:
            plan(run, head=1)
        keep_refusal(run.pk, stall.value)
        record_stall(run.pk, stall.value)
        finish(run)
        row = Notification.objects.get()
        assert (row.cause, row.window) == (f"budget.sync_blocked/sync/{vault.pk}/price_budget", "")
        assert "pricing.price_unknown" in row.text

    @pytest.mark.parametrize(
        ("code", "severity"),
        [
            (StallCode.BUDGET_PUT, "warning"),
            (StallCode.BUDGET_DOWNLOAD_BYTES, "critical"),
            (StallCode.DELETE_GUARD, "critical"),
            (StallCode.ROOT_MISSING, "critical"),
        ],
    )
    def test_other_protections_are_told_with_what_helps(self, made: Made, code: StallCode, severity: str) -> None:
        stalled(vault := made(), code)
        row = Notification.objects.get()
        assert (row.severity, row.remedy, row.vault_name) == (severity, "what helps", vault.name)

    def test_request_budgets_that_take_turns_are_one_cause_and_another_protection_ends_it(self, made: Made) -> None:
        vault = made()
        for code in (StallCode.BUDGET_PUT, StallCode.BUDGET_GET, StallCode.DELETE_GUARD):
            stalled(vault, code)
        assert told() == [("sync_blocked", 2, False), ("sync_blocked", 1, True)]

    def test_a_listing_that_is_blocked_is_not_over_with_a_sync(self, made: Made) -> None:
        stalled(vault := made(), StallCode.BUDGET_LIST, RunKind.RECONCILE)
        spend(vault, 1)
        assert told() == [("sync_blocked", 1, True)]

    @pytest.mark.parametrize("kind", [RunKind.DRY_RUN, RunKind.CHECK])
    def test_what_somebody_looks_at_is_not_told(self, made: Made, kind: RunKind) -> None:
        stalled(made(), StallCode.DELETE_GUARD, kind)
        assert told() == []

    @pytest.mark.parametrize(("mode", "quiet"), [("warn", False), ("report", True)])
    def test_a_limit_that_does_not_block_is_told_when_it_is_passed(self, made: Made, mode: str, quiet: bool) -> None:
        set_policy(Scope.GLOBAL, None, {"mode": mode, "max_run": "0.05", "max_daily": "1"})
        vault = made()
        for _ in range(2):
            spend(vault, 10)
        row = Notification.objects.get()
        assert (row.topic, row.count, row.quiet, row.window) == ("budget.limit_passed", 2, quiet, "per_run")
        spend(vault, 1)
        assert told() == [("limit_passed", 2, False)]

    def test_thresholds_are_told_by_what_is_spent_not_by_what_is_set_aside(self, made: Made) -> None:
        set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_daily": "1"})
        vault = made()
        plan(run := started(vault), get=95)
        notify.watch()
        assert told() == []
        finish(run)
        assert told() == []
        for gets, shares in [(49, []), (1, ["50"]), (10, ["50"]), (32, ["50", "90"]), (1, ["50", "90"])]:
            spend(vault, gets)
            notify.watch()
            rows = Notification.objects.order_by("pk")
            assert [row.cause.rpartition("/")[2] for row in rows] == shares, gets
        assert {row.severity for row in Notification.objects.all()} == {"info", "critical"}

    def test_a_run_ends_whatever_becomes_of_its_message(
        self, made: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(sql, "TELL", "SELECT 1/0")
        stalled(vault := made(), StallCode.DELETE_GUARD)
        assert Run.objects.get(vault=vault).status == RunStatus.STALLED
        assert "could not be told" in caplog.text


class TestTick:
    def test_a_month_that_will_not_last_and_windows_that_pass(
        self, made: Made, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        vault = made()
        set_policy(Scope.VAULT, vault.name, {"mode": "warn", "max_monthly": "10", "max_daily": "4"})
        common = {"vault_id": vault.pk, "provider": "wasabi", "currency": "USD", "request_class": "get"}
        DaySpend.objects.create(run_id=-1, used=400, day=date(2026, 3, 10), unit_price=Decimal("0.01"), **common)
        monkeypatch.setattr(sql, "today", lambda: date(2026, 3, 10))
        notify.watch()
        assert sorted(told()) == [("predicted_overage", 1, True), ("warn_threshold", 1, True)]
        assert "12.40 will be spent" in Notification.objects.get(topic=Topic.OVERAGE.value).text
        assert set(Notification.objects.values_list("vault_name", flat=True)) == {vault.name}
        monkeypatch.setattr(sql, "today", lambda: date(2026, 3, 11))
        notify.watch()
        assert sorted(told()) == [("predicted_overage", 1, True), ("warn_threshold", 1, False)]
        monkeypatch.setattr(sql, "today", lambda: date(2026, 4, 1))
        notify.watch()
        assert not any(is_open for _, _, is_open in told())

    def test_stale_prices_of_watched_vaults_until_they_are_looked_at(self, made: Made) -> None:
        made()
        prices = PriceList.objects.filter(provider="wasabi")
        prices.update(checked_at=Now() - timedelta(days=31))
        notify.watch()
        assert told() == []  # nobody watches money
        set_policy(Scope.PROVIDER, "aws-s3", {"mode": "enforce"})
        notify.watch()
        assert told() == []
        set_policy(Scope.GLOBAL, None, {"mode": "warn"})
        for _ in range(2):
            notify.watch()
        row = Notification.objects.get()
        assert (row.topic, row.severity, row.count) == ("pricing.catalog_stale", "warning", 1)
        prices.update(checked_at=Now())
        notify.watch()
        assert told() == [("catalog_stale", 1, False)]
        prices.update(checked_at=Now() - timedelta(days=8))
        set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_catalog_age": "7d"})
        notify.watch()
        assert Notification.objects.order_by("-pk")[0].severity == "critical"
        set_policy(Scope.GLOBAL, None, {"allow_stale_catalog": True})
        notify.watch()
        assert not any(is_open for _, _, is_open in told())

    def test_a_request_is_told_until_it_is_decided_or_too_late(self, made: Made) -> None:
        policy, vault = set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_run": "0"}), made()

        def ask() -> str:
            asked = overrides.request(vault, [policy.pk], reason="why", by="ann", ttl=timedelta(minutes=5))
            return str(asked.pk)

        first, second = ask(), ask()
        assert told() == [("override_requested", 1, True)] * 2
        row = Notification.objects.order_by("pk")[0]
        assert (row.severity, row.remedy) == ("warning", f"vh pricing override approve {first}")
        overrides.decide(first, OverrideStatus.DENIED, by="bob")
        overrides.PriceOverride.objects.filter(pk=second).update(expires_at=Now())
        notify.watch()
        assert told() == [("override_requested", 1, False)] * 2

    def test_a_vault_that_is_gone_is_told_of_no_more(self, made: Made) -> None:
        stalled(vault := made(), StallCode.DELETE_GUARD)
        vault.delete()
        notify.watch()
        assert told() == [("sync_blocked", 1, False)]


@pytest.fixture
def hook(settings: Any) -> Iterator[Hook]:
    with Hook() as hook:
        settings.NOTIFY_WEBHOOK, settings.NOTIFY_WEBHOOK_SECRET = hook.address, SECRET
        yield hook


def due() -> None:
    """Time passes."""
    Delivery.objects.filter(next_at__isnull=False).update(next_at=Now())


@pytest.mark.django_db
class TestDelivery:
    def test_each_channel_takes_it_once_signed_and_with_what_helps(
        self, hook: Hook, settings: Any, mailoutbox: list[mail.EmailMessage]
    ) -> None:
        settings.NOTIFY_EMAIL = ["ops@example.org", "money@example.org"]
        notices.tell([replace(CAUSE, title="two\nlines")])
        for _ in range(2):
            look_and_send(seconds=5)
            due()
        number = Notification.objects.get().pk
        [taken], [letter] = hook.taken, mailoutbox
        content = f"vh-{number}.{taken.headers['webhook-timestamp']}.".encode() + taken.body
        signature = base64.b64encode(hmac.new(SECRET, content, hashlib.sha256).digest()).decode()
        assert taken.headers["webhook-signature"] == f"v1,{signature}"
        assert abs(int(taken.headers["webhook-timestamp"]) - time.time()) < 60
        assert taken.json["id"] == str(number)
        assert (taken.json["severity"], taken.json["remedy"], taken.json["count"]) == ("critical", "vh r", 1)
        assert letter.to == ["ops@example.org", "money@example.org"]
        assert letter.subject == "[vaulthalla] critical: two lines"
        assert f"vh notifications ack {number}" in letter.body

    def test_what_fails_is_tried_again_with_pauses_under_the_same_name_and_then_given_up(self, hook: Hook) -> None:
        hook.answers = [500, 404, 204]
        notices.tell([CAUSE])
        assert look_and_send(seconds=5).failed == 1
        assert look_and_send(seconds=5).failed == 0  # not before its pause is over
        way = Delivery.objects.get()
        assert (way.attempts, way.error, way.delivered_at) == (1, "answered 500", None)
        due()
        look_and_send(seconds=5)
        due()
        assert look_and_send(seconds=5).delivered == 1
        assert [taken.headers["webhook-id"] for taken in hook.taken] == [f"vh-{way.notification_id}"] * 3
        hook.answers = [500]
        notices.tell([replace(CAUSE, parts=("other",))])
        for _ in range(MOST_ATTEMPTS + 2):
            look_and_send(seconds=5)
            due()
        given_up = Delivery.objects.get(delivered_at__isnull=True)
        assert (given_up.attempts, given_up.next_at) == (MOST_ATTEMPTS, None)

    def test_a_redirect_is_not_followed(self, hook: Hook) -> None:
        with Hook() as elsewhere:
            hook.answers, hook.location = [307], elsewhere.address
            notices.tell([CAUSE])
            assert look_and_send(seconds=5).failed == 1
            assert elsewhere.taken == []
        assert Delivery.objects.get().error == "answered 307"

    def test_who_does_not_answer_holds_nobody_up(self, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(channels, "ANSWER_SECONDS", 0.1)
        hook.answers = [HANGS]
        notices.tell([CAUSE])
        assert look_and_send(seconds=5).failed == 1
        assert Delivery.objects.get().error == "no answer within 0.1 s"

    def test_who_is_not_there_is_told_without_the_address(self, hook: Hook, settings: Any) -> None:
        settings.NOTIFY_WEBHOOK = "http://127.0.0.1:1/token-in-the-path"
        notices.tell([CAUSE])
        look_and_send(seconds=5)
        error = Delivery.objects.get().error
        assert error
        assert "token" not in error

    def test_a_mail_server_that_is_not_there_leaves_the_webhook_alone(self, hook: Hook, settings: Any) -> None:
        settings.NOTIFY_EMAIL = ["ops@example.org"]
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 1
        notices.tell([CAUSE])
        assert look_and_send(seconds=5).delivered == len(hook.taken) == 1
        assert "refused" in Delivery.objects.get(channel="email").error

    def test_what_is_seen_to_over_quiet_or_too_mild_is_not_sent(self, hook: Hook, settings: Any) -> None:
        settings.NOTIFY_FROM = "warning"
        quiet, mild = replace(CAUSE, parts=("q",), quiet=True), replace(CAUSE, parts=("m",), severity=Severity.INFO)
        seen, failing = replace(CAUSE, parts=("s",)), replace(CAUSE, parts=("f",))
        notices.tell([quiet, mild, seen])
        notices.acknowledge([str(Notification.objects.get(cause=seen.key).pk)], every=False, by="ann")
        look_and_send(seconds=5)
        assert hook.taken == []
        hook.answers = [500]
        notices.tell([failing])
        look_and_send(seconds=5)
        notices.acknowledge([], every=True, by="ann")
        due()
        look_and_send(seconds=5)
        assert len(hook.taken) == 1

    def test_what_was_told_while_nobody_sent_is_sent_within_a_day(self, hook: Hook, settings: Any) -> None:
        address, settings.NOTIFY_WEBHOOK = settings.NOTIFY_WEBHOOK, ""
        notices.tell([CAUSE, replace(CAUSE, parts=("old",))])
        Notification.objects.filter(cause__endswith="old").update(first_seen=Now() - timedelta(days=2))
        look_and_send(seconds=5)
        settings.NOTIFY_WEBHOOK = address
        look_and_send(seconds=5)
        assert len(hook.taken) == 1

    def test_a_trial_says_what_came_of_it_and_stores_nothing(self, hook: Hook) -> None:
        hook.answers = [204, 500]
        assert try_out(wanted(None)) == [{"channel": "webhook", "delivered": True, "error": None}]
        assert try_out(wanted("webhook"))[0]["error"] == "answered 500"
        assert hook.taken[0].json["topic"] == "notification.test"
        assert set(hook.taken[0].json) == set(notices.as_json(Notification()))
        for name in ("pigeon", "email"):
            with pytest.raises(Refused):
                wanted(name)
        assert not Notification.objects.exists()


def test_of_two_who_send_at_once_one_does(transactional_db: None, hook: Hook) -> None:
    notices.tell([replace(CAUSE, parts=(str(number),)) for number in range(6)])

    def send(_: int) -> int:
        try:
            return look_and_send(seconds=20).delivered
        finally:
            connection.close()

    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(send, range(3))) == 6
    assert sorted(taken.headers["webhook-id"] for taken in hook.taken) == sorted(
        f"vh-{row.pk}" for row in Notification.objects.all()
    )


def test_who_dies_in_an_attempt_leaves_it_to_the_next(transactional_db: None, hook: Hook) -> None:
    notices.tell([CAUSE])
    Delivery.objects.create(notification=Notification.objects.get(), channel="webhook")
    assert sql.claim_delivery(["webhook"], seconds=60, most=8) is not None
    assert sql.claim_delivery(["webhook"], seconds=60, most=8) is None
    due()
    assert look_and_send(seconds=5).delivered == 1


def test_the_database_holds_one_open_notification_per_cause(transactional_db: None) -> None:
    notices.tell([CAUSE])
    with pytest.raises(DatabaseError, match="one_open_notification_per_cause"):
        Notification.objects.create(topic="t", severity="info", cause=CAUSE.key, title="t", text="t")
