"""What the routes of durable jobs take and give; the rules of registry/api/schemas.py hold here too."""

import datetime as dt
from typing import Annotated, Any, Literal

from pydantic import Field

from registry.api.schemas import DIGEST, Digest, FreeJson, Given, Name, Taken
from registry.job_board import WorkerRow
from registry.job_queue import MAX_EXAMPLES, JobStatus
from registry.vocabulary import DEFAULT_SEED, MAX_SEED

JobName = Annotated[str, Field(examples=["build-elena-3f9c2a7d51be"])]
Examples = Annotated[int, Field(ge=1, le=MAX_EXAMPLES, examples=[200])]
Settings = Annotated[FreeJson, Field(default_factory=dict)]
Wave = Annotated[
    str | None, Field(default=None, max_length=63, examples=["spring-2026"], description="A name for orders that belong together.")
]
Terms = Annotated[
    Digest | None, Field(default=None, description="The sha256 of the words at GET /pipelines/terms, once a person has read them.")
]


class _OrderIn(Taken):
    """What every order may say. Files and addresses are the command line's alone: no field takes a path."""

    pipeline: Settings = Field(
        default_factory=dict, description="Settings of the pipeline that differ from its defaults.", examples=[{"provider": "openai"}]
    )
    accept_terms: Terms = None
    wave: Wave = None


class PipelineIn(_OrderIn):
    """An order to write a training set."""

    examples: Examples = Field(description="How many pairs.")
    queue: Literal["gpu", "cpu"] = Field(default="cpu", description="Which workers take it; writing needs no GPU.")


class BuildIn(_OrderIn):
    """An order for the whole way: write pairs where asked for, train, measure, and promote if the gate lets the version through."""

    examples: Examples | None = Field(
        default=None, description="Pairs to write first; null trains on what is there. Not together with dataset."
    )
    dataset: Digest | None = Field(default=None, description="One of the advisor's datasets; null takes the newest.")
    base: Name | None = Field(
        default=None,
        description="tiny, a known base or a registered one, by its hub id, where wanted with @ and the revision (40 hex digits). "
        "Without it, a known base is taken at the revision of its card, and another at the one registered last.",
        examples=["mistralai/Mistral-7B-Instruct-v0.3"],
    )
    recipe: Settings = Field(
        default_factory=dict,
        description="Settings of the recipe that differ from its defaults. Unknown names are refused at once, unfit values when a worker takes the job.",
        examples=[{"method": "qlora"}],
    )
    seed: int = Field(default=DEFAULT_SEED, ge=0, le=MAX_SEED)
    force: bool = Field(default=False, description="Train again where the same training is registered.")
    promote: Literal["gate", "never"] = Field(default="gate", description="gate needs a token with the scope promote, too.")
    alias: Annotated[str, Field(max_length=63)] = "live"
    queue: Literal["gpu", "cpu"] = Field(default="gpu", description="Which workers take it.")


class Job(Given):
    """A durable job. `step` is the one that is or was last worked on; `order` what was asked for; `result` what came of it."""

    id: JobName
    kind: Literal["build", "pipeline"] = Field(examples=["build"])
    advisor: str = Field(examples=["elena"])
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"] = Field(examples=["running"])
    step: str | None = Field(examples=["train"])
    error: str | None
    queue: str = Field(examples=["gpu"])
    wave: str | None
    actor: str = Field(examples=["ci (token 3)"])
    created_at: dt.datetime = Field(examples=["2026-11-01T10:00:00Z"])
    started_at: dt.datetime | None
    finished_at: dt.datetime | None
    order: dict[str, Any] = Field(examples=[{"advisor": "elena", "base": "tiny", "promote": "gate"}])
    result: dict[str, Any] | None

    @classmethod
    def of(cls, status: JobStatus) -> "Job":
        """The view of a job."""
        row = status.row
        return cls(
            id=row.job,
            kind=row.order["kind"],
            advisor=row.advisor,
            state=status.state,
            step=status.step,
            error=status.error,
            queue=row.queue,
            wave=row.wave,
            actor=row.actor,
            created_at=row.created_at,
            started_at=status.started_at,
            finished_at=status.finished_at,
            order=dict(row.order),
            result=None if status.result is None else dict(status.result),
        )


class Worker(Given):
    """A worker that has not left. One whose last heartbeat is old is dead, and another takes over its jobs."""

    executor: str = Field(examples=["gpu-box-4711-9f3a"])
    facts: dict[str, Any] = Field(examples=[{"host": "gpu-box", "queues": ["gpu"]}])
    beat_at: dt.datetime = Field(examples=["2026-11-01T10:00:00Z"])
    age_s: float = Field(description="Seconds since its last heartbeat, by the database's clock.", examples=[2.4])

    @classmethod
    def of(cls, row: WorkerRow) -> "Worker":
        """The view of a worker."""
        return cls(executor=row.executor, facts=dict(row.facts), beat_at=row.beat_at, age_s=round(row.age_s, 3))


class TermsShown(Given):
    """What a person must have read before pairs are written for training."""

    provider: str = Field(examples=["anthropic"])
    text: str = Field(examples=["Terms: the training pairs will be written by Claude. ..."])
    sha256: Digest = Field(examples=[DIGEST], description="Send it as accept_terms.")
