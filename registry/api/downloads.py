"""Blobs over HTTP: downloads that a client can check, resume and cache, and uploads that never sit in memory.

Rules:
- The ETag is the digest in quotes and strong: equal tags mean equal bytes. `Repr-Digest` (RFC 9530) says the same to software that knows it.
- Preconditions come first, in the order of RFC 9110 section 13.2.2: If-Match, If-None-Match (a real 304), then Range with If-Range. They are answered here
  even where S3 serves the bytes, because S3's own ETag is another one.
- One range gives 206 or 416; several ranges give the whole file, which section 14.2 allows.
- On S3 the answer is 307 to a presigned URL, which carries ETag and Repr-Digest itself, and is never stored: it outlives neither its signature nor,
  revalidated by its ETag, a cache that would repeat it.
- A file name only travels in Content-Disposition, cleaned; a blob is found by its digest alone.

Sending a local file: where the server takes file descriptors (ASGI's http.response.zerocopysend, which `ZeroCopy` below adds to uvicorn) the
kernel copies; elsewhere chunks of 1 MiB are read, in the event loop when they are in the page cache and in a thread when they are not.
"""

import asyncio
import base64
import contextlib
import os
import re
import unicodedata
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from anyio import CancelScope, to_thread
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.artifacts import CHUNK, ArtifactStore, Blob, BlobReader, ServeAs
from registry.errors import NotFound, Unavailable

ZERO_COPY = "http.response.zerocopysend"
SLICE = 4 * CHUNK  # bytes per sendfile call; then the event loop serves others
_STALLED_SECONDS = 1.0  # how often a transfer whose client reads nothing looks whether the connection was closed meanwhile

_TAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_RANGE = re.compile(r"([0-9]*)-([0-9]*)")
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(; ?charset=[A-Za-z0-9-]+)?")


# ---- What to answer: pure -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Send200:
    """The whole blob."""


@dataclass(frozen=True)
class Send206:
    """The bytes from `start` up to, not including, `end`."""

    start: int
    end: int


@dataclass(frozen=True)
class NotModified:
    """304: the client has these bytes."""


@dataclass(frozen=True)
class PreconditionFailed:
    """412: the client wants other bytes than these."""


@dataclass(frozen=True)
class Unsatisfiable:
    """416: the range lies behind the end."""


Answer = Send200 | Send206 | NotModified | PreconditionFailed | Unsatisfiable


def etag(blob: Blob) -> str:
    """The strong entity tag of a blob: its digest in quotes."""
    return f'"{blob.digest}"'


def repr_digest(blob: Blob) -> str:
    """The value of Repr-Digest (RFC 9530) for a blob."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(blob.digest.removeprefix('sha256:'))).decode()}:"


def decide(method: str, headers: Headers, blob: Blob) -> Answer:
    """The answer to a GET or HEAD of `blob`. A malformed Range is ignored, as RFC 9110 asks."""
    tag = etag(blob)
    if_match, if_none_match = _joined(headers, "if-match"), _joined(headers, "if-none-match")
    if if_match is not None and if_match != "*" and tag not in {t for weak, t in _TAG.findall(if_match) if not weak}:
        return PreconditionFailed()
    if if_none_match is not None and (if_none_match == "*" or tag in {t for _, t in _TAG.findall(if_none_match)}):
        return NotModified()
    wanted, if_range = _joined(headers, "range"), _joined(headers, "if-range")
    # Range is defined for GET alone. A date in If-Range never matches, because a blob has no Last-Modified.
    if wanted is None or method != "GET" or (if_range is not None and if_range != tag):
        return Send200()
    return _single_range(wanted, blob.size)


def _joined(headers: Headers, name: str) -> str | None:
    lines = headers.getlist(name)
    return ", ".join(lines).strip() if lines else None


def _single_range(value: str, size: int) -> Answer:
    unit, _, text = value.partition("=")
    ranges = [r.strip() for r in text.split(",") if r.strip()]
    match = _RANGE.fullmatch(ranges[0]) if unit.strip().lower() == "bytes" and len(ranges) == 1 else None
    if match is None or match.group(0) == "-":
        return Send200()
    first, last = (_position(group) for group in match.groups())
    if first is None:  # the last so many bytes
        if last == 0:
            return Unsatisfiable()
        return Send206(max(0, size - (last or 0)), size) if size else Send200()
    if last is not None and last < first:
        return Send200()
    if first >= size:
        return Unsatisfiable()
    return Send206(first, size if last is None else min(last + 1, size))


def _position(digits: str) -> int | None:
    """A byte position; more digits than any file has mean 'behind the end', and Python refuses to read thousands of them."""
    if not digits:
        return None
    significant = digits.lstrip("0")
    return int(significant or "0") if len(significant) < 19 else 10**19


def attachment(filename: str) -> str:
    """A Content-Disposition that saves under a harmless form of `filename`: no path, no control or invisible characters, at most 150 of them."""
    kept = "".join("_" if c in '/\\:*?"<>|' else c for c in unicodedata.normalize("NFC", filename) if unicodedata.category(c)[0] != "C")
    kept = kept.strip(" .")[:150] or "download"
    plain = kept.encode("ascii", "replace").decode().replace("?", "_")
    return f'attachment; filename="{plain}"' + ("" if plain == kept else f"; filename*=UTF-8''{quote(kept, safe='')}")


# ---- Answering ------------------------------------------------------------------------------------------------------------------------------


async def blob_response(
    request: Request,
    store: ArtifactStore,
    blob: Blob,
    *,
    filename: str,
    media_type: str = "application/octet-stream",
    immutable: bool = True,
    redirect: bool = True,
) -> Response:
    """The response to a GET or HEAD of `blob`, whose digest and size the catalogue knows.

    `immutable`: the URL names these bytes for ever (it holds the digest or a version number), else clients ask again each time.
    `redirect` False streams through this server where the clients cannot reach S3. Raises NotFound and Unavailable before anything is sent.
    """
    cache_control = "private, max-age=31536000, immutable" if immutable else "private, no-cache"
    cached = {"etag": etag(blob), "cache-control": cache_control}
    answer = decide(request.method, request.headers, blob)
    match answer:
        case NotModified():
            return Response(status_code=304, headers=cached)
        case PreconditionFailed():
            return _refusal(
                HTTPStatus.PRECONDITION_FAILED,
                "precondition_failed",
                "The file has another digest than the If-Match header asks for.",
                {"etag": etag(blob)},
            )
        case Unsatisfiable():
            return _refusal(
                HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
                "range_not_satisfiable",
                f"The file has {blob.size} bytes.",
                {"content-range": f"bytes */{blob.size}", "etag": etag(blob)},
            )
    serve_as = ServeAs(_checked_type(media_type), attachment(filename), cache_control)
    if redirect and _may_redirect(request):
        url = await to_thread.run_sync(store.presign, blob.digest, serve_as)
        if url is not None:
            return _redirection(url, blob)
    headers = cached | {
        "accept-ranges": "bytes",
        "repr-digest": repr_digest(blob),
        "content-disposition": serve_as.disposition,
        "content-type": serve_as.media_type,
        "x-content-type-options": "nosniff",
    }
    if request.method == "HEAD":
        return await _head(store, blob, headers | {"content-length": str(blob.size)})
    part = answer if isinstance(answer, Send206) else Send206(0, blob.size)
    headers["content-length"] = str(part.end - part.start)
    if answer is part:
        headers["content-range"] = f"bytes {part.start}-{part.end - 1}/{blob.size}"
    return await _body(store, blob, part, 206 if answer is part else 200, headers)


def _may_redirect(request: Request) -> bool:
    """Whether S3 would answer as we do: a presigned GET refuses HEAD, and S3 would judge our entity tags by its own."""
    return request.method == "GET" and "if-match" not in request.headers and "if-range" not in request.headers


def _redirection(url: str, blob: Blob) -> Response:
    headers = {
        "location": url,
        "etag": etag(blob),
        "repr-digest": repr_digest(blob),
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
    }
    return Response(status_code=307, headers=headers)


def _refusal(status: HTTPStatus, code: str, sentence: str, headers: Mapping[str, str]) -> Response:
    """A problem document (RFC 9457), in the shape of the API's other errors but with headers that belong to the file."""
    problem = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": sentence, "code": code}
    return JSONResponse(problem, status_code=status, media_type="application/problem+json", headers=dict(headers))


def _checked_type(media_type: str) -> str:
    """A media type that is one; anything else could smuggle headers, and is served as plain bytes."""
    return media_type if _MEDIA_TYPE.fullmatch(media_type) else "application/octet-stream"


async def _head(store: ArtifactStore, blob: Blob, headers: Mapping[str, str]) -> Response:
    stored = await to_thread.run_sync(store.stat, blob.digest)
    if stored is None:
        raise NotFound(f"{blob.digest} is not in the artifact store.")
    _require_size(blob, stored.size)
    return Response(headers=headers)


async def _body(store: ArtifactStore, blob: Blob, part: Send206, status: int, headers: Mapping[str, str]) -> Response:
    reader = await to_thread.run_sync(store.open_range, blob.digest, part.start, part.end - part.start)
    try:
        _require_size(blob, reader.size)
        return _BlobBody(reader, part, status, headers)
    except BaseException:
        reader.close()
        raise


def _require_size(blob: Blob, stored: int) -> None:
    """Refuse a cut file while there is still a status to refuse with."""
    if stored != blob.size:
        raise Unavailable(
            f"The stored file of {blob.digest} has {stored} bytes, expected {blob.size}: it is damaged.", hint="Run 'registry verify'."
        )


class _BlobBody(Response):
    """Sends a part of a blob from an open reader and closes it."""

    def __init__(self, reader: BlobReader, part: Send206, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(status_code=status)
        self.raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        self._reader = reader
        self._start = part.start
        self._length = part.end - part.start

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if self._length == 0:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            elif self._reader.fd is not None and ZERO_COPY in (scope.get("extensions") or {}):
                await send({"type": ZERO_COPY, "file": self._reader.fd, "offset": self._start, "count": self._length, "more_body": False})
            else:
                await self._send_chunks(receive, send)
        finally:
            self._reader.close()

    async def _send_chunks(self, receive: Receive, send: Send) -> None:
        # Without this watcher a client that left would go unnoticed: uvicorn's send returns at once then, and the whole file would be read for nobody.
        gone = asyncio.ensure_future(_until_disconnect(receive))
        try:
            position, end = self._start, self._start + self._length
            while position < end and not gone.done():
                chunk = await self._next(position, min(CHUNK, end - position))
                position += len(chunk)
                await send({"type": "http.response.body", "body": chunk, "more_body": position < end})
        finally:
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await gone

    async def _next(self, position: int, size: int) -> bytes:
        fd = self._reader.fd
        in_memory = fd is not None and in_page_cache(fd, position, size)
        chunk = self._reader.read(size) if in_memory else await to_thread.run_sync(self._reader.read, size)
        if len(chunk) != size:
            raise Unavailable("A stored file ended early while it was sent.")  # the connection is cut, so the client notices
        return chunk


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def in_page_cache(fd: int, position: int, size: int) -> bool:
    """Whether reading these bytes is unlikely to wait for the disk: one byte at each end is asked for without waiting (Linux; else False).

    A thread per chunk costs a quarter of the rate, and a busy disk in the event loop costs everybody's; this keeps both.
    """
    if not hasattr(os, "RWF_NOWAIT"):
        return False
    probe = bytearray(1)
    try:
        return os.preadv(fd, [probe], position, os.RWF_NOWAIT) == 1 and os.preadv(fd, [probe], position + size - 1, os.RWF_NOWAIT) == 1
    except OSError:  # not in memory, or a file system that cannot say
        return False


# ---- Zero copy ------------------------------------------------------------------------------------------------------------------------------


class ZeroCopy:
    """ASGI middleware that adds the standard extension http.response.zerocopysend to uvicorn (httptools, plain connections, Linux and macOS).

    It must be the outermost layer, because it needs uvicorn's own `send`; under any other server, or when uvicorn's inside looks different, it does
    nothing and downloads go by chunks. Layers in between must pass unknown message types on (Starlette's BaseHTTPMiddleware and gzip do not).
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Offer the extension where it works."""
        cycle: Any = getattr(send, "__self__", None)
        if scope["type"] != "http" or not _can_sendfile(cycle):
            await self._app(scope, receive, send)
            return

        async def send_or_copy(message: Message) -> None:
            if message["type"] != ZERO_COPY:
                await send(message)
                return
            if not await _copy(cycle, message):
                # Nothing more can be sent. Closing, and waiting until uvicorn has seen it, spares its log an unfinished response.
                cycle.transport.abort()
                await _until_disconnect(receive)
                return
            await send({"type": "http.response.body", "body": b"", "more_body": message.get("more_body", False)})

        extensions = {**(scope.get("extensions") or {}), ZERO_COPY: {}}
        await self._app({**scope, "extensions": extensions}, receive, send_or_copy)


def _can_sendfile(cycle: Any) -> bool:
    """Whether `cycle` is uvicorn's httptools request cycle on a plain socket."""
    needed = ("transport", "flow", "disconnected", "expected_content_length", "chunked_encoding")
    if not hasattr(os, "sendfile") or not all(hasattr(cycle, name) for name in needed):
        return False
    transport = cycle.transport
    return transport.get_extra_info("ssl_object") is None and transport.get_extra_info("socket") is not None


async def _copy(cycle: Any, message: Message) -> bool:
    """Send a part of a file on the connection of `cycle`; False when the client left before its end."""
    fd = message["file"]
    offset = message.get("offset") or 0
    count = message.get("count")
    count = os.fstat(fd).st_size - offset if count is None else count
    if cycle.chunked_encoding or count > cycle.expected_content_length:
        raise RuntimeError("zerocopysend needs a Content-Length that the file does not exceed.")
    if not await _flushed(cycle):
        return False
    # A second descriptor of the same socket: event loops do not let anybody wait on the one their transport owns.
    socket = os.dup(cycle.transport.get_extra_info("socket").fileno())
    transfer = _Transfer(cycle, socket, fd, offset, count)
    try:
        await transfer.run()
    finally:
        os.close(socket)
    if transfer.left == 0:
        cycle.expected_content_length -= count
    return transfer.left == 0


async def _flushed(cycle: Any) -> bool:
    """Wait until the headers have left the transport's own buffer; False when the connection is gone."""
    transport = cycle.transport
    if _gone(cycle):
        return False
    transport.set_write_buffer_limits(0)
    try:
        await cycle.flow.drain()
    finally:
        if not _gone(cycle):
            transport.set_write_buffer_limits()
    return not _gone(cycle)


def _gone(cycle: Any) -> bool:
    return bool(cycle.disconnected or cycle.transport.is_closing())


class _Transfer:
    """Sends a part of a file whenever the socket takes bytes, until all are out or the client has left (`left` says how many are not out).

    The event loop calls `_step` directly: waiting for each turn in a coroutine cost a tenth of the rate.
    """

    def __init__(self, cycle: Any, socket: int, fd: int, offset: int, count: int) -> None:
        self.left = count
        self._cycle = cycle
        self._socket = socket
        self._fd = fd
        self._offset = offset
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Alternate between sending what is in memory and reading what is not."""
        while self.left and not _gone(self._cycle):
            if not self._in_memory():
                await to_thread.run_sync(_warm, self._fd, self._offset, self._size())
            await self._burst()

    async def _burst(self) -> None:
        """Send until everything is out, the client is gone, or the next bytes have to come from the disk."""
        self._pause = self._loop.create_future()
        self._watch = self._loop.call_later(_STALLED_SECONDS, self._look)
        self._loop.add_writer(self._socket, self._step)
        try:
            await self._pause
        finally:
            self._loop.remove_writer(self._socket)
            self._watch.cancel()

    def _step(self) -> None:
        if self._pause.done():
            return
        try:
            sent = os.sendfile(self._socket, self._fd, self._offset, self._size())
        except BlockingIOError:
            return
        except ConnectionError:
            self._cycle.transport.abort()
            self._pause.set_result(None)
            return
        except OSError as error:
            self._pause.set_exception(error)
            return
        if sent == 0:
            self._pause.set_exception(Unavailable("A stored file ended early while it was sent."))
            return
        self._offset += sent
        self.left -= sent
        if self.left == 0 or _gone(self._cycle) or not self._in_memory():
            self._pause.set_result(None)

    def _look(self) -> None:
        """End the wait for a socket that the server closed itself: it never becomes writable."""
        if not _gone(self._cycle):
            self._watch = self._loop.call_later(_STALLED_SECONDS, self._look)
        elif not self._pause.done():
            self._pause.set_result(None)

    def _size(self) -> int:
        return min(self.left, SLICE)

    def _in_memory(self) -> bool:
        return in_page_cache(self._fd, self._offset, self._size())


def _warm(fd: int, offset: int, size: int) -> None:
    """Bring bytes into the page cache, in a thread, so that sendfile does not stop the event loop."""
    for position in range(offset, offset + size, CHUNK):
        os.pread(fd, CHUNK, position)


# ---- Uploads --------------------------------------------------------------------------------------------------------------------------------


async def receive_upload(stream: AsyncIterator[bytes], store: ArtifactStore, expected: str | None = None, limit: int | None = None) -> Blob:
    """Store a request body (`request.stream()`) in pieces of about 1 MiB, hashed and written in threads; memory stays at two pieces.

    `limit` is in bytes. Raises DigestMismatch, TooLarge, Unavailable, Invalid; a client that leaves (starlette's ClientDisconnect) or a cancelled
    request discards what came.
    """
    writer = await to_thread.run_sync(store.writer, expected, limit)
    try:
        async for piece in _pieces(stream):
            await to_thread.run_sync(writer.write, piece)
        return await to_thread.run_sync(writer.commit)
    except BaseException:
        with CancelScope(shield=True):
            await to_thread.run_sync(writer.abort)
        raise


async def _pieces(stream: AsyncIterator[bytes]) -> AsyncIterator[bytearray]:
    """Join the network's small chunks: a thread per 64 KiB would cost more than the hash."""
    piece = bytearray()
    async for chunk in stream:
        piece += chunk
        if len(piece) >= CHUNK:
            yield piece
            piece = bytearray()
    if piece:
        yield piece
