"""The artifact store: files addressed by the sha256 of their bytes, written once and never changed.

Rules that every store obeys (one contract suite tests them on each):
- The hash is computed while the bytes stream in; memory stays constant, whatever the size.
- A blob becomes visible in one step, last, and only with the right digest. A writer that fails or is killed leaves no blob behind.
- Write-once: storing bytes that exist already succeeds and changes nothing, but the incoming bytes are still read and checked. Nothing deletes.
- A caller names a blob by its digest alone. No path, file name or URI of an API client reaches this package; `put_file` and `get_file` are
  for the command line and the jobs, with paths of the machine's own user.

What this package does not know: versions, advisors, permissions, HTTP. registry.api.downloads serves blobs.
"""

import contextlib
import hashlib
import os
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from registry.errors import Conflict, DigestMismatch, Invalid, NotFound, TooLarge, Unavailable

CHUNK = 1024 * 1024  # bytes per read and write: large enough that calls cost nothing, small enough that 40 transfers stay under 64 MiB
PRESIGN_SECONDS = 300  # long enough to start a download on a slow link, too short to pass on; a running download is not cut


@dataclass(frozen=True)
class Blob:
    """Bytes in the store: their digest (sha256:<64 hex>) and their size in bytes."""

    digest: str
    size: int


@dataclass(frozen=True)
class Problem:
    """What `verify` found instead of a sound blob, as a sentence for people."""

    digest: str
    sentence: str


class Unreadable(Unavailable):
    """One blob cannot be read although the store answers; `verify` reports it as a Problem."""


@dataclass(frozen=True)
class ServeAs:
    """Header values that the reply to a presigned URL must carry."""

    media_type: str
    disposition: str
    cache_control: str


class BlobReader(Protocol):
    """Bytes of one blob, read in order; a context manager that closes itself."""

    @property
    def size(self) -> int:
        """Size of the whole blob as it is stored, in bytes, whichever range is read."""

    @property
    def fd(self) -> int | None:
        """A file descriptor of the blob for zero-copy sending, open until `close`; None where bytes come over the network."""

    def read(self, size: int) -> bytes:
        """At most `size` bytes, never fewer unless the range ends; b"" at its end. Raises Unavailable."""

    def close(self) -> None:
        """Give everything back; may be called twice."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class Sink(Protocol):
    """Where one writer's bytes go. Each store has its own; BlobWriter calls them in this order."""

    def append(self, chunk: memoryview) -> None:
        """Take the next bytes; the buffer belongs to the caller again afterwards. Raises Unavailable."""

    def finish(self, blob: Blob) -> None:
        """Make the blob visible in one step. Called once, with the true digest and size. Raises Unavailable or Conflict."""

    def discard(self) -> None:
        """Remove every trace. Called at most once, never after a successful `finish`; must not raise."""


class BlobWriter:
    """One incoming blob: `write` any number of times, then `commit`; leaving the block without commit discards everything.

    Calls may come from any thread; they wait for each other, so that an abort never closes a file under a running write.
    """

    def __init__(self, sink: Sink, expected: str | None, limit: int | None) -> None:
        """`expected` is the announced digest, `limit` the largest size allowed in bytes; None means any."""
        self._sink = sink
        self._expected = expected
        self._limit = limit
        self._hash = hashlib.sha256()
        self._size = 0
        self._open = True
        self._turn = threading.RLock()

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Add bytes. Raises TooLarge beyond the limit and Unavailable when the store cannot take them; both discard what came before."""
        view = memoryview(chunk).cast("B")
        with self._turn, self._discarding():
            self._size += len(view)
            if self._limit is not None and self._size > self._limit:
                raise TooLarge(f"A file may have at most {self._limit} bytes here; this one has more. Nothing was stored.")
            self._sink.append(view)
            self._hash.update(view)

    def commit(self) -> Blob:
        """Check the digest and make the blob visible. Raises DigestMismatch, Unavailable, or Conflict when the stored copy is damaged."""
        with self._turn, self._discarding():
            blob = Blob("sha256:" + self._hash.hexdigest(), self._size)
            if self._expected not in {None, blob.digest}:
                raise DigestMismatch(
                    f"Expected {self._expected}, found {blob.digest} in {blob.size} bytes. Nothing was stored.",
                    hint="The file was changed or cut on its way; compute its sha256 again and send it again.",
                )
            self._sink.finish(blob)
            self._open = False
        return blob

    def abort(self) -> None:
        """Discard everything; does nothing after `commit` or another `abort`."""
        with self._turn:
            if self._open:
                self._open = False
                self._sink.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.abort()

    @contextlib.contextmanager
    def _discarding(self) -> Iterator[None]:
        if not self._open:
            raise RuntimeError("This writer has been committed or aborted; open another one.")
        try:
            yield
        except BaseException:
            self.abort()
            raise


class CheckOnly:
    """The sink for a blob that the store holds already: nothing is kept, the writer still hashes, `finish` compares sizes."""

    def __init__(self, stored: Blob) -> None:
        """`stored` is what the store says it has."""
        self._stored = stored

    def append(self, chunk: memoryview) -> None:
        """Forget the bytes."""

    def finish(self, blob: Blob) -> None:
        """Raise Conflict when the stored copy is damaged."""
        require_same_size(self._stored, blob)

    def discard(self) -> None:
        """Nothing to remove."""


def require_same_size(stored: Blob, arrived: Blob) -> None:
    """Raise Conflict when a stored blob's size is not that of the bytes it is named after: silence would pass the damage on."""
    if stored.size != arrived.size:
        raise Conflict(
            f"The store holds {arrived.digest} with {stored.size} bytes, expected {arrived.size}: the stored copy is damaged.",
            hint="Blobs are never overwritten. Move the damaged copy away by hand, then send the file again.",
        )


class Verifies(Protocol):
    """The part of an artifact store that checks what is there."""

    def verify(self, digest: str) -> Blob | Problem:
        """See `ArtifactStore.verify`."""
        ...


class ArtifactStore(Protocol):
    """A content-addressed store. An implementation gives the five members at the top and inherits the rest."""

    @property
    def location(self) -> str:
        """Where the blobs are, for people; never holds credentials."""

    def writer(self, expected: str | None = None, limit: int | None = None) -> BlobWriter:
        """Open a writer. `expected`: the announced digest; `limit`: bytes. Raises Invalid for a malformed digest, and Unavailable."""

    def stat(self, digest: str) -> Blob | None:
        """Digest and size of a blob without reading it, or None when it is not there. Raises Invalid and Unavailable."""

    def open_range(self, digest: str, start: int = 0, length: int | None = None) -> BlobReader:
        """Open `length` bytes from `start` (None: to the end; a longer range is cut at the end).

        Raises NotFound, Unavailable, and Invalid when `start` lies behind the last byte.
        """

    def presign(self, digest: str, serve_as: ServeAs, lifetime: int = PRESIGN_SECONDS) -> str | None:
        """A URL that serves the blob for `lifetime` seconds without further proof, or None when this store cannot. Asks no server."""

    def put_bytes(self, data: bytes, expected: str | None = None) -> Blob:
        """Store bytes that are in memory. Raises DigestMismatch and Unavailable."""
        with self.writer(expected or "sha256:" + hashlib.sha256(data).hexdigest()) as writer:
            writer.write(data)
            return writer.commit()

    def put_file(self, path: Path, expected: str | None = None, limit: int | None = None) -> Blob:
        """Store a file of this machine. Raises DigestMismatch, TooLarge, Unavailable, and OSError when the file cannot be read.

        The file is read twice: with a known digest a store neither spools it nor sends what it has.
        """
        with path.open("rb", buffering=0) as file:
            known = expected or _hash_stream(file).digest
            file.seek(0)
            with self.writer(known, limit) as writer:
                while chunk := file.read(CHUNK):
                    writer.write(chunk)
                return writer.commit()

    def get_bytes(self, digest: str, limit: int = 16 * CHUNK) -> bytes:
        """The whole blob, checked against its digest. Raises NotFound, TooLarge beyond `limit` bytes, DigestMismatch, Unavailable."""
        with self.open_range(digest) as reader:
            if reader.size > limit:
                raise TooLarge(f"{digest} has {reader.size} bytes; at most {limit} are read into memory.")
            data = b"".join(iter(lambda: reader.read(CHUNK), b""))
        _require_digest(digest, Blob("sha256:" + hashlib.sha256(data).hexdigest(), len(data)), self.location)
        return data

    def get_file(self, digest: str, target: Path) -> Blob:
        """Write the blob to `target`, which appears only complete and checked. Raises NotFound, DigestMismatch, Unavailable, OSError."""
        part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        try:
            with self.open_range(digest) as reader, part.open("xb", buffering=0) as file:
                blob = _hash_stream(reader, copy_to=file.fileno())
                os.fsync(file.fileno())
            _require_digest(digest, blob, self.location)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        return blob

    def verify(self, digest: str) -> Blob | Problem:
        """Read the whole blob again and hash it. A missing, unreadable or changed blob is a Problem; raises Unavailable when the store does not answer."""
        try:
            with self.open_range(digest) as reader:
                blob = _hash_stream(reader)
        except NotFound:
            return Problem(digest, f"{digest} is missing from {self.location}")
        except Unreadable as error:
            return Problem(digest, f"{digest} in {self.location} cannot be read: {error.message}")
        if blob.digest != digest:
            return Problem(digest, f"{digest} in {self.location} is damaged: its {blob.size} bytes hash to {blob.digest}")
        return blob


def blob_of(path: Path) -> Blob:
    """Digest and size of a file of this machine, in constant memory. Raises OSError."""
    with path.open("rb", buffering=0) as file:
        return _hash_stream(file)


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes | None: ...


def _hash_stream(source: _Readable, copy_to: int | None = None) -> Blob:
    """Read to the end, hash, and copy to a file descriptor when one is given."""
    total, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK):
        total.update(chunk)
        size += len(chunk)
        if copy_to is not None:
            write_all(copy_to, memoryview(chunk))
    return Blob("sha256:" + total.hexdigest(), size)


def write_all(fd: int, view: memoryview) -> None:
    """Write every byte; a disk that fills up takes a part first and refuses the next call. Raises OSError."""
    while view:
        view = view[os.write(fd, view) :]


def _require_digest(expected: str, found: Blob, location: str) -> None:
    if found.digest != expected:
        raise DigestMismatch(
            f"Expected {expected} from {location}, found {found.digest} in {found.size} bytes: the stored copy is damaged.",
            hint="Restore the file from a backup; 'registry verify' lists every damaged file.",
        )


def open_store(url_or_path: str | os.PathLike[str], *, s3_endpoint: str | None = None, s3_region: str | None = None) -> ArtifactStore:
    """The store at a folder (made when missing) or at s3://bucket/prefix. Raises Invalid for other locations, and Unavailable.

    `s3_endpoint` is the URL of an S3-compatible server (None: AWS), `s3_region` the bucket's region. Credentials come from where boto3 looks:
    environment, shared files, instance role. S3 is not asked anything yet.
    """
    location = os.fspath(url_or_path)
    if location.startswith("s3://"):
        from registry.artifacts.s3 import S3Store

        return S3Store(location, endpoint=s3_endpoint, region=s3_region)
    if "://" in location or not location or "\0" in location:
        # The scheme alone is shown: a mistyped URL may hold credentials.
        found = location.partition("://")[0][:20] + "://..." if "://" in location else ascii(location[:80])
        raise Invalid(
            f"An artifact store is a folder or s3://bucket/prefix; found {found}.", hint="Set REGISTRY_ARTIFACTS to one of the two."
        )
    from registry.artifacts.local import LocalStore

    return LocalStore(Path(location))
