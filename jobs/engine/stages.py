"""What the five steps of a build do: curate, train, evaluate, gate, promote. Plain functions from (tools, job, order, what is done) to JSON.

Rules: a step may be run again after a kill, by another process or by the same one, and then must not do twice what shows: registering is idempotent by job
(jobs/train.py), and promoting and the history's one entry a build happen in one transaction that looks for the job's own entry first. Nothing here knows of
DBOS, of queues or of other workers; `Tools.check` says whether this process may still act.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from registry import advisors, datasets, evaluations, events, promotion, versions
from registry.artifacts import ArtifactStore, Verifies
from registry.db import Database
from registry.errors import Conflict, Invalid, NotPromotable, Stale
from registry.job_queue import BuildOrder
from registry.models import Advisor, Event
from registry.settings import Settings
from trainer.spec import Drive

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from jobs.curate import Prepared
    from jobs.train import Trains
    from pipeline.ports import Progress
    from registry.promotion import Move

STEPS = ("curate", "train", "evaluate", "gate", "promote")
FINISHED = "build:finished"  # the history's tag
Facts = Mapping[str, Any]
Say = Callable[[str, Facts], None]


class Interrupted(BaseException):
    """A sign that this process must let go of the job now; nothing of the step counts. No Exception: nobody on the way may take it for a failure of the job."""


@dataclass(frozen=True)
class Tools:
    """What a step works with. `check` raises Interrupted where the process is leaving, was declared dead, or the job was cancelled."""

    settings: Settings
    db: Database
    store: ArtifactStore
    trains: "Trains"
    say: Say
    check: Callable[[], None]
    drive: Drive = field(default_factory=Drive)


def run(tools: Tools, name: str, job: str, order: BuildOrder, done: Mapping[str, Facts]) -> dict[str, Any]:
    """Run a step. Raises the RegistryError of what it calls, or Interrupted, also where it failed while this process was letting go of the job."""
    tools.check()
    try:
        result = _STAGES[name](tools, job, order, done)
    except Exception:
        tools.check()
        raise
    tools.check()
    return result


def curate(tools: Tools, job: str, order: BuildOrder, _done: Mapping[str, Facts]) -> dict[str, Any]:
    """The dataset to train on: the one named, a new one from the pipeline where examples are ordered, else the advisor's newest."""
    if order.examples is None or order.dataset is not None:
        with tools.db.read() as session:
            advisor = advisors.get_active(session, order.advisor)
            found = datasets.get(session, advisor, order.dataset) if order.dataset else datasets.latest(session, advisor)
            return {"dataset": found.sha256, "pairs": found.examples_total, "heldout": found.heldout_total, "run": None}
    return _from_pipeline(tools, job, order)


def _from_pipeline(tools: Tools, job: str, order: BuildOrder) -> dict[str, Any]:
    from jobs import curate as curating

    prepared = _prepared(tools, job, order)
    refuse_other_words(order, prepared.terms)
    tools.say("note", {"message": f"run {prepared.order.run}"})
    controls = curating.controls_from(tools.settings)
    try:
        made = curating.curate(tools.db, tools.settings, prepared, controls, actor=order.actor, accepted=True, watch=_watcher(tools))
    except KeyboardInterrupt:  # raised by our own watcher: a pipeline ends cleanly on it, and its next run goes on from what was paid for
        raise Interrupted from None
    facts = {"dataset": made.dataset, "pairs": made.pairs, "heldout": made.heldout, "run": prepared.order.run}
    return facts | {"status": made.outcome.status, "notes": list(made.notes)}


def _prepared(tools: Tools, job: str, order: BuildOrder) -> "Prepared":
    """The job's own run of the pipeline, gone on with where an earlier attempt began it. The order in the run's ledger names the job."""
    from jobs import curate as curating
    from jobs.engine.orders import config_of

    workspace = curating.workspace_of(tools.settings)
    with tools.db.read() as session:
        slug = advisors.get_active(session, order.advisor).slug
    begun = [name for name, known in workspace.orders(slug).items() if known["inputs"].get("job") == job]
    if begun:
        return curating.prepare(tools.db, tools.settings, curating.Request(slug, resume=True, run=begun[-1]))
    prepared = curating.prepare(tools.db, tools.settings, curating.Request(slug, config_of(order)))
    return replace(prepared, order=replace(prepared.order, inputs={**prepared.order.inputs, "job": job}))


def refuse_other_words(order: BuildOrder, terms: str) -> None:
    """Raise Conflict unless the words that were acknowledged with the order are the provider's words of today."""
    from pipeline.terms import terms_digest

    if order.terms_sha256 != terms_digest(terms):
        raise Conflict(
            "The terms that were acknowledged with this order are not the terms of this worker's program.",
            hint="Order it again with the same release that the workers run: registry build --accept-terms",
        )


def _watcher(tools: Tools) -> "Callable[[Progress], None]":
    def watch(event: "Progress") -> None:
        try:
            tools.check()
        except Interrupted:
            raise KeyboardInterrupt from None
        facts = {"agent": event.agent, "state": event.state, "message": event.message[:200]}
        tools.say("agent", facts | {"done": event.done, "total": event.total, "kept": event.kept, "cost": event.cost})

    return watch


def train(tools: Tools, job: str, order: BuildOrder, done: Mapping[str, Facts]) -> dict[str, Any]:
    """Train and register. The same training that is registered already is not trained again, unless the order forces it."""
    from jobs.train import Request
    from jobs.train import train as training

    def on_event(event: Facts) -> None:
        # A training is stopped by its trainer, which saves its state; here only what comes before and after it: waiting, and registering.
        if event.get("event") == "phase":
            tools.check()
        tools.say("train", event)

    request = Request(order.advisor, done["curate"]["dataset"], order.base, order.recipe, order.seed, order.force, job, tools.drive)
    made = training(tools.db, tools.store, tools.settings.home, request, actor=order.actor, on_event=on_event, trains=tools.trains)
    version = made.version
    return {"version": version.number, "digest": version.digest, "base": version.base_model.repo, "created": made.created}


def evaluate(tools: Tools, _job: str, order: BuildOrder, done: Mapping[str, Facts]) -> dict[str, Any]:
    """The held-out scores that training measured: {"scores": {metric: {value, low, high, n}}}; empty where nothing was held out."""
    with tools.db.read() as session:
        version = versions.resolve(session, f"{order.advisor}@{done['train']['version']}")
        found = [e for e in evaluations.latest(session, [version.id]).get(version.id, []) if e.suite == evaluations.HELDOUT]
        scores = {s.metric: {"value": s.value, "low": s.low, "high": s.high, "n": s.n} for e in found for s in e.scores}
    return {"suite": evaluations.HELDOUT, "scores": scores}


def gate(tools: Tools, _job: str, order: BuildOrder, done: Mapping[str, Facts]) -> dict[str, Any]:
    """Whether the version may become what the alias points to, and why not. A refusal is a result, not a failure."""
    if order.promote == "never":
        return {"allowed": False, "reasons": ["the order says not to promote"]}
    from jobs.engine.gate import decide

    with tools.db.read() as session:
        version = versions.resolve(session, f"{order.advisor}@{done['train']['version']}")
        return decide(session, tools.store, version, done["evaluate"]["scores"], order.alias)


def promote(tools: Tools, job: str, order: BuildOrder, done: Mapping[str, Facts]) -> dict[str, Any]:
    """Move the alias where the gate allowed it, and write the build into the history: one transaction, once a job."""
    ended = _finished(tools, job, order)
    if ended is not None:
        return ended
    if done["gate"]["allowed"]:
        try:
            return _promoted(tools, job, order, done)
        except NotPromotable as error:  # a source was withdrawn meanwhile, or a file does not verify
            return _told(tools, job, order, done, error.reasons)
        except Stale as error:  # another build or a person was faster, and the gate did not see that
            return _told(tools, job, order, done, [error.message])
    return _told(tools, job, order, done, done["gate"]["reasons"])


def _finished(tools: Tools, job: str, order: BuildOrder) -> dict[str, Any] | None:
    with tools.db.read() as session:
        return finished_by(session, advisors.get(session, order.advisor), job)


def finished_by(session: "Session", advisor: Advisor, job: str) -> dict[str, Any] | None:
    """What the history says of how a job ended."""
    query = select(Event).where(Event.advisor_id == advisor.id, Event.tag == FINISHED)
    for event in session.scalars(query.where(Event.body.contains(f'"job":"{job}"', autoescape=True))):
        body = events.body_of(event)
        if body["job"] == job:
            return body
    return None


def _promoted(tools: Tools, job: str, order: BuildOrder, done: Mapping[str, Facts]) -> dict[str, Any]:
    ref = f"{order.advisor}@{done['train']['version']}"
    expected = promotion.Expected(**done["gate"]["found"]) if "found" in done["gate"] else None  # a gate of an older release did not say
    ended: list[dict[str, Any]] = []

    def act(session: "Session", store: Verifies, rehearsal: bool) -> "Move":
        advisor = advisors.get_active(session, order.advisor, lock=not rehearsal)
        version = versions.resolve(session, ref)
        moved = promotion.promote(
            session,
            store,
            version,
            actor=order.actor,
            alias=order.alias,
            reason=f"built by {job}",
            expected=expected,
            job=job,
            dry_run=rehearsal,
        )
        if not rehearsal:
            ended.append(_tell(session, advisor, job, order, done, []))
        return moved

    promotion.move(tools.db, tools.store, act)
    return ended[-1]


def _told(tools: Tools, job: str, order: BuildOrder, done: Mapping[str, Facts], reasons: list[str]) -> dict[str, Any]:
    with tools.db.transaction() as session:
        advisor = advisors.get(session, order.advisor, lock=True)
        return _tell(session, advisor, job, order, done, list(reasons))


def _tell(
    session: "Session", advisor: Advisor, job: str, order: BuildOrder, done: Mapping[str, Facts], reasons: list[str]
) -> dict[str, Any]:
    """The history's entry of a finished build, written once a job; the caller holds the advisor locked. Returns what it says."""
    ended = finished_by(session, advisor, job)
    if ended is not None:
        return ended
    body = {
        "job": job,
        "dataset": done["curate"]["dataset"],
        "version": done["train"]["version"],
        "promoted": order.alias if not reasons else None,
        "reasons": reasons,
    }
    return events.body_of(events.append(session, FINISHED, order.actor, body, advisor))


_STAGES: Mapping[str, Callable[[Tools, str, BuildOrder, Mapping[str, Facts]], dict[str, Any]]] = {
    "curate": curate,
    "train": train,
    "evaluate": evaluate,
    "gate": gate,
    "promote": promote,
}


def steps_of(order: BuildOrder) -> tuple[str, ...]:
    """The steps of an order: a pipeline's end with its dataset. Raises Invalid for a kind that this program does not know."""
    if order.kind not in ("build", "pipeline"):
        raise Invalid(f"An order is a build or a pipeline; found {order.kind[:40]!a}.", hint="Update the worker.")
    return STEPS if order.kind == "build" else STEPS[:1]
