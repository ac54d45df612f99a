"""Runs the migrations on the connection that `registry.schema.upgrade` passes in, inside one transaction."""

from alembic import context
from sqlalchemy import Connection

from registry.db import VERSION_TABLE
from registry.models import Base

connection: Connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    compare_type=True,
    render_as_batch=connection.dialect.name == "sqlite",  # SQLite cannot alter a constraint in place
    user_module_prefix="registry.models.",
)
with context.begin_transaction():
    context.run_migrations()
