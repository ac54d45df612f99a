"""Blobs in an S3 bucket: <prefix>/blobs/sha256/ab/<62 hex digits>.

Rules:
- An object gets its name last: by one conditional PUT, or by completing a multipart upload (8 MiB parts), both with `If-None-Match: *`, so that
  nothing is ever replaced. Before that the digest has been checked here, and S3 checks the sha256 of what it received.
- A blob of unknown digest is spooled first (in memory up to one part, then in an unnamed temporary file), because its key is its digest.
- Every failure of the network, the bucket or the credentials becomes a sentence. The original exception is dropped on purpose: botocore's may
  quote headers with a key id or a session token in them.

S3 keeps the parts of an upload whose process was killed, invisible but paid for: give the bucket a lifecycle rule that aborts incomplete
multipart uploads after a day. The presigned URL of temporary credentials ends when they end, if that is sooner.
boto3 is imported when a store is opened: it costs 0.3 s, and only the extra [s3] installs it.
"""

import base64
import contextlib
import errno
import hashlib
import importlib.util
import re
import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self
from urllib.parse import urlsplit

from registry.artifacts import (
    CHUNK,
    PRESIGN_SECONDS,
    ArtifactStore,
    Blob,
    BlobReader,
    BlobWriter,
    CheckOnly,
    ServeAs,
    Sink,
    require_same_size,
)
from registry.errors import Conflict, DigestMismatch, Invalid, NotFound, RegistryError, TooLarge, Unavailable
from registry.refs import check_digest

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

PART = 8 * 1024 * 1024  # bytes; S3 wants at least 5 MiB, and a writer holds one part in memory
MAX_PARTS = 10_000  # S3's limit: 80 GiB with this part size

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()/-]{0,512}")

_BAD_CREDENTIALS = frozenset(
    {"AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired", "401"}
)
_WRONG_REGION = frozenset({"PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"})
_MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
_EXISTS = frozenset({"PreconditionFailed", "412"})
_RACE = frozenset({"ConditionalRequestConflict", "409", "OperationAborted"})
_CORRUPTED = frozenset({"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"})


class S3Store(ArtifactStore):
    """The store in a bucket of AWS or of an S3-compatible server that knows conditional writes."""

    def __init__(self, url: str, *, endpoint: str | None = None, region: str | None = None) -> None:
        """`url` is s3://bucket/prefix. Raises Invalid for a malformed one, a malformed endpoint, or when boto3 is not installed."""
        self._bucket, prefix = _parse(url)
        self._root = f"{prefix}/blobs/sha256/" if prefix else "blobs/sha256/"
        self._location = f"s3://{self._bucket}/{prefix}".rstrip("/")
        self._client = _connect(_check_endpoint(endpoint), region)

    @property
    def location(self) -> str:
        """s3://bucket/prefix."""
        return self._location

    def writer(self, expected: str | None = None, limit: int | None = None) -> BlobWriter:
        """See ArtifactStore."""
        return BlobWriter(self._sink(expected), expected, limit)

    def stat(self, digest: str) -> Blob | None:
        """See ArtifactStore."""
        key = self._key(digest)
        try:
            with self._speaking():
                return Blob(digest, self._client.head_object(Bucket=self._bucket, Key=key)["ContentLength"])
        except NotFound:
            return None

    def open_range(self, digest: str, start: int = 0, length: int | None = None) -> BlobReader:
        """See ArtifactStore."""
        key = self._key(digest)
        if start < 0:
            raise Invalid(f"A range must start inside the blob; found {start}.")
        with self._speaking():
            if start == 0 and length is None:
                whole = self._client.get_object(Bucket=self._bucket, Key=key)
                return _S3Reader(self, whole["Body"], whole["ContentLength"])
            if length is not None and length <= 0:
                return _S3Reader(self, _Empty(), self._client.head_object(Bucket=self._bucket, Key=key)["ContentLength"])
            wanted = f"bytes={start}-" if length is None else f"bytes={start}-{start + length - 1}"
            part = self._client.get_object(Bucket=self._bucket, Key=key, Range=wanted)
        return _S3Reader(self, part["Body"], int(part["ContentRange"].rpartition("/")[2]))

    def presign(self, digest: str, serve_as: ServeAs, lifetime: int = PRESIGN_SECONDS) -> str | None:
        """See ArtifactStore."""
        key = self._key(digest)
        with self._speaking():
            return self._client.generate_presigned_url(
                "get_object",
                Params={
                    "Bucket": self._bucket,
                    "Key": key,
                    "ResponseContentType": serve_as.media_type,
                    "ResponseContentDisposition": serve_as.disposition,
                    "ResponseCacheControl": serve_as.cache_control,
                },
                ExpiresIn=lifetime,
            )

    def _key(self, digest: str) -> str:
        value = check_digest(digest).removeprefix("sha256:")
        return f"{self._root}{value[:2]}/{value[2:]}"

    def _sink(self, expected: str | None) -> Sink:
        if expected is None:
            return _TemporaryFile(self)
        stored = self.stat(expected)
        return CheckOnly(stored) if stored else _Upload(self, self._client, self._bucket, self._key(expected))

    def _speaking(self) -> contextlib.AbstractContextManager[None]:
        return _speaking(self._location)


class _Upload:
    """The sink for a known digest: one PUT for a blob of up to one part, else a multipart upload."""

    def __init__(self, store: S3Store, client: "S3Client", bucket: str, key: str) -> None:
        self._store = store
        self._client = client
        self._bucket = bucket
        self._key = key
        self._buffer = bytearray()
        self._upload: str | None = None
        self._parts: list[CompletedPartTypeDef] = []

    def append(self, chunk: memoryview) -> None:
        while chunk:
            if len(self._buffer) == PART:
                self._send_part()
            room = PART - len(self._buffer)
            self._buffer += chunk[:room]
            chunk = chunk[room:]

    def finish(self, blob: Blob) -> None:
        try:
            with _speaking(self._store.location):
                self._put() if self._upload is None else self._complete()
        except Conflict:  # another writer was first
            self.discard()
            stored = self._store.stat(blob.digest)
            if stored is None:
                raise Unavailable(
                    f"Another upload of {blob.digest} to {self._store.location} is under way.", hint="Try again in a moment."
                ) from None
            require_same_size(stored, blob)

    def discard(self) -> None:
        self._buffer = bytearray()
        if self._upload is not None:
            # Best effort: the error that led here is the one to report, and the bucket's lifecycle rule removes what stays.
            with contextlib.suppress(RegistryError), _speaking(self._store.location):
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=self._key, UploadId=self._upload)
            self._upload = None

    def _send_part(self) -> None:
        if len(self._parts) == MAX_PARTS:
            raise TooLarge(f"A file on S3 may have at most {MAX_PARTS * PART} bytes; this one has more. Nothing was stored.")
        checksum = _checksum(self._buffer)
        with _speaking(self._store.location):
            if self._upload is None:
                self._upload = self._client.create_multipart_upload(
                    Bucket=self._bucket, Key=self._key, ChecksumAlgorithm="SHA256", ContentType="application/octet-stream"
                )["UploadId"]
            number = len(self._parts) + 1
            sent = self._client.upload_part(
                Bucket=self._bucket,
                Key=self._key,
                UploadId=self._upload,
                PartNumber=number,
                Body=bytes(self._buffer),
                ChecksumAlgorithm="SHA256",
                ChecksumSHA256=checksum,
            )
        self._parts.append({"PartNumber": number, "ETag": sent["ETag"], "ChecksumSHA256": checksum})
        self._buffer = bytearray()

    def _put(self) -> None:
        self._client.put_object(
            Bucket=self._bucket,
            Key=self._key,
            Body=bytes(self._buffer),
            ChecksumAlgorithm="SHA256",
            ChecksumSHA256=_checksum(self._buffer),
            IfNoneMatch="*",
            ContentType="application/octet-stream",
        )

    def _complete(self) -> None:
        self._send_part()
        self._client.complete_multipart_upload(
            Bucket=self._bucket, Key=self._key, UploadId=self._upload or "", MultipartUpload={"Parts": self._parts}, IfNoneMatch="*"
        )
        self._upload = None


class _TemporaryFile:
    """The sink for an unknown digest: bytes wait here until their name is known. The file has no name that a killed process could leave behind."""

    def __init__(self, store: S3Store) -> None:
        self._store = store
        self._file = tempfile.SpooledTemporaryFile(max_size=PART)  # noqa: SIM115 - closed by finish or discard

    def append(self, chunk: memoryview) -> None:
        with self._speaking():
            self._file.write(chunk)

    def finish(self, blob: Blob) -> None:
        with self._store.writer(blob.digest) as writer:
            with self._speaking():
                self._file.seek(0)
            while chunk := self._file.read(CHUNK):
                writer.write(chunk)
            writer.commit()
        self.discard()

    def discard(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()

    @contextlib.contextmanager
    def _speaking(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = (
                "Free some disk space, or point TMPDIR at a larger disk."
                if error.errno == errno.ENOSPC
                else "Point TMPDIR at a folder that can be written."
            )
            raise Unavailable(
                f"The temporary folder {tempfile.gettempdir()} cannot take the upload: {error.strerror}. Nothing was stored.", hint=hint
            ) from error


class _Body(Protocol):
    """What is used of botocore's StreamingBody."""

    def read(self, amt: int) -> bytes: ...

    def close(self) -> None: ...


class _Empty:
    """The body of an empty range, which S3 has no request for."""

    def read(self, amt: int) -> bytes:  # noqa: ARG002
        return b""

    def close(self) -> None:
        pass


class _S3Reader:
    """The body of one GET."""

    def __init__(self, store: S3Store, body: _Body, size: int) -> None:
        self._store = store
        self._body = body
        self._size = size

    @property
    def size(self) -> int:
        return self._size

    @property
    def fd(self) -> None:
        return None

    def read(self, size: int) -> bytes:
        with _speaking(self._store.location):
            return self._body.read(size)

    def close(self) -> None:
        self._body.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _checksum(data: bytearray) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def _parse(url: str) -> tuple[str, str]:
    """Bucket and prefix of s3://bucket/prefix."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    prefix = prefix.strip("/")
    # The value itself is not repeated: s3://key:secret@bucket is a mistake people make.
    if not _BUCKET.fullmatch(bucket) or not _PREFIX.fullmatch(prefix) or "//" in prefix or {".", ".."} & set(prefix.split("/")):
        raise Invalid(
            "An S3 store is written s3://bucket/prefix, with a bucket of a-z, 0-9, '.' and '-' and a prefix of plain characters.",
            hint="Credentials do not belong in it: boto3 reads AWS_ACCESS_KEY_ID, ~/.aws or the instance role.",
        )
    return bucket, prefix


def _check_endpoint(endpoint: str | None) -> str | None:
    if endpoint is None:
        return None
    try:
        parts = urlsplit(endpoint)
        good = parts.scheme in {"http", "https"} and parts.hostname and parts.username is None and not parts.query and not parts.fragment
    except ValueError:
        good = False
    if not good:
        raise Invalid(
            "The S3 endpoint must be an http(s) URL without credentials, such as https://s3.example.org.", hint="Set REGISTRY_S3_ENDPOINT."
        )
    return endpoint


def _connect(endpoint: str | None, region: str | None) -> "S3Client":
    if importlib.util.find_spec("boto3") is None:
        raise Invalid("An s3:// artifact store needs boto3, which is not installed.", hint="Run: pip install 'adapter-registry[s3]'")
    import boto3
    from botocore.config import Config

    with _speaking("S3"):
        # A session of its own: the shared default one is not thread-safe, and keeps credentials that have changed since.
        return boto3.Session().client(
            "s3",
            endpoint_url=endpoint,
            region_name=region,
            config=Config(
                signature_version="s3v4",
                connect_timeout=5,
                read_timeout=60,
                retries={"mode": "standard", "max_attempts": 3},
                # Each request carries the sha256 we computed; botocore's own CRC32 would come as a trailer that many S3-compatible servers refuse.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                # Other servers than AWS seldom have a DNS name per bucket.
                s3={"addressing_style": "path"} if endpoint else {},
            ),
        )


@contextlib.contextmanager
def _speaking(location: str) -> Iterator[None]:
    """Turn botocore's exceptions into ours. Raises NotFound for a missing object, Conflict for one that exists."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        raise _from_reply(str(error.response.get("Error", {}).get("Code", "")), location) from None
    except BotoCoreError as error:
        raise _from_client(type(error).__name__, location) from None
    except (OSError, ValueError) as error:  # ValueError: botocore's word for a malformed endpoint
        raise _from_client(type(error).__name__, location) from None


def _from_reply(code: str, location: str) -> RegistryError:
    """The error for an S3 error code."""
    if code in _MISSING:
        return NotFound("The file is not in the artifact store.")
    if code in _EXISTS or code in _RACE:
        return Conflict(f"The object exists in {location}.")
    if code == "NoSuchBucket":
        return Invalid(f"The bucket of {location} does not exist.", hint="Create it, or correct REGISTRY_ARTIFACTS.")
    if code in _BAD_CREDENTIALS:
        return Invalid(
            f"S3 refused the credentials for {location} ({code}).",
            hint="They need s3:GetObject and s3:PutObject on the prefix and s3:ListBucket on the bucket (without it a missing file looks refused); check that they have not expired.",
        )
    if code in _WRONG_REGION:
        return Invalid(f"The bucket of {location} is in another region ({code}).", hint="Set REGISTRY_S3_REGION to the bucket's region.")
    if code in _CORRUPTED:
        return DigestMismatch(
            f"S3 received other bytes than were sent to {location} ({code}). Nothing was stored.", hint="Send the file again."
        )
    if code in {"InvalidRange", "416"}:
        return Invalid("A range must start inside the blob.")
    if code == "NotImplemented":
        return Invalid(
            f"The server of {location} does not know conditional writes (If-None-Match).",
            hint="Use AWS S3, or a server that knows them, such as MinIO since 2024.",
        )
    return Unavailable(f"S3 answered {code or 'an error without a code'} for {location}. Nothing was changed.", hint="Try again later.")


def _from_client(name: str, location: str) -> RegistryError:
    """The error for a failure on our side of the network, by the name of the exception."""
    if "Credential" in name or name in {"ProfileNotFound", "TokenRetrievalError", "SSOTokenLoadError", "UnauthorizedSSOTokenError"}:
        return Invalid(
            f"No usable S3 credentials for {location} ({name}).",
            hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine a role.",
        )
    if name in {"NoRegionError", "InvalidRegionError"}:
        return Invalid(f"The region for {location} is missing or malformed.", hint="Set REGISTRY_S3_REGION.")
    if name in {"ParamValidationError", "InvalidEndpointConfigurationError", "InvalidS3AddressingStyleError", "ValueError"}:
        return Invalid(
            f"S3's client refuses the settings for {location} ({name}).",
            hint="Check REGISTRY_ARTIFACTS, REGISTRY_S3_ENDPOINT and the AWS configuration.",
        )
    return Unavailable(
        f"S3 does not answer for {location} ({name}). Nothing was changed.",
        hint="Check the network and REGISTRY_S3_ENDPOINT, then try again.",
    )
