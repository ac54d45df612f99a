"""`registry pipeline`: from a system prompt to a training set whose every pair names its sources."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commands.frame import Json, app, open_catalogue, print_json, show_facts
from registry.errors import Invalid

if TYPE_CHECKING:
    from jobs.curate import Curated, Prepared
    from pipeline.config import Controls, PipelineConfig
    from pipeline.ports import Progress, Watcher


@app.command()
def pipeline(
    advisor: Annotated[str, typer.Option(help="Whose training set to write.")],
    examples: Annotated[int, typer.Option(min=1, help="How many pairs.")] = 200,
    model: Annotated[str | None, typer.Option(help="The model that writes; default: Claude Sonnet 5.5.")] = None,
    research_model: Annotated[str | None, typer.Option(help="The Claude model that searches the web.")] = None,
    provider: Annotated[str, typer.Option(help="Who writes: anthropic, or openai for any OpenAI-compatible endpoint.")] = "anthropic",
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of the plan.")] = 0,
    web_agents: Annotated[int, typer.Option(min=1, max=20, help="Agents that search the web.")] = 5,
    queries: Annotated[int | None, typer.Option(min=1, help="Research questions; default: by size.")] = None,
    web_search: Annotated[str, typer.Option(help="Version of Claude's web search tool.")] = "web_search_20250305",
    fetch_pages: Annotated[bool, typer.Option("--fetch-pages", help="Let Claude also read whole pages, not only cite them.")] = False,
    papers: Annotated[bool, typer.Option("--papers/--no-papers", help="Search Semantic Scholar, OpenAlex and arXiv.")] = True,
    documents: Annotated[
        Path | None, typer.Option(help="Folder or file: PDF, EPUB, HTML, Markdown, VTT, SRT; sources.json there holds the citations.")
    ] = None,
    threads: Annotated[list[Path] | None, typer.Option(help="Exported forum threads (JSON, JSONL, CSV): questions only.")] = None,
    forum: Annotated[bool, typer.Option("--forum", help="Search Reddit with your own credentials: questions only.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, max=20, help="Pairs per call.")] = 5,
    heldout: Annotated[float, typer.Option(min=0, max=0.5, help="Share of pairs kept out of training to measure on.")] = 0.1,
    share: Annotated[list[str] | None, typer.Option(help="CATEGORY=SHARE of the composition; given ones replace all defaults.")] = None,
    research_threshold: Annotated[float, typer.Option(help="Drop findings more alike than this (cosine).")] = 0.85,
    instruction_threshold: Annotated[float, typer.Option(help="Drop questions more alike than this (cosine).")] = 0.80,
    negation_guard: Annotated[
        bool, typer.Option("--negation-guard/--no-negation-guard", help="Keep texts that differ by a 'not' or an opposite.")
    ] = True,
    allow_domain: Annotated[list[str] | None, typer.Option(help="DOMAIN=CLASS: a publisher you vouch for.")] = None,
    deny_domain: Annotated[list[str] | None, typer.Option(help="A domain that is never used.")] = None,
    judge: Annotated[bool, typer.Option("--judge", help="Let the model judge the pairs too, after the rules.")] = False,
    compare_base: Annotated[
        str | None, typer.Option(help="Name of the base model behind REGISTRY_BASE_MODEL_URL: pairs near its own answer are left out.")
    ] = None,
    reader: Annotated[str, typer.Option(help="How answers are parsed: baml, or pydantic.")] = "baml",
    concurrency: Annotated[int, typer.Option(min=1, max=500, help="Calls at a time, at most.")] = 20,
    max_cost: Annotated[float | None, typer.Option(min=0, help="Stop before this many US dollars are passed.")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Stream answers; for slow links.")] = False,
    accept_terms: Annotated[bool, typer.Option("--accept-terms", help="You have read the provider's terms on training.")] = False,
    show_plan: Annotated[bool, typer.Option("--plan", help="Print calls, tokens, cost and time, and stop.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the newest run, or with the one named by --run.")] = False,
    run: Annotated[str | None, typer.Option(help="With --resume: which run.")] = None,
    as_json: Json = False,
) -> None:
    """Research, write, check and register a training set from the advisor's system prompt."""
    from jobs import curate
    from pipeline.config import COMPOSITION, DEFAULT_MODEL, PipelineConfig, Thresholds

    if run is not None and not resume:
        raise Invalid("--run names a run to go on with.", hint="Add --resume.")
    config = PipelineConfig(
        examples=examples,
        provider=provider,
        model=model or DEFAULT_MODEL,
        research_model=research_model or (model if model and provider == "anthropic" else None) or DEFAULT_MODEL,
        seed=seed,
        web_agents=web_agents,
        queries=queries,
        web_search_type=web_search,
        fetch_pages=fetch_pages,
        papers=papers,
        forum=forum,
        batch_size=batch_size,
        heldout=heldout,
        composition=_shares(share) or dict(COMPOSITION),
        thresholds=Thresholds(research=research_threshold, instructions=instruction_threshold, negation_guard=negation_guard),
        allowed_domains=_pairs(allow_domain, "--allow-domain", "psychcentral.com=professional"),
        denied_domains=tuple(deny_domain or ()),
        judge=judge,
        base_answers=compare_base,
        reader=reader,
    )
    config.check()
    with open_catalogue() as opened:
        controls = curate.controls_from(opened.settings, concurrency=concurrency, max_cost=max_cost, stream=stream)
        request = curate.Request(advisor, config, documents, tuple(threads or ()), resume=resume, run=run)
        prepared = curate.prepare(opened.db, opened.settings, request)
        if show_plan:
            _show_plan(as_json, prepared, controls, opened.settings.prices)
            return
        accepted = curate.acknowledged(opened.db, prepared.terms, actor=opened.actor) or _ask(prepared.terms, accepted=accept_terms)
        print(f"Run {prepared.order.run}", file=sys.stderr)
        try:
            with _watching(quiet=as_json) as watch:
                done = curate.curate(opened.db, opened.settings, prepared, controls, actor=opened.actor, accepted=accepted, watch=watch)
        except KeyboardInterrupt:
            print(
                f"Stopped. Nothing that was paid for is lost; go on with: registry pipeline --advisor {advisor} --resume", file=sys.stderr
            )
            raise typer.Exit(130) from None
        _show_done(as_json, advisor, done)


def _pairs(values: list[str] | None, option: str, example: str) -> dict[str, str]:
    found = {}
    for value in values or ():
        name, sign, rest = value.partition("=")
        if not sign or not name.strip() or not rest.strip():
            raise Invalid(f"{option} expects NAME=VALUE, such as {example}; found {value[:80]!a}.")
        found[name.strip().lower()] = rest.strip()
    return found


def _shares(values: list[str] | None) -> dict[str, float]:
    try:
        return {name: float(part) for name, part in _pairs(values, "--share", "multi_turn=0.2").items()}
    except ValueError:
        raise Invalid("--share expects a number between 0 and 1, such as multi_turn=0.2.") from None


def _ask(terms: str, *, accepted: bool) -> bool:
    """Show the terms, also to whoever accepts them beforehand; ask, where somebody can answer."""
    print(terms, file=sys.stderr)
    return accepted or (sys.stdin.isatty() and typer.confirm("Have you read them, and may the run begin?", err=True))


def _show_plan(as_json: bool, prepared: "Prepared", controls: "Controls", prices: Path | None) -> None:
    from pipeline.estimate import estimate
    from pipeline.prices import Prices
    from pipeline.steps import agent_names

    config: PipelineConfig = prepared.order.config
    found = estimate(config, controls, Prices.read(prices))
    facts: dict[str, Any] = {
        "advisor": prepared.order.advisor,
        "pairs": config.examples,
        "written by": f"{config.model} ({config.provider})",
        "agents": ", ".join(agent_names(config, documents=bool(prepared.sources.documents))),
        **{f"calls, {name}": count for name, count in found.calls.items()},
        "input tokens": found.input_tokens,
        "output tokens": found.output_tokens,
        "web searches": found.searches,
        "cost in US dollars": "unknown: no price is recorded for this model" if found.cost is None else found.cost,
        "minutes": round(found.seconds / 60, 1),
        "output tokens per minute it needs": found.output_tokens_per_minute,
    }
    show_facts(as_json, facts, "What a run would take (an estimate)")


def _show_done(as_json: bool, advisor: str, done: "Curated") -> None:
    report = done.outcome.report.as_json()
    if as_json:
        facts = {"run": done.outcome.run, "dataset": done.dataset, "created": done.created, "status": done.outcome.status}
        print_json({**facts, "folder": str(done.outcome.folder), "report": report})
        return
    print(f"{'Registered' if done.created else 'Already there:'} {done.dataset}")
    print(f"{done.pairs} pairs, {done.heldout} of them held out ({done.outcome.status}).")
    print(report["headline"])
    for gap in report["gaps"]:
        print(f"Gap: {gap['words']}")
    for note in done.notes:
        print(f"Note: {note}")
    print(f"Report, bibliography and all that was left out: {done.outcome.folder}")
    print(f"Next: registry train --advisor {advisor}")


@contextmanager
def _watching(*, quiet: bool) -> "Iterator[Watcher]":
    """One line an agent: a live table on a terminal, a line per change elsewhere; on stderr."""
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, quiet=quiet)
    if quiet or not console.is_terminal:
        yield _lines(console)
        return
    from rich.table import Table

    rows: dict[str, Mapping[str, Any]] = {}

    def drawn() -> Table:
        view = Table(box=None, pad_edge=False)
        for column in ("agent", "", "done", "kept", "left out", "failed", "US$", ""):
            view.add_column(column)
        for name, row in rows.items():
            view.add_row(name, *(str(row[key]) for key in ("state", "done", "kept", "dropped", "failed", "cost", "message")))
        return view

    with Live(drawn(), console=console, refresh_per_second=4, transient=False) as live:

        def watch(event: "Progress") -> None:
            _remember(rows, event)
            live.update(drawn())

        yield watch


def _remember(rows: dict[str, Mapping[str, Any]], event: "Progress") -> None:
    cost = "" if event.cost is None else f"{event.cost:.2f}"
    done = f"{event.done}/{event.total}" if event.total else str(event.done or "")
    rows[event.agent] = {
        "state": event.state,
        "done": done,
        "kept": event.kept or "",
        "dropped": event.dropped or "",
        "failed": event.failed or "",
        "cost": cost,
        "message": event.message[:60],
    }


def _lines(console: Any) -> "Callable[[Progress], None]":
    said: dict[str, str] = {}

    def watch(event: "Progress") -> None:
        if said.get(event.agent) != event.state:
            said[event.agent] = event.state
            console.print(f"{event.agent}: {event.state} {event.message}".rstrip(), markup=False, highlight=False)

    return watch
