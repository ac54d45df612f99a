"""Versions say what kind they are and which durable job made them; adapters kept on the way of a training; what is over is closed to changes.

The law "a version is immutable once ready" holds in the database itself from here on, on both: triggers refuse what the code never does, whoever asks.

Revision: 0002, after 0001.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

FROZEN = (
    "id", "advisor_id", "number", "kind", "job", "digest", "spec_digest", "dataset_id", "base_model_id", "persona_id", "run_id", "recipe", "recipe_digest",
    "seed", "created_at", "created_by", "ready_at",
)  # fmt: skip
LISTS = ("version_files", "version_checkpoints")
WITHDRAWAL = (
    "(OLD.state = 'withdrawn' AND (NEW.withdrawn_at IS DISTINCT FROM OLD.withdrawn_at OR NEW.withdrawn_reason IS DISTINCT FROM OLD.withdrawn_reason))"
    " OR (NEW.state <> 'withdrawn' AND (NEW.withdrawn_at IS NOT NULL OR NEW.withdrawn_reason IS NOT NULL))"
    " OR (NEW.state = 'withdrawn' AND (NEW.withdrawn_at IS NULL OR COALESCE(NEW.withdrawn_reason, '') = ''))"
)
# What a trigger refuses: (table, when, condition on the row before and after, the sentence). `<>` with null is neither, so what may be null is compared apart.
RULES = (
    (
        "adapter_versions",
        "UPDATE",
        "OLD.state <> 'pending' AND ({})".format(" OR ".join(f"NEW.{c} IS DISTINCT FROM OLD.{c}" for c in FROZEN)),
        "a version is immutable once it is ready",
    ),
    (
        "adapter_versions",
        "UPDATE",
        WITHDRAWAL,
        "a withdrawal has a moment and a reason, and stays",
    ),
    (
        "adapter_versions",
        "UPDATE",
        "NEW.state <> OLD.state AND NOT (OLD.state = 'pending' AND NEW.state = 'ready') AND NOT (OLD.state = 'ready' AND NEW.state = 'withdrawn')",
        "a version goes from pending to ready to withdrawn and no other way",
    ),
    ("adapter_versions", "DELETE", "OLD.state <> 'pending'", "a version stays on record"),
    ("runs", "UPDATE", "OLD.state <> 'running'", "a run that ended is not changed"),
    ("runs", "DELETE", "OLD.state <> 'running'", "a run that ended stays on record"),
    ("chain_head", "UPDATE", "NEW.id <> OLD.id OR NEW.seq <= OLD.seq", "the history goes forward only"),
    ("chain_head", "DELETE", "OLD.id = OLD.id", "the history keeps its head"),
)
CLOSED = "the files and checkpoints of a version are fixed once it is ready"


def upgrade() -> None:
    # In words of both databases: Alembic would rebuild the whole table on SQLite, which its foreign keys forbid inside a transaction.
    op.execute(
        "ALTER TABLE adapter_versions ADD COLUMN kind VARCHAR(20) DEFAULT 'lora' NOT NULL "
        "CONSTRAINT ck_adapter_versions_kind_known CHECK (kind IN ('lora', 'full'))"
    )
    op.execute("ALTER TABLE adapter_versions ADD COLUMN job VARCHAR(100)")
    op.create_index("uq_adapter_versions_job", "adapter_versions", ["job"], unique=True)

    op.create_table(
        "version_checkpoints",
        sa.Column("version_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("step", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.Double(), nullable=False),
        sa.Column("learning_rate", sa.Double(), nullable=False),
        sa.Column("sha256", sa.String(length=71), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("length(sha256) = 71 AND sha256 LIKE 'sha256:%'", name=op.f("ck_version_checkpoints_sha256_is_digest")),
        sa.ForeignKeyConstraint(["version_id"], ["adapter_versions.id"], name=op.f("fk_version_checkpoints_version_id_adapter_versions")),
        sa.PrimaryKeyConstraint("version_id", "step", name=op.f("pk_version_checkpoints")),
    )
    op.create_index("ix_version_checkpoints_sha256", "version_checkpoints", ["sha256"])
    if op.get_bind().dialect.name == "postgresql":
        _guard_postgres()
    else:
        _guard_sqlite()


def _guard_postgres() -> None:
    # The class of a broken constraint, as SQLite's triggers have it.
    op.execute(
        "CREATE FUNCTION registry_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION USING MESSAGE = TG_ARGV[0], ERRCODE = 'integrity_constraint_violation'; END $$"
    )
    for number, (table, when, condition, words) in enumerate(RULES):
        op.execute(
            f"CREATE TRIGGER registry_guard_{number} BEFORE {when} ON {table} FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION registry_refuse('{words}')"
        )
    # The table is named with its schema: whoever may make temporary tables could otherwise put one of the same name in front. The lock makes a change of the
    # list wait for a version that is being made ready at that moment.
    op.execute(
        "CREATE FUNCTION registry_refuse_closed() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$ "
        "DECLARE found text; place record; BEGIN "
        "FOREACH place IN ARRAY CASE TG_OP WHEN 'INSERT' THEN ARRAY[NEW] WHEN 'DELETE' THEN ARRAY[OLD] ELSE ARRAY[OLD, NEW] END LOOP "
        "EXECUTE format('SELECT state FROM %I.adapter_versions WHERE id = $1 FOR SHARE', TG_TABLE_SCHEMA) INTO found USING place.version_id; "
        "IF found <> 'pending' THEN RAISE EXCEPTION USING MESSAGE = TG_ARGV[0], ERRCODE = 'integrity_constraint_violation'; END IF; "
        "END LOOP; IF TG_OP = 'DELETE' THEN RETURN OLD; END IF; RETURN NEW; END $$"
    )
    for table in LISTS:
        op.execute(
            f"CREATE TRIGGER registry_guard_list BEFORE INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION registry_refuse_closed('{CLOSED}')"
        )


def _guard_sqlite() -> None:
    for number, (table, when, condition, words) in enumerate(RULES):
        _sqlite_trigger(f"registry_guard_{number}", table, when, condition.replace("IS DISTINCT FROM", "IS NOT"), words)
    for table in LISTS:
        for when, sides in (("INSERT", "NEW.version_id"), ("UPDATE", "OLD.version_id, NEW.version_id"), ("DELETE", "OLD.version_id")):
            closed = f"EXISTS (SELECT 1 FROM adapter_versions WHERE id IN ({sides}) AND state <> 'pending')"  # noqa: S608 - constants of this module
            _sqlite_trigger(f"registry_guard_{table}_{when.lower()}", table, when, closed, CLOSED)


def _sqlite_trigger(name: str, table: str, when: str, condition: str, words: str) -> None:
    op.execute(f"CREATE TRIGGER {name} BEFORE {when} ON {table} FOR EACH ROW WHEN {condition} BEGIN SELECT RAISE(ABORT, '{words}'); END")


def _unguard() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION registry_refuse() CASCADE")
        op.execute("DROP FUNCTION registry_refuse_closed() CASCADE")
        return
    names = [f"registry_guard_{number}" for number in range(len(RULES))]
    names += [f"registry_guard_{table}_{when}" for table in LISTS for when in ("insert", "update", "delete")]
    for name in names:
        op.execute(f"DROP TRIGGER {name}")


def downgrade() -> None:
    _unguard()
    op.drop_table("version_checkpoints")
    op.drop_index("uq_adapter_versions_job", "adapter_versions")
    op.execute("ALTER TABLE adapter_versions DROP COLUMN job")
    op.execute("ALTER TABLE adapter_versions DROP COLUMN kind")
