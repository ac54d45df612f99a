"""What differs between two versions: the recipe, the base, the data, the sources behind it, the scores.

Everything is counted over training pairs, as on the card; held-out pairs are compared apart, because a change there changes only what is measured. The
number of statements does not depend on how much data there is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry import evaluations, sources
from registry.manifest import json_difference
from registry.models import AdapterVersion, DatasetExample, Source


@dataclass(frozen=True)
class Change:
    """One fact with its value before and after; None where it was absent."""

    what: str
    before: Any
    after: Any


@dataclass(frozen=True)
class DataChange:
    """Training pairs that came, went and stayed, and held-out pairs on each side. `same` means that the datasets are one."""

    before: str
    after: str
    same: bool
    added: int
    removed: int
    kept: int
    heldout_before: int
    heldout_after: int


@dataclass(frozen=True)
class SourceChange:
    """A source that only one of the two versions rests on."""

    id: str
    title: str
    url: str | None


@dataclass(frozen=True)
class ScoreChange:
    """One metric of one suite in both versions; None where it was not measured."""

    suite: str
    metric: str
    before: float | None
    after: float | None


@dataclass(frozen=True)
class VersionDiff:
    """From version `before` to version `after`. `facts` are kind, base, persona and seed; `files` the files whose bytes differ."""

    before: str
    after: str
    facts: tuple[Change, ...]
    recipe: tuple[Change, ...]
    data: DataChange
    sources_added: tuple[SourceChange, ...]
    sources_removed: tuple[SourceChange, ...]
    scores: tuple[ScoreChange, ...]
    files: tuple[Change, ...]

    @property
    def empty(self) -> bool:
        """Whether nothing but the number differs."""
        return not (self.facts or self.recipe or self.files) and self.data.same


def diff(session: Session, a: AdapterVersion, b: AdapterVersion) -> VersionDiff:
    """The difference from `a` to `b`, both loaded by `versions.resolve`. Seven statements at most."""
    added, removed = _sources(session, a, b)
    return VersionDiff(
        before=_ref(a),
        after=_ref(b),
        facts=tuple(_facts(a, b)),
        recipe=tuple(Change(*row) for row in json_difference(a.recipe, b.recipe)),
        data=_data(session, a, b),
        sources_added=added,
        sources_removed=removed,
        scores=tuple(_scores(session, a, b)),
        files=tuple(_files(a, b)),
    )


def _ref(version: AdapterVersion) -> str:
    return f"{version.advisor.slug}@{version.number}"


def _facts(a: AdapterVersion, b: AdapterVersion) -> list[Change]:
    rows = (
        ("kind", a.kind, b.kind),
        ("base", a.base_model.repo, b.base_model.repo),
        ("base revision", a.base_model.revision, b.base_model.revision),
        ("persona", a.persona.number, b.persona.number),
        ("persona digest", a.persona.sha256, b.persona.sha256),
        ("seed", a.seed, b.seed),
    )
    return [Change(what, before, after) for what, before, after in rows if before != after]


def _files(a: AdapterVersion, b: AdapterVersion) -> list[Change]:
    before, after = ({file.path: file.sha256 for file in version.files} for version in (a, b))
    return [
        Change(path, before.get(path), after.get(path))
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]


def _data(session: Session, a: AdapterVersion, b: AdapterVersion) -> DataChange:
    before, after = (version.dataset.examples_total - version.dataset.heldout_total for version in (a, b))
    same = a.dataset_id == b.dataset_id
    kept = before if same else _common(session, a.dataset_id, b.dataset_id)
    return DataChange(
        before=a.dataset.sha256,
        after=b.dataset.sha256,
        same=same,
        added=after - kept,
        removed=before - kept,
        kept=kept,
        heldout_before=a.dataset.heldout_total,
        heldout_after=b.dataset.heldout_total,
    )


def _common(session: Session, a: int, b: int) -> int:
    """Training pairs that stand in both datasets."""
    others = select(DatasetExample.example_id).where(DatasetExample.dataset_id == b, DatasetExample.split == "train")
    mine = select(func.count()).where(
        DatasetExample.dataset_id == a, DatasetExample.split == "train", DatasetExample.example_id.in_(others)
    )
    return session.scalar(mine) or 0


def _sources(session: Session, a: AdapterVersion, b: AdapterVersion) -> tuple[tuple[SourceChange, ...], tuple[SourceChange, ...]]:
    if a.dataset_id == b.dataset_id:
        return (), ()
    before, after = ({source.id: source for source in sources.under_version(session, version)} for version in (a, b))
    return _changes([s for i, s in after.items() if i not in before]), _changes([s for i, s in before.items() if i not in after])


def _changes(found: Sequence[Source]) -> tuple[SourceChange, ...]:
    return tuple(SourceChange(sources.source_id(source), sources.title_of(source), source.url) for source in found)


def _scores(session: Session, a: AdapterVersion, b: AdapterVersion) -> list[ScoreChange]:
    latest = evaluations.latest(session, {a.id, b.id})
    before, after = ({(e.suite, s.metric): s.value for e in latest.get(version.id, []) for s in e.scores} for version in (a, b))
    return [
        ScoreChange(suite, metric, before.get((suite, metric)), after.get((suite, metric)))
        for suite, metric in sorted(before.keys() | after.keys())
    ]
