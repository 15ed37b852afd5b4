"""Reading the providers' public price lists. Whatever goes wrong, the list that is known stays."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import urllib3

from budgets.catalog import listed, price_key, store
from budgets.catalog_aws import HOST, is_offer, price_list_path, read_offer
from budgets.catalog_file import LARGEST_FILE, Prices, malformed, read_prices
from budgets.price_remedies import READABLE
from budgets.pricing import ANY, Charge, Unit
from vaulthalla.errors import Refused
from vaulthalla.vaults.models import Vault, VaultKind

TIMEOUT = urllib3.Timeout(connect=5, read=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refreshed:
    """What came of one list. `result`: added, unchanged, failed, unsupported."""

    provider: str
    region: str
    result: str
    version: str | None
    why: str = ""

    @property
    def text(self) -> str:
        known = f"version {self.version} stays" if self.version else "prices are unknown"
        match self.result:
            case "added":
                return f"{self.provider} {self.region}: new version {self.version}."
            case "unchanged":
                return f"{self.provider} {self.region}: version {self.version} was seen again."
            case _:
                return f"{self.provider} {self.region}: {self.why}; {known}."


def refresh(provider: str, region: str, *, host: str = HOST) -> Refreshed:
    """Never raises for what the provider or the network did."""
    known = listed(provider, region)
    version = known.catalog.version if known else None
    if provider not in READABLE:
        why = "there is no public list to read; import a file"
        return Refreshed(provider=provider, region=region, result="unsupported", version=version, why=why)
    try:
        prices = read_offer(fetch(host + price_list_path(region)), egress=egress_known)
        if prices.catalog.region != region:
            raise malformed(f"it holds {prices.catalog.region}, not {region}")
        added = store(prices)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        why = f"the price list could not be read ({_short(error)})"
        return Refreshed(provider=provider, region=region, result="failed", version=version, why=why)
    except Refused as error:
        why = error.message.rstrip(".")
        return Refreshed(provider=provider, region=region, result="failed", version=version, why=why)
    result = "added" if added else "unchanged"
    return Refreshed(provider=provider, region=region, result=result, version=prices.catalog.version)


def refresh_for(vault: Vault) -> str:
    """Refreshes the list that prices one vault; a sentence on what came of it."""
    if vault.kind == VaultKind.LOCAL:
        return "A local vault costs no requests."
    return refresh(*price_key(vault)).text


def regions_in_use() -> list[tuple[str, str]]:
    """Provider and region of every bucket."""
    vaults = Vault.objects.filter(kind=VaultKind.S3).select_related("api_key")
    return sorted({price_key(vault) for vault in vaults})


def refresh_in_use(*, host: str = HOST) -> list[Refreshed]:
    """What beat asks for once a day: the lists that price some bucket and can be read without anybody's help."""
    return [refresh(*pair, host=host) for pair in regions_in_use() if pair[0] in READABLE]


def read_any(content: bytes) -> Prices:
    """A list in our format, or Amazon's own. Raises Refused."""
    if is_offer(content):
        return read_offer(content, egress=egress_known)
    return read_prices(content)


def fetch(url: str) -> bytes:
    """Raises OSError or an HTTPError of urllib3."""
    with urllib3.PoolManager(timeout=TIMEOUT, retries=urllib3.Retry(2, redirect=2)) as pool:
        answer = pool.request("GET", url, preload_content=False)
        try:
            if answer.status != 200:
                raise OSError(f"status {answer.status}")
            body = answer.read(LARGEST_FILE + 1)
        finally:
            answer.release_conn()
    if len(body) > LARGEST_FILE:
        raise OSError("the price list is too large")
    return body


def _short(error: Exception) -> str:
    """The answer's status where there was one, else what kind of failure it was."""
    return str(error) if isinstance(error, OSError) and not error.errno else type(error).__name__


def egress_known(region: str) -> tuple[Unit, Decimal] | None:
    """What bytes that leave the region cost, which Amazon's S3 list does not hold."""
    known = listed("aws-s3", region)
    rate = known.catalog.rate(ANY, Charge.EGRESS) if known else None
    return (rate.unit, rate.price) if rate else None
