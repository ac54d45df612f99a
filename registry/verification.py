"""Re-computes the chain behind a version, from documents to examples to dataset to files, and lists every difference at once.

Nothing stored is believed: every digest is computed again from the rows and the bytes it covers. What it cannot see: whether a document's text says what
a pair claims, and whether the training really used these rows (a repeat of the training on CPU shows that).
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry import datasets, events, sources, versions
from registry.artifacts import ArtifactStore, Problem
from registry.imports import DocumentDraft
from registry.manifest import FileEntry, VersionManifest, digest, digest_bytes
from registry.models import AdapterVersion, Blob, Dataset, DatasetExample, Document, Example, ExampleSource, Source
from registry.splits import Member, SplitRule, heldout
from registry.versions import spec_digest


def verify(session: Session, store: ArtifactStore, version: AdapterVersion) -> list[str]:
    """Every difference between what the catalogue states of a version and what it computes; empty when all holds."""
    parts: dict[str, Callable[[], list[str]]] = {
        "files": lambda: versions.check_files(store, version.files),
        "blobs": lambda: _blob_differences(session, version),
    }
    return [line for name, part in parts.items() for line in _guarded(name, part)] + verify_record(session, version)


def verify_checkpoints(session: Session, store: ArtifactStore, version: AdapterVersion) -> list[str]:
    """Every difference between what is recorded of the adapters kept on the way of the training and what the store holds.

    They are told apart from `verify`: nobody is served by them, and no promotion depends on them.
    """
    return _guarded("checkpoints", lambda: _checkpoint_differences(session, store, version))


def _checkpoint_differences(session: Session, store: ArtifactStore, version: AdapterVersion) -> list[str]:
    sizes = dict(session.execute(select(Blob.sha256, Blob.size).where(Blob.sha256.in_([c.sha256 for c in version.checkpoints]))).all())
    lines = []
    for kept in version.checkpoints:
        name, found = f"checkpoint of step {kept.step}", store.verify(kept.sha256)
        if isinstance(found, Problem):
            lines.append(f"{name}: {found.sentence}")
        elif found.size != kept.size:
            lines.append(f"{name}: expected {kept.size} bytes, found {found.size}")
        if sizes.get(kept.sha256) != kept.size:
            lines.append(f"{name}: the catalogue has no record of its bytes")
    return lines


def verify_dataset(session: Session, dataset: Dataset) -> list[str]:
    """Like `verify`, of a dataset alone: whether its documents, pairs, order and split still give the digests that stand for them."""
    parts: dict[str, Callable[[], list[str]]] = {
        "documents": lambda: document_differences(session, dataset),
        "dataset": lambda: _dataset_differences(session, dataset),
    }
    return [line for name, part in parts.items() for line in _guarded(name, part)]


def verify_record(session: Session, version: AdapterVersion) -> list[str]:
    """Like `verify`, without the files' bytes: whether what a training could be repeated from is what the version was made from."""
    parts: dict[str, Callable[[], list[str]]] = {
        "persona": lambda: _persona_differences(version),
        "documents": lambda: document_differences(session, version.dataset),
        "dataset": lambda: _dataset_differences(session, version.dataset),
        "version": lambda: _version_differences(version),
        "history": lambda: _history_differences(session, version),
    }
    return [line for name, part in parts.items() for line in _guarded(name, part)]


def _guarded(name: str, part: Callable[[], list[str]]) -> list[str]:
    """A row that cannot even be read is a difference as well, not a crash."""
    try:
        return part()
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        return [f"{name}: a row cannot be read: {type(error).__name__} {str(error)[:200]}"]


def _history_differences(session: Session, version: AdapterVersion) -> list[str]:
    """What the hash-chained history says of the version's number and digest."""
    told = (events.body_of(e) for e in events.of_advisor(session, version.advisor, limit=2**31 - 1, tag_prefix="version:registered"))
    if any((body.get("number"), body.get("digest")) == (version.number, version.digest) for body in told):
        return []
    return [f"version: the history does not say that {version.advisor.slug}@{version.number} was registered with {version.digest}"]


def _blob_differences(session: Session, version: AdapterVersion) -> list[str]:
    sizes = dict(session.execute(select(Blob.sha256, Blob.size).where(Blob.sha256.in_([f.sha256 for f in version.files]))).all())
    return [f"{f.path}: the catalogue has no record of its bytes" for f in version.files if sizes.get(f.sha256) != f.size]


def _persona_differences(version: AdapterVersion) -> list[str]:
    found = digest_bytes(version.persona.text.encode())
    return (
        [] if found == version.persona.sha256 else [f"persona {version.persona.number}: expected {version.persona.sha256}, found {found}"]
    )


def _version_differences(version: AdapterVersion) -> list[str]:
    lines = []
    recipe = digest(version.recipe)
    if recipe != version.recipe_digest:
        lines.append(f"recipe: expected {version.recipe_digest}, found {recipe}")
    base = version.base_model
    files = tuple(FileEntry(f.path, f.sha256, f.size) for f in version.files)
    manifest = VersionManifest(files, version.dataset.sha256, base.repo, base.revision, recipe, version.persona.sha256, version.seed)
    if manifest.digest != version.digest:
        lines.append(f"version: expected {version.digest}, found {manifest.digest}")
    key = spec_digest(version.persona.sha256, version.dataset.sha256, base.repo, base.revision, version.recipe, version.seed)
    if key != version.spec_digest:
        lines.append(f"training spec: expected {version.spec_digest}, found {key}")
    if version.dataset.persona_id != version.persona_id:
        lines.append("persona: the version names another persona than its dataset")
    return lines


def _dataset_differences(session: Session, dataset: Dataset) -> list[str]:
    lines: list[str] = []
    links = _links(session, dataset)
    members: list[Member] = []
    places: list[DatasetExample] = []
    for place, example in datasets.all_examples(session, dataset):
        mine = links.get(example.id, [])
        lines += _example_differences(place, example, mine)
        question = datasets.question_tie(example.messages[0]["content"] if example.messages else "")
        members.append(Member(example.sha256, frozenset(row["key"] for row in mine) | {question}))
        places.append(place)
    found = datasets.dataset_digest([m.digest for m in members], dataset.split)
    if found != dataset.sha256:
        lines.append(f"dataset: expected {dataset.sha256}, found {found} over {len(members)} examples")
    if [p.position for p in places] != list(range(dataset.examples_total)):
        lines.append(f"dataset: expected {dataset.examples_total} examples in order, found {len(places)}")
    return lines + _split_differences(dataset, members, places)


def _example_differences(place: DatasetExample, example: Example, links: Sequence[dict[str, Any]]) -> list[str]:
    found = datasets.example_digest(example.messages, example.category, example.origin, example.generator, links)
    return [] if found == example.sha256 else [f"example {place.position}: expected {example.sha256}, found {found}"]


def _split_differences(dataset: Dataset, members: Sequence[Member], places: Sequence[DatasetExample]) -> list[str]:
    try:
        rule = SplitRule(**dataset.split)
    except TypeError:
        return [f"split: the rule {dataset.split} is not known"]
    aside = heldout(members, rule)
    wrong = [p.position for p, out in zip(places, aside, strict=True) if (p.split == "heldout") != out]
    lines = [f"split: examples {', '.join(map(str, wrong[:10]))} stand on the wrong side"] if wrong else []
    if sum(aside) != dataset.heldout_total:
        lines.append(f"split: expected {dataset.heldout_total} held-out examples, found {sum(aside)}")
    return lines


def _links(session: Session, dataset: Dataset) -> dict[int, list[dict[str, Any]]]:
    """What every example of the dataset rests on, by example id, with each document's own identity checked on the way."""
    rows = session.execute(
        select(ExampleSource.example_id, ExampleSource.role, Document, Source.key)
        .join(Document, Document.id == ExampleSource.document_id)
        .join(Source, Source.id == Document.source_id)
        .join(DatasetExample, DatasetExample.example_id == ExampleSource.example_id)
        .where(DatasetExample.dataset_id == dataset.id)
    )
    links: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for example_id, role, document, key in rows:
        links[example_id].append({"key": key, "document": document.sha256, "extent": document.extent, "role": role})
    return links


def document_differences(session: Session, dataset: Dataset) -> list[str]:
    """Documents whose recorded facts no longer give their identity."""
    query = select(Document).join(ExampleSource).join(DatasetExample, DatasetExample.example_id == ExampleSource.example_id)
    lines = []
    for document in session.scalars(query.where(DatasetExample.dataset_id == dataset.id).distinct()):
        found = sources.document_identity(DocumentDraft(document.extent, document.retrieved_at, document.sha256))
        if found != document.identity:
            lines.append(
                f"document {document.id} of {sources.source_id(session.get_one(Source, document.source_id))}: expected {document.identity}, found {found}"
            )
    return lines
