"""Register and fetch datasets: immutable, ordered lists of examples, each tied to the documents it rests on.

One digest covers the ordered examples and the rule of the held-out split; an example's digest covers its turns, category, origin, generator and its
sources (by key, with how much was read and its bytes). Run ids, times, titles and citations stay outside, so a repeated import of the same pairs from the
same pages is the same dataset. A source known under several identifiers counts under the one it was first registered with.
Exact duplicates inside one import are dropped and counted.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from registry import events, personas, sources
from registry.errors import Conflict, Invalid, NotFound
from registry.imports import DatasetDraft, DocumentDraft, ExampleDraft, Link, SourceDraft
from registry.manifest import digest
from registry.models import Advisor, Dataset, DatasetExample, Document, Example, ExampleSource, Persona, Source
from registry.refs import check_digest
from registry.splits import Member, SplitRule, heldout

EXAMPLE_FORMAT = "example/1"
DATASET_FORMAT = "dataset/1"


@dataclass(frozen=True)
class Imported:
    """What an import did: `created` is False where the same dataset was there already."""

    dataset: Dataset
    created: bool
    duplicates: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Resolved:
    """A draft with its digest and the documents it rests on."""

    draft: ExampleDraft
    sha256: str
    rests_on: tuple[tuple[Document, str], ...]
    source_keys: frozenset[str]


def example_digest(
    messages: Sequence[Mapping[str, str]], category: str | None, origin: str, generator: str | None, rests_on: Sequence[Mapping[str, Any]]
) -> str:
    """The identity of a pair. `rests_on` holds {key, document, extent, role} per source; their order does not matter."""
    facts = ("key", "role", "extent", "document")
    ordered = sorted(({fact: r[fact] for fact in facts} for r in rests_on), key=lambda r: [r[fact] or "" for fact in facts])
    turns = [{"role": m["role"], "content": m["content"]} for m in messages]
    return digest(
        {"format": EXAMPLE_FORMAT, "messages": turns, "category": category, "origin": origin, "generator": generator, "sources": ordered}
    )


def dataset_digest(examples: Sequence[str], split: Mapping[str, Any]) -> str:
    """The identity of a dataset: its ordered examples and the rule of its split."""
    return digest({"format": DATASET_FORMAT, "split": dict(split), "examples": list(examples)})


def register(
    session: Session,
    advisor: Advisor,
    draft: DatasetDraft,
    *,
    actor: str,
    citations: Sequence[SourceDraft] = (),
    rule: SplitRule | None = None,
    persona: Persona | None = None,
) -> Imported:
    """Write a dataset with its examples, documents and sources, or return the one that is there already. `citations` describe sources that pairs name."""
    rule = rule or SplitRule()
    if not 0 <= rule.fraction <= 0.5:
        raise Invalid(f"The held-out share must be between 0 and 0.5; found {rule.fraction}.")
    ensured = _sources_for(session, advisor, draft, citations, actor)
    known = ensured.by_key
    resolved = _resolve(session, draft, known, _documents_by_key((*citations, *draft.sources)))
    unique = list({item.sha256: item for item in resolved}.values())
    sha256 = dataset_digest([item.sha256 for item in unique], rule.as_json())
    duplicates = len(resolved) - len(unique)
    existing = session.scalars(select(Dataset).where(Dataset.advisor_id == advisor.id, Dataset.sha256 == sha256)).one_or_none()
    notes = (
        *draft.notes,
        *(f"the recorded citation of {s.key} was kept; change it with: registry sources describe FILE" for s in ensured.kept),
    )
    written_with = persona or personas.current(session, advisor)
    if existing is not None:
        if existing.persona_id != written_with.id:
            notes = (*notes, f"this dataset was imported with persona {existing.persona.number}, and keeps it")
        return Imported(existing, created=False, duplicates=duplicates, notes=notes)
    ids = _store_examples(session, unique)
    aside = heldout([Member(item.sha256, item.source_keys | {question_tie(item.draft.messages[0][1])}) for item in unique], rule)
    dataset = Dataset(
        advisor_id=advisor.id,
        sha256=sha256,
        persona_id=written_with.id,
        split=rule.as_json(),
        examples_total=len(unique),
        heldout_total=sum(aside),
        created_at=events.now(),
        created_by=actor,
    )
    session.add(dataset)
    session.flush()
    places = [
        {"dataset_id": dataset.id, "position": i, "example_id": ids[item.sha256], "split": "heldout" if aside[i] else "train"}
        for i, item in enumerate(unique)
    ]
    session.execute(insert(DatasetExample), places)
    events.append(session, "dataset:imported", actor, {"sha256": sha256, "examples": len(unique), "heldout": sum(aside)}, advisor)
    return Imported(dataset, created=True, duplicates=duplicates, notes=notes)


def question_tie(question: str) -> str:
    """What ties two pairs with the same question to one side of the split, however it is spaced and capitalised."""
    return "question:" + " ".join(question.casefold().split())


def _sources_for(session: Session, advisor: Advisor, draft: DatasetDraft, citations: Sequence[SourceDraft], actor: str) -> sources.Ensured:
    """Every source that a pair names, found or created; citations that no pair names are left out."""
    named = {link.identifier.key: link.identifier for example in draft.examples for link in example.links}
    described = [s for s in (*citations, *draft.sources) if any(i.key in named for i in s.identifiers)]
    covered = {i.key for s in described for i in s.identifiers}
    bare = [SourceDraft((identifier,)) for key, identifier in named.items() if key not in covered]
    return sources.ensure(session, [*described, *bare], actor=actor, advisor=advisor)


def _documents_by_key(described: Sequence[SourceDraft]) -> dict[str, tuple[DocumentDraft, ...]]:
    return {identifier.key: draft.documents for draft in described for identifier in draft.identifiers if draft.documents}


def _resolve(
    session: Session, draft: DatasetDraft, known: Mapping[str, Source], described: Mapping[str, tuple[DocumentDraft, ...]]
) -> list[_Resolved]:
    def readings(link: Link) -> tuple[DocumentDraft, ...]:
        # A pair that says what was read is believed; otherwise the citation's own documents; otherwise nothing is recorded.
        return (link.document,) if link.document else described.get(link.identifier.key) or (DocumentDraft(),)

    wanted = [(known[link.identifier.key], reading) for example in draft.examples for link in example.links for reading in readings(link)]
    documents = sources.ensure_documents(session, wanted)
    resolved = []
    for example in draft.examples:
        rests_on = {}
        for link in example.links:
            source = known[link.identifier.key]
            for reading in readings(link):
                document = documents[source.id, sources.document_identity(reading)]
                rests_on[document.id, link.role] = (document, link.role, source.key)
        pairs = [
            {"key": key, "document": document.sha256, "extent": document.extent, "role": role} for document, role, key in rests_on.values()
        ]
        messages = [{"role": role, "content": content} for role, content in example.messages]
        sha256 = example_digest(messages, example.category, example.origin, example.generator, pairs)
        resolved.append(
            _Resolved(
                example, sha256, tuple((d, role) for d, role, _ in rests_on.values()), frozenset(key for _, _, key in rests_on.values())
            )
        )
    return resolved


def _store_examples(session: Session, unique: Sequence[_Resolved]) -> dict[str, int]:
    """Ids by digest, creating the examples that are new. Bulk inserts without RETURNING: SQLite would send one statement a row otherwise."""
    ids = _example_ids(session, unique)
    new = [item for item in unique if item.sha256 not in ids]
    if new:
        session.execute(insert(Example), [_example_row(item) for item in new])
        made = _example_ids(session, new)
        ids |= made
        links = [
            {"example_id": made[item.sha256], "document_id": document.id, "role": role} for item in new for document, role in item.rests_on
        ]
        if links:
            session.execute(insert(ExampleSource), links)
    return ids


def _example_ids(session: Session, items: Sequence[_Resolved]) -> dict[str, int]:
    ids: dict[str, int] = {}
    for part in sources.chunks([item.sha256 for item in items]):
        ids.update(session.execute(select(Example.sha256, Example.id).where(Example.sha256.in_(part))).all())
    return ids


def _example_row(item: _Resolved) -> dict[str, Any]:
    draft = item.draft
    return {
        "sha256": item.sha256,
        "messages": [{"role": role, "content": content} for role, content in draft.messages],
        "category": draft.category,
        "origin": draft.origin,
        "generator": draft.generator,
        "author": draft.author,
        "read_by_people": draft.read_by_people,
    }


def latest(session: Session, advisor: Advisor) -> Dataset:
    """The advisor's newest dataset; NotFound, naming the command, where there is none."""
    found = session.scalars(select(Dataset).where(Dataset.advisor_id == advisor.id).order_by(Dataset.id.desc()).limit(1)).one_or_none()
    if found is None:
        raise NotFound(f"'{advisor.slug}' has no dataset yet.", hint=f"Import one: registry datasets import --advisor {advisor.slug} FILE")
    return found


def get(session: Session, advisor: Advisor, ref: str) -> Dataset:
    """A dataset of the advisor by its digest or the first hex digits of it (at least 6). NotFound or Conflict otherwise."""
    prefix = ref.removeprefix("sha256:")
    if len(prefix) == 64:
        check_digest("sha256:" + prefix)
    if len(prefix) < 6 or any(c not in "0123456789abcdef" for c in prefix):
        raise Invalid(f"A dataset is named by its digest, or by at least its first 6 hex digits; found {ref[:80]!a}.")
    found = list(
        session.scalars(select(Dataset).where(Dataset.advisor_id == advisor.id, Dataset.sha256.startswith("sha256:" + prefix)).limit(2))
    )
    if not found:
        raise NotFound(f"'{advisor.slug}' has no dataset {ref}.", hint=f"List them: registry datasets list --advisor {advisor.slug}")
    if len(found) > 1:
        raise Conflict(f"More than one dataset of '{advisor.slug}' starts with {ref}.", hint="Give more digits.")
    return found[0]


def page(session: Session, advisor: Advisor, *, after: int = 0, limit: int = 50) -> list[Dataset]:
    """Datasets in the order of import, from the one after id `after`."""
    return list(
        session.scalars(select(Dataset).where(Dataset.advisor_id == advisor.id, Dataset.id > after).order_by(Dataset.id).limit(limit))
    )


def examples(session: Session, dataset: Dataset, *, after: int = -1, limit: int = 200) -> list[tuple[DatasetExample, Example]]:
    """The examples by position, from the one after position `after`."""
    query = select(DatasetExample, Example).join(Example).where(DatasetExample.dataset_id == dataset.id, DatasetExample.position > after)
    return [(place, example) for place, example in session.execute(query.order_by(DatasetExample.position).limit(limit))]


def all_examples(session: Session, dataset: Dataset, *, batch: int = 1000) -> Iterator[tuple[DatasetExample, Example]]:
    """Every example by position, read in batches."""
    after = -1
    while rows := examples(session, dataset, after=after, limit=batch):
        yield from rows
        after = rows[-1][0].position


@dataclass(frozen=True)
class Summary:
    """Counts over a whole dataset, held-out pairs included."""

    categories: dict[str, int]
    origins: dict[str, int]
    sources_by_class: dict[str, int]
    without_source: int
    multi_turn: int


def summary(session: Session, dataset: Dataset) -> Summary:
    """Counts by category and origin, distinct sources by class, pairs that name no source."""
    member = select(DatasetExample.example_id).where(DatasetExample.dataset_id == dataset.id)
    by_class = session.execute(
        select(Source.class_, func.count(Source.id.distinct()))
        .join(Document, Document.source_id == Source.id)
        .join(ExampleSource, ExampleSource.document_id == Document.id)
        .where(ExampleSource.example_id.in_(member))
        .group_by(Source.class_)
    ).all()
    tied = session.scalar(select(func.count(ExampleSource.example_id.distinct())).where(ExampleSource.example_id.in_(member))) or 0
    categories: Counter[str] = Counter()
    origins: Counter[str] = Counter()
    multi = 0
    for _, example in all_examples(session, dataset):
        categories[example.category or "(none)"] += 1
        origins[example.origin] += 1
        multi += len(example.messages) > 2
    return Summary(dict(categories.most_common()), dict(origins), dict(by_class), dataset.examples_total - tied, multi)
