"""What a run may spend, what its chunks hold, and what was spent or lost."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from budgets.pricing import Charge, Unit
from vaulthalla.requests import RequestClass
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

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["run", "request_class"], name="one_budget_row_per_class"),
            models.CheckConstraint(
                name="budget_never_exceeded",
                condition=Q(limit__isnull=True) | Q(limit__gte=F("used") + F("held") + F("lost")),
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
