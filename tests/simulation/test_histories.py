"""Random histories by seed: whatever happens to files, objects, requests and processes, the promises hold.

A failing seed is printed; it is replayed by        VAULTHALLA_SEEDS=1234 pytest tests/simulation
and a longer soak is                                VAULTHALLA_SEEDS=0-5000 pytest tests/simulation
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.simulation.world import Chance, World

pytestmark = pytest.mark.django_db(transaction=True)

# Seeds that once found a defect stay.
REGRESSIONS = (155,)
IN_CI = 24
SEEDS_PER_TEST = 4
CALM = Chance()
FAULTY = Chance(fault=0.08)
EDITED = Chance(edit=0.05)
DEADLY = Chance(crash=0.06)
CONTESTED = Chance(takeover=0.1)
EVERYTHING = Chance(edit=0.03, fault=0.04, crash=0.03, takeover=0.03)
LIMITED = ("head", "get", "put", "copy", "delete")
MOODS = (CALM, FAULTY, EDITED, DEADLY, CONTESTED, EVERYTHING)


def seeds() -> list[int]:
    asked = os.environ.get("VAULTHALLA_SEEDS", "")
    first, _, last = asked.partition("-")
    return list(range(int(first), int(last or first) + 1)) if asked else [*range(IN_CI), *REGRESSIONS]


def batches() -> list[list[int]]:
    every = seeds()
    return [every[start : start + SEEDS_PER_TEST] for start in range(0, len(every), SEEDS_PER_TEST)]


def history(seed: int, root: Path, patch: pytest.MonkeyPatch, log: list[str]) -> World:
    """Edits and syncs in turn, then quiescence. What happened goes into `log`."""
    choose = random.Random(f"history {seed}")
    strategy = choose.choice(("sync", "sync", "cache", "mirror"))
    conflicts = [
        "ask",
        "ask",
        "keep_local",
        "keep_remote",
        "keep_newest",
        *([] if strategy == "mirror" else ["keep_both"] * 2),
    ]
    world = World(
        seed=seed,
        root=root,
        strategy=strategy,
        conflict=choose.choice(conflicts),
        proven=choose.random() < 0.7,
        patch=patch,
        log=log,
    )
    world.log.append(f"{world.strategy} {world.conflict} {'proven' if world.proven else 'unproven'}")
    for _ in range(choose.randrange(1, 5)):
        for _ in range(choose.randrange(1, 9)):
            world.edit()
        tight = choose.random() < 0.3
        world.limit(**({name: choose.randrange(0, 6) for name in LIMITED} if tight else {}))
        world.sync(choose.choice(MOODS), reconcile=choose.random() < 0.6)
    world.limit()
    world.settles()
    return world


@pytest.mark.parametrize("batch", batches(), ids=lambda batch: f"seeds {batch[0]}-{batch[-1]}")
def test_every_history_settles_without_loss(batch: list[int], tmp_path: Path) -> None:
    for seed in batch:
        with pytest.MonkeyPatch.context() as patch:
            log: list[str] = []
            try:
                history(seed, tmp_path / str(seed), patch, log)
            except BaseException:
                print(*log, f"VAULTHALLA_SEEDS={seed} pytest tests/simulation", sep="\n")
                raise
