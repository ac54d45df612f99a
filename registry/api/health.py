"""Whether the process lives, and whether it can do its work."""

from typing import Annotated

from registry.api import schemas
from registry.api.deps import Actor, Inside, permission
from registry.api.routes import problems, router
from registry.db import HEAD_REVISION

routes = router("health")
_NOWHERE = "sha256:" + "0" * 64  # asking for it reaches the store; nothing has this digest


@routes.get("/health", summary="Is the process alive?")
def health(_actor: Annotated[Actor, permission("public")]) -> schemas.Health:
    """Answers whenever the process does; asks nothing else."""
    return schemas.Health(status="ok")


@routes.get("/ready", summary="Can the process work?", responses=problems())
def ready(inside: Inside, _actor: Annotated[Actor, permission("public")]) -> schemas.Ready:
    """Asks the database for its schema's revision and the store for a file; 503 with a sentence where one of them does not answer."""
    inside.db.require_head()
    inside.store.stat(_NOWHERE)
    return schemas.Ready(status="ready", schema_revision=HEAD_REVISION, store="reachable")
