"""What each operation costs, in requests and body bytes: estimates, budgets and dry-runs are folds over this."""

from __future__ import annotations

from sync.decide import Action, Sides
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.stores.base import Capabilities, copy_requests, costs

MIB = 2**20
# Below this a single PUT; above it parts, which survive a crash.
MULTIPART_FROM = 64 * MIB
PART_SIZE = 16 * MIB
# S3 accepts at most 10 000 parts.
MOST_PARTS = 10_000
# Below this a single GET; above it ranges in parallel, which survive a crash.
RANGES_FROM = 64 * MIB
RANGE_SIZE = 64 * MIB


def part_size(size: int) -> int:
    """Bytes per part for an upload of `size` bytes: whole MiB, at most 10 000 parts."""
    smallest = -(-size // MOST_PARTS)
    return max(PART_SIZE, -(-smallest // MIB) * MIB)


def pieces(size: int, piece: int) -> int:
    """How many pieces cover `size` bytes; an empty body is one."""
    return max(1, -(-size // piece))


def cost(action: Action, sides: Sides, able: Capabilities) -> Requests:  # noqa: PLR0911 - one return per action
    """Requests of one operation that meets no surprise. A store whose conditions are unproven costs a HEAD more."""
    match action:
        case Action.UPLOAD:
            return _upload(sides, able)
        case Action.DOWNLOAD:
            return _download(sides)
        case Action.KEEP_BOTH:
            # A large copy kept beside is left to the next run, which finds it as a new file.
            beside = sides.local is not None and sides.local.size < MULTIPART_FROM
            return Requests.summed((_upload(sides, able) if beside else Requests(), _download(sides)))
        case Action.COPY:
            size = sides.local.size if sides.local else 0
            return Requests(costs(able, copy_requests(size), conditional=RequestClass.COPY))
        case Action.DELETE_REMOTE:
            return Requests(costs(able, {RequestClass.DELETE: 1}, conditional=RequestClass.DELETE))
        case Action.VERIFY:
            return Requests({RequestClass.HEAD: 1})
        case _:
            return Requests()


def _upload(sides: Sides, able: Capabilities) -> Requests:
    size = sides.local.size if sides.local else 0
    multipart = size >= MULTIPART_FROM
    puts = pieces(size, part_size(size)) + 2 if multipart else 1
    return Requests(costs(able, {RequestClass.PUT: puts}, conditional=RequestClass.PUT, multipart=multipart))


def _download(sides: Sides) -> Requests:
    size = sides.remote.size if sides.remote else 0
    gets = 1 if size < RANGES_FROM else pieces(size, RANGE_SIZE)
    return Requests({RequestClass.GET: gets, RequestClass.DOWNLOAD_BYTES: size})
