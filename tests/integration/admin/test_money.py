"""Who may grant leave and silence messages, and in whose name."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission, User
from django.db.models.functions import Now
from django.test import Client

from budgets import overrides
from budgets.models import Notification, PriceOverride
from budgets.policies import set_policy
from budgets.price_policy import Scope
from tests.integration.admin.conftest import make_vault, populate
from vaulthalla.vaults.models import ApiKey, Vault

OVERRIDES, NOTIFICATIONS = "/admin/budgets/priceoverride/", "/admin/budgets/notification/"


@pytest.fixture
def asked(vault: Vault) -> PriceOverride:
    policy = set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_run": "0"})
    return overrides.request(vault, [policy.pk], reason="first upload", by="ann", ttl=timedelta(minutes=30))


def as_user(client: Client, name: str, *permissions: str) -> Client:
    user = User.objects.create_user(name, is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client.force_login(user)
    return client


def act(client: Client, page: str, action: str, *rows: PriceOverride | Notification) -> str:
    chosen = {"action": action, "_selected_action": [row.pk for row in rows]}
    return client.post(page, chosen, follow=True).content.decode()


class TestOverrides:
    MAY = ("view_priceoverride", "change_priceoverride")

    @pytest.mark.parametrize(("action", "status"), [("approve", "approved"), ("deny", "denied")])
    def test_another_decides_in_his_own_name(
        self, client: Client, asked: PriceOverride, action: str, status: str
    ) -> None:
        act(as_user(client, "bob", *self.MAY), OVERRIDES, action, asked)
        asked.refresh_from_db()
        assert (asked.status, asked.decided_by) == (status, "bob")
        assert asked.decided_at is not None
        assert not Notification.objects.filter(resolved_at__isnull=True).exists()

    def test_who_asked_cannot_approve_but_may_deny(self, client: Client, asked: PriceOverride) -> None:
        ann = as_user(client, "ann", *self.MAY)
        assert "cannot approve it" in act(ann, OVERRIDES, "approve", asked)
        asked.refresh_from_db()
        assert (asked.status, asked.decided_by) == ("requested", "")
        act(ann, OVERRIDES, "deny", asked)
        asked.refresh_from_db()
        assert asked.status == "denied"

    def test_a_superuser_may_approve_his_own(self, client: Client, asked: PriceOverride) -> None:
        client.force_login(User.objects.create_superuser("ann"))
        act(client, OVERRIDES, "approve", asked)
        asked.refresh_from_db()
        assert (asked.status, asked.decided_by) == ("approved", "ann")

    def test_what_is_decided_or_too_late_is_refused_and_the_others_go_on(
        self, client: Client, asked: PriceOverride, vault: Vault
    ) -> None:
        late, good = (
            overrides.request(vault, asked.policies, reason="r", by="ann", ttl=timedelta(minutes=5)) for _ in range(2)
        )
        PriceOverride.objects.filter(pk=late.pk).update(expires_at=Now())
        bob = as_user(client, "bob", *self.MAY)
        act(bob, OVERRIDES, "deny", asked)
        said = act(bob, OVERRIDES, "approve", asked, late, good)
        assert f"Override {asked.pk} is denied" in said
        assert f"Override {late.pk} has expired" in said
        assert set(PriceOverride.objects.values_list("pk", "status")) == {
            (asked.pk, "denied"),
            (late.pk, "requested"),
            (good.pk, "approved"),
        }

    def test_who_may_only_look_decides_nothing(self, client: Client, asked: PriceOverride) -> None:
        viewer = as_user(client, "eve", "view_priceoverride")
        assert b'name="action"' not in viewer.get(OVERRIDES).content
        act(viewer, OVERRIDES, "approve", asked)
        asked.refresh_from_db()
        assert asked.status == "requested"


class TestNotifications:
    MAY = ("view_notification", "change_notification")

    def test_they_are_seen_to_in_ones_own_name_once(self, client: Client, key: ApiKey, vault: Vault) -> None:
        populate(vault)
        populate(make_vault(key, "other"))
        one, two = Notification.objects.order_by("pk")
        bob = as_user(client, "bob", *self.MAY)
        assert "1 are seen to" in act(bob, NOTIFICATIONS, "acknowledge", one)
        client.force_login(User.objects.create_superuser("carl"))
        act(client, NOTIFICATIONS, "acknowledge", one, two)
        names = Notification.objects.order_by("pk").values_list("acknowledged_by", flat=True)
        assert list(names) == ["bob", "carl"]

    def test_who_may_only_look_silences_nothing(self, client: Client, vault: Vault) -> None:
        populate(vault)
        viewer = as_user(client, "eve", "view_notification")
        act(viewer, NOTIFICATIONS, "acknowledge", Notification.objects.get())
        assert Notification.objects.get().acknowledged_at is None

    def test_its_page_tells_what_came_of_sending_it(self, operator: Client, vault: Vault) -> None:
        populate(vault)
        page = operator.get(f"{NOTIFICATIONS}{Notification.objects.get().pk}/change/").content.decode()
        assert "answered 500" in page
        assert "&lt;b&gt; stopped" in page
