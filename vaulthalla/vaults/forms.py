"""What operators type in the admin: the same words as on the command line, checked in the same place."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any

from django import forms

from vaulthalla import units
from vaulthalla.errors import Refused
from vaulthalla.requests import RequestClass
from vaulthalla.terms import Strategy
from vaulthalla.vaults import places, remote
from vaulthalla.vaults.credentials import fill
from vaulthalla.vaults.models import CONFLICT_POLICIES, ApiKey, StaleIndexPolicy, SyncPolicy, Vault, VaultKind
from vaulthalla.vaults.policy import S3_ONLY, apply_policy_options, set_option
from vaulthalla.vaults.presets import PRESETS

if TYPE_CHECKING:
    PolicyModelForm = forms.ModelForm[SyncPolicy]
    VaultModelForm = forms.ModelForm[Vault]
    KeyModelForm = forms.ModelForm[ApiKey]
else:
    # Only the stubs know what a model's form is a form of.
    PolicyModelForm = VaultModelForm = KeyModelForm = forms.ModelForm

OPTION = re.compile(r"--[a-z0-9-]+:? ")
LIMIT = "A whole number, or 'unlimited'; 0 allows none."
SIZES = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def of_field(error: Refused) -> str:
    """What is wrong with one field, which needs no name here."""
    text = OPTION.sub("", error.message, count=1)
    return text[:1].upper() + text[1:]


def of_form(error: Refused) -> str:
    return f"{error.message} {error.remedy}".strip()


def size_text(number: int | None) -> str:
    """The shortest spelling that reads back as the same number of bytes."""
    if number is None:
        return units.UNLIMITED[0]
    return next((f"{number // unit} {name}" for unit, name in SIZES if number and not number % unit), str(number))


class PolicyForm(PolicyModelForm):
    """A policy by its options: names as in `vaulthalla.vaults.options`, values as typed. `changed` names fields."""

    interval = forms.CharField(help_text="Time between scheduled syncs: 90 (seconds), 15m, 24h, 7d, 1h30m.")
    enabled = forms.BooleanField(required=False, help_text="Sync on schedule; otherwise only when asked.")
    strategy = forms.ChoiceField(choices=Strategy.choices)
    conflict = forms.ChoiceField(label="On conflict", help_text="What happens to a path that both sides changed.")
    max_remote_index_age = forms.CharField(help_text="Older knowledge of the bucket is stale; 'unlimited' for never.")
    on_stale_index = forms.ChoiceField(choices=StaleIndexPolicy.choices)
    max_delete = forms.CharField(
        help_text="A plan that deletes more of one side than this (and than 10) stalls: '50%', '200', 'unlimited'."
    )
    delete_foreign = forms.BooleanField(
        required=False, help_text="Mirror only: delete remote objects that were never here."
    )
    events_queue = forms.CharField(
        required=False, help_text="SQS queue with the bucket's events, polled on schedule; empty for none."
    )
    preset = forms.ChoiceField(
        required=False,
        choices=[("", "as below"), *((name, name) for name in PRESETS)],
        help_text="Sets all seven limits; single limits that you change at the same time go on top.",
    )
    budget_list = forms.CharField(label="LIST requests", help_text=LIMIT)
    budget_head = forms.CharField(label="HEAD requests", help_text=LIMIT)
    budget_get = forms.CharField(label="GET requests", help_text=LIMIT)
    budget_put = forms.CharField(label="PUT requests", help_text=LIMIT)
    budget_copy = forms.CharField(label="COPY requests", help_text=LIMIT)
    budget_delete = forms.CharField(label="DELETE requests", help_text=LIMIT)
    budget_download_bytes = forms.CharField(label="Downloaded bytes", help_text="Like 10G or 512MiB, or 'unlimited'.")
    take_over = forms.BooleanField(
        required=False, help_text="Publish to a place that another vault of this database also uses."
    )

    class Meta:
        model = SyncPolicy
        fields = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.changed: list[str] = []
        kind = VaultKind(self.instance.vault.kind)
        if kind == VaultKind.LOCAL:
            for name in S3_ONLY:
                self.fields.pop(name, None)
        conflict = self.fields["conflict"]
        if isinstance(conflict, forms.ChoiceField):
            conflict.choices = [(policy.value, policy.label) for policy in CONFLICT_POLICIES[kind]]
        self.initial.update(_typed(self.instance))

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or self.cleaned_data
        options = {name: data[name] for name in self.changed_data if name in data}
        self._check_each(options)
        if not self.errors:
            try:
                self.changed = apply_policy_options(self.instance, options)
            except Refused as error:
                self.add_error(None, of_form(error))
        # The instance has them already; a model form would put the words there.
        return {name: getattr(self.instance, name, value) for name, value in data.items()}

    def _check_each(self, options: dict[str, Any]) -> None:
        scratch = copy.copy(self.instance)
        for name, value in options.items():
            try:
                if name != "take_over":
                    set_option(scratch, name, value)
            except Refused as error:
                self.add_error(name, of_field(error))


def _typed(policy: SyncPolicy) -> dict[str, Any]:
    """The policy's values as somebody would type them."""
    limits = {f"budget_{one.field}": getattr(policy, f"budget_{one.field}") for one in RequestClass}
    return {
        "interval": units.format_duration(policy.interval_seconds),
        "conflict": policy.conflict_policy,
        "events_queue": policy.events_queue,
        "max_remote_index_age": units.format_duration(policy.max_remote_index_age_seconds),
        **{name: units.format_limit(limit) for name, limit in limits.items()},
        "budget_download_bytes": size_text(policy.budget_download_bytes),
    }


class VaultForm(VaultModelForm):
    """What may change without a look at the store: the rest is `vh vault update`."""

    class Meta:
        model = Vault
        fields = ("name", "description", "pool", "storage_class")

    def clean_pool(self) -> str:
        moved = copy.copy(self.instance)
        moved.pool = self.cleaned_data["pool"]
        try:
            places.check_apart(moved)
        except Refused as error:
            raise forms.ValidationError(of_form(error)) from error
        return moved.pool

    def clean_storage_class(self) -> str:
        key = self.instance.api_key
        try:
            return remote.storage_class(self.cleaned_data["storage_class"], key.provider) if key else ""
        except Refused as error:
            raise forms.ValidationError(of_field(error)) from error


class ApiKeyForm(KeyModelForm):
    """Credentials; a stored secret is kept when none is typed, and is never sent to the browser."""

    secret = forms.CharField(
        required=False,
        strip=False,
        widget=forms.PasswordInput(render_value=False, attrs={"autocomplete": "new-password"}),
        help_text="Stored encrypted and never shown again. Leave it empty to keep the one there is.",
    )

    class Meta:
        model = ApiKey
        fields = ("name", "provider", "endpoint", "region", "from_environment", "access_key", "secret")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial.pop("secret", None)
        if "region" in self.fields:
            self.fields["region"].required = False
            self.fields["region"].initial = ""
            self.fields["region"].help_text = "Empty: us-east-1 for Amazon S3, else auto."

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or self.cleaned_data
        if self.errors:
            return data
        # What is not in the form is not changed by it.
        typed = {name: data.get(name, getattr(self.instance, name)) for name in ApiKeyForm.Meta.fields}
        key = ApiKey(name=typed["name"], provider=typed["provider"], from_environment=typed["from_environment"])
        secret = data.get("secret") or self.instance.secret
        try:
            fill(key, endpoint=typed["endpoint"], region=typed["region"], access=typed["access_key"], secret=secret)
        except Refused as error:
            self.add_error(None, of_form(error))
        return data | {name: getattr(key, name) for name in ("endpoint", "region", "access_key", "secret")}
