"""What the API takes and gives, with an example of each; the OpenAPI document is made from this.

Rules: what is taken is bounded here (lengths, ranges, depth), and judged where the catalogue's own functions judge it, so that the command line and the API
refuse the same things in the same words. Moments are UTC. A digest is sha256:<64 hex>. Null means "not recorded" or "none", never zero.
"""

import datetime as dt
import math
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from lineage.diff import VersionDiff
from registry import models
from registry.events import body_of
from registry.promotion import Move
from registry.sources import source_id, title_of
from registry.vocabulary import MAX_SEED

T = TypeVar("T")
DIGEST = "sha256:" + "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
REVISION = "e0bc86c23ce5aae1db576c8cca6f06f1f73af2db"
_EXACT = 2**53 - 1  # the largest integer that JSON readers agree on (RFC 8785 refuses larger ones)
_DEEPEST = 16


def plain_json(value: Any, depth: int = 0) -> Any:
    """Free JSON that every part of the product can hold: exact integers, finite numbers, text without NUL and lone surrogates, no deep nests."""
    if depth > _DEEPEST:
        raise ValueError(f"nested more than {_DEEPEST} levels deep")
    if isinstance(value, str):
        _plain_text(value)
    elif isinstance(value, bool) or value is None:
        pass
    elif isinstance(value, int):
        if abs(value) > _EXACT:
            raise ValueError("an integer beyond 2^53 - 1")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a number that is not finite")
    elif isinstance(value, dict):
        for key, item in value.items():
            _plain_text(key)
            plain_json(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            plain_json(item, depth + 1)
    return value


def _plain_text(text: str) -> None:
    if any(c < " " and c not in "\n\t" for c in text) or any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError("text with a control character or a lone surrogate")


FreeJson = Annotated[dict[str, Any], AfterValidator(plain_json)]
Text = Annotated[str, Field(max_length=2000)]
Digest = Annotated[str, Field(max_length=80, examples=[DIGEST])]
Name = Annotated[str, Field(max_length=200)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Taken(BaseModel):
    """A request body: unknown fields are refused, so that a misspelt option is not silently ignored."""

    model_config = ConfigDict(extra="forbid")


class Given(BaseModel):
    """A response body."""

    model_config = ConfigDict(extra="forbid")


class Page(Given, Generic[T]):
    """A part of a list. `next` is the address of the following part, or null at the end."""

    items: list[T]
    next: str | None = Field(default=None, examples=["/advisors?limit=50&cursor=WyJlbGVuYSJd"])


class Problem(BaseModel):
    """An error (RFC 9457). `code` is stable; `detail` says what was expected and found, `hint` what to do, `reasons` every single one."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["No advisor answers to 'elenna'."])
    code: str = Field(examples=["not_found"])
    hint: str | None = Field(default=None, examples=["Did you mean 'elena'?"])
    reasons: list[str] = Field(default=[], examples=[[]])


# ---- Advisors -------------------------------------------------------------------------------------------------------------------------------


class AdvisorIn(Taken):
    """A new advisor with its system prompt."""

    slug: Name = Field(examples=["elena"])
    prompt: str = Field(max_length=200_000, examples=["You are Elena, a warm and direct burnout recovery guide."])
    name: Name | None = Field(default=None, examples=["Elena"])
    role: Name | None = Field(default=None, examples=["Burnout recovery guide"])
    public: bool = Field(default=False, description="Whether everybody may read the Source Card.")
    names: list[Name] = Field(default=[], max_length=20, description="Other names it answers to.", examples=[["dr-elena"]])


class AdvisorChange(Taken):
    """What to change; what is left out stays."""

    name: Name | None = Field(default=None, examples=["Elena"])
    role: Name | None = Field(default=None, examples=["Burnout recovery guide"])
    public: bool | None = Field(default=None, examples=[True])


class NameIn(Taken):
    """One more name of an advisor."""

    name: Name = Field(examples=["dr-elena"])


class Advisor(Given):
    """An advisor. `names` are its other names; `aliases` says which version each alias points to, null for none."""

    slug: str = Field(examples=["elena"])
    name: str = Field(examples=["Elena"])
    role: str | None = Field(examples=["Burnout recovery guide"])
    public: bool = Field(examples=[True])
    names: list[str] = Field(examples=[["dr-elena"]])
    aliases: dict[str, int | None] = Field(examples=[{"live": 2, "candidate": 3}])
    created_at: dt.datetime = Field(examples=["2026-11-01T10:00:00Z"])
    retired_at: dt.datetime | None = Field(examples=[None])

    @classmethod
    def of(cls, row: models.Advisor, names: list[str], aliases: dict[str, int | None]) -> "Advisor":
        """From the catalogue."""
        return cls(
            slug=row.slug,
            name=row.name,
            role=row.role,
            public=row.public,
            names=names,
            aliases=aliases,
            created_at=row.created_at,
            retired_at=row.retired_at,
        )


class Reason(Taken):
    """Why; the history keeps it."""

    reason: Text = Field(examples=["Recalled: one of its sources was retracted."])


class PersonaIn(Taken):
    """The advisor's new system prompt."""

    text: str = Field(max_length=200_000, examples=["You are Elena, a warm and direct burnout recovery guide."])


class Persona(Given):
    """One version of a system prompt."""

    number: int = Field(examples=[1])
    sha256: str = Field(examples=[DIGEST])
    text: str = Field(examples=["You are Elena, a warm and direct burnout recovery guide."])
    created_at: dt.datetime = Field(examples=["2026-11-01T10:00:00Z"])
    created_by: str = Field(examples=["maria (token 3)"])

    @classmethod
    def of(cls, row: models.Persona) -> "Persona":
        """From the catalogue."""
        return cls(number=row.number, sha256=row.sha256, text=row.text, created_at=row.created_at, created_by=row.created_by)


# ---- Datasets -------------------------------------------------------------------------------------------------------------------------------


_PAIR = {
    "instruction": "I dread Mondays. Is that burnout?",
    "response": "Dread is a signal worth hearing. What is it on Monday that you brace for?",
    "origin": "synthesised",
    "generator": "a named model",
    "sources": ["https://doi.org/10.1037/a0036904"],
}
_CITATION = {
    "type": "article-journal",
    "title": "Burnout and Daily Recovery: A Day Reconstruction Study",
    "DOI": "10.1037/a0036904",
    "custom": {"class": "academic", "review_status": "peer_reviewed", "documents": [{"extent": "abstract"}]},
}


class DatasetIn(Taken):
    """Training pairs, as a JSONL text or as a list, with the citations of the sources they name (CSL-JSON). Give `jsonl` or `examples`, not both."""

    jsonl: str | None = Field(default=None, description="One JSON object a line.")
    examples: list[dict[str, Any]] | None = Field(default=None, max_length=100_000, examples=[[_PAIR]])
    citations: list[dict[str, Any]] = Field(default=[], max_length=20_000, examples=[[_CITATION]])
    origin: str | None = Field(default=None, description="For lines that state none: human, synthesised or edited.", max_length=40)
    generator: Name | None = Field(default=None, description="For lines that state none: the model that wrote them.")
    strip_system: bool = Field(default=False, description="Take system turns out instead of refusing them.")
    heldout: Finite = Field(default=0.1, ge=0, le=0.5, description="The share that is held out from training.", examples=[0.1])
    persona: Annotated[str, Field(max_length=80)] | None = Field(
        default=None, description="Number or digest of the persona the pairs were written with; the present one if left out."
    )


class Dataset(Given):
    """An immutable list of examples."""

    sha256: str = Field(examples=[DIGEST])
    persona: int = Field(description="Number of the persona that its pairs were written with.", examples=[1])
    examples_total: int = Field(examples=[512])
    heldout_total: int = Field(examples=[51])
    split: dict[str, Any] = Field(examples=[{"method": "connected-groups/1", "fraction": 0.1, "seed": 0}])
    created_at: dt.datetime = Field(examples=["2026-11-01T10:00:00Z"])
    created_by: str = Field(examples=["maria (token 3)"])

    @classmethod
    def of(cls, row: models.Dataset, persona: int) -> "Dataset":
        """From the catalogue."""
        return cls(
            sha256=row.sha256,
            persona=persona,
            examples_total=row.examples_total,
            heldout_total=row.heldout_total,
            split=row.split,
            created_at=row.created_at,
            created_by=row.created_by,
        )


class DatasetDetail(Dataset):
    """A dataset with its counts, held-out pairs included."""

    categories: dict[str, int] = Field(examples=[{"boundaries": 120, "sleep": 80}])
    origins: dict[str, int] = Field(examples=[{"synthesised": 512}])
    sources_by_class: dict[str, int] = Field(examples=[{"academic": 4, "institutional": 1}])
    without_source: int = Field(examples=[0])
    multi_turn: int = Field(examples=[37])


class DatasetImported(Given):
    """What an import did. `created` is false where the same dataset was there already; `notes` says what was left out."""

    dataset: Dataset
    created: bool = Field(examples=[True])
    duplicates: int = Field(examples=[0])
    notes: list[str] = Field(examples=[[]])


class RestsOn(Given):
    """A source of one pair."""

    id: str = Field(examples=["src_12"])
    url: str | None = Field(examples=["https://doi.org/10.1037/a0036904"])
    role: str = Field(examples=["answer"])
    extent: str | None = Field(examples=["abstract"])


class Example(Given):
    """One training pair or conversation at its place in a dataset."""

    position: int = Field(examples=[0])
    split: str = Field(examples=["train"])
    sha256: str = Field(examples=[DIGEST])
    messages: list[dict[str, str]] = Field(examples=[[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]])
    category: str | None = Field(examples=["boundaries"])
    origin: str = Field(examples=["synthesised"])
    generator: str | None = Field(examples=["a named model"])
    author: dict[str, Any] | None = Field(examples=[None])
    read_by_people: bool = Field(examples=[False])
    sources: list[RestsOn]


# ---- Versions -------------------------------------------------------------------------------------------------------------------------------


class File(Given):
    """A file of a version."""

    path: str = Field(examples=["adapter_model.safetensors"])
    sha256: str = Field(examples=[DIGEST])
    size: int = Field(examples=[13639936])


class FileIn(Taken):
    """A file that will be uploaded."""

    path: Name = Field(examples=["adapter_model.safetensors"])
    sha256: Digest
    size: int = Field(ge=0, le=_EXACT, examples=[13639936])


class BaseRef(Taken):
    """A registered base. A revision that is unknown is null."""

    repo: Annotated[str, Field(max_length=300)] = Field(examples=["mistralai/Mistral-7B-Instruct-v0.3"])
    revision: Annotated[str, Field(max_length=64)] | None = Field(default=None, examples=[REVISION])


class RunIn(Taken):
    """Facts of the training, where the client recorded them."""

    environment: FreeJson = Field(default={}, examples=[{"torch": "2.13.0", "device": "cuda"}])
    timings: FreeJson = Field(default={}, examples=[{"training": 412.5}])
    metrics: FreeJson = Field(default={}, examples=[{"final_loss": 1.31}])


class VersionIn(Taken):
    """A version about to be registered: what it was made from, and its files with their digests.

    An adapter is adapter_model.safetensors with adapter_config.json, a full fine-tune model.safetensors with config.json; a README.md may come with either.
    """

    dataset: Digest
    base: BaseRef
    recipe: FreeJson = Field(examples=[{"r": 16, "alpha": 32, "target_modules": ["q_proj", "v_proj"]}])
    seed: int = Field(ge=0, le=MAX_SEED, examples=[0])
    files: list[FileIn] = Field(min_length=1, max_length=10)
    run: RunIn | None = None
    force: bool = Field(default=False, description="Register under a new number although the same training is registered.")


class Score(Given):
    """One figure with its 95% interval, where one was computed."""

    metric: str = Field(examples=["loss"])
    value: float = Field(examples=[1.31])
    low: float | None = Field(examples=[1.12])
    high: float | None = Field(examples=[1.5])
    n: int = Field(examples=[51])


class ScoreIn(Taken):
    """One figure to record."""

    metric: Name = Field(examples=["empathy"])
    value: Finite = Field(examples=[0.81])
    n: int = Field(ge=1, le=2**31 - 1, description="How many items are behind it.", examples=[100])
    low: Finite | None = Field(default=None, examples=[0.74])
    high: Finite | None = Field(default=None, examples=[0.87])


class ScoresIn(Taken):
    """A suite of scores."""

    suite: Name = Field(examples=["voice"])
    scores: list[ScoreIn] = Field(min_length=1, max_length=200)
    note: Text | None = Field(default=None, examples=["Judged blind by three raters."])


class Scores(Given):
    """The newest scores of a suite."""

    suite: str = Field(examples=["heldout"])
    scores: list[Score]
    note: str | None = Field(examples=[None])
    created_at: dt.datetime = Field(examples=["2026-11-01T10:00:00Z"])
    created_by: str = Field(examples=["maria (token 3)"])

    @classmethod
    def of(cls, row: models.Evaluation) -> "Scores":
        """From the catalogue."""
        figures = [Score(metric=s.metric, value=s.value, low=s.low, high=s.high, n=s.n) for s in row.scores]
        return cls(suite=row.suite, scores=figures, note=row.note, created_at=row.created_at, created_by=row.created_by)


class BaseSummary(Given):
    """The base of a version."""

    repo: str = Field(examples=["mistralai/Mistral-7B-Instruct-v0.3"])
    revision: str | None = Field(examples=[REVISION])
    kind: str = Field(examples=["hub"])


class Version(Given):
    """A version in a list."""

    ref: str = Field(examples=["elena@2"])
    number: int = Field(examples=[2])
    kind: str = Field(examples=["lora"], description="lora, or full for a model of its own.")
    state: str = Field(examples=["ready"])
    digest: str = Field(examples=[DIGEST])
    aliases: list[str] = Field(examples=[["live"]])
    dataset: str = Field(examples=[DIGEST])
    base: BaseSummary
    persona: int = Field(examples=[1])
    recipe_digest: str = Field(examples=[DIGEST])
    seed: int = Field(examples=[0])
    scores: list[Scores]
    created_at: dt.datetime = Field(examples=["2026-11-01T10:00:00Z"])
    created_by: str = Field(examples=["maria (token 3)"])
    ready_at: dt.datetime | None = Field(examples=["2026-11-01T10:00:05Z"])
    withdrawn_at: dt.datetime | None = Field(examples=[None])
    withdrawn_reason: str | None = Field(examples=[None])


class Run(Given):
    """The run that made a version."""

    kind: str = Field(examples=["training"])
    state: str = Field(examples=["succeeded"])
    spec: dict[str, Any] = Field(examples=[{"base": "mistralai/Mistral-7B-Instruct-v0.3", "seed": 0}])
    environment: dict[str, Any] | None = Field(examples=[{"torch": "2.13.0", "device": "cuda"}])
    timings: dict[str, Any] | None = Field(examples=[{"training": 412.5}])
    metrics: dict[str, Any] | None = Field(examples=[{"final_loss": 1.31}])
    started_at: dt.datetime = Field(examples=["2026-11-01T10:00:00Z"])
    finished_at: dt.datetime | None = Field(examples=["2026-11-01T10:07:00Z"])

    @classmethod
    def of(cls, row: models.Run) -> "Run":
        """From the catalogue."""
        return cls(
            kind=row.kind,
            state=row.state,
            spec=row.spec,
            environment=row.environment,
            timings=row.timings,
            metrics=row.metrics,
            started_at=row.started_at,
            finished_at=row.finished_at,
        )


class Checkpoint(Given):
    """An adapter kept on the way of the training. It is stored and verified, and not served."""

    step: int = Field(examples=[10])
    epoch: float = Field(examples=[1.5])
    learning_rate: float = Field(examples=[0.0001])
    sha256: str = Field(examples=[DIGEST])
    size: int = Field(examples=[13639936])


class VersionDetail(Version):
    """A version with its recipe, its files, its kept checkpoints and its run."""

    recipe: dict[str, Any] = Field(examples=[{"r": 16, "alpha": 32}])
    files: list[File]
    checkpoints: list[Checkpoint]
    run: Run | None


class Pending(Given):
    """A registration under way: upload what is `missing` (PUT /artifacts/{digest}), then finish. A `ready` version was registered before."""

    ref: str = Field(examples=["elena@3"])
    number: int = Field(examples=[3])
    state: str = Field(examples=["pending"])
    digest: str = Field(examples=[DIGEST])
    missing: list[str] = Field(examples=[[DIGEST]])


class Finish(Taken):
    """Proof for files that another advisor's version holds already; only tokens bound to one advisor need it."""

    digest: Digest = Field(description="The version's digest, as the registration gave it.")
    receipts: dict[str, str] = Field(
        default={}, max_length=10, description="Receipts by file digest, as the uploads gave them.", examples=[{}]
    )


class Verified(Given):
    """Every difference between what is recorded of a version and what its rows and bytes give; none means that all holds.

    `checkpoint_differences` tells of the adapters kept on the way of its training, which nobody is served: `holds` does not depend on them.
    """

    ref: str = Field(examples=["elena@2"])
    holds: bool = Field(examples=[True])
    differences: list[str] = Field(examples=[[]])
    checkpoint_differences: list[str] = Field(examples=[[]])


class Changed(Given):
    """A fact before and after."""

    what: str = Field(examples=["r"])
    before: Any = Field(examples=[8])
    after: Any = Field(examples=[16])


class DataChanged(Given):
    """Training pairs that came, went and stayed."""

    before: str = Field(examples=[DIGEST])
    after: str = Field(examples=[DIGEST])
    same: bool = Field(examples=[False])
    added: int = Field(examples=[120])
    removed: int = Field(examples=[4])
    kept: int = Field(examples=[388])
    heldout_before: int = Field(examples=[43])
    heldout_after: int = Field(examples=[51])


class SourceChanged(Given):
    """A source that one of two versions rests on."""

    id: str = Field(examples=["src_12"])
    title: str = Field(examples=["Burnout and Daily Recovery: A Day Reconstruction Study"])
    url: str | None = Field(examples=["https://doi.org/10.1037/a0036904"])


class ScoreChanged(Given):
    """A metric in two versions."""

    suite: str = Field(examples=["heldout"])
    metric: str = Field(examples=["loss"])
    before: float | None = Field(examples=[1.42])
    after: float | None = Field(examples=[1.31])


class Diff(Given):
    """What differs between two versions."""

    before: str = Field(examples=["elena@1"])
    after: str = Field(examples=["elena@2"])
    facts: list[Changed]
    recipe: list[Changed]
    data: DataChanged
    sources_added: list[SourceChanged]
    sources_removed: list[SourceChanged]
    scores: list[ScoreChanged]
    files: list[Changed]

    @classmethod
    def of(cls, value: VersionDiff) -> "Diff":
        """From lineage."""
        return cls.model_validate(value, from_attributes=True)


# ---- Aliases and history --------------------------------------------------------------------------------------------------------------------


class Alias(Given):
    """A movable name of a version. `generation` grows with each move; send it as If-Match to move it only from here."""

    alias: str = Field(examples=["live"])
    version: int | None = Field(examples=[2])
    ref: str | None = Field(examples=["elena@2"])
    generation: int = Field(examples=[3])
    moved_at: dt.datetime = Field(examples=["2026-11-20T09:00:00Z"])

    @classmethod
    def of(cls, row: models.Alias, slug: str) -> "Alias":
        """From the catalogue."""
        number = row.version.number if row.version is not None else None
        ref = f"{slug}@{number}" if number is not None else None
        return cls(alias=row.name, version=number, ref=ref, generation=row.generation, moved_at=row.moved_at)


class MoveIn(Taken):
    """Where an alias shall point. `expected_version` is the version it points to now, 0 for none."""

    version: int = Field(ge=1, le=999_999_999, examples=[2])
    reason: Text = Field(default="", examples=["Better on every held-out figure."])
    expected_version: int | None = Field(default=None, ge=0, le=999_999_999, examples=[1])
    dry_run: bool = False


class BackIn(Taken):
    """A rollback: to a version that the alias pointed to before, or to the nearest earlier one."""

    reason: Text = Field(examples=["Answers got longer overnight."])
    to: int | None = Field(default=None, ge=1, le=999_999_999, examples=[1])
    expected_version: int | None = Field(default=None, ge=0, le=999_999_999, examples=[2])
    dry_run: bool = False


class UndoIn(Taken):
    """An undo of an alias's last move, or its clearing."""

    reason: Text = Field(default="", examples=["Promoted by mistake."])
    expected_version: int | None = Field(default=None, ge=0, le=999_999_999, examples=[2])
    dry_run: bool = False


class Moved(Given):
    """A move, done or only planned (`done` false: nothing changed)."""

    advisor: str = Field(examples=["elena"])
    alias: str = Field(examples=["live"])
    before: int | None = Field(examples=[1])
    after: int | None = Field(examples=[2])
    kind: str = Field(examples=["promoted"])
    reason: str = Field(examples=["Better on every held-out figure."])
    generation: int = Field(examples=[3])
    done: bool = Field(examples=[True])

    @classmethod
    def of(cls, move: Move) -> "Moved":
        """From a move."""
        return cls.model_validate(move, from_attributes=True)


class PastMove(Given):
    """One move in an alias's history."""

    seq: int = Field(examples=[41])
    at: dt.datetime = Field(examples=["2026-11-20T09:00:00Z"])
    actor: str = Field(examples=["maria (token 3)"])
    kind: str = Field(examples=["promoted"])
    before: int | None = Field(examples=[1])
    after: int | None = Field(examples=[2])
    reason: str = Field(examples=["Better on every held-out figure."])
    generation: int = Field(examples=[3])

    @classmethod
    def of(cls, event: models.Event) -> "PastMove":
        """From the history."""
        body = body_of(event)
        return cls(
            seq=event.seq,
            at=event.at,
            actor=event.actor,
            kind=event.tag.partition(":")[2],
            before=body["from"],
            after=body["to"],
            reason=body["reason"],
            generation=body["generation"],
        )


class Resolved(Given):
    """Which version an alias meant, and at which moment in words."""

    alias: str = Field(examples=["live"])
    at: str | None = Field(description="The moment asked about; null for now.", examples=["the end of 2026-03-03 (UTC)"])
    version: Version


class Event(Given):
    """One event of the hash-chained history."""

    seq: int = Field(examples=[41])
    at: dt.datetime = Field(examples=["2026-11-20T09:00:00Z"])
    actor: str = Field(examples=["maria (token 3)"])
    tag: str = Field(examples=["alias:promoted"])
    advisor: str | None = Field(examples=["elena"])
    body: dict[str, Any] = Field(examples=[{"alias": "live", "from": 1, "to": 2, "reason": "", "generation": 3}])
    previous: str = Field(examples=[DIGEST])
    hash: str = Field(examples=[DIGEST])

    @classmethod
    def of(cls, event: models.Event, advisor: str | None) -> "Event":
        """From the history."""
        return cls(
            seq=event.seq,
            at=event.at,
            actor=event.actor,
            tag=event.tag,
            advisor=advisor,
            body=body_of(event),
            previous=event.previous,
            hash=event.hash,
        )


# ---- The rest -------------------------------------------------------------------------------------------------------------------------------


class Uploaded(Given):
    """A stored file. `receipt` proves later that the uploader had its bytes; only tokens bound to one advisor get and need one."""

    digest: str = Field(examples=[DIGEST])
    size: int = Field(examples=[13639936])
    receipt: str | None = Field(examples=[None])


class BaseIn(Taken):
    """A base model. `config` is its config.json; with it adapters are checked against the base's shapes."""

    repo: Annotated[str, Field(min_length=1, max_length=300)] = Field(examples=["mistralai/Mistral-7B-Instruct-v0.3"])
    revision: Annotated[str, Field(max_length=64)] | None = Field(default=None, examples=[REVISION])
    kind: Name = Field(default="hub", examples=["hub"])
    weights_sha256: Digest | None = None
    config: FreeJson | None = Field(default=None, examples=[{"model_type": "mistral", "hidden_size": 4096}])
    note: Text | None = Field(default=None, examples=["Apache-2.0"])


class Base(Given):
    """A registered base model."""

    id: int = Field(examples=[1])
    repo: str = Field(examples=["mistralai/Mistral-7B-Instruct-v0.3"])
    revision: str | None = Field(examples=[REVISION])
    kind: str = Field(examples=["hub"])
    weights_sha256: str | None = Field(examples=[None])
    note: str | None = Field(examples=["Apache-2.0"])
    created_at: dt.datetime = Field(examples=["2026-11-01T10:00:00Z"])

    @classmethod
    def of(cls, row: models.BaseModel) -> "Base":
        """From the catalogue."""
        return cls(
            id=row.id,
            repo=row.repo,
            revision=row.revision,
            kind=row.kind,
            weights_sha256=row.weights_sha256,
            note=row.note,
            created_at=row.created_at,
        )


class Document(Given):
    """What was read of a source; null is not recorded."""

    extent: str | None = Field(examples=["abstract"])
    retrieved_at: dt.datetime | None = Field(examples=[None])
    sha256: str | None = Field(examples=[None])


class Source(Given):
    """A source as it is recorded, its citation as CSL-JSON."""

    id: str = Field(examples=["src_12"])
    key: str = Field(examples=["doi:10.1037/a0036904"])
    title: str = Field(examples=["Burnout and Daily Recovery: A Day Reconstruction Study"])
    url: str | None = Field(examples=["https://doi.org/10.1037/a0036904"])
    doi: str | None = Field(examples=["10.1037/a0036904"])
    csl: dict[str, Any] = Field(examples=[{"type": "article-journal", "DOI": "10.1037/a0036904"}])
    class_: str = Field(serialization_alias="class", examples=["academic"])
    review_status: str = Field(examples=["peer_reviewed"])
    check_status: str = Field(examples=["unchecked"])
    check_registry: str | None = Field(examples=[None])
    checked_at: dt.datetime | None = Field(examples=[None])
    withdrawn_at: dt.datetime | None = Field(examples=[None])
    withdrawn_reason: str | None = Field(examples=[None])
    documents: list[Document]
    documents_total: int = Field(examples=[1])

    @classmethod
    def of(cls, row: models.Source, documents: list[models.Document], total: int) -> "Source":
        """From the catalogue."""
        return cls(
            id=source_id(row),
            key=row.key,
            title=title_of(row),
            url=row.url,
            doi=row.doi,
            csl=row.csl,
            class_=row.class_,
            review_status=row.review_status,
            check_status=row.check_status,
            check_registry=row.check_registry,
            checked_at=row.checked_at,
            withdrawn_at=row.withdrawn_at,
            withdrawn_reason=row.withdrawn_reason,
            documents=[Document(extent=d.extent, retrieved_at=d.retrieved_at, sha256=d.sha256) for d in documents],
            documents_total=total,
        )


class TokenIn(Taken):
    """A new token. `advisor` binds it to one advisor; `days` ends it, null never."""

    name: Name = Field(examples=["training machine"])
    scopes: list[Name] = Field(min_length=1, max_length=10, examples=[["read", "write"]])
    advisor: Name | None = Field(default=None, examples=["elena"])
    days: int | None = Field(default=90, ge=1, le=3650, examples=[90])


class Token(Given):
    """A token without its secret, which is stored nowhere."""

    id: int = Field(examples=[3])
    name: str = Field(examples=["training machine"])
    prefix: str = Field(examples=["art_q1w2e3r4"])
    scopes: list[str] = Field(examples=[["read", "write"]])
    advisor_bound: bool = Field(examples=[False])
    created_at: dt.datetime = Field(examples=["2026-11-01T10:00:00Z"])
    created_by: str = Field(examples=["root"])
    expires_at: dt.datetime | None = Field(examples=["2027-01-30T10:00:00Z"])
    revoked_at: dt.datetime | None = Field(examples=[None])

    @classmethod
    def of(cls, row: models.Token) -> "Token":
        """From the catalogue."""
        return cls(
            id=row.id,
            name=row.name,
            prefix=row.prefix,
            scopes=row.scopes,
            advisor_bound=row.advisor_id is not None,
            created_at=row.created_at,
            created_by=row.created_by,
            expires_at=row.expires_at,
            revoked_at=row.revoked_at,
        )


class TokenCreated(Given):
    """A new token. The secret is shown here once."""

    token: Token
    secret: str = Field(examples=["art_..."])


class Health(Given):
    """The process answers."""

    status: str = Field(examples=["ok"])


class Ready(Given):
    """The process can do its work: schema, database and store answer."""

    status: str = Field(examples=["ready"])
    schema_revision: str = Field(examples=["0001"])
    store: str = Field(examples=["reachable"])


class Audit(Given):
    """What the audit of the history found. Keep `seq` and `hash` elsewhere: only they show a cut tail later."""

    holds: bool = Field(examples=[True])
    faults: list[str] = Field(examples=[[]])
    seq: int = Field(examples=[41])
    hash: str = Field(examples=[DIGEST])
