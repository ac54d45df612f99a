"""The history: every event in order, and the audit of its hash chain."""

from typing import Annotated

from fastapi import Query

from registry import events
from registry.api import schemas
from registry.api.deps import Actor, Inside, Limit, permission
from registry.api.routes import problems, router

routes = router("history")


@routes.get("/events", summary="Read the history", responses=problems(401, 403))
def list_events(
    inside: Inside,
    actor: Annotated[Actor, permission("read", narrowed=True)],
    after: Annotated[int, Query(description="The number of the last event that is known; 0 for the beginning.", ge=0, le=2**53)] = 0,
    limit: Limit = 200,
) -> schemas.Page[schemas.Event]:
    """Events in order. Numbers have no gaps and never change, so a reader that keeps the last one misses none. A bound token sees its advisor's."""
    with inside.db.read() as session:
        rows = events.page(session, after=after, limit=limit + 1, advisor_id=actor.advisor_id)
    shown = [schemas.Event.of(event, slug) for event, slug in rows[:limit]]
    return schemas.Page(items=shown, next=f"/events?after={shown[-1].seq}&limit={limit}" if len(rows) > limit else None)


@routes.get("/audit", summary="Audit the history", responses=problems(401, 403))
def audit(inside: Inside, _actor: Annotated[Actor, permission("admin")]) -> schemas.Audit:
    """Compute the whole chain again and tell every fault; keep the head elsewhere, so that a cut tail shows."""
    with inside.db.read() as session:
        faults = events.audit(session)
        head = events.head(session)
    return schemas.Audit(holds=not faults, faults=faults, seq=head.seq, hash=head.hash)
