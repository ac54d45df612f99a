"""Writes a version's README.md: what it is, what it was trained on, what it must not be taken for. Deterministic: no date, no number, no person.

The same training therefore gives the same bytes, and with them the same version digest.
"""

from collections import Counter

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry import sources
from registry.models import Advisor, Dataset, DatasetExample, Document, Example, ExampleSource, Source

MAX_LISTED = 200  # a README is for reading; the Source Card pages through all of them


def render(
    session: Session,
    advisor: Advisor,
    dataset: Dataset,
    base_repo: str,
    base_revision: str | None,
    base_note: str | None,
    recipe: dict[str, object],
) -> str:
    """The model card as Markdown with the Hub's YAML header."""
    training = dataset.examples_total - dataset.heldout_total
    full = recipe.get("method") == "full"  # a model of its own, to be loaded with transformers
    lines = [
        "---",
        f"library_name: {'transformers' if full else 'peft'}",
        f"base_model: {base_repo}",
        f"tags: [{'full-fine-tune' if full else 'lora'}, adapter-registry]",
        "---",
        "",
        f"# {'Full fine-tune' if full else 'LoRA adapter'} of {_plain(advisor.name)}",
        "",
        f"{_plain(advisor.name)} is an AI character, not a licensed professional.",
        "",
        f"- Base: {base_repo}" + (f" at revision {base_revision}" if base_revision else " (revision unknown)"),
        *([f"- About the base: {base_note}"] if base_note else []),
        f"- Training data: {training} example conversations ({_origins(session, dataset)}), dataset {dataset.sha256}",
        f"- Held out from training: {dataset.heldout_total}",
        "- Method: full fine-tuning" if full else f"- Method: {recipe.get('method')}, r={recipe.get('r')}, alpha={recipe.get('alpha')}",
        "",
        "The persona (voice) is a system prompt and was not trained; style can still leak into weights.",
        "",
        "## Sources of the training examples",
        "",
        *_sources(session, dataset),
        "",
    ]
    return "\n".join(lines)


def _origins(session: Session, dataset: Dataset) -> str:
    rows = session.execute(
        select(Example.origin, Example.generator, func.count())
        .join(DatasetExample, DatasetExample.example_id == Example.id)
        .where(DatasetExample.dataset_id == dataset.id, DatasetExample.split == "train")
        .group_by(Example.origin, Example.generator)
    )
    counts = Counter({(f"{origin} by {_plain(generator)}" if generator else f"{origin}"): n for origin, generator, n in rows})
    return ", ".join(f"{n} {words}" for words, n in sorted(counts.items()))


def _sources(session: Session, dataset: Dataset) -> list[str]:
    rows = session.execute(
        select(Source, func.count(ExampleSource.example_id.distinct()).label("pairs"))
        .join(Document, Document.source_id == Source.id)
        .join(ExampleSource, ExampleSource.document_id == Document.id)
        .join(DatasetExample, DatasetExample.example_id == ExampleSource.example_id)
        .where(DatasetExample.dataset_id == dataset.id, DatasetExample.split == "train")
        .group_by(Source.id)
        .order_by(func.count(ExampleSource.example_id.distinct()).desc(), Source.key)
    ).all()
    lines = [f"- {_plain(sources.title_of(source))} <{source.url}> ({pairs} examples)" for source, pairs in rows[:MAX_LISTED]]
    if len(rows) > MAX_LISTED:
        lines.append(f"- and {len(rows) - MAX_LISTED} more; the Source Card lists all of them")
    return lines or ["None was recorded."]


def _plain(text: str | None) -> str:
    """Text from outside as one line that Markdown cannot read as markup."""
    flat = " ".join((text or "").split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>#|" else c for c in flat)
