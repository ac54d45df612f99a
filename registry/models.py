"""The catalogue's tables and constraints; no behaviour.

Foreign keys are the lineage: a version names its dataset, base and run; a dataset lists its examples; an example names the documents it rests on;
a document names its source. Nothing here is updated after it is written, except: advisors (name, role, publicity, counter, retirement), sources
(class, checks, withdrawal), versions while they are pending and their withdrawal, runs while they go on, aliases, revoked tokens and the chain's head. For
versions, runs and the head the database itself refuses the rest, by triggers. The schema itself is Alembic's (migrations/).
"""

import datetime as dt
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from registry.vocabulary import CHECKS, CLASSES, EXTENTS, ORIGINS, REVIEW_STATUSES, ROLES, SPLITS, VERSION_KINDS, VERSION_STATES

NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[dt.datetime]):
    """A moment in UTC. SQLite has no time zones, so the zone is taken off when writing and put back when reading; naive values are refused."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        """To the database."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a moment without a time zone cannot be recorded")
        utc = value.astimezone(dt.UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        """From the database."""
        if value is None:
            return None
        return value.replace(tzinfo=dt.UTC) if dialect.name == "sqlite" else value.astimezone(dt.UTC)


JsonValue = JSON().with_variant(JSONB(), "postgresql")
Id = BigInteger().with_variant(Integer(), "sqlite")  # SQLite counts by itself only in an INTEGER primary key


def one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    """A CHECK that a column holds one of a few words."""
    words = ", ".join(f"'{v}'" for v in values)
    return CheckConstraint(f"{column} IN ({words})", name=f"{column}_known")


def digest_check(column: str) -> CheckConstraint:
    """A CHECK that a column looks like sha256:<64 hex>."""
    return CheckConstraint(f"length({column}) = 71 AND {column} LIKE 'sha256:%'", name=f"{column}_is_digest")


class Base(DeclarativeBase):
    """The declarative base; constraint names are fixed so that migrations can name them."""

    metadata = MetaData(naming_convention=NAMING)


class Advisor(Base):
    """One advisor. Retired, never erased: its version numbers must not start again at 1."""

    __tablename__ = "advisors"
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    slug: Mapped[str] = mapped_column(String(63), unique=True)
    name: Mapped[str] = mapped_column(String(200))
    role: Mapped[str | None] = mapped_column(String(200))
    public: Mapped[bool] = mapped_column(default=False, server_default=false())
    next_version: Mapped[int] = mapped_column(default=1, server_default="1")
    created_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    retired_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)


class AdvisorName(Base):
    """Every name an advisor answers to, its slug included: one namespace, so no alias can shadow another advisor."""

    __tablename__ = "advisor_names"
    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    advisor_id: Mapped[int] = mapped_column(ForeignKey("advisors.id"), index=True)


class Persona(Base):
    """One version of an advisor's system prompt; the highest number is the present one."""

    __tablename__ = "personas"
    __table_args__ = (UniqueConstraint("advisor_id", "number"), digest_check("sha256"))
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    advisor_id: Mapped[int] = mapped_column(ForeignKey("advisors.id"))
    number: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(71), index=True)
    text: Mapped[str] = mapped_column(Text)
    created_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    created_by: Mapped[str] = mapped_column(String(200))


class Source(Base):
    """One work: an article, a report, a page. `csl` is its citation as CSL-JSON; what an import did not bring is absent there."""

    __tablename__ = "sources"
    __table_args__ = (
        CheckConstraint("class IN ({})".format(", ".join(f"'{c}'" for c in CLASSES)), name="class_known"),
        one_of("review_status", REVIEW_STATUSES),
        one_of("check_status", CHECKS),
    )
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    key: Mapped[str] = mapped_column(String(2100), unique=True)
    url: Mapped[str | None] = mapped_column(Text)
    doi: Mapped[str | None] = mapped_column(String(300))
    csl: Mapped[dict[str, Any]] = mapped_column(JsonValue)
    class_: Mapped[str] = mapped_column("class", String(20))
    review_status: Mapped[str] = mapped_column(String(20))
    check_status: Mapped[str] = mapped_column(String(20), default="unchecked", server_default="unchecked")
    check_registry: Mapped[str | None] = mapped_column(String(100))
    checked_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    withdrawn_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    withdrawn_reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)


class SourceKey(Base):
    """Every identifier a source is known by (doi:..., canonical URLs), so that a pair may name any of them."""

    __tablename__ = "source_keys"
    key: Mapped[str] = mapped_column(String(2100), primary_key=True)
    source_id: Mapped[int] = mapped_column(ForeignKey("sources.id"), index=True)


class Document(Base):
    """What was really read of a source. Null means 'not recorded', never a guess."""

    __tablename__ = "documents"
    __table_args__ = (UniqueConstraint("source_id", "identity"), one_of("extent", EXTENTS))
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    source_id: Mapped[int] = mapped_column(ForeignKey("sources.id"))
    identity: Mapped[str] = mapped_column(String(71))
    extent: Mapped[str | None] = mapped_column(String(20))
    retrieved_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    sha256: Mapped[str | None] = mapped_column(String(71))
    source: Mapped[Source] = relationship()


class Example(Base):
    """One training pair or conversation, by content: the same text from the same documents is the same row, in however many datasets it stands."""

    __tablename__ = "examples"
    __table_args__ = (one_of("origin", ORIGINS), digest_check("sha256"))
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    sha256: Mapped[str] = mapped_column(String(71), unique=True)
    messages: Mapped[list[dict[str, str]]] = mapped_column(JsonValue)
    category: Mapped[str | None] = mapped_column(String(100))
    origin: Mapped[str] = mapped_column(String(20))
    generator: Mapped[str | None] = mapped_column(String(200))
    author: Mapped[dict[str, Any] | None] = mapped_column(JsonValue)
    read_by_people: Mapped[bool] = mapped_column(default=False, server_default=false())


class ExampleSource(Base):
    """A pair rests on a document, which shaped its question or its answer."""

    __tablename__ = "example_sources"
    __table_args__ = (one_of("role", ROLES), Index("ix_example_sources_document_id", "document_id"))
    example_id: Mapped[int] = mapped_column(ForeignKey("examples.id"), primary_key=True)
    document_id: Mapped[int] = mapped_column(ForeignKey("documents.id"), primary_key=True)
    role: Mapped[str] = mapped_column(String(10), primary_key=True)
    document: Mapped[Document] = relationship()


class Dataset(Base):
    """An immutable, ordered list of examples with its held-out split, one digest over all of it."""

    __tablename__ = "datasets"
    __table_args__ = (UniqueConstraint("advisor_id", "sha256"), digest_check("sha256"))
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    advisor_id: Mapped[int] = mapped_column(ForeignKey("advisors.id"))
    sha256: Mapped[str] = mapped_column(String(71), index=True)
    persona_id: Mapped[int] = mapped_column(ForeignKey("personas.id"))
    split: Mapped[dict[str, Any]] = mapped_column(JsonValue)
    examples_total: Mapped[int]
    heldout_total: Mapped[int]
    created_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    created_by: Mapped[str] = mapped_column(String(200))
    advisor: Mapped[Advisor] = relationship()
    persona: Mapped[Persona] = relationship()


class DatasetExample(Base):
    """The place of an example in a dataset, and on which side of the split it stands."""

    __tablename__ = "dataset_examples"
    __table_args__ = (one_of("split", SPLITS), Index("ix_dataset_examples_example_id", "example_id"))
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    example_id: Mapped[int] = mapped_column(ForeignKey("examples.id"))
    split: Mapped[str] = mapped_column(String(10))
    example: Mapped[Example] = relationship()


class BaseModel(Base):
    """A base model at one revision. A base without a hub revision gets the first 40 hex digits of its weights' sha256; unknown is null."""

    __tablename__ = "base_models"
    __table_args__ = (Index("uq_base_models_identity", "repo", "revision", unique=True, postgresql_nulls_not_distinct=True),)
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    repo: Mapped[str] = mapped_column(String(300))
    revision: Mapped[str | None] = mapped_column(String(40))
    kind: Mapped[str] = mapped_column(String(20))
    weights_sha256: Mapped[str | None] = mapped_column(String(71))
    config: Mapped[dict[str, Any] | None] = mapped_column(JsonValue)
    note: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)


class Run(Base):
    """One execution of a stage, also a failed one: what was asked, where it ran, how long each phase took."""

    __tablename__ = "runs"
    __table_args__ = (one_of("kind", ("pipeline", "training", "evaluation", "upload")), one_of("state", ("running", "succeeded", "failed")))
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    advisor_id: Mapped[int] = mapped_column(ForeignKey("advisors.id"), index=True)
    kind: Mapped[str] = mapped_column(String(20))
    state: Mapped[str] = mapped_column(String(20))
    spec: Mapped[dict[str, Any]] = mapped_column(JsonValue)
    spec_digest: Mapped[str] = mapped_column(String(71), index=True)
    environment: Mapped[dict[str, Any] | None] = mapped_column(JsonValue)
    timings: Mapped[dict[str, Any] | None] = mapped_column(JsonValue)
    metrics: Mapped[dict[str, Any] | None] = mapped_column(JsonValue)
    error: Mapped[str | None] = mapped_column(Text)
    started_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    finished_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    created_by: Mapped[str] = mapped_column(String(200))


class AdapterVersion(Base):
    """One version of one advisor's adapter. Its digest covers its files, dataset, base, recipe, persona and seed; immutable once ready.

    `kind` is lora, or full for a model of its own. `job` names the durable job that made it: a job that is taken up again finds its version by it.
    """

    __tablename__ = "adapter_versions"
    __table_args__ = (
        UniqueConstraint("advisor_id", "number"),
        one_of("state", VERSION_STATES),
        digest_check("digest"),
        one_of("kind", VERSION_KINDS),
        Index("ix_adapter_versions_spec", "advisor_id", "spec_digest"),
        Index("uq_adapter_versions_job", "job", unique=True),
    )
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    advisor_id: Mapped[int] = mapped_column(ForeignKey("advisors.id"))
    number: Mapped[int]
    state: Mapped[str] = mapped_column(String(20))
    kind: Mapped[str] = mapped_column(String(20), default="lora", server_default="lora")
    job: Mapped[str | None] = mapped_column(String(100))
    digest: Mapped[str] = mapped_column(String(71), index=True)
    spec_digest: Mapped[str] = mapped_column(String(71))
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"), index=True)
    base_model_id: Mapped[int] = mapped_column(ForeignKey("base_models.id"))
    persona_id: Mapped[int] = mapped_column(ForeignKey("personas.id"))
    run_id: Mapped[int | None] = mapped_column(ForeignKey("runs.id"))
    recipe: Mapped[dict[str, Any]] = mapped_column(JsonValue)
    recipe_digest: Mapped[str] = mapped_column(String(71))
    seed: Mapped[int]
    created_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    created_by: Mapped[str] = mapped_column(String(200))
    ready_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    withdrawn_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    withdrawn_reason: Mapped[str | None] = mapped_column(Text)
    advisor: Mapped[Advisor] = relationship()
    dataset: Mapped[Dataset] = relationship()
    base_model: Mapped[BaseModel] = relationship()
    persona: Mapped[Persona] = relationship()
    run: Mapped[Run | None] = relationship()
    files: Mapped[list["VersionFile"]] = relationship(order_by="VersionFile.path")
    checkpoints: Mapped[list["VersionCheckpoint"]] = relationship(order_by="VersionCheckpoint.step")


class Blob(Base):
    """Bytes that the artifact store holds and that were verified while they were written."""

    __tablename__ = "blobs"
    __table_args__ = (digest_check("sha256"),)
    sha256: Mapped[str] = mapped_column(String(71), primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)


class VersionFile(Base):
    """A file of a version. While the version is pending the bytes may still be on their way, so this does not reference blobs."""

    __tablename__ = "version_files"
    __table_args__ = (digest_check("sha256"),)
    version_id: Mapped[int] = mapped_column(ForeignKey("adapter_versions.id"), primary_key=True)
    path: Mapped[str] = mapped_column(String(200), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(71), index=True)
    size: Mapped[int] = mapped_column(BigInteger)


class VersionCheckpoint(Base):
    """An adapter as it was on the way of a training, for attributing answers to sources later: stored by content, never served."""

    __tablename__ = "version_checkpoints"
    __table_args__ = (digest_check("sha256"),)
    version_id: Mapped[int] = mapped_column(ForeignKey("adapter_versions.id"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    epoch: Mapped[float]
    learning_rate: Mapped[float]
    sha256: Mapped[str] = mapped_column(String(71), index=True)
    size: Mapped[int] = mapped_column(BigInteger)


class Alias(Base):
    """A movable name of an advisor's version (live, candidate, ...). `version_id` is null after an undo of the first move."""

    __tablename__ = "aliases"
    advisor_id: Mapped[int] = mapped_column(ForeignKey("advisors.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    version_id: Mapped[int | None] = mapped_column(ForeignKey("adapter_versions.id"), index=True)
    generation: Mapped[int] = mapped_column(default=1)
    moved_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    version: Mapped[AdapterVersion | None] = relationship()


class Evaluation(Base):
    """One suite of scores of one version; the newest of a suite is the one shown."""

    __tablename__ = "evaluations"
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("adapter_versions.id"), index=True)
    suite: Mapped[str] = mapped_column(String(200))
    run_id: Mapped[int | None] = mapped_column(ForeignKey("runs.id"))
    note: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    created_by: Mapped[str] = mapped_column(String(200))
    scores: Mapped[list["Score"]] = relationship(order_by="Score.metric")


class Score(Base):
    """One figure: its 95% interval where one was computed, and the number of items behind it."""

    __tablename__ = "scores"
    evaluation_id: Mapped[int] = mapped_column(ForeignKey("evaluations.id"), primary_key=True)
    metric: Mapped[str] = mapped_column(String(200), primary_key=True)
    value: Mapped[float]
    low: Mapped[float | None]
    high: Mapped[float | None]
    n: Mapped[int]


class Event(Base):
    """One thing that happened, for ever. `hash` covers the event and the hash before it."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_advisor", "advisor_id", "seq"), digest_check("hash"))
    seq: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=False)
    at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    actor: Mapped[str] = mapped_column(String(200))
    tag: Mapped[str] = mapped_column(String(100))
    advisor_id: Mapped[int | None] = mapped_column(ForeignKey("advisors.id"))
    body: Mapped[str] = mapped_column(Text)
    previous: Mapped[str] = mapped_column(String(71))
    hash: Mapped[str] = mapped_column(String(71))


class ChainHead(Base):
    """The last event's number and hash: one row, locked by whoever appends."""

    __tablename__ = "chain_head"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    seq: Mapped[int] = mapped_column(BigInteger)
    hash: Mapped[str] = mapped_column(String(71))


class Token(Base):
    """A bearer token, stored as the sha256 of its 256 random bits; the secret itself is shown once and never stored."""

    __tablename__ = "tokens"
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    prefix: Mapped[str] = mapped_column(String(16))
    sha256: Mapped[str] = mapped_column(String(71), unique=True)
    scopes: Mapped[list[str]] = mapped_column(JsonValue)
    advisor_id: Mapped[int | None] = mapped_column(ForeignKey("advisors.id"))
    created_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    created_by: Mapped[str] = mapped_column(String(200))
    expires_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
