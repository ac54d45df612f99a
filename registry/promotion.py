"""Who is live now, who was live then, and the only ways to change it.

An alias moves only when (1) the version is ready, its files verify and its sources stand (registry/policy.py decides), (2) the alias is still where the
caller believes it to be (compare-and-swap), and (3) the move is appended to the history with its reason. A rollback is a new event. It goes back to the
version that was live before, as on a stack: after promoting 1, 2, 3, the first rollback goes to 2 and the next to 1; withdrawn versions and versions that
rest on a withdrawn source are skipped. An undo takes back the last move, whatever it was, and can itself be undone.

Reading a version's files takes time (a full fine-tune has gigabytes), so nobody waits for it: `move` rehearses to learn which files it must know of, reads
them while no session is open, and then rehearses and acts on what it read.
"""

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry import events, sources, versions
from registry.artifacts import Blob, Problem, Verifies
from registry.db import Database
from registry.errors import Conflict, Invalid, NotFound, NotPromotable, Stale
from registry.models import AdapterVersion, Advisor, Alias, Event
from registry.policy import Candidate, Refused, may_be_served
from registry.refs import check_alias, clean_text
from registry.vocabulary import FAILED_CHECKS

_ALL = 2**31


@dataclass(frozen=True)
class Move:
    """One move of an alias, done or only planned. None stands for 'points to nothing'."""

    advisor: str
    alias: str
    before: int | None
    after: int | None
    kind: str
    reason: str
    generation: int
    done: bool


@dataclass(frozen=True)
class Expected:
    """What the caller believes; None means that it does not care. `version` 0 stands for 'points to nothing'; `exists`: the alias was moved before."""

    version: int | None = None
    generation: int | None = None
    exists: bool = False


@dataclass(frozen=True)
class _Past:
    """An alias's history, replayed: the stack of versions that were live, the top one being the present."""

    stack: tuple[int | None, ...] = ()
    last: Event | None = None
    before_last: tuple[int | None, ...] = ()
    ever: frozenset[int] = field(default_factory=frozenset)


class _Unread(Exception):
    """No error: files that a move must know of and that were not read yet."""

    def __init__(self, digests: list[str]) -> None:
        super().__init__(digests)
        self.digests = digests


class _Once:
    """What was found of each file, for the length of one move. It reads nothing by itself: whoever asks for what is not known is stopped."""

    def __init__(self, store: Verifies) -> None:
        self._store = store
        self._known: dict[str, Blob | Problem] = {}

    def require(self, digests: list[str]) -> None:
        """Raises _Unread where one of them was not read yet, with all that were not."""
        unread = [digest for digest in digests if digest not in self._known]
        if unread:
            raise _Unread(unread)

    def read(self, digests: list[str]) -> None:
        for digest in digests:
            self._known[digest] = self._store.verify(digest)

    def verify(self, digest: str) -> Blob | Problem:
        self.require([digest])
        return self._known[digest]


def move(db: Database, store: Verifies, act: Callable[[Session, Verifies, bool], Move], *, dry_run: bool = False) -> Move:
    """Rehearse a move in read sessions until every file that it rests on was read, between them; then do it in one transaction.

    `act(session, store, dry_run)` calls one of the functions below; it locks the advisor where `dry_run` is False. It may be called several times, and must
    leave nothing behind where it raises. Raises what they raise.
    """
    once = _Once(store)
    while True:  # a move names few files, and each turn reads at least one more
        try:
            with db.read() as session:
                rehearsed = act(session, once, True)
            if dry_run:
                return rehearsed
            with db.transaction() as session:
                return act(session, once, False)
        except _Unread as unread:
            missing = unread.digests
        once.read(missing)


def history(session: Session, advisor: Advisor, alias: str | None = None) -> list[Event]:
    """Every move of the advisor's aliases (or of one), oldest first."""
    moves = events.of_advisor(session, advisor, limit=_ALL, tag_prefix="alias:")
    return [move for move in moves if alias is None or events.body_of(move)["alias"] == alias]


def history_page(session: Session, advisor: Advisor, alias: str, *, after: int = 0, limit: int = 50) -> list[Event]:
    """Moves of one alias in order, from the one after event `after`. One statement."""
    # A body is canonical JSON, whose keys are sorted, and "alias" is the first of every move's.
    opening = '{"alias":"' + check_alias(alias) + '",'
    query = select(Event).where(Event.advisor_id == advisor.id, Event.seq > after, Event.tag.startswith("alias:"))
    return list(session.scalars(query.where(Event.body.startswith(opening, autoescape=True)).order_by(Event.seq).limit(limit)))


def _replay(session: Session, advisor: Advisor, alias: str) -> _Past:
    stack: tuple[int | None, ...] = ()
    before: dict[int, tuple[int | None, ...]] = {}
    ever: set[int] = set()
    last = None
    for event in history(session, advisor, alias):
        body, before[event.seq], last = events.body_of(event), stack, event
        target: int | None = body["to"]
        if event.tag == "alias:undone":
            stack = before[body["undoes"]]
        elif event.tag == "alias:rolled_back" and target in stack:
            stack = stack[: len(stack) - stack[::-1].index(target)]
        else:
            stack = (*stack, target)
        if target is not None:
            ever.add(target)
    return _Past(stack, last, before[last.seq] if last else (), frozenset(ever))


def promote(
    session: Session,
    store: Verifies,
    version: AdapterVersion,
    *,
    actor: str,
    alias: str = "live",
    reason: str = "",
    expected: Expected | None = None,
    job: str | None = None,
    dry_run: bool = False,
) -> Move:
    """Point an alias to a version. The caller holds the advisor locked. Raises NotPromotable with every reason, Stale where the alias moved meanwhile.

    On behalf of a durable `job` it happens once: a job that comes again, after a kill or a long sleep, gets the move it made and changes nothing.
    """
    check_alias(alias)
    if job is not None and (done := _moved_by(session, version.advisor, job)) is not None:
        return done
    pointer = _pointer(session, version.advisor, alias, expected)
    if pointer is not None and pointer.version_id == version.id:
        number = version.number
        return Move(version.advisor.slug, alias, number, number, "promoted", reason, pointer.generation, done=False)
    _refuse_unfit(session, store, version)
    return _move(session, version.advisor, alias, pointer, version, "promoted", reason, actor, dry_run=dry_run, job=job)


def _moved_by(session: Session, advisor: Advisor, job: str) -> Move | None:
    """The move that a durable job made."""
    query = select(Event).where(Event.advisor_id == advisor.id, Event.tag == "alias:promoted")
    for event in session.scalars(query.where(Event.body.contains(f'"job":{json.dumps(job)}', autoescape=True))):
        body = events.body_of(event)
        if body.get("job") == job:
            return Move(advisor.slug, body["alias"], body["from"], body["to"], "promoted", body["reason"], body["generation"], done=False)
    return None


def rollback(
    session: Session,
    store: Verifies,
    advisor: Advisor,
    *,
    actor: str,
    reason: str,
    to: int | None = None,
    alias: str = "live",
    expected: Expected | None = None,
    dry_run: bool = False,
) -> Move:
    """Point an alias back to a version that it pointed to before: `to`, or the nearest earlier one that may still be served."""
    check_alias(alias)
    if not reason.strip():
        raise Invalid("A rollback needs a reason; it is what the history will tell.", hint='Add --reason "..."')
    pointer = _pointer(session, advisor, alias, expected)
    past = _replay(session, advisor, alias)
    target = _named_target(session, advisor, alias, past, to) if to is not None else _earlier_target(session, advisor, alias, past)
    if pointer is not None and pointer.version_id == target.id:
        raise Conflict(f"{advisor.slug}@{target.number} is {alias} already.", hint=f"See: registry log {advisor.slug}")
    _refuse_unfit(session, store, target)
    return _move(session, advisor, alias, pointer, target, "rolled_back", reason, actor, dry_run=dry_run)


def _named_target(session: Session, advisor: Advisor, alias: str, past: _Past, number: int) -> AdapterVersion:
    target = versions.resolve(session, f"{advisor.slug}@{number}")
    if number not in past.ever:
        raise Conflict(
            f"{advisor.slug}@{number} was never {alias}, so it is nothing to roll back to.",
            hint=f"Promote it instead: registry promote {advisor.slug}@{number}",
        )
    return target


def _earlier_target(session: Session, advisor: Advisor, alias: str, past: _Past) -> AdapterVersion:
    present = past.stack[-1] if past.stack else None
    for number in reversed(past.stack[:-1]):
        if number is None or number == present:
            continue
        target = versions.resolve(session, f"{advisor.slug}@{number}")
        if target.state == "ready" and not _withdrawn_titles(session, target):
            return target
    raise Conflict(
        f"No earlier version of '{advisor.slug}' may be served as {alias}.",
        hint=f"See: registry log {advisor.slug}. To take the present one down: registry clear {advisor.slug} --reason ...",
    )


def undo(
    session: Session,
    store: Verifies,
    advisor: Advisor,
    *,
    actor: str,
    reason: str = "",
    alias: str = "live",
    expected: Expected | None = None,
    dry_run: bool = False,
) -> Move:
    """Take the alias's last move back. Raises Conflict where it never moved."""
    check_alias(alias)
    pointer = _pointer(session, advisor, alias, expected)
    past = _replay(session, advisor, alias)
    if past.last is None:
        raise Conflict(f"The alias '{alias}' of '{advisor.slug}' never moved, so there is nothing to undo.")
    number = past.before_last[-1] if past.before_last else None
    target = versions.resolve(session, f"{advisor.slug}@{number}") if number is not None else None
    if target is not None:
        _refuse_unfit(session, store, target)
    return _move(
        session,
        advisor,
        alias,
        pointer,
        target,
        "undone",
        reason or f"undo of event {past.last.seq}",
        actor,
        dry_run=dry_run,
        undoes=past.last.seq,
    )


def clear(
    session: Session,
    advisor: Advisor,
    *,
    actor: str,
    reason: str,
    alias: str = "live",
    expected: Expected | None = None,
    dry_run: bool = False,
) -> Move:
    """Let an alias point to nothing: nobody is served under it until the next promotion."""
    pointer = _pointer(session, advisor, alias, expected)
    if pointer is None or pointer.version_id is None:
        raise Conflict(f"The alias '{alias}' of '{advisor.slug}' points to nothing already.")
    if not reason.strip():
        raise Invalid("Taking an alias down needs a reason; it is what the history will tell.", hint='Add --reason "..."')
    return _move(session, advisor, alias, pointer, None, "cleared", reason, actor, dry_run=dry_run)


def _pointer(session: Session, advisor: Advisor, alias: str, expected: Expected | None) -> Alias | None:
    """The alias's row, after the compare of compare-and-swap."""
    pointer = session.scalars(select(Alias).where(Alias.advisor_id == advisor.id, Alias.name == alias)).one_or_none()
    version_id = pointer.version_id if pointer else None
    number = session.scalar(select(AdapterVersion.number).where(AdapterVersion.id == version_id)) if version_id else None
    generation = pointer.generation if pointer else 0
    if expected is not None:
        if expected.exists and pointer is None:
            raise Stale(f"'{advisor.slug}' has no alias '{alias}' yet.", hint="Promote a version without If-Match to make it.")
        if expected.version is not None and expected.version != (number or 0):
            found = f"{advisor.slug}@{number}" if number else "nothing"
            wanted = f"{advisor.slug}@{expected.version}" if expected.version else "nothing"
            raise Stale(
                f"The alias '{alias}' moved meanwhile: expected {wanted}, found {found}.",
                hint=f"Look at it again: registry log {advisor.slug}",
            )
        if expected.generation is not None and expected.generation != generation:
            raise Stale(
                f"The alias '{alias}' moved meanwhile: expected generation {expected.generation}, found {generation}.",
                hint="Read it again and decide anew.",
            )
    return pointer


def candidate_of(session: Session, store: Verifies, version: AdapterVersion) -> Candidate:
    """What the policy needs to know of a version; its files are read in full."""
    if isinstance(store, _Once):
        store.require([file.sha256 for file in version.files])  # all that is to be read at once, and not a rehearsal for each
    under = sources.under_version(session, version)
    return Candidate(
        ref=f"{version.advisor.slug}@{version.number}",
        state=version.state,
        advisor_retired=version.advisor.retired_at is not None,
        file_problems=tuple(versions.check_files(store, version.files)),
        withdrawn_sources=tuple(sources.title_of(s) for s in under if s.withdrawn_at is not None),
        blocked_sources=tuple(sources.title_of(s) for s in under if s.check_status in FAILED_CHECKS),
    )


def _refuse_unfit(session: Session, store: Verifies, version: AdapterVersion) -> None:
    candidate = candidate_of(session, store, version)
    decision = may_be_served(candidate)
    if isinstance(decision, Refused):
        raise NotPromotable(
            f"{candidate.ref} may not be served: {'; '.join(decision.reasons)}.",
            list(decision.reasons),
            hint=f"Look closer: registry verify {candidate.ref}",
        )


def _withdrawn_titles(session: Session, version: AdapterVersion) -> list[str]:
    return [sources.title_of(s) for s in sources.under_version(session, version) if s.withdrawn_at is not None]


def _move(
    session: Session,
    advisor: Advisor,
    alias: str,
    pointer: Alias | None,
    target: AdapterVersion | None,
    kind: str,
    reason: str,
    actor: str,
    *,
    dry_run: bool,
    undoes: int | None = None,
    job: str | None = None,
) -> Move:
    before = (
        session.scalar(select(AdapterVersion.number).where(AdapterVersion.id == pointer.version_id))
        if pointer and pointer.version_id
        else None
    )
    generation = (pointer.generation if pointer else 0) + 1
    move = Move(
        advisor.slug, alias, before, target.number if target else None, kind, clean_text(reason, "A reason"), generation, done=not dry_run
    )
    if dry_run:
        return move
    if pointer is None:
        pointer = Alias(advisor_id=advisor.id, name=alias)
        session.add(pointer)
    pointer.version_id, pointer.generation, pointer.moved_at = (target.id if target else None), generation, events.now()
    session.flush()
    body = {"alias": alias, "from": move.before, "to": move.after, "reason": move.reason, "generation": generation}
    told = {"undoes": undoes} if undoes else {"job": job} if job else {}
    events.append(session, f"alias:{kind}", actor, body | told, advisor)
    return move


def moment_of(text: str) -> tuple[dt.datetime, str]:
    """Read --at: an ISO 8601 time, or a bare date, which means the end of that UTC day. Returns the moment and the words that say so."""
    try:
        if "T" not in text and " " not in text:
            day = dt.date.fromisoformat(text)
            moment = dt.datetime.combine(day, dt.time.max, tzinfo=dt.UTC)
            return moment, f"the end of {day.isoformat()} (UTC)"
        moment = dt.datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)
    except (ValueError, OverflowError):
        raise Invalid(f"Expected a date such as 2026-03-03 or a time such as 2026-03-03T09:00:00Z; found {text[:60]!a}.") from None
    return moment, f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def resolve_at(session: Session, advisor: Advisor, alias: str, moment: dt.datetime) -> AdapterVersion:
    """The version the alias pointed to at a moment; NotFound where it pointed to nothing."""
    number = None
    for event in history(session, advisor, alias):
        if event.at > moment:
            break
        number = events.body_of(event)["to"]
    if number is None:
        raise NotFound(
            f"'{advisor.slug}' had no version under '{alias}' at {moment:%Y-%m-%d %H:%M:%S} UTC.", hint=f"See: registry log {advisor.slug}"
        )
    return versions.resolve(session, f"{advisor.slug}@{number}")
