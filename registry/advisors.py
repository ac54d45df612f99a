"""Register and fetch advisors. An advisor may have several names; they share one namespace and all of them answer everywhere."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry import events, personas
from registry.errors import AlreadyExists, Gone, NotFound
from registry.models import Advisor, AdvisorName
from registry.refs import check_slug, clean_text, nearest


def add(
    session: Session,
    slug: str,
    prompt: str,
    *,
    actor: str,
    name: str | None = None,
    role: str | None = None,
    public: bool = False,
    aliases: tuple[str, ...] = (),
) -> Advisor:
    """Create an advisor with its first persona. Raises Invalid for a bad name or prompt, AlreadyExists where a name is taken."""
    check_slug(slug)
    prompt = personas.check_prompt(prompt)
    advisor = Advisor(
        slug=slug,
        name=clean_text(name or slug.replace("-", " ").replace("_", " ").title(), "An advisor's name", limit=200),
        role=clean_text(role, "A role", limit=200) if role else None,
        public=public,
        created_at=events.now(),
    )
    _refuse_taken(session, slug, *aliases)
    session.add(advisor)
    session.flush()
    session.add_all(
        [
            AdvisorName(name=n, advisor_id=advisor.id)
            for n in dict.fromkeys((slug, *(check_slug(a, "alias of an advisor") for a in aliases)))
        ]
    )
    session.flush()
    events.append(
        session, "advisor:added", actor, {"slug": slug, "name": advisor.name, "aliases": list(aliases), "public": public}, advisor
    )
    personas.set_prompt(session, advisor, prompt, actor=actor)
    return advisor


def _refuse_taken(session: Session, *names: str) -> None:
    taken = session.execute(select(AdvisorName.name, Advisor.slug).join(Advisor).where(AdvisorName.name.in_(names))).first()
    if taken:
        raise AlreadyExists(
            f"The name '{taken.name}' already belongs to the advisor '{taken.slug}'.",
            hint="Choose another name, or set its prompt: registry advisors prompt",
        )


def find(session: Session, name: str, *, lock: bool = False) -> Advisor | None:
    """The advisor that answers to `name`, or None. `lock` takes the row's write lock until the transaction ends (Postgres)."""
    query = select(Advisor).join(AdvisorName).where(AdvisorName.name == name)
    # NO KEY UPDATE: an event's foreign key to the advisor must not wait for this lock while it holds the chain's (a deadlock otherwise).
    if lock:
        query = query.with_for_update(of=Advisor, key_share=True).execution_options(
            populate_existing=True
        )  # what was read before the lock may be old
    return session.scalars(query).one_or_none()


def get(session: Session, name: str, *, lock: bool = False) -> Advisor:
    """The advisor that answers to `name`; NotFound with the nearest name otherwise."""
    check_slug(name)
    advisor = find(session, name, lock=lock)
    if advisor is None:
        close = nearest(name, session.scalars(select(AdvisorName.name).limit(5000)))
        raise NotFound(
            f"No advisor answers to '{name}'.",
            hint=f"Did you mean '{close}'?" if close else "Add one: registry advisors add NAME --prompt-file FILE",
        )
    return advisor


def get_active(session: Session, name: str, *, lock: bool = False) -> Advisor:
    """Like `get`, and Gone for a retired advisor."""
    advisor = get(session, name, lock=lock)
    if advisor.retired_at is not None:
        raise Gone(
            f"The advisor '{advisor.slug}' was retired on {advisor.retired_at:%Y-%m-%d}.", hint="Its versions and history stay readable."
        )
    return advisor


def page(session: Session, *, after: str = "", limit: int = 50, only: int | None = None) -> list[Advisor]:
    """Advisors by slug, from the one after `after`. `only` narrows the list to one advisor's id, for tokens that may see no other."""
    query = select(Advisor).where(Advisor.slug > after).order_by(Advisor.slug).limit(limit)
    return list(session.scalars(query if only is None else query.where(Advisor.id == only)))


def names_of(session: Session, advisor: Advisor) -> list[str]:
    """The other names an advisor answers to, its slug left out, sorted."""
    names = session.scalars(select(AdvisorName.name).where(AdvisorName.advisor_id == advisor.id, AdvisorName.name != advisor.slug))
    return sorted(names)


def add_alias(session: Session, advisor: Advisor, alias: str, *, actor: str) -> None:
    """Let an advisor answer to one more name. Raises AlreadyExists where it is taken."""
    check_slug(alias, "alias of an advisor")
    _refuse_taken(session, alias)
    session.add(AdvisorName(name=alias, advisor_id=advisor.id))
    session.flush()
    events.append(session, "advisor:named", actor, {"alias": alias}, advisor)


def change(
    session: Session, advisor: Advisor, *, actor: str, name: str | None = None, role: str | None = None, public: bool | None = None
) -> Advisor:
    """Change what is given and record what changed; nothing given changes nothing."""
    wanted: dict[str, Any] = {
        "name": clean_text(name, "An advisor's name", limit=200) if name else None,
        "role": clean_text(role, "A role", limit=200) if role else None,
        "public": public,
    }
    changed = {key: value for key, value in wanted.items() if value is not None and getattr(advisor, key) != value}
    for key, value in changed.items():
        setattr(advisor, key, value)
    if changed:
        session.flush()
        events.append(session, "advisor:changed", actor, changed, advisor)
    return advisor


def retire(session: Session, advisor: Advisor, *, actor: str, reason: str) -> None:
    """Take an advisor out of service for good; its slug, versions and history stay. Retiring twice changes nothing."""
    if advisor.retired_at is not None:
        return
    advisor.retired_at = events.now()
    session.flush()
    events.append(session, "advisor:retired", actor, {"reason": clean_text(reason, "A reason")}, advisor)
