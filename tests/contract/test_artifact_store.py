"""What every artifact store promises, on a folder and on S3 over HTTP; then what each kind adds."""

import base64
import errno
import hashlib
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.artifacts import CHUNK, ArtifactStore, Blob, Problem, ServeAs, open_store
from registry.errors import Conflict, DigestMismatch, Invalid, NotFound, TooLarge, Unavailable

pytestmark = pytest.mark.enable_socket

MIB = 1024 * 1024
PART = 8 * MIB
ABSENT = "sha256:" + "0" * 64
# One room serves all examples of a property: blobs are addressed by content, so examples cannot disturb each other.
shared_room = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def put(store: ArtifactStore, data: bytes, expected: str | None = None, limit: int | None = None, piece: int = CHUNK) -> Blob:
    with store.writer(expected, limit) as writer:
        for start in range(0, len(data), piece):
            writer.write(data[start : start + piece])
        return writer.commit()


# ---- Storing --------------------------------------------------------------------------------------------------------------------------------


@shared_room
@given(pieces=st.lists(st.binary(max_size=200), max_size=8), announced=st.booleans())
def test_any_chunking_gives_the_same_digest(artifact_store, pieces, announced):
    data = b"".join(pieces)
    with artifact_store.writer(digest_of(data) if announced else None) as writer:
        for piece in pieces:
            writer.write(piece)
        blob = writer.commit()
    assert blob == Blob(digest_of(data), len(data))
    assert artifact_store.stat(blob.digest) == blob
    assert artifact_store.get_bytes(blob.digest) == data


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 2 * PART + 12345])
@pytest.mark.parametrize("announced", [True, False])
def test_sizes_around_a_part_survive(room, size, announced):
    data = os.urandom(size)
    blob = put(room.store, data, digest_of(data) if announced else None, piece=3_000_001)
    assert blob == Blob(digest_of(data), size)
    assert room.store.verify(blob.digest) == blob
    assert room.leftovers() == []


@pytest.mark.parametrize("buffer", [bytes, bytearray, memoryview])
def test_the_callers_buffer_may_be_used_again(artifact_store, buffer):
    with artifact_store.writer() as writer:
        mutable = bytearray(b"first")
        writer.write(buffer(mutable))
        mutable[:] = b"XXXXX"
        blob = writer.commit()
    assert blob.digest == digest_of(b"first")
    assert artifact_store.get_bytes(blob.digest) == b"first"


@pytest.mark.parametrize("size", [100, PART + 100])
def test_a_wrong_digest_leaves_nothing(room, size):
    with pytest.raises(DigestMismatch, match=r"Expected sha256:0000.*Nothing was stored"):
        put(room.store, b"x" * size, expected=ABSENT)
    assert room.blobs() == []
    assert room.leftovers() == []


@pytest.mark.parametrize("size", [1000, PART + 1000])
def test_the_limit_is_checked_while_streaming(room, size):
    data = os.urandom(size)
    with pytest.raises(TooLarge, match=f"at most {size - 1} bytes"):
        put(room.store, data, digest_of(data), limit=size - 1)
    assert (room.blobs(), room.leftovers()) == ([], [])
    assert put(room.store, data, limit=size).size == size


def test_the_limit_stops_an_endless_stream(room):
    writer = room.store.writer(limit=2 * MIB)
    for _ in range(2):
        writer.write(b"\0" * MIB)
    with pytest.raises(TooLarge):
        writer.write(b"\0")
    assert (room.blobs(), room.leftovers()) == ([], [])


@pytest.mark.parametrize("size", [10, PART + 10])
def test_a_writer_left_without_commit_leaves_nothing(room, size):
    data = os.urandom(size)
    with room.store.writer(digest_of(data)) as writer:
        writer.write(data)
    writer.abort()  # again: harmless
    assert (room.blobs(), room.leftovers()) == ([], [])
    with pytest.raises(RuntimeError, match="committed or aborted"):
        writer.write(b"more")


def test_nothing_is_visible_before_commit(room):
    data = os.urandom(PART + 5)
    with room.store.writer(digest_of(data)) as writer:
        writer.write(data)
        assert room.store.stat(digest_of(data)) is None
        assert room.blobs() == []
        writer.commit()
    assert room.blobs() == [digest_of(data)]
    writer.abort()  # after commit: nothing happens
    assert room.blobs() == [digest_of(data)]


# ---- Write-once -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("announced", [True, False])
def test_an_existing_blob_is_never_overwritten(room, announced):
    data = b"the true bytes"
    blob = put(room.store, data)
    room.replace(blob.digest, b"tampered bytes")  # the same length: nobody notices without reading
    assert put(room.store, data, blob.digest if announced else None) == blob
    with room.store.open_range(blob.digest) as reader:
        assert reader.read(100) == b"tampered bytes"


@pytest.mark.parametrize("announced", [True, False])
def test_a_cut_copy_is_reported_rather_than_confirmed(room, announced):
    data = b"the true bytes"
    blob = put(room.store, data)
    room.replace(blob.digest, b"cut")
    with pytest.raises(Conflict, match="with 3 bytes, expected 14: the stored copy is damaged"):
        put(room.store, data, blob.digest if announced else None)


def test_bytes_for_an_existing_blob_are_still_checked(room):
    blob = put(room.store, b"the true bytes")
    with pytest.raises(DigestMismatch):
        put(room.store, b"other bytes", expected=blob.digest)
    assert room.blobs() == [blob.digest]


@pytest.mark.parametrize("size", [100, PART + 100])
def test_the_second_of_two_open_writers_succeeds_too(room, size):
    data = os.urandom(size)
    first, second = room.store.writer(digest_of(data)), room.store.writer(digest_of(data))
    first.write(data)
    second.write(data)
    assert first.commit() == second.commit() == Blob(digest_of(data), size)
    assert (room.blobs(), room.leftovers()) == ([digest_of(data)], [])


def test_concurrent_writers_of_the_same_content_agree(room):
    data = os.urandom(300_000)
    start = threading.Barrier(8)

    def one(number: int) -> Blob:
        start.wait()
        return put(room.store, data, digest_of(data) if number % 2 else None, piece=50_000)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(one, range(8))) == {Blob(digest_of(data), len(data))}
    assert (room.blobs(), room.leftovers()) == ([digest_of(data)], [])
    assert isinstance(room.store.verify(digest_of(data)), Blob)


# ---- Reading --------------------------------------------------------------------------------------------------------------------------------


@shared_room
@given(data=st.binary(min_size=1, max_size=300), start=st.integers(0, 299), length=st.none() | st.integers(0, 400))
def test_a_range_is_a_slice(artifact_store, data, start, length):
    start %= len(data)
    blob = artifact_store.put_bytes(data)
    with artifact_store.open_range(blob.digest, start, length) as reader:
        assert reader.size == len(data)
        found = b"".join(iter(lambda: reader.read(7), b""))
    assert found == (data[start:] if length is None else data[start : start + length])


@pytest.mark.parametrize("start", [-1, 4, 5])
def test_a_range_starts_inside_the_blob(artifact_store, start):
    blob = artifact_store.put_bytes(b"four")
    with pytest.raises(Invalid, match="inside the blob"):
        artifact_store.open_range(blob.digest, start)


def test_a_reader_offers_its_descriptor_only_where_there_is_a_file(room):
    blob = room.store.put_bytes(b"x")
    with room.store.open_range(blob.digest) as reader:
        assert (reader.fd is not None) == (room.kind == "local")


def test_a_missing_blob_is_not_found(artifact_store):
    assert artifact_store.stat(ABSENT) is None
    for read in (artifact_store.open_range, artifact_store.get_bytes):
        with pytest.raises(NotFound):
            read(ABSENT)
    assert artifact_store.verify(ABSENT) == Problem(ABSENT, f"{ABSENT} is missing from {artifact_store.location}")


@pytest.mark.parametrize(
    "name",
    ["", "sha256:", "sha256:../../../../etc/passwd", "sha256:" + "A" * 64, "md5:" + "0" * 32, "0" * 64, ABSENT + "\n", ABSENT + "\0"],
)
def test_only_digests_are_names(artifact_store, name):
    calls: list[Callable[[str], object]] = [
        artifact_store.stat,
        artifact_store.open_range,
        artifact_store.writer,
        artifact_store.verify,
        lambda n: artifact_store.presign(n, ServeAs("text/plain", "attachment", "no-store")),
    ]
    for call in calls[:4] if artifact_store.location.startswith("/") else calls:
        with pytest.raises(Invalid, match="64 lower-case hex"):
            call(name)


def test_verify_finds_a_flipped_byte(room):
    data = bytearray(os.urandom(2 * MIB))
    blob = put(room.store, bytes(data))
    assert room.store.verify(blob.digest) == blob
    data[MIB] ^= 1
    room.replace(blob.digest, bytes(data))
    found = room.store.verify(blob.digest)
    assert isinstance(found, Problem)
    assert blob.digest in found.sentence
    assert "damaged" in found.sentence


def test_files_go_in_and_come_out_checked(room, tmp_path):
    source, target = tmp_path / "in.bin", tmp_path / "out.bin"
    data = os.urandom(PART + 77)
    source.write_bytes(data)
    blob = room.store.put_file(source)
    assert blob == Blob(digest_of(data), len(data))
    assert room.store.put_file(source, expected=blob.digest) == blob
    assert room.store.get_file(blob.digest, target) == blob
    assert target.read_bytes() == data
    with pytest.raises(DigestMismatch):
        room.store.put_file(source, expected=ABSENT)
    with pytest.raises(TooLarge):
        room.store.put_file(source, limit=77)


def test_a_damaged_blob_does_not_come_out(room, tmp_path):
    blob = room.store.put_bytes(b"good")
    room.replace(blob.digest, b"evil")
    with pytest.raises(DigestMismatch, match="damaged"):
        room.store.get_file(blob.digest, tmp_path / "out")
    with pytest.raises(DigestMismatch, match="damaged"):
        room.store.get_bytes(blob.digest)
    assert [p.name for p in tmp_path.iterdir() if p.name != "store"] == []


def test_get_bytes_refuses_to_fill_the_memory(artifact_store):
    blob = artifact_store.put_bytes(b"12345")
    with pytest.raises(TooLarge, match="at most 4"):
        artifact_store.get_bytes(blob.digest, limit=4)


# ---- Killed, full, and large ----------------------------------------------------------------------------------------------------------------

SUBPROCESS = """
import os, resource, sys
from registry.artifacts import open_store
store = open_store(sys.argv[1], s3_endpoint=sys.argv[2] or None)
"""


def in_subprocess(room, body: str, *arguments: str) -> list[str]:
    location, endpoint = (str(room.root), "") if room.kind == "local" else (room.url, room.server.endpoint)
    return [sys.executable, "-c", SUBPROCESS + body, location, endpoint, *arguments]


def test_a_killed_writer_leaves_no_blob(room):
    data = b"k" * (PART + MIB)
    body = "w = store.writer(sys.argv[3]); w.write(b'k' * int(sys.argv[4])); print('written', flush=True); sys.stdin.read()"
    command = in_subprocess(room, body, digest_of(data), str(len(data)))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)
    assert room.blobs() == []
    assert room.store.stat(digest_of(data)) is None
    assert put(room.reopen(), data, digest_of(data)).size == len(data)  # and a rerun succeeds
    assert room.blobs() == [digest_of(data)]


def test_leftovers_are_swept_when_they_are_old(local_room):
    spool = local_room.root / "spool"
    dead, alive = spool / "dead.part", spool / "alive.part"
    for path in (dead, alive):
        path.write_bytes(b"half")
    long_ago = time.time() - 25 * 3600
    os.utime(dead, (long_ago, long_ago))
    local_room.reopen()
    assert local_room.leftovers() == ["alive.part"]


def test_128_mib_pass_in_constant_memory(room):
    announced = room.kind == "s3"  # there an unknown digest is the same upload after a temporary file
    piece = b"m" * MIB
    total = hashlib.sha256()
    for _ in range(128):
        total.update(piece)
    body = """
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
store.put_bytes(b"warm")
before = peak()
with store.writer(sys.argv[3] or None) as w:
    for _ in range(128):
        w.write(b"m" * 2**20)
    blob = w.commit()
assert store.verify(blob.digest) == blob
print(blob.digest, blob.size, peak() - before)
"""
    expected = "sha256:" + total.hexdigest()
    done = subprocess.run(in_subprocess(room, body, expected if announced else ""), capture_output=True, text=True, check=True)
    digest, size, grown = done.stdout.split()
    assert (digest, int(size)) == (expected, 128 * MIB)
    assert int(grown) < 64, f"grew by {grown} MiB"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB; only root may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no tmpfs here ({mounted.stderr.strip()}); RLIMIT_FSIZE is tested instead")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_a_sentence_and_leaves_nothing(small_disk):
    store = open_store(small_disk / "store")
    with pytest.raises(Unavailable, match=r"no room left.*Nothing was stored") as caught:
        put(store, os.urandom(6 * MIB))
    assert "Free some disk space" in (caught.value.hint or "")
    assert list((small_disk / "store" / "spool").iterdir()) == []
    assert put(store, os.urandom(2 * MIB)).size == 2 * MIB  # the room is free again


def test_a_full_temporary_folder_is_a_sentence(s3_room, small_disk, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    with pytest.raises(Unavailable, match=r"temporary folder.*No space left"):
        put(s3_room.store, os.urandom(PART + MIB))
    assert (s3_room.blobs(), list(small_disk.iterdir())) == ([], [])


def test_a_file_size_limit_is_a_sentence_and_leaves_nothing(local_room):
    body = """
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
try:
    with store.writer() as w:
        w.write(b"x" * 2**21)
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run(in_subprocess(local_room, body), capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Unavailable The artifact store at ")
    assert "no room left" in done.stdout
    assert (local_room.blobs(), local_room.leftovers()) == ([], [])
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 2**20


# ---- The folder -----------------------------------------------------------------------------------------------------------------------------


def test_blobs_are_read_only_and_the_spool_is_private(local_room):
    blob = local_room.store.put_bytes(b"x")
    assert stat.S_IMODE(local_room.path(blob.digest).stat().st_mode) == 0o444
    assert stat.S_IMODE((local_room.root / "spool").stat().st_mode) == 0o700
    assert local_room.store.location == str(local_room.root)
    assert local_room.store.presign(blob.digest, ServeAs("text/plain", "attachment", "no-store")) is None


@pytest.mark.parametrize("level", ["file", "folder"])
def test_links_below_the_root_are_not_followed(local_room, tmp_path, level):
    secret = b"root:x:0:0"
    digest = digest_of(secret)
    outside = tmp_path / "outside"
    outside.mkdir()
    path = local_room.path(digest)
    (outside / path.name).write_bytes(secret)
    if level == "file":
        path.parent.mkdir()
        path.symlink_to(outside / path.name)
    else:
        path.parent.symlink_to(outside)
    with pytest.raises(Unavailable):
        local_room.store.open_range(digest)
    assert isinstance(local_room.store.verify(digest), Problem)
    with pytest.raises(Unavailable):
        local_room.store.put_bytes(secret)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_not_a_file_is_not_served(local_room, make):
    path = local_room.path(ABSENT)
    path.parent.mkdir()
    make(path)
    with pytest.raises(Unavailable, match="not a regular file"):
        local_room.store.open_range(ABSENT)
    assert isinstance(local_room.store.verify(ABSENT), Problem)


def test_a_file_system_without_hard_links_works(local_room, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    blob = put(local_room.store, b"data")
    assert put(local_room.store, b"data") == blob
    assert local_room.store.get_bytes(blob.digest) == b"data"
    assert local_room.leftovers() == []


def test_a_failing_flush_is_not_a_commit(local_room, monkeypatch):
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    writer = local_room.store.writer()
    writer.write(b"data")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(Unavailable, match="Input/output error"):
        writer.commit()
    assert (local_room.blobs(), local_room.leftovers()) == ([], [])


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(Invalid, match="must be a folder"):
        open_store(tmp_path / "file")


@pytest.mark.parametrize("location", ["", "https://user:hunter2@example.org/x", "gs://bucket", "a\0b"])
def test_other_locations_are_refused_without_repeating_secrets(location):
    with pytest.raises(Invalid, match=r"a folder or s3://bucket/prefix") as caught:
        open_store(location)
    assert "hunter2" not in str(caught.value)


def test_a_folder_does_not_cost_boto3(tmp_path):
    code = "import sys; from registry.artifacts import open_store; open_store(sys.argv[1]); print('boto3' in sys.modules or 'botocore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], capture_output=True, text=True, check=True).stdout == "False\n"


# ---- S3 -------------------------------------------------------------------------------------------------------------------------------------


def test_s3_keeps_the_sha256_it_checked(s3_room):
    blob = s3_room.store.put_bytes(b"checked")
    head = s3_room.server.client.head_object(Bucket=s3_room.bucket, Key=s3_room.key(blob.digest), ChecksumMode="ENABLED")
    assert bytes.fromhex(blob.digest[7:]) == base64.b64decode(head["ChecksumSHA256"])
    assert s3_room.store.location == s3_room.url


def test_s3_writes_are_conditional(s3_room):
    sent: list[tuple[str, str | None]] = []
    client = s3_room.store._client
    client.meta.events.register(
        "before-send.s3",
        lambda request, **_: sent.append((f"{request.method} {request.url.partition('?')[2][:8]}", request.headers.get("If-None-Match"))),
    )
    put(s3_room.store, b"small", digest_of(b"small"))
    data = os.urandom(PART + 1)
    put(s3_room.store, data, digest_of(data))
    conditions = [(call, value) for call, value in sent if value is not None]
    assert [call.split()[0] for call, _ in conditions] == ["PUT", "POST"]
    assert {v.decode() if isinstance(v, bytes) else v for _, v in conditions} == {"*"}


def test_s3_without_an_account_is_a_sentence(s3_server, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    store = open_store("s3://some-bucket/x", s3_endpoint=s3_server.endpoint)
    with pytest.raises(Invalid, match="No usable S3 credentials") as caught:
        store.stat(ABSENT)
    assert "AWS_ACCESS_KEY_ID" in (caught.value.hint or "")


def test_s3_without_the_bucket_is_a_sentence(s3_server):
    with pytest.raises(Invalid, match="bucket of s3://no-such-bucket does not exist"):
        open_store("s3://no-such-bucket", s3_endpoint=s3_server.endpoint).put_bytes(b"x")


def test_s3_that_does_not_answer_is_unavailable(s3_server, unused_port):
    store = open_store("s3://some-bucket", s3_endpoint=f"http://127.0.0.1:{unused_port}")
    with pytest.raises(Unavailable, match="does not answer"):
        store.put_bytes(b"x")


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (403, "AccessDenied", Invalid, "refused the credentials"),
        (403, "InvalidAccessKeyId", Invalid, "refused the credentials"),
        (400, "ExpiredToken", Invalid, "refused the credentials"),
        (400, "BadDigest", DigestMismatch, "other bytes than were sent"),
        (501, "NotImplemented", Invalid, "does not know conditional writes"),
        (409, "ConditionalRequestConflict", Unavailable, "under way"),
        (400, "AuthorizationHeaderMalformed", Invalid, "another region"),
        (418, "Teapot", Unavailable, "S3 answered Teapot"),
    ],
)
def test_s3_refusals_are_sentences_without_secrets(s3_room, status, code, kind, words):
    from botocore.awsrequest import AWSResponse

    secret = "secret-that-must-never-be-shown"
    body = f"<Error><Code>{code}</Code><Message>{secret}</Message></Error>".encode()

    class Raw:
        def stream(self, *_: object, **__: object) -> Iterator[bytes]:
            yield body

    def answer(request, **_: object) -> AWSResponse | None:
        return AWSResponse(request.url, status, {}, Raw()) if request.method == "PUT" else None

    s3_room.store._client.meta.events.register("before-send.s3", answer)
    with pytest.raises(kind, match=words) as caught:
        s3_room.store.put_bytes(b"x")
    assert caught.value.__suppress_context__
    assert secret not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    "url", ["s3://", "s3://key:hunter2@bucket/x", "s3://UPPER/x", "s3://bucket/a/../b", "s3://bucket/a//b", "s3://bucket/ä"]
)
def test_malformed_s3_urls_are_refused_without_repeating_secrets(url):
    with pytest.raises(Invalid, match="s3://bucket/prefix") as caught:
        open_store(url)
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("endpoint", ["localhost:9000", "ftp://x", "http://user:hunter2@host", "http://[broken", "http://"])
def test_malformed_endpoints_are_refused_without_repeating_secrets(endpoint):
    with pytest.raises(Invalid, match=r"http\(s\) URL without credentials") as caught:
        open_store("s3://bucket", s3_endpoint=endpoint)
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


def test_without_the_extra_the_command_that_installs_it_is_named(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(Invalid, match="needs boto3") as caught:
        open_store("s3://bucket")
    assert caught.value.hint == "Run: pip install 'adapter-registry[s3]'"
