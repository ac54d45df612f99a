"""Record runs: what was asked of a stage, where it ran, how it ended. A failed run stays on record; it never makes a version.

A run that ended is not changed any more; triggers of the catalogue refuse it (migration 0002). While a run goes on, its environment says who works on it.
"""

import platform
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry import events
from registry.errors import Conflict
from registry.manifest import digest
from registry.models import Advisor, Run

MAX_ERROR = 4000  # characters of an error kept with its run


def worker_of(home: Path, job: str | None = None) -> dict[str, Any]:
    """Who works on a run: this installation's folder on this machine, as a digest that tells neither, and the durable job."""
    return {"worker": digest({"machine": platform.node(), "home": str(home.resolve())}), "job": job}


def start(session: Session, advisor: Advisor, kind: str, spec: dict[str, Any], *, actor: str, worker: dict[str, Any] | None = None) -> Run:
    """Record that a run begins, and who works on it (`worker_of`), until its end says in what environment."""
    run = Run(
        advisor_id=advisor.id,
        kind=kind,
        state="running",
        spec=spec,
        spec_digest=digest(spec),
        environment=worker,
        started_at=events.now(),
        created_by=actor,
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


def end_dead(session: Session, spec: dict[str, Any], worker: dict[str, Any] | None = None) -> None:
    """Record as failed what still counts as running for this spec; the caller knows that no other process works on it.

    With a `worker` only its own runs: those of this folder on this machine, whose lock the caller holds, and those of its job, which nobody else has any
    more. The same training on another machine may be alive.
    """
    open_runs = session.scalars(select(Run).where(Run.spec_digest == digest(spec), Run.state == "running"))
    for run in open_runs.all():
        known = run.environment or {}
        if worker is None or known.get("worker") == worker["worker"] or (worker["job"] and known.get("job") == worker["job"]):
            _end(run, "failed", "the process ended without a word: killed, or the machine stopped")
    session.flush()


def _end(run: Run, state: str, error: str | None) -> None:
    run.state, run.error, run.finished_at = state, error, events.now()


def succeed(session: Session, run_id: int, *, environment: dict[str, Any], timings: dict[str, Any], metrics: dict[str, Any]) -> Run:
    """Record how a run went. Raises Conflict where it was recorded as ended already: whoever did took its process for dead."""
    run = _locked(session, run_id)
    if run.state != "running":
        raise Conflict(
            f"Run {run_id} was recorded as {run.state} meanwhile: {run.error or 'no reason given'}.",
            hint="Another process took this one for dead. Run the command again.",
        )
    _end(run, "succeeded", None)
    run.environment, run.timings, run.metrics = environment, timings, metrics
    session.flush()
    return run


def fail(session: Session, run_id: int, error: str) -> None:
    """Record why a run ended without a result; one that ended already stays as it is."""
    run = _locked(session, run_id)
    if run.state == "running":
        _end(run, "failed", error[:MAX_ERROR])
        session.flush()


def _locked(session: Session, run_id: int) -> Run:
    return session.scalars(
        select(Run).where(Run.id == run_id).with_for_update(key_share=True).execution_options(populate_existing=True)
    ).one()


def of_kind(session: Session, kind: str, *, actor: str) -> list[Run]:
    """The runs of a kind that an actor started, the newest first."""
    return list(session.scalars(select(Run).where(Run.kind == kind, Run.created_by == actor).order_by(Run.id.desc())))


def succeeded(session: Session, kind: str, *, limit: int = 200) -> list[Run]:
    """The runs of a kind that went well, of all advisors, the newest first."""
    return list(session.scalars(select(Run).where(Run.kind == kind, Run.state == "succeeded").order_by(Run.id.desc()).limit(limit)))
