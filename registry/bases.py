"""Register and fetch base models: one row per repository and revision."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry import events
from registry.errors import Invalid, NotFound
from registry.models import BaseModel
from registry.refs import clean_text

KINDS = ("builtin", "hub", "local")


@dataclass(frozen=True)
class BaseFacts:
    """What is known of a base. `revision` is 40 hex digits, or None where it is unknown: it is never invented."""

    repo: str
    revision: str | None
    kind: str
    weights_sha256: str | None = None
    config: dict[str, Any] | None = None
    note: str | None = None


def ensure(session: Session, facts: BaseFacts) -> BaseModel:
    """Find or create the base. Raises Invalid for a revision that is not 40 hex digits or a kind that is unknown."""
    if facts.kind not in KINDS:
        raise Invalid(f"A base is {', '.join(KINDS)}; found {facts.kind[:40]!a}.")
    if facts.revision is not None and (len(facts.revision) != 40 or any(c not in "0123456789abcdef" for c in facts.revision)):
        raise Invalid(
            f"A base's revision is 40 lower-case hex digits; found {facts.revision[:60]!a}.", hint="Give the commit, not a branch."
        )
    events.head(session, lock=True)  # two registrations of the same base would otherwise collide
    found = find(session, facts.repo, facts.revision)
    if found is not None:
        return found
    base = BaseModel(
        repo=clean_text(facts.repo, "A base's repository", limit=300),
        revision=facts.revision,
        kind=facts.kind,
        weights_sha256=facts.weights_sha256,
        config=facts.config,
        note=clean_text(facts.note, "A base's note", multiline=True) if facts.note else None,
        created_at=events.now(),
    )
    session.add(base)
    session.flush()
    return base


def find(session: Session, repo: str, revision: str | None) -> BaseModel | None:
    """The base with this repository and revision (None matches only an unknown revision)."""
    same = BaseModel.revision.is_(None) if revision is None else BaseModel.revision == revision
    return session.scalars(select(BaseModel).where(BaseModel.repo == repo, same)).first()


def get(session: Session, repo: str, revision: str | None) -> BaseModel:
    """Like `find`; NotFound where the base was never registered."""
    base = find(session, repo, revision)
    if base is None:
        raise NotFound(
            f"The base {repo}@{revision or 'unknown'} is not registered.", hint="Train with it once, or register it: POST /bases"
        )
    return base
