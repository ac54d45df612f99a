"""Versions say what kind they are and which durable job made them; adapters kept on the way of a training.

Revision: 0002, after 0001.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


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


def downgrade() -> None:
    op.drop_table("version_checkpoints")
    op.drop_index("uq_adapter_versions_job", "adapter_versions")
    op.execute("ALTER TABLE adapter_versions DROP COLUMN job")
    op.execute("ALTER TABLE adapter_versions DROP COLUMN kind")
