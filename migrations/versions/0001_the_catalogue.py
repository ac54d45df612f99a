"""The catalogue: every table, the head of the event chain, and on Postgres the triggers that tell caches of a change.

Revision: 0001, the first.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

GENESIS = "sha256:" + "0" * 64
# Whatever a public Source Card shows: a change in any of these must reach every worker's cache at once.
WATCHED = (
    "advisors",
    "advisor_names",
    "personas",
    "sources",
    "source_keys",
    "documents",
    "examples",
    "example_sources",
    "datasets",
    "dataset_examples",
    "base_models",
    "adapter_versions",
    "version_files",
    "aliases",
    "evaluations",
    "scores",
    "events",
)


def upgrade() -> None:
    op.create_table(
        "advisors",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("slug", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("role", sa.String(length=200), nullable=True),
        sa.Column("public", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("next_version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_advisors")),
        sa.UniqueConstraint("slug", name=op.f("uq_advisors_slug")),
    )
    op.create_table(
        "base_models",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("repo", sa.String(length=300), nullable=False),
        sa.Column("revision", sa.String(length=40), nullable=True),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("weights_sha256", sa.String(length=71), nullable=True),
        sa.Column("config", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_base_models")),
    )
    with op.batch_alter_table("base_models", schema=None) as batch_op:
        batch_op.create_index("uq_base_models_identity", ["repo", "revision"], unique=True, postgresql_nulls_not_distinct=True)

    op.create_table(
        "blobs",
        sa.Column("sha256", sa.String(length=71), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("length(sha256) = 71 AND sha256 LIKE 'sha256:%'", name=op.f("ck_blobs_sha256_is_digest")),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_blobs")),
    )
    op.create_table(
        "chain_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(length=71), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chain_head")),
    )
    op.create_table(
        "examples",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("sha256", sa.String(length=71), nullable=False),
        sa.Column("messages", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=False),
        sa.Column("category", sa.String(length=100), nullable=True),
        sa.Column("origin", sa.String(length=20), nullable=False),
        sa.Column("generator", sa.String(length=200), nullable=True),
        sa.Column("author", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=True),
        sa.Column("read_by_people", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.CheckConstraint("length(sha256) = 71 AND sha256 LIKE 'sha256:%'", name=op.f("ck_examples_sha256_is_digest")),
        sa.CheckConstraint("origin IN ('human', 'synthesised', 'edited')", name=op.f("ck_examples_origin_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_examples")),
        sa.UniqueConstraint("sha256", name=op.f("uq_examples_sha256")),
    )
    op.create_table(
        "sources",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("key", sa.String(length=2100), nullable=False),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column("doi", sa.String(length=300), nullable=True),
        sa.Column("csl", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=False),
        sa.Column("class", sa.String(length=20), nullable=False),
        sa.Column("review_status", sa.String(length=20), nullable=False),
        sa.Column("check_status", sa.String(length=20), server_default="unchecked", nullable=False),
        sa.Column("check_registry", sa.String(length=100), nullable=True),
        sa.Column("checked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("withdrawn_reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "check_status IN ('unchecked', 'verified', 'mismatched', 'not_found', 'retracted')", name=op.f("ck_sources_check_status_known")
        ),
        sa.CheckConstraint(
            "class IN ('academic', 'institutional', 'industry', 'professional', 'clinical', 'community', 'unclassified')",
            name=op.f("ck_sources_class_known"),
        ),
        sa.CheckConstraint(
            "review_status IN ('peer_reviewed', 'guideline', 'preprint', 'editorial', 'self_published', 'unknown')",
            name=op.f("ck_sources_review_status_known"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sources")),
        sa.UniqueConstraint("key", name=op.f("uq_sources_key")),
    )
    op.create_table(
        "advisor_names",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("advisor_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.ForeignKeyConstraint(["advisor_id"], ["advisors.id"], name=op.f("fk_advisor_names_advisor_id_advisors")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_advisor_names")),
    )
    with op.batch_alter_table("advisor_names", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_advisor_names_advisor_id"), ["advisor_id"], unique=False)

    op.create_table(
        "documents",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("source_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("identity", sa.String(length=71), nullable=False),
        sa.Column("extent", sa.String(length=20), nullable=True),
        sa.Column("retrieved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("sha256", sa.String(length=71), nullable=True),
        sa.CheckConstraint("extent IN ('full_text', 'abstract', 'excerpt', 'metadata_only')", name=op.f("ck_documents_extent_known")),
        sa.ForeignKeyConstraint(["source_id"], ["sources.id"], name=op.f("fk_documents_source_id_sources")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_documents")),
        sa.UniqueConstraint("source_id", "identity", name=op.f("uq_documents_source_id_identity")),
    )
    op.create_table(
        "events",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("tag", sa.String(length=100), nullable=False),
        sa.Column("advisor_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("previous", sa.String(length=71), nullable=False),
        sa.Column("hash", sa.String(length=71), nullable=False),
        sa.CheckConstraint("length(hash) = 71 AND hash LIKE 'sha256:%'", name=op.f("ck_events_hash_is_digest")),
        sa.ForeignKeyConstraint(["advisor_id"], ["advisors.id"], name=op.f("fk_events_advisor_id_advisors")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_events")),
    )
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.create_index("ix_events_advisor", ["advisor_id", "seq"], unique=False)

    op.create_table(
        "personas",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("advisor_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(length=71), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=200), nullable=False),
        sa.CheckConstraint("length(sha256) = 71 AND sha256 LIKE 'sha256:%'", name=op.f("ck_personas_sha256_is_digest")),
        sa.ForeignKeyConstraint(["advisor_id"], ["advisors.id"], name=op.f("fk_personas_advisor_id_advisors")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_personas")),
        sa.UniqueConstraint("advisor_id", "number", name=op.f("uq_personas_advisor_id_number")),
    )
    with op.batch_alter_table("personas", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_personas_sha256"), ["sha256"], unique=False)

    op.create_table(
        "runs",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("advisor_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("spec", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=False),
        sa.Column("spec_digest", sa.String(length=71), nullable=False),
        sa.Column("environment", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=True),
        sa.Column("timings", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=True),
        sa.Column("metrics", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_by", sa.String(length=200), nullable=False),
        sa.CheckConstraint("kind IN ('pipeline', 'training', 'evaluation', 'upload')", name=op.f("ck_runs_kind_known")),
        sa.CheckConstraint("state IN ('running', 'succeeded', 'failed')", name=op.f("ck_runs_state_known")),
        sa.ForeignKeyConstraint(["advisor_id"], ["advisors.id"], name=op.f("fk_runs_advisor_id_advisors")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
    )
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_runs_advisor_id"), ["advisor_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_runs_spec_digest"), ["spec_digest"], unique=False)

    op.create_table(
        "source_keys",
        sa.Column("key", sa.String(length=2100), nullable=False),
        sa.Column("source_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.ForeignKeyConstraint(["source_id"], ["sources.id"], name=op.f("fk_source_keys_source_id_sources")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_source_keys")),
    )
    with op.batch_alter_table("source_keys", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_source_keys_source_id"), ["source_id"], unique=False)

    op.create_table(
        "tokens",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("prefix", sa.String(length=16), nullable=False),
        sa.Column("sha256", sa.String(length=71), nullable=False),
        sa.Column("scopes", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=False),
        sa.Column("advisor_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=200), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["advisor_id"], ["advisors.id"], name=op.f("fk_tokens_advisor_id_advisors")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("sha256", name=op.f("uq_tokens_sha256")),
    )
    op.create_table(
        "datasets",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("advisor_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("sha256", sa.String(length=71), nullable=False),
        sa.Column("persona_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("split", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=False),
        sa.Column("examples_total", sa.Integer(), nullable=False),
        sa.Column("heldout_total", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=200), nullable=False),
        sa.CheckConstraint("length(sha256) = 71 AND sha256 LIKE 'sha256:%'", name=op.f("ck_datasets_sha256_is_digest")),
        sa.ForeignKeyConstraint(["advisor_id"], ["advisors.id"], name=op.f("fk_datasets_advisor_id_advisors")),
        sa.ForeignKeyConstraint(["persona_id"], ["personas.id"], name=op.f("fk_datasets_persona_id_personas")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datasets")),
        sa.UniqueConstraint("advisor_id", "sha256", name=op.f("uq_datasets_advisor_id_sha256")),
    )
    with op.batch_alter_table("datasets", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_datasets_sha256"), ["sha256"], unique=False)

    op.create_table(
        "example_sources",
        sa.Column("example_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("document_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("role", sa.String(length=10), nullable=False),
        sa.CheckConstraint("role IN ('answer', 'question')", name=op.f("ck_example_sources_role_known")),
        sa.ForeignKeyConstraint(["document_id"], ["documents.id"], name=op.f("fk_example_sources_document_id_documents")),
        sa.ForeignKeyConstraint(["example_id"], ["examples.id"], name=op.f("fk_example_sources_example_id_examples")),
        sa.PrimaryKeyConstraint("example_id", "document_id", "role", name=op.f("pk_example_sources")),
    )
    with op.batch_alter_table("example_sources", schema=None) as batch_op:
        batch_op.create_index("ix_example_sources_document_id", ["document_id"], unique=False)

    op.create_table(
        "adapter_versions",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("advisor_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("spec_digest", sa.String(length=71), nullable=False),
        sa.Column("dataset_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("base_model_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("persona_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("run_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("recipe", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=False),
        sa.Column("recipe_digest", sa.String(length=71), nullable=False),
        sa.Column("seed", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=200), nullable=False),
        sa.Column("ready_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("withdrawn_reason", sa.Text(), nullable=True),
        sa.CheckConstraint("length(digest) = 71 AND digest LIKE 'sha256:%'", name=op.f("ck_adapter_versions_digest_is_digest")),
        sa.CheckConstraint("state IN ('pending', 'ready', 'withdrawn')", name=op.f("ck_adapter_versions_state_known")),
        sa.ForeignKeyConstraint(["advisor_id"], ["advisors.id"], name=op.f("fk_adapter_versions_advisor_id_advisors")),
        sa.ForeignKeyConstraint(["base_model_id"], ["base_models.id"], name=op.f("fk_adapter_versions_base_model_id_base_models")),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name=op.f("fk_adapter_versions_dataset_id_datasets")),
        sa.ForeignKeyConstraint(["persona_id"], ["personas.id"], name=op.f("fk_adapter_versions_persona_id_personas")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_adapter_versions_run_id_runs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_adapter_versions")),
        sa.UniqueConstraint("advisor_id", "number", name=op.f("uq_adapter_versions_advisor_id_number")),
    )
    with op.batch_alter_table("adapter_versions", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_adapter_versions_dataset_id"), ["dataset_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_adapter_versions_digest"), ["digest"], unique=False)
        batch_op.create_index("ix_adapter_versions_spec", ["advisor_id", "spec_digest"], unique=False)

    op.create_table(
        "dataset_examples",
        sa.Column("dataset_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("example_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("split", sa.String(length=10), nullable=False),
        sa.CheckConstraint("split IN ('train', 'heldout')", name=op.f("ck_dataset_examples_split_known")),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name=op.f("fk_dataset_examples_dataset_id_datasets")),
        sa.ForeignKeyConstraint(["example_id"], ["examples.id"], name=op.f("fk_dataset_examples_example_id_examples")),
        sa.PrimaryKeyConstraint("dataset_id", "position", name=op.f("pk_dataset_examples")),
    )
    with op.batch_alter_table("dataset_examples", schema=None) as batch_op:
        batch_op.create_index("ix_dataset_examples_example_id", ["example_id"], unique=False)

    op.create_table(
        "aliases",
        sa.Column("advisor_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("version_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("moved_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["advisor_id"], ["advisors.id"], name=op.f("fk_aliases_advisor_id_advisors")),
        sa.ForeignKeyConstraint(["version_id"], ["adapter_versions.id"], name=op.f("fk_aliases_version_id_adapter_versions")),
        sa.PrimaryKeyConstraint("advisor_id", "name", name=op.f("pk_aliases")),
    )
    with op.batch_alter_table("aliases", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_aliases_version_id"), ["version_id"], unique=False)

    op.create_table(
        "evaluations",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("version_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("suite", sa.String(length=200), nullable=False),
        sa.Column("run_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_evaluations_run_id_runs")),
        sa.ForeignKeyConstraint(["version_id"], ["adapter_versions.id"], name=op.f("fk_evaluations_version_id_adapter_versions")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluations")),
    )
    with op.batch_alter_table("evaluations", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_evaluations_version_id"), ["version_id"], unique=False)

    op.create_table(
        "version_files",
        sa.Column("version_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("path", sa.String(length=200), nullable=False),
        sa.Column("sha256", sa.String(length=71), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("length(sha256) = 71 AND sha256 LIKE 'sha256:%'", name=op.f("ck_version_files_sha256_is_digest")),
        sa.ForeignKeyConstraint(["version_id"], ["adapter_versions.id"], name=op.f("fk_version_files_version_id_adapter_versions")),
        sa.PrimaryKeyConstraint("version_id", "path", name=op.f("pk_version_files")),
    )
    with op.batch_alter_table("version_files", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_version_files_sha256"), ["sha256"], unique=False)

    op.create_table(
        "scores",
        sa.Column("evaluation_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("metric", sa.String(length=200), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("low", sa.Double(), nullable=True),
        sa.Column("high", sa.Double(), nullable=True),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["evaluation_id"], ["evaluations.id"], name=op.f("fk_scores_evaluation_id_evaluations")),
        sa.PrimaryKeyConstraint("evaluation_id", "metric", name=op.f("pk_scores")),
    )

    chain = sa.table("chain_head", sa.column("id", sa.Integer), sa.column("seq", sa.BigInteger), sa.column("hash", sa.String))
    op.bulk_insert(chain, [{"id": 1, "seq": 0, "hash": GENESIS}])
    if op.get_bind().dialect.name == "postgresql":
        _watch()


def _watch() -> None:
    # One statement-level trigger a table; Postgres folds equal notifications of one transaction into one and sends it at commit.
    op.execute(
        "CREATE FUNCTION registry_notify() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_notify('registry_catalogue', ''); RETURN NULL; END $$"
    )
    for table in WATCHED:
        op.execute(
            f"CREATE TRIGGER registry_notify AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION registry_notify()"
        )


def downgrade() -> None:
    op.drop_table("scores")
    with op.batch_alter_table("version_files", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_version_files_sha256"))

    op.drop_table("version_files")
    with op.batch_alter_table("evaluations", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_evaluations_version_id"))

    op.drop_table("evaluations")
    with op.batch_alter_table("aliases", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_aliases_version_id"))

    op.drop_table("aliases")
    with op.batch_alter_table("dataset_examples", schema=None) as batch_op:
        batch_op.drop_index("ix_dataset_examples_example_id")

    op.drop_table("dataset_examples")
    with op.batch_alter_table("adapter_versions", schema=None) as batch_op:
        batch_op.drop_index("ix_adapter_versions_spec")
        batch_op.drop_index(batch_op.f("ix_adapter_versions_digest"))
        batch_op.drop_index(batch_op.f("ix_adapter_versions_dataset_id"))

    op.drop_table("adapter_versions")
    with op.batch_alter_table("example_sources", schema=None) as batch_op:
        batch_op.drop_index("ix_example_sources_document_id")

    op.drop_table("example_sources")
    with op.batch_alter_table("datasets", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_datasets_sha256"))

    op.drop_table("datasets")
    op.drop_table("tokens")
    with op.batch_alter_table("source_keys", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_source_keys_source_id"))

    op.drop_table("source_keys")
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_runs_spec_digest"))
        batch_op.drop_index(batch_op.f("ix_runs_advisor_id"))

    op.drop_table("runs")
    with op.batch_alter_table("personas", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_personas_sha256"))

    op.drop_table("personas")
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.drop_index("ix_events_advisor")

    op.drop_table("events")
    op.drop_table("documents")
    with op.batch_alter_table("advisor_names", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_advisor_names_advisor_id"))

    op.drop_table("advisor_names")
    op.drop_table("sources")
    op.drop_table("examples")
    op.drop_table("chain_head")
    op.drop_table("blobs")
    with op.batch_alter_table("base_models", schema=None) as batch_op:
        batch_op.drop_index("uq_base_models_identity", postgresql_nulls_not_distinct=True)

    op.drop_table("base_models")
    op.drop_table("advisors")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION registry_notify()")
