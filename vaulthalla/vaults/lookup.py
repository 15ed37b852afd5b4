"""Vaults and keys by what an operator calls them: a name, else an id."""

from __future__ import annotations

from typing import TypeVar

from django.db.models import Model, QuerySet

from vaulthalla.errors import NotFound
from vaulthalla.vaults.models import ApiKey, Vault

M = TypeVar("M", bound=Model)
LARGEST_ID, NOBODY = 2**63 - 1, -1


def vault_by_name(name_or_id: str) -> Vault:
    """With its policy and key. Raises NotFound."""
    vaults = Vault.objects.select_related("policy", "api_key")
    vault = _find(vaults, name_or_id)
    if vault is None:
        raise NotFound(f"There is no vault {name_or_id!r}.", remedy="`vh vault list` shows the vaults there are.")
    return vault


def api_key_by_name(name_or_id: str) -> ApiKey:
    """Raises NotFound."""
    key = _find(ApiKey.objects.all(), name_or_id)
    if key is None:
        raise NotFound(
            f"There is no API key {name_or_id!r}.",
            remedy="`vh api-key list` shows the keys there are; `vh api-key create` makes one.",
        )
    return key


def row_id(text: str) -> int:
    """The id that a text writes out; of any other text one that no row has."""
    if not (text.isascii() and text.isdigit()) or len(text) > 19 or int(text) > LARGEST_ID:
        return NOBODY
    return int(text)


def _find(rows: QuerySet[M], name_or_id: str) -> M | None:
    if "\0" in name_or_id:
        return None
    # A name made of digits is still a name.
    return rows.filter(name=name_or_id).first() or rows.filter(pk=row_id(name_or_id)).first()
