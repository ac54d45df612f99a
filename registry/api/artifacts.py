"""Files by the digest of their bytes.

Knowing a digest grants nothing: a file is given to a token that may read a version it belongs to, and to no other. A token bound to one advisor could
otherwise register a version of its own that names another advisor's digest, and read the file through it. So an upload by such a token is answered with
a receipt, and finishing a version needs the receipt of every file that the advisor does not have yet. A receipt is an HMAC over advisor and digest; its key
is the stored hash of the oldest unbound token, which a bound token's holder cannot know, so nothing more has to be stored.
"""

import hashlib
import hmac
from collections.abc import Iterable
from typing import Annotated

from anyio import to_thread
from fastapi import Path, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.requests import ClientDisconnect

from registry.api import schemas
from registry.api.deps import Actor, Inside, Room, permission
from registry.api.downloads import blob_response, receive_upload
from registry.api.routes import DOWNLOAD, problems, router
from registry.artifacts import Blob
from registry.errors import NotFound, TooLarge
from registry.models import AdapterVersion, Token, VersionFile
from registry.refs import check_digest

routes = router("artifacts")
MIB = 1024 * 1024
FileDigest = Annotated[str, Path(description="sha256:<64 hex digits> of the file's bytes.", max_length=100, examples=[schemas.DIGEST])]


@routes.put(
    "/artifacts/{digest}",
    summary="Upload a file",
    status_code=201,
    responses={200: {"model": schemas.Uploaded, "description": "The store had it already."}, **problems(401, 403, 413)},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}, "example": "(the bytes of the file)"}
            },
        }
    },
)
async def upload_artifact(
    digest: FileDigest,
    request: Request,
    inside: Inside,
    actor: Annotated[Actor, permission("write", narrowed=True)],
    response: Response,
) -> schemas.Uploaded:
    """Store a file. Its hash is computed while it streams in; bytes that do not have the digest are refused and leave nothing behind."""
    check_digest(digest)
    limit = inside.settings.max_upload_mib * MIB
    stated = request.headers.get("content-length", "")
    if stated.isascii() and stated.isdigit() and (len(stated) > 18 or int(stated) > limit):
        raise TooLarge(f"A file may have at most {limit} bytes here; this one has more. Nothing was stored.")
    known = await to_thread.run_sync(inside.store.stat, digest)
    try:
        blob = await receive_upload(request.stream(), inside.store, digest, limit)
    except ClientDisconnect:
        # Nobody reads this answer; it keeps a broken connection from being logged as our fault.
        raise TooLarge("The upload ended before its end. Nothing was stored.") from None
    response.status_code = 201 if known is None else 200
    return schemas.Uploaded(digest=blob.digest, size=blob.size, receipt=await to_thread.run_sync(_receipt_for, inside, actor, blob.digest))


@routes.get(
    "/artifacts/{digest}",
    summary="Download a file by its digest",
    response_class=Response,
    responses=DOWNLOAD,
)
@routes.head("/artifacts/{digest}", name="head_artifact", include_in_schema=False)
async def download_artifact(
    digest: FileDigest, request: Request, inside: Inside, actor: Annotated[Actor, permission("read", narrowed=True)]
) -> Response:
    """A file of a version that the token may read; its ETag is its digest, ranges and conditions are answered."""
    check_digest(digest)
    blob = await to_thread.run_sync(_readable, inside, actor, digest)
    return await blob_response(request, inside.store, blob, filename=digest.removeprefix("sha256:"))


def _readable(inside: Room, actor: Actor, digest: str) -> Blob:
    query = select(VersionFile.size).join(AdapterVersion).where(VersionFile.sha256 == digest, AdapterVersion.state != "pending").limit(1)
    if actor.advisor_id is not None:
        query = query.where(AdapterVersion.advisor_id == actor.advisor_id)
    with inside.db.read() as session:
        size = session.scalar(query)
    if size is None:
        raise NotFound(f"No version that this token may read holds a file {digest}.")
    return Blob(digest, size)


def _receipt_for(inside: Room, actor: Actor, digest: str) -> str | None:
    if actor.advisor_id is None:
        return None
    with inside.db.read() as session:
        return receipt(session, actor.advisor_id, digest)


def receipt(session: Session, advisor_id: int, digest: str) -> str | None:
    """Proof that these bytes were uploaded for this advisor; None where no unbound token ever existed, so that nothing can be proved."""
    key = session.scalar(select(Token.sha256).where(Token.advisor_id.is_(None)).order_by(Token.id).limit(1))
    if key is None:
        return None
    return hmac.new(key.encode(), f"upload/1 {advisor_id} {digest}".encode(), hashlib.sha256).hexdigest()


def unproved(session: Session, actor: Actor, digests: Iterable[str], receipts: dict[str, str]) -> list[str]:
    """The files that a bound token has neither read access to nor a receipt for, in order; none for an unbound token."""
    if actor.advisor_id is None:
        return []
    wanted = sorted(set(digests))
    own = set(
        session.scalars(
            select(VersionFile.sha256)
            .join(AdapterVersion)
            .where(VersionFile.sha256.in_(wanted), AdapterVersion.advisor_id == actor.advisor_id, AdapterVersion.state != "pending")
        )
    )
    left = [digest for digest in wanted if digest not in own]
    return [d for d in left if not _proves(receipt(session, actor.advisor_id, d), receipts.get(d, ""))]


def _proves(expected: str | None, shown: str) -> bool:
    return expected is not None and shown.isascii() and hmac.compare_digest(expected, shown)
