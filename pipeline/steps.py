"""The steps of a run, each a function over the run's store: read what earlier steps wrote, do the work, write one result. No langgraph here.

Three rules make a run repeatable. A step never raises for a failed call: it writes down the gap and goes on, or, for a reason that would stop every other
call too, it says why the run stops. A step reads its input sorted from the store, never in the order in which things happened to finish. What a step writes
replaces what it wrote before, so a step that is run again after a kill leaves the same.
"""

import asyncio
import math
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import dedupe, plan, prompts, quality, safety
from pipeline.agents import files, forum, papers, web
from pipeline.assignment import assign
from pipeline.calls import Calls
from pipeline.config import Controls, PipelineConfig
from pipeline.http import Getter
from pipeline.ports import CallFailed, ModelRequest, Progress, Watcher
from pipeline.standards import Standards
from pipeline.store import SqlRunStore, is_storage_error
from pipeline.values import AdvisorDomain, AgentResult, Cell, Drop, Finding, Gap, Pair, PipelineFailed, Query

if TYPE_CHECKING:
    import numpy as np

    from pipeline.embedding import Embedder

BATCH_ATTEMPTS = 3  # times a batch is asked for what is still missing of it
MIN_QUERIES, MAX_QUERIES = 8, 60
EXAMPLES_PER_QUERY = 20  # one research question brings about eight passages
# Shares of the kinds of questions; studies go to the papers agent, the others to the web agents.
QUERY_SHARES = {"study": 0.3, "how_to": 0.2, "case_study": 0.2, "expert_interview": 0.2, "blog_or_forum": 0.1}


@dataclass(frozen=True)
class Order:
    """What one run was asked for; written down before anything is paid. `nonce` makes this run's fences unguessable for the pages it reads;
    `inputs` are notes of whoever ordered (paths, the split), kept for a resume and not looked at here.
    """

    run: str
    advisor: str
    persona_text: str
    persona_sha256: str
    config: PipelineConfig
    nonce: str
    inputs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tools:
    """What the steps work with."""

    order: Order
    controls: Controls
    store: SqlRunStore
    calls: Calls
    searches: bool  # whether there is a model that can search the web
    base: Calls | None
    embedder: "asyncio.Future[Embedder]"  # loaded while the first calls are under way
    getter: Getter
    standards: Standards
    documents: tuple[Path, ...]
    citations: Mapping[str, Mapping[str, Any]]
    threads: tuple[forum.Thread, ...]
    started_at: str
    watch: Watcher


def query_counts(config: PipelineConfig) -> dict[str, int]:
    """How many research questions of each kind; by largest remainder."""
    wanted = config.queries or min(MAX_QUERIES, max(MIN_QUERIES, math.ceil(config.examples / EXAMPLES_PER_QUERY)))
    shares = dict(QUERY_SHARES) if config.papers else {kind: share for kind, share in QUERY_SHARES.items() if kind != "study"}
    return plan.largest_remainder(wanted, shares)


def agent_names(config: PipelineConfig, *, documents: bool) -> list[str]:
    """The research agents of a run."""
    names = [f"web_{i}" for i in range(1, config.web_agents + 1)]
    return names + ["papers"] * config.papers + ["forum"] * config.forum + ["files"] * documents


class Steps:
    """The steps of one run."""

    def __init__(self, tools: Tools) -> None:
        self.tools = tools
        self.order, self.config, self.store = tools.order, tools.order.config, tools.store
        self._domain: AdvisorDomain | None = None
        self._findings: list[Finding] | None = None  # once research is over
        self._so_far: Counter[str] = Counter()  # of the synthesis, for whoever watches
        self._warming: set[asyncio.Task[Any]] = set()
        self._process = secrets.token_hex(4)
        self._since: dict[str, float] = {}
        self.seconds: dict[str, float] = {}  # wall time of each step, as far as this process saw it

    # -- before research ------------------------------------------------------------------------------------------------------------------

    async def extract(self) -> list[str]:
        """Read the domain from the system prompt. Returns why the run stops, if it does."""
        request = prompts.domain_request(self.order.persona_text, self.config, self.order.nonce)
        return await self._typed("extract", request, lambda reply: {"domain": prompts.read_domain(reply, self.config.reader).as_json()})

    async def queries(self) -> list[str]:
        """Turn the domain into research questions of named kinds; asks again for what is missing, telling what was asked already."""
        domain, wanted = await self.domain(), query_counts(self.config)
        found: tuple[Query, ...] = ()
        for number in range(BATCH_ATTEMPTS):
            counts = prompts.missing_queries(found, wanted)
            if not counts:
                break
            more: list[Query] = []

            def read(
                reply: Any, counts: Mapping[str, int] = counts, known: tuple[Query, ...] = found, more: list[Query] = more
            ) -> dict[str, Any]:
                more[:] = prompts.read_queries(reply, domain, counts, self.config.reader, avoid=known)
                return _queries_json((*known, *more), wanted)

            request = prompts.queries_request(domain, counts, self.config, self.order.nonce, avoid=found)
            stopped = await self._typed("queries", replace(request, attempt=number * BATCH_ATTEMPTS), read)
            if stopped:
                # What came before can be searched for; without any question there is nothing to do.
                return [] if found else stopped
            found = (*found, *more)
        return []

    async def _typed(self, step: str, request: ModelRequest, read: Callable[[Any], dict[str, Any]]) -> list[str]:
        """Ask for something without which no run can go on; an answer that cannot be read is asked for again."""
        self._say(step, "running")
        problem = ""
        for attempt in range(BATCH_ATTEMPTS):
            try:
                answer = await self.tools.calls.ask(replace(request, attempt=request.attempt + attempt))
                body = read(answer.reply)
            except CallFailed as error:
                problem = error.message
                if error.reason not in ("malformed", "truncated"):
                    break
            else:
                await self.store.put("result", {step: body})
                self._say(step, "done")
                return []
        self._say(step, "failed", problem)
        return [f"{step}: {problem}"]

    async def domain(self) -> AdvisorDomain:
        """The domain that `extract` wrote."""
        if self._domain is None:
            body = await self.store.item("result", "extract")
            self._domain = AdvisorDomain.from_json((body or {})["domain"])
        return self._domain

    # -- research -------------------------------------------------------------------------------------------------------------------------

    async def agent(self, name: str) -> list[str]:
        """Let one agent do its research and write down what it found, and what it did not."""
        body = await self.store.item("result", "queries") or {"queries": []}
        mine = _share([Query.from_json(q) for q in body["queries"]], name, self.config)
        self._say(name, "running", total=len(mine))
        stopped: list[str] = []
        try:
            result = await self._earlier(name) or await self._research(name, mine)
        except CallFailed as error:
            if error.fatal and error.reason != "budget":  # what was found is still worth writing from, as far as the money goes
                stopped = [error.message]
            found = error.partial if isinstance(error, web.Stopped) else AgentResult()
            result = replace(found, gaps=(*found.gaps, Gap(name, error.reason, error.message)))
        except PipelineFailed as error:
            result = AgentResult(gaps=(Gap(name, error.code, error.message),))
        except Exception as error:
            if is_storage_error(error):
                raise
            # A page or a service nobody thought of must not take the other agents down with it.
            result = AgentResult(gaps=(Gap(name, "unexpected", f"An unforeseen error: {type(error).__name__}: {str(error)[:200]}"),))
        await self.store.put("result", {f"agent:{name}": _agent_json(result)})
        self._warm(result.findings)
        self._say(
            name,
            "failed" if stopped or not result.findings else "done",
            kept=len(result.findings),
            dropped=len(result.drops),
            failed=len(result.gaps),
        )
        return stopped

    async def _earlier(self, name: str) -> AgentResult | None:
        """What the agent brought when this run was written from before: a run that is gone on with keeps its research, unless money cut it short."""
        body = await self.store.item("result", f"agent:{name}")
        if body is None or not await self.store.items("batch"):
            return None
        result = _agent_value(body)
        return None if any(gap.reason == "budget" for gap in result.gaps) else result

    async def _research(self, name: str, mine: Sequence[Query]) -> AgentResult:
        tools = self.tools
        if name == "files":
            return await files.research(tools.documents, tools.citations, tools.standards, tools.watch, now=tools.started_at)
        if not mine and not (name == "forum" and tools.threads):
            return AgentResult()
        calls = tools.calls
        if name == "papers":
            return await papers.research(
                calls, name, mine, self.config, tools.standards, tools.watch, getter=tools.getter, endpoints=tools.controls.endpoints
            )
        if name == "forum":
            return await forum.research(
                calls,
                name,
                mine,
                self.config,
                tools.standards,
                tools.watch,
                threads=tools.threads,
                getter=tools.getter,
                endpoints=tools.controls.endpoints,
                keys=tools.controls.keys,
            )
        if not tools.searches:
            words = "There is no key for Claude's web search, so this agent found nothing; set ANTHROPIC_API_KEY."
            return AgentResult(gaps=(Gap(name, "no_key", words),))
        return await web.research(calls, name, mine, self.config, tools.standards, tools.watch, found=self._warm)

    async def merge(self) -> list[str]:
        """Put the agents' findings together: flagged ones aside, exact and near duplicates out. Stops the run where nothing is left to write from."""
        self._say("merge", "running")
        found = {f.id: f for f in await self.findings()}
        flagged = _condemned(found.values())
        # Whoever may carry an answer is preferred, then the longer text: of two alike passages the more useful one stays.
        usable = sorted((f for f in found.values() if f.id not in flagged), key=lambda f: (f.role != "answer", -len(f.text), f.id))
        exact = dedupe.exact([(f.id, f.text) for f in usable])
        kept = [found[i] for i in exact.kept]
        near = await self._unlike([(f.id, f.text) for f in kept], self.config.thresholds.research)
        drops = [*(Drop(i, "merge", "flagged", words) for i, words in sorted(flagged.items())), *exact.drops, *near.drops]
        body = {
            "kept": sorted(near.kept),
            "drops": [drop.as_json() for drop in drops],
            **_listed(near),
        }
        await self.store.put("result", {"merge": body})
        self._say("merge", "done", kept=len(near.kept), dropped=len(drops))
        await self.note_time()
        if any(found[i].role == "answer" for i in near.kept):
            return []
        return [await self._nothing_found(found)]

    async def _nothing_found(self, found: Mapping[str, Finding]) -> str:
        results = await self.agent_results()
        gaps = [gap for result in results.values() for gap in result.gaps]
        refused = Counter(drop.reason for result in results.values() for drop in result.drops)
        words = f"Research found nothing that may carry an answer: {len(found)} passages were read"
        if refused:
            words += ", refused were " + ", ".join(f"{n} by {reason}" for reason, n in refused.most_common(5))
        if gaps:
            words += "; what failed: " + " ".join(dict.fromkeys(gap.message for gap in gaps[:5]))
        return words.rstrip(".") + "."

    # -- writing --------------------------------------------------------------------------------------------------------------------------

    async def plan(self) -> list[str]:
        """Fix every pair's cell before a word is written, and which findings each batch may rest on. Returns the ids of the batches."""
        cells = plan.make_cells(self.config, await self.domain())
        return await self._batches(0, cells)

    async def _batches(self, number: int, cells: Sequence[Cell]) -> list[str]:
        groups = plan.batches(cells, self.config.batch_size)
        kept = set((await self.store.item("result", "merge") or {})["kept"])
        findings = [f for f in await self.findings() if f.id in kept]
        given = await asyncio.to_thread(assign, groups, findings, self.config)
        await self._forget_rounds(number)
        rows = {
            f"r{number}b{i:04d}": {"cells": [c.as_json() for c in group], "findings": given[i], "round": number}
            for i, group in enumerate(groups)
        }
        await self.store.put("batch", rows)
        self._so_far["total"] += len(rows)
        self._say("synthesis", "running", "", **self._so_far)
        return list(rows)

    async def _forget_rounds(self, first: int) -> None:
        """Take out what an earlier attempt wrote of this round and later ones; its answers stay in the ledger."""
        stale = [name for name, row in (await self.store.items("batch")).items() if row["round"] >= first]
        await self.store.remove("batch", stale)
        rounds = [f"gather:{n}" for n in range(first, self.config.top_up_rounds + 1)]
        await self.store.remove("result", [*(f"batch:{name}" for name in stale), *rounds])

    async def synthesise(self, batch: str) -> list[str]:
        """Have one batch written, asking again only for what is missing of it; check every pair. Returns why the run stops, if it does."""
        order = await self.store.item("batch", batch) or {}
        pending = [Cell.from_json(c) for c in order["cells"]]
        given = set(order["findings"])
        findings = [f for f in await self.findings() if f.id in given]
        work = _Batch()
        for attempt in range(BATCH_ATTEMPTS):
            try:
                pending = await self._write(pending, findings, attempt, work)
            except CallFailed as error:
                work.gaps.append(Gap("synthesis", error.reason, error.message, len(pending)))
                if error.fatal:
                    work.stopped.append(error.message)
                break
            if not pending or work.refused or work.stopped:
                break
        else:
            work.gaps.append(Gap("synthesis", "short", f"{len(pending)} pairs did not come, also when asked again.", len(pending)))
        await self.store.put("result", {f"batch:{batch}": work.as_json()})
        await self._vectors([_question(pair) for pair in work.good])  # while the other batches are still being written
        self._so_far.update(done=1, kept=len(work.good), dropped=len(work.drops), failed=len(work.gaps))
        self._say("synthesis", "done" if self._so_far["done"] >= self._so_far["total"] else "running", "", **self._so_far)
        return work.stopped

    async def _write(self, cells: Sequence[Cell], findings: Sequence[Finding], attempt: int, work: "_Batch") -> list[Cell]:
        request = prompts.synthesis_request(
            self.order.persona_text, await self.domain(), cells, findings, self.config, self.order.nonce, attempt=attempt
        )
        answer = await self.tools.calls.ask(request)
        if answer.reply.stop_reason == "refusal":
            category = (answer.reply.stop_details or {}).get("category") or "no category named"
            work.gaps.append(Gap("synthesis", "refused", f"The model refused a batch ({category}).", len(cells)))
            work.refused = True
            return []
        batch = prompts.read_pairs(answer.reply, cells, findings, answer.key, self.config.reader)
        work.drops.extend(batch.drops)
        work.written.extend(batch.pairs)
        by_id, given = {cell.id: cell for cell in cells}, {f.id: f for f in findings}
        for pair in batch.pairs:
            fault = _unsafe(pair) or await self._fault(pair, by_id.get(pair.cell), given, work)
            if fault:
                work.drops.append(fault)
            else:
                work.good.append(pair)
        if self.config.judge:
            await self._judge(work, {pair.id for pair in batch.pairs})
        return list(batch.missing)

    async def _fault(self, pair: Pair, cell: Cell | None, given: Mapping[str, Finding], work: "_Batch") -> Drop | None:
        named = [given[i] for i in pair.findings]
        verdict = quality.check(pair, domain=await self.domain(), persona_text=self.order.persona_text, cell=cell, findings=named)
        found = [(p.check, p.evidence) for p in verdict.problems if p.severity == "reject"]
        if found or self.tools.base is None:
            return _one_drop(pair, "quality", found)
        return await self._near_base(pair, work)

    async def _near_base(self, pair: Pair, work: "_Batch") -> Drop | None:
        """Whether the base model, asked the same, says nearly the same: such a pair teaches it nothing."""
        assert self.tools.base is not None  # noqa: S101
        question = {"role": "user", "content": _question(pair)}
        request = ModelRequest("base", self.config.base_answers or "", (question,), max_tokens=600)
        try:
            answer = await self.tools.base.ask(request)
        except CallFailed as error:
            work.gaps.append(Gap("base", error.reason, f"The base model's answer could not be compared: {error.message}"))
            return None
        vectors = await self._vectors([pair.messages[1][1], answer.reply.text])
        score = float(vectors[0] @ vectors[1])
        if score < self.config.thresholds.generic:
            return None
        return Drop(
            pair.id, "quality", "near_base", f"the base model answers nearly the same: {answer.reply.text[:120]}", None, round(score, 4)
        )

    async def _judge(self, work: "_Batch", fresh: set[str]) -> None:
        """Let a model look at the pairs that passed the rules. A judge who does not answer leaves them in, unjudged, and a gap says so."""
        pairs = [pair for pair in work.good if pair.id in fresh]
        if not pairs:
            return
        try:
            answer = await self.tools.calls.ask(prompts.judge_request(pairs, await self.domain(), self.config, self.order.nonce))
            verdicts = prompts.read_verdicts(answer.reply, pairs, self.config.reader)
        except CallFailed as error:
            work.gaps.append(Gap("judge", error.reason, f"{len(pairs)} pairs are in the set unjudged: {error.message}", len(pairs)))
            if error.fatal:
                work.stopped.append(error.message)
            return
        failed = {v.pair: v.reason for v in verdicts if not v.passed}
        unjudged = len(pairs) - len(verdicts)
        if unjudged:
            work.gaps.append(
                Gap("judge", "malformed", f"{unjudged} pairs are in the set unjudged: the judge said nothing of them.", unjudged)
            )
        work.drops.extend(Drop(pair, "judge", "judged_unfit", reason) for pair, reason in failed.items())
        work.good = [pair for pair in work.good if pair.id not in failed]

    async def gather(self, number: int, *, stopped: bool) -> list[str]:
        """Deduplicate what was written so far and plan again what is still missing. Returns the ids of new batches; none ends the writing."""
        self._say("gather", "running")
        batches = {name: row for name, row in (await self.store.items("batch")).items() if row["round"] <= number}
        results = await self.store.items("result")
        pairs, cells = _written(batches, results)
        exact = dedupe.exact([(p.id, _question(p)) for p in pairs])
        by_id = {pair.id: pair for pair in pairs}
        # A model that gives everybody the same answer has written one pair, however the questions differ.
        answers = dedupe.exact([(i, by_id[i].messages[1][1]) for i in exact.kept])
        near = await self._unlike([(i, _question(by_id[i])) for i in answers.kept], self.config.thresholds.instructions)
        drops = [*exact.drops, *answers.drops, *near.drops]
        body = {
            "kept": list(near.kept),
            "drops": [replace(drop, step="gather").as_json() for drop in drops],
            **_listed(near),
        }
        before = await self.store.item("result", f"gather:{number - 1}") if number else {"kept": []}
        await self.store.put("result", {f"gather:{number}": body})
        self._say("gather", "done", kept=len(near.kept), dropped=len(drops))
        missing = plan.missing(cells, [by_id[i] for i in near.kept])
        grew = len(near.kept) > len((before or {"kept": []})["kept"])
        # A round that added nothing will add nothing again: refusals, or a domain that is written empty.
        await self.note_time()
        if stopped or not missing or number >= self.config.top_up_rounds or not grew:
            return []
        more = plan.top_up(self.config, await self.domain(), missing, number + 1, [cell.id for cell in cells])
        return await self._batches(number + 1, more)

    # -- shared ---------------------------------------------------------------------------------------------------------------------------

    async def note_time(self) -> None:
        """Write down how long each step took in this process; a run may have several."""
        await self.store.put("seconds", {self._process: self.seconds})

    async def agent_results(self) -> dict[str, AgentResult]:
        """What each agent brought, by name."""
        rows = await self.store.items("result")
        return {name.removeprefix("agent:"): _agent_value(body) for name, body in rows.items() if name.startswith("agent:")}

    async def findings(self) -> list[Finding]:
        """Every finding of every agent, the first of equal ones, by id; asked for once research is over, and read once: a run has a thousand batches."""
        if self._findings is not None:
            return self._findings
        found: dict[str, Finding] = {}
        for result in (await self.agent_results()).values():
            for finding in result.findings:
                found.setdefault(finding.id, finding)
        self._findings = [found[i] for i in sorted(found)]
        return self._findings

    async def _unlike(self, items: Sequence[tuple[str, str]], threshold: float) -> dedupe.Deduped:
        """The items, in order of preference, without those that are too much like an earlier one."""
        limits = self.config.thresholds
        vectors = await self._vectors([text for _, text in items])
        return dedupe.semantic(items, vectors, threshold, review=limits.review, guard=limits.negation_guard)

    def _warm(self, findings: Sequence[Finding]) -> None:
        """Begin to compute vectors that a later step needs, while others wait for the network."""
        task = asyncio.create_task(self._vectors([f.text for f in findings]))
        self._warming.add(task)
        task.add_done_callback(self._warmed)

    def _warmed(self, task: "asyncio.Task[Any]") -> None:
        self._warming.discard(task)
        if not task.cancelled():
            task.exception()  # seen; the step that needs the vectors fails with the same words

    async def _vectors(self, texts: Sequence[str]) -> "np.ndarray[Any, Any]":
        embedder = await self.tools.embedder
        return await asyncio.to_thread(embedder.embed, list(texts))

    def _say(self, agent: str, state: str, message: str = "", **counts: int) -> None:
        since = self._since.setdefault(agent, time.monotonic())
        self.seconds[agent] = round(time.monotonic() - since, 3)
        self.tools.watch(Progress(agent, state, message, cost=self.tools.calls.spent.cost, **counts))


class _Batch:
    """What is known of one batch while it is written."""

    def __init__(self) -> None:
        self.good: list[Pair] = []
        self.written: list[Pair] = []
        self.drops: list[Drop] = []
        self.gaps: list[Gap] = []
        self.stopped: list[str] = []
        self.refused = False

    def as_json(self) -> dict[str, Any]:
        return {
            "good": [pair.id for pair in self.good],
            "pairs": [pair.as_json() for pair in self.written],
            "drops": [drop.as_json() for drop in self.drops],
            "gaps": [gap.as_json() for gap in self.gaps],
        }


def _written(batches: Mapping[str, Mapping[str, Any]], results: Mapping[str, Mapping[str, Any]]) -> tuple[list[Pair], list[Cell]]:
    """Every pair that passed its checks, in the order of the batches, and every cell planned so far."""
    pairs: list[Pair] = []
    cells: list[Cell] = []
    for name, batch in batches.items():
        cells.extend(Cell.from_json(c) for c in batch["cells"])
        body = results.get(f"batch:{name}", {"good": [], "pairs": []})
        good = set(body["good"])
        pairs.extend(Pair.from_json(p) for p in body["pairs"] if p["id"] in good)
    return pairs, cells


def _queries_json(found: Sequence[Query], wanted: Mapping[str, int]) -> dict[str, Any]:
    """The research questions, and what is missing of them in a gap."""
    short = sum(wanted.values()) - len(found)
    words = f"{short} of {sum(wanted.values())} research questions did not come, or were like others; research is narrower for it."
    gaps = [Gap("queries", "short", words, short).as_json()] if short > 0 else []
    return {"queries": [query.as_json() for query in found], "gaps": gaps}


def _share(queries: Sequence[Query], name: str, config: PipelineConfig) -> list[Query]:
    """The queries of one agent: studies for the papers agent, the others dealt out among the web agents; a forum search takes every area once."""
    if name == "papers":
        return [q for q in queries if q.kind == "study"]
    if name == "forum":
        first: dict[str, Query] = {}
        for query in queries:
            first.setdefault(query.area, query)
        return list(first.values())
    if not name.startswith("web_"):
        return []
    webs = [q for q in queries if q.kind != "study" or not config.papers]
    return webs[int(name.removeprefix("web_")) - 1 :: config.web_agents]


def _condemned(findings: Iterable[Finding]) -> dict[str, str]:
    """Flagged findings by id, with the rules: every passage of a page or work of which one passage is addressed to a model."""
    rules: dict[str, set[str]] = defaultdict(set)
    all_findings = list(findings)
    for finding in all_findings:
        for key in {finding.url, finding.doi} - {None}:
            rules[str(key)].update(finding.flags)
    found = {f.id: rules[f.url] | rules[f.doi or f.url] for f in all_findings}
    return {name: ", ".join(sorted(flags)) for name, flags in found.items() if flags}


def _unsafe(pair: Pair) -> Drop | None:
    return _one_drop(pair, "safety", safety.pair_violations(pair.messages))


def _one_drop(pair: Pair, step: str, found: Sequence[tuple[str, str]]) -> Drop | None:
    """One drop a pair, by the first reason, with the evidence of all: a pair is left out once."""
    if not found:
        return None
    return Drop(pair.id, step, found[0][0], "; ".join(f"{reason}: {evidence}" for reason, evidence in found))


def _question(pair: Pair) -> str:
    return pair.messages[0][1]


def _listed(deduped: dedupe.Deduped) -> dict[str, Any]:
    """Near items that were kept, for a person to look at."""
    lists = {"review": deduped.review, "guarded": deduped.guarded}
    return {name: [{"item": n.item, "neighbour": n.neighbour, "score": n.score} for n in near] for name, near in lists.items()}


def _agent_json(result: AgentResult) -> dict[str, Any]:
    return {name: [value.as_json() for value in getattr(result, name)] for name in ("findings", "gaps", "drops")}


def _agent_value(body: Mapping[str, Any]) -> AgentResult:
    return AgentResult(
        tuple(Finding.from_json(f) for f in body["findings"]),
        tuple(Gap.from_json(g) for g in body["gaps"]),
        tuple(Drop.from_json(d) for d in body["drops"]),
    )
