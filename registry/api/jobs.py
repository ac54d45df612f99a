"""Durable jobs: order one, see how far it is, stop it, take it up again; and the stream of what it says.

Rules: an order names nothing on anybody's disk. A base is tiny, a known one or a registered one of the hub, at a revision that its card or the catalogue
names; a dataset is the advisor's own; a recipe's names are checked here, its values by the worker, since the web process does not import the trainer.
Whoever orders a build that may promote needs the scope for that, too, because the worker promotes in their name. Pairs are written only after a person's word that the provider's
terms were read (GET /pipelines/terms). The same Idempotency-Key gives the same job. A stream holds no database connection while it waits, ends with its job,
and in any case after `STREAM_S` seconds, so that a revoked token does not listen for ever; the client goes on from the Last-Event-ID.
"""

import json
import signal
import threading
import time
import weakref
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
from anyio import to_thread
from fastapi import Depends, Header, Path, Query, Response
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from registry import datasets, known_bases
from registry.api import job_schemas, schemas
from registry.api.deps import Actor, Cursor, Inside, Limit, Room, Slug, advisor_for, permission
from registry.api.paging import DEFAULT, after_number, next_link
from registry.api.routes import problems, router
from registry.errors import Forbidden, Invalid, NotFound, RegistryError, Unavailable
from registry.job_board import Line
from registry.job_queue import BuildOrder, JobQueue, JobStatus
from registry.models import Advisor, BaseModel
from registry.refs import check_digest
from registry.terms import FORUM, SYNTHESIS, terms_digest, terms_for

routes = router("jobs")
POLL_S = 0.5  # how soon a line is seen
LOOK_EVERY = 4  # polls between two looks at the queue: a job's end shows in its last line first
STILL_HERE_S = 15.0  # proxies close what says nothing for a minute; half of the usual 30 s
STREAM_S = 300.0
MAX_STREAMS = 100  # open streams of one worker process; each asks the board twice a second
TINY = "tiny"
_opening = threading.Lock()

JobPath = Annotated[str, Path(description="The job's name.", max_length=120, examples=["build-elena-3f9c2a7d51be"])]
IdempotencyKey = Annotated[
    str | None,
    Header(description="A name of the caller's own; sending it again gives the same job.", max_length=200, examples=["nightly-42"]),
]
LastEventId = Annotated[str | None, Header(description="The id of the last line that was seen.", max_length=20, examples=["17"])]


def _queue(request: Request, inside: Inside) -> JobQueue:
    """The queue of this app, opened at the first request that needs it. Raises Unavailable where this server takes no jobs."""
    state = request.app.state
    with _opening:
        found: JobQueue | None = getattr(state, "jobs", None)
        if found is None:
            try:
                found = state.jobs = JobQueue.open(inside.settings.home, inside.db.url)
            except Invalid as error:
                raise Unavailable(f"This server takes no jobs. {error.message}", hint=error.hint) from error
            weakref.finalize(request.app, found.dispose)  # an app that is gone leaves no connections behind
    return found


Jobs = Annotated[JobQueue, Depends(_queue)]


# ---- Orders ---------------------------------------------------------------------------------------------------------------------------------


@routes.get("/pipelines/terms", summary="Read the terms to acknowledge", responses=problems(401, 403))
def pipeline_terms(
    _actor: Annotated[Actor, permission("read", narrowed=True)],
    provider: Annotated[str, Query(description="Who writes the pairs: anthropic or openai.", max_length=40)] = "anthropic",
    forum: Annotated[bool, Query(description="Whether forum threads are read, too.")] = False,
) -> job_schemas.TermsShown:
    """The words that a person must have read before the pipeline writes pairs for training."""
    text = _terms({"provider": provider, "forum": forum})
    return job_schemas.TermsShown(provider=provider, text=text, sha256=terms_digest(text))


def _terms(settings: dict[str, Any]) -> str:
    provider = settings.get("provider", "anthropic")
    if not isinstance(provider, str) or provider not in SYNTHESIS:
        raise Invalid(f"A provider is one of {', '.join(SYNTHESIS)}; found {str(provider)[:40]!a}.")
    return terms_for(provider, forum=FORUM if settings.get("forum") else None)


@routes.post(
    "/advisors/{slug}/pipelines",
    summary="Order a training set",
    status_code=202,
    responses=problems(401, 403, 404, 409, 410),
)
def order_pipeline(
    slug: Slug,
    body: job_schemas.PipelineIn,
    inside: Inside,
    actor: Annotated[Actor, permission("write")],
    jobs: Jobs,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> job_schemas.Job:
    """Let a worker write training pairs for an advisor and register them as a dataset. Nothing is trained."""
    with inside.db.read() as session:
        advisor = advisor_for(session, actor, slug, active=True)
    _require_terms(body.pipeline, body.accept_terms)
    order = BuildOrder(
        advisor=advisor.slug,
        actor=actor.name,
        kind="pipeline",
        examples=body.examples,
        pipeline=body.pipeline,
        terms_sha256=body.accept_terms,
        promote="never",
        wave=body.wave,
    )
    return _ordered(jobs, order, body.queue, actor, idempotency_key, response)


@routes.post(
    "/advisors/{slug}/builds",
    summary="Order a build",
    status_code=202,
    responses=problems(401, 403, 404, 409, 410),
)
def order_build(
    slug: Slug,
    body: job_schemas.BuildIn,
    inside: Inside,
    actor: Annotated[Actor, permission("write")],
    jobs: Jobs,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> job_schemas.Job:
    """Let a worker take an advisor the whole way: pairs where asked for, training, measures, the gate, and promotion."""
    if body.promote == "gate" and "promote" not in actor.scopes:
        raise Forbidden(
            "A build that may promote needs a token with the scope promote.", hint='Send "promote": "never", or use another token.'
        )
    with inside.db.read() as session:
        advisor = advisor_for(session, actor, slug, active=True)
        base = _pinned_base(session, body.base)
        _check_data(session, advisor, body)
    if body.examples is not None:
        _require_terms(body.pipeline, body.accept_terms)
    order = BuildOrder(
        advisor=advisor.slug,
        actor=actor.name,
        examples=body.examples,
        pipeline=body.pipeline,
        terms_sha256=body.accept_terms,
        dataset=body.dataset,
        base=base,
        recipe=body.recipe,
        seed=body.seed,
        force=body.force,
        promote=body.promote,
        alias=body.alias,
        wave=body.wave,
    )
    return _ordered(jobs, order, body.queue, actor, idempotency_key, response)


def _require_terms(settings: dict[str, Any], accepted: str | None) -> None:
    words = _terms(settings)
    if accepted is None:
        raise Invalid(
            "Writing pairs needs a person's word that the provider's terms were read.", hint="Read GET /pipelines/terms, send accept_terms."
        )
    if check_digest(accepted) != terms_digest(words):
        raise Invalid("accept_terms does not name the present terms of these settings.", hint="Read GET /pipelines/terms again.")


def _pinned_base(session: Session, base: str | None) -> str | None:
    """The base of an order, with the revision where the catalogue knows it. Raises Invalid for one that no worker could get, or that nobody vouched for."""
    if base is None or base == TINY:
        return base
    repo, _, wanted = base.partition("@")
    card = known_bases.known_base(repo)
    if card is not None and card.revision is not None and wanted in ("", card.revision):
        return base  # the worker takes it at the card's revision
    query = select(BaseModel.kind, BaseModel.revision).where(BaseModel.repo == repo).order_by(BaseModel.id.desc())
    found = session.execute(query.where(BaseModel.revision == wanted) if wanted else query).all()
    hub = next((row for row in found if row.kind == "hub"), None)
    if hub is not None:
        return repo if hub.revision is None else f"{repo}@{hub.revision}"
    if card is not None and not wanted:
        return base
    if not wanted and any(row.kind == "builtin" for row in found):
        return TINY
    if any(row.kind == "local" for row in found):
        raise Invalid(
            f"The base {repo[:80]!a} is a folder of one machine, which other workers have not got.",
            hint="Build on that machine: registry train --base FOLDER. Or publish the base on a hub and register it.",
        )
    known = ", ".join(item.repo for item in known_bases.known_bases())
    raise Invalid(
        f"A base is {TINY}, a registered one or one of {known}, where wanted with @ and its registered revision; found {base[:140]!a}.",
        hint="Folders are the command line's alone; list registered bases at GET /bases.",
    )


def _check_data(session: Session, advisor: Advisor, body: job_schemas.BuildIn) -> None:
    if body.dataset is not None:
        datasets.get(session, advisor, check_digest(body.dataset))
    elif body.examples is None:
        datasets.latest(session, advisor)


def _ordered(jobs: JobQueue, order: BuildOrder, queue: str, actor: Actor, key: str | None, response: Response) -> job_schemas.Job:
    job = jobs.enqueue(order, queue, key=None if key is None else f"{actor.token_id} {key}")
    response.headers["location"] = f"/advisors/{order.advisor}/jobs/{job}"
    return job_schemas.Job.of(jobs.status(job))


# ---- Seeing and steering --------------------------------------------------------------------------------------------------------------------


@routes.get("/advisors/{slug}/jobs", summary="List an advisor's jobs", responses=problems(401, 403, 404))
def list_jobs(
    slug: Slug,
    inside: Inside,
    actor: Annotated[Actor, permission("read")],
    jobs: Jobs,
    wave: Annotated[str | None, Query(description="Only those of this wave.", max_length=63)] = None,
    limit: Limit = DEFAULT,
    cursor: Cursor = None,
) -> schemas.Page[job_schemas.Job]:
    """Jobs, the newest first."""
    advisor = _slug_of(inside, actor, slug)
    before = None if cursor is None else after_number(cursor)
    found = jobs.list(advisor, wave, limit + 1, before)
    key = found[limit - 1].row.number if len(found) > limit else None
    link = next_link(f"/advisors/{advisor}/jobs", limit, key, wave=wave)
    return schemas.Page(items=[job_schemas.Job.of(status) for status in found[:limit]], next=link)


def _slug_of(inside: Room, actor: Actor, slug: str) -> str:
    with inside.db.read() as session:
        return advisor_for(session, actor, slug).slug


def _own(inside: Room, jobs: JobQueue, actor: Actor, slug: str, job: str) -> JobStatus:
    """A job of the advisor in the path. Raises NotFound in the same words for one that is another advisor's and one that does not exist."""
    advisor = _slug_of(inside, actor, slug)
    row = jobs.board.find_job(job)
    if row is None or row.advisor != advisor:
        raise NotFound(f"'{advisor}' has no job {job[:120]!a}.", hint=f"List them at /advisors/{advisor}/jobs.")
    return jobs.status(job)


@routes.get("/advisors/{slug}/jobs/{job}", summary="Show a job", responses=problems(401, 403, 404))
def show_job(slug: Slug, job: JobPath, inside: Inside, actor: Annotated[Actor, permission("read")], jobs: Jobs) -> job_schemas.Job:
    """Where a job stands."""
    return job_schemas.Job.of(_own(inside, jobs, actor, slug, job))


@routes.post("/advisors/{slug}/jobs/{job}/cancel", summary="Cancel a job", responses=problems(401, 403, 404, 409))
def cancel_job(slug: Slug, job: JobPath, inside: Inside, actor: Annotated[Actor, permission("write")], jobs: Jobs) -> job_schemas.Job:
    """Take a job out of the queue, or let its worker stop before its next step. Doing it twice changes nothing."""
    _own(inside, jobs, actor, slug, job)
    return job_schemas.Job.of(jobs.cancel(job))


@routes.post("/advisors/{slug}/jobs/{job}/retry", summary="Retry a job", status_code=202, responses=problems(401, 403, 404, 409))
def retry_job(slug: Slug, job: JobPath, inside: Inside, actor: Annotated[Actor, permission("write")], jobs: Jobs) -> job_schemas.Job:
    """Put a failed or cancelled job back; the steps that it finished are not run again."""
    present = _own(inside, jobs, actor, slug, job)
    if present.row.order["promote"] == "gate" and "promote" not in actor.scopes:
        raise Forbidden("Retrying a build that may promote needs a token with the scope promote.")
    return job_schemas.Job.of(jobs.status(jobs.retry(job)))


@routes.get("/workers", summary="List the workers", responses=problems(401, 403))
def list_workers(_actor: Annotated[Actor, permission("admin")], jobs: Jobs) -> list[job_schemas.Worker]:
    """Every worker that has not left, the freshest first."""
    return [job_schemas.Worker.of(row) for row in jobs.board.workers()]


# ---- The stream -----------------------------------------------------------------------------------------------------------------------------

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events: one for each line, its number as the id; at last the event `end` with the job's state.",
        "content": {"text/event-stream": {"example": 'id: 1\nevent: step\ndata: {"at": "...", "body": {"step": "train"}}\n\n'}},
    },
    204: {"description": "The job has ended and every line was seen."},
    **problems(401, 403, 404),
}


@routes.get("/advisors/{slug}/jobs/{job}/events", summary="Follow a job", response_class=Response, responses=_STREAM)
def follow_job(
    request: Request,
    slug: Slug,
    job: JobPath,
    inside: Inside,
    actor: Annotated[Actor, permission("read")],
    jobs: Jobs,
    last_event_id: LastEventId = None,
) -> Response:
    """What a job says, as it says it. Goes on after the Last-Event-ID; ends with the job."""
    after = _number(last_event_id)
    status = _own(inside, jobs, actor, slug, job)
    if last_event_id is not None and not status.open and not jobs.board.since(job, after, 1):
        return Response(status_code=204)  # the word for "do not come back" to a browser's EventSource
    return _Stream(streams_of(request.app), jobs, job, after)


def _number(last_event_id: str | None) -> int:
    text = (last_event_id or "").strip()
    if text and not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise Invalid(f"Last-Event-ID is the number of a line; found {text[:20]!a}.")
    return int(text or 0)


class Streams:
    """How many streams this process has open, and whether it is about to end."""

    def __init__(self) -> None:
        """None is open."""
        self.open = 0
        self.ending = False
        # A stream that was never sent leaves when it is thrown away, which may be while this very thread counts another.
        self._counting = threading.RLock()

    def enter(self) -> None:
        """Count one more. Raises Unavailable where there are `MAX_STREAMS`."""
        with self._counting:
            if self.open >= MAX_STREAMS:
                raise Unavailable(
                    f"This process serves {MAX_STREAMS} streams already.", hint="Try again in a moment, or read the job instead."
                )
            self.open += 1

    def leave(self) -> None:
        """Count one less."""
        with self._counting:
            self.open -= 1


def streams_of(app: Starlette) -> Streams:
    """The streams of an app."""
    with _opening:
        if not hasattr(app.state, "streams"):
            app.state.streams = Streams()
    found: Streams = app.state.streams
    return found


def end_streams_with_process(app: Starlette) -> None:
    """Let the open streams end as soon as the server is asked to stop; it would otherwise wait for them until its patience ends.

    uvicorn tells an app nothing before every answer was sent, so this listens where uvicorn does: call it once uvicorn's handlers are in place, which they
    are when it makes the app. Does nothing outside the main thread, and where nobody handles the signals.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    streams = streams_of(app)
    for number in (signal.SIGTERM, signal.SIGINT):
        before = signal.getsignal(number)
        if callable(before) and before is not signal.default_int_handler:

            def stop(number: int, frame: Any, before: Any = before) -> None:
                streams.ending = True
                before(number, frame)

            signal.signal(number, stop)


class _Stream(StreamingResponse):
    """A stream that counts from here until it was sent, or until it is thrown away without having been."""

    def __init__(self, streams: Streams, jobs: JobQueue, job: str, after: int) -> None:
        streams.enter()
        self._left = weakref.finalize(self, streams.leave)
        self._left.atexit = False
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}  # nginx would otherwise keep lines back
        super().__init__(_lines(streams, jobs, job, after), media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._left()


async def _lines(streams: Streams, jobs: JobQueue, job: str, after: int) -> AsyncIterator[str]:
    """The text of the stream. Every look at the database is a short transaction in a thread; between two looks it holds nothing."""
    try:
        yield "retry: 2000\n\n"
        begun = spoke = time.monotonic()
        polls = 0
        while time.monotonic() - begun < STREAM_S and not streams.ending:
            # The state is read before the lines: whatever a job says before it ends is then among them.
            status = await to_thread.run_sync(jobs.status, job) if polls % LOOK_EVERY == 0 else None
            lines = await to_thread.run_sync(jobs.board.since, job, after)
            for line in lines:
                after, spoke = line.seq, time.monotonic()
                yield _event(line)
            if status is not None and not status.open and not lines:
                yield f"event: end\ndata: {json.dumps({'state': status.state, 'error': status.error})}\n\n"
                return
            if time.monotonic() - spoke >= STILL_HERE_S:
                spoke = time.monotonic()
                yield ": still here\n\n"
            polls = 0 if lines and status is not None and not status.open else polls + 1
            await anyio.sleep(POLL_S)
    except RegistryError:
        yield ": the database does not answer; come back\n\n"


def _event(line: Line) -> str:
    data = json.dumps({"at": line.at.isoformat(), "body": dict(line.body)})
    return f"id: {line.seq}\nevent: {line.kind.split()[0] if line.kind.split() else 'line'}\ndata: {data}\n\n"
