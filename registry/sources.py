"""Register and fetch sources: one row per work, known by every identifier it was ever given; and the documents that were read of it.

A source is never deleted and its key never changes, because examples' digests cover it. A richer citation may fill a bare one; it never replaces a
title that is already there. Withdrawing a source is an event; the versions that rest on it stay on record and stop being served.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import Select, exists, insert, select
from sqlalchemy.orm import Session

from registry import events
from registry.errors import NotFound
from registry.identifiers import identify
from registry.imports import DocumentDraft, SourceDraft
from registry.manifest import digest
from registry.models import AdapterVersion, DatasetExample, Document, ExampleSource, Source, SourceKey
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


def ensure(session: Session, drafts: Sequence[SourceDraft]) -> dict[str, Source]:
    """Find or create a source for every draft; returns them by every key the drafts name. Existing citations are only ever filled in."""
    events.head(session, lock=True)  # two imports that both create the same source would otherwise collide
    keys = {i.key for draft in drafts for i in draft.identifiers}
    known = by_keys(session, keys)
    main_keys: dict[str, str] = {}
    new: dict[str, SourceDraft] = {}
    for draft in drafts:
        found = next((known[i.key].key for i in draft.identifiers if i.key in known), None)
        main = found or next((main_keys[i.key] for i in draft.identifiers if i.key in main_keys), draft.key)
        if found is not None:
            _fill(known[next(i.key for i in draft.identifiers if i.key in known)], draft)
        else:
            new.setdefault(main, draft)
        main_keys |= {i.key: main for i in draft.identifiers}
    session.flush()
    if new:
        session.execute(insert(Source), [_row(draft) for draft in new.values()])
    sources = _by_main_key(session, set(main_keys.values()))
    fresh = [{"key": key, "source_id": sources[main].id} for key, main in main_keys.items() if key not in known]
    if fresh:
        session.execute(insert(SourceKey), fresh)
    return {key: sources[main] for key, main in main_keys.items()}


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


def _fill(source: Source, draft: SourceDraft) -> None:
    if draft.csl.get("title") and not source.csl.get("title"):
        source.csl = draft.csl
    if source.class_ == "unclassified":
        source.class_ = draft.class_
    if source.review_status == "unknown":
        source.review_status = draft.review_status
    if source.doi is None:
        source.doi = next((i.doi for i in draft.identifiers if i.doi), None)


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
    if source.withdrawn_at is not None:
        return
    source.withdrawn_at = events.now()
    source.withdrawn_reason = clean_text(reason, "A reason")
    session.flush()
    events.append(session, "source:withdrawn", actor, {"source": source_id(source), "key": source.key, "reason": source.withdrawn_reason})
