"""Which request budget a vault's runs speak for: pure arithmetic with its reasons, no database, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vaulthalla import units
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.vaults.presets import PRESETS

MIB, GIB = 2**20, 2**30
Limits = Mapping[RequestClass, int | None]

# Room above what was needed; a single run says little, so it gets more.
ROOM, ROOM_OF_ONE = 150, 200
# Of so many runs the newer half speaks alone, where the older half needed more than twice as much.
ENOUGH_TO_FALL = 4
# Fewer runs are no reason to take something away.
ENOUGH_TO_LOWER = 5
# A limit of up to so many times the proposal protects well enough to be left alone.
WIDE = 4
# A tighter limit would save next to nothing, and stall.
FLOOR = PRESETS["conservative"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """One run: what it was expected to need (None: nobody knew), spent (retries included) and lost; what stopped it."""

    run: int
    planned: Requests | None
    spent: Requests
    lost: Requests
    stall: str = ""

    def need(self, name: RequestClass) -> int:
        """What would have sufficed. A run that stopped without a plan needs an unknown amount more: twice as much."""
        sent = self.spent[name] + self.lost[name]
        planned = self.planned[name] if self.planned else 0
        return max(planned, 2 * sent if self.stalled_on(name) and planned <= sent else sent)

    def stalled_on(self, name: RequestClass) -> bool:
        return self.stall == f"budget_{name.field}"

    @property
    def idle(self) -> bool:
        """It looked, and there was nothing to do: that says nothing about what there will be."""
        return not self.stall and sum(self.need(name) for name in RequestClass) <= 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """One field. `needed` by `run` is what it is made from; `proposed` equals `current` where nothing should change."""

    name: RequestClass
    current: int | None
    proposed: int | None
    needed: int
    run: int | None
    reason: str

    @property
    def changes(self) -> bool:
        return self.proposed != self.current


def suggest(pasts: Sequence[Past], limits: Limits, *, pages: int | None) -> list[Proposal]:
    """A proposal for every field. `pasts` newest first, none of them idle; `pages`: what listing the bucket takes."""
    return [_of(name, pasts, limits[name], pages=pages or 0) for name in RequestClass]


def _of(name: RequestClass, pasts: Sequence[Past], current: int | None, *, pages: int) -> Proposal:
    if not pasts:
        reason = "no run has needed anything yet"
        return Proposal(name=name, current=current, proposed=current, needed=0, run=None, reason=reason)
    basis, fell = _basis(name, pasts)
    top = max(basis, key=lambda past: past.need(name))
    needed = top.need(name)
    room = ROOM_OF_ONE if len(pasts) == 1 else ROOM
    wanted, why = -(-needed * room // 100), _why(name, top, basis, fell=fell)
    if name is RequestClass.LIST and pages > needed:
        wanted, why = -(-pages * ROOM // 100), f"listing the bucket takes {pages}, should the index become stale"
    proposed, floor = round_up(name, wanted), FLOOR[name] or 0
    if proposed < floor:
        proposed, why = floor, f"{why}; `conservative` allows {told(name, floor)}"
    proposed, verdict = _settled(proposed, current, runs=len(pasts))
    return Proposal(
        name=name,
        current=current,
        proposed=proposed,
        needed=needed,
        run=top.run if needed else None,
        reason=f"{why}: {verdict}",
    )


def _basis(name: RequestClass, pasts: Sequence[Past]) -> tuple[Sequence[Past], int]:
    """The runs that count, and what older ones needed that do not."""
    newer = pasts[: -(-len(pasts) // 2)]
    most, lately = (max(past.need(name) for past in some) for some in (pasts, newer))
    if len(pasts) >= ENOUGH_TO_FALL and 2 * lately < most and not any(past.stalled_on(name) for past in newer):
        return newer, most
    return pasts, 0


def _why(name: RequestClass, top: Past, basis: Sequence[Past], *, fell: int) -> str:
    needed = top.need(name)
    if not needed:
        return (
            "never used"
            if not fell
            else f"not used by the newest {len(basis)} runs, though up to {told(name, fell)} before"
        )
    parts = [f"run {top.run} needed {told(name, needed)}"]
    if top.stalled_on(name):
        parts.append("and stalled on it")
    over = top.spent[name] + top.lost[name] - (top.planned[name] if top.planned else 0)
    if top.planned is not None and over > 0:
        parts.append(f"{told(name, over)} more than planned")
    if top.lost[name]:
        parts.append(f"{told(name, top.lost[name])} of them lost with a worker")
    if fell:
        parts.append(f"the most of the newest {len(basis)} runs; older ones up to {told(name, fell)}")
    return ", ".join(parts).replace(", and", " and", 1)


def _settled(proposed: int, current: int | None, *, runs: int) -> tuple[int, str]:
    if current is None:
        return proposed, "a limit"
    if current < proposed:
        return proposed, "raise it"
    if current <= WIDE * proposed:
        return current, "it suffices"
    if runs < ENOUGH_TO_LOWER:
        return current, "it suffices, and so few runs are no reason to lower it"
    return proposed, "lower it"


def round_up(name: RequestClass, count: int) -> int:
    """To two digits, of bytes in whole MiB or GiB: nobody should think that it is exact."""
    unit = _unit(count) if name is RequestClass.DOWNLOAD_BYTES else 1
    number = -(-count // unit)
    step: int = 10 ** max(0, len(str(number)) - 2)
    return -(-number // step) * step * unit


def shown(name: RequestClass, count: int) -> str:
    """As `vh vault sync set` takes it."""
    if name is not RequestClass.DOWNLOAD_BYTES:
        return str(count)
    for unit, letters in ((GIB, "GiB"), (MIB, "MiB")):
        if count and count % unit == 0:
            return f"{count // unit}{letters}"
    return str(count)


def told(name: RequestClass, count: int) -> str:
    """For people."""
    return units.format_size(count) if name is RequestClass.DOWNLOAD_BYTES else str(count)


def _unit(count: int) -> int:
    return GIB if count > 10 * GIB else MIB
