"""A Postgres role that can do a worker's work and nothing else, for machines that are only borrowed.

Rules: what is not granted here is refused by the database itself. A worker curates, trains, registers and promotes, so it adds datasets, versions, scores
and events, moves aliases, and reads the rest; it never sees a token, never changes an event, a persona or an advisor's names, and makes no table. Of what it
may change, triggers of the catalogue let it touch only what is not over yet: a pending version, a running run, the chain's head forward (migration 0002).
Granting begins by taking everything away, so that running it again after an upgrade leaves nothing from before. A role that is more than a worker's (a
superuser, an owner of tables, a member of another role) is refused rather than changed. No password is ever printed: it is set as a SCRAM verifier, or by
whoever runs the statements.
What it cannot prevent: a machine that holds this role can register bad work and move aliases, which the history shows. It keeps secrets and the past safe,
not the future.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import text

from registry import job_board, job_queue
from registry.db import VERSION_TABLE, Database, words_for_outages
from registry.errors import Conflict, Invalid, Unavailable
from registry.models import Base

PIPELINE_SCHEMA = "registry_pipeline"  # pipeline.store's; a test keeps the two equal
PASSWORD = "REGISTRY_WORKER_PASSWORD"  # noqa: S105 - the name of the variable that may hold one
HIDDEN = frozenset({"tokens"})
ADDED = (
    "sources", "source_keys", "documents", "examples", "example_sources", "datasets", "dataset_examples", "base_models", "runs", "adapter_versions",
    "version_files", "version_checkpoints", "blobs", "aliases", "evaluations", "scores", "events",
)  # fmt: skip
CHANGED: Mapping[str, Sequence[str]] = {
    "advisors": ("next_version",),  # also what lets a registration lock the advisor's row
    "runs": ("state", "error", "finished_at", "environment", "timings", "metrics"),
    # A rerun takes over a pending version, whatever it was to be; triggers of the catalogue refuse all of it once the version is ready.
    "adapter_versions": (
        "state", "ready_at", "kind", "job", "digest", "spec_digest", "dataset_id", "base_model_id", "persona_id", "run_id", "recipe", "recipe_digest", "seed",
        "created_by",
    ),
    "version_files": ("sha256", "size"),
    "aliases": ("version_id", "generation", "moved_at"),
    "chain_head": ("seq", "hash"),
}  # fmt: skip
REMOVED = ("version_files", "version_checkpoints")  # a rerun replaces the list of a version that is not ready yet
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_FLAGS = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT NOREPLICATION NOBYPASSRLS"


def statements(role: str, *, database: str, schema: str = "public") -> list[str]:
    """The SQL that makes or re-makes the role, in order; run it in one transaction as whoever owns the tables. Raises Invalid for a name that needs quotes."""
    if not _NAME.fullmatch(role) or role.startswith("pg_"):
        raise Invalid(
            f"A worker's role is named with a-z, 0-9 and '_', starts with a letter and not with pg_; found {role[:80]!a}.",
            hint="Use a name such as registry_worker.",
        )
    return [
        f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN CREATE ROLE {role}; END IF; END $$",
        f"ALTER ROLE {role} WITH {_FLAGS}",
        f"GRANT CONNECT ON DATABASE {_quoted(database)} TO {role}",
        *_taken_away(role, schema),
        *_catalogue(role, _quoted(schema)),
        *_jobs(role),
        *_everything(role, job_queue.SCHEMA),
        f"REVOKE INSERT, UPDATE, DELETE ON {job_queue.SCHEMA}.dbos_migrations FROM {role}",
        *_everything(role, PIPELINE_SCHEMA),
    ]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _taken_away(role: str, schema: str) -> list[str]:
    places = (_quoted(schema), job_board.SCHEMA, job_queue.SCHEMA, PIPELINE_SCHEMA)
    kinds = ("ALL TABLES IN SCHEMA", "ALL SEQUENCES IN SCHEMA", "SCHEMA")
    return [f"REVOKE ALL ON {kind} {place} FROM {role}" for place in places for kind in kinds]


def _catalogue(role: str, schema: str) -> list[str]:
    tables = Base.metadata.sorted_tables
    seen = [table.name for table in tables if table.name not in HIDDEN] + [VERSION_TABLE]
    numbered = [t.name for t in tables if t.name in ADDED and "id" in t.c and t.c.id.primary_key]

    def named(names: Sequence[str]) -> str:
        return ", ".join(f"{schema}.{name}" for name in names)

    return [
        f"GRANT USAGE ON SCHEMA {schema} TO {role}",
        f"GRANT SELECT ON {named(seen)} TO {role}",
        f"GRANT INSERT ON {named(ADDED)} TO {role}",
        f"GRANT USAGE ON SEQUENCE {named([f'{name}_id_seq' for name in numbered])} TO {role}",
        *(f"GRANT UPDATE ({', '.join(columns)}) ON {schema}.{name} TO {role}" for name, columns in CHANGED.items()),
        f"GRANT DELETE ON {named(REMOVED)} TO {role}",
    ]


def _jobs(role: str) -> list[str]:
    place = job_board.SCHEMA
    return [
        f"GRANT USAGE ON SCHEMA {place} TO {role}",
        f"GRANT SELECT ON {place}.jobs TO {role}",  # it reads orders and gives none
        f"GRANT SELECT, INSERT ON {place}.lines TO {role}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {place}.workers TO {role}",
    ]


def _everything(role: str, place: str) -> list[str]:
    return [
        f"GRANT USAGE ON SCHEMA {place} TO {role}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {place} TO {role}",
        f"GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {place} TO {role}",
        f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {place} TO {role}",
    ]


def plan(db: Database, role: str) -> list[str]:
    """The statements for this catalogue, after a look at what is there. Changes nothing.

    Raises Invalid on SQLite and for a bad name, Unavailable where `registry init` has not made every schema, Conflict for a role that is more than a worker's.
    """
    if db.is_sqlite:
        raise Invalid(
            "A role for workers needs a shared catalogue on Postgres; this one is a SQLite file, which has no roles.",
            hint="On SQLite a worker runs where the catalogue is.",
        )
    with words_for_outages(), db.engine.connect() as connection:
        database, schema, me = connection.execute(text("SELECT current_database(), current_schema(), current_user")).one()
        made = statements(role, database=database, schema=schema)
        wanted = {job_board.SCHEMA, job_queue.SCHEMA, PIPELINE_SCHEMA}
        found = set(connection.execute(text("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'registry%'")).scalars())
        if wanted - found:
            raise Unavailable(f"These schemas were not made yet: {', '.join(sorted(wanted - found))}.", hint="Run: registry init")
        _refuse_more_than_a_worker(connection, role, me)
        if _anyone_may_create(connection, schema):
            made.append(
                f"REVOKE CREATE ON SCHEMA {_quoted(schema)} FROM PUBLIC"
            )  # servers before Postgres 15 let everybody make tables there
    return made


def _refuse_more_than_a_worker(connection: Any, role: str, me: str) -> None:
    facts = connection.execute(
        text(
            "SELECT r.rolsuper OR r.rolcreaterole OR r.rolreplication OR r.rolbypassrls AS mighty,"
            " EXISTS (SELECT FROM pg_class c WHERE c.relowner = r.oid) AS owner,"
            " EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid) AS member FROM pg_roles r WHERE r.rolname = :role"
        ),
        {"role": role},
    ).one_or_none()
    reasons = [] if facts is None else [
        words
        for is_so, words in (
            (role == me, "it is the one you are connected as"),
            (facts.mighty, "it has rights over the whole server"),
            (facts.owner, "it owns tables"),
            (facts.member, "it is a member of another role"),
        )
        if is_so
    ]  # fmt: skip
    if reasons:
        raise Conflict(
            f"The role '{role}' exists and is more than a worker's: {' and '.join(reasons)}.", hint="Choose a name for a new role."
        )


def _anyone_may_create(connection: Any, schema: str) -> bool:
    query = "SELECT has_schema_privilege('public', :schema, 'CREATE')"
    return bool(connection.execute(text(query), {"schema": schema}).scalar())


def apply(db: Database, role: str, password: str | None = None) -> None:
    """Run the plan in one transaction; set a password where one is given, as a SCRAM verifier that logs and statistics may show. Raises like `plan`."""
    planned = plan(db, role)
    with words_for_outages(), db.engine.begin() as connection:
        for statement in planned:
            connection.exec_driver_sql(statement)
        if password:
            driver = connection.connection.driver_connection
            assert driver is not None  # noqa: S101 - the connection is open
            verifier = driver.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
            connection.exec_driver_sql(f"ALTER ROLE {role} WITH PASSWORD '{verifier}'")
