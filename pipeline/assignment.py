"""Which findings each batch of cells may rest on. Pure and exact: no vectors, so the same cells and findings give the same batches on every machine.

Rules:
- A finding is near a cell by the words they share; rare words count more (inverse document frequency, Spärck Jones 1972).
- Every finding is used about as often as any other; no domain fills more than its share of the places while another can help.
- Some sources are set apart for a few batches, spread evenly, and no other batch sees them. Only such pairs can be held out of training and still be
  read from pages that training never saw (registry/splits.py holds out connected groups).
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

from pipeline.config import PipelineConfig
from pipeline.values import Cell, Finding, text_sha256
from pipeline.works import domain

QUESTIONS_PER_BATCH = 2  # forum questions that may shape what users say
MIN_SOURCES = 8  # with fewer sources left none is set apart
_WORD = re.compile(r"[^\W\d_]{3,}")


def assign(groups: Sequence[Sequence[Cell]], findings: Sequence[Finding], config: PipelineConfig) -> list[list[str]]:
    """Ids of findings for each batch of cells, in the order of the batches."""
    apart, rest = set_apart(findings, config.heldout)
    pages = sorted({f.url for f in apart}, key=text_sha256)
    lone = spread(len(groups), round(config.heldout * len(groups))) if pages else []
    clusters = min(len(lone), len(pages))
    common = sorted(set(range(len(groups))) - set(lone))
    given = dict(zip(common, _deal([groups[i] for i in common], rest, config), strict=True))
    for n, i in enumerate(lone):
        # Each has pages of its own: the split holds out whole groups, and one large group either fits its share exactly or not at all.
        own = set(pages[n % clusters :: clusters])
        given[i] = _deal([groups[i]], [f for f in apart if f.url in own], config)[0]
    return [given[i] for i in range(len(groups))]


def set_apart(findings: Sequence[Finding], share: float) -> tuple[list[Finding], list[Finding]]:
    """Findings of about `share` of the sources, chosen by hash, and the others; none apart where too few sources would be left to write from."""
    answering = {f.url for f in findings if f.role == "answer"}
    count = round(share * len(answering))
    if count == 0 or len(answering) - count < MIN_SOURCES:
        return [], list(findings)
    chosen = set(sorted(answering, key=text_sha256)[:count])
    return [f for f in findings if f.url in chosen], [f for f in findings if f.url not in chosen]


def spread(n: int, k: int) -> list[int]:
    """Places at even distances, k of n."""
    return [(2 * i + 1) * n // (2 * k) for i in range(k)]


def site_of(finding: Finding) -> str:
    """Who published it, for the cap: a paper's journal (doi.org publishes nothing), else the host without www."""
    journal = str(finding.csl.get("container-title") or "").strip().casefold() if finding.doi else ""
    if finding.doi:
        return journal or finding.doi.partition("/")[0]
    return domain(finding.url) or ""


def _deal(groups: Sequence[Sequence[Cell]], findings: Sequence[Finding], config: PipelineConfig) -> list[list[str]]:
    answers = [f for f in findings if f.role == "answer"]
    questions = [f for f in findings if f.role == "question"]
    words = [_words(f"{f.title} {f.text}") for f in answers]
    weights = _weights(words)
    # Counted in batches: a batch whose every pair may rest on a site counts for it whole.
    cap = max(1, math.floor(config.domain_share * len(groups)))
    used: Counter[str] = Counter()
    sites: Counter[str] = Counter()
    site = [site_of(f) for f in answers]
    given = []
    for i, group in enumerate(groups):
        wanted = _words(" ".join(f"{cell.scenario} {cell.technique}" for cell in group))
        near = [_nearness(wanted, own, weights) for own in words]
        # One more use weighs as much as the whole range of nearness: everything is used before anything is used twice.
        ranked = sorted(range(len(answers)), key=lambda j: (sites[site[j]] >= cap, used[answers[j].id] - near[j], answers[j].id))
        places = ranked[: config.findings_per_batch]
        chosen = [answers[j] for j in places]
        used.update(f.id for f in chosen)
        sites.update({site[j] for j in places})
        extra = [questions[(i * QUESTIONS_PER_BATCH + k) % len(questions)].id for k in range(min(QUESTIONS_PER_BATCH, len(questions)))]
        given.append([f.id for f in chosen] + extra)
    return given


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.casefold()))


def _weights(texts: Sequence[frozenset[str]]) -> dict[str, float]:
    counts = Counter(word for text in texts for word in text)
    return {word: math.log(len(texts) / n) for word, n in counts.items()}


def _nearness(wanted: frozenset[str], own: frozenset[str], weights: dict[str, float]) -> float:
    """Between 0 and below 1: the weight of the shared words over the weight of the finding's own. `fsum`, because a set has no order."""
    whole = math.fsum(weights[word] for word in own)
    return 0.99 * math.fsum(weights[word] for word in own & wanted) / whole if whole else 0.0
