"""Brings a catalogue's schema to a revision. The only module of the product that imports Alembic, and only `registry init` and `registry db` call it."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import text

import migrations
from registry.db import Database, words_for_outages

# Any number will do, as long as every installation uses the same one: two upgrades at once wait for each other on Postgres.
_LOCK = 7_203_114


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return config


def upgrade(db: Database, revision: str = "head") -> str:
    """Bring the schema to `revision` in one transaction and return the revision reached. Raises Unavailable when the database does not answer."""
    return _run(db, revision, down=False)


def downgrade(db: Database, revision: str) -> str:
    """Bring the schema back to an earlier `revision` ('base' empties the catalogue)."""
    return _run(db, revision, down=True)


def _run(db: Database, revision: str, *, down: bool) -> str:
    config = _config()
    with words_for_outages(), db.engine.execution_options(registry_write=True).connect() as connection:
        if not db.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        config.attributes["connection"] = connection
        (command.downgrade if down else command.upgrade)(config, revision)
        connection.commit()
    return db.revision() or "base"


def check(db: Database) -> None:
    """Compare models and database; raises alembic.util.CommandError where a migration is missing. For the tests."""
    config = _config()
    with db.engine.connect() as connection:
        config.attributes["connection"] = connection
        command.check(config)


def make_revision(db: Database, message: str, rev_id: str) -> None:
    """Write a new script into migrations/versions from the difference between models and database. For developers."""
    config = _config()
    with db.engine.connect() as connection:
        config.attributes["connection"] = connection
        command.revision(config, message, autogenerate=True, rev_id=rev_id)
