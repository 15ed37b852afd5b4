"""Vaults, policies and keys for people. What needs a look at a root or a store belongs to `vh`, which can take it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin, messages
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.views.decorators.debug import sensitive_post_parameters

from vaulthalla import units
from vaulthalla.errors import Refused, VaulthallaError
from vaulthalla.vaults import probe, register
from vaulthalla.vaults.forms import ApiKeyForm, PolicyForm, VaultForm, of_form
from vaulthalla.vaults.models import ApiKey, SyncPolicy, Vault, VaultKind
from vaulthalla.vaults.policy import LIMITS, S3_ONLY, save_policy
from vaulthalla.vaults.presets import preset_of

if TYPE_CHECKING:
    VaultBase = admin.ModelAdmin[Vault]
    PolicyBase = admin.ModelAdmin[SyncPolicy]
    KeyBase = admin.ModelAdmin[ApiKey]
else:
    # Only the stubs know what a model's admin is an admin of.
    VaultBase = PolicyBase = KeyBase = admin.ModelAdmin

Fieldsets = list[tuple[Any, Any]]
CREATING = "Vaults are created and deleted with vh vault create and vh vault delete, which see the root and the store."
PLACES = (
    "Where both sides are. “vh vault update” changes it: it checks the new place, proves what the store can do, "
    "writes the marker into the root and forgets what was known of the old place."
)


class Checked:
    """Turns a refusal that came too late for the form into a message: somebody else was quicker."""

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            answer: HttpResponse = super().changeform_view(request, *args, **kwargs)  # type: ignore[misc]
        except Refused as error:
            messages.error(request, of_form(error))
            return HttpResponseRedirect(request.path)
        return answer


@admin.register(Vault)
class VaultAdmin(Checked, VaultBase):
    form = VaultForm
    list_display: tuple[str, ...] = (
        "name",
        "kind",
        "root",
        "remote_side",
        "policy_link",
        "last_success",
    )
    list_filter = ("kind", "api_key", "policy__strategy", "policy__enabled")
    search_fields = ("name", "description", "root", "bucket", "prefix")
    list_select_related: ClassVar[tuple[str, ...]] = ("policy", "api_key")
    readonly_fields = (
        "kind",
        "root",
        "replica",
        "api_key",
        "bucket",
        "prefix",
        "proven",
        "marker",
        "policy_link",
        "created_at",
        "updated_at",
    )

    def get_fieldsets(self, request: HttpRequest, obj: Vault | None = None) -> Fieldsets:
        local = obj is not None and obj.kind == VaultKind.LOCAL
        own = ["name", "description", "pool", "policy_link"]
        where = ["kind", "root", *(["replica"] if local else ["api_key", "bucket", "prefix", "proven"]), "marker"]
        return [
            (None, {"fields": own if local else [*own, "storage_class"]}),
            ("Places", {"fields": where, "description": PLACES}),
            ("Times", {"fields": ["created_at", "updated_at"]}),
        ]

    def get_form(self, request: HttpRequest, obj: Vault | None = None, change: bool = False, **kwargs: Any) -> Any:
        if obj is not None and obj.kind == VaultKind.LOCAL:
            kwargs["exclude"] = ["storage_class"]
        return super().get_form(request, obj, change, **kwargs)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        return super().changelist_view(request, {"subtitle": CREATING, **(extra_context or {})})

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Vault | None = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Vault, form: Any, change: bool) -> None:
        """By way of the command's own function: its checks, its lock."""
        wish = register.Wish(**{name: form.cleaned_data[name] for name in form.changed_data})
        stored = Vault.objects.select_related("policy", "api_key").get(pk=obj.pk)
        register.update(stored, wish, {}, adopt=False, verify=False)

    @admin.display(description="remote side")
    def remote_side(self, vault: Vault) -> str:
        return vault.replica or f"{vault.bucket}/{vault.prefix} ({vault.api_key})"

    @admin.display(description="proven conditions")
    def proven(self, vault: Vault) -> str:
        names = [name.removeprefix("conditional_") for name, yes in vault.capabilities.items() if yes]
        return ", ".join(names) or "none: a HEAD before each write"

    @admin.display(description="sync policy")
    def policy_link(self, vault: Vault) -> SafeString:
        address = reverse("admin:vaults_syncpolicy_change", args=[vault.policy.pk])
        state = "" if vault.policy.enabled else " (disabled)"
        return format_html('<a href="{}">{}{}</a>', address, vault.policy.strategy, state)

    @admin.display(description="last success", ordering="policy__last_success_at")
    def last_success(self, vault: Vault) -> Any:
        return vault.policy.last_success_at


@admin.register(SyncPolicy)
class SyncPolicyAdmin(Checked, PolicyBase):
    form = PolicyForm
    list_display = (
        "vault",
        "enabled",
        "strategy",
        "conflict_policy",
        "interval",
        "budget",
        "next_sync_at",
        "backoff_level",
        "last_success_at",
    )
    list_filter = ("enabled", "strategy", "conflict_policy", "on_stale_index")
    search_fields = ("vault__name",)
    list_select_related = ("vault",)
    readonly_fields = ("vault", "next_sync_at", "backoff_level", "last_sync_at", "last_success_at")
    ordering = ("vault__name",)

    def get_fieldsets(self, request: HttpRequest, obj: SyncPolicy | None = None) -> Fieldsets:
        editable = self.has_change_permission(request, obj)
        parts = _TYPED if editable else _STORED
        hidden = S3_ONLY if obj is not None and obj.vault.kind == VaultKind.LOCAL else {}
        shown = [(title, [name for name in names if name not in hidden]) for title, names in parts]
        found: Fieldsets = [(title, {"fields": names}) for title, names in shown if names]
        state = ["next_sync_at", "backoff_level", "last_sync_at", "last_success_at"]
        return [*found, ("State", {"fields": state, "description": "Written by the schedule and by finished runs."})]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: SyncPolicy | None = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: SyncPolicy, form: Any, change: bool) -> None:
        save_policy(obj, form.changed)

    @admin.display(description="interval", ordering="interval_seconds")
    def interval(self, policy: SyncPolicy) -> str:
        return units.format_duration(policy.interval_seconds)

    @admin.display(description="request budget")
    def budget(self, policy: SyncPolicy) -> str:
        return "none needed" if policy.vault.kind == VaultKind.LOCAL else preset_of(policy.limit)


# By option, for those who may edit; by field, for those who may only look.
_TYPED = (
    (None, ["vault", "enabled", "interval", "strategy", "conflict", "take_over"]),
    ("Remote index", ["max_remote_index_age", "on_stale_index", "events_queue"]),
    ("Deletes", ["max_delete", "delete_foreign"]),
    ("Request budget of each run", ["preset", *LIMITS]),
)
_STORED = (
    (None, ["vault", "enabled", "interval_seconds", "strategy", "conflict_policy"]),
    ("Remote index", ["max_remote_index_age_seconds", "on_stale_index", "events_queue"]),
    ("Deletes", ["max_delete", "delete_foreign"]),
    ("Request budget of each run", list(LIMITS)),
)


@admin.register(ApiKey)
class ApiKeyAdmin(KeyBase):
    form = ApiKeyForm
    list_display = ("name", "provider", "endpoint", "region", "from_environment", "vault_count", "created_at")
    list_filter = ("provider", "from_environment")
    search_fields = ("name", "endpoint", "access_key")
    actions = ("prove",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiKey]:
        return super().get_queryset(request).annotate(vault_number=Count("vaults"))

    def get_fieldsets(self, request: HttpRequest, obj: ApiKey | None = None) -> Fieldsets:
        credentials = ["from_environment", "access_key"]
        if self.has_add_permission(request) if obj is None else self.has_change_permission(request, obj):
            # Whoever may only look would be shown what is stored.
            credentials.append("secret")
        about = "Saved as typed; the action “Check the selected keys” of the list sends one request to prove them."
        return [
            (None, {"fields": ["name", "provider", "endpoint", "region", *(["used_by"] if obj else [])]}),
            ("Credentials", {"fields": credentials, "description": about}),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> tuple[str, ...]:
        # Vaults know objects of that place; another place is another key.
        return ("provider", "endpoint", "from_environment", "used_by") if obj else ()

    def has_delete_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        in_use = obj is not None and obj.vaults.exists()
        return not in_use and super().has_delete_permission(request, obj)

    @method_decorator(sensitive_post_parameters("secret", "access_key"))
    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return super().changeform_view(request, *args, **kwargs)

    @admin.display(description="used by")
    def used_by(self, key: ApiKey) -> str:
        return ", ".join(vault.name for vault in key.vaults.all()) or "no vault: it may be deleted"

    @admin.display(description="vaults", ordering="vault_number")
    def vault_count(self, key: ApiKey) -> int:
        return int(getattr(key, "vault_number", 0))

    @admin.action(description="Check the selected keys with one request each", permissions=["change"])
    def prove(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        for key in queryset:
            try:
                probe.check_key(key)
            except VaulthallaError as error:
                self.message_user(request, f"API key {key}: {error.message} {error.remedy}", messages.ERROR)
            else:
                self.message_user(request, f"API key {key}: the provider accepts it.", messages.SUCCESS)
