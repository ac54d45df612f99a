"""Record runs: what was asked of a stage, where it ran, how it ended. A failed run stays on record; it never makes a version."""

from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from registry import events
from registry.manifest import digest
from registry.models import Advisor, Run

MAX_ERROR = 4000  # characters of an error kept with its run


def start(session: Session, advisor: Advisor, kind: str, spec: dict[str, Any], *, actor: str) -> Run:
    """Record that a run begins."""
    run = Run(
        advisor_id=advisor.id, kind=kind, state="running", spec=spec, spec_digest=digest(spec), started_at=events.now(), created_by=actor
    )
    session.add(run)
    session.flush()
    return run


def record(
    session: Session,
    advisor: Advisor,
    kind: str,
    spec: dict[str, Any],
    *,
    actor: str,
    environment: dict[str, Any] | None = None,
    timings: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
) -> Run:
    """Record a run that took place elsewhere and is over, as its client tells it; what it does not tell is null."""
    moment = events.now()
    run = Run(
        advisor_id=advisor.id,
        kind=kind,
        state="succeeded",
        spec=spec,
        spec_digest=digest(spec),
        environment=environment,
        timings=timings,
        metrics=metrics,
        started_at=moment,
        finished_at=moment,
        created_by=actor,
    )
    session.add(run)
    session.flush()
    return run


def end_dead(session: Session, spec: dict[str, Any]) -> None:
    """Record as failed what still counts as running for this spec; the caller knows that no other process works on it."""
    words = "the process ended without a word: killed, or the machine stopped"
    dead = update(Run).where(Run.spec_digest == digest(spec), Run.state == "running")
    session.execute(dead.values(state="failed", error=words, finished_at=events.now()))


def succeed(session: Session, run_id: int, *, environment: dict[str, Any], timings: dict[str, Any], metrics: dict[str, Any]) -> Run:
    """Record how a run went."""
    run = session.get_one(Run, run_id)
    run.state, run.error, run.finished_at = "succeeded", None, events.now()
    run.environment, run.timings, run.metrics = environment, timings, metrics
    session.flush()
    return run


def fail(session: Session, run_id: int, error: str) -> None:
    """Record why a run ended without a result."""
    run = session.get_one(Run, run_id)
    run.state, run.error, run.finished_at = "failed", error[:MAX_ERROR], events.now()
    session.flush()


def of_kind(session: Session, kind: str, *, actor: str) -> list[Run]:
    """The runs of a kind that an actor started, the newest first."""
    return list(session.scalars(select(Run).where(Run.kind == kind, Run.created_by == actor).order_by(Run.id.desc())))


def succeeded(session: Session, kind: str, *, limit: int = 200) -> list[Run]:
    """The runs of a kind that went well, of all advisors, the newest first."""
    return list(session.scalars(select(Run).where(Run.kind == kind, Run.state == "succeeded").order_by(Run.id.desc()).limit(limit)))
