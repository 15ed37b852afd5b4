"""A second directory as a store. Its ETag is the file's fingerprint; nothing here is a request, so no meter is asked.

Writes are staged below `.vaulthalla/stage/`, fsynced and renamed; what they replace or delete is kept in
`.vaulthalla/trash/<run>/`. Whoever saves a file right then keeps it: what came out is compared with what was
expected, and put back. Paths are opened segment by segment from the root and never through a symlink.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat as stat_module
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count, islice
from typing import BinaryIO, NoReturn

from vaulthalla import syscalls
from vaulthalla.stores.base import (
    ANYTHING,
    AccessDenied,
    BodyCorrupt,
    BucketMissing,
    Capabilities,
    Condition,
    Content,
    Meter,
    ObjectInfo,
    ObjectMissing,
    Page,
    Part,
    PreconditionFailed,
    StoreError,
    StoreFull,
    StoreUnavailable,
    UnexpectedResponse,
    Written,
    require,
    require_news,
)
from vaulthalla.stores.walk import CONTROL, STAGED, Found, walk

STAGE = f"{CONTROL.decode()}/stage"
TRASH = f"{CONTROL.decode()}/trash"
PIECE_BYTES = 1 << 20
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Listings of one store under way at a time; each holds the names of the directories it is in.
OPEN_WALKS = 4

_ENTER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a fifo must not wait for its other end.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class PlaceTaken(UnexpectedResponse):
    """Something that is no file, or no directory, is in the way."""

    code = "place_taken"


@dataclass(frozen=True, slots=True)
class _Place:
    """`name` in the directory open as `folder`."""

    folder: int
    name: str

    def stat(self) -> os.stat_result | None:
        """Of the regular file here; None when there is nothing."""
        found = self.look()
        if found is not None and not stat_module.S_ISREG(found.st_mode):
            raise PlaceTaken(f"{self.name} is not a regular file.", provider_code="not_a_file")
        return found

    def look(self) -> os.stat_result | None:
        """Of whatever is here."""
        try:
            return os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def holds(self, body: os.stat_result) -> bool:
        """Whether this is that very file, unchanged; links and renames, which move its change time, aside."""
        found = self.look()
        return found is not None and _body(found) == _body(body)

    def beside(self) -> _Place:
        """A free name in the same directory that listings pass over."""
        return _Place(self.folder, STAGED.decode() + uuid.uuid4().hex)

    def unlink(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.name, dir_fd=self.folder)

    def unlink_body(self, body: os.stat_result) -> None:
        """Anything else that is here by now is somebody's."""
        if self.holds(body):
            self.unlink()

    def link(self, target: _Place) -> None:
        os.link(self.name, target.name, src_dir_fd=self.folder, dst_dir_fd=target.folder, follow_symlinks=False)

    def rename(self, target: _Place) -> None:
        os.rename(self.name, target.name, src_dir_fd=self.folder, dst_dir_fd=target.folder)

    def rename_new(self, target: _Place) -> None:
        """Raises FileExistsError when the target is taken."""
        syscalls.rename_new(self.folder, self.name, target.folder, target.name)

    def exchange(self, target: _Place) -> bool:
        """Swaps both atomically; False where this filesystem cannot."""
        return syscalls.exchange(self.folder, self.name, target.folder, target.name)


class DirectoryStore:
    """Satisfies `Store`. `run` names the trash of this run; one store may be used by several threads."""

    capabilities = Capabilities(conditional_put=True, conditional_copy=True, conditional_delete=True, multipart=False)

    def __init__(self, path: str | os.PathLike[str], meter: Meter, *, run: str = "store") -> None:
        self.path = os.fspath(path)
        self.meter = meter
        self.run = run
        self._walks: dict[tuple[str, str], Iterator[Found]] = {}
        self._lock = threading.Lock()

    # --- reading

    def list_page(self, *, after: str = "", prefix: str = "", limit: int = 1000, token: bool = False) -> Page:
        """One page. Going on where the last page ended continues its walk; any other start is found anew."""
        found = self._walk_on(after, prefix)
        objects: list[ObjectInfo] = []
        unreadable: list[str] = []
        now = datetime.now(UTC)
        taken = self._take(found, limit)
        for file in taken:
            key = file.key.decode("utf-8", "surrogateescape")
            if file.stat is None:
                unreadable.append(key)
            else:
                objects.append(_info(key, file.stat, now))
        if len(taken) < limit:
            return Page(objects=objects, next_after=None, observed_at=now, unreadable=unreadable)
        following = taken[-1].key.decode("utf-8", "surrogateescape")
        self._keep_walk(following, prefix, found)
        return Page(objects=objects, next_after=following, observed_at=now, unreadable=unreadable)

    def _take(self, found: Iterator[Found], limit: int) -> list[Found]:
        with _translated(self.path):
            try:
                return list(islice(found, limit))
            except (FileNotFoundError, NotADirectoryError) as error:
                raise BucketMissing(f"{self.path} is not a directory.") from error

    def _walk_on(self, after: str, prefix: str) -> Iterator[Found]:
        with self._lock:
            going_on = self._walks.pop((after, prefix), None)
        return going_on or walk(os.fsencode(self.path), after=_encoded(after), prefix=_encoded(prefix))

    def _keep_walk(self, after: str, prefix: str, found: Iterator[Found]) -> None:
        with self._lock:
            while len(self._walks) >= OPEN_WALKS:
                self._walks.pop(next(iter(self._walks)))
            self._walks[after, prefix] = found

    def list_prefixes(self, *, after: str = "", prefix: str = "") -> Sequence[str]:
        found: dict[str, None] = {}
        following: str | None = after
        while following is not None and len(found) < 1000:
            page = self.list_page(after=following, prefix=prefix)
            tails = (info.key[len(prefix) :].partition("/") for info in page.objects)
            found.update(dict.fromkeys(prefix + head + slash for head, slash, _ in tails if slash))
            following = page.next_after
        return list(found)[:1000]

    def head(self, key: str) -> ObjectInfo:
        with self._place(key) as here:
            return _info(key, _present(key, here.stat()), datetime.now(UTC))

    def get(
        self,
        key: str,
        into: BinaryIO,
        *,
        offset: int = 0,
        length: int | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        on_bytes: Callable[[bytes], None] | None = None,
    ) -> ObjectInfo:
        with self._place(key) as here:
            body = _open_read(key, here)
        with body:
            before = os.fstat(body.fileno())
            require(key, _etag(before), Condition(etag=if_match))
            require_news(key, _etag(before), if_none_match)
            body.seek(offset)
            wanted = max(before.st_size - offset, 0) if length is None else length
            for piece in _pieces(key, body, wanted):
                into.write(piece)
                if on_bytes is not None:
                    on_bytes(piece)
            if _etag(os.fstat(body.fileno())) != _etag(before):
                raise BodyCorrupt(f"{key} changed while it was read.")
            return _info(key, before, datetime.now(UTC))

    # --- writing

    def put(self, key: str, body: bytes | BinaryIO, content: Content, *, condition: Condition = ANYTHING) -> Written:
        def write(new: BinaryIO) -> int:
            _write_checked(key, body, content, new)
            return content.mtime_ns

        return self._write(key, write, condition)

    def copy(
        self,
        source: str,
        key: str,
        *,
        source_etag: str,
        size: int = 0,
        storage_class: str = "",
        condition: Condition = ANYTHING,
    ) -> Written:
        with self._place(source) as origin, _open_read(source, origin) as body:

            def write(new: BinaryIO) -> int:
                before = os.fstat(body.fileno())
                require(source, _etag(before), Condition(etag=source_etag))
                shutil.copyfileobj(body, new, PIECE_BYTES)
                os.fchmod(new.fileno(), stat_module.S_IMODE(before.st_mode))
                require(source, _etag(os.fstat(body.fileno())), Condition(etag=source_etag))
                return before.st_mtime_ns

            return self._write(key, write, condition)

    def delete(self, key: str, *, if_match: str | None = None) -> datetime:
        now = datetime.now(UTC)
        try:
            with self._place(key) as here:
                found = here.stat()
                if found is None:
                    return now
                require(key, _etag(found), Condition(etag=if_match))
                self._in_trash(key, here, lambda kept: _take_out(key, here, kept, found))
                os.fsync(here.folder)
        except ObjectMissing:
            return now
        self._drop_empty(key)
        return datetime.now(UTC)

    def start_upload(self, key: str, content: Content) -> str:
        _no_parts()

    def upload_part(self, key: str, upload_id: str, number: int, body: bytes, *, md5: bytes) -> Part:
        _no_parts()

    def list_parts(self, key: str, upload_id: str) -> Sequence[Part]:
        _no_parts()

    def complete_upload(
        self, key: str, upload_id: str, parts: Sequence[Part], *, condition: Condition = ANYTHING
    ) -> Written:
        _no_parts()

    def abort_upload(self, key: str, upload_id: str) -> None:
        """No upload is ever open, so none is left behind."""

    # --- how a file comes in and goes out

    def _write(self, key: str, write: Callable[[BinaryIO], int], condition: Condition) -> Written:
        """Stages what `write` writes (it returns the mtime), then puts it at `key`, keeping what was there."""
        with self._place(key, create=True) as here:
            old = _check(key, here, condition)
            with self._place(self._stage(key, here), create=True) as staged:
                body = _fill(staged, write, like=old)
                try:
                    self._publish(key, staged, here, condition, body)
                finally:
                    staged.unlink_body(body)
            os.fsync(here.folder)
            return Written(etag=_etag_of(key, here, body), observed_at=datetime.now(UTC))

    def _publish(self, key: str, staged: _Place, here: _Place, condition: Condition, body: os.stat_result) -> None:
        old = _check(key, here, condition)
        if old is not None:
            self._replace(key, staged, here, old, body)
            return
        try:
            staged.rename_new(here)
        except FileExistsError as error:
            raise PreconditionFailed(f"{key} appeared while it was written.") from error

    def _replace(self, key: str, staged: _Place, here: _Place, old: os.stat_result, body: os.stat_result) -> None:
        """Atomically, then looks at what came out: a file saved in between goes back where it was."""
        try:
            self._in_trash(key, here, lambda kept: _link_or_copy(here, kept))
            swapped = staged.exchange(here)
        except (ObjectMissing, FileNotFoundError) as error:
            raise PreconditionFailed(f"{key} is gone.") from error
        if not (staged if swapped else here).holds(old):
            if swapped:
                self._put_back(key, staged, here, body)
            raise PreconditionFailed(f"{key} changed while it was replaced.")
        if swapped:
            staged.unlink()
        else:
            staged.rename(here)

    def _put_back(self, key: str, staged: _Place, here: _Place, body: os.stat_result) -> None:
        try:
            staged.exchange(here)
            if not staged.holds(body):
                # Saved once more before that: the newest stays.
                staged.exchange(here)
        except FileNotFoundError:
            # Deleted before that: it stays so.
            pass
        if not staged.holds(body):
            self._in_trash(key, staged, lambda kept: _link_or_copy(staged, kept))
            staged.unlink()

    def _stage(self, key: str, here: _Place) -> str:
        """Below the control directory, or beside the target where that is another filesystem."""
        name = uuid.uuid4().hex
        if os.fstat(here.folder).st_dev == os.stat(self.path).st_dev:
            return f"{STAGE}/{name}"
        folder, slash, _ = key.rpartition("/")
        return f"{folder}{slash}{STAGED.decode()}{name}"

    def _in_trash(self, key: str, here: _Place, step: Callable[[_Place], None]) -> None:
        """Runs `step`, which brings what is here to a fresh name in the trash of this run."""
        for attempt in count(1):
            run = self.run if attempt == 1 else f"{self.run}.{attempt}"
            try:
                with self._place(f"{TRASH}/{run}/{key}", create=True) as kept:
                    _into(kept, here, step)
            except PlaceTaken:
                continue
            return

    def _drop_empty(self, key: str) -> None:
        """Removes the directories above `key` that emptied; never the root."""
        folder = key.rpartition("/")[0]
        while folder:
            try:
                with self._place(folder) as here:
                    os.rmdir(here.name, dir_fd=here.folder)
            except StoreError:
                # Not empty, a mount point, or somebody else removed it: it stays.
                return
            folder = folder.rpartition("/")[0]

    @contextmanager
    def _place(self, key: str, *, create: bool = False) -> Iterator[_Place]:
        """The place of `key`; raises ObjectMissing when a directory on the way is missing and not to be created."""
        *folders, name = _segments(key)
        with _translated(key):
            fd = self._root()
            try:
                for folder in folders:
                    below = _enter(fd, folder, key, create=create)
                    os.close(fd)
                    fd = below
                yield _Place(fd, name)
            finally:
                os.close(fd)

    def _root(self) -> int:
        try:
            # The root itself may be a symlink: the operator named it.
            return os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BucketMissing(f"{self.path} is not a directory.") from error


def _segments(key: str) -> list[str]:
    segments = key.split("/")
    if "\0" in key or any(segment in ("", ".", "..") for segment in segments):
        raise UnexpectedResponse(f"{key!r} cannot be a path.", provider_code="invalid_key")
    return segments


def _enter(fd: int, folder: str, key: str, *, create: bool) -> int:
    try:
        return os.open(folder, _ENTER, dir_fd=fd)
    except FileNotFoundError:
        if not create:
            raise ObjectMissing(f"{key} does not exist.") from None
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        if not create:
            raise ObjectMissing(f"{key}: {folder} is not a directory.") from error
        raise PlaceTaken(f"{key}: {folder} is not a directory.", provider_code="not_a_directory") from error
    with suppress(FileExistsError):
        os.mkdir(folder, dir_fd=fd)
        # A file in a directory that a power cut takes away would look deleted.
        os.fsync(fd)
    return os.open(folder, _ENTER, dir_fd=fd)


def _open_read(key: str, here: _Place) -> BinaryIO:
    try:
        fd = os.open(here.name, _READ, dir_fd=here.folder)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
            raise ObjectMissing(f"{key} does not exist.") from error
        raise
    if not stat_module.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ObjectMissing(f"{key} is not a regular file.")
    return open(fd, "rb")


def _fill(staged: _Place, write: Callable[[BinaryIO], int], *, like: os.stat_result | None) -> os.stat_result:
    """The whole body on the disk, with its time, and the permissions of what it will replace; nothing on failure."""
    with open(os.open(staged.name, _CREATE, 0o666, dir_fd=staged.folder), "wb") as new:
        try:
            mtime_ns = write(new)
            new.flush()
            if like is not None:
                os.fchmod(new.fileno(), stat_module.S_IMODE(like.st_mode))
            os.utime(new.fileno(), ns=(mtime_ns, mtime_ns))
            os.fsync(new.fileno())
        except BaseException:
            staged.unlink()
            raise
        return os.fstat(new.fileno())


def _write_checked(key: str, body: bytes | BinaryIO, content: Content, new: BinaryIO) -> None:
    digest = hashlib.sha256()
    size = 0
    for piece in (body,) if isinstance(body, bytes) else iter(lambda: body.read(PIECE_BYTES), b""):
        digest.update(piece)
        size += len(piece)
        new.write(piece)
    if size != content.size or digest.digest() != content.sha256:
        raise BodyCorrupt(f"{key} is not the content it was sent as.")


def _pieces(key: str, body: BinaryIO, wanted: int) -> Iterator[bytes]:
    while wanted > 0:
        with _translated(key):
            piece = body.read(min(wanted, PIECE_BYTES))
        if not piece:
            return
        wanted -= len(piece)
        yield piece


def _check(key: str, here: _Place, condition: Condition) -> os.stat_result | None:
    """What was found to fit the condition."""
    found = here.stat()
    require(key, None if found is None else _etag(found), condition)
    return found


def _into(kept: _Place, here: _Place, step: Callable[[_Place], None]) -> None:
    try:
        step(kept)
    except FileExistsError as error:
        raise PlaceTaken(f"{kept.name} is kept already.") from error
    except FileNotFoundError as error:
        # Else it is the directory in the trash that went away, and nothing happened.
        if here.look() is None:
            raise ObjectMissing(f"{here.name} does not exist.") from error
        raise
    os.fsync(kept.folder)


def _take_out(key: str, here: _Place, kept: _Place, expected: os.stat_result) -> None:
    try:
        _move_out(key, here, kept, expected)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _link_or_copy(here, kept)
        beside = here.beside()
        _move_out(key, here, beside, expected)
        beside.unlink()


def _move_out(key: str, here: _Place, out: _Place, expected: os.stat_result) -> None:
    here.rename_new(out)
    if out.holds(expected):
        return
    # Saved between the look and the move. Should the name be taken again already, it stays where it was moved.
    with suppress(FileExistsError):
        out.rename_new(here)
    raise PreconditionFailed(f"{key} changed while it was deleted.")


def _link_or_copy(here: _Place, kept: _Place) -> None:
    try:
        here.link(kept)
    except OSError as error:
        if not (syscalls.links_unsupported(error) or error.errno == errno.EXDEV):
            raise
        with _open_read(here.name, here) as body:
            found = os.fstat(body.fileno())
            with open(os.open(kept.name, _CREATE, 0o600, dir_fd=kept.folder), "wb") as new:
                shutil.copyfileobj(body, new, PIECE_BYTES)
                new.flush()
                os.utime(new.fileno(), ns=(found.st_atime_ns, found.st_mtime_ns))
                os.fsync(new.fileno())


def _present(key: str, found: os.stat_result | None) -> os.stat_result:
    if found is None:
        raise ObjectMissing(f"{key} does not exist.")
    return found


def _etag_of(key: str, here: _Place, body: os.stat_result) -> str:
    """Of our own body, never of what somebody saved over it right after."""
    found = here.look()
    if found is None or _body(found) != _body(body):
        raise PreconditionFailed(f"{key} changed right after it was written.")
    return _etag(found)


def _body(found: os.stat_result) -> tuple[int, int, int]:
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def _etag(found: os.stat_result) -> str:
    return f"{found.st_size:x}-{found.st_mtime_ns:x}-{found.st_ctime_ns:x}-{found.st_ino:x}"


def _info(key: str, found: os.stat_result, now: datetime) -> ObjectInfo:
    return ObjectInfo(
        key=key,
        size=found.st_size,
        etag=_etag(found),
        last_modified=EPOCH + timedelta(microseconds=found.st_mtime_ns // 1000),
        observed_at=now,
        mtime_ns=found.st_mtime_ns,
    )


def _encoded(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")


def _no_parts() -> NoReturn:
    raise UnexpectedResponse("A directory takes whole files only.", provider_code="no_multipart")


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """The operating system's errors as a store's."""
    try:
        yield
    except OSError as error:
        kinds = {errno.EACCES: AccessDenied, errno.EPERM: AccessDenied, errno.EROFS: AccessDenied}
        full = {errno.ENOSPC: StoreFull, errno.EDQUOT: StoreFull}
        kind = {**kinds, **full}.get(error.errno or 0, StoreUnavailable)
        raise kind(f"{what}: {error.strerror}", provider_code=errno.errorcode.get(error.errno or 0, "")) from error
