"""Blobs over real HTTP: uvicorn on loopback, a client that knows nothing of us; local by descriptor, local by chunks, S3 streamed, S3 redirected."""

import base64
import contextlib
import hashlib
import logging
import os
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from registry.api import downloads
from registry.api.downloads import (
    ZERO_COPY,
    NotModified,
    PreconditionFailed,
    Send200,
    Send206,
    Unsatisfiable,
    ZeroCopy,
    attachment,
    blob_response,
    decide,
    receive_upload,
)
from registry.artifacts import Blob, open_store
from registry.errors import DigestMismatch, NotFound, RegistryError, TooLarge, Unavailable
from tests.contract.conftest import LocalRoom, Room, S3Room, open_descriptors

pytestmark = pytest.mark.enable_socket

MIB = 1024 * 1024
# More than the kernel buffers for one connection, and the same in every run, because the names of tests hold its digest.
DATA = random.Random(7).randbytes(8 * MIB + 17)  # noqa: S311 - no secret
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()
TAG = f'"{DIGEST}"'
REPR = f"sha-256=:{base64.b64encode(hashlib.sha256(DATA).digest()).decode()}:"
BLOB = Blob(DIGEST, len(DATA))
OTHER = '"sha256:' + "0" * 64 + '"'


# ---- The server -----------------------------------------------------------------------------------------------------------------------------


@dataclass
class Site:
    """A running server over one store."""

    room: Room
    port: int = 0
    server: Any = None
    zero_copy_offered: list[bool] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def blob_url(self, digest: str = DIGEST) -> str:
        return f"{self.url}/blobs/{digest}"


STATUS = {NotFound: 404, DigestMismatch: 422, TooLarge: 413, Unavailable: 503}


def make_app(site: Site, *, redirect: bool, zero_copy: bool) -> Any:
    async def download(request: Request) -> Response:
        site.zero_copy_offered.append(ZERO_COPY in request.scope.get("extensions", {}))
        size = int(request.query_params.get("size", len(DATA)))
        blob = Blob(request.path_params["digest"], size)
        return await blob_response(
            request, site.room.store, blob, filename="Größe/adapter model.safetensors", media_type="application/x-test", redirect=redirect
        )

    async def upload(request: Request) -> Response:
        blob = await receive_upload(request.stream(), site.room.store, request.path_params["digest"], limit=9 * MIB)
        return JSONResponse({"digest": blob.digest, "size": blob.size})

    async def failed(_: Request, error: Exception) -> Response:
        assert isinstance(error, RegistryError)
        site.errors.append(error.message)
        return JSONResponse({"detail": error.message}, status_code=STATUS[type(error)])

    routes = [Route("/blobs/{digest}", download), Route("/blobs/{digest}", upload, methods=["PUT"])]
    app = Starlette(routes=routes, exception_handlers={RegistryError: failed})
    return ZeroCopy(app) if zero_copy else app


@contextlib.contextmanager
def running(site: Site, app: Any, loop: str = "uvloop", http: str = "httptools") -> Iterator[Site]:
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        loop=loop,
        http=http,
        ws="none",
        lifespan="off",
        log_level="warning",
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    ready = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [ready]}, daemon=True)
    thread.start()
    site.port, site.server = ready.getsockname()[1], server
    try:
        yield site
    finally:
        server.should_exit = True
        thread.join(20)
        ready.close()
        assert not thread.is_alive()


MODES = {
    "local, zero copy": ("local", True, "uvloop"),
    "local, zero copy, asyncio": ("local", True, "asyncio"),
    "local, chunks": ("local", False, "uvloop"),
    "s3, streamed": ("s3", False, "uvloop"),
}


@pytest.fixture(params=MODES, scope="module")
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Every way in which this server itself sends the bytes."""
    kind, zero_copy, loop = MODES[request.param]
    room = LocalRoom(tmp_path_factory.mktemp("site")) if kind == "local" else S3Room(request.getfixturevalue("s3_server"))
    room.store.put_bytes(DATA)
    site = Site(room)
    with running(site, make_app(site, redirect=False, zero_copy=zero_copy), loop):
        yield site


@pytest.fixture
def local_site(local_room: LocalRoom) -> Iterator[Site]:
    local_room.store.put_bytes(DATA)
    site = Site(local_room)
    with running(site, make_app(site, redirect=True, zero_copy=True)):
        yield site


@pytest.fixture
def s3_site(s3_room: S3Room) -> Iterator[Site]:
    s3_room.store.put_bytes(DATA)
    site = Site(s3_room)
    with running(site, make_app(site, redirect=True, zero_copy=True)):
        yield site


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=20) as client:
        yield client


@contextlib.contextmanager
def slow_connection(site: Site) -> Iterator[socket.socket]:
    """A client with almost no receive buffer, so that what it does not read stays on the server's side."""
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(20)
        slow.connect(("127.0.0.1", site.port))
        yield slow


def eventually(condition: Callable[[], bool]) -> bool:
    """Wait for what another thread is about to do; ten seconds mean that it never will."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


# ---- Downloads that this server sends -------------------------------------------------------------------------------------------------------


def test_the_whole_file_with_everything_a_client_needs(site, client):
    reply = client.get(site.blob_url())
    assert reply.status_code == 200
    assert reply.content == DATA
    found = {
        name: reply.headers.get(name)
        for name in ("etag", "repr-digest", "accept-ranges", "content-length", "content-type", "x-content-type-options", "cache-control")
    }
    assert found == {
        "etag": TAG,
        "repr-digest": REPR,
        "accept-ranges": "bytes",
        "content-length": str(len(DATA)),
        "content-type": "application/x-test",
        "x-content-type-options": "nosniff",
        "cache-control": "private, max-age=31536000, immutable",
    }
    assert (
        reply.headers["content-disposition"]
        == "attachment; filename=\"Gr__e_adapter model.safetensors\"; filename*=UTF-8''Gr%C3%B6%C3%9Fe_adapter%20model.safetensors"
    )


@pytest.mark.parametrize(("zero_copy", "http", "used"), [(True, "httptools", True), (False, "httptools", False), (True, "h11", False)])
def test_descriptors_are_offered_exactly_where_the_server_takes_them(local_room, client, monkeypatch, zero_copy, http, used):
    calls: list[int] = []
    sendfile = os.sendfile
    monkeypatch.setattr(os, "sendfile", lambda *arguments: calls.append(1) or sendfile(*arguments))
    local_room.store.put_bytes(DATA)
    site = Site(local_room)
    with running(site, make_app(site, redirect=True, zero_copy=zero_copy), http=http):
        assert client.get(site.blob_url()).content == DATA
    assert (site.zero_copy_offered, bool(calls)) == ([used], used)


def test_bytes_that_are_not_in_memory_arrive_too(site, client, monkeypatch):
    monkeypatch.setattr(downloads, "in_page_cache", lambda *_: False)
    assert client.get(site.blob_url(), headers={"Range": "bytes=1000-"}).content == DATA[1000:]


@pytest.mark.parametrize("value", [TAG, f"W/{TAG}", f'"x", {TAG}', f'"a,b" ,W/"c", W/{TAG}', "*"])
def test_what_the_client_has_is_not_sent_again(site, client, value):
    reply = client.get(site.blob_url(), headers={"If-None-Match": value})
    assert (reply.status_code, reply.content) == (304, b"")
    assert reply.headers["etag"] == TAG
    assert "content-type" not in reply.headers
    assert client.get(site.blob_url()).content == DATA  # the connection goes on


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-", 5, None),
        ("bytes=-7", -7, None),
        ("BYTES = 100-199", 100, 200),
        (f"bytes=1-{10**30}", 1, None),
        ("bytes=1048575-2097152,", 1048575, 2097153),
    ],
)
def test_one_range(site, client, wanted, start, end):
    reply = client.get(site.blob_url(), headers={"Range": wanted})
    expected = DATA[start:end]
    first = len(DATA) + start if start < 0 else start
    assert reply.status_code == 206
    assert reply.headers["content-range"] == f"bytes {first}-{first + len(expected) - 1}/{len(DATA)}"
    assert reply.headers["repr-digest"] == REPR  # of the whole file: RFC 9530 section 3.1
    assert reply.content == expected


@pytest.mark.parametrize("wanted", [f"bytes={len(DATA)}-", "bytes=-0", f"bytes={10**30}-"])
def test_a_range_behind_the_end(site, client, wanted):
    reply = client.get(site.blob_url(), headers={"Range": wanted})
    assert reply.status_code == 416
    assert reply.headers["content-range"] == f"bytes */{len(DATA)}"
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json()["status"] == 416


@pytest.mark.parametrize(
    "headers", [{"Range": "bytes=0-1,5-6"}, {"Range": "lines=1-2"}, {"Range": "bytes=9-3"}, {"Range": "bytes=0-9", "If-Range": OTHER}]
)
def test_a_range_that_does_not_apply_gives_the_whole_file(site, client, headers):
    reply = client.get(site.blob_url(), headers=headers)
    assert (reply.status_code, reply.content) == (200, DATA)


def test_an_interrupted_download_resumes(site, client):
    with client.stream("GET", site.blob_url()) as reply:
        first = next(reply.iter_raw(65536))
    rest = client.get(site.blob_url(), headers={"Range": f"bytes={len(first)}-", "If-Range": TAG})
    assert rest.status_code == 206
    assert first + rest.content == DATA


def test_if_match(site, client):
    assert client.get(site.blob_url(), headers={"If-Match": f"{OTHER}, {TAG}"}).status_code == 200
    refused = client.get(site.blob_url(), headers={"If-Match": OTHER})
    assert (refused.status_code, refused.json()["code"]) == (412, "precondition_failed")


def test_head_is_get_without_the_body(site, client):
    get, head = client.get(site.blob_url()), client.head(site.blob_url())
    hide = {"date", "server"}
    assert head.status_code == 200
    assert head.content == b""
    assert {n: v for n, v in head.headers.items() if n not in hide} == {n: v for n, v in get.headers.items() if n not in hide}
    assert client.head(site.blob_url(), headers={"Range": "bytes=0-1"}).headers["content-length"] == str(len(DATA))


def test_an_empty_file(site, client):
    blob = site.room.store.put_bytes(b"")
    reply = client.get(site.blob_url(blob.digest) + "?size=0")
    assert (reply.status_code, reply.content, reply.headers["content-length"]) == (200, b"", "0")
    assert client.get(site.blob_url(blob.digest) + "?size=0", headers={"Range": "bytes=0-"}).status_code == 416


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_missing_file_is_404(site, client, method):
    assert client.request(method, site.blob_url(OTHER.strip('"'))).status_code == 404


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_cut_file_is_refused_before_the_first_byte(site, client, method):
    blob = site.room.store.put_bytes(f"{method} of a file that loses its end".encode())
    site.room.replace(blob.digest, b"cut")
    assert client.request(method, site.blob_url(blob.digest) + f"?size={blob.size}").status_code == 503
    assert "has 3 bytes" in site.errors[-1]


@pytest.mark.parametrize("zero_copy", [True, False])
def test_a_file_cut_while_it_is_sent_cuts_the_connection(local_room, zero_copy):
    """A client must never take a cut file for a whole one."""
    local_room.store.put_bytes(DATA)
    site = Site(local_room)
    with running(site, make_app(site, redirect=True, zero_copy=zero_copy)), slow_connection(site) as slow:
        slow.sendall(f"GET /blobs/{DIGEST} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        received = slow.recv(10)
        os.truncate(local_room.path(DIGEST), len(DATA) - 1)
        received += b"".join(iter(lambda: slow.recv(MIB), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    assert f"content-length: {len(DATA)}".encode() in head
    assert len(body) < len(DATA)
    assert DATA.startswith(body)


def test_one_connection_carries_many_files(site):
    """Content-Length must be kept exactly, or the second answer starts inside the first."""
    request = f"GET /blobs/{DIGEST} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", site.port), 20) as connection:
        connection.sendall(request * 3)  # pipelined
        stream = connection.makefile("rb")
        for _ in range(3):
            assert stream.readline() == b"HTTP/1.1 200 OK\r\n"
            while stream.readline() != b"\r\n":
                pass
            assert stream.read(len(DATA)) == DATA
        stream.close()


def test_a_slow_client_gets_every_byte_and_stops_nobody(site, client):
    with slow_connection(site) as slow:
        slow.sendall(f"GET /blobs/{DIGEST} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert slow.recv(10)
        assert client.get(site.blob_url()).content == DATA
        received = b"".join(iter(lambda: slow.recv(1 << 20), b""))
    assert received.endswith(DATA)


def test_clients_that_leave_cost_nothing(site, client, caplog):
    client.get(site.blob_url(), headers={"Connection": "close"})
    with caplog.at_level(logging.ERROR):
        before = open_descriptors()
        for _ in range(20):
            with slow_connection(site) as leaving:
                leaving.sendall(f"GET /blobs/{DIGEST} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                assert leaving.recv(10)
        # S3's client may keep pooled connections of its own.
        assert eventually(lambda: open_descriptors() <= before + (10 if site.room.kind == "s3" else 0))
        assert eventually(lambda: not site.server.server_state.tasks)
    assert [r.message for r in caplog.records if r.name.startswith("uvicorn")] == []


def test_a_stalled_client_does_not_hold_a_closed_connection(local_site):
    """The server's own close never makes the socket writable, so the transfer has to look for it."""
    with slow_connection(local_site) as stalled:
        stalled.sendall(f"GET /blobs/{DIGEST} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert stalled.recv(10)
        (protocol,) = local_site.server.server_state.connections
        protocol.loop.call_soon_threadsafe(protocol.transport.abort)
        assert eventually(lambda: not local_site.server.server_state.tasks)


# ---- S3 redirects ---------------------------------------------------------------------------------------------------------------------------


def test_s3_sends_the_bytes_and_we_vouch_for_them(s3_site, client):
    reply = client.get(s3_site.blob_url())
    assert reply.status_code == 307
    assert (reply.headers["etag"], reply.headers["repr-digest"], reply.headers["cache-control"]) == (TAG, REPR, "no-store")
    followed = client.get(s3_site.blob_url(), headers={"Authorization": "Bearer ours"}, follow_redirects=True)
    assert followed.history[0].status_code == 307
    assert followed.content == DATA
    assert followed.headers["content-type"] == "application/x-test"
    assert followed.headers["content-disposition"] == attachment("Größe/adapter model.safetensors")
    assert followed.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert followed.headers["etag"] != TAG  # the reason why the redirect carries ours
    assert "authorization" not in followed.request.headers


def test_a_range_is_followed_to_s3(s3_site, client):
    reply = client.get(s3_site.blob_url(), headers={"Range": "bytes=10-19"}, follow_redirects=True)
    assert (reply.status_code, reply.content) == (206, DATA[10:20])
    assert client.get(s3_site.blob_url(), headers={"Range": f"bytes={len(DATA)}-"}).status_code == 416


@pytest.mark.parametrize("value", [TAG, f"W/{TAG}", "*"])
def test_304_comes_before_the_redirect_and_asks_s3_nothing(s3_site, client, value):
    s3_site.room.store = open_store("s3://nowhere", s3_endpoint="http://127.0.0.1:9")
    reply = client.get(s3_site.blob_url(), headers={"If-None-Match": value})
    assert (reply.status_code, reply.headers["etag"], reply.content) == (304, TAG, b"")
    assert "location" not in reply.headers


@pytest.mark.parametrize("headers", [{"If-Match": TAG}, {"If-Range": TAG, "Range": "bytes=1-2"}])
def test_conditions_that_s3_would_misjudge_are_answered_here(s3_site, client, headers):
    reply = client.get(s3_site.blob_url(), headers=headers)
    assert reply.status_code in {200, 206}
    assert reply.content == (DATA[1:3] if "Range" in headers else DATA)


def test_head_is_not_redirected(s3_site, client):
    reply = client.head(s3_site.blob_url())
    assert (reply.status_code, reply.headers["etag"], reply.headers["content-length"]) == (200, TAG, str(len(DATA)))


# ---- Decisions, without a server ------------------------------------------------------------------------------------------------------------


def decision(*lines: tuple[str, str], method: str = "GET", size: int = 10) -> object:
    return decide(method, Headers(raw=[(n.encode(), v.encode("latin-1")) for n, v in lines]), Blob(DIGEST, size))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], Send200()),
        ([("if-match", "*")], Send200()),
        ([("if-match", f"W/{TAG}")], PreconditionFailed()),  # If-Match compares strongly
        ([("if-match", OTHER), ("if-match", TAG)], Send200()),  # two lines are one list
        ([("if-match", "")], PreconditionFailed()),
        ([("if-match", OTHER), ("if-none-match", TAG)], PreconditionFailed()),  # If-Match is asked first
        ([("if-none-match", OTHER), ("if-none-match", TAG)], NotModified()),
        ([("if-none-match", DIGEST)], Send200()),  # no quotes: no entity tag
        ([("if-none-match", TAG), ("range", "bytes=0-1")], NotModified()),
        ([("if-none-match", TAG[:-2])], Send200()),
        ([("range", "bytes=0-1"), ("if-range", TAG)], Send206(0, 2)),
        ([("range", "bytes=0-1"), ("if-range", f"W/{TAG}")], Send200()),
        ([("range", "bytes=0-1"), ("if-range", "Wed, 21 Oct 2015 07:28:00 GMT")], Send200()),
        ([("range", "bytes=99-"), ("if-range", OTHER)], Send200()),
        ([("range", "bytes=-100")], Send206(0, 10)),
        ([("range", "bytes=9-9")], Send206(9, 10)),
        ([("range", "bytes=10-")], Unsatisfiable()),
        ([("range", "bytes=٣-٤".encode().decode("latin-1"))], Send200()),  # digits of other scripts are no digits
        ([("range", "bytes=1_0-")], Send200()),
        ([("range", "bytes=-")], Send200()),
        ([("range", "bytes=")], Send200()),
        ([("range", "bytes=" + "0" * 5000 + "3-" + "9" * 5000)], Send206(3, 10)),
    ],
)
def test_decisions(lines, expected):
    assert decision(*lines) == expected


def test_head_ignores_range():
    assert decision(("range", "bytes=0-1"), method="HEAD") == Send200()


def test_the_end_of_an_empty_file():
    assert decision(("range", "bytes=-5"), size=0) == Send200()


@given(first=st.integers(0, 30), last=st.integers(0, 30), size=st.integers(0, 20))
def test_ranges_agree_with_slices(first, last, size):
    found = decision(("range", f"bytes={first}-{last}"), size=size)
    if last < first:
        assert found == Send200()
    elif first >= size:
        assert found == Unsatisfiable()
    else:
        assert isinstance(found, Send206)
        assert range(size)[found.start : found.end] == range(size)[first : last + 1]


@settings(deadline=None)
@given(
    name=st.sampled_from(["range", "if-range", "if-match", "if-none-match"]),
    value=st.text(st.characters(max_codepoint=255)),
    size=st.integers(0, 9),
)
def test_no_header_breaks_the_decision(name, value, size):
    found = decision((name, value), ("range", "bytes=0-0"), size=size)
    assert isinstance(found, Send200 | Send206 | NotModified | PreconditionFailed | Unsatisfiable)


# ---- File names -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("adapter_config.json", 'attachment; filename="adapter_config.json"'),
        ("../../etc/passwd", 'attachment; filename="_.._etc_passwd"'),
        ("..", 'attachment; filename="download"'),
        ("", 'attachment; filename="download"'),
        ('a"; x="b\r\nSet-Cookie: c', 'attachment; filename="a_; x=_bSet-Cookie_ c"'),
        ("\u202egpj.exe", 'attachment; filename="gpj.exe"'),
        ("C:\\x\\y", 'attachment; filename="C__x_y"'),
    ],
)
def test_file_names_are_harmless(name, expected):
    assert attachment(name) == expected


@given(st.text())
def test_no_file_name_leaves_its_header(name):
    assert re.fullmatch(r"attachment; filename=\"[ -!#-.0-\[\]-~]{1,150}\"(; filename\*=UTF-8''[A-Za-z0-9%_.~-]+)?", attachment(name))


# ---- Uploads --------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def upload_site(room: Room) -> Iterator[Site]:
    site = Site(room)
    with running(site, make_app(site, redirect=True, zero_copy=True)):
        yield site


def test_an_upload_is_stored_and_checked(upload_site, client):
    pieces = (DATA[i : i + 100_003] for i in range(0, len(DATA), 100_003))
    reply = client.put(upload_site.blob_url(), content=pieces)
    assert (reply.status_code, reply.json()) == (200, {"digest": DIGEST, "size": len(DATA)})
    assert upload_site.room.store.verify(DIGEST) == BLOB


@pytest.mark.parametrize(("body", "status"), [(b"other bytes", 422), (b"", 422), (b"x" * (9 * MIB + 1), 413)])
def test_a_bad_upload_leaves_nothing(upload_site, client, body, status):
    assert client.put(upload_site.blob_url(), content=body).status_code == status
    assert (upload_site.room.blobs(), upload_site.room.leftovers()) == ([], [])


def test_an_upload_that_breaks_off_leaves_nothing(upload_site):
    half = DATA[: 2 * MIB]
    with socket.create_connection(("127.0.0.1", upload_site.port), 20) as connection:
        connection.sendall(f"PUT /blobs/{DIGEST} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(DATA)}\r\n\r\n".encode() + half)
        if upload_site.room.kind == "local":
            assert eventually(lambda: upload_site.room.leftovers() != [])  # it is on its way
    assert eventually(lambda: not upload_site.server.server_state.tasks)
    assert (upload_site.room.blobs(), upload_site.room.leftovers()) == ([], [])


def test_an_upload_of_what_is_there_succeeds(upload_site, client):
    upload_site.room.store.put_bytes(DATA)
    assert client.put(upload_site.blob_url(), content=DATA).status_code == 200
    assert client.put(upload_site.blob_url(), content=DATA[:-1]).status_code == 422
