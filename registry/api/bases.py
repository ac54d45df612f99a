"""Base models: what adapters are trained on. One row per repository and revision."""

from typing import Annotated

from fastapi import Response
from sqlalchemy import select

from registry import bases, models
from registry.api import schemas
from registry.api.deps import Actor, Cursor, Inside, Limit, permission
from registry.api.paging import DEFAULT, after_number, next_link
from registry.api.routes import problems, router
from registry.errors import Invalid
from registry.refs import check_digest

routes = router("bases")


@routes.get("/bases", summary="List base models", responses=problems(401, 403))
def list_bases(
    inside: Inside, _actor: Annotated[Actor, permission("read", narrowed=True)], limit: Limit = DEFAULT, cursor: Cursor = None
) -> schemas.Page[schemas.Base]:
    """Base models in the order of their registration. They belong to no advisor, so every token with read sees them."""
    query = select(models.BaseModel).where(models.BaseModel.id > after_number(cursor)).order_by(models.BaseModel.id).limit(limit + 1)
    with inside.db.read() as session:
        rows = session.scalars(query).all()
    link = next_link("/bases", limit, rows[limit - 1].id if len(rows) > limit else None)
    return schemas.Page(items=[schemas.Base.of(row) for row in rows[:limit]], next=link)


@routes.post(
    "/bases",
    summary="Register a base model",
    status_code=201,
    responses={
        200: {"model": schemas.Base, "description": "It was registered already; what was recorded then stays."},
        **problems(401, 403),
    },
)
def add_base(body: schemas.BaseIn, inside: Inside, _actor: Annotated[Actor, permission("write")], response: Response) -> schemas.Base:
    """Register a base at a revision. It is shared by all advisors, so a token bound to one may not."""
    if body.kind == "builtin":
        raise Invalid("A built-in base is made and registered by this program alone; kind is hub or local here.")
    weights = check_digest(body.weights_sha256) if body.weights_sha256 is not None else None
    facts = bases.BaseFacts(body.repo, body.revision, body.kind, weights, body.config, body.note)
    with inside.db.transaction() as session:
        response.status_code = 201 if bases.find(session, body.repo, body.revision) is None else 200
        return schemas.Base.of(bases.ensure(session, facts))
