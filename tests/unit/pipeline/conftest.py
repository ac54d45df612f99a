"""The stand-in for the paper services and Reddit, one a module, as new for every test."""

import pytest
from fakes.papers_api import PapersApi


@pytest.fixture(scope="module")
def server():
    with PapersApi() as running:
        yield running


@pytest.fixture
def api(server):
    """The stand-in, mended and with an empty log."""
    server.log.clear()
    server._always.clear()
    server._script.clear()
    return server
