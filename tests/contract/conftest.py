"""Artifact stores under test: a folder and S3 (moto's server over real HTTP), each with a way to look behind the store's back."""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
from api_kit import Api, public_elena

from registry.artifacts import ArtifactStore, open_store
from registry.db import Database

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIATESTINGTESTING00",
    "AWS_SECRET_ACCESS_KEY": "secret-that-must-never-be-shown",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Room(Protocol):
    """A store and what a test may do to it that no caller can."""

    kind: str
    store: ArtifactStore

    def reopen(self) -> ArtifactStore: ...

    def blobs(self) -> list[str]:
        """Digests of everything visible."""

    def leftovers(self) -> list[str]:
        """Traces of writers that did not finish."""

    def replace(self, digest: str, data: bytes) -> None:
        """Damage: other bytes under an existing digest."""


class LocalRoom:
    kind = "local"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = open_store(root)

    def reopen(self) -> ArtifactStore:
        return open_store(self.root)

    def path(self, digest: str) -> Path:
        value = digest.removeprefix("sha256:")
        return self.root / "blobs" / "sha256" / value[:2] / value[2:]

    def blobs(self) -> list[str]:
        folder = self.root / "blobs" / "sha256"
        return sorted(f"sha256:{p.parent.name}{p.name}" for p in folder.glob("*/*"))

    def leftovers(self) -> list[str]:
        return sorted(p.name for p in (self.root / "spool").iterdir())

    def replace(self, digest: str, data: bytes) -> None:
        path = self.path(digest)
        path.chmod(0o644)
        path.write_bytes(data)


@dataclass
class S3Server:
    """moto on loopback, and buckets on it."""

    endpoint: str
    client: Any
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def bucket(self) -> str:
        name = f"bucket-{next(self.numbers)}"
        self.client.create_bucket(Bucket=name)
        return name


class S3Room:
    kind = "s3"

    def __init__(self, server: S3Server) -> None:
        self.server = server
        self.bucket = server.bucket()
        self.prefix = "team/artifacts"
        self.url = f"s3://{self.bucket}/{self.prefix}"
        self.store = self.reopen()

    def reopen(self) -> ArtifactStore:
        return open_store(self.url, s3_endpoint=self.server.endpoint)

    def key(self, digest: str) -> str:
        value = digest.removeprefix("sha256:")
        return f"{self.prefix}/blobs/sha256/{value[:2]}/{value[2:]}"

    def blobs(self) -> list[str]:
        found = self.server.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return sorted("sha256:" + "".join(o["Key"].split("/")[-2:]) for o in found)

    def leftovers(self) -> list[str]:
        return [u["UploadId"] for u in self.server.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])]

    def replace(self, digest: str, data: bytes) -> None:
        self.server.client.put_object(Bucket=self.bucket, Key=self.key(digest), Body=data)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    boto3 = pytest.importorskip("boto3")
    import botocore.session
    from moto.server import ThreadedMotoServer

    with pytest.MonkeyPatch.context() as patch:
        # Every store opens a session of its own, which would parse S3's description (400 KB of JSON) anew: here the parsed files are shared.
        patch.setattr(botocore.session, "create_loader", functools.cache(botocore.session.create_loader))
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
            patch.delenv(name, raising=False)
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        try:
            yield S3Server(endpoint, boto3.client("s3", endpoint_url=endpoint))
        finally:
            server.stop()


@pytest.fixture(params=["local", "s3"])
def room(request: pytest.FixtureRequest, tmp_path: Path) -> Room:
    """A fresh store of each kind; moto starts only for tests that need it."""
    if request.param == "local":
        return LocalRoom(tmp_path / "store")
    return S3Room(request.getfixturevalue("s3_server"))


@pytest.fixture
def local_room(tmp_path: Path) -> LocalRoom:
    return LocalRoom(tmp_path / "store")


@pytest.fixture
def s3_room(s3_server: S3Server) -> S3Room:
    return S3Room(s3_server)


@pytest.fixture
def artifact_store(room: Room) -> ArtifactStore:
    """A fresh store of each kind, for tests that need no more than a caller has."""
    return room.store


def open_descriptors() -> int:
    """How many file descriptors this process holds (Linux)."""
    return len(list(Path("/proc/self/fd").iterdir()))


# ---- The API --------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def api(db: Database, store: ArtifactStore) -> Api:
    """The API over an empty catalogue, on each database, with a token that may do everything."""
    return Api(db, store)


@pytest.fixture
def elena(api: Api) -> Api:
    """The same with a public advisor whose first version is live."""
    public_elena(api.db, api.store)
    return api
