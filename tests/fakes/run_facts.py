"""A run as it might have ended: hundreds of findings and pairs from a seed, with titles and texts that try to break what shows them.

Ids, steps and reasons are those that the pipeline writes. Nothing here is random beyond the seed, so a test may count on the numbers it computes.
"""

import datetime as dt
import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

from pipeline.config import PipelineConfig
from pipeline.plan import quotas
from pipeline.ports import Recorded, Usage
from pipeline.report import RunFacts
from pipeline.values import AdvisorDomain, Cell, Drop, Finding, Gap, Pair, Query, finding_id, text_sha256

START = dt.datetime(2026, 11, 20, 9, 0, tzinfo=dt.UTC)
GENERATOR = "claude-sonnet-5-5 (Anthropic)"
ODD_TITLES = (
    "<script>alert('title')</script> Burnout & you",
    "**Bold** [click me](https://evil.example/x) ![img](https://evil.example/p.png) `code`",
    "הפסקה מהעבודה היא לא כישלון",
    "\u202egnirts desrever\u202c and a zero\u200bwidth",
    "Recovery " + "after a very long working life " * 30,
    '"><img src=x onerror=alert(1)> | table | cell',
    "# Heading\n\n- list\n1. numbered\n\n> quote",
    "Return to work after burn-out: a longitudinal study",
    "www.spam.example and https://spam.example/buy and me@spam.example",
    "1. Not a list; &amp; &lt;b&gt; entities, $math$ ~~gone~~ {{braces}}",
)
HOSTS = (
    ("who.int", "institutional", "guideline", "institution.un"),
    ("nhs.uk", "institutional", "guideline", "institution.health"),
    ("hbr.org", "professional", "editorial", "publication.business"),
    ("apa.org", "professional", "editorial", "publication.society"),
    ("gallup.com", "industry", "editorial", "industry.research"),
)
DOMAIN = AdvisorDomain(
    "Dr. Elena",
    "burnout recovery",
    ("early signs", "boundaries at work", "return to work"),
    ("warm", "direct"),
    ("let's sit with that",),
    "people who are worn out by work",
)
QUERIES = (
    Query("q01", "What do occupational physicians advise for early signs of burnout?", "expert_interview", "early signs"),
    Query("q02", "How do people set boundaries with a manager?", "how_to", "boundaries at work"),
    Query("q03", "Which programmes help people return to work after burnout?", "study", "return to work"),
)


def finding(number: int, **more: Any) -> Finding:
    """One finding; every third is a paper with a DOI, every thirteenth a forum thread."""
    host, class_, review, rule = HOSTS[number % len(HOSTS)]
    title = ODD_TITLES[number % len(ODD_TITLES)]
    text = f"Passage {number}: rest is part of the work. {title}"
    url, role, doi, extent = f"https://www.{host}/articles/{number // 2}?id={number // 2}", "answer", None, "excerpt"
    csl: dict[str, Any] = {"type": "webpage", "title": title, "publisher": host}
    agent, query = f"web_{number % 5 + 1}", QUERIES[number % 2].id
    if number % 3 == 0:
        doi, url, extent = f"10.1000/burn.{number}", f"https://journal.example/a/{number}", "abstract"
        class_, review, rule, agent, query = "academic", "peer_reviewed", "paper.journal", "papers", "q03"
        csl = {
            "type": "article-journal",
            "title": title,
            "author": [{"family": "Oerlemans", "given": "Wido"}, {"family": "Bakker", "given": "Arnold B."}],
            "issued": {"date-parts": [[2014, 3]]},
            "container-title": "Journal of Rest",
            "volume": "12",
        }
    elif number % 13 == 0:
        url, role, class_, review = f"https://www.reddit.com/r/burnout/comments/{number}", "question", "community", "self_published"
        rule, agent = "forum.question-only", "forum"
    made = Finding(
        id=finding_id(url, text, role),
        url=url,
        title=title,
        text=text,
        agent=agent,
        query=query,
        retrieved_at=(START + dt.timedelta(seconds=number)).isoformat(),
        extent=extent,
        document_sha256=text_sha256(f"document {url}"),
        role=role,
        class_=class_,
        review_status=review,
        rule=rule,
        doi=doi,
        csl=csl,
        key_findings=("Breaks help", "Sleep & <b>rest</b>") if doi else (),
        citation_count=number if doi else None,
        call=f"sha256:{number:064x}",
    )
    return replace(made, **more)


def cell(number: int, category: str) -> Cell:
    """One planned pair."""
    return Cell(
        f"c{number:04d}",
        category,
        ("nurse, 34", "teacher, 51", "founder, 28")[number % 3],
        f"scenario {number % 17}",
        ("reflective_question", "analogy", "validation", "reframe")[number % 4],
        ("warm_opener", "hard_truth")[number % 2],
        3 if category == "multi_turn" else 1,
        number,
    )


def pair(of: Cell, findings: tuple[str, ...]) -> Pair:
    """The pair written for a cell."""
    turns: list[tuple[str, str]] = []
    for turn in range(of.turns):
        turns.append(("user", f"Question {turn + 1} of {of.id}: I am worn out,\r\nand <b>nobody</b> sees it. ({of.scenario})"))
        turns.append(("assistant", f"I hear you. Answer {turn + 1} of {of.id}.\n\nWhat would rest look like today?"))
    return Pair(f"p_{of.id}", of.id, of.category, tuple(turns), findings, of.technique, f"sha256:{of.seed:064x}")


def run_facts(examples: int = 200, found: int = 300, seed: int = 7, **more: Any) -> RunFacts:
    """A whole run: some findings flagged or alike, some pairs rejected or alike, every count adding up."""
    chance = random.Random(seed)  # noqa: S311
    config = more.pop("config", PipelineConfig(examples=examples))
    findings = [finding(i) for i in range(found)]
    findings[5] = replace(findings[5], flags=("override", "role_tag")) if found > 5 else findings[5]
    drops = [
        Drop(f"https://www.reddit.com/r/x/{i}", "web_1", "never.social", "https://www.reddit.com/r/x: holds posts that nobody vouches for")
        for i in range(9)
    ]
    drops += [
        Drop(f"https://blog{i % 2}.example/p/{i}", f"web_{i % 5 + 1}", "unknown.domain", "no rule knows <this> site") for i in range(14)
    ]
    drops += [Drop(f"https://seen.example/{i}", "web_2", "not_read", "Seen only") for i in range(6)]
    drops += [Drop(f.id, "merge", "flagged", ", ".join(f.flags)) for f in findings if f.flags]
    usable = [f for f in findings if not f.flags]
    alike = usable[-(found // 10) :] if found >= 20 else []
    for item in alike[: len(alike) // 3]:
        drops.append(Drop(item.id, "exact", "exact_duplicate", "", usable[0].id, 1.0))
    for item in alike[len(alike) // 3 :]:
        drops.append(Drop(item.id, "semantic", "near_duplicate", "", usable[1].id, round(chance.uniform(0.85, 0.99), 4)))
    kept = usable[: len(usable) - len(alike)]
    cells = [cell(i, c) for i, c in enumerate((c for c, n in quotas(examples, config.composition).items() for _ in range(n)), 1)]
    pairs = []
    for c in cells:
        given = [] if c.category == "voice_style" and c.seed % 4 == 0 else [f.id for f in chance.sample(kept, min(3, len(kept)))]
        pairs.append(pair(c, tuple(given)))
    kept_pairs = []
    for i, p in enumerate(pairs):
        if i % 11 == 3:
            drops.append(Drop(p.id, "quality", "bulleted", "a list: - <script>one</script>"))
        elif i % 17 == 5:
            drops.append(Drop(p.id, "safety", "url", "https://spam.example"))
        elif i % 13 == 6:
            drops.append(Drop(p.id, "gather", "near_duplicate", "", pairs[0].id, round(chance.uniform(0.8, 0.95), 4)))
        else:
            kept_pairs.append(p)
    review = [
        {"item": a.id, "neighbour": b.id, "score": round(chance.triangular(0.65, 0.8, 0.66), 4)} for b, a in pairwise(kept_pairs[:40])
    ]
    review += [{"item": a.id, "neighbour": b.id, "score": round(chance.triangular(0.65, 0.85, 0.67), 4)} for b, a in pairwise(kept[:80])]
    facts = {
        "run_id": "20261120-090000-elena-abc123",
        "advisor": "elena",
        "config": config,
        "persona_sha256": text_sha256("You are Elena."),
        "domain": DOMAIN,
        "queries": QUERIES,
        "findings_all": findings,
        "findings_kept": [f.id for f in kept],
        "cells": cells,
        "pairs_written": pairs,
        "pairs_kept": [p.id for p in kept_pairs],
        "drops": drops,
        "gaps": [
            Gap("papers", "rate_limited", "Semantic Scholar answered 429 five times; OpenAlex was asked instead.", 3),
            Gap("set", "short", f"{examples - len(kept_pairs)} of {examples} pairs are missing.", examples - len(kept_pairs)),
        ],
        "review": review,
        "guarded": [{"item": kept_pairs[1].id, "neighbour": kept_pairs[0].id, "score": 0.9012}],
        "calls": calls(examples, chance),
        "seconds": {"extract": 2.1, "queries": 4.0, "web_1": 31.4, "merge": 1.2, "synthesis": 95.0, "gather": 0.8},
        "status": "partial",
        "generator": GENERATOR,
        "environment": {"python": "3.11.9", "packages": {"anthropic": "2.12.0", "numpy": "2.3.1"}, "embedding": "sha256:" + "5" * 64},
        "replayed": 4,
    }
    return RunFacts(**{**facts, **more})


def calls(examples: int, chance: random.Random) -> list[Recorded]:
    """Calls as a run makes them: two in a row, then agents side by side, then batches side by side, with a pause of an hour before the last ones."""
    made: list[Recorded] = []

    def add(purpose: str, start: float, seconds: float, usage: Usage, cost: float | None, attempts: int = 1) -> None:
        moment = START + dt.timedelta(seconds=start + seconds)
        made.append(Recorded(f"sha256:{len(made):064x}", purpose, {}, moment.isoformat(), usage, cost, attempts, seconds))

    add("extract", 0, 2, Usage(1200, 300), 0.0081)
    add("queries", 2, 4, Usage(900, 800), 0.0147)
    for agent in range(1, 6):
        for i in range(3):
            add(f"web_{agent}", 6 + i * 10, chance.uniform(7, 12), Usage(11_000, 700, web_searches=3), 0.0735, 1 + (agent == 2 and i == 1))
    for i in range(6):
        add("papers", 6 + i * 1.1, chance.uniform(0.4, 1.0), Usage(), 0.0)
    for i in range(examples // 5):
        wait = 3600 if i >= examples // 5 - 2 else 0
        add("synthesis", 40 + (i // 20) * 30 + wait + chance.uniform(0, 2), chance.uniform(22, 31), Usage(2400, 2250), 0.0409)
    return made
