"""Keys and paths: a key maps to the same path, byte for byte, or not at all. Pure.

A path below a vault's root *is* the key relative to the vault's prefix. What cannot be both is skipped
with a named reason; nothing is ever normalised into another key.
"""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime

CONTROL_DIR = ".vaulthalla"
# A download for another filesystem than the root's is staged beside its target under such a name.
STAGE_PREFIX = ".vaulthalla-stage-"

SEGMENT_BYTES = 255
KEY_BYTES = 1024

# A "suffix" longer than this is part of the name, not an extension.
_SUFFIX_BYTES = 32


def path_problem(key: str, *, prefix: str = "") -> str:
    """Why `key` cannot be a path here and a key there, or "". `prefix` is the vault's own: it counts as key bytes."""
    if "\0" in key:
        return "nul"
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        return "undecodable"
    return _slash_problem(key) or _length_problem(encoded, prefix) or _segment_problem(key)


def is_reserved(segment: str) -> bool:
    """Whether a name belongs to the sync itself; in any case, since some filesystems do not tell cases apart."""
    folded = segment.casefold()
    return folded == CONTROL_DIR or folded.startswith(STAGE_PREFIX)


def fold(path: str) -> str:
    """Paths with equal folds are one file on a filesystem that ignores case or Unicode form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def escape_undecodable(path: str) -> str:
    """A storable, reversible form of a local name that is not UTF-8 (as `os.fsdecode` gave it).

    The last segment is percent-escaped behind an empty one, so it equals no real path: `a/b\\xff` → `a//b%FF`.
    """
    folder, slash, name = path.rpartition("/")
    raw = name.encode("utf-8", "surrogateescape")
    return f"{folder}{slash}/" + "".join(chr(b) if 0x20 <= b < 0x7F and b != 0x25 else f"%{b:02X}" for b in raw)


def unescape_undecodable(stored: str) -> str:
    """The local path that `escape_undecodable` stored."""
    folder, _, escaped = stored.rpartition("/")
    raw, rest = b"", escaped.encode("ascii")
    while rest:
        head, percent, tail = rest.partition(b"%")
        raw, rest = raw + head, tail
        if percent:
            raw, rest = raw + bytes([int(tail[:2], 16)]), tail[2:]
    return folder + raw.decode("utf-8", "surrogateescape")


def conflict_name(path: str, host: str, when: datetime, *, ordinal: int = 1, prefix: str = "") -> str:
    """`name (conflict <host> <UTC time>).ext` beside `path`, shortened to fit. `ordinal` > 1 tells twins apart."""
    folder, slash, name = path.rpartition("/")
    stem, suffix = _split_suffix(name)
    tag = f" (conflict {_clean_host(host)} {when.astimezone(UTC):%Y%m%dT%H%M%SZ}{f' {ordinal}' if ordinal > 1 else ''})"
    room = min(SEGMENT_BYTES, KEY_BYTES - len((prefix + folder + slash).encode())) - len((tag + suffix).encode())
    return folder + slash + _cut(stem, max(room, 0)) + tag + suffix


def _slash_problem(key: str) -> str:
    if key.startswith("/"):
        return "leading_slash"
    if key.endswith("/"):
        return "trailing_slash"
    return "empty_segment" if not key or "//" in key else ""


def _length_problem(encoded: bytes, prefix: str) -> str:
    if len(encoded) + len(prefix.encode()) > KEY_BYTES:
        return "too_long"
    if len(encoded) <= SEGMENT_BYTES:
        return ""
    return "too_long" if max(map(len, encoded.split(b"/"))) > SEGMENT_BYTES else ""


def _segment_problem(key: str) -> str:
    # Every special segment contains a dot first: most keys need no split.
    if not (key.startswith(".") or "/." in key):
        return ""
    segments = key.split("/")
    if "." in segments or ".." in segments:
        return "dot_segment"
    return "reserved" if any(map(is_reserved, segments)) else ""


def _split_suffix(name: str) -> tuple[str, str]:
    stem, dot, suffix = name.rpartition(".")
    if not stem or len(suffix.encode()) > _SUFFIX_BYTES:
        return name, ""
    return stem, dot + suffix


def _clean_host(host: str) -> str:
    printable = "".join(c if c.isprintable() and c not in "/\\" else "-" for c in host.partition(".")[0])
    return _cut(printable or "host", 64)


def _cut(text: str, size: int) -> str:
    """At most `size` bytes of UTF-8, never half a character."""
    return text.encode()[:size].decode(errors="ignore")
