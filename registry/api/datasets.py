"""Datasets: import training pairs and read them back, each with the sources it rests on."""

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Path, Response
from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from registry import datasets, models, personas
from registry.api import schemas
from registry.api.deps import Actor, Cursor, Inside, Limit, Slug, advisor_for, permission
from registry.api.paging import DEFAULT, after_number, next_link
from registry.api.routes import problems, router
from registry.errors import Invalid
from registry.imports import DatasetDraft, Defaults, SourceDraft, read_csl, read_jsonl
from registry.splits import SplitRule

routes = router("datasets")
Ref = Annotated[str, Path(description="A dataset's digest, or at least its first 6 hex digits.", max_length=100, examples=[schemas.DIGEST])]


@routes.get("/advisors/{slug}/datasets", summary="List an advisor's datasets", responses=problems(401, 403, 404))
def list_datasets(
    slug: Slug, inside: Inside, actor: Annotated[Actor, permission("read")], limit: Limit = DEFAULT, cursor: Cursor = None
) -> schemas.Page[schemas.Dataset]:
    """Datasets in the order of their import."""
    with inside.db.read() as session:
        advisor = advisor_for(session, actor, slug)
        rows = datasets.page(session, advisor, after=after_number(cursor), limit=limit + 1)
        numbers = _persona_numbers(session, rows)
        shown = [schemas.Dataset.of(row, numbers[row.persona_id]) for row in rows[:limit]]
    link = next_link(f"/advisors/{advisor.slug}/datasets", limit, rows[limit - 1].id if len(rows) > limit else None)
    return schemas.Page(items=shown, next=link)


def _persona_numbers(session: Session, rows: Sequence[models.Dataset]) -> dict[int, int]:
    """The numbers of the personas of all rows, by their ids, in one statement."""
    query = select(models.Persona.id, models.Persona.number).where(models.Persona.id.in_({row.persona_id for row in rows}))
    return dict(session.execute(query).all())


@routes.post(
    "/advisors/{slug}/datasets",
    summary="Import training pairs",
    status_code=201,
    responses={
        200: {"model": schemas.DatasetImported, "description": "The same dataset was there already."},
        **problems(401, 403, 404, 410, 413),
    },
)
def import_dataset(
    slug: Slug, body: schemas.DatasetIn, inside: Inside, actor: Annotated[Actor, permission("write")], response: Response
) -> schemas.DatasetImported:
    """Register an immutable dataset. Each pair names its sources and its origin; every faulty line is named at once, and then nothing is written."""
    draft, citations = _drafts(body)
    with inside.db.transaction() as session:
        advisor = advisor_for(session, actor, slug, lock=True, active=True)
        persona = personas.get(session, advisor, body.persona) if body.persona else None
        rule = SplitRule(fraction=body.heldout)
        done = datasets.register(session, advisor, draft, actor=actor.name, citations=citations, rule=rule, persona=persona)
        response.status_code = 201 if done.created else 200
        return schemas.DatasetImported(
            dataset=schemas.Dataset.of(done.dataset, done.dataset.persona.number),
            created=done.created,
            duplicates=done.duplicates,
            notes=list(done.notes),
        )


def _drafts(body: schemas.DatasetIn) -> tuple[DatasetDraft, tuple[SourceDraft, ...]]:
    """Through the readers of the command line, so that both refuse the same lines in the same words."""
    if (body.jsonl is None) == (body.examples is None):
        raise Invalid("Expected either 'jsonl' or 'examples'; found both or neither.")
    text = body.jsonl if body.jsonl is not None else "\n".join(json.dumps(row) for row in body.examples or [])
    defaults = Defaults(origin=body.origin, generator=body.generator, strip_system=body.strip_system)
    draft = read_jsonl(text, "jsonl" if body.jsonl is not None else "examples", defaults)
    return draft, read_csl(json.dumps(body.citations), "citations") if body.citations else ()


@routes.get("/advisors/{slug}/datasets/{digest}", summary="Show a dataset", responses=problems(401, 403, 404, 409))
def show_dataset(slug: Slug, digest: Ref, inside: Inside, actor: Annotated[Actor, permission("read")]) -> schemas.DatasetDetail:
    """A dataset with counts by category, origin and class of source."""
    with inside.db.read() as session:
        dataset = datasets.get(session, advisor_for(session, actor, slug), digest)
        summary = datasets.summary(session, dataset)
        plain = schemas.Dataset.of(dataset, dataset.persona.number).model_dump()
    return schemas.DatasetDetail(
        **plain,
        categories=summary.categories,
        origins=summary.origins,
        sources_by_class=summary.sources_by_class,
        without_source=summary.without_source,
        multi_turn=summary.multi_turn,
    )


@routes.get("/advisors/{slug}/datasets/{digest}/examples", summary="Read a dataset's examples", responses=problems(401, 403, 404, 409))
def list_examples(
    slug: Slug,
    digest: Ref,
    inside: Inside,
    actor: Annotated[Actor, permission("read")],
    limit: Limit = DEFAULT,
    cursor: Cursor = None,
) -> schemas.Page[schemas.Example]:
    """Examples by position, held-out ones too, each with the sources it rests on."""
    with inside.db.read() as session:
        advisor = advisor_for(session, actor, slug)
        dataset = datasets.get(session, advisor, digest)
        after = min(after_number(cursor, start=-1), 2**31 - 1)
        rows = datasets.examples(session, dataset, after=after, limit=limit + 1)
        links = _links(session, [example.id for _, example in rows[:limit]])
    path = f"/advisors/{advisor.slug}/datasets/{dataset.sha256}/examples"
    link = next_link(path, limit, rows[limit - 1][0].position if len(rows) > limit else None)
    return schemas.Page(items=[_example(place, example, links[example.id]) for place, example in rows[:limit]], next=link)


def _links(session: Session, example_ids: Sequence[int]) -> dict[int, list[schemas.RestsOn]]:
    """What examples rest on, in one statement."""
    query = (
        select(models.ExampleSource)
        .where(models.ExampleSource.example_id.in_(example_ids))
        .options(joinedload(models.ExampleSource.document, innerjoin=True).joinedload(models.Document.source, innerjoin=True))
        .order_by(models.ExampleSource.document_id, models.ExampleSource.role)
    )
    found: dict[int, list[schemas.RestsOn]] = defaultdict(list)
    for link in session.scalars(query):
        source = link.document.source
        found[link.example_id].append(schemas.RestsOn(id=f"src_{source.id}", url=source.url, role=link.role, extent=link.document.extent))
    return found


def _example(place: models.DatasetExample, example: models.Example, links: list[schemas.RestsOn]) -> schemas.Example:
    facts: dict[str, Any] = {name: getattr(example, name) for name in ("sha256", "messages", "category", "origin", "generator", "author")}
    return schemas.Example(position=place.position, split=place.split, read_by_people=example.read_by_people, sources=links, **facts)
