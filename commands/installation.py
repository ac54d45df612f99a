"""The installation: make it, serve it, upgrade its schema."""

import datetime as dt
from typing import Annotated

import typer

from commands.frame import app, db_app, open_catalogue


@app.command()
def init() -> None:
    """Create or upgrade the catalogue and print the first admin token, once."""
    from registry import schema, tokens

    with open_catalogue(check=False) as opened:
        revision = schema.upgrade(opened.db)
        print(f"Catalogue {opened.db.place} at revision {revision}; files in {opened.store.location}.")
        if opened.settings.database.startswith("postgresql"):
            from pipeline.store import Workspace

            Workspace(opened.settings.home, opened.settings.database).prepare()
        with opened.db.transaction() as session:
            if tokens.any_exist(session):
                print("A token was made before; make another with: registry tokens create NAME --scope admin")
                return
            created = tokens.create(session, "first admin", tokens.SCOPES, actor=opened.actor, lifetime=dt.timedelta(days=90))
        print("The first token, good for 90 days and shown this once (send it as 'Authorization: Bearer ...'):")
        print(created.secret)


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
    uvicorn.run("registry.app:create", factory=True, host=host, port=port, workers=workers, loop="auto", http="httptools", access_log=False)


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
