"""From what a person asks for to orders: which advisors can be built, with which settings, and which words must be acknowledged before.

Whatever of an order can be judged without its base and the worker's GPU is judged here, before anything is queued: a worker may be hours away. Orders that
came over HTTP, where the trainer is not at hand, are judged by the worker before their first step. Nothing is written.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import exists, select

from registry import advisors
from registry.db import Database
from registry.errors import Invalid, NotFound
from registry.job_queue import BuildOrder
from registry.models import Advisor, Dataset

if TYPE_CHECKING:
    from pipeline.config import PipelineConfig

# What an order may not name: files of the machine on which it was given, which a worker elsewhere has not got.
_LOCAL = frozenset({"examples", "documents", "threads"})


def config_of(order: BuildOrder) -> "PipelineConfig":
    """The pipeline's settings of an order. Raises Invalid for a setting that is unknown, names local files, or makes no sense."""
    from pipeline.config import PipelineConfig, Thresholds

    known = {f.name for f in fields(PipelineConfig)} - _LOCAL
    strange = sorted(set(order.pipeline) - known)
    if strange:
        raise Invalid(f"An order's pipeline settings are {', '.join(sorted(known))}; found {', '.join(strange)[:200]!a}.")
    values = dict(order.pipeline)
    try:
        if "thresholds" in values:
            values["thresholds"] = Thresholds(**values["thresholds"])
        if "denied_domains" in values:
            values["denied_domains"] = tuple(values["denied_domains"])
        config = PipelineConfig(examples=order.examples or PipelineConfig().examples, **values)
        config.check()
    except (TypeError, AttributeError) as error:
        raise Invalid(f"The order's pipeline settings do not fit: {error}.") from None
    return config


def check_recipe(order: BuildOrder, home: Path) -> None:
    """Raise Invalid for a setting or a value that no recipe has and, where the base is the built-in one and at hand, for a recipe that could not train.

    Another base's shapes, and the worker's GPU, are known to the worker alone; it checks the rest.
    """
    from trainer.recipe import check_settings, make_recipe

    check_settings(order.recipe)
    if order.base == "tiny" and any((home / "bases").glob("*/config.json")):
        from trainer.bases import resolve_base

        make_recipe(resolve_base("tiny", home), None, order.recipe)


def terms_of(order: BuildOrder) -> str | None:
    """The provider's words that must be acknowledged before this order; None where it asks nobody for anything."""
    if order.examples is None or order.dataset is not None:
        return None
    from jobs.curate import require_packages, words_of

    require_packages()
    return words_of(config_of(order))


def with_terms(order: BuildOrder, terms: str | None) -> BuildOrder:
    """The order with the digest of the words that were acknowledged."""
    if terms is None:
        return order
    from pipeline.terms import terms_digest

    return replace(order, terms_sha256=terms_digest(terms))


def checked(db: Database, order: BuildOrder) -> BuildOrder:
    """The order with the advisor's slug. Raises NotFound, Gone or Invalid: no such advisor, retired, nothing to train on, settings that nothing has."""
    from trainer.recipe import check_settings

    check_settings(order.recipe)
    config_of(order)
    with db.read() as session:
        advisor = advisors.get_active(session, order.advisor)
        has_data = session.scalar(select(exists().where(Dataset.advisor_id == advisor.id)))
        if order.examples is None and not has_data:
            raise NotFound(
                f"'{advisor.slug}' has no dataset yet.",
                hint=f"Let the pipeline write one: registry build {advisor.slug} --examples 200, or import one: "
                f"registry datasets import --advisor {advisor.slug} FILE",
            )
        return replace(order, advisor=advisor.slug)


def buildable(db: Database, *, writes: bool) -> Sequence[str]:
    """The slugs of every active advisor that has a dataset; with `writes` every active one, since the pipeline writes theirs."""
    query = select(Advisor.slug).where(Advisor.retired_at.is_(None)).order_by(Advisor.slug)
    if not writes:
        query = query.where(exists().where(Dataset.advisor_id == Advisor.id))
    with db.read() as session:
        return list(session.scalars(query))
