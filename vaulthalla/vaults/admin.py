"""Keys, vaults and policies for people: policies are edited here, places only by commands that check them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.http import HttpRequest

from vaulthalla.errors import Refused
from vaulthalla.units import format_duration
from vaulthalla.vaults import overlap
from vaulthalla.vaults.models import CONFLICT_POLICIES, ApiKey, SyncPolicy, Vault, VaultKind
from vaulthalla.vaults.policy import MAX_DELETE, check_policy, save_policy
from vaulthalla.vaults.presets import preset_of

if TYPE_CHECKING:
    KeyBase = admin.ModelAdmin[ApiKey]
    VaultBase = admin.ModelAdmin[Vault]
    PolicyBase = admin.ModelAdmin[SyncPolicy]
    PolicyFormBase = forms.ModelForm[SyncPolicy]
else:
    # Only the stubs know what a model's admin is an admin of.
    KeyBase = VaultBase = PolicyBase = admin.ModelAdmin
    PolicyFormBase = forms.ModelForm

CREATED_BY_COMMANDS = "Made, pointed elsewhere and deleted by `vh vault`, which checks directories and buckets first."


class PolicyForm(PolicyFormBase):
    """The same rules as `vh vault sync set`."""

    class Meta:
        model = SyncPolicy
        fields = "__all__"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields.get("conflict_policy")
        if isinstance(field, forms.TypedChoiceField):
            accepted = CONFLICT_POLICIES[VaultKind(self.instance.vault.kind)]
            field.choices = [(policy.value, policy.label) for policy in accepted]

    def clean_max_delete(self) -> str:
        value = str(self.cleaned_data["max_delete"]).strip().lower()
        if value != "unlimited" and not MAX_DELETE.fullmatch(value):
            raise ValidationError("A number like 200, a percentage like 50% or 'unlimited'.")
        return value

    def _post_clean(self) -> None:
        # Only here does the instance carry what was typed.
        super()._post_clean()  # type: ignore[misc] # Django's own hook, missing in the stubs
        if self.errors:
            return
        try:
            check_policy(self.instance)
            if "strategy" in self.changed_data:
                overlap.check(self.instance.vault, self.instance.strategy, take_over=False)
        except Refused as refused:
            self.add_error(None, f"{refused.message} {refused.remedy}")


@admin.register(SyncPolicy)
class PolicyAdmin(PolicyBase):
    form = PolicyForm
    list_display = ("vault", "enabled", "interval", "strategy", "conflict_policy", "preset", "last_success_at")
    list_filter = ("enabled", "strategy", "conflict_policy")
    list_select_related = ("vault",)
    search_fields = ("vault__name",)
    readonly_fields = (
        "vault",
        "preset",
        "next_sync_at",
        "backoff_level",
        "last_sync_at",
        "last_success_at",
        "updated_at",
    )
    fieldsets = (
        (None, {"fields": ("vault", "enabled", "interval_seconds", "strategy", "conflict_policy")}),
        ("Index", {"fields": ("max_remote_index_age_seconds", "on_stale_index")}),
        ("Deletes", {"fields": ("max_delete", "delete_foreign")}),
        (
            "Request budget of one run",
            {
                "description": "Empty is unlimited. Local vaults have no budget.",
                "fields": (
                    "preset",
                    "budget_list",
                    "budget_head",
                    "budget_get",
                    "budget_put",
                    "budget_copy",
                    "budget_delete",
                    "budget_download_bytes",
                ),
            },
        ),
        (
            "Schedule",
            {"fields": ("next_sync_at", "backoff_level", "last_sync_at", "last_success_at", "updated_at")},
        ),
    )

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: SyncPolicy | None = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: SyncPolicy, form: Any, change: bool) -> None:
        """Only what was changed: runs write their own state into the same row meanwhile."""
        save_policy(obj, form.changed_data)

    @admin.display(description="interval", ordering="interval_seconds")
    def interval(self, policy: SyncPolicy) -> str:
        return format_duration(policy.interval_seconds)

    @admin.display(description="preset")
    def preset(self, policy: SyncPolicy) -> str:
        return preset_of(policy.limit)


@admin.register(Vault)
class VaultAdmin(VaultBase):
    list_display = ("name", "kind", "root", "bucket", "prefix", "replica", "pool")
    list_filter = ("kind", "pool")
    search_fields = ("name", "root", "bucket")
    fieldsets = (
        (None, {"description": CREATED_BY_COMMANDS, "fields": ("name", "description", "kind", "root", "pool")}),
        ("Remote side", {"fields": ("api_key", "bucket", "prefix", "storage_class", "capabilities", "replica")}),
        ("Identity", {"fields": ("marker", "created_at", "updated_at")}),
    )

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Vault | None = None) -> bool:
        return False

    def get_readonly_fields(self, request: HttpRequest, obj: Vault | None = None) -> tuple[str, ...]:
        named = [name for _, options in self.fieldsets or () for name in options["fields"]]
        return tuple(str(name) for name in named if name != "description")


@admin.register(ApiKey)
class KeyAdmin(KeyBase):
    """To be looked at: a key is made by `vh api-key create`, which proves it. The secret is not even loaded."""

    list_display = ("name", "provider", "endpoint", "region", "from_environment", "created_at")
    list_filter = ("provider",)
    search_fields = ("name", "endpoint")
    fields = ("name", "provider", "endpoint", "region", "access_key", "from_environment", "created_at")

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).defer("secret")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        return False
