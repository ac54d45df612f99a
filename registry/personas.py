"""Register and fetch personas: the versions of an advisor's system prompt. The text never enters training; a version records which one its data was written with."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry import events
from registry.errors import Invalid, NotFound
from registry.manifest import digest_bytes
from registry.models import Advisor, Persona
from registry.refs import check_digest, clean_text

MAX_PROMPT = 200_000  # characters: about 100 printed pages


def check_prompt(text: str) -> str:
    """The prompt with line ends made LF and outer white space gone; Invalid where it is empty, too long or holds control characters."""
    cleaned = clean_text(text.replace("\r\n", "\n"), "A system prompt", limit=MAX_PROMPT, multiline=True).strip()
    if not cleaned:
        raise Invalid("The system prompt is empty.", hint="Put the advisor's voice into the file and try again.")
    return cleaned


def set_prompt(session: Session, advisor: Advisor, text: str, *, actor: str) -> Persona:
    """Make `text` the advisor's present system prompt. The same text as now changes nothing and returns the present one."""
    text = check_prompt(text)
    sha256 = digest_bytes(text.encode())
    number = session.scalar(select(func.max(Persona.number)).where(Persona.advisor_id == advisor.id)) or 0
    if number:
        present = current(session, advisor)
        if present.sha256 == sha256:
            return present
    persona = Persona(advisor_id=advisor.id, number=number + 1, sha256=sha256, text=text, created_at=events.now(), created_by=actor)
    session.add(persona)
    session.flush()
    events.append(session, "persona:set", actor, {"number": persona.number, "sha256": sha256}, advisor)
    return persona


def current(session: Session, advisor: Advisor) -> Persona:
    """The present persona; every advisor has one."""
    return session.scalars(select(Persona).where(Persona.advisor_id == advisor.id).order_by(Persona.number.desc()).limit(1)).one()


def page(session: Session, advisor: Advisor, *, after: int = 0, limit: int = 50) -> list[Persona]:
    """Personas by number, from the one after `after`."""
    return list(
        session.scalars(
            select(Persona).where(Persona.advisor_id == advisor.id, Persona.number > after).order_by(Persona.number).limit(limit)
        )
    )


def get(session: Session, advisor: Advisor, ref: str) -> Persona:
    """One persona by its number or by its digest (the latest with it); NotFound otherwise."""
    query = select(Persona).where(Persona.advisor_id == advisor.id).order_by(Persona.number.desc()).limit(1)
    if ref.isdecimal() and len(ref) < 10:
        found = session.scalars(query.where(Persona.number == int(ref))).one_or_none()
    else:
        found = session.scalars(query.where(Persona.sha256 == check_digest(ref))).one_or_none()
    if found is None:
        raise NotFound(f"'{advisor.slug}' has no persona {ref}.", hint=f"List them: registry advisors show {advisor.slug}")
    return found
