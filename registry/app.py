"""The composition root that uvicorn imports: `uvicorn --factory registry.app:create`.

From outside in: the cache of public cards, zero-copy sending of files, the API with its edge. Run it with uvloop and httptools.
"""

from fastapi import FastAPI
from starlette.types import ASGIApp

from registry.api.app import create_app
from registry.api.downloads import ZeroCopy
from registry.api.edge import Hosts, Origins
from registry.api.jobs import end_streams_with_process
from registry.card_cache import CardCache, watch_of
from registry.settings import get_settings


def create() -> ASGIApp:
    """The whole service from the environment's settings. Raises WrongRevision, naming the command that helps, and Unavailable."""
    api = create_app(get_settings())
    end_streams_with_process(api)
    return compose(api)


def compose(api: FastAPI) -> ASGIApp:
    """The layers around the API. The cache passes uvicorn's own `send` on for everything but cards, which zero-copy needs."""
    room = api.state.room
    return CardCache(
        ZeroCopy(api),
        watch_of(room.db),
        hosts=Hosts(room.settings.allowed_hosts),
        origins=Origins(room.settings.cors_origins),
        entries=room.settings.card_cache_entries,
    )
