"""Bearer tokens: 256 random bits, stored as their sha256 (a fast hash is right for a secret nobody can guess), scoped, expiring, revocable.

Scopes widen in this order and do not include each other, so that a token says all it may do: read, write, promote, admin. A token may be bound to
one advisor; then it sees and changes no other.
"""

import datetime as dt
import hashlib
import secrets
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry import events
from registry.errors import Invalid, NotFound
from registry.models import Advisor, Token
from registry.refs import clean_text

SCOPES = ("read", "write", "promote", "admin")
_PREFIX = "art_"  # secret scanners find a leaked token by it


@dataclass(frozen=True)
class Created:
    """A new token and its secret; the secret exists nowhere else."""

    token: Token
    secret: str


def create(
    session: Session,
    name: str,
    scopes: tuple[str, ...],
    *,
    actor: str,
    advisor: Advisor | None = None,
    lifetime: dt.timedelta | None = None,
) -> Created:
    """Make a token. `lifetime` None means that it does not expire. Raises Invalid for an unknown scope or a lifetime that is not positive."""
    unknown = [s for s in scopes if s not in SCOPES]
    if unknown or not scopes:
        raise Invalid(f"Scopes are {', '.join(SCOPES)}; found {', '.join(unknown) or 'none'}.")
    if lifetime is not None and lifetime <= dt.timedelta(0):
        raise Invalid("A token's lifetime must be longer than nothing.", hint="Use --days 30, or leave it out.")
    if advisor is not None and "admin" in scopes:
        raise Invalid("A token bound to one advisor cannot carry the scope admin.", hint="Use read, write and promote.")
    secret = _PREFIX + secrets.token_urlsafe(32)
    moment = events.now()
    token = Token(
        name=clean_text(name, "A token's name", limit=200),
        prefix=secret[:12],
        sha256=_hash(secret),
        scopes=[s for s in SCOPES if s in scopes],
        advisor_id=advisor.id if advisor else None,
        created_at=moment,
        created_by=actor,
        expires_at=moment + lifetime if lifetime else None,
    )
    session.add(token)
    session.flush()
    events.append(session, "token:created", actor, {"id": token.id, "name": token.name, "scopes": token.scopes}, advisor)
    return Created(token, secret)


def _hash(secret: str) -> str:
    return "sha256:" + hashlib.sha256(secret.encode()).hexdigest()


def authenticate(session: Session, secret: str) -> Token | None:
    """The live token behind `secret`, or None where it is unknown, expired or revoked. One statement."""
    token = session.scalars(select(Token).where(Token.sha256 == _hash(secret))).one_or_none()
    if token is None or token.revoked_at is not None or (token.expires_at is not None and token.expires_at <= events.now()):
        return None
    return token


def any_exist(session: Session) -> bool:
    """Whether a token was ever made here."""
    return bool(session.scalar(select(func.count()).select_from(Token)))


def page(session: Session, *, after: int = 0, limit: int | None = None) -> list[Token]:
    """Tokens, oldest first, from the one after id `after`; secrets are not stored, so none can be listed."""
    return list(session.scalars(select(Token).where(Token.id > after).order_by(Token.id).limit(limit)))


def revoke(session: Session, token_id: int, *, actor: str) -> Token:
    """End a token at once; revoking twice changes nothing. NotFound where there is none."""
    token = session.get(Token, token_id)
    if token is None:
        raise NotFound(f"There is no token {token_id}.", hint="List them: registry tokens list")
    if token.revoked_at is None:
        token.revoked_at = events.now()
        session.flush()
        events.append(session, "token:revoked", actor, {"id": token.id, "name": token.name})
    return token
