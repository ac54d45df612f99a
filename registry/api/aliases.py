"""Aliases: who is live, and the only ways to change it. Every move compares before it swaps, and is kept in the history.

An alias's ETag is its generation. A move sent with If-Match, or with the version it expects, happens only from there; otherwise 412.
"""

import re
from typing import Annotated

from fastapi import Header, Path, Query, Response
from sqlalchemy import Select, select
from sqlalchemy.orm import Session, joinedload

from registry import models, promotion, versions
from registry.api import schemas
from registry.api.deps import Actor, Cursor, Inside, Limit, Slug, advisor_for, permission
from registry.api.paging import DEFAULT, after_number, after_text, next_link
from registry.api.routes import problems, router
from registry.api.versions import version_view
from registry.artifacts import Verifies
from registry.errors import NotFound, Stale
from registry.promotion import Expected
from registry.refs import check_alias

routes = router("aliases")
AliasName = Annotated[str, Path(description="The alias: live, candidate or another word.", max_length=100, examples=["live"])]
IfMatch = Annotated[str | None, Header(description="The alias's ETag as it was read.", max_length=200, examples=['"g3"'])]
_TAG = re.compile(r'"g([0-9]{1,9})"')


def etag(generation: int) -> str:
    """The entity tag of an alias."""
    return f'"g{generation}"'


def _expected(if_match: str | None, version: int | None) -> Expected | None:
    """What the caller believes. A tag that no alias of ours can have matches none."""
    if if_match is None:
        return Expected(version=version) if version is not None else None
    if if_match.strip() == "*":  # RFC 9110, 13.1.1: true where there is anything
        return Expected(version=version, exists=True)
    match = _TAG.fullmatch(if_match.strip())
    if match is None:
        raise Stale(f"The If-Match header {if_match[:60]!a} is no alias's ETag.", hint='An alias\'s ETag looks like "g3"; read it first.')
    return Expected(version=version, generation=int(match.group(1)))


@routes.get("/advisors/{slug}/aliases", summary="List an advisor's aliases", responses=problems(401, 403, 404))
def list_aliases(
    slug: Slug, inside: Inside, actor: Annotated[Actor, permission("read")], limit: Limit = DEFAULT, cursor: Cursor = None
) -> schemas.Page[schemas.Alias]:
    """Aliases by name, each with the version it points to."""
    with inside.db.read() as session:
        advisor = advisor_for(session, actor, slug)
        query = _aliases(advisor).where(models.Alias.name > after_text(cursor)).order_by(models.Alias.name).limit(limit + 1)
        rows = session.scalars(query).all()
    link = next_link(f"/advisors/{advisor.slug}/aliases", limit, rows[limit - 1].name if len(rows) > limit else None)
    return schemas.Page(items=[schemas.Alias.of(row, advisor.slug) for row in rows[:limit]], next=link)


def _aliases(advisor: models.Advisor) -> Select[models.Alias]:
    return select(models.Alias).where(models.Alias.advisor_id == advisor.id).options(joinedload(models.Alias.version))


@routes.get("/advisors/{slug}/aliases/{alias}", summary="Show an alias", responses=problems(401, 403, 404))
def show_alias(
    slug: Slug, alias: AliasName, inside: Inside, actor: Annotated[Actor, permission("read")], response: Response
) -> schemas.Alias:
    """One alias; its ETag is for If-Match."""
    check_alias(alias)
    with inside.db.read() as session:
        advisor = advisor_for(session, actor, slug)
        row = session.scalars(_aliases(advisor).where(models.Alias.name == alias)).one_or_none()
    if row is None:
        raise NotFound(f"'{advisor.slug}' has no alias '{alias}'.")
    response.headers["etag"] = etag(row.generation)
    return schemas.Alias.of(row, advisor.slug)


@routes.put("/advisors/{slug}/aliases/{alias}", summary="Promote a version", responses=problems(401, 403, 404, 409, 410, 412))
def promote(
    slug: Slug,
    alias: AliasName,
    body: schemas.MoveIn,
    inside: Inside,
    actor: Annotated[Actor, permission("promote")],
    response: Response,
    if_match: IfMatch = None,
) -> schemas.Moved:
    """Point an alias to a version whose files verify and whose sources stand. Refused with every reason otherwise."""
    expected = _expected(if_match, body.expected_version)

    def act(session: Session, store: Verifies, dry_run: bool) -> promotion.Move:
        advisor = advisor_for(session, actor, slug, lock=not dry_run, active=True)
        version = versions.resolve(session, f"{advisor.slug}@{body.version}")
        return promotion.promote(
            session, store, version, actor=actor.name, alias=alias, reason=body.reason, expected=expected, dry_run=dry_run
        )

    return _moved(promotion.move(inside.db, inside.store, act, dry_run=body.dry_run), response)


def _moved(move: promotion.Move, response: Response) -> schemas.Moved:
    if move.done:
        response.headers["etag"] = etag(move.generation)
    return schemas.Moved.of(move)


@routes.post("/advisors/{slug}/aliases/{alias}/rollback", summary="Roll back", responses=problems(401, 403, 404, 409, 410, 412))
def rollback(
    slug: Slug,
    alias: AliasName,
    body: schemas.BackIn,
    inside: Inside,
    actor: Annotated[Actor, permission("promote")],
    response: Response,
    if_match: IfMatch = None,
) -> schemas.Moved:
    """Point an alias back to a version that it pointed to before: the one named, or the nearest earlier one that may still be served."""
    expected = _expected(if_match, body.expected_version)

    def act(session: Session, store: Verifies, dry_run: bool) -> promotion.Move:
        advisor = advisor_for(session, actor, slug, lock=not dry_run, active=True)
        return promotion.rollback(
            session, store, advisor, actor=actor.name, reason=body.reason, to=body.to, alias=alias, expected=expected, dry_run=dry_run
        )

    return _moved(promotion.move(inside.db, inside.store, act, dry_run=body.dry_run), response)


@routes.post("/advisors/{slug}/aliases/{alias}/undo", summary="Undo the last move", responses=problems(401, 403, 404, 409, 410, 412))
def undo(
    slug: Slug,
    alias: AliasName,
    body: schemas.UndoIn,
    inside: Inside,
    actor: Annotated[Actor, permission("promote")],
    response: Response,
    if_match: IfMatch = None,
) -> schemas.Moved:
    """Take an alias's last move back, whatever it was."""
    expected = _expected(if_match, body.expected_version)

    def act(session: Session, store: Verifies, dry_run: bool) -> promotion.Move:
        advisor = advisor_for(session, actor, slug, lock=not dry_run, active=True)
        return promotion.undo(
            session, store, advisor, actor=actor.name, reason=body.reason, alias=alias, expected=expected, dry_run=dry_run
        )

    return _moved(promotion.move(inside.db, inside.store, act, dry_run=body.dry_run), response)


@routes.post("/advisors/{slug}/aliases/{alias}/clear", summary="Take an alias down", responses=problems(401, 403, 404, 409, 412))
def clear(
    slug: Slug,
    alias: AliasName,
    body: schemas.UndoIn,
    inside: Inside,
    actor: Annotated[Actor, permission("promote")],
    response: Response,
    if_match: IfMatch = None,
) -> schemas.Moved:
    """Let an alias point to nothing: nobody is served under it until the next promotion."""
    check_alias(alias)
    expected = _expected(if_match, body.expected_version)
    with inside.db.transaction() as session:
        advisor = advisor_for(session, actor, slug, lock=True)
        move = promotion.clear(session, advisor, actor=actor.name, reason=body.reason, alias=alias, expected=expected, dry_run=body.dry_run)
    return _moved(move, response)


@routes.get("/advisors/{slug}/aliases/{alias}/history", summary="Read an alias's history", responses=problems(401, 403, 404))
def alias_history(
    slug: Slug,
    alias: AliasName,
    inside: Inside,
    actor: Annotated[Actor, permission("read")],
    limit: Limit = DEFAULT,
    cursor: Cursor = None,
) -> schemas.Page[schemas.PastMove]:
    """Every move of an alias, the oldest first: who, when, from, to and why."""
    check_alias(alias)
    with inside.db.read() as session:
        advisor = advisor_for(session, actor, slug)
        rows = promotion.history_page(session, advisor, alias, after=after_number(cursor), limit=limit + 1)
    link = next_link(f"/advisors/{advisor.slug}/aliases/{alias}/history", limit, rows[limit - 1].seq if len(rows) > limit else None)
    return schemas.Page(items=[schemas.PastMove.of(row) for row in rows[:limit]], next=link)


@routes.get("/advisors/{slug}/resolve", summary="Who is live, or was", responses=problems(401, 403, 404))
def resolve(
    slug: Slug,
    inside: Inside,
    actor: Annotated[Actor, permission("read")],
    alias: Annotated[str, Query(description="The alias.", max_length=100, examples=["live"])] = "live",
    at: Annotated[
        str | None,
        Query(description="A time, or a date, which means the end of that day in UTC.", max_length=60, examples=["2026-03-03"]),
    ] = None,
) -> schemas.Resolved:
    """The version that an alias points to, or pointed to at a moment."""
    check_alias(alias)
    with inside.db.read() as session:
        advisor = advisor_for(session, actor, slug)
        version, words = _resolved(session, advisor, alias, at)
        return schemas.Resolved(alias=alias, at=words, version=version_view(session, advisor, version))


def _resolved(session: Session, advisor: models.Advisor, alias: str, at: str | None) -> tuple[models.AdapterVersion, str | None]:
    if at is None:
        return versions.resolve(session, f"{advisor.slug}@{alias}"), None
    moment, words = promotion.moment_of(at)
    return promotion.resolve_at(session, advisor, alias, moment), words
