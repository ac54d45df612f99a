"""Blobs in a folder: <root>/blobs/sha256/ab/<62 hex digits>, read-only, beside <root>/spool for what is still arriving.

Rules:
- Bytes arrive in the spool (mode 0700, same file system), are flushed to the disk, and get their final name by one atomic link that refuses to
  replace anything; then the folder is flushed too, so that a name that was answered survives a power cut.
- Names under the root are made from a checked digest only, and symbolic links below blobs/sha256 are not followed.
- An I/O error becomes a sentence (Unavailable), and the partial file is removed.
Works on Linux and macOS. Several processes and machines may share the folder.
"""

import contextlib
import errno
import io
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from registry.artifacts import ArtifactStore, Blob, BlobReader, BlobWriter, CheckOnly, ServeAs, Unreadable, require_same_size, write_all
from registry.errors import Invalid, NotFound, Unavailable
from registry.refs import check_digest

# A writer touches its file with every chunk, so a day without a write means that its process is gone. Age, not process ids: the folder may be
# shared by machines whose ids mean nothing to each other.
LEFTOVER_SECONDS = 24 * 3600

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# File systems that have no hard links say so in one of these ways.
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


class LocalStore(ArtifactStore):
    """The store in a folder of this machine."""

    def __init__(self, root: Path) -> None:
        """Make the folders when missing, and sweep leftovers of killed writers. Raises Unavailable, and Invalid when the path is a file."""
        self._root = root.expanduser().absolute()
        self._blobs = self._root / "blobs" / "sha256"
        self._spool = self._root / "spool"
        if self._root.exists() and not self._root.is_dir():
            raise Invalid(f"The artifact store must be a folder; {self._root} is a file.", hint="Set REGISTRY_ARTIFACTS to a folder.")
        with _speaking(self.location, "be set up"):
            for folder in (self._root, self._blobs.parent, self._blobs):
                _make_folder(folder)
            _make_folder(self._spool, 0o700)
        self._sweep()

    @property
    def location(self) -> str:
        """The folder's absolute path."""
        return str(self._root)

    def writer(self, expected: str | None = None, limit: int | None = None) -> BlobWriter:
        """See ArtifactStore."""
        stored = self.stat(expected) if expected is not None else None
        return BlobWriter(CheckOnly(stored) if stored else _SpoolFile(self._spool, self.location, self._publish), expected, limit)

    def stat(self, digest: str) -> Blob | None:
        """See ArtifactStore."""
        check_digest(digest)
        with _speaking(self.location, "be read", Unreadable):
            try:
                with self._shard(digest) as (shard, name):
                    found = os.stat(name, dir_fd=shard, follow_symlinks=False)
            except FileNotFoundError:
                return None
        self._require_file(found, digest)
        return Blob(digest, found.st_size)

    def open_range(self, digest: str, start: int = 0, length: int | None = None) -> BlobReader:
        """See ArtifactStore."""
        check_digest(digest)
        with _speaking(self.location, "be read", Unreadable):
            try:
                with self._shard(digest) as (shard, name):
                    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=shard)
            except FileNotFoundError:
                raise NotFound(f"{digest} is not in the artifact store.") from None
        try:
            found = os.fstat(fd)
            self._require_file(found, digest)
            return _LocalReader(fd, found.st_size, start, length)
        except BaseException:
            os.close(fd)
            raise

    def presign(self, digest: str, serve_as: ServeAs, lifetime: int = 0) -> str | None:  # noqa: ARG002 - the protocol's names
        """Always None: the API serves local blobs itself."""
        return None

    @contextlib.contextmanager
    def _shard(self, digest: str) -> Iterator[tuple[int, str]]:
        """The descriptor of the folder that holds `digest`, and the name in it."""
        value = digest.removeprefix("sha256:")
        fd = os.open(self._blobs / value[:2], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield fd, value[2:]
        finally:
            os.close(fd)

    def _require_file(self, found: os.stat_result, digest: str) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise Unreadable(
                f"{digest} in {self.location} is not a regular file.", hint="Something else wrote there; move it away and restore the file."
            )

    def _publish(self, spooled: Path, blob: Blob) -> None:
        """Give the spooled file its final name, unless the blob is there already."""
        _make_folder(self._blobs / blob.digest[7:9])
        with self._shard(blob.digest) as (shard, name):
            try:
                _link(spooled, name, shard)
            except FileExistsError:
                require_same_size(Blob(blob.digest, os.stat(name, dir_fd=shard, follow_symlinks=False).st_size), blob)
            os.fsync(shard)  # also when another writer was first: its flush may still be under way

    def _sweep(self) -> None:
        """Remove what killed writers left in the spool; a folder that this user may only read is left alone."""
        oldest = time.time() - LEFTOVER_SECONDS
        with contextlib.suppress(OSError):
            for path in self._spool.glob("*.part"):
                with contextlib.suppress(OSError):
                    if path.lstat().st_mtime < oldest:
                        path.unlink()


class _SpoolFile:
    """The sink of one writer: a private file in the spool, handed to `publish` when it is complete."""

    def __init__(self, spool: Path, location: str, publish: Callable[[Path, Blob], None]) -> None:
        self._path = spool / f"{secrets.token_hex(16)}.part"
        self._location = location
        self._publish = publish
        with self._speaking():
            self._file = io.FileIO(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "w")

    def append(self, chunk: memoryview) -> None:
        with self._speaking():
            write_all(self._file.fileno(), chunk)

    def finish(self, blob: Blob) -> None:
        with self._speaking():
            os.fchmod(self._file.fileno(), 0o444)
            os.fsync(self._file.fileno())
            self._publish(self._path, blob)
        self.discard()  # the spool's name only; the bytes have another one now

    def discard(self) -> None:
        with contextlib.suppress(OSError):  # closing may report a late write error; the file goes either way
            self._file.close()
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _speaking(self) -> contextlib.AbstractContextManager[None]:
        return _speaking(self._location, "be written")


class _LocalReader:
    """A range of a local file; reads by position, so the descriptor can be sent from at the same time."""

    def __init__(self, fd: int, size: int, start: int, length: int | None) -> None:
        if start < 0 or (start and start >= size):
            raise Invalid(f"A range must start inside the blob's {size} bytes; found {start}.")
        self._file = io.FileIO(fd)
        self._size = size
        self._position = start
        self._end = size if length is None else min(size, start + max(0, length))

    @property
    def size(self) -> int:
        return self._size

    @property
    def fd(self) -> int:
        return self._file.fileno()

    def read(self, size: int) -> bytes:
        try:
            data = os.pread(self.fd, min(size, self._end - self._position), self._position)
        except OSError as error:
            raise Unreadable(f"A stored file cannot be read: {error.strerror}.", hint="Check the disk of the artifact store.") from error
        self._position += len(data)
        return data

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _make_folder(path: Path, mode: int = 0o755) -> None:
    """Make one folder and flush its parent, so that the name survives a power cut; an existing folder stays as it is."""
    try:
        path.mkdir(mode, parents=True)
    except FileExistsError:
        return
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def _link(source: Path, name: str, folder: int) -> None:
    """Name the file `name` in `folder` without replacing anything. Raises FileExistsError."""
    try:
        os.link(source, name, dst_dir_fd=folder)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Without hard links the check and the rename are two steps. Two writers may pass the check, but both bring the same bytes.
        with contextlib.suppress(FileNotFoundError):
            os.stat(name, dir_fd=folder, follow_symlinks=False)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name) from None
        os.rename(source, name, dst_dir_fd=folder)


@contextlib.contextmanager
def _speaking(location: str, what: str, kind: type[Unavailable] = Unavailable) -> Iterator[None]:
    """Turn an I/O error into a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise Unavailable(
                f"The artifact store at {location} has no room left ({error.strerror}). Nothing was stored.",
                hint="Free some disk space or raise the quota, then try again.",
            ) from error
        raise kind(
            f"The artifact store at {location} cannot {what}: {error.strerror}.", hint="Check the folder's owner and its disk."
        ) from error
