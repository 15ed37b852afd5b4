"""The parts of large bodies, kept across runs: loaded for a chunk's operations, stored as parts arrive."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sync import sql
from sync.costs import part_size
from sync.large import BigBody, range_size
from sync.models import Direction, Transfer
from sync.tree import Staged
from vaulthalla.arrays import literal


@dataclass(kw_only=True)
class Transfers:
    """Bodies by path. `body` may be asked from any thread; the rest reaches the database."""

    vault_id: int
    rows: dict[str, Transfer] = field(default_factory=dict)
    bodies: dict[str, tuple[Direction, BigBody]] = field(default_factory=dict)

    @classmethod
    def load(cls, vault_id: int, paths: list[str]) -> Transfers:
        rows = Transfer.objects.raw(sql.TRANSFERS, [vault_id, literal(paths)]) if paths else ()
        return cls(vault_id=vault_id, rows={row.path: row for row in rows})

    @property
    def dirty(self) -> bool:
        # Helper threads add bodies meanwhile.
        return any(body.dirty for _, body in list(self.bodies.values()))

    def body(self, path: str, direction: Direction, *, version: str, size: int) -> BigBody:
        """The body under way, with the parts it has if they belong to this version; else a new one."""
        known = self.bodies.get(path)
        if known is not None and known[0] == direction and known[1].version == version:
            return known[1]
        row = self.rows.get(path)
        if row is not None and (row.direction, row.version, row.size) == (direction, version, size):
            found = _from_row(row)
        else:
            piece = part_size(size) if direction == Direction.UP else range_size(size)
            found = BigBody(path=path, version=version, size=size, part_size=piece)
            found.stale_upload = row.upload_id if row is not None and row.direction == Direction.UP else ""
        self.bodies[path] = (direction, found)
        return found

    def store(self, done: list[str]) -> None:
        """Writes what changed; forgets the bodies of operations that are done."""
        over = [path for path in done if path in self.rows or path in self.bodies]
        if over:
            Transfer.objects.filter(vault_id=self.vault_id, path__in=over).delete()
        for path in over:
            self.rows.pop(path, None)
            self.bodies.pop(path, None)
        for path, (direction, body) in list(self.bodies.items()):
            if body.dirty:
                body.dirty = False
                Transfer.objects.update_or_create(vault_id=self.vault_id, path=path, defaults=_to_row(direction, body))


def _to_row(direction: Direction, body: BigBody) -> dict[str, Any]:
    staged = body.staged
    return {
        "direction": direction,
        "version": body.version,
        "size": body.size,
        "part_size": body.part_size,
        "upload_id": body.upload_id,
        "staged": f"{staged.inode}:{staged.name}" if staged else "",
        "sha256": body.sha256,
        "part_checksums": body.part_checksums,
        "parts": {str(number): etag for number, etag in list(body.parts.items())},
    }


def _from_row(row: Transfer) -> BigBody:
    inode, _, name = row.staged.partition(":")
    return BigBody(
        path=row.path,
        version=row.version,
        size=row.size,
        part_size=row.part_size,
        upload_id=row.upload_id,
        staged=Staged(name=name, inode=int(inode)) if name else None,
        sha256=bytes(row.sha256) if row.sha256 else None,
        part_checksums=row.part_checksums,
        parts={int(number): etag for number, etag in row.parts.items()},
        dirty=False,
    )
