"""Sources: the public Source Card of an advisor, and one source as it is recorded.

The card needs no token where the advisor is public; a token with read shows private ones too. What the card says is decided in lineage/card.py.
"""

import json
from typing import Annotated

from fastapi import Path, Query, Request, Response
from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import Session
from starlette.datastructures import Headers

from lineage import card
from lineage.card import MAX_NUMBER, MAX_PAGE, PAGE, Card, Wanted
from registry import models, sources
from registry.api import schemas
from registry.api.cards import EXAMPLE, SourceCard
from registry.api.deps import Actor, Inside, Slug, permission
from registry.api.routes import problems, router
from registry.errors import NotFound

routes = router("sources")
_DOCUMENTS = 50  # shown with a source; a page that was read a thousand times is still one page


@routes.get(
    "/advisors/{slug}/sources",
    summary="The Source Card",
    response_class=Response,
    responses={
        200: {"description": "The card.", "model": SourceCard, "content": {"application/json": {"example": EXAMPLE}}},
        304: {"description": "The client has this card."},
        **problems(401, 404, 410),
    },
)
@routes.head("/advisors/{slug}/sources", name="head_source_card", include_in_schema=False)
def source_card(
    slug: Slug,
    request: Request,
    inside: Inside,
    actor: Annotated[Actor, permission("public")],
    version: Annotated[int | None, Query(description="A version's number, for the record of that one.", ge=1, le=MAX_NUMBER)] = None,
    alias: Annotated[str | None, Query(description="Another alias than live.", max_length=100)] = None,
    group: Annotated[str | None, Query(description="One group of sources alone.", max_length=40)] = None,
    cursor: Annotated[str | None, Query(description="Where the page begins; take it from a group's `next`.", max_length=4000)] = None,
    limit: Annotated[int, Query(description="How many sources a group shows.", ge=1, le=MAX_PAGE)] = PAGE,
) -> Response:
    """What the adapter that is live was trained on, every number counted from the catalogue. No token is needed for a public advisor."""
    wanted = Wanted(version=version, alias=alias, group=group, cursor=cursor, limit=limit)
    with inside.db.read() as session:
        built = card.build(session, slug, wanted, may_see=actor.may_read)
    return answer(built, request.headers)


def answer(built: Card, headers: Headers) -> Response:
    """The card, or 304 where the client has it. A cache may keep it and must ask before each use."""
    kept = {"etag": built.etag, "cache-control": f"{'public' if built.public else 'private'}, no-cache"}
    if matches(headers.get("if-none-match"), built.etag):
        return Response(status_code=304, headers=kept)
    body = json.dumps(built.body, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(body, media_type="application/json", headers=kept)


def matches(if_none_match: str | None, etag: str) -> bool:
    """Whether If-None-Match names this tag; weakly compared, as RFC 9110 asks for it."""
    if if_none_match is None or len(if_none_match) > 2000:
        return False
    if if_none_match.strip() == "*":
        return True
    opaque = etag.removeprefix("W/")
    return any(tag.strip().removeprefix("W/") == opaque for tag in if_none_match.split(","))


@routes.get("/sources/{id}", summary="Show a source", responses=problems(401, 403, 404))
def show_source(
    id: Annotated[str, Path(description="A source's id.", max_length=40, examples=["src_12"])],  # noqa: A002 - the address names it so
    inside: Inside,
    actor: Annotated[Actor, permission("read", narrowed=True)],
) -> schemas.Source:
    """A source with its citation, its checks and what was read of it. A token bound to one advisor sees the sources of that advisor's pairs."""
    with inside.db.read() as session:
        source = sources.get(session, id) if id.startswith("src_") else None
        if source is None or not _visible(session, source, actor):
            raise NotFound(f"No source is known as {id!a} here.", hint="A source's id looks like src_12; the Source Card gives it.")
        documents = [models.Document.source_id == source.id]
        if actor.advisor_id is not None:  # what another advisor has read of the same source is that advisor's own affair
            documents.append(_read_by(actor.advisor_id))
        total = session.scalar(select(func.count()).select_from(models.Document).where(*documents)) or 0
        query = select(models.Document).where(*documents).order_by(models.Document.id).limit(_DOCUMENTS)
        return schemas.Source.of(source, list(session.scalars(query)), total)


def _visible(session: Session, source: models.Source, actor: Actor) -> bool:
    if actor.advisor_id is None:
        return True
    mine = select(models.Document.id).where(models.Document.source_id == source.id, _read_by(actor.advisor_id)).limit(1)
    return session.scalar(mine) is not None


def _read_by(advisor_id: int) -> ColumnElement[bool]:
    """Whether a pair of the advisor rests on a document."""
    return (
        exists()
        .where(models.ExampleSource.document_id == models.Document.id)
        .where(models.DatasetExample.example_id == models.ExampleSource.example_id)
        .where(models.Dataset.id == models.DatasetExample.dataset_id, models.Dataset.advisor_id == advisor_id)
    )
