"""What a route may use and who may call it.

Rules:
- Every route declares a permission, by depending on `permission(...)`. `create_app` refuses to start with one that does not, and a test walks them all.
- A bearer token carries the scopes it names and no others: promote does not include read.
- A token bound to one advisor reaches that advisor's addresses alone. Elsewhere it is refused, unless the route declares `narrowed=True` and narrows its
  answer to that advisor itself. What it may not see does not exist for it (404 with the words for an unknown name).
- A name that nobody has gets the nearest one as a hint, for tokens that may see every advisor; for others that would tell names.
- Bearer tokens only: no cookie, so no request can be forged from another page.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Path, Query
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.requests import Request

from registry import advisors, tokens
from registry.artifacts import ArtifactStore
from registry.db import Database
from registry.errors import Forbidden, Gone, NotFound, RegistryError, Unauthorized, Unavailable
from registry.models import Advisor, AdvisorName, Token
from registry.refs import check_slug
from registry.settings import Settings

PUBLIC = "public"


@dataclass(frozen=True)
class Room:
    """What the routes work with; made once by `create_app`."""

    settings: Settings
    db: Database
    store: ArtifactStore


def room(request: Request) -> Room:
    """The room of the app that serves this request."""
    found: Room = request.app.state.room
    return found


@dataclass(frozen=True)
class Actor:
    """Who calls. Without a token: nobody, who may see what is public. `advisor_id` binds to one advisor."""

    name: str
    scopes: frozenset[str] = frozenset()
    advisor_id: int | None = None
    token_id: int | None = None

    def may_read(self, advisor_id: int) -> bool:
        """Whether a private advisor is visible."""
        return "read" in self.scopes and self.advisor_id in (None, advisor_id)


NOBODY = Actor("nobody")


class Permission:
    """A dependency that lets a request in or raises; the object itself is what the test looks for."""

    def __init__(self, scope: str, *, narrowed: bool = False) -> None:
        """`scope` is public or one of tokens.SCOPES; `narrowed`: the route itself keeps a bound token to its advisor."""
        if scope != PUBLIC and scope not in tokens.SCOPES:
            raise ValueError(f"no such scope: {scope}")
        self.scope = scope
        self.narrowed = narrowed

    def __call__(self, request: Request, inside: Annotated[Room, Depends(room)]) -> Actor:
        """The caller. Raises Unauthorized, Forbidden, or NotFound for an advisor that the token may not see."""
        header = request.headers.get("authorization")
        if header is None and self.scope == PUBLIC:
            return NOBODY
        with inside.db.read() as session:
            actor = _known(session, header)
            if self.scope != PUBLIC and self.scope not in actor.scopes:
                raise Forbidden(f"This needs a token with the scope {self.scope}; yours has {', '.join(sorted(actor.scopes))}.")
            if actor.advisor_id is not None and self.scope != PUBLIC:
                self._keep_to_advisor(session, actor, request.path_params.get("slug"))
        return actor

    def _keep_to_advisor(self, session: Session, actor: Actor, slug: str | None) -> None:
        if slug is None:
            if not self.narrowed:
                raise Forbidden("This needs a token that is not bound to one advisor.")
        elif session.scalar(select(AdvisorName.advisor_id).where(AdvisorName.name == check_slug(slug))) != actor.advisor_id:
            raise unseen(slug)


def _known(session: Session, header: str | None) -> Actor:
    kind, _, secret = (header or "").partition(" ")
    if kind.lower() != "bearer" or not secret.strip():
        raise Unauthorized("This needs a bearer token.", hint="Send 'Authorization: Bearer art_...'; make one with: registry tokens create")
    token = tokens.authenticate(session, secret.strip())
    if token is None:
        raise Unauthorized("This token is unknown, expired or revoked.", hint="Make a new one: registry tokens create")
    return Actor(actor_name(token), frozenset(token.scopes), token.advisor_id, token.id)


def is_known(db: Database, header: str | None) -> bool:
    """Whether an Authorization header carries a live token; a database that is away lets the request on to the route, which says so."""
    if header is None:
        return False
    try:
        with db.read() as session:
            _known(session, header)
    except RegistryError as error:
        return isinstance(error, Unavailable)
    return True


def actor_name(token: Token) -> str:
    """How the history names who acted by a token; the number tells apart two of one name."""
    return f"{token.name[:180]} (token {token.id})"


def unseen(name: str) -> NotFound:
    """The words for an advisor that does not exist, or not for this caller."""
    return NotFound(f"No advisor answers to '{name}' here.", hint="Advisors are private unless their owners publish them.")


def permission(scope: str, *, narrowed: bool = False) -> Any:
    """What a route depends on, so as to say who may call it."""
    return Depends(Permission(scope, narrowed=narrowed))


def advisor_for(session: Session, actor: Actor, name: str, *, lock: bool = False, active: bool = False) -> Advisor:
    """The advisor in the path. `active`: raises Gone where it is retired. Unbound tokens get the nearest name as a hint."""
    check_slug(name)
    if actor.advisor_id is None:
        return advisors.get_active(session, name, lock=lock) if active else advisors.get(session, name, lock=lock)
    found = advisors.find(session, name, lock=lock)
    if found is None or found.id != actor.advisor_id:
        raise unseen(name)
    if active and found.retired_at is not None:
        raise Gone(
            f"The advisor '{found.slug}' was retired on {found.retired_at:%Y-%m-%d}.", hint="Its versions and history stay readable."
        )
    return found


Inside = Annotated[Room, Depends(room)]
Slug = Annotated[str, Path(description="The advisor's slug or any of its other names.", examples=["elena"], max_length=200)]
Number = Annotated[int, Path(description="A version's number.", ge=1, le=999_999_999, examples=[2])]
Limit = Annotated[int, Query(description="How many at most.", ge=1, le=200)]
Cursor = Annotated[str | None, Query(description="Where the page begins; take it from `next`.", max_length=4000)]
