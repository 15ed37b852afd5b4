"""What a run may spend, what its chunks hold, and what was spent or lost."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from budgets.price_policy import Mode, Scope
from budgets.pricing import Charge, Unit
from vaulthalla.requests import RequestClass
from vaulthalla.vaults.models import Vault
from vaulthalla.work.models import Chunk, Run

REQUEST_CLASSES = [(c.value, c.value) for c in RequestClass]


class RunBudget(models.Model):
    """One class of one run's budget. used + held + lost <= limit at every instant; NULL is unlimited.

    `lost` was held by a process that died: it may have been sent, so it is never given out again.
    """

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="budget")
    request_class = models.CharField(max_length=20, choices=REQUEST_CLASSES)
    limit = models.BigIntegerField(null=True)
    used = models.BigIntegerField(default=0)
    held = models.BigIntegerField(default=0)
    lost = models.BigIntegerField(default=0)
    reserved = models.BigIntegerField(
        null=True, help_text="As many are paid for: used + held + lost never exceed it. Empty: nobody limits money."
    )
    unit_price = models.DecimalField(max_digits=60, decimal_places=40, null=True, help_text="Empty: unknown.")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["run", "request_class"], name="one_budget_row_per_class"),
            models.CheckConstraint(
                name="budget_never_exceeded",
                condition=Q(limit__isnull=True) | Q(limit__gte=F("used") + F("held") + F("lost")),
            ),
            models.CheckConstraint(
                name="money_never_exceeded",
                condition=Q(reserved__isnull=True) | Q(reserved__gte=F("used") + F("held") + F("lost")),
            ),
            models.CheckConstraint(name="budget_not_negative", condition=Q(used__gte=0, held__gte=0, lost__gte=0)),
        ]

    def __str__(self) -> str:
        return f"{self.request_class} of run {self.run_id}"


class Allotment(models.Model):
    """What one lease of a chunk holds of one class. Lives and dies with the lease token."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="+")
    chunk = models.ForeignKey(Chunk, on_delete=models.CASCADE, related_name="allotments")
    lease_token = models.UUIDField()
    request_class = models.CharField(max_length=20, choices=REQUEST_CLASSES)
    amount = models.BigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["lease_token", "request_class"], name="one_allotment_per_lease_and_class"),
            models.CheckConstraint(name="allotment_not_negative", condition=Q(amount__gte=0)),
        ]

    def __str__(self) -> str:
        return f"{self.amount} {self.request_class}"


class PriceList(models.Model):
    """One version of a provider's prices in one region ("*": all). Versions are added, never changed."""

    provider = models.CharField(max_length=32)
    region = models.CharField(max_length=200)
    currency = models.CharField(max_length=8)
    version = models.CharField(max_length=200)
    source = models.CharField(max_length=200)
    valid_from = models.DateTimeField()
    checked_at = models.DateTimeField(help_text="When this was last seen to be what the provider asks.")
    stored_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["provider", "region", "-checked_at", "-id"]
        constraints = [
            models.UniqueConstraint(fields=["provider", "region", "version"], name="one_price_list_per_version"),
        ]

    def __str__(self) -> str:
        return f"{self.provider} {self.region} {self.version}"


class PriceRate(models.Model):
    """One price of a list. `storage_class` "*" holds for every class without a rate of its own."""

    price_list = models.ForeignKey(PriceList, on_delete=models.CASCADE, related_name="rates")
    storage_class = models.CharField(max_length=64)
    charge = models.CharField(max_length=16, choices=[(c.value, c.value) for c in Charge])
    unit = models.CharField(max_length=16, choices=[(u.value, u.value) for u in Unit])
    price = models.DecimalField(max_digits=20, decimal_places=8)

    class Meta:
        ordering = ["storage_class", "charge"]
        constraints = [
            models.UniqueConstraint(fields=["price_list", "storage_class", "charge"], name="one_price_per_charge"),
            models.CheckConstraint(name="price_not_negative", condition=Q(price__gte=0)),
        ]

    def __str__(self) -> str:
        return f"{self.charge} of {self.storage_class}: {self.price} per {self.unit}"


class PricePolicy(models.Model):
    """What may be spent in all vaults, in those of one provider, or in one vault. NULL is no limit."""

    scope = models.CharField(max_length=8, choices=[(s.value, s.value) for s in Scope])
    provider = models.CharField(max_length=32, blank=True)
    vault = models.ForeignKey(Vault, null=True, blank=True, on_delete=models.CASCADE, related_name="price_policies")
    mode = models.CharField(max_length=8, choices=[(m.value, m.value) for m in Mode], default=Mode.REPORT.value)
    currency = models.CharField(max_length=8, default="USD")
    max_run = models.DecimalField(max_digits=20, decimal_places=8, null=True, blank=True)
    max_daily = models.DecimalField(max_digits=20, decimal_places=8, null=True, blank=True)
    max_monthly = models.DecimalField(max_digits=20, decimal_places=8, null=True, blank=True)
    max_catalog_age = models.PositiveBigIntegerField(null=True, blank=True, default=2_592_000, help_text="Seconds.")
    allow_stale_catalog = models.BooleanField(default=False)
    require_verified_catalog = models.BooleanField(default=False)
    changed_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["id"]
        verbose_name_plural = "price policies"
        constraints = [
            models.UniqueConstraint(
                fields=["scope", "provider", "vault"], name="one_price_policy_per_scope", nulls_distinct=False
            ),
            models.CheckConstraint(
                name="price_policy_names_its_target",
                condition=Q(scope="global", provider="", vault__isnull=True)
                | (Q(scope="provider", vault__isnull=True) & ~Q(provider=""))
                | Q(scope="vault", provider="", vault__isnull=False),
            ),
            models.CheckConstraint(
                name="price_limit_not_negative",
                condition=(Q(max_run__isnull=True) | Q(max_run__gte=0))
                & (Q(max_daily__isnull=True) | Q(max_daily__gte=0))
                & (Q(max_monthly__isnull=True) | Q(max_monthly__gte=0)),
            ),
        ]

    def __str__(self) -> str:
        return f"price policy {self.pk} ({self.scope})"


class Purse(models.Model):
    """How a run is billed, fixed when it begins, and what kept it from spending more."""

    run = models.OneToOneField(Run, primary_key=True, on_delete=models.CASCADE, related_name="purse")
    vault_id = models.BigIntegerField()
    vault_name = models.CharField(max_length=100)
    provider = models.CharField(max_length=32)
    currency = models.CharField(max_length=8, blank=True)
    price_list = models.ForeignKey(PriceList, null=True, on_delete=models.PROTECT, related_name="+")
    catalog_version = models.CharField(max_length=200, blank=True)
    verified = models.BooleanField(default=False)
    tolerated = models.JSONField(default=list, help_text="Policies that an override stands in for.")
    refused_reason = models.TextField(blank=True)
    refused_remedy = models.TextField(blank=True)

    class Meta:
        indexes = [models.Index(fields=["vault_id"], name="purse_by_vault")]

    def __str__(self) -> str:
        return f"purse of run {self.run_id}"


class DaySpend(models.Model):
    """What one run used and lost of one class on one UTC day. Outlives the run: money that is spent stays so."""

    run_id = models.BigIntegerField()
    vault_id = models.BigIntegerField()
    provider = models.CharField(max_length=32)
    currency = models.CharField(max_length=8)
    day = models.DateField()
    request_class = models.CharField(max_length=20, choices=REQUEST_CLASSES)
    used = models.BigIntegerField(default=0)
    lost = models.BigIntegerField(default=0)
    unit_price = models.DecimalField(max_digits=60, decimal_places=40, null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["run_id", "request_class", "day"], name="one_spend_per_class_and_day"),
        ]
        # The windows of the policies: today and this month.
        indexes = [models.Index(fields=["day"], name="spend_by_day")]

    def __str__(self) -> str:
        return f"{self.request_class} of run {self.run_id} on {self.day}"


class EntryKind(models.TextChoices):
    RESERVE = "reserve", "set aside before anything is sent"
    SETTLE = "settle", "sent and paid for"
    RELEASE = "release", "set aside and not needed"
    LOST = "lost", "held by a worker that died: perhaps sent"


class LedgerEntry(models.Model):
    """One movement of a run's money. The database refuses to change or delete entries.

    Amounts are signed by what they do to the run's reservation: `reserve` adds, all others take away, so that a
    run that reserved and is over sums to zero.
    """

    run_id = models.BigIntegerField()
    run_kind = models.CharField(max_length=12)
    vault_id = models.BigIntegerField()
    vault_name = models.CharField(max_length=100)
    provider = models.CharField(max_length=32)
    kind = models.CharField(max_length=8, choices=EntryKind.choices)
    request_class = models.CharField(max_length=20, choices=REQUEST_CLASSES)
    quantity = models.BigIntegerField()
    amount = models.DecimalField(max_digits=60, decimal_places=40, null=True, help_text="Empty: unknown price.")
    currency = models.CharField(max_length=8)
    catalog_version = models.CharField(max_length=200)
    day = models.DateField(help_text="The UTC day whose window it belongs to.")
    recorded_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "ledger entries"
        indexes = [
            models.Index(fields=["run_id"], name="ledger_by_run"),
            models.Index(fields=["day"], name="ledger_by_day"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} of run {self.run_id}"


class OverrideStatus(models.TextChoices):
    REQUESTED = "requested", "waits for somebody else's word"
    APPROVED = "approved", "may be used once"
    DENIED = "denied", "refused"
    CANCELLED = "cancelled", "withdrawn"
    USED = "used", "spent by its run"


class PriceOverride(models.Model):
    """Leave for one run of one vault to pass exactly these policies, once, until it expires."""

    vault = models.ForeignKey(Vault, on_delete=models.CASCADE, related_name="price_overrides")
    policies = models.JSONField(help_text="Ids of the policies, in order.")
    status = models.CharField(max_length=9, choices=OverrideStatus.choices, default=OverrideStatus.REQUESTED)
    reason = models.CharField(max_length=500)
    requested_by = models.CharField(max_length=150)
    requested_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()
    decided_by = models.CharField(max_length=150, blank=True)
    decided_at = models.DateTimeField(null=True, blank=True)
    used_by_run = models.BigIntegerField(null=True, blank=True)
    used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["vault", "status"], name="override_by_vault")]

    def __str__(self) -> str:
        return f"override {self.pk} ({self.status})"
