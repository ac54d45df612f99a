"""Personas: the versions of an advisor's system prompt."""

from typing import Annotated

from fastapi import Response
from sqlalchemy import func, select

from registry import models, personas
from registry.api import schemas
from registry.api.deps import Actor, Cursor, Inside, Limit, Slug, advisor_for, permission
from registry.api.paging import DEFAULT, after_number, next_link
from registry.api.routes import problems, router

routes = router("personas")


@routes.get("/advisors/{slug}/personas", summary="List an advisor's personas", responses=problems(401, 403, 404))
def list_personas(
    slug: Slug, inside: Inside, actor: Annotated[Actor, permission("read")], limit: Limit = DEFAULT, cursor: Cursor = None
) -> schemas.Page[schemas.Persona]:
    """Personas by number, the oldest first."""
    with inside.db.read() as session:
        advisor = advisor_for(session, actor, slug)
        rows = personas.page(session, advisor, after=min(after_number(cursor), 2**31 - 1), limit=limit + 1)
    link = next_link(f"/advisors/{advisor.slug}/personas", limit, rows[limit - 1].number if len(rows) > limit else None)
    return schemas.Page(items=[schemas.Persona.of(row) for row in rows[:limit]], next=link)


@routes.post(
    "/advisors/{slug}/personas",
    summary="Set an advisor's system prompt",
    status_code=201,
    responses={200: {"model": schemas.Persona, "description": "It is the present prompt already."}, **problems(401, 403, 404, 410)},
)
def set_persona(
    slug: Slug, body: schemas.PersonaIn, inside: Inside, actor: Annotated[Actor, permission("write")], response: Response
) -> schemas.Persona:
    """Make a text the present system prompt. It never enters training; a version records which one its data was written with."""
    with inside.db.transaction() as session:
        advisor = advisor_for(session, actor, slug, lock=True, active=True)
        before = session.scalar(select(func.max(models.Persona.id)).where(models.Persona.advisor_id == advisor.id))
        persona = personas.set_prompt(session, advisor, body.text, actor=actor.name)
        response.status_code = 200 if persona.id == before else 201
        return schemas.Persona.of(persona)
