"""Tokens: made, listed and ended by holders of the scope admin."""

import datetime as dt
from typing import Annotated

from fastapi import Path

from registry import advisors, tokens
from registry.api import schemas
from registry.api.deps import Actor, Cursor, Inside, Limit, permission
from registry.api.paging import DEFAULT, after_number, next_link
from registry.api.routes import problems, router

routes = router("tokens")


@routes.get("/tokens", summary="List tokens", responses=problems(401, 403))
def list_tokens(
    inside: Inside, _actor: Annotated[Actor, permission("admin")], limit: Limit = DEFAULT, cursor: Cursor = None
) -> schemas.Page[schemas.Token]:
    """Tokens, the oldest first; their secrets are stored nowhere."""
    with inside.db.read() as session:
        rows = tokens.page(session, after=after_number(cursor), limit=limit + 1)
    link = next_link("/tokens", limit, rows[limit - 1].id if len(rows) > limit else None)
    return schemas.Page(items=[schemas.Token.of(row) for row in rows[:limit]], next=link)


@routes.post("/tokens", summary="Make a token", status_code=201, responses=problems(401, 403, 404))
def create_token(body: schemas.TokenIn, inside: Inside, actor: Annotated[Actor, permission("admin")]) -> schemas.TokenCreated:
    """Make a token and show its secret, once."""
    with inside.db.transaction() as session:
        advisor = advisors.get_active(session, body.advisor) if body.advisor is not None else None
        lifetime = dt.timedelta(days=body.days) if body.days is not None else None
        made = tokens.create(session, body.name, tuple(body.scopes), actor=actor.name, advisor=advisor, lifetime=lifetime)
        return schemas.TokenCreated(token=schemas.Token.of(made.token), secret=made.secret)


@routes.delete("/tokens/{number}", summary="Revoke a token", responses=problems(401, 403, 404))
def revoke_token(
    number: Annotated[int, Path(description="The token's id.", ge=1, le=2**53, examples=[3])],
    inside: Inside,
    actor: Annotated[Actor, permission("admin")],
) -> schemas.Token:
    """End a token at once; ending it twice changes nothing. The row stays, so the history keeps its meaning."""
    with inside.db.transaction() as session:
        return schemas.Token.of(tokens.revoke(session, number, actor=actor.name))
