"""Large and small bodies at once, on several threads: each sends what its plan said, and no request in vain."""

from __future__ import annotations

from pathlib import Path

import pytest

from sync import executor, large
from tests.simulation.world import LARGE, World
from vaulthalla.work.models import Run

pytestmark = pytest.mark.django_db(transaction=True)
PAIRS = 30


def test_no_look_is_in_vain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that proves no condition is looked at before each write: what follows a look must be paid for, too."""
    world = World(seed=1, root=tmp_path / "root", strategy="mirror", conflict="ask", proven=False, patch=monkeypatch)
    for module, name, value in ((executor, "THREADS", 4), (executor, "QUEUED", 8), (large, "PARALLEL_PARTS", 3)):
        monkeypatch.setattr(module, name, value)
    for number in range(PAIRS):
        for name, size in (("large", 2 * LARGE), ("small", 1)):
            world._write("local", f"{number} {name}", f"{number} {name}".encode().ljust(size, b"."))
    sends_what_was_planned(world, world.sync())
    for path in [path for path in world.root.iterdir() if path.is_file()]:
        path.unlink()
    sends_what_was_planned(world, world.sync())


def sends_what_was_planned(world: World, run: Run) -> None:
    assert run.status == "success"
    planned = run.result["estimate"]["requests"]
    seen = {str(name): count for name, count in world.seen[run.pk].items() if count}
    assert seen == {name: count for name, count in planned.items() if count}
