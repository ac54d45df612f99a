"""Advisors: their names, publicity and end."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated

from fastapi import Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from registry import advisors, models, personas
from registry.api import schemas
from registry.api.deps import Actor, Cursor, Inside, Limit, Slug, advisor_for, permission
from registry.api.paging import DEFAULT, after_text, next_link
from registry.api.routes import problems, router

routes = router("advisors")


@routes.get("/advisors", summary="List advisors", responses=problems(401, 403))
def list_advisors(
    inside: Inside, actor: Annotated[Actor, permission("read", narrowed=True)], limit: Limit = DEFAULT, cursor: Cursor = None
) -> schemas.Page[schemas.Advisor]:
    """Advisors by slug, private and retired ones too, each with its other names and where its aliases point."""
    with inside.db.read() as session:
        rows = advisors.page(session, after=after_text(cursor), limit=limit + 1, only=actor.advisor_id)
        shown = _views(session, rows[:limit])
    return schemas.Page(items=shown, next=next_link("/advisors", limit, rows[limit - 1].slug if len(rows) > limit else None))


@routes.post(
    "/advisors",
    summary="Add an advisor",
    status_code=201,
    responses={200: {"model": schemas.Advisor, "description": "It was there already, just so."}, **problems(401, 403, 409)},
)
def add_advisor(
    body: schemas.AdvisorIn, inside: Inside, actor: Annotated[Actor, permission("write")], response: Response
) -> schemas.Advisor:
    """Create an advisor with its first persona. The same request again returns what exists."""
    with inside.db.transaction() as session:
        advisor = advisors.find(session, body.slug)
        if advisor is not None and _is_same(session, advisor, body):
            response.status_code = 200
        else:
            advisor = advisors.add(
                session,
                body.slug,
                body.prompt,
                actor=actor.name,
                name=body.name,
                role=body.role,
                public=body.public,
                aliases=tuple(body.names),
            )
        return _views(session, [advisor])[0]


def _is_same(session: Session, advisor: models.Advisor, body: schemas.AdvisorIn) -> bool:
    """Whether a repeated request asks for the advisor that is there."""
    return (
        advisor.slug == body.slug
        and (body.name is None or advisor.name == body.name)
        and (advisor.role or None) == (body.role or None)
        and advisor.public == body.public
        and set(body.names) - {body.slug} <= set(advisors.names_of(session, advisor))
        and personas.current(session, advisor).text == personas.check_prompt(body.prompt)
    )


@routes.get("/advisors/{slug}", summary="Show an advisor", responses=problems(401, 403, 404))
def show_advisor(slug: Slug, inside: Inside, actor: Annotated[Actor, permission("read")]) -> schemas.Advisor:
    """One advisor, by its slug or any other name."""
    with inside.db.read() as session:
        return _views(session, [advisor_for(session, actor, slug)])[0]


@routes.patch("/advisors/{slug}", summary="Change an advisor", responses=problems(401, 403, 404, 410))
def change_advisor(
    slug: Slug, body: schemas.AdvisorChange, inside: Inside, actor: Annotated[Actor, permission("write")]
) -> schemas.Advisor:
    """Change the name, the role, or whether the Source Card is public; what is left out stays."""
    with inside.db.transaction() as session:
        advisor = advisor_for(session, actor, slug, lock=True, active=True)
        advisors.change(session, advisor, actor=actor.name, name=body.name, role=body.role, public=body.public)
        return _views(session, [advisor])[0]


@routes.post("/advisors/{slug}/names", summary="Give an advisor another name", responses=problems(401, 403, 404, 409, 410))
def name_advisor(slug: Slug, body: schemas.NameIn, inside: Inside, actor: Annotated[Actor, permission("write")]) -> schemas.Advisor:
    """Let the advisor answer to one more name; one that it has already changes nothing."""
    with inside.db.transaction() as session:
        advisor = advisor_for(session, actor, slug, lock=True, active=True)
        taken = advisors.find(session, body.name)
        if taken is None or taken.id != advisor.id:
            advisors.add_alias(session, advisor, body.name, actor=actor.name)
        return _views(session, [advisor])[0]


@routes.post("/advisors/{slug}/retire", summary="Retire an advisor", responses=problems(401, 403, 404))
def retire_advisor(slug: Slug, body: schemas.Reason, inside: Inside, actor: Annotated[Actor, permission("admin")]) -> schemas.Advisor:
    """Take an advisor out of service for good. Its versions and history stay readable; retiring twice changes nothing."""
    with inside.db.transaction() as session:
        advisor = advisor_for(session, actor, slug, lock=True)
        advisors.retire(session, advisor, actor=actor.name, reason=body.reason)
        return _views(session, [advisor])[0]


def _views(session: Session, rows: Sequence[models.Advisor]) -> list[schemas.Advisor]:
    """Advisors with their names and aliases: two statements, however many there are."""
    ids = [row.id for row in rows]
    names: dict[int, list[str]] = defaultdict(list)
    for advisor_id, name in session.execute(
        select(models.AdvisorName.advisor_id, models.AdvisorName.name).where(models.AdvisorName.advisor_id.in_(ids))
    ):
        names[advisor_id].append(name)
    pointers: dict[int, dict[str, int | None]] = defaultdict(dict)
    query = (
        select(models.Alias.advisor_id, models.Alias.name, models.AdapterVersion.number)
        .outerjoin(models.AdapterVersion, models.AdapterVersion.id == models.Alias.version_id)
        .where(models.Alias.advisor_id.in_(ids))
    )
    for advisor_id, alias, number in session.execute(query):
        pointers[advisor_id][alias] = number
    return [schemas.Advisor.of(row, sorted(n for n in names[row.id] if n != row.slug), pointers[row.id]) for row in rows]
