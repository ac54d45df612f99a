"""One run from its order to its files: opens the parts, drives the graph, and gathers what the steps wrote down.

A run that was killed goes on from its last checkpoint. A run that ended early (budget, quota, a full disk) goes on from the start, over the same ledger:
every answer that was paid for is read from there, so nothing is paid twice, and what was missing is asked for. Either way the result is what an
uninterrupted run gives.
"""

import asyncio
import datetime as dt
import importlib.metadata
import platform
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline import graph, output, report
from pipeline.agents.forum import Thread
from pipeline.callers import open_callers
from pipeline.calls import SPACING, Calls
from pipeline.config import Controls, Endpoints, PipelineConfig
from pipeline.embedding import Embedder
from pipeline.governor import Governor, Pools
from pipeline.http import Getter, credentials
from pipeline.ports import RETRYABLE, ModelCaller, Watcher
from pipeline.prices import Prices
from pipeline.standards import Standards
from pipeline.steps import Order, Steps, Tools
from pipeline.store import SqlRunStore, Workspace, storage_in_words
from pipeline.values import AdvisorDomain, Cell, Drop, Gap, Pair, PipelineFailed, Query
from registry.errors import Conflict
from registry.imports import DatasetDraft


@dataclass(frozen=True)
class Sources:
    """What a run reads besides the network: local documents with their citations, and exported forum threads."""

    documents: tuple[Path, ...] = ()
    citations: Mapping[str, Mapping[str, Any]] | None = None
    threads: tuple[Thread, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a run leaves: a folder, the draft for the catalogue, the report, and whether it is complete."""

    run: str
    folder: Path
    draft: DatasetDraft
    report: report.Report
    status: str


def new_run(advisor: str, moment: dt.datetime) -> str:
    """A name for a run: its time, then the advisor, then six random hex digits; names sort by time."""
    return f"{moment:%Y%m%d-%H%M%S}-{advisor[:30]}-{secrets.token_hex(3)}"


def new_nonce() -> str:
    """16 hex digits that no page can know: they mark in a prompt where data begins and ends."""
    return secrets.token_hex(8)


async def run(
    order: Order,
    workspace: Workspace,
    controls: Controls,
    sources: Sources,
    prices: Prices,
    load: Callable[[], Embedder],
    watch: Watcher,
    store: SqlRunStore | None = None,
) -> Outcome:
    """Run, or go on with, an order. `load` opens the embedding model; `store` is the run's, where the caller has opened it already: it is closed here.

    Raises PipelineFailed where no pair came out; the files then say why.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(storage_in_words())  # also for the checkpoints' database, which the store does not stand in front of
        store = store if store is not None else await asyncio.to_thread(workspace.open, order.run)
        stack.push_async_callback(store.close)
        order.config.check()
        callers = open_callers(order.config, controls)
        stack.push_async_callback(callers.close)
        started_at = await _remember(store, order)
        headers, secret_params = credentials(controls.keys)
        getter = Getter(min(30.0, controls.timeout_s), headers, secret_params)
        stack.push_async_callback(getter.close)
        base = _base(order, controls)
        answers = None
        if base is not None:
            stack.push_async_callback(base.close)
            answers = await _calls(base, store, order, replace(controls, max_cost=None), prices, watch)
            stack.push_async_callback(answers.drain)
        calls = await _calls(callers, store, order, controls, prices, watch)
        stack.push_async_callback(calls.drain)
        loading = asyncio.ensure_future(asyncio.to_thread(load))
        tools = Tools(
            order=order,
            controls=controls,
            store=store,
            calls=calls,
            searches=callers.research is not None,
            base=answers,
            embedder=loading,
            getter=getter,
            standards=Standards(order.config.allowed_domains, order.config.denied_domains),
            documents=sources.documents,
            citations=sources.citations or {},
            threads=sources.threads,
            started_at=started_at,
            watch=watch,
        )
        steps = Steps(tools)
        stopped = await _drive(steps, workspace, store)
        return await _finish(steps, workspace.folder(order.run), stopped, callers.generator, steps_embedding(loading))


def steps_embedding(loading: "asyncio.Future[Embedder]") -> str:
    """The embedding model's digest, or that none was used: a run may end before it was loaded."""
    loaded = loading.done() and not loading.cancelled() and loading.exception() is None
    return loading.result().digest if loaded else "none was loaded"


async def _calls(caller: ModelCaller, store: SqlRunStore, order: Order, controls: Controls, prices: Prices, watch: Watcher) -> Calls:
    before = sum(call.cost or 0.0 for call in await store.calls())
    return Calls(
        caller,
        store,
        Pools(lambda: Governor(controls.concurrency)),
        prices,
        models=(order.config.model, order.config.research_model),
        max_cost=controls.max_cost,
        spent_before=before,
        max_attempts=controls.max_attempts,
        spacing=_spacing(controls.endpoints),
        watch=watch,
    )


def _spacing(endpoints: Endpoints) -> dict[str, float]:
    """The public services' spacing holds for the public services: a mirror of one's own is not waited for."""
    public = Endpoints()
    return {name: 0.0 for name in SPACING if getattr(endpoints, name) != getattr(public, name)}


def _base(order: Order, controls: Controls) -> ModelCaller | None:
    """Who answers as the untrained base model, where answers shall be compared with it."""
    if order.config.base_answers is None:
        return None
    if controls.endpoints.base is None:
        raise PipelineFailed(
            "There is no endpoint of the base model to compare with.", hint="Set REGISTRY_BASE_MODEL_URL, or leave --compare-base out."
        )
    from pipeline.callers.openai import OpenAICaller

    return OpenAICaller(controls.keys.openai, controls.endpoints.base, controls.timeout_s, model=order.config.base_answers)


async def _remember(store: SqlRunStore, order: Order) -> str:
    """Write the order down once; returns when the run was first started. Raises Conflict where the run was ordered differently."""
    known = await store.item("order", "order")
    if known is None:
        started_at = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        await store.put("order", {"order": order_json(order, started_at)})
        return started_at
    if known["config_digest"] != order.config.digest or known["persona_sha256"] != order.persona_sha256:
        raise Conflict(
            f"Run {order.run} was started with another order or another system prompt.", hint="Go on with the same, or start a new run."
        )
    return str(known["started_at"])


def order_json(order: Order, started_at: str) -> dict[str, Any]:
    """An order as the ledger keeps it. The system prompt is kept too: a run goes on with the very words it began with."""
    return {
        "run": order.run,
        "advisor": order.advisor,
        "persona_text": order.persona_text,
        "persona_sha256": order.persona_sha256,
        "config": order.config.as_json(),
        "config_digest": order.config.digest,
        "nonce": order.nonce,
        "inputs": dict(order.inputs),
        "started_at": started_at,
    }


def order_from_json(value: Mapping[str, Any]) -> Order:
    """The order that `order_json` wrote."""
    return Order(
        value["run"],
        value["advisor"],
        value["persona_text"],
        value["persona_sha256"],
        PipelineConfig.from_json(value["config"]),
        value["nonce"],
        value["inputs"],
    )


async def _drive(steps: Steps, workspace: Workspace, store: SqlRunStore) -> list[str]:
    """Drive the graph to its end. Each ending that was too early gets a thread of its own, so that the next one starts over, on the same ledger."""
    ended = await store.items("ended")
    if any(body["final"] for body in ended.values()):
        return []
    thread = f"{steps.order.run}:{len(ended)}"
    folder = workspace.folder(steps.order.run)
    async with graph.checkpoints(folder, workspace.conninfo) as saver:
        return await graph.drive(steps, saver, thread, documents=bool(steps.tools.documents))


async def _finish(steps: Steps, folder: Path, stopped: Sequence[str], generator: str, embedding: str) -> Outcome:
    await steps.note_time()
    facts = await gathered(steps, stopped, generator, embedding)
    made = report.build_report(facts)
    draft = output.to_draft(facts.kept_pairs, facts.used_findings, generator)
    files = await asyncio.to_thread(output.write_run, folder / "result", facts, made, draft)
    await _end(steps.store, facts)
    if not facts.pairs_kept:
        reasons = facts.stop_reason or "; ".join(dict.fromkeys(gap.message for gap in facts.gaps)) or "every pair was left out by a check"
        raise PipelineFailed(
            f"No pair came out of run {steps.order.run}. {reasons}", hint=f"What was found and why it was left out: {files[0].parent}"
        )
    return Outcome(steps.order.run, folder / "result", draft, made, facts.status)


async def _end(store: SqlRunStore, facts: report.RunFacts) -> None:
    """Write down that the graph came to its end, and whether going on could still bring more: after an outage it could, after a refusal not."""
    passing = any(gap.reason in RETRYABLE for gap in facts.gaps)
    final = facts.status == "complete" or (facts.status == "partial" and not passing)
    ended = await store.items("ended")
    if not any(body["final"] for body in ended.values()):
        await store.put("ended", {f"{len(ended):04d}": {"final": final}})


async def gathered(steps: Steps, stopped: Sequence[str], generator: str, embedding: str) -> report.RunFacts:
    """Everything that the steps of a run wrote down."""
    store, config = steps.store, steps.config
    results = await store.items("result")
    batches = await store.items("batch")
    agents = await steps.agent_results()
    merge = results.get("merge", {"kept": [], "drops": [], "review": [], "guarded": []})
    rounds = [results[f"gather:{n}"] for n in range(config.top_up_rounds + 1) if f"gather:{n}" in results]
    last = rounds[-1] if rounds else {"kept": [], "drops": [], "review": [], "guarded": []}
    written = [results[f"batch:{name}"] for name in batches if f"batch:{name}" in results]
    cells = [Cell.from_json(c) for batch in batches.values() for c in batch["cells"]]
    pairs = [Pair.from_json(p) for body in written for p in body["pairs"]]
    drops = [d for result in agents.values() for d in result.drops]
    drops += [Drop.from_json(d) for body in (merge, *written, last) for d in body["drops"]]
    gaps = [Gap.from_json(g) for g in results.get("queries", {}).get("gaps", ())]
    gaps += [g for result in agents.values() for g in result.gaps] + [Gap.from_json(g) for body in written for g in body["gaps"]]
    short = config.examples - len(last["kept"])
    if short > 0:
        gaps.append(Gap("set", "short", f"{short} of {config.examples} pairs are missing.", short))
    # Money that ran out in research does not end the run there, but it did end it early.
    stopped = [*stopped, *(gap.message for gap in gaps if gap.reason == "budget")][:1]
    status = "stopped" if stopped else "partial" if short > 0 else "complete"
    return report.RunFacts(
        run_id=steps.order.run,
        advisor=steps.order.advisor,
        config=config,
        persona_sha256=steps.order.persona_sha256,
        domain=AdvisorDomain.from_json(results["extract"]["domain"]) if "extract" in results else None,
        queries=[Query.from_json(q) for q in results.get("queries", {"queries": []})["queries"]],
        findings_all=await steps.findings(),
        findings_kept=merge["kept"],
        cells=cells,
        pairs_written=pairs,
        pairs_kept=last["kept"],
        drops=drops,
        gaps=gaps,
        review=[*merge["review"], *last["review"]],
        guarded=[*merge["guarded"], *last["guarded"]],
        calls=await store.calls(),
        seconds=_added(await store.items("seconds")),
        status=status,
        stop_reason=stopped[0] if stopped else None,
        generator=generator,
        environment=environment(embedding),
        replayed=steps.tools.calls.spent.replayed,
    )


def _added(processes: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Seconds by step over every process that worked on the run."""
    total: dict[str, float] = {}
    for seconds in processes.values():
        for step, s in seconds.items():
            total[step] = round(total.get(step, 0.0) + s, 3)
    return total


def environment(embedding: str) -> dict[str, Any]:
    """What the run ran on."""
    names = ("anthropic", "langgraph", "baml-py", "httpx2", "numpy", "tokenizers")
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "packages": {name: importlib.metadata.version(name) for name in names},
        "embedding": embedding,
    }
