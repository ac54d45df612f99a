"""Puts the API together: `create_app(settings)` gives the application that registry/app.py serves and the tests call.

It refuses to start on a catalogue of another revision, and with a route that declares no permission: a new route is closed until somebody says for whom
it is open.
"""

from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from registry.api import (
    advisors,
    aliases,
    artifacts,
    bases,
    datasets,
    docs,
    errors,
    health,
    history,
    jobs,
    personas,
    sources,
    tokens,
    versions,
)
from registry.api.deps import Room, is_known
from registry.api.edge import SECURITY, Edge, Hosts, Origins
from registry.artifacts import ArtifactStore, open_store
from registry.db import Database
from registry.settings import Settings

_ROUTERS = (advisors, personas, datasets, versions, aliases, sources, artifacts, bases, jobs, tokens, history, health, docs)


def create_app(settings: Settings, database: Database | None = None, store: ArtifactStore | None = None) -> FastAPI:
    """The API over a catalogue and a store, those of the settings where none are given. Raises WrongRevision, naming the command that helps, and Unavailable."""
    db = database or Database(settings.database, pool_size=settings.pool_size)
    db.require_head()
    kept = store or open_store(settings.artifact_location, s3_endpoint=settings.s3_endpoint, s3_region=settings.s3_region)
    app = FastAPI(title="Adapter Registry", version=_version(), openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.room = Room(settings, db, kept)
    for module in _ROUTERS:
        app.router.routes.extend(module.routes.routes)  # flat, so that whoever walks the routes meets every one
    require_permissions(app.routes)
    app.add_middleware(
        Edge, hosts=Hosts(settings.allowed_hosts), origins=Origins(settings.cors_origins), known=lambda header: is_known(db, header)
    )
    errors.install(app, {name.decode(): value.decode() for name, value in SECURITY})
    app.openapi = lambda: docs.describe(app)  # type: ignore[method-assign]
    return app


def require_permissions(routes: list[BaseRoute]) -> None:
    """Raise unless every route declares who may call it."""
    open_ones = [str(getattr(route, "path", route)) for route in routes if not isinstance(route, APIRoute) or docs.declared(route) is None]
    if open_ones:
        raise RuntimeError(f"these routes declare no permission: {', '.join(open_ones)}")


def _version() -> str:
    try:
        return version("adapter-registry")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "0"
