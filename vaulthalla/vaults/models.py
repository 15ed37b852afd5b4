"""What the operator declares: API keys, vaults, and how each vault is synced."""

from __future__ import annotations

from django.core.validators import MinValueValidator, RegexValidator
from django.db import models
from django.db.models.functions import Now
from encrypted_fields.fields import EncryptedTextField

from vaulthalla.requests import RequestClass
from vaulthalla.terms import ConflictPolicy, Strategy


class Provider(models.TextChoices):
    AWS = "aws", "Amazon S3"
    CLOUDFLARE_R2 = "cloudflare-r2", "Cloudflare R2"
    WASABI = "wasabi", "Wasabi"
    BACKBLAZE_B2 = "backblaze-b2", "Backblaze B2"
    DIGITALOCEAN = "digitalocean", "DigitalOcean Spaces"
    MINIO = "minio", "MinIO"
    CEPH = "ceph", "Ceph RGW"
    STORJ = "storj", "Storj"
    OTHER = "other", "Other S3-compatible"


class VaultKind(models.TextChoices):
    S3 = "s3", "S3 or R2 bucket"
    LOCAL = "local", "second directory"


CONFLICT_POLICIES = {
    VaultKind.S3: (
        ConflictPolicy.KEEP_LOCAL,
        ConflictPolicy.KEEP_REMOTE,
        ConflictPolicy.KEEP_NEWEST,
        ConflictPolicy.KEEP_BOTH,
        ConflictPolicy.ASK,
    ),
    VaultKind.LOCAL: (ConflictPolicy.OVERWRITE, ConflictPolicy.KEEP_BOTH, ConflictPolicy.ASK),
}


class StaleIndexPolicy(models.TextChoices):
    RECONCILE = "reconcile", "LIST inside the run when the LIST budget covers it"
    STALL = "stall", "stall index_stale"


name_validator = RegexValidator(
    r"^[^\s/\x00-\x1f\x7f-][^/\x00-\x1f\x7f]{0,99}\Z",
    "1 to 100 characters, no slash or control character, not starting with a space or a dash.",
)


class ApiKey(models.Model):
    """Credentials for one provider endpoint. The secret is encrypted at rest and never shown again.

    With `from_environment`, access key and secret are empty and botocore's default chain supplies them.
    """

    name = models.CharField(max_length=100, unique=True, validators=[name_validator])
    provider = models.CharField(max_length=32, choices=Provider.choices)
    endpoint = models.CharField(max_length=400, blank=True, help_text="Empty: the provider's own endpoint (AWS only).")
    region = models.CharField(max_length=64, default="auto")
    access_key = models.CharField(max_length=128, blank=True)
    # An empty secret is stored as NULL: there is nothing to encrypt.
    secret = EncryptedTextField(null=True, blank=True)
    from_environment = models.BooleanField(default=False, help_text="Take credentials from the AWS default chain.")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Vault(models.Model):
    """A directory tree (`root`) kept in step with a bucket prefix or a second directory (`replica`)."""

    name = models.CharField(max_length=100, unique=True, validators=[name_validator])
    kind = models.CharField(max_length=8, choices=VaultKind.choices)
    description = models.TextField(blank=True)
    root = models.CharField(max_length=4096)
    pool = models.CharField(
        max_length=64, blank=True, help_text="Only processes of this pool reach the root; empty: any process does."
    )
    marker = models.UUIDField(unique=True, editable=False, help_text="The id in .vaulthalla/vault.json.")
    mirror_writer = models.UUIDField(null=True, editable=False, help_text="Who publishes a mirror; see --take-over.")

    replica = models.CharField(max_length=4096, blank=True)
    api_key = models.ForeignKey(ApiKey, null=True, blank=True, on_delete=models.PROTECT, related_name="vaults")
    bucket = models.CharField(max_length=255, blank=True)
    prefix = models.CharField(max_length=900, blank=True, help_text="Keys below this prefix; ends with '/' when set.")
    storage_class = models.CharField(max_length=32, blank=True, help_text="For uploads; empty: the provider's default.")
    capabilities = models.JSONField(
        default=dict, editable=False, help_text="What the probe proved of this store: conditional_put, _copy, _delete."
    )
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            # A vault has exactly the remote side that its kind names.
            models.CheckConstraint(
                name="vault_remote_side_fits_kind",
                condition=(
                    models.Q(kind="s3", api_key__isnull=False, replica="") & ~models.Q(bucket="")
                    | models.Q(kind="local", api_key__isnull=True, bucket="") & ~models.Q(replica="")
                ),
            ),
        ]

    def __str__(self) -> str:
        return self.name


class SyncPolicy(models.Model):
    """How one vault is synced: strategy, conflicts, timing, index age, guards and the request budget.

    A budget field that is NULL is unlimited; 0 allows none.
    """

    vault = models.OneToOneField(Vault, on_delete=models.CASCADE, related_name="policy")
    enabled = models.BooleanField(default=True)
    interval_seconds = models.PositiveIntegerField(default=300, validators=[MinValueValidator(1)])
    strategy = models.CharField(max_length=8, choices=Strategy.choices, default=Strategy.CACHE)
    conflict_policy = models.CharField(max_length=12, choices=ConflictPolicy.choices, default=ConflictPolicy.ASK)
    max_remote_index_age_seconds = models.PositiveBigIntegerField(
        null=True, blank=True, default=86_400, help_text="Empty: never stale."
    )
    on_stale_index = models.CharField(
        max_length=10, choices=StaleIndexPolicy.choices, default=StaleIndexPolicy.RECONCILE
    )
    max_delete = models.CharField(
        max_length=16,
        default="50%",
        help_text="A plan that deletes more of one side than this (and than 10) stalls: '50%', '200', 'unlimited'.",
    )
    delete_foreign = models.BooleanField(
        default=False, help_text="Mirror only: delete remote objects that were never here."
    )
    events_queue = models.TextField(blank=True, help_text="URL of the SQS queue that brings the bucket's events.")

    budget_list = models.PositiveBigIntegerField(null=True, blank=True, default=100)
    budget_head = models.PositiveBigIntegerField(null=True, blank=True, default=1_000)
    budget_get = models.PositiveBigIntegerField(null=True, blank=True, default=1_000)
    budget_put = models.PositiveBigIntegerField(null=True, blank=True, default=1_000)
    budget_copy = models.PositiveBigIntegerField(null=True, blank=True, default=100)
    budget_delete = models.PositiveBigIntegerField(null=True, blank=True, default=1_000)
    budget_download_bytes = models.PositiveBigIntegerField(null=True, blank=True, default=10 * 2**30)

    # Scheduling state: written by the tick and by finished runs, never by the operator.
    next_sync_at = models.DateTimeField(null=True, editable=False)
    backoff_level = models.PositiveSmallIntegerField(default=0, editable=False)
    last_sync_at = models.DateTimeField(null=True, editable=False)
    last_success_at = models.DateTimeField(null=True, editable=False)
    # Deletes are guarded in the first run after the strategy changed.
    synced_strategy = models.CharField(max_length=8, blank=True, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name_plural = "sync policies"
        indexes = [
            # The due-vaults tick reads only enabled policies in order of due time.
            models.Index(fields=["next_sync_at"], name="policy_due", condition=models.Q(enabled=True)),
        ]

    def __str__(self) -> str:
        return f"policy of {self.vault}"

    def limit(self, request_class: RequestClass) -> int | None:
        """The run limit of one class; None is unlimited. Local vaults have no budgets."""
        if self.vault.kind == VaultKind.LOCAL:
            return None
        value: int | None = getattr(self, f"budget_{request_class.field}")
        return value
