"""Counts what a run did, from the values it wrote down. Pure: facts in, one JSON value out; no clock, no I/O.

Rules:
- Every query, finding and pair has one fate: kept, left out by one step for one reason, or (only in a run that was stopped) not reached. What does not
  add up is a fault of the pipeline and raises CountsDisagree with every difference; a report never smooths it over.
- A price that is not known is "unknown", never 0; one unknown call makes the sum unknown, and the known part is given beside it.
- Nothing is called read, checked or reviewed by people, because nobody has. Sources are counted only where a kept pair rests on them.
- A finding that a safety rule flagged is never kept, and a kept pair rests on kept findings only.

Ids that no list knows belong to something that never became a value (a refused page, an unreadable reply): QUERY_STEPS, PAIR_STEPS and CELL_STEPS say
which of the steps speak of what; every other step speaks of findings.
"""

import datetime as dt
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lineage import citations
from lineage.claims import counted, listed
from pipeline.assignment import site_of
from pipeline.config import PipelineConfig
from pipeline.plan import quotas
from pipeline.ports import Recorded
from pipeline.values import AdvisorDomain, Cell, Drop, Finding, Gap, Pair, Query
from pipeline.works import Work, domain, works
from registry.vocabulary import CLASS_LABELS, CLASSES, EXTENTS, REVIEW_STATUSES

FORMAT = "pipeline-report/1"
UNKNOWN = "unknown"
STATUSES = ("complete", "partial", "stopped")
QUERY_STEPS = frozenset({"queries"})
PAIR_STEPS = frozenset({"synthesis", "quality", "judge", "gather"})
CELL_STEPS = frozenset({"plan"})
STREAMS = ("queries", "findings", "cells", "pairs")
# The order in which steps act on findings and pairs, as far as their names are known; others follow by name.
_ORDER = (
    "extract",
    "queries",
    "plan",
    "web",
    "papers",
    "forum",
    "files",
    "merge",
    "exact",
    "semantic",
    "synthesis",
    "safety",
    "quality",
    "judge",
    "gather",
)
_WEB = re.compile(r"web_\d+")
_BIN = 0.01  # width of a bar of the similarity histogram, in cosine
_SHOWN_FAULTS = 20
_PAUSE = 60.0  # seconds without any call that count as a pause of the run, not as work
_REASONS = {
    "exact": "the same text was there already",
    "duplicate": "the same text was there already",
    "exact_duplicate": "the same text was there already",
    "semantic": "too much like another one",
    "near_duplicate": "too much like another one",
    "too_similar": "too much like another one",
    "flagged": "hides instructions aimed at a model",
    "truncated": "the reply broke off",
    "malformed": "the reply could not be read",
    "near_base": "the base model answers nearly the same",
    "judged_unfit": "a second model judged it unfit",
    "not_read": "seen in a search, but not quoted or not readable",
    "rest_of_page": "the rest of a long page",
    "bad_url": "its address is no address",
    "no_text": "it came without text",
    "peer_reviewed": "peer-reviewed",
    "self_published": "self-published",
    "not_reached": "not reached before the run stopped",
}
STEP_NAMES = {
    "extract": "Reading the prompt",
    "queries": "Research questions",
    "web": "Web agents",
    "papers": "Papers",
    "forum": "Forum",
    "files": "Files",
    "safety": "Safety",
    "merge": "Merging findings",
    "exact": "Exact duplicates",
    "semantic": "Near duplicates",
    "gather": "Near questions",
    "synthesis": "Writing pairs",
    "quality": "Quality checks",
    "judge": "Judge",
    "plan": "Plan",
    "base": "Base model's answers",
    "embedding": "Embedding",
    "set": "The set",
}
_UNITS = {"queries": "query", "findings": "finding", "pairs": "pair", "cells": "cell"}


class CountsDisagree(AssertionError):
    """The facts of a run contradict each other: a fault of the pipeline, not of its input. `faults` are all of them, a sentence each."""

    def __init__(self, faults: Sequence[str]) -> None:
        more = f" ... and {len(faults) - _SHOWN_FAULTS} more" if len(faults) > _SHOWN_FAULTS else ""
        super().__init__("The counts of the run do not add up: " + " ".join(faults[:_SHOWN_FAULTS]) + more)
        self.faults = tuple(faults)


@dataclass(frozen=True)
class RunFacts:
    """Everything that a finished or stopped run wrote down.

    `review` and `guarded` are pairs of near items as {item, neighbour, score}: kept, and listed for a person. `seconds` is wall time by step. `replayed`
    counts answers that came from the ledger instead of being paid for again. `generator` names the model that wrote the pairs.
    """

    run_id: str
    advisor: str
    config: PipelineConfig
    persona_sha256: str
    domain: AdvisorDomain | None = None
    queries: Sequence[Query] = ()
    findings_all: Sequence[Finding] = ()
    findings_kept: Sequence[str] = ()
    cells: Sequence[Cell] = ()
    pairs_written: Sequence[Pair] = ()
    pairs_kept: Sequence[str] = ()
    drops: Sequence[Drop] = ()
    gaps: Sequence[Gap] = ()
    review: Sequence[Mapping[str, Any]] = ()
    guarded: Sequence[Mapping[str, Any]] = ()
    calls: Sequence[Recorded] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    status: str = "complete"
    stop_reason: str | None = None
    generator: str = "a model that is not recorded"
    environment: Mapping[str, Any] = field(default_factory=dict)
    replayed: int = 0

    @property
    def kept_pairs(self) -> list[Pair]:
        """The pairs of the training set, by cell and id: the same order in every run."""
        kept = set(self.pairs_kept)
        return sorted((p for p in self.pairs_written if p.id in kept), key=lambda p: (p.cell, p.id))

    @property
    def kept_findings(self) -> list[Finding]:
        """The findings that pairs could rest on, by id."""
        kept = set(self.findings_kept)
        return sorted((f for f in self.findings_all if f.id in kept), key=lambda f: f.id)

    @property
    def used_findings(self) -> list[Finding]:
        """The findings that a kept pair rests on, by id."""
        used = {finding for pair in self.kept_pairs for finding in pair.findings}
        return [f for f in self.kept_findings if f.id in used]


@dataclass(frozen=True)
class Report:
    """What a run did, as plain JSON in `facts`."""

    facts: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The whole report."""
        return self.facts

    @property
    def headline(self) -> str:
        """What was made, from what, and who has looked at it, in one sentence."""
        return str(self.facts["headline"])

    @property
    def cost_words(self) -> str:
        """What the run cost, in words."""
        total = self.facts["spending"]["total"]
        return price_words(total["cost"], total["cost_known"], total["calls_of_unknown_price"])

    def lines(self) -> list[str]:
        """The report in a few plain lines, for a terminal: what was made, each step's counts, cost, gaps."""
        flow = [_flow_line(row) for row in self.facts["flow"]]
        return [self.headline, *flow, f"Cost: {self.cost_words}.", *(f"Gap: {gap['words']}" for gap in self.facts["gaps"])]


def _flow_line(row: Mapping[str, Any]) -> str:
    reasons = ", ".join(f"{count:,} {words_of(reason)}" for reason, count in row["dropped"].items())
    return f"{row['name']}: {row['in']:,} in, {row['kept']:,} kept" + (f" ({reasons})" if reasons else "")


def build_report(facts: RunFacts) -> Report:
    """The report of a run. Raises CountsDisagree where the facts contradict each other, naming every contradiction."""
    _check(facts)
    used = works(facts.used_findings)
    return Report(
        {
            "format": FORMAT,
            "run": facts.run_id,
            "advisor": facts.advisor,
            "name": facts.domain.name if facts.domain else None,
            "subject": facts.domain.primary_domain if facts.domain else None,
            "status": facts.status,
            "stop_reason": facts.stop_reason,
            "headline": headline(facts),
            "generator": facts.generator,
            "persona_sha256": facts.persona_sha256,
            "config": facts.config.as_json(),
            "config_digest": facts.config.digest,
            "environment": dict(facts.environment),
            "funnel": _funnel(facts),
            "flow": _flow(facts),
            "drops": _drops(facts),
            "composition": _composition(facts),
            "plan": _plan(facts),
            "spending": _spending(facts),
            "seconds": {"by_step": dict(facts.seconds), "total": sum(facts.seconds.values())},
            "timeline": _timeline(facts.calls),
            "gaps": [{**gap.as_json(), "words": _gap_words(gap)} for gap in facts.gaps],
            "sources": _sources(facts, used),
            "rules": _rules(facts),
            "refused_domains": _refused_domains(facts),
            "flagged": _flagged(facts),
            "similarity": _similarity(facts),
            "review": [_near(item) for item in facts.review],
            "guarded": [_near(item) for item in facts.guarded],
            "pairs_by_domain": _pairs_by_domain(facts),
        }
    )


# -- what must hold -----------------------------------------------------------------------------------------------------------------------


def _check(facts: RunFacts) -> None:
    faults = [] if facts.status in STATUSES else [f"The status is one of {', '.join(STATUSES)}; found {facts.status!a}."]
    known = {
        "queries": [q.id for q in facts.queries],
        "findings": [f.id for f in facts.findings_all],
        "cells": [c.id for c in facts.cells],
        "pairs": [p.id for p in facts.pairs_written],
    }
    for stream, ids in known.items():
        faults += [f"The {_UNITS[stream]} {item} is listed {n} times." for item, n in Counter(ids).items() if n > 1]
    faults += _fates("finding", known["findings"], facts.findings_kept, facts)
    faults += _fates("pair", known["pairs"], facts.pairs_kept, facts)
    faults += [f"The finding {f.id} was kept although {listed(f.flags)} flagged it." for f in facts.kept_findings if f.flags]
    kept, cells = set(facts.findings_kept), set(known["cells"])
    for pair in facts.kept_pairs:
        faults += [f"The pair {pair.id} rests on {name}, which was not kept." for name in pair.findings if name not in kept]
        faults += [] if pair.cell in cells else [f"The pair {pair.id} was written for {pair.cell}, which is no cell of the plan."]
    if faults:
        raise CountsDisagree(faults)


def _fates(what: str, ids: Sequence[str], kept: Sequence[str], facts: RunFacts) -> list[str]:
    """Items without a fate, or with two. In a run that was stopped an item may not have been reached."""
    dropped = Counter(drop.item for drop in facts.drops)
    known, chosen = set(ids), set(kept)
    faults = [f"The {what} {item} was kept but never listed." for item in sorted(chosen - known)]
    faults += [f"The {what} {item} was kept {n} times." for item, n in Counter(kept).items() if n > 1]
    faults += [f"The {what} {item} was kept and left out." for item in sorted(chosen & dropped.keys())]
    faults += [f"The {what} {item} was left out {dropped[item]} times." for item in sorted(known) if dropped[item] > 1]
    if facts.status != "stopped":
        faults += [f"The {what} {item} was neither kept nor left out." for item in sorted(known - chosen - dropped.keys())]
    return faults


# -- what happened to whom ----------------------------------------------------------------------------------------------------------------


def stream_of(facts: RunFacts) -> Callable[[Drop], str]:
    """A function that says whether a drop speaks of a query, a finding, a cell or a pair: by its id, else by its step.

    What a step of writing says of a cell is about the pair that should have filled it.
    """
    ids = {q.id: "queries" for q in facts.queries} | {f.id: "findings" for f in facts.findings_all}
    ids |= {p.id: "pairs" for p in facts.pairs_written}

    def stream(drop: Drop) -> str:
        if drop.item in ids:
            return ids[drop.item]
        if drop.step in QUERY_STEPS:
            return "queries"
        if drop.step in CELL_STEPS:
            return "cells"
        return "pairs" if drop.step in PAIR_STEPS else "findings"

    return stream


def _rank(step: str) -> tuple[int, int, str]:
    place = next((i for i, name in enumerate(_ORDER) if step == name or step.startswith(f"{name}_")), len(_ORDER))
    number = step.rpartition("_")[2]
    return place, int(number) if number.isdecimal() else 0, step


def _grouped(facts: RunFacts) -> dict[str, dict[str, list[Drop]]]:
    """Drops by stream and step, the steps in the order in which they act; the web agents do the same work side by side and count as one."""
    groups: dict[str, dict[str, list[Drop]]] = {stream: defaultdict(list) for stream in STREAMS}
    stream = stream_of(facts)
    for drop in facts.drops:
        groups[stream(drop)]["web" if _WEB.fullmatch(drop.step) else drop.step].append(drop)
    return {name: {step: steps[step] for step in sorted(steps, key=_rank)} for name, steps in groups.items()}


def _sizes(facts: RunFacts) -> dict[str, tuple[int, int, int]]:
    """Per stream: how many came in, were left out, were kept. Items that no list knows came in and were left out."""
    stream = stream_of(facts)
    dropped: dict[str, list[str]] = {name: [] for name in STREAMS}
    for drop in facts.drops:
        dropped[stream(drop)].append(drop.item)
    lists: dict[str, set[str]] = {
        "queries": {q.id for q in facts.queries},
        "findings": {f.id for f in facts.findings_all},
        "pairs": {p.id for p in facts.pairs_written},
    }
    sizes = {}
    for name, ids in lists.items():
        came_in = len(ids) + sum(item not in ids for item in dropped[name])
        kept = {"findings": len(facts.findings_kept), "pairs": len(facts.pairs_kept)}.get(name, came_in - len(dropped[name]))
        sizes[name] = (came_in, len(dropped[name]), kept)
    return sizes


def _flow(facts: RunFacts) -> list[dict[str, Any]]:
    """A row per stream and step: in, kept, left out by reason; each step takes what the one before it kept."""
    rows = []
    sizes, groups = _sizes(facts), _grouped(facts)
    for stream in ("queries", "findings", "pairs"):
        came_in, left_out, kept = sizes[stream]
        rest = came_in
        for step, drops in groups[stream].items():
            rows.append(_row(stream, step, rest, Counter(drop.reason for drop in drops)))
            rest -= len(drops)
        if rest - kept:  # a run that was stopped
            rows.append(_row(stream, "not_reached", rest, Counter({"not_reached": rest - kept})))
            rest = kept
        if not left_out and came_in == kept:
            rows.append(_row(stream, stream, came_in, Counter()))
        if rest != kept:
            raise CountsDisagree([f"Of {came_in} {stream} {kept} were kept, but the steps leave {rest}."])
    return rows


def _row(stream: str, step: str, came_in: int, reasons: Counter[str]) -> dict[str, Any]:
    gone = sum(reasons.values())
    name = f"{stream.capitalize()}, none left out" if step == stream and not gone else f"{stream.capitalize()}: {step_name(step).lower()}"
    return {"stream": stream, "step": step, "name": name, "in": came_in, "kept": came_in - gone, "dropped": dict(_ordered(reasons))}


def _ordered(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """The largest first, then by name."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def step_name(step: str) -> str:
    """A step's or a purpose's name for people."""
    if _WEB.fullmatch(step):
        return f"Web agent {step.removeprefix('web_')}"
    words = step.replace("_", " ").strip()
    return STEP_NAMES.get(step) or (words[:1].upper() + words[1:]) or "Other"


def is_rule(reason: str) -> bool:
    """Whether a reason is a rule of the source standards (never.social), not something that a step met (duplicate): only those ids hold a dot."""
    return "." in reason


def words_of(reason: str) -> str:
    """A reason code in words; a rule of the source standards keeps its id."""
    return _REASONS.get(reason) or (reason if is_rule(reason) else reason.replace("_", " "))


def _evidence(drop: Drop) -> str:
    if drop.detail or drop.neighbour is None:
        return drop.detail
    return f"{drop.item} is like {drop.neighbour}" + (f", similarity {drop.score:.2f}" if drop.score is not None else "")


def _drops(facts: RunFacts) -> list[dict[str, Any]]:
    """Every reason of every step with its count and the first detail as an example."""
    rows = []
    for stream, steps in _grouped(facts).items():
        for step, drops in steps.items():
            for reason, count in _ordered(Counter(drop.reason for drop in drops)):
                example = min(filter(None, (_evidence(d) for d in drops if d.reason == reason)), default="")
                rows.append(
                    {"stream": stream, "step": step, "reason": reason, "words": words_of(reason), "count": count, "example": example[:300]}
                )
    return rows


def _funnel(facts: RunFacts) -> dict[str, Any]:
    """How many were left after each great step, findings and pairs apart."""
    groups = _grouped(facts)
    found = _sizes(facts)["findings"][0]
    known = {f.id for f in facts.findings_all}
    refused = sum(drop.item not in known for drops in groups["findings"].values() for drop in drops)
    written, kept = _sizes(facts)["pairs"][0], len(facts.pairs_kept)
    ids = {p.id for p in facts.pairs_written}
    alike = sum(drop.neighbour in ids for drops in groups["pairs"].values() for drop in drops)
    return {
        "findings": [
            {"name": "passages and pages found", "count": found},
            {"name": "accepted by the source standards", "count": found - refused},
            {"name": "left after safety and duplicates", "count": len(facts.findings_kept)},
            {"name": "used by a kept pair", "count": len(facts.used_findings)},
        ],
        "pairs": [
            {"name": "pairs written", "count": written},
            {"name": "passed the checks", "count": kept + alike},
            {"name": "kept, none too alike", "count": kept},
        ],
    }


# -- what was made ------------------------------------------------------------------------------------------------------------------------


def headline(facts: RunFacts) -> str:
    """What may be said of the set: how many, written by whom, from how many documents, and that nobody has read them."""
    pairs, used = facts.kept_pairs, facts.used_findings
    if not pairs:
        return "No example conversation was kept."
    # Ten passages quoted from one page are excerpts of one document, not of ten.
    documents, threads = (len(works(f for f in used if f.role == role)) for role in ("answer", "question"))
    answers = {f.id for f in used if f.role == "answer"}
    resting = sum(any(name in answers for name in pair.findings) for pair in pairs)
    made = f"{counted(len(pairs), 'example conversation')}, written by {facts.generator}"
    end = f"rule-checked, {'none' if len(pairs) > 1 else 'not'} read by people yet"
    shaped = f"; {counted(threads, 'discussion thread')} shaped questions only" if threads else ""
    if not resting:
        return f"{made}, resting on no document{shaped}; {end}."
    if resting == len(pairs):
        return f"{made} from excerpts of {counted(documents, 'document')}{shaped}; {end}."
    return f"{made}, {resting:,} of them from excerpts of {counted(documents, 'document')} and {len(pairs) - resting:,} from none{shaped}; {end}."


def _composition(facts: RunFacts) -> list[dict[str, Any]]:
    wanted, made = quotas(facts.config.examples, facts.config.composition), Counter(pair.category for pair in facts.kept_pairs)
    total = len(facts.pairs_kept)
    names = [*wanted, *sorted(made.keys() - wanted.keys())]
    return [
        {
            "category": name,
            "target": wanted.get(name, 0),
            "achieved": made[name],
            "difference": made[name] - wanted.get(name, 0),
            "target_share": facts.config.composition.get(name, 0.0),
            "achieved_share": made[name] / total if total else 0.0,
        }
        for name in names
    ]


def _plan(facts: RunFacts) -> dict[str, Any]:
    """Planned cells against kept pairs; by technique, voice, persona and scenario."""
    kept = {pair.cell for pair in facts.kept_pairs}
    written = {pair.cell for pair in facts.pairs_written}
    cells = {c.id: c for c in facts.cells}
    by: dict[str, list[dict[str, Any]]] = {}
    for part in ("technique", "voice", "persona", "scenario"):
        planned = Counter(getattr(cell, part) for cell in facts.cells)
        achieved = Counter(getattr(cells[name], part) for name in kept)
        by[part] = [{"name": name, "planned": count, "kept": achieved[name]} for name, count in _ordered(planned) if name]
    return {
        "cells": len(cells),
        "written": len(written & cells.keys()),
        "kept": len(kept),
        "unfilled": len(cells.keys() - kept),
        "by": by,
    }


# -- what it cost -------------------------------------------------------------------------------------------------------------------------


def _spending(facts: RunFacts) -> dict[str, Any]:
    by_purpose: dict[str, list[Recorded]] = defaultdict(list)
    for call in facts.calls:
        by_purpose[call.purpose].append(call)
    total, pairs = _spent(facts.calls), len(facts.pairs_kept)
    cost = total["cost"]
    return {
        "by_purpose": [{"purpose": n, "name": step_name(n), **_spent(by_purpose[n])} for n in sorted(by_purpose, key=_rank)],
        "total": {**total, "replayed": facts.replayed},
        "per_pair": {
            "cost": cost / pairs if pairs and not isinstance(cost, str) else UNKNOWN if pairs else None,
            "input_tokens": total["input_tokens"] / pairs if pairs else None,
            "output_tokens": total["output_tokens"] / pairs if pairs else None,
        },
    }


def _spent(calls: Sequence[Recorded]) -> dict[str, Any]:
    """Sums over calls. `retries` are attempts beyond the first one; seconds are the calls' own, which overlap."""
    prices = [call.cost for call in calls if call.cost is not None]
    unknown = len(calls) - len(prices)
    usage = [call.usage for call in calls]
    return {
        "calls": len(calls),
        "attempts": sum(call.attempts for call in calls),
        "retries": sum(call.attempts - 1 for call in calls),
        "cost": UNKNOWN if unknown else sum(prices),
        "cost_known": sum(prices),
        "calls_of_unknown_price": unknown,
        "input_tokens": sum(u.input_tokens + u.cache_read_tokens + u.cache_write_tokens for u in usage),
        "cached_tokens": sum(u.cache_read_tokens for u in usage),
        "output_tokens": sum(u.output_tokens for u in usage),
        "web_searches": sum(u.web_searches for u in usage),
        "web_fetches": sum(u.web_fetches for u in usage),
        "seconds": sum(call.seconds for call in calls),
    }


def price_words(cost: float | str, known: float, unknown_calls: int) -> str:
    """A cost in US dollars for people; an unknown one says how much of it is known."""
    if not isinstance(cost, str):
        return money(cost)
    of = f"{counted(unknown_calls, 'call')} without a known price"
    return f"unknown; at least {money(known)}, beside {of}" if known else f"unknown ({of})"


def money(dollars: float) -> str:
    """US dollars: cents, and more digits only where there is less than a cent."""
    return f"${dollars:,.2f}" if dollars >= 0.01 or dollars == 0 else f"${dollars:.2g}"


def _timeline(calls: Sequence[Recorded]) -> dict[str, Any]:
    """Each call's start and length in seconds since the first, pauses of the whole run taken out; calls without a readable time are left out."""
    spans = sorted((end - call.seconds, end, call.purpose) for call in calls if (end := _moment(call.received_at)) is not None)
    if not spans:
        return {"seconds": 0.0, "pauses": [], "calls": {}}
    origin, horizon, cut = spans[0][0], spans[0][0], 0.0
    pauses, placed = [], defaultdict(list)
    for start, end, purpose in spans:
        if start - horizon > _PAUSE:
            pauses.append({"at": round(horizon - origin - cut, 3), "seconds": round(start - horizon, 3)})
            cut += start - horizon
        horizon = max(horizon, end)
        placed[purpose].append([round(start - origin - cut, 3), round(end - start, 3)])
    return {
        "seconds": round(horizon - origin - cut, 3),
        "pauses": pauses,
        "calls": {name: placed[name] for name in sorted(placed, key=lambda n: (int(placed[n][0][0]), _rank(n)))},
    }


def _moment(text: str) -> float | None:
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()


# -- where it came from -------------------------------------------------------------------------------------------------------------------


def _gap_words(gap: Gap) -> str:
    times = f" ({gap.count:,} in all)" if gap.count > 1 and str(gap.count) not in gap.message else ""
    return f"{step_name(gap.step)}: {gap.message or words_of(gap.reason)}{times}"


def _sources(facts: RunFacts, used: Sequence[Work]) -> dict[str, Any]:
    """The works that kept pairs rest on. A document is a work as far as it was read: passages of one page are one."""
    pairs: Counter[str] = Counter()
    of_finding = {f.id: work.key for work in used for f in work.findings}
    for pair in facts.kept_pairs:
        pairs.update({of_finding[name] for name in pair.findings})
    documents = {(work.key, f.extent) for work in used for f in work.findings}
    extents, classes = Counter(extent for _, extent in documents), Counter(work.class_ for work in used)
    reviews = Counter(work.review_status for work in used)
    return {
        "works": len(used),
        "documents": len(documents),
        "by_class": [{"class": name, "label": CLASS_LABELS[name], "works": classes[name]} for name in CLASSES if classes[name]],
        "by_review_status": {name: reviews[name] for name in REVIEW_STATUSES if reviews[name]},
        "by_extent": {name: extents[name] for name in EXTENTS if extents[name]},
        "notes": [note for work in used for note in work.notes],
        "list": [_source(work, pairs[work.key]) for work in sorted(used, key=lambda w: (CLASSES.index(w.class_), -pairs[w.key], w.key))],
    }


def _source(work: Work, pairs: int) -> dict[str, Any]:
    return {
        "key": work.key,
        "title": work.title,
        "citation": citations.citation_text(work.citation),
        "url": work.url,
        "doi": work.doi,
        "class": work.class_,
        "review_status": work.review_status,
        "rules": sorted({f.rule for f in work.findings}),
        "roles": sorted({f.role for f in work.findings}),
        "extents": [extent for extent in EXTENTS if any(f.extent == extent for f in work.findings)],
        "findings": len(work.findings),
        "pairs": pairs,
    }


def _rules(facts: RunFacts) -> list[dict[str, Any]]:
    """How often each rule of the source standards accepted or refused. A refused page never became a finding."""
    known, stream = {f.id for f in facts.findings_all}, stream_of(facts)
    accepted = Counter(f.rule for f in facts.findings_all)
    refused = Counter(drop.reason for drop in facts.drops if drop.item not in known and is_rule(drop.reason) and stream(drop) == "findings")
    return [{"rule": rule, "accepted": accepted[rule], "refused": refused[rule]} for rule, _ in _ordered(accepted + refused)]


def _refused_domains(facts: RunFacts) -> list[dict[str, Any]]:
    """Sites whose pages the standards refused, the most often refused first: a person may look at them and vouch for one (--allow-domain)."""
    known, stream = {f.id for f in facts.findings_all}, stream_of(facts)
    found: dict[str, list[Drop]] = defaultdict(list)
    for drop in facts.drops:
        host = domain(drop.item)
        if host and drop.item not in known and is_rule(drop.reason) and stream(drop) == "findings":
            found[host].append(drop)
    rows = [
        {
            "domain": host,
            "times": len(drops),
            "pages": len({d.item for d in drops}),
            "reasons": dict(_ordered(Counter(d.reason for d in drops))),
            "example": min(d.item for d in drops),
        }
        for host, drops in found.items()
    ]
    return sorted(rows, key=lambda row: (-int(str(row["times"])), str(row["domain"])))


def _flagged(facts: RunFacts) -> list[dict[str, Any]]:
    """Everything in which a safety rule found something: the rules, and where it was. None of it was used."""
    findings = {f.id: f for f in facts.findings_all}
    rows = [
        {
            "item": f.id,
            "what": "finding",
            "rules": list(f.flags),
            "url": f.url,
            "title": f.title,
            "agent": f.agent,
            "query": f.query,
            "evidence": "",
        }
        for f in sorted(findings.values(), key=lambda f: f.id)
        if f.flags
    ]
    stream = stream_of(facts)
    for drop in sorted(facts.drops, key=lambda d: (d.item, d.reason)):
        if drop.step == "safety" and not (drop.item in findings and findings[drop.item].flags):
            what = {"pairs": "pair", "queries": "query", "cells": "cell"}.get(stream(drop), "page")
            url = drop.item if domain(drop.item) else ""
            rows.append(
                {
                    "item": drop.item,
                    "what": what,
                    "rules": [drop.reason],
                    "url": url,
                    "title": "",
                    "agent": drop.step,
                    "query": "",
                    "evidence": drop.detail,
                }
            )
    return rows


def _near(item: Mapping[str, Any]) -> dict[str, Any]:
    return {"item": item["item"], "neighbour": item["neighbour"], "score": item["score"]}


def _similarity(facts: RunFacts) -> dict[str, Any]:
    """Bars of the scores that were recorded: neighbours from the review line up, by what became of the item."""
    findings, limits = {f.id for f in facts.findings_all}, facts.config.thresholds
    # A score beside an item of another stream (the base model's own answer) is not a similarity within the set.
    pairs = {p.id for p in facts.pairs_written}
    drops = [d.as_json() for d in facts.drops if d.score is not None and d.neighbour is not None]
    named: list[tuple[str, Iterable[Mapping[str, Any]]]] = [("dropped", drops), ("review", facts.review), ("guarded", facts.guarded)]
    result = {}
    for name, ids, threshold in (("findings", findings, limits.research), ("pairs", pairs, limits.instructions)):
        bins: dict[int, Counter[str]] = defaultdict(Counter)
        for fate, items in named:
            for item in items:
                if item["item"] in ids and item["neighbour"] in ids:
                    bins[min(int(float(item["score"]) / _BIN + 1e-6), round(1 / _BIN) - 1)][fate] += 1
        rows = [{"from": round(b * _BIN, 4), "to": round((b + 1) * _BIN, 4), **{f: bins[b][f] for f, _ in named}} for b in sorted(bins)]
        result[name] = {"threshold": threshold, "review": limits.review, "bins": rows}
    return result


def _pairs_by_domain(facts: RunFacts) -> list[dict[str, Any]]:
    """How many kept pairs rest on pages of each site, and whether that is more than its share may be."""
    hosts = {f.id: site_of(f) or "no public address" for f in facts.used_findings}
    total = len(facts.pairs_kept)
    counts = Counter(host for pair in facts.kept_pairs for host in sorted({hosts[name] for name in pair.findings}))
    cap = facts.config.domain_share
    return [{"domain": host, "pairs": n, "share": n / total, "over_cap": n / total > cap} for host, n in _ordered(counts)]
