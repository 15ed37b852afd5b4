"""What a run may spend, what its chunks hold, and what was spent or lost."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from budgets.alerts import Severity, Topic
from budgets.bill_map import Format
from budgets.price_policy import Mode, Scope, Window
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
    day = models.DateField(null=True, help_text="The UTC day on which the lease was last heard of: of what gets lost.")

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
    bucket = models.CharField(max_length=255, blank=True)
    currency = models.CharField(max_length=8, blank=True)
    price_list = models.ForeignKey(PriceList, null=True, on_delete=models.PROTECT, related_name="+")
    catalog_version = models.CharField(max_length=200, blank=True)
    verified = models.BooleanField(default=False)
    tolerated = models.JSONField(default=list, help_text="Policies that an override stands in for.")
    judged = models.CharField(max_length=200, blank=True, help_text="The `enforce` policies it was last held against.")
    refused_reason = models.TextField(blank=True)
    refused_remedy = models.TextField(blank=True)
    refused_policy = models.BigIntegerField(null=True)
    refused_window = models.CharField(max_length=8, blank=True)
    notes = models.JSONField(default=list, help_text="Limits that it passed, where policies do not enforce them.")

    class Meta:
        indexes = [models.Index(fields=["vault_id"], name="purse_by_vault")]

    def __str__(self) -> str:
        return f"purse of run {self.run_id}"


class DaySpend(models.Model):
    """What one run used and lost of one class on one UTC day at one price: paid for, but for what is `unbilled`.

    Outlives the run: money that is spent stays so, at the price that held when it was spent.
    """

    run_id = models.BigIntegerField()
    vault_id = models.BigIntegerField()
    provider = models.CharField(max_length=32)
    bucket = models.CharField(max_length=255, blank=True, help_text="Bills name buckets, not vaults.")
    currency = models.CharField(max_length=8)
    day = models.DateField()
    request_class = models.CharField(max_length=20, choices=REQUEST_CLASSES)
    used = models.BigIntegerField(default=0)
    lost = models.BigIntegerField(default=0)
    unbilled = models.BigIntegerField(
        default=0, help_text="How many of `used` were answered with what the provider does not bill."
    )
    unit_price = models.DecimalField(max_digits=60, decimal_places=40, null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["run_id", "request_class", "day", "unit_price"],
                name="one_spend_per_class_day_and_price",
                nulls_distinct=False,
            ),
        ]
        # The windows of the policies: today and this month.
        indexes = [models.Index(fields=["day"], name="spend_by_day")]

    def __str__(self) -> str:
        return f"{self.request_class} of run {self.run_id} on {self.day}"


class ClassUse(models.Model):
    """How much of what a run spent in one UTC month was on objects of one storage class: known once the run is over."""

    run_id = models.BigIntegerField()
    month = models.DateField(help_text="Its first day.")
    storage_class = models.CharField(max_length=64)
    request_class = models.CharField(max_length=20, choices=REQUEST_CLASSES)
    quantity = models.BigIntegerField()
    copied_bytes = models.BigIntegerField(default=0, help_text="What server-side copies read: of `copy` alone.")
    cut_short = models.DecimalField(
        max_digits=30, decimal_places=0, default=0, help_text="Byte-seconds of minimum durations not reached."
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["run_id", "month", "storage_class", "request_class"], name="one_use_per_month_and_classes"
            ),
        ]
        indexes = [models.Index(fields=["month"], name="class_use_by_month")]

    def __str__(self) -> str:
        return f"{self.quantity} {self.request_class} of {self.storage_class} in run {self.run_id}"


class BillLine(models.Model):
    """What a provider says was asked of one bucket in one period. Importing the period again replaces it."""

    source = models.CharField(max_length=16, choices=[(f.value, f.value) for f in Format])
    provider = models.CharField(max_length=32)
    account = models.CharField(max_length=64, blank=True)
    bucket = models.CharField(max_length=255, blank=True, help_text="Empty: the line names none.")
    operation = models.CharField(max_length=100, help_text="As the provider calls it.")
    tier = models.CharField(max_length=16, help_text="What it is summed with.")
    request_class = models.CharField(max_length=20, choices=REQUEST_CLASSES, blank=True)
    storage_class = models.CharField(max_length=64, blank=True)
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    quantity = models.BigIntegerField()
    imported_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            # Importing twice counts once.
            models.UniqueConstraint(
                fields=["source", "provider", "account", "bucket", "operation", "tier", "storage_class", "starts_at"],
                name="one_bill_line_per_period",
            ),
            models.CheckConstraint(name="bill_line_not_negative", condition=Q(quantity__gte=0)),
            models.CheckConstraint(name="bill_line_lasts", condition=Q(ends_at__gt=F("starts_at"))),
        ]
        indexes = [models.Index(fields=["starts_at"], name="bill_line_by_time")]

    def __str__(self) -> str:
        return f"{self.quantity} {self.operation} of {self.bucket or self.account}"


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


class Notification(models.Model):
    """One cause that somebody should know of, however often it was found.

    It is open until it is resolved: its window is over, or what it tells of is. Until then the same cause only counts
    up; afterwards it is a new one. Acknowledging it silences it. Vaults and policies are named, not referred to: a
    run that ends must not wait for whoever deletes one.
    """

    topic = models.CharField(max_length=32, choices=Topic.choices)
    severity = models.CharField(max_length=8, choices=Severity.choices)
    cause = models.CharField(max_length=600)
    title = models.CharField(max_length=200)
    text = models.TextField()
    remedy = models.TextField(blank=True)
    quiet = models.BooleanField(default=False, help_text="Recorded for a policy that only reports; not sent.")
    vault_id = models.BigIntegerField(null=True)
    vault_name = models.CharField(max_length=100, blank=True)
    policy_id = models.BigIntegerField(null=True)
    window = models.CharField(max_length=8, choices=[(w.value, w.value) for w in Window], blank=True)
    window_start = models.DateField(null=True)
    count = models.PositiveIntegerField(default=1)
    first_seen = models.DateTimeField(db_default=Now())
    last_seen = models.DateTimeField(db_default=Now())
    acknowledged_by = models.CharField(max_length=150, blank=True)
    acknowledged_at = models.DateTimeField(null=True)
    resolved_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            # One message per cause: of two workers that find it at once, one adds it and the other counts.
            models.UniqueConstraint(
                fields=["cause"], name="one_open_notification_per_cause", condition=Q(resolved_at__isnull=True)
            ),
        ]

    def __str__(self) -> str:
        return f"{self.title} ({self.severity})"


class Channel(models.TextChoices):
    EMAIL = "email", "e-mail"
    WEBHOOK = "webhook", "signed webhook"


class Delivery(models.Model):
    """One notification's way over one channel. `next_at` empty: delivered, or given up with the last error."""

    notification = models.ForeignKey(Notification, on_delete=models.CASCADE, related_name="deliveries")
    channel = models.CharField(max_length=8, choices=Channel.choices)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_at = models.DateTimeField(null=True, db_default=Now())
    delivered_at = models.DateTimeField(null=True)
    error = models.CharField(max_length=500, blank=True)

    class Meta:
        verbose_name_plural = "deliveries"
        constraints = [
            # A notification is sent once over each channel, whoever thinks of it.
            models.UniqueConstraint(fields=["notification", "channel"], name="one_delivery_per_channel"),
        ]
        # The tick: what is to be sent now.
        indexes = [models.Index(fields=["next_at"], name="delivery_due", condition=Q(next_at__isnull=False))]

    def __str__(self) -> str:
        return f"notification {self.notification_id} by {self.channel}"
