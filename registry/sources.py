"""Register and fetch sources: one row per work, known by every identifier it was ever given; and the documents that were read of it.

A source is never deleted and its key never changes, because examples' digests cover it. An import may describe a source that is still bare, and only
while no other advisor rests on it: what one team imports must not rewrite another team's public card. `describe` replaces a citation on purpose, and that
is an event. Withdrawing a source is an event; the versions that rest on it stay on record and stop being served.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Select, exists, insert, select
from sqlalchemy.orm import Session

from registry import events
from registry.errors import Conflict, NotFound
from registry.identifiers import identify
from registry.imports import DocumentDraft, SourceDraft
from registry.manifest import digest
from registry.models import AdapterVersion, Advisor, Dataset, DatasetExample, Document, ExampleSource, Source, SourceKey
from registry.refs import clean_text

T = TypeVar("T")
_CHUNK = 500  # SQLite and Postgres both take far more bind parameters; this keeps single statements readable in a log


def chunks(items: Sequence[T], size: int = _CHUNK) -> Iterator[Sequence[T]]:
    """Slices of at most `size`, in order."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def by_keys(session: Session, keys: Iterable[str]) -> dict[str, Source]:
    """The sources known by these keys, any of their identifiers."""
    found: dict[str, Source] = {}
    for part in chunks(sorted(set(keys))):
        rows = session.execute(select(SourceKey.key, Source).join(Source, Source.id == SourceKey.source_id).where(SourceKey.key.in_(part)))
        found.update(rows.all())
    return found


@dataclass(frozen=True)
class Ensured:
    """Sources by every key the drafts name; `kept` are the ones whose recorded citation was left as it is although a draft says otherwise."""

    by_key: dict[str, Source]
    kept: tuple[Source, ...]


def ensure(session: Session, drafts: Sequence[SourceDraft], *, actor: str, advisor: Advisor) -> Ensured:
    """Find or create a source for every draft of an advisor's import. Raises Conflict where one citation joins two sources known apart."""
    events.head(session, lock=True)  # two imports that both create the same source would otherwise collide
    known = by_keys(session, {i.key for draft in drafts for i in draft.identifiers})
    shared = _used_by_others(session, {source.id for source in known.values()}, advisor)
    main_keys: dict[str, str] = {}
    new: dict[str, SourceDraft] = {}
    kept: dict[int, Source] = {}
    for draft in drafts:
        source = _one_of(known, draft)
        main = source.key if source else next((main_keys[i.key] for i in draft.identifiers if i.key in main_keys), draft.key)
        if source is None:
            new.setdefault(main, draft)
        elif _says_more(source, draft):
            if source.id in shared or source.csl.get("title"):
                kept[source.id] = source
            else:
                _describe(session, source, draft, actor=actor, advisor=advisor)
        main_keys |= {i.key: main for i in draft.identifiers}
    if new:
        session.execute(insert(Source), [_row(draft) for draft in new.values()])
    found = _by_main_key(session, set(main_keys.values()))
    fresh = [{"key": key, "source_id": found[main].id} for key, main in main_keys.items() if key not in known]
    if fresh:
        session.execute(insert(SourceKey), fresh)
    return Ensured({key: found[main] for key, main in main_keys.items()}, tuple(kept.values()))


def _one_of(known: Mapping[str, Source], draft: SourceDraft) -> Source | None:
    """The source that a draft means, if it is known."""
    matches = {known[i.key].id: known[i.key] for i in draft.identifiers if i.key in known}
    if len(matches) > 1:
        names = " and ".join(f"{source_id(s)} ({s.key})" for s in matches.values())
        raise Conflict(
            f"One citation names two sources that are known apart: {names}.", hint="Leave one of its identifiers (DOI or URL) out."
        )
    return next(iter(matches.values()), None)


def _used_by_others(session: Session, ids: set[int], advisor: Advisor) -> set[int]:
    """Which of these sources a dataset of another advisor rests on."""
    found: set[int] = set()
    for part in chunks(sorted(ids)):
        query = (
            select(Document.source_id)
            .join(ExampleSource, ExampleSource.document_id == Document.id)
            .join(DatasetExample, DatasetExample.example_id == ExampleSource.example_id)
            .join(Dataset, Dataset.id == DatasetExample.dataset_id)
            .where(Document.source_id.in_(part), Dataset.advisor_id != advisor.id)
        )
        found.update(session.scalars(query.distinct()))
    return found


def _says_more(source: Source, draft: SourceDraft) -> bool:
    """Whether a draft describes the source otherwise than it is recorded."""
    if not draft.csl.get("title") and draft.class_ == "unclassified" and draft.review_status == "unknown":
        return False
    return (source.csl, source.class_, source.review_status) != (draft.csl, draft.class_, draft.review_status)


def _describe(session: Session, source: Source, draft: SourceDraft, *, actor: str, advisor: Advisor | None) -> None:
    before = {"csl": source.csl, "class": source.class_, "review_status": source.review_status}
    source.csl, source.class_, source.review_status = draft.csl, draft.class_, draft.review_status
    source.doi = source.doi or next((i.doi for i in draft.identifiers if i.doi), None)
    session.flush()
    after = {"csl": source.csl, "class": source.class_, "review_status": source.review_status}
    events.append(
        session, "source:described", actor, {"source": source_id(source), "key": source.key, "before": before, "after": after}, advisor
    )


def describe(session: Session, draft: SourceDraft, *, actor: str) -> Source:
    """Replace the citation of a source that is known already, for every advisor that rests on it. NotFound where it is not; the same again changes nothing."""
    events.head(session, lock=True)
    source = _one_of(by_keys(session, [i.key for i in draft.identifiers]), draft)
    if source is None:
        raise NotFound(
            f"No source is known as {draft.key}.",
            hint="Citations of new sources come with the pairs that name them: registry datasets import --sources",
        )
    if _says_more(source, draft):
        _describe(session, source, draft, actor=actor, advisor=None)
    return source


def _by_main_key(session: Session, keys: Iterable[str]) -> dict[str, Source]:
    found: dict[str, Source] = {}
    for part in chunks(sorted(keys)):
        found.update({source.key: source for source in session.scalars(select(Source).where(Source.key.in_(part)))})
    return found


def _row(draft: SourceDraft) -> dict[str, Any]:
    main = draft.identifiers[0]
    # A page's own URL is the better link for a reader than the DOI's redirect.
    page = next((i.url for i in draft.identifiers if not i.doi), main.url)
    return {
        "key": main.key,
        "url": page,
        "doi": next((i.doi for i in draft.identifiers if i.doi), None),
        "csl": draft.csl,
        "class_": draft.class_,
        "review_status": draft.review_status,
        "created_at": events.now(),
    }


def document_identity(draft: DocumentDraft) -> str:
    """What makes two readings of a source the same document: extent, bytes and time of reading."""
    moment = draft.retrieved_at.isoformat() if draft.retrieved_at else None
    return digest({"extent": draft.extent, "retrieved_at": moment, "sha256": draft.sha256})


def ensure_documents(session: Session, wanted: Iterable[tuple[Source, DocumentDraft]]) -> dict[tuple[int, str], Document]:
    """Find or create the documents; returns them by (source id, document identity)."""
    drafts = {(source.id, document_identity(draft)): draft for source, draft in wanted}
    source_ids = sorted({source_id for source_id, _ in drafts})
    found = _documents_of(session, source_ids)
    rows = [
        {"source_id": key[0], "identity": key[1], "extent": draft.extent, "retrieved_at": draft.retrieved_at, "sha256": draft.sha256}
        for key, draft in drafts.items()
        if key not in found
    ]
    if rows:
        session.execute(insert(Document), rows)
        found = _documents_of(session, source_ids)
    return found


def _documents_of(session: Session, source_ids: Sequence[int]) -> dict[tuple[int, str], Document]:
    found: dict[tuple[int, str], Document] = {}
    for part in chunks(source_ids):
        found.update({(d.source_id, d.identity): d for d in session.scalars(select(Document).where(Document.source_id.in_(part)))})
    return found


def get(session: Session, name: str) -> Source:
    """The source known by a URL, a DOI or src_<number>; NotFound otherwise."""
    if name.startswith("src_") and name[4:].isdecimal() and len(name) < 20:
        source = session.get(Source, int(name[4:]))
    else:
        source = by_keys(session, [identify(name).key]).get(identify(name).key)
    if source is None:
        raise NotFound(f"No source is known as {name[:200]!a}.", hint="List an advisor's sources: registry sources ADVISOR")
    return source


def source_id(source: Source) -> str:
    """The public id of a source, such as src_12."""
    return f"src_{source.id}"


def title_of(source: Source) -> str:
    """The source's title, or its URL where none was recorded."""
    title = source.csl.get("title")
    return str(title) if title else (source.url or source.key)


def trained_on(dataset_id: Any) -> Select[int]:
    """A query for the ids of the documents that the *training* pairs of a dataset rest on."""
    return (
        select(ExampleSource.document_id)
        .join(DatasetExample, DatasetExample.example_id == ExampleSource.example_id)
        .where(DatasetExample.dataset_id == dataset_id, DatasetExample.split == "train")
    )


def under_version(session: Session, version: AdapterVersion) -> list[Source]:
    """The sources that a version's training pairs rest on, by key. One statement."""
    read = exists().where(Document.source_id == Source.id, Document.id.in_(trained_on(version.dataset_id)))
    return list(session.scalars(select(Source).where(read).order_by(Source.key)))


def withdraw(session: Session, source: Source, *, actor: str, reason: str) -> None:
    """Mark a source as withdrawn: cards say so at once and versions that rest on it are withheld. Doing it twice changes nothing."""
    events.head(session, lock=True)  # the same order as an import, which would otherwise deadlock with this
    session.refresh(source)
    if source.withdrawn_at is not None:
        return
    source.withdrawn_at = events.now()
    source.withdrawn_reason = clean_text(reason, "A reason")
    session.flush()
    events.append(session, "source:withdrawn", actor, {"source": source_id(source), "key": source.key, "reason": source.withdrawn_reason})
