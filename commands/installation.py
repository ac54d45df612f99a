"""The installation: make it, serve it, upgrade its schema."""

import asyncio
import datetime as dt
import importlib.util
import os
from typing import TYPE_CHECKING, Annotated

import typer

from commands.frame import app, db_app, open_catalogue
from registry.errors import Invalid

if TYPE_CHECKING:
    from registry.settings import Settings


@app.command()
def init() -> None:
    """Create or upgrade the catalogue and print the first admin token, once."""
    from registry import schema, tokens

    with open_catalogue(check=False) as opened:
        revision = schema.upgrade(opened.db)
        print(f"Catalogue {opened.db.place} at revision {revision}; files in {opened.store.location}.")
        _prepare_pipeline(opened.settings)
        print(_prepare_jobs(opened.settings))
        with opened.db.transaction() as session:
            if tokens.any_exist(session):
                print("A token was made before; make another with: registry tokens create NAME --scope admin")
                return
            created = tokens.create(session, "first admin", tokens.SCOPES, actor=opened.actor, lifetime=dt.timedelta(days=90))
        print("The first token, good for 90 days and shown this once (send it as 'Authorization: Bearer ...'):")
        print(created.secret)


def _prepare_pipeline(settings: "Settings") -> None:
    """Make the tables of pipeline runs where the catalogue is shared; a worker's role could not make them itself."""
    from pipeline.store import Workspace

    workspace = Workspace(settings.home, settings.database)
    workspace.prepare()
    if workspace.conninfo is not None and importlib.util.find_spec("langgraph") is not None:
        from pipeline.graph import prepare_checkpoints

        asyncio.run(prepare_checkpoints(workspace.conninfo))


def _prepare_jobs(settings: "Settings") -> str:
    """Make the tables of durable jobs where their engine is installed; the line that says so."""
    from registry.job_queue import JobQueue, require_packages

    try:
        require_packages()
    except Invalid as error:
        return f"No durable jobs: {error.message} {error.hint}, then run registry init again."
    queue = JobQueue.open(settings.home, settings.database)
    try:
        queue.prepare()
        return f"Durable jobs at {queue.place}."
    finally:
        queue.dispose()


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Number of worker processes.")] = 1,
) -> None:
    """Serve the API. Refuses to start on a catalogue of another schema revision."""
    import uvicorn

    with open_catalogue():
        pass  # the check, once and in words, before any worker starts
    uvicorn.run(
        "registry.app:create",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        loop="auto",
        http="httptools",
        access_log=False,
        timeout_graceful_shutdown=30,  # seconds; whoever follows a job would otherwise keep a stopped server up for minutes
    )


@db_app.command("upgrade")
def db_upgrade() -> None:
    """Bring the catalogue's schema to this program's revision."""
    from registry import schema

    with open_catalogue(check=False) as opened:
        print(f"Catalogue {opened.db.place} at revision {schema.upgrade(opened.db)}.")


@db_app.command("revision")
def db_revision() -> None:
    """Print the revision found and the one this program needs."""
    from registry.db import HEAD_REVISION

    with open_catalogue(check=False) as opened:
        print(f"found {opened.db.revision() or 'none'}, needed {HEAD_REVISION}")


@db_app.command("worker-role")
def db_worker_role(
    name: Annotated[str, typer.Argument(help="The role's name, such as registry_worker.")],
    apply: Annotated[bool, typer.Option("--apply", help="Run the statements instead of printing them.")] = False,
) -> None:
    """Print the SQL of a Postgres role that can only do a worker's work, for borrowed machines; --apply runs it.

    The password is never an argument: --apply takes it from REGISTRY_WORKER_PASSWORD, and without that the role keeps the one it has, or gets none.
    """
    from registry import worker_role

    with open_catalogue() as opened:
        if not apply:
            print(";\n".join(worker_role.plan(opened.db, name)) + ";")
            print(f"-- Set the password yourself, for example in psql: \\password {name}")
            return
        password = os.environ.get(worker_role.PASSWORD)
        worker_role.apply(opened.db, name, password)
        told = "its password was set" if password else f"its password was left alone (set one with {worker_role.PASSWORD}, or in psql)"
        print(f"The role {name} can do a worker's work in {opened.db.place}; {told}.")
