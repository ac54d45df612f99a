"""Append-only history: numbered without gaps, each event's hash covering the one before it. Order is the number, never the time.

Tags are `subject:action` (alias:promoted, version:ready, source:withdrawn). Nothing here updates or deletes an event. A changed event breaks every
hash after it; a cut tail leaves a good chain, so `registry audit --export` writes the head to a file that is kept elsewhere.
"""

import datetime as dt
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from registry.manifest import canonical, digest
from registry.models import Advisor, ChainHead, Event

EVENT_FORMAT = "event/1"
GENESIS = "sha256:" + "0" * 64
_PAGE = 1000


def now() -> dt.datetime:
    """The present moment in UTC, to the microsecond."""
    return dt.datetime.now(dt.UTC)


@dataclass(frozen=True)
class Head:
    """The last event's number and hash; what an auditor keeps elsewhere."""

    seq: int
    hash: str


def append(session: Session, tag: str, actor: str, body: dict[str, Any], advisor: Advisor | None = None) -> Event:
    """Add one event at the end of the chain; it becomes visible when the caller commits. Three statements."""
    # The head row is the chain's lock: two writers would otherwise both extend the same event.
    last = head(session, lock=True)
    at = now()
    event = Event(
        seq=last.seq + 1,
        at=at,
        actor=actor,
        tag=tag,
        advisor_id=advisor.id if advisor else None,
        body=canonical(body).decode(),
        previous=last.hash,
        hash=_hash(last.seq + 1, at, actor, tag, advisor.slug if advisor else None, body, last.hash),
    )
    session.add(event)
    session.flush()
    session.execute(update(ChainHead).where(ChainHead.id == 1).values(seq=event.seq, hash=event.hash))
    return event


def _hash(seq: int, at: dt.datetime, actor: str, tag: str, advisor: str | None, body: dict[str, Any], previous: str) -> str:
    moment = at.isoformat(timespec="microseconds")
    return digest(
        {
            "format": EVENT_FORMAT,
            "seq": seq,
            "at": moment,
            "actor": actor,
            "tag": tag,
            "advisor": advisor,
            "body": body,
            "previous": previous,
        }
    )


def body_of(event: Event) -> dict[str, Any]:
    """The event's facts as a JSON object."""
    value: dict[str, Any] = json.loads(event.body)
    return value


def head(session: Session, *, lock: bool = False) -> Head:
    """The chain's end as the database states it. `lock` makes every other writer of the catalogue wait until the transaction ends (Postgres)."""
    query = select(ChainHead.seq, ChainHead.hash).where(ChainHead.id == 1)
    row = session.execute(query.with_for_update() if lock else query).one()
    return Head(row.seq, row.hash)


def audit(session: Session, expected: Head | None = None) -> list[str]:
    """Re-compute the whole chain and compare its end with the stated head and with an `expected` one kept elsewhere; every fault is a sentence."""
    faults: list[str] = []
    previous, number = GENESIS, 0
    seen: dict[int, str] = {0: GENESIS}
    for event, slug in _in_order(session):
        number += 1
        if event.seq != number:
            faults.append(f"event {number} is missing: the next one is numbered {event.seq}")
            number = event.seq
        faults += _faults_of(event, slug, previous)
        previous = event.hash
        if expected and event.seq == expected.seq:
            seen[event.seq] = event.hash
    stated = head(session)
    if (stated.seq, stated.hash) != (number, previous):
        faults.append(f"the chain ends at event {number} ({previous}), but its head says {stated.seq} ({stated.hash})")
    if expected is not None:
        if expected.seq > number:
            faults.append(f"the tail was cut: the kept head is event {expected.seq}, the chain ends at {number}")
        elif seen.get(expected.seq) != expected.hash:
            faults.append(f"event {expected.seq} is not the one of the kept head: expected {expected.hash}, found {seen.get(expected.seq)}")
    return faults


def _faults_of(event: Event, slug: str | None, previous: str) -> list[str]:
    faults = []
    if event.previous != previous:
        faults.append(f"event {event.seq} does not follow the one before it")
    try:
        body = json.loads(event.body)
        found = _hash(event.seq, event.at, event.actor, event.tag, slug, body, event.previous)
    except ValueError:
        return [*faults, f"event {event.seq} holds no readable JSON"]
    if found != event.hash:
        faults.append(f"event {event.seq} ({event.tag}) was changed: its content gives {found}, its hash says {event.hash}")
    return faults


def _in_order(session: Session) -> Iterator[tuple[Event, str | None]]:
    after = 0
    while True:
        rows = session.execute(
            select(Event, Advisor.slug).outerjoin(Advisor).where(Event.seq > after).order_by(Event.seq).limit(_PAGE)
        ).all()
        for event, slug in rows:
            yield event, slug
            after = event.seq
        session.expunge_all()
        if len(rows) < _PAGE:
            return


def page(session: Session, *, after: int = 0, limit: int = 200, advisor_id: int | None = None) -> list[tuple[Event, str | None]]:
    """Events in order with their advisor's slug, from the one after number `after`; `advisor_id` narrows them to one advisor. One statement."""
    query = select(Event, Advisor.slug).outerjoin(Advisor).where(Event.seq > after).order_by(Event.seq).limit(limit)
    rows = session.execute(query if advisor_id is None else query.where(Event.advisor_id == advisor_id))
    return [(event, slug) for event, slug in rows]


def of_advisor(session: Session, advisor: Advisor, *, after: int = 0, limit: int = 200, tag_prefix: str = "") -> list[Event]:
    """An advisor's events in order, from the one after number `after`."""
    query = select(Event).where(Event.advisor_id == advisor.id, Event.seq > after).order_by(Event.seq).limit(limit)
    if tag_prefix:
        query = query.where(Event.tag.startswith(tag_prefix))
    return list(session.scalars(query))
