"""The named request budgets. None is unlimited."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vaulthalla.requests import RequestClass

GIB = 2**30
CUSTOM = "custom"
DEFAULT_PRESET = "balanced"

_ORDER = (
    RequestClass.LIST,
    RequestClass.HEAD,
    RequestClass.GET,
    RequestClass.PUT,
    RequestClass.COPY,
    RequestClass.DELETE,
    RequestClass.DOWNLOAD_BYTES,
)


def _preset(*limits: int | None) -> dict[RequestClass, int | None]:
    return dict(zip(_ORDER, limits, strict=True))


#                            list   head    get     put     copy   delete  download bytes
PRESETS: dict[str, dict[RequestClass, int | None]] = {
    "conservative": _preset(10, 100, 100, 100, 20, 100, GIB),
    "balanced": _preset(100, 1_000, 1_000, 1_000, 100, 1_000, 10 * GIB),
    "bulk": _preset(1_000, 10_000, 10_000, 10_000, 1_000, 10_000, 100 * GIB),
    "unlimited": _preset(None, None, None, None, None, None, None),
}


def preset_of(limit: Callable[[RequestClass], int | None] | Mapping[RequestClass, int | None]) -> str:
    """The preset that these limits equal, else `custom`."""
    read = limit.__getitem__ if isinstance(limit, Mapping) else limit
    limits = {request_class: read(request_class) for request_class in RequestClass}
    return next((name for name, preset in PRESETS.items() if preset == limits), CUSTOM)
