"""A catalogue of the size that a large team would have: 800 advisors, 10 versions each, 100 sources behind every version, by bulk inserts.

Every advisor is public and its newest version live. The rows are what the product's own functions would write, except for the history, which holds no
event per version: nothing on a card reads it.
"""

import datetime as dt
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Insert, insert, literal, select, text
from sqlalchemy.orm import Session

from registry.db import Database
from registry.models import (
    AdapterVersion,
    Advisor,
    AdvisorName,
    Alias,
    BaseModel,
    Dataset,
    DatasetExample,
    Document,
    Evaluation,
    Example,
    ExampleSource,
    Persona,
    Score,
    Source,
    SourceKey,
)

MOMENT = dt.datetime(2026, 11, 20, 9, tzinfo=dt.UTC)
ACTOR = "bench"
_ROWS = 2000  # per statement
# The mix of the first example advisor: five classes, half of it academic.
_CLASSES = ("academic", "institutional", "academic", "industry", "academic", "professional", "academic", "clinical")


def build(database: Database, advisors: int = 800, versions: int = 10, sources: int = 100) -> None:
    """Fill an empty, migrated catalogue."""
    with database.transaction() as session:
        session.execute(
            insert(BaseModel),
            [{"id": 1, "repo": "mistralai/Mistral-7B-Instruct-v0.3", "revision": "e" * 40, "kind": "hub", "created_at": MOMENT}],
        )
        _write(session, insert(Advisor), (_advisor(a, versions) for a in range(1, advisors + 1)))
        _write(session, insert(AdvisorName), ({"name": _slug(a), "advisor_id": a} for a in range(1, advisors + 1)))
        _write(session, insert(Persona), (_persona(a) for a in range(1, advisors + 1)))
        total = advisors * sources
        _write(session, insert(Source), (_source(n) for n in range(1, total + 1)))
        _write(session, insert(SourceKey), ({"key": _key(n), "source_id": n} for n in range(1, total + 1)))
        _write(session, insert(Document), (_document(n) for n in range(1, total + 1)))
        _write(session, insert(Example), (_example(n) for n in range(1, total + 1)))
        _write(session, insert(ExampleSource), ({"example_id": n, "document_id": n, "role": "answer"} for n in range(1, total + 1)))
        numbers = [(a, v) for a in range(1, advisors + 1) for v in range(1, versions + 1)]
        _write(session, insert(Dataset), (_dataset(a, v, versions, sources) for a, v in numbers))
        _place_examples(session, sources)
        _write(session, insert(AdapterVersion), (_version(a, v, versions) for a, v in numbers))
        _write(session, insert(Evaluation), (_evaluation(a, v, versions) for a, v in numbers))
        _write(session, insert(Score), (_score(a, v, versions) for a, v in numbers))
        _write(session, insert(Alias), (_alias(a, versions) for a in range(1, advisors + 1)))
        if not database.is_sqlite:
            _advance_sequences(session)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))


def _write(session: Session, statement: Insert[Any], rows: Iterator[dict[str, Any]]) -> None:
    part: list[dict[str, Any]] = []
    for row in rows:
        part.append(row)
        if len(part) == _ROWS:
            session.execute(statement, part)
            part = []
    if part:
        session.execute(statement, part)


def _place_examples(session: Session, sources: int) -> None:
    """Every dataset of an advisor holds the advisor's examples, one per source."""
    position = Example.id - (Dataset.advisor_id - 1) * sources - 1
    # A range over the key instead of a comparison with each pair: else this is a product of two large tables.
    first = (Dataset.advisor_id - 1) * sources + 1
    rows = select(Dataset.id, position, Example.id, literal("train")).join(Example, Example.id.between(first, first + sources - 1))
    session.execute(insert(DatasetExample).from_select(["dataset_id", "position", "example_id", "split"], rows))


def _digest(*parts: Any) -> str:
    return "sha256:" + hashlib.sha256(repr(parts).encode()).hexdigest()


def _slug(advisor: int) -> str:
    return f"advisor-{advisor:04d}"


def _key(number: int) -> str:
    return f"doi:10.1234/bench.{number}"


def _advisor(a: int, versions: int) -> dict[str, Any]:
    return {
        "id": a,
        "slug": _slug(a),
        "name": f"Advisor {a}",
        "role": "Guide",
        "public": True,
        "next_version": versions + 1,
        "created_at": MOMENT,
    }


def _persona(a: int) -> dict[str, Any]:
    prompt = f"You are advisor {a}."
    return {"id": a, "advisor_id": a, "number": 1, "sha256": _digest(prompt), "text": prompt, "created_at": MOMENT, "created_by": ACTOR}


def _source(n: int) -> dict[str, Any]:
    class_ = _CLASSES[n % len(_CLASSES)]
    csl = {
        "type": "article-journal",
        "title": f"Recovery from work and its day-to-day course: a diary study, part {n}",
        "author": [{"family": "Oerlemans", "given": "Wido G. M."}, {"family": "Bakker", "given": "Arnold B."}],
        "container-title": "Journal of Occupational Health Psychology",
        "publisher": "American Psychological Association",
        "issued": {"date-parts": [[2014, 1 + n % 12]]},
        "DOI": f"10.1234/bench.{n}",
    }
    review = "peer_reviewed" if class_ == "academic" else "unknown"
    url = f"https://doi.org/10.1234/bench.{n}"
    return {
        "id": n,
        "key": _key(n),
        "url": url,
        "doi": f"10.1234/bench.{n}",
        "csl": csl,
        "class_": class_,
        "review_status": review,
        "created_at": MOMENT,
    }


def _document(n: int) -> dict[str, Any]:
    return {
        "id": n,
        "source_id": n,
        "identity": _digest("document", n),
        "extent": "abstract",
        "retrieved_at": MOMENT,
        "sha256": _digest("bytes", n),
    }


def _example(n: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"Question {n}? " * 10}, {"role": "assistant", "content": f"Answer {n}. " * 40}]
    return {
        "id": n,
        "sha256": _digest("example", n),
        "messages": messages,
        "category": "recovery",
        "origin": "synthesised",
        "generator": "a model",
    }


def _number(a: int, v: int, versions: int) -> int:
    return (a - 1) * versions + v


def _dataset(a: int, v: int, versions: int, sources: int) -> dict[str, Any]:
    return {
        "id": _number(a, v, versions),
        "advisor_id": a,
        "sha256": _digest("dataset", a, v),
        "persona_id": a,
        "split": {"method": "connected-groups/1", "fraction": 0.0, "seed": v},
        "examples_total": sources,
        "heldout_total": 0,
        "created_at": MOMENT,
        "created_by": ACTOR,
    }


def _version(a: int, v: int, versions: int) -> dict[str, Any]:
    return {
        "id": _number(a, v, versions),
        "advisor_id": a,
        "number": v,
        "state": "ready",
        "digest": _digest("version", a, v),
        "spec_digest": _digest("spec", a, v),
        "dataset_id": _number(a, v, versions),
        "base_model_id": 1,
        "persona_id": a,
        "recipe": {"r": 16},
        "recipe_digest": _digest("recipe"),
        "seed": v,
        "created_at": MOMENT,
        "created_by": ACTOR,
        "ready_at": MOMENT,
    }


def _evaluation(a: int, v: int, versions: int) -> dict[str, Any]:
    number = _number(a, v, versions)
    return {"id": number, "version_id": number, "suite": "heldout", "created_at": MOMENT, "created_by": ACTOR}


def _score(a: int, v: int, versions: int) -> dict[str, Any]:
    return {"evaluation_id": _number(a, v, versions), "metric": "loss_difference", "value": -0.1, "low": -0.2, "high": -0.05, "n": 50}


def _alias(a: int, versions: int) -> dict[str, Any]:
    return {"advisor_id": a, "name": "live", "version_id": _number(a, versions, versions), "generation": 1, "moved_at": MOMENT}


def _advance_sequences(session: Session) -> None:
    tables: Sequence[str] = (
        "advisors",
        "personas",
        "sources",
        "documents",
        "examples",
        "datasets",
        "base_models",
        "adapter_versions",
        "evaluations",
    )
    for table in tables:
        session.execute(text(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))"))  # noqa: S608 - fixed names
